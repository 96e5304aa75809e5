"""A broker over a store that waits: what is answered when, and what becomes of it when somebody goes meanwhile."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
import trio

from acebroker_codec.packets import (
    Connack,
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from acebroker_middleware.state.ports import Fenced, Identity, Unavailable
from tests.broker.storage.waiting import WaitingStore
from tests.harness import WireClient, broker_running, connected, make, make_will, run_in_virtual_time, under_test
from trio_acebroker import Broker, Limits

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

#: seconds; a session that outlives its connection is what a store keeps
EXPIRY = 100
TAKEN_OVER = 0x8E
BROKEN = 0x83


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both shells have hand-offs of their own."""
    under_test.choose(request.param)
    yield
    under_test.choose("raw")
    gc.collect()  # what nobody awaited complains now


@pytest.fixture
def store() -> WaitingStore:
    return WaitingStore()


async def reader(broker: Broker, topic_filter: str = "t", client_identifier: str = "reader") -> WireClient:
    """A client whose session is in the store."""
    client = await connected(broker, client_identifier, session_expiry_interval=EXPIRY)
    await client.subscribe(topic_filter, qos=2)
    return client


def publish(topic: str, payload: bytes, qos: int, packet_identifier: int) -> Publish:
    return Publish(topic, payload, qos, packet_identifier=packet_identifier)


def subscribe(topic_filter: str, packet_identifier: int) -> Subscribe:
    return Subscribe(packet_identifier, (SubscriptionRequest(topic_filter, 1),))


async def silence(*clients: WireClient) -> None:
    for client in clients:
        await client.expect_silence(0.1)


async def resumed(broker: Broker, client_identifier: str = "reader") -> WireClient:
    """The same client on a new connection, with its session."""
    client = await WireClient.open(broker)
    connack = await client.connect(client_identifier, clean_start=False, session_expiry_interval=EXPIRY)
    assert connack.session_present
    return client


# --- first durable, then answered ---------------------------------------------------------------


