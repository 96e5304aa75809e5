"""MQTT 3.1.1, 1.5, 2 and 4.7 (and MQTT 3.1): strings, fixed header, identifiers, topics and filters."""

from __future__ import annotations

import pytest

from acebroker_codec.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback
from acebroker_middleware.state.bounds import Limits
from tests.conformance import octets
from tests.conformance.statements import mqtt311
from tests.harness import broker_running, connected
from trio_acebroker import Broker

both_versions = pytest.mark.parametrize("version", [4, 3], ids=["3.1.1", "3.1"])

BAD_STRINGS = [b"\xed\xa0\x80", b"a\xe2\x82", b"\xc0\xaf", b"\x80", b"\xff", b"a\0b"]


@mqtt311("MQTT-1.5.3-1", "MQTT-1.5.3-2", "MQTT-4.7.3-2", "MQTT-3.3.2-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1")
@pytest.mark.parametrize("text", BAD_STRINGS, ids=bytes.hex)
@both_versions
async def test_bad_strings_close(broker: Broker, text: bytes, version: int) -> None:
    for stimulus in (
        octets.publish(text, properties_=None),
        octets.subscribe(text, properties_=None),
        octets.frame(0xA2, octets.uint16(1) + octets.binary(text)),
    ):
        client = await connected(broker, "sender", version)
        await client.send_raw(stimulus)
        await client.expect_closed()


@mqtt311("MQTT-1.5.3-3", "MQTT-4.7.3-4")
@both_versions
async def test_the_byte_order_mark_is_a_character(broker: Broker, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("\ufeffa", "a")
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("\ufeffa", b"marked")
    await publisher.publish("a", b"bare")
    await subscriber.expect_message("\ufeffa", b"marked")
    await subscriber.expect_message("a", b"bare")
    assert b"\0\x04\xef\xbb\xbfa" in subscriber.octets_received


@mqtt311("MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-4.8.0-1")
@pytest.mark.parametrize("flags", range(16))
@pytest.mark.parametrize(
    ("kind", "allowed", "body"),
    [
        pytest.param(0x40, 0, octets.uint16(1), id="PUBACK"),
        pytest.param(0x50, 0, octets.uint16(1), id="PUBREC"),
        pytest.param(0x60, 2, octets.uint16(1), id="PUBREL"),
        pytest.param(0x70, 0, octets.uint16(1), id="PUBCOMP"),
        pytest.param(0x80, 2, octets.uint16(1) + octets.string("t") + b"\0", id="SUBSCRIBE"),
        pytest.param(0xA0, 2, octets.uint16(1) + octets.string("t"), id="UNSUBSCRIBE"),
        pytest.param(0xC0, 0, b"", id="PINGREQ"),
        pytest.param(0xE0, 0, b"", id="DISCONNECT"),
    ],
)
async def test_reserved_flags_of_the_fixed_header(
    broker: Broker, kind: int, allowed: int, body: bytes, flags: int
) -> None:
    if flags == allowed:
        return
    client = await connected(broker, "sender", 4)
    await client.send_raw(octets.frame(kind | flags, body))
    await client.expect_closed()


@mqtt311("MQTT-4.8.0-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        pytest.param(b"\0\0", id="packet type 0"),
        pytest.param(b"\xf0\0", id="packet type 15"),
        pytest.param(b"\x20\x02\0\0", id="CONNACK"),
        pytest.param(b"\x90\x03\0\x01\0", id="SUBACK"),
        pytest.param(b"\xd0\0", id="PINGRESP"),
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", id="Remaining Length of five octets"),
        pytest.param(b"\xc0\x01\0", id="PINGREQ with a body"),
        pytest.param(octets.frame(0x40, b"\0\x01\0"), id="PUBACK with a reason code"),
        pytest.param(octets.publish(b"", properties_=None), id="empty topic"),
    ],
)
@both_versions
async def test_protocol_violations_close_and_spare_the_others(broker: Broker, stimulus: bytes, version: int) -> None:
    other = await connected(broker, "other", version)
    client = await connected(broker, "offender", version)
    await client.send_raw(stimulus)
    await client.expect_closed()
    await other.expect_alive()


@mqtt311("MQTT-2.3.1-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        pytest.param(octets.publish(b"t", first=0x32, packet_identifier=0, properties_=None), id="PUBLISH QoS 1"),
        pytest.param(octets.publish(b"t", first=0x34, packet_identifier=0, properties_=None), id="PUBLISH QoS 2"),
        pytest.param(octets.subscribe(b"t", packet_identifier=0, properties_=None), id="SUBSCRIBE"),
        pytest.param(octets.frame(0xA2, b"\0\0" + octets.string("t")), id="UNSUBSCRIBE"),
    ],
)
@both_versions
async def test_identifier_zero_closes(broker: Broker, stimulus: bytes, version: int) -> None:
    client = await connected(broker, "sender", version)
    await client.send_raw(stimulus)
    await client.expect_closed()


