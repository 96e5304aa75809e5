"""MQTT 5.0, 4.9, 3.1.2.11.3 and .4, 3.2.2.3.3 and .6: Receive Maximum and Maximum Packet Size, both ways."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from acebroker_codec.packets import Pubcomp, Publish, Pubrec, Pubrel
from acebroker_middleware.state.bounds import Limits
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, broker_running, connected, make
from trio_acebroker import Broker

RECEIVE_MAXIMUM_EXCEEDED = 0x93
PACKET_TOO_LARGE = 0x95


# ---- Receive Maximum of the client ----


@mqtt5("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
@pytest.mark.parametrize("receive_maximum", [1, 2, 7])
@pytest.mark.parametrize("qos", [1, 2])
async def test_the_send_quota_is_the_receive_maximum(broker: Broker, receive_maximum: int, qos: int) -> None:
    subscriber = await connected(broker, "subscriber", receive_maximum=receive_maximum)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    for number in range(20):
        await publisher.publish("t", b"%d" % number, qos=qos)
    open_ones: list[Publish] = []
    for number in range(20):
        if len(open_ones) == receive_maximum:
            await subscriber.expect_silence()
            await subscriber.acknowledge(open_ones.pop(0))
        open_ones.append(await subscriber.expect(Publish, payload=b"%d" % number))


@mqtt5("MQTT-4.9.0-2", "MQTT-3.3.4-9")
async def test_at_qos_2_only_pubcomp_or_an_error_gives_the_quota_back(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber", receive_maximum=1)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    for payload in (b"1", b"2", b"3"):
        await publisher.publish("t", payload, qos=2)
    first = await subscriber.expect(Publish, payload=b"1")
    await subscriber.send(Pubrec(first.packet_identifier))
    await subscriber.expect(Pubrel)
    await subscriber.expect_silence()
    await subscriber.send(Pubcomp(first.packet_identifier))
    second = await subscriber.expect(Publish, payload=b"2")
    await subscriber.send(Pubrec(second.packet_identifier, 0x80))
    await subscriber.expect_message("t", b"3")


@mqtt5("MQTT-3.3.4-10", "MQTT-4.9.0-3", "MQTT-3.3.4-8")
async def test_without_quota_everything_else_goes_on(broker: Broker) -> None:
    client = await connected(broker, "client", receive_maximum=1)
    await client.subscribe("t", qos=1)
    other = await connected(broker, "other")
    await other.publish("t", b"1", qos=1)
    await other.publish("t", b"2", qos=1)
    open_one = await client.expect(Publish, payload=b"1")
    await client.expect_alive()
    await client.subscribe("u", qos=0)
    await client.unsubscribe("never")
    assert await client.publish("v", b"x", qos=1) is not None
    assert await client.publish("v", b"x", qos=2) is not None
    await other.publish("u", b"unlimited", qos=0)
    await client.expect_message("u", b"unlimited", qos=0)
    await client.acknowledge(open_one)
    await client.expect_message("t", b"2")


@mqtt5("MQTT-4.9.0-1", "MQTT-4.9.0-2")
async def test_the_quota_begins_anew_with_each_connection(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber", receive_maximum=5, session_expiry_interval=100)
    await subscriber.subscribe("t", qos=1)
    publisher = await connected(broker, "publisher")
    for number in range(6):
        await publisher.publish("t", b"%d" % number, qos=1)
    for number in range(5):
        await subscriber.expect(Publish, payload=b"%d" % number)
    await subscriber.aclose()
    subscriber = await connected(broker, "subscriber", receive_maximum=2, clean_start=False)
    for number in (0, 2, 4):
        pair = [await subscriber.expect(Publish, payload=b"%d" % n) for n in (number, number + 1)]
        await subscriber.expect_silence()
        for publish in pair:
            await subscriber.acknowledge(publish)


# ---- Receive Maximum of the broker ----


@mqtt5("MQTT5-U-3.3.4-1", "MQTT-3.3.4-7", "MQTT-4.9.0-2")
async def test_more_than_the_announced_receive_maximum() -> None:
    async with broker_running(limits=Limits(receive_max=3)) as broker:
        client = await WireClient.open(broker)
        assert (await client.connect("client")).properties.receive_maximum == 3
        for identifier in (1, 2, 3):
            await client.send(make(Publish, topic="t", qos=2, packet_identifier=identifier))
            await client.expect(Pubrec, packet_identifier=identifier)
        # a finished one makes room, QoS 0 needs none, a repetition is the same publication
        await client.send(Pubrel(2))
        await client.expect(Pubcomp)
        await client.send(make(Publish, topic="t", qos=2, packet_identifier=2))
        await client.expect(Pubrec)
        await client.publish("t")
        await client.send(make(Publish, topic="t", qos=2, packet_identifier=3, dup=True))
        await client.expect(Pubrec)
        await client.expect_alive()
        await client.send(make(Publish, topic="t", qos=2, packet_identifier=4))
        await client.expect_closed(RECEIVE_MAXIMUM_EXCEEDED)


@mqtt5("MQTT-4.4.0-1", "MQTT-3.3.4-7")
async def test_what_is_sent_again_keeps_its_place_within_the_receive_maximum() -> None:
    async with broker_running(limits=Limits(receive_max=3)) as broker:
        unanswered = [make(Publish, topic="t", qos=2, packet_identifier=identifier) for identifier in (1, 2, 3)]
        client = await connected(broker, "client", session_expiry_interval=100)
        await client.send(*unanswered)
        await client.aclose()
        client = await connected(broker, "client", session_expiry_interval=100, clean_start=False)
        await client.send(*(replace(publish, dup=True) for publish in unanswered))
        for identifier in (1, 2, 3):
            await client.expect(Pubrec, packet_identifier=identifier)
        await client.send(make(Publish, topic="t", qos=2, packet_identifier=4))
        await client.expect_closed(RECEIVE_MAXIMUM_EXCEEDED)


# ---- Maximum Packet Size of the client ----


@mqtt5("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_publication_too_large_for_a_client_is_dropped_for_it(broker: Broker, qos: int) -> None:
    small = await connected(broker, "small", maximum_packet_size=200, receive_maximum=1)
    await small.subscribe("t", qos=qos)
    large = await connected(broker, "large")
    await large.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    # first octet, Remaining Length of two octets, topic, Packet Identifier, Property Length
    largest = 200 - (3 + 3 + (2 if qos else 0) + 1)
    for size, fits in ((largest, True), (largest + 1, False), (5_000, False), (1, True)):
        await publisher.publish("t", b"x" * size, qos=qos)
        await large.expect_message("t", b"x" * size, qos=qos)
        small.octets_received.clear()
        if fits:
            publish = await small.expect(Publish, payload=b"x" * size, qos=qos)
            assert len(small.octets_received) <= 200
            # a dropped one takes no quota: with a Receive Maximum of 1 the next one comes all the same
            await small.acknowledge(publish)
        else:
            await small.expect_silence()


@mqtt5("MQTT-3.1.2-24", "MQTT-3.1.2-25")
async def test_queued_and_retained_publications_are_measured_too(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=100)
    await client.subscribe("t", qos=1)
    await client.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x" * 500, qos=1, retain=True)
    await publisher.publish("t", b"small", qos=1)
    client = await connected(broker, "client", clean_start=False, maximum_packet_size=200)
    await client.expect_message("t", b"small")
    await client.subscribe("t", qos=1)
    await client.expect_silence()
    await client.expect_alive()


@mqtt5("MQTT-3.1.2-25")
async def test_properties_count_for_the_size(broker: Broker) -> None:
    client = await connected(broker, "client", maximum_packet_size=200)
    await client.subscribe("t", subscription_identifier=1)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", user_properties=(("name", "v" * 300),))
    await publisher.publish("t", b"y", user_properties=(("name", "v" * 100),))
    await client.expect_message("t", b"y")


# ---- Maximum Packet Size of the broker ----


@mqtt5("MQTT5-U-3.2.2.3.6-1", "MQTT-3.2.2-15", "MQTT-4.13.1-1")
async def test_a_packet_too_large_for_the_broker() -> None:
    async with broker_running(limits=Limits(packet_bytes_max=1_000)) as broker:
        client = await WireClient.open(broker)
        assert (await client.connect("client")).properties.maximum_packet_size == 1_000
        await client.subscribe("t")
        largest = 1_000 - 3 - 3 - 1
        await client.publish("t", b"x" * largest)
        await client.expect_message("t", b"x" * largest)
        await client.send_raw(octets.publish(b"t", b"x" * (largest + 1)))
        await client.expect_closed(PACKET_TOO_LARGE)


@mqtt5("MQTT5-U-3.2.2.3.6-1")
async def test_the_announced_length_is_enough_to_refuse(broker: Broker) -> None:
    """268,435,455 octets are announced and not one of them is sent."""
    client = await connected(broker, "client")
    await client.send_raw(b"\x30\xff\xff\xff\x7f")
    await client.expect_closed(PACKET_TOO_LARGE)