async def test_puback_and_delivery_wait_for_the_store(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        passing = await connected(broker, "passing")  # on the same topic, and in no store
        await passing.subscribe("t", qos=1)
        publisher = await connected(broker, "publisher")
        store.hold("enqueue")
        await publisher.send(publish("t", b"x", 1, 1))
        await silence(publisher, subscriber, passing)
        store.let_go("enqueue")
        await publisher.expect(Puback, packet_identifier=1, reason_code=0)
        await subscriber.expect_message("t", b"x", qos=1)
        await passing.expect_message("t", b"x", qos=1)
        await silence(publisher, subscriber, passing)


async def test_a_qos_2_message_is_not_forwarded_before_it_is_durable(store: WaitingStore) -> None:
    """Else a PUBREL that is sent again, to a broker whose store failed, would deliver it twice."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        passing = await connected(broker, "passing")
        await passing.subscribe("t", qos=2)
        publisher = await connected(broker, "publisher")
        await publisher.send(publish("t", b"x", 2, 1))
        await publisher.expect(Pubrec, packet_identifier=1)
        store.hold("enqueue")
        await publisher.send(Pubrel(1))
        await silence(publisher, subscriber, passing)
        store.let_go("enqueue")
        await publisher.expect(Pubcomp, packet_identifier=1)
        await subscriber.expect_message("t", b"x", qos=2)
        await passing.expect_message("t", b"x", qos=2)


async def test_pubrec_waits_for_the_session_of_the_publisher(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        publisher = await connected(broker, "publisher", session_expiry_interval=EXPIRY)
        store.hold("settle")
        await publisher.send(publish("t", b"x", 2, 1), publish("t", b"y", 2, 2), Pingreq())
        await publisher.expect(Pingresp)
        await silence(publisher)
        assert store.calls.count("settle") == 1, "one call for all of a batch"
        store.let_go("settle")
        await publisher.expect(Pubrec, packet_identifier=1)
        await publisher.expect(Pubrec, packet_identifier=2)


async def test_pubrel_waits_for_the_store_to_know_of_pubrec(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher")
        await publisher.publish("t", b"x", qos=2)
        received = await subscriber.expect(Publish)
        store.hold("settle")
        await subscriber.send(Pubrec(received.packet_identifier))
        await silence(subscriber)
        store.let_go("settle")
        await subscriber.expect(Pubrel, packet_identifier=received.packet_identifier)


async def test_nobody_waits_for_the_store_to_know_of_puback(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher")
        store.hold("settle")
        for payload in (b"0", b"1", b"2"):
            await publisher.publish("t", payload, qos=1)
            await subscriber.expect_message("t", payload)
        await subscriber.expect_alive()


async def test_suback_and_unsuback_wait_for_the_store(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        client = await reader(broker, "other")
        await broker.publish("t", b"kept", retain=True)
        store.hold("subscribe")
        await client.send(subscribe("t", 7))
        await silence(client)
        store.let_go("subscribe")
        await client.expect(Suback, packet_identifier=7, reason_codes=(1,))
        await client.expect_message("t", b"kept", retain=True)
        store.hold("subscribe")
        await client.send(Unsubscribe(8, ("t",)))
        await silence(client)
        store.let_go("subscribe")
        await client.expect(Unsuback, packet_identifier=8)


async def test_connack_waits_for_the_claim(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        client = await WireClient.open(broker)
        store.hold("claim")
        await client.send(make(Connect, client_identifier="client"), subscribe("t", 1), publish("t", b"x", 1, 2))
        await silence(client)
        store.let_go("claim")
        await client.expect(Connack, session_present=False)
        received = [type(await client.receive()) for _ in range(3)]
        assert sorted(kind.__name__ for kind in received) == ["Puback", "Publish", "Suback"]


async def test_what_a_publisher_sent_stays_in_order(store: WaitingStore) -> None:
    """Whatever waits and whatever does not: another topic, another QoS, retained, acknowledged or not."""
    async with broker_running(store=store) as broker:
        await reader(broker)
        watcher = await connected(broker, "watcher")
        await watcher.subscribe("#", qos=2)
        publisher = await connected(broker, "publisher")
        store.hold("enqueue", "retain")
        await publisher.send(
            publish("none", b"0", 1, 1),
            publish("t", b"1", 1, 2),
            publish("none", b"2", 0, 0),
            publish("t", b"3", 0, 0),
            Publish("none", b"4", 1, retain=True, packet_identifier=3),
            publish("t", b"5", 1, 4),
            publish("none", b"6", 1, 5),
        )
        await watcher.expect_message("none", b"0")
        await publisher.expect(Puback, packet_identifier=1)
        await silence(publisher, watcher)
        store.let_go("enqueue", "retain")
        for number in range(1, 7):
            topic = "t" if number in (1, 3, 5) else "none"
            await watcher.expect_message(topic, b"%d" % number)
        for identifier in (2, 3, 4, 5):
            await publisher.expect(Puback, packet_identifier=identifier)


async def test_a_row_of_publications_is_one_call(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker, "t/#")
        publisher = await connected(broker, "publisher")
        await publisher.send(*(publish(f"t/{number}", b"", 1, number) for number in range(1, 101)))
        for number in range(1, 101):
            await subscriber.expect_message(f"t/{number}", b"")
            await publisher.expect(Puback, packet_identifier=number)
        assert store.calls.count("enqueue") == 1


# --- takeover and the end of a connection while a call is under way -----------------------------


async def test_a_message_goes_out_though_its_publisher_is_taken_over(store: WaitingStore) -> None:
    """The batch that waits ends with 0x8E; what the store takes is not lost to subscribers."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher")
        store.hold("enqueue")
        await publisher.send(publish("t", b"x", 1, 1))
        await silence(publisher)
        again = await connected(broker, "publisher")
        await publisher.expect_closed(TAKEN_OVER)
        await silence(subscriber, again)
        store.let_go("enqueue")
        await subscriber.expect_message("t", b"x")
        await again.publish("t", b"y", qos=1)
        await subscriber.expect_message("t", b"y")
        await silence(subscriber)


@pytest.mark.parametrize("cut", [True, False])
async def test_a_qos_2_release_is_fanned_out_once_though_its_publisher_goes(store: WaitingStore, cut: bool) -> None:
    """PUBREL was taken and the store asked; the client comes back and sends it again [MQTT-4.3.3-12]."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher", session_expiry_interval=EXPIRY)
        await publisher.send(publish("t", b"x", 2, 1))
        await publisher.expect(Pubrec)
        store.hold("enqueue")
        await publisher.send(Pubrel(1))
        await silence(publisher)
        if cut:
            await publisher.aclose()
        again = await resumed(broker, "publisher")
        if not cut:
            await publisher.expect_closed(TAKEN_OVER)
        await again.send(Pubrel(1))
        await silence(subscriber, again)
        store.let_go("enqueue")
        await again.expect(Pubcomp, packet_identifier=1, reason_code=0)
        await subscriber.expect_message("t", b"x")
        await silence(subscriber)
        # and the identifier is free for another message
        await again.publish("t", b"y", qos=2, packet_identifier=1)
        await subscriber.expect_message("t", b"y")


async def test_a_qos_2_release_that_never_came_to_the_router_comes_again(store: WaitingStore) -> None:
    """It waited behind another call of its batch when its connection was taken over."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher", session_expiry_interval=EXPIRY)
        await publisher.send(publish("t", b"x", 2, 1))
        await publisher.expect(Pubrec)
        store.hold("settle")
        await publisher.send(Pubrel(1), publish("t", b"y", 2, 2))
        await silence(publisher, subscriber)
        again = await resumed(broker, "publisher")
        await publisher.expect_closed(TAKEN_OVER)
        store.let_go("settle")
        await silence(subscriber, again)
        await again.send(Pubrel(1))
        await again.expect(Pubcomp, packet_identifier=1, reason_code=0)
        await subscriber.expect_message("t", b"x")
        await again.publish("t", b"y", qos=2, packet_identifier=2, dup=True)
        await subscriber.expect_message("t", b"y")
        await silence(subscriber)