@mqtt311("MQTT-2.3.1-4", "MQTT-2.3.1-1", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
@pytest.mark.parametrize("qos", [1, 2])
@both_versions
async def test_identifiers_of_deliveries_are_free_and_not_zero(broker: Broker, qos: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher", version)
    for number in range(20):
        await publisher.publish("t", b"%d" % number, qos=qos)
    open_ones = [await subscriber.expect(Publish, qos=qos) for _ in range(20)]
    in_use = {publish.packet_identifier for publish in open_ones}
    assert len(in_use) == 20
    assert 0 not in in_use
    for publish in open_ones[:5]:
        await subscriber.acknowledge(publish)
        in_use.remove(publish.packet_identifier)
    for number in range(5):
        await publisher.publish("t", b"%d" % number, qos=qos)
        fresh = await subscriber.expect(Publish, qos=qos)
        assert fresh.packet_identifier
        assert fresh.packet_identifier not in in_use
        in_use.add(fresh.packet_identifier)


@mqtt311("MQTT-2.3.1-5", "MQTT-3.3.1-2", "MQTT-4.3.1-1")
@pytest.mark.parametrize("size", [0, 123, 124, 125, 16_379, 16_380, 16_381])
@both_versions
async def test_a_delivered_qos_0_publish_octet_by_octet(broker: Broker, size: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x" * size)
    await subscriber.expect(Publish)
    assert subscriber.octets_received.endswith(b"\x30" + octets.varint(3 + size) + b"\0\x01t" + b"x" * size)


@mqtt311("MQTT-2.3.1-6", "MQTT-2.3.1-7", "MQTT-3.8.4-2", "MQTT-3.10.4-4", "MQTT-4.3.2-2", "MQTT-4.3.3-2")
@pytest.mark.parametrize("identifier", [1, 255, 256, 65_535])
@both_versions
async def test_acknowledgements_echo_the_identifier(broker: Broker, identifier: int, version: int) -> None:
    client = await connected(broker, "sender", version)
    await client.send(Publish("t", qos=1, packet_identifier=identifier))
    await client.expect(Puback(identifier))
    await client.send(Publish("t", qos=2, packet_identifier=identifier))
    await client.expect(Pubrec(identifier))
    await client.send(Pubrel(identifier))
    await client.expect(Pubcomp(identifier))
    assert (await client.subscribe("t", packet_identifier=identifier)).packet_identifier == identifier
    assert (await client.unsubscribe("t", packet_identifier=identifier)).packet_identifier == identifier


# ---- topics ----


@mqtt311("MQTT-3.3.2-2", "MQTT-4.7.1-1")
@pytest.mark.parametrize("topic", [b"#", b"+", b"a/#", b"a/+/b", b"a+"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_a_topic_with_wildcards_closes(broker: Broker, topic: bytes, qos: int, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("#")
    client = await connected(broker, "sender", version)
    identifier = 1 if qos else None
    await client.send_raw(octets.publish(topic, first=0x30 | qos << 1, packet_identifier=identifier, properties_=None))
    await client.expect_closed()
    await watcher.expect_silence()


@mqtt311("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-1")
@pytest.mark.parametrize(
    "topic_filter", ["sport/tennis#", "sport/tennis/#/ranking", "#/a", "##", "sport+", "+a", "a/+b/c", "++", ""]
)
@both_versions
async def test_filters_of_a_wrong_form_are_refused(broker: Broker, topic_filter: str, version: int) -> None:
    """With SUBACK 0x80 or by closing."""
    client = await connected(broker, "client", version)
    await client.send_raw(octets.subscribe(topic_filter.encode(), properties_=None) + b"\xe0\0")
    received = await client.drain()
    assert received in ([], [Suback(1, (0x80,))])


MATCHES = [
    ("sport/tennis/#", ["sport/tennis", "sport/tennis/a/b"], ["sport", "sport/tenni"]),
    ("#", ["a", "/", "a/b"], ["$a"]),
    ("+/+", ["/a", "a/", "/"], ["a", "a/b/c", "$a/b"]),
    ("/+", ["/a", "/"], ["a"]),
    ("+/monitor/Clients", ["x/monitor/Clients"], ["$own/monitor/Clients"]),
    ("$own/#", ["$own", "$own/x"], ["own/x"]),
    ("ACCOUNTS", ["ACCOUNTS"], ["Accounts", "ACCOUNTS/"]),
]


@mqtt311("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.2-1", "MQTT-4.7.3-4", "MQTT-3.3.2-3")
@pytest.mark.parametrize(("topic_filter", "matching", "other"), MATCHES, ids=[row[0] for row in MATCHES])
@pytest.mark.parametrize("retain", [False, True])
@both_versions
async def test_matching(
    dollar_broker: Broker, topic_filter: str, matching: list[str], other: list[str], retain: bool, version: int
) -> None:
    subscriber = await connected(dollar_broker, "subscriber", version)
    publisher = await connected(dollar_broker, "publisher", version)
    if not retain:
        await subscriber.subscribe(topic_filter)
    for topic in [*matching, *other]:
        await publisher.publish(topic, topic.encode(), retain=retain)
    await publisher.expect_alive()
    if retain:
        await subscriber.subscribe(topic_filter)
    received = [packet.topic for packet in await subscriber.drain() if isinstance(packet, Publish)]
    assert sorted(received) == sorted(matching)


@mqtt311("MQTT-4.7.3-3")
async def test_names_and_filters_of_65535_octets() -> None:
    topic = "x/" * 60 + "y" * (65_535 - 120)
    async with broker_running(limits=Limits(topic_bytes_max=65_535)) as broker:
        client = await connected(broker, "client", 4)
        await client.subscribe(topic, qos=1)
        await client.publish(topic, b"long", qos=1)
        await client.expect_message(topic, b"long", qos=1)


@mqtt311("MQTT-4.7.3-4")
@both_versions
async def test_matching_does_not_normalise(broker: Broker, version: int) -> None:
    names = ["caf\u00e9", "cafe\u0301", "a", "A", "a ", "/a", "a/", "\u212b", "\u00c5"]
    subscriber = await connected(broker, "subscriber", version)
    publisher = await connected(broker, "publisher", version)
    for name in names:
        await subscriber.subscribe(name)
        for other in names:
            await publisher.publish(other, other.encode())
        await subscriber.expect_message(name, name.encode())
        await subscriber.expect_silence(0.1)
        await subscriber.unsubscribe(name)
