"""One broker after the other over the same store: what the second one takes over."""

from __future__ import annotations

import inspect
import time
from typing import Any

import pytest
import trio

from acebroker_codec.packets import Connack, Publish, Pubrec, Pubrel
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.state.subscriptions import Subscription
from tests.broker.storage.waiting import WaitingStore
from tests.harness import WireClient, broker_running, connected, run_in_virtual_time
from trio_acebroker import Limits, MemoryStore

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

ANN = Identity("anonymous", "ann")


@pytest.fixture(params=[MemoryStore, WaitingStore])
def store(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def done(pending: Any) -> Any:
    return await pending if inspect.isawaitable(pending) else pending


async def kept_session(store: Any, *, expires_at: float | None, released: bool = True) -> None:
    """A session of `ann`, subscribed to `t`, as an earlier broker left it."""
    claim = await done(store.claim("ann", ANN, clean_start=False))
    await done(store.subscribe("ann", claim.epoch, [Subscription("t", 2)], ()))
    if released:
        await done(store.release("ann", claim.epoch, expires_at=expires_at))


async def test_sessions_go_on(store: Any) -> None:
    """What was sent, what waited, and what comes while the client is still away, in order."""
    async with broker_running(store=store) as broker:
        ann = await connected(broker, "ann", session_expiry_interval=1_000, receive_maximum=2)
        await ann.subscribe("t", "$share/g/s", qos=2, subscription_identifier=3)
        for number in range(4):
            await broker.publish("t", b"%d" % number, qos=2)
        first, second = await ann.expect(Publish), await ann.expect(Publish)
        await ann.send(Pubrec(second.packet_identifier))
        await ann.expect(Pubrel)
        await ann.aclose()
        assert first.payload == b"0"
    async with broker_running(store=store) as broker:
        await broker.publish("t", b"4", qos=2)
        await broker.publish("s", b"shared", qos=1)
        ann = await WireClient.open(broker)
        connack = await ann.connect("ann", clean_start=False, session_expiry_interval=1_000)
        assert connack.session_present
        await ann.expect(Pubrel, packet_identifier=second.packet_identifier)
        for payload in (b"0", b"2", b"3", b"4"):
            await ann.expect_message("t", payload, subscription_identifiers=(3,))
        await ann.expect_message("s", b"shared")
        await ann.expect_silence()
    async with broker_running(store=store) as broker:
        ann = await connected(broker, "ann", clean_start=False, session_expiry_interval=1_000)
        await ann.expect(Pubrel)  # PUBCOMP never came
        await ann.expect_silence()


async def test_a_publication_that_was_received_is_released_once(store: Any) -> None:
    async with broker_running(store=store) as broker:
        ann = await connected(broker, "ann", session_expiry_interval=1_000)
        await ann.send(Publish("t", b"x", 2, packet_identifier=7))
        await ann.expect(Pubrec)
        await ann.aclose()
    async with broker_running(store=store) as broker, broker.subscribe("t") as messages:
        ann = await connected(broker, "ann", clean_start=False, session_expiry_interval=1_000)
        await ann.publish("t", b"x", qos=2, packet_identifier=7, dup=True)
        assert (await messages.receive()).payload == b"x"
        await ann.send(Pubrel(7))
        await ann.receive()
        with trio.move_on_after(1):
            raise AssertionError(await messages.receive())


async def test_retained_messages_are_there(store: Any) -> None:
    async with broker_running(store=store) as broker:
        for topic in ("a", "b", "c"):
            await broker.publish(topic, topic.encode(), retain=True)
        await broker.publish("b", b"", retain=True)
        await broker.publish("c", b"new", retain=True)
    async with broker_running(store=store) as broker:
        client = await connected(broker, "client")
        await client.subscribe("+")
        received = {(await client.expect(Publish, retain=True)).payload for _ in range(2)}
        assert received == {b"a", b"new"}
        await client.expect_silence()


async def test_more_retained_messages_than_there_is_room_for_now(store: Any) -> None:
    async with broker_running(store=store) as broker:
        for number in range(5):
            await broker.publish(f"t/{number}", b"x", retain=True)
    async with broker_running(store=store, limits=Limits(retained_messages_max=3)) as broker:
        assert sum(message.topic.startswith("t/") for message in broker.router.retained) == 3
        assert broker.counters.retained_refused == 2


async def test_sessions_whose_time_is_over_are_gone(store: Any) -> None:
    await kept_session(store, expires_at=time.time() - 1)
    async with broker_running(store=store) as broker:
        assert broker.session.sessions == {}
        assert await broker.publish("t", b"x", qos=1) == 0
    assert await done(store.sessions()) == []


@pytest.mark.parametrize("released", [True, False])
async def test_expiry_goes_on(store: Any, released: bool) -> None:
    """For what is left of it; a session that nobody released, as its broker crashed, has the longest there is."""
    await kept_session(store, expires_at=time.time() + 100.5, released=released)
    async with broker_running(store=store, limits=Limits(session_expiry_seconds_max=500)) as broker:
        left = 100 if released else 500
        await trio.sleep(left - 1)
        assert set(broker.session.sessions) == {"ann"}
        await trio.sleep(2)
        assert broker.session.sessions == {}


async def test_a_session_that_never_expires(store: Any) -> None:
    await kept_session(store, expires_at=None)
    async with broker_running(store=store, limits=Limits(session_expiry_seconds_max=100)) as broker:
        await trio.sleep(1_000)
        assert await broker.publish("t", b"x", qos=1) == 1


@pytest.mark.parametrize("clean_start", [True, False])
async def test_a_session_belongs_to_its_identity_here_too(store: Any, clean_start: bool) -> None:
    claim = await done(store.claim("ann", Identity("user", "ann"), clean_start=False))
    await done(store.release("ann", claim.epoch, expires_at=None))
    async with broker_running(store=store) as broker:
        client = await WireClient.open(broker)
        connack = await client.attempt_connect("ann", clean_start=clean_start)
        assert isinstance(connack, Connack)
        assert connack.reason_code == 0x87
    (kept,) = await done(store.sessions())
    assert kept.identity == Identity("user", "ann")


async def test_a_long_queue_is_read_whole(store: Any) -> None:
    async with broker_running(store=store) as broker:
        ann = await connected(broker, "ann", session_expiry_interval=1_000)
        await ann.subscribe("t", qos=1)
        await ann.aclose()
        for number in range(2_500):
            await broker.publish("t", b"%d" % number, qos=1)
    async with broker_running(store=store) as broker:
        state = broker.session.sessions["ann"]
        assert [delivery.message.payload for delivery in state.queue] == [b"%d" % number for number in range(2_500)]
        assert state.queued_octets == sum(len(delivery.message.payload) + 1 for delivery in state.queue)