async def test_a_publication_that_was_not_answered_is_received_again(store: WaitingStore) -> None:
    """QoS 2: no PUBREC came, so the client sends its PUBLISH again; the store has it once."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher", session_expiry_interval=EXPIRY)
        store.hold("settle")
        await publisher.send(publish("t", b"x", 2, 1))
        await silence(publisher)
        await publisher.aclose()
        store.let_go("settle")
        again = await resumed(broker, "publisher")
        await again.publish("t", b"x", qos=2, packet_identifier=1, dup=True)
        await subscriber.expect_message("t", b"x")
        await silence(subscriber)


async def test_the_last_to_claim_gets_the_session(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        await (await reader(broker)).aclose()
        store.hold("claim")
        rivals = [await WireClient.open(broker) for _ in range(3)]
        for rival in rivals:
            await rival.send(
                make(Connect, client_identifier="reader", clean_start=False, session_expiry_interval=EXPIRY)
            )
            await silence(rival)
        for rival in rivals[:-1]:
            await rival.expect_refused(0x80)  # CONNACK has no 0x8E
        store.let_go("claim")
        await rivals[-1].expect(Connack, session_present=True)
        await broker.publish("t", b"x", qos=1)
        await rivals[-1].expect_message("t", b"x")
        assert len(broker.session.sessions) == 1


async def test_takeover_while_the_claim_is_under_way_is_done(store: WaitingStore) -> None:
    """The former connection is gone at once; what comes meanwhile waits for the new one."""
    async with broker_running(store=store) as broker:
        former = await reader(broker)
        store.hold("claim")
        later = await WireClient.open(broker)
        await later.send(make(Connect, client_identifier="reader", clean_start=False, session_expiry_interval=EXPIRY))
        await former.expect_closed(TAKEN_OVER)
        await broker.publish("t", b"x", qos=1)
        await silence(later)
        store.let_go("claim")
        await later.expect(Connack, session_present=True)
        await later.expect_message("t", b"x")


@pytest.mark.parametrize("known", [True, False])
async def test_a_claim_that_nobody_takes_in_the_end(store: WaitingStore, known: bool) -> None:
    """Its connection ended: a session that was there expires as if its client had just gone; a new one never was."""
    async with broker_running(store=store) as broker:
        if known:
            await (await reader(broker)).aclose()
        store.hold("claim")
        client = await WireClient.open(broker)
        connect = make(Connect, client_identifier="reader", clean_start=False, session_expiry_interval=EXPIRY)
        await client.send(connect)
        await silence(client)
        await client.aclose()
        await trio.sleep(2 * EXPIRY)
        store.let_go("claim")
        await trio.sleep(1)
        assert set(broker.session.sessions) == ({"reader"} if known else set())
        (row,) = store.inner.sessions() if known else (None,)
        assert row is None or row.released
        await trio.sleep(EXPIRY + 1)
        assert broker.session.sessions == {}
        assert store.inner.sessions() == []


async def test_sessions_that_are_being_claimed_count(store: WaitingStore) -> None:
    async with broker_running(store=store, limits=Limits(sessions_max=2)) as broker:
        await connected(broker, "one")
        store.hold("claim")
        waiting = await WireClient.open(broker)
        await waiting.send(make(Connect, client_identifier="two"))
        await silence(waiting)
        refused = await WireClient.open(broker)
        assert (await refused.attempt_connect("three")).reason_code == 0x97
        store.let_go("claim")
        await waiting.expect(Connack, reason_code=0)


async def test_a_hand_off_has_its_deadline(store: WaitingStore) -> None:
    """10 s; then that client is told 0x83, nobody else, and the message goes its way when the store is back."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher")
        store.hold("enqueue")
        await publisher.send(publish("t", b"x", 1, 1))
        await publisher.expect_silence(9.9)
        await publisher.expect_closed(BROKEN)
        await subscriber.expect_alive()
        store.let_go("enqueue")
        await subscriber.expect_message("t", b"x")


