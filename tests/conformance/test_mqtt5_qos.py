"""MQTT 5.0, 3.4 to 3.7, 4.3, 4.4 and 4.6: QoS handshakes in both directions, resending, order."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import Ack, Puback, Pubcomp, Publish, Pubrec, Pubrel
from acebroker_middleware.state.bounds import Limits
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, broker_running, connected, make
from trio_acebroker import Broker
from trio_acebroker.config import SysTopics

PACKET_IDENTIFIER_NOT_FOUND = 0x92
QUOTA_EXCEEDED = 0x97
RECEIVED_CODES = {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
RELEASED_CODES = {0x00, 0x92}
#: where the number of retained messages is the point
NO_SYS_TOPICS = SysTopics(interval_seconds=0)


def publication(payload: bytes, qos: int, identifier: int, **fields: object) -> Publish:
    return make(Publish, topic="t", payload=payload, qos=qos, packet_identifier=identifier, **fields)


async def session(broker: Broker, client_identifier: str = "subscriber", **fields: object) -> WireClient:
    """A client with a session that is kept, resumed where there is one."""
    return await connected(
        broker, client_identifier, **{"session_expiry_interval": 1_000, "clean_start": False, **fields}
    )


# ---- the broker as receiver ----


@mqtt5("MQTT-3.3.4-1", "MQTT-4.3.1-1")
async def test_qos_0_is_not_acknowledged(broker: Broker) -> None:
    client = await connected(broker, "sender")
    await client.publish("t", b"x")
    await client.expect_silence()


@mqtt5("MQTT-3.3.4-1", "MQTT-4.3.2-4", "MQTT-4.3.2-5")
@pytest.mark.parametrize("dup", [False, True])
async def test_after_puback_the_identifier_means_a_new_message(broker: Broker, dup: bool) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=1)
    publisher = await connected(broker, "publisher")
    for payload in (b"first", b"second", b"second"):
        await publisher.send(publication(payload, 1, 5, dup=dup and payload == b"second"))
        await publisher.expect(Puback, packet_identifier=5, reason_code=0)
        await subscriber.expect_message("t", payload)


@mqtt5("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12")
async def test_qos_2_is_passed_on_exactly_once(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    for dup in (False, True, True):
        await publisher.send(publication(b"once", 2, 5, dup=dup))
        await publisher.expect(Pubrec, packet_identifier=5, reason_code=0)
    for _ in range(2):  # a repeated PUBREL is answered too
        await publisher.send(Pubrel(5))
        pubcomp = await publisher.expect(Pubcomp, packet_identifier=5)
        assert pubcomp.reason_code in RELEASED_CODES
    await subscriber.expect_message("t", b"once", qos=2)
    await subscriber.expect_silence()
    await publisher.send(publication(b"new", 2, 5))
    await publisher.expect(Pubrec, packet_identifier=5, reason_code=0)
    await publisher.send(Pubrel(5))
    await publisher.expect(Pubcomp, packet_identifier=5, reason_code=0)
    await subscriber.expect_message("t", b"new", qos=2)
    await subscriber.expect_silence()


@mqtt5("MQTT-4.3.3-10", "MQTT-4.4.0-1", "MQTT-4.1.0-1")
@pytest.mark.parametrize("cut", ["after PUBLISH", "after PUBREL"])
async def test_qos_2_is_passed_on_exactly_once_across_a_reconnect(broker: Broker, cut: str) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=2)
    publisher = await session(broker, "publisher")
    await publisher.send(publication(b"once", 2, 5))
    await publisher.expect(Pubrec, packet_identifier=5)
    if cut == "after PUBREL":
        await publisher.send(Pubrel(5))
        await publisher.expect(Pubcomp, packet_identifier=5)
    await publisher.aclose()
    publisher = await session(broker, "publisher")
    if cut == "after PUBLISH":
        await publisher.send(publication(b"once", 2, 5, dup=True))
        await publisher.expect(Pubrec, packet_identifier=5)
    await publisher.send(Pubrel(5))
    await publisher.expect(Pubcomp, packet_identifier=5)
    await subscriber.expect_message("t", b"once", qos=2)
    await subscriber.expect_silence()


@mqtt5("MQTT-4.3.3-9")
async def test_after_an_error_pubrec_the_identifier_is_free() -> None:
    async with broker_running(limits=Limits(retained_messages_max=1), sys_topics=NO_SYS_TOPICS) as broker:
        subscriber = await connected(broker, "subscriber")
        await subscriber.subscribe("new", qos=2)
        publisher = await connected(broker, "publisher")
        await publisher.publish("kept", b"x", qos=1, retain=True)
        await publisher.send(make(Publish, topic="more", payload=b"x", qos=2, retain=True, packet_identifier=5))
        await publisher.expect(Pubrec, packet_identifier=5, reason_code=QUOTA_EXCEEDED)
        await publisher.send(make(Publish, topic="new", payload=b"x", qos=2, packet_identifier=5))
        await publisher.expect(Pubrec, packet_identifier=5, reason_code=0)
        await publisher.send(Pubrel(5))
        await publisher.expect(Pubcomp, packet_identifier=5, reason_code=0)
        await subscriber.expect_message("new", b"x", qos=2)


@mqtt5("MQTT-4.3.3-13")
async def test_expiry_does_not_stop_the_handshake(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.send(publication(b"short", 2, 5, message_expiry_interval=1))
    await publisher.expect(Pubrec, packet_identifier=5, reason_code=0)
    await trio.sleep(5)
    await publisher.send(publication(b"short", 2, 5, message_expiry_interval=1, dup=True))
    await publisher.expect(Pubrec, packet_identifier=5, reason_code=0)
    await publisher.send(Pubrel(5))
    await publisher.expect(Pubcomp, packet_identifier=5, reason_code=0)


@mqtt5("MQTT-3.6.2-1", "MQTT-3.7.2-1", "MQTT-4.3.3-11")
async def test_pubrel_of_an_unknown_identifier_is_answered(broker: Broker) -> None:
    client = await connected(broker, "sender")
    await client.send(Pubrel(77))
    await client.expect(Pubcomp, packet_identifier=77, reason_code=PACKET_IDENTIFIER_NOT_FOUND)
    await client.expect_alive()


@mqtt5("MQTT-3.6.2-1", "MQTT-4.3.3-4")
async def test_pubrec_of_an_unknown_identifier_is_answered(broker: Broker) -> None:
    client = await connected(broker, "receiver")
    await client.send(Pubrec(77))
    await client.expect(Pubrel, packet_identifier=77, reason_code=PACKET_IDENTIFIER_NOT_FOUND)
    await client.expect_alive()


@mqtt5("MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.7.2-1")
async def test_acknowledgement_codes_are_those_of_their_tables() -> None:
    """With and without a subscriber, and where a quota refuses."""
    async with broker_running(limits=Limits(retained_messages_max=1), sys_topics=NO_SYS_TOPICS) as broker:
        subscriber = await connected(broker, "subscriber")
        await subscriber.subscribe("heard")
        client = await connected(broker, "sender")
        for topic, retain in (("heard", False), ("unheard", False), ("first", True), ("second", True)):
            for qos, codes in ((1, RECEIVED_CODES), (2, RECEIVED_CODES | RELEASED_CODES)):
                acknowledgement = await client.publish(topic, b"x", qos=qos, retain=retain)
                assert acknowledgement is not None
                assert acknowledgement.reason_code in codes
                assert (acknowledgement.reason_code >= 0x80) == (topic == "second")


@mqtt5(
    *("MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3"),
    *("MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.1.2-24"),
)
async def test_acknowledgements_fit_the_maximum_packet_size() -> None:
    """Refusals are where a Reason String would stand. The limit is what CONNACK needs, then just above an ack."""
    async with broker_running(limits=Limits(retained_messages_max=0), sys_topics=NO_SYS_TOPICS) as broker:
        probe = await connected(broker, "client", maximum_packet_size=1_000)
        limit = len(probe.octets_received)
        client = await connected(broker, "client", maximum_packet_size=limit)
        for stimulus, answer in (
            (make(Publish, topic="t", payload=b"x", qos=1, retain=True, packet_identifier=1), Puback),
            (make(Publish, topic="t", payload=b"x", qos=2, retain=True, packet_identifier=2), Pubrec),
            (Pubrel(3), Pubcomp),
            (Pubrec(4), Pubrel),
        ):
            client.octets_received.clear()
            await client.send(stimulus)
            acknowledgement: Ack = await client.expect(answer)
            assert acknowledgement.reason_code >= 0x80
            assert len(client.octets_received) <= limit


@mqtt5("MQTT-4.6.0-2", "MQTT-4.6.0-3")
async def test_acknowledgements_leave_in_the_order_of_the_publications(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    identifiers = [9, 3, 65_535, 1, 500, 2]
    await publisher.send(*(publication(b"x", 1, identifier) for identifier in identifiers))
    assert [(await publisher.expect(Puback)).packet_identifier for _ in identifiers] == identifiers
    await publisher.send(*(publication(b"x", 2, identifier) for identifier in identifiers))
    assert [(await publisher.expect(Pubrec)).packet_identifier for _ in identifiers] == identifiers
    await publisher.send(*(Pubrel(identifier) for identifier in reversed(identifiers)))
    assert [(await publisher.expect(Pubcomp)).packet_identifier for _ in identifiers] == identifiers[::-1]


# ---- the broker as sender ----


@mqtt5("MQTT-4.3.2-2", "MQTT-4.3.3-2", "MQTT-3.3.1-1", "MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_an_unacknowledged_publish_is_resent_on_resume(broker: Broker, qos: int) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    first = await subscriber.expect(Publish, payload=b"x", qos=qos, dup=False)
    for _ in range(2):
        await subscriber.aclose()
        subscriber = await session(broker)
        again = await subscriber.expect(
            Publish, payload=b"x", qos=qos, dup=True, packet_identifier=first.packet_identifier
        )
    await subscriber.acknowledge(again)
    await subscriber.expect_alive()
    await subscriber.aclose()
    subscriber = await session(broker)
    await subscriber.expect_silence()


@mqtt5("MQTT-4.4.0-1", "MQTT-4.3.2-3")
@pytest.mark.parametrize("qos", [1, 2])
async def test_nothing_is_resent_while_connected(broker: Broker, qos: int) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    publish = await subscriber.expect(Publish)
    await subscriber.expect_silence(3_600)
    if qos == 2:
        await subscriber.send(Pubrec(publish.packet_identifier))
        await subscriber.expect(Pubrel)
        await subscriber.expect_silence(3_600)


@mqtt5("MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_a_clean_start_resends_nothing(broker: Broker, qos: int) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    await subscriber.expect(Publish)
    await subscriber.aclose()
    subscriber = await session(broker, clean_start=True)
    await subscriber.expect_silence()


@mqtt5("MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6", "MQTT-4.4.0-1", "MQTT-3.6.1-1")
async def test_an_unanswered_pubrel_is_resent_and_its_publish_is_not(broker: Broker) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=2)
    publish = await subscriber.expect(Publish)
    await subscriber.send(Pubrec(publish.packet_identifier))
    await subscriber.expect(Pubrel, packet_identifier=publish.packet_identifier, reason_code=0)
    for _ in range(2):
        await subscriber.aclose()
        subscriber = await session(broker)
        await subscriber.expect(Pubrel, packet_identifier=publish.packet_identifier, reason_code=0)
        await subscriber.expect_silence()
    assert subscriber.octets_received.endswith(b"\x62\x02" + publish.packet_identifier.to_bytes(2, "big"))
    await subscriber.send(Pubcomp(publish.packet_identifier))
    await subscriber.expect_alive()
    await subscriber.aclose()
    subscriber = await session(broker)
    await subscriber.expect_silence()


@mqtt5("MQTT-4.3.3-7")
async def test_a_transmitted_qos_2_message_does_not_expire(broker: Broker) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=2, message_expiry_interval=5)
    publish = await subscriber.expect(Publish)
    await subscriber.aclose()
    await trio.sleep(30)
    subscriber = await session(broker)
    await subscriber.expect_message("t", b"x", dup=True, packet_identifier=publish.packet_identifier)


@mqtt5("MQTT-4.4.0-2", "MQTT-3.4.2-1", "MQTT-3.5.2-1")
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x91, 0x97, 0x99])
async def test_an_error_acknowledgement_ends_the_delivery(broker: Broker, qos: int, code: int) -> None:
    subscriber = await session(broker, receive_maximum=1)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"refused", qos=qos)
    await publisher.publish("t", b"next", qos=qos)
    publish = await subscriber.expect(Publish, payload=b"refused")
    await subscriber.send((Puback if qos == 1 else Pubrec)(publish.packet_identifier, code))
    # no PUBREL follows; the quota is given back
    await subscriber.expect_message("t", b"next")
    await subscriber.expect_alive()
    await subscriber.aclose()
    subscriber = await session(broker)
    await subscriber.expect_silence()


@mqtt5("MQTT-4.6.0-1", "MQTT-4.6.0-5", "MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_resending_keeps_the_order(broker: Broker, qos: int) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    for number in range(10):
        await publisher.publish("t", b"%d" % number, qos=qos)
    identifiers = [(await subscriber.expect(Publish)).packet_identifier for _ in range(10)]
    await subscriber.aclose()
    for number in range(10, 15):
        await publisher.publish("t", b"%d" % number, qos=qos)
    subscriber = await session(broker)
    for number in range(15):
        publish = await subscriber.expect(Publish, payload=b"%d" % number, dup=number < 10)
        if number < 10:
            assert publish.packet_identifier == identifiers[number]


@mqtt5("MQTT-4.6.0-4")
async def test_pubrels_follow_the_order_of_the_pubrecs(broker: Broker) -> None:
    subscriber = await session(broker)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    for number in range(5):
        await publisher.publish("t", b"%d" % number, qos=2)
    identifiers = [(await subscriber.expect(Publish)).packet_identifier for _ in range(5)]
    order = [identifiers[i] for i in (3, 0, 4, 1, 2)]
    await subscriber.send(*(Pubrec(identifier) for identifier in order))
    assert [(await subscriber.expect(Pubrel)).packet_identifier for _ in order] == order


@mqtt5("MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_each_publishers_order_is_kept(broker: Broker, qos: int) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("#", qos=qos)
    publishers = [await connected(broker, f"publisher {i}") for i in range(3)]
    for number in range(40):
        for i, publisher in enumerate(publishers):
            identifier = number + 1 if qos else 0
            packet = make(Publish, topic=f"t/{i}", payload=b"%d" % number, qos=qos, packet_identifier=identifier)
            await publisher.send(packet, *([Pubrel(identifier)] if qos == 2 else []))
    order: dict[str, list[int]] = {}
    for _ in range(120):
        publish = await subscriber.expect(Publish, qos=qos)
        order.setdefault(publish.topic, []).append(int(publish.payload))
    assert order == {f"t/{i}": list(range(40)) for i in range(3)}


@mqtt5("MQTT-4.5.0-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_an_owned_message_reaches_every_session(broker: Broker, qos: int) -> None:
    here = await connected(broker, "here")
    await here.subscribe("t", qos=2)
    away = await session(broker, "away")
    await away.subscribe("+", qos=2)
    await away.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    await publisher.disconnect()
    await here.expect_message("t", b"x", qos=qos)
    away = await session(broker, "away")
    await away.expect_message("t", b"x", qos=qos, dup=False)