async def test_keep_alive_stands_still_while_a_client_is_not_read(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        await reader(broker)
        publisher = await connected(broker, "publisher", keep_alive=2)
        store.hold("enqueue")
        await publisher.send(publish("t", b"x", 1, 1), Pingreq())
        await publisher.expect(Pingresp)
        await publisher.send(Pingreq())
        await publisher.expect_silence(8)
        store.let_go("enqueue")
        await publisher.expect(Puback)
        await publisher.expect(Pingresp)
        await publisher.expect_silence(2.8)
        await publisher.expect_closed(0x8D)


# --- the store fails ----------------------------------------------------------------------------


async def test_a_publication_that_cannot_be_stored_ends_its_publisher(store: WaitingStore) -> None:
    """No PUBACK: the client sends it again. Nobody else hears of it."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher")
        store.fail("enqueue", Unavailable())
        await publisher.send(publish("t", b"x", 1, 1))
        await publisher.expect_closed(BROKEN)
        await silence(subscriber)
        again = await connected(broker, "publisher")
        await again.publish("t", b"x", qos=1, dup=True)
        await subscriber.expect_message("t", b"x")
        await silence(subscriber)


async def test_a_release_that_cannot_be_stored_comes_again(store: WaitingStore) -> None:
    """QoS 2, the store failed at PUBREL: nobody got it, and the next PUBREL fans it out, once."""
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        passing = await connected(broker, "passing")
        await passing.subscribe("t", qos=2)
        publisher = await connected(broker, "publisher", session_expiry_interval=EXPIRY)
        await publisher.send(publish("t", b"x", 2, 1))
        await publisher.expect(Pubrec)
        store.fail("enqueue", Unavailable())
        await publisher.send(Pubrel(1))
        await publisher.expect_closed(BROKEN)
        await silence(subscriber, passing)
        again = await resumed(broker, "publisher")
        await again.send(Pubrel(1))
        await again.expect(Pubcomp, packet_identifier=1, reason_code=0)
        await subscriber.expect_message("t", b"x")
        await passing.expect_message("t", b"x")
        await silence(subscriber, passing)


async def test_a_publication_that_cannot_be_kept_was_not_received(store: WaitingStore) -> None:
    """QoS 2, the store failed at PUBLISH: the next one is kept anew before PUBREC."""
    async with broker_running(store=store) as broker:
        publisher = await connected(broker, "publisher", session_expiry_interval=EXPIRY)
        store.fail("settle", Unavailable())
        await publisher.send(publish("t", b"x", 2, 1))
        await publisher.expect_closed(BROKEN)
        again = await resumed(broker, "publisher")
        store.hold("settle")
        await again.send(Publish("t", b"x", 2, dup=True, packet_identifier=1))
        await silence(again)
        store.let_go("settle")
        await again.expect(Pubrec, packet_identifier=1)


@pytest.mark.parametrize("method", ["settle", "subscribe"])
async def test_a_call_for_a_subscriber_ends_that_subscriber(store: WaitingStore, method: str) -> None:
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        publisher = await connected(broker, "publisher")
        await publisher.publish("t", b"x", qos=1)
        received = await subscriber.expect(Publish)
        store.fail(method, Unavailable())
        if method == "settle":
            await subscriber.send(Puback(received.packet_identifier))
        else:
            await subscriber.send(subscribe("u", 9))
        await subscriber.expect_closed(BROKEN)
        await publisher.publish("t", b"y", qos=1)
        assert (await (await resumed(broker)).expect(Publish)).topic == "t"


async def test_a_message_that_goes_nowhere_is_settled_and_a_failure_is_that_subscriber_s(store: WaitingStore) -> None:
    """It is too large for its subscriber, which is found out in the publisher's round."""
    async with broker_running(store=store) as broker:
        subscriber = await connected(broker, "reader", session_expiry_interval=EXPIRY, maximum_packet_size=100)
        await subscriber.subscribe("t", qos=1)
        publisher = await connected(broker, "publisher")
        await publisher.publish("t", bytes(200), qos=1)
        await silence(subscriber)
        assert store.calls[-1] == "settle"
        store.fail("settle", Unavailable())
        await publisher.publish("t", bytes(200), qos=1)
        await subscriber.expect_closed(BROKEN)
        await publisher.expect_alive()


async def test_a_session_that_cannot_be_claimed(store: WaitingStore) -> None:
    """CONNACK 0x83; the session waits for the next attempt."""
    async with broker_running(store=store) as broker:
        await (await reader(broker)).aclose()
        store.fail("claim", Unavailable())
        client = await WireClient.open(broker)
        await client.send(make(Connect, client_identifier="reader", clean_start=False))
        await client.expect(Connack, reason_code=BROKEN)
        await client.expect_closed()
        await (await resumed(broker)).aclose()
        await trio.sleep(EXPIRY + 1)
        assert broker.session.sessions == {}


@pytest.mark.parametrize("method", ["release", "remove"])
async def test_the_end_of_a_session_that_cannot_be_stored_is_logged(
    store: WaitingStore, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with broker_running(store=store) as broker:
        client = await reader(broker)
        store.fail(method, Unavailable("no answer"))
        with caplog.at_level(logging.ERROR, "trio_acebroker"):
            await client.disconnect(session_expiry_interval=0 if method == "remove" else EXPIRY)
            await trio.sleep(1)
        assert [record.getMessage() for record in caplog.records] == ["the store failed: Unavailable('no answer')"]
        await trio.sleep(EXPIRY)
        assert broker.session.sessions == {}


@pytest.mark.parametrize(
    "how", ["publish", "release a publication", "subscribe", "acknowledge", "receive a publication"]
)
async def test_who_was_fenced_is_told_that_the_session_was_taken_over(store: WaitingStore, how: str) -> None:
    """Another broker claimed the session: 0x8E, nothing of it stays here, and nobody else hears of it."""
    async with broker_running(store=store) as broker:
        client = await reader(broker)
        other = await connected(broker, "other")
        await other.publish("t", b"x", qos=1)
        received = await client.expect(Publish)
        await client.publish("none", b"", qos=2)
        await client.send(publish("t", b"", 2, 5))
        await client.expect(Pubrec)
        identity = Identity("anonymous", "reader")
        assert store.inner.claim("reader", identity, clean_start=False).present
        match how:
            case "publish":  # to itself, whose messages are the other broker's now
                await client.publish("t", b"y", qos=1)
                await client.send(Puback(received.packet_identifier))
            case "release a publication":
                await client.send(Pubrel(5))
            case "subscribe":
                await client.send(subscribe("u", 9))
            case "acknowledge":
                await client.send(Puback(received.packet_identifier))
            case "receive a publication":
                await client.send(publish("t", b"", 2, 6))
        if how == "publish":
            await client.expect_message("t", b"y")
        await client.expect_closed(TAKEN_OVER)
        await other.expect_alive()
        assert set(broker.session.sessions) == {"other"}
    with pytest.raises(Fenced):
        store.inner.read("reader", 1, 0, 1)


# --- the broker itself, and the end -------------------------------------------------------------


async def test_publishing_in_process_waits_for_the_store(store: WaitingStore) -> None:
    async with broker_running(store=store) as broker:
        subscriber = await reader(broker)
        store.hold("enqueue")
        with trio.move_on_after(1) as waiting:
            await broker.publish("t", b"x", qos=1)
        assert waiting.cancelled_caught
        store.let_go("enqueue")
        await subscriber.expect_message("t", b"x")
        assert await broker.publish("t", b"y", qos=1) == 1
        await subscriber.expect_message("t", b"y")
        store.fail("enqueue", Unavailable())
        with pytest.raises(Unavailable):
            await broker.publish("t", b"z", qos=1)
        await silence(subscriber)


@pytest.mark.parametrize("seconds", [1, 60])
async def test_the_end_of_the_broker_waits_for_the_store(store: WaitingStore, seconds: int) -> None:
    """As long as `drain_seconds_max`, and no longer: sessions are released, Wills are in the store."""
    began = 0.0
    async with trio.open_nursery() as nursery:
        async with broker_running(store=store) as broker:
            await reader(broker)
            await connected(broker, "publisher", will=make_will("t", b"will", qos=1))
            store.hold("release", "enqueue")
            nursery.start_soon(_let_go, store, seconds)
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(min(seconds, Limits().drain_seconds_max), abs=0.2)
        nursery.cancel_scope.cancel()
    (kept,) = store.inner.sessions()
    assert kept.released
    epoch = store.inner.claim("reader", kept.identity, clean_start=False).epoch
    (row,) = store.inner.read("reader", epoch, 0, 10)
    assert row.delivery.message.payload == b"will"


async def _let_go(store: WaitingStore, seconds: int) -> None:
    await trio.sleep(seconds)
    store.let_go("release", "enqueue")
