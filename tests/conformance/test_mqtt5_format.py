"""MQTT 5.0, chapters 1.5 and 2: strings, integers, fixed header, Packet Identifiers, properties on the wire."""

from __future__ import annotations

import pytest

from acebroker_codec.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, connected
from trio_acebroker import Broker

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82

#: UTF-16 surrogates, alone and as a pair, a cut sequence, an overlong form, a lone continuation, beyond U+10FFFF
NOT_UTF_8 = [
    b"\xed\xa0\x80",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"a\xe2\x82",
    b"\xc0\xaf",
    b"\x80",
    b"\xf4\x90\x80\x80",
    b"\xff",
]
USER_PROPERTY = b"\x26"


@mqtt5("MQTT-1.5.4-1", "MQTT5-U-1.5.4-1")
@pytest.mark.parametrize("text", NOT_UTF_8, ids=bytes.hex)
async def test_text_that_is_not_utf_8_is_malformed(broker: Broker, text: bytes) -> None:
    for stimulus in (
        octets.publish(text),
        octets.publish(b"t", properties_=octets.properties(b"\x03" + octets.binary(text))),
        octets.subscribe(text),
        octets.frame(0xA2, octets.uint16(1) + b"\0" + octets.binary(text)),
    ):
        client = await connected(broker, "sender")
        await client.send_raw(stimulus)
        await client.expect_closed(MALFORMED)


@mqtt5("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT5-U-1.5.4-1")
@pytest.mark.parametrize("text", [*NOT_UTF_8, b"a\0b"], ids=bytes.hex)
async def test_such_text_in_connect_is_refused(broker: Broker, text: bytes) -> None:
    for flags, payload in ((0x02, octets.binary(text)), (0x82, octets.string("id") + octets.binary(text))):
        client = await WireClient.open(broker)
        await client.send_raw(octets.connect(flags=flags, payload=payload))
        await client.expect_refused(MALFORMED)


@mqtt5("MQTT-1.5.4-2", "MQTT-4.7.3-2", "MQTT5-U-1.5.4-1")
async def test_u_0000_in_text_is_malformed(broker: Broker) -> None:
    for stimulus in (
        octets.publish(b"a\0b"),
        octets.publish(b"t", properties_=octets.properties(b"\x08" + octets.binary(b"\0"))),
        octets.subscribe(b"a/\0"),
        octets.frame(0xA2, octets.uint16(1) + b"\0" + octets.binary(b"\0")),
    ):
        client = await connected(broker, "sender")
        await client.send_raw(stimulus)
        await client.expect_closed(MALFORMED)


@mqtt5("MQTT-1.5.4-3")
async def test_the_byte_order_mark_is_a_character(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("\ufeffa", "a")
    publisher = await connected(broker, "publisher")
    properties = ((("\ufeffname", "value\ufeff")),)
    await publisher.publish("\ufeffa", b"marked", user_properties=properties)
    await publisher.publish("a", b"bare")
    await subscriber.expect_message("\ufeffa", b"marked", user_properties=properties)
    await subscriber.expect_message("a", b"bare")
    assert b"\0\x04\xef\xbb\xbfa" in subscriber.octets_received


@mqtt5("MQTT-1.5.5-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        pytest.param(b"\xc0\x80\x00", id="Remaining Length of PINGREQ"),
        pytest.param(b"\x30\x84\x00\x00\x01t\x00", id="Remaining Length of PUBLISH"),
        pytest.param(b"\x30\x80\x80\x80\x80\x01", id="Remaining Length of five octets"),
        pytest.param(octets.frame(0x30, octets.string("t") + b"\x80\x00"), id="Property Length"),
        pytest.param(
            octets.frame(0x82, octets.uint16(1) + b"\x03\x0b\x81\x00" + octets.string("t") + b"\0"),
            id="Subscription Identifier",
        ),
    ],
)
async def test_a_variable_byte_integer_in_a_longer_form_is_malformed(broker: Broker, stimulus: bytes) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(stimulus)
    await client.expect_closed(MALFORMED)


@mqtt5("MQTT-1.5.5-1", "MQTT-2.2.1-2", "MQTT-2.2.2-1")
@pytest.mark.parametrize("size", [0, 122, 123, 124, 16_378, 16_379, 16_380])
async def test_a_delivered_qos_0_publish_octet_by_octet(broker: Broker, size: int) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x" * size)
    await subscriber.expect(Publish)
    # topic, Property Length 0, payload: no Packet Identifier, and lengths in their shortest form
    assert subscriber.octets_received.endswith(b"\x30" + octets.varint(4 + size) + b"\0\x01t\0" + b"x" * size)


@mqtt5("MQTT-1.5.7-1")
@pytest.mark.parametrize("bad", [b"\xed\xa0\x80", b"\0"], ids=bytes.hex)
@pytest.mark.parametrize("part", ["name", "value"])
async def test_both_strings_of_a_pair_are_checked(broker: Broker, bad: bytes, part: str) -> None:
    good = octets.string("good")
    pair = USER_PROPERTY + (octets.binary(bad) + good if part == "name" else good + octets.binary(bad))
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b"t", properties_=octets.properties(pair)))
    await client.expect_closed(MALFORMED)


@mqtt5(
    *("MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1", "MQTT-3.15.1-1"),
    "MQTT5-U-2.1.3-1",
)
@pytest.mark.parametrize("flags", range(16))
@pytest.mark.parametrize(
    ("kind", "allowed", "body"),
    [
        pytest.param(0x40, 0, octets.uint16(1), id="PUBACK"),
        pytest.param(0x50, 0, octets.uint16(1), id="PUBREC"),
        pytest.param(0x60, 2, octets.uint16(1), id="PUBREL"),
        pytest.param(0x70, 0, octets.uint16(1), id="PUBCOMP"),
        pytest.param(0x80, 2, octets.uint16(1) + b"\0" + octets.string("t") + b"\0", id="SUBSCRIBE"),
        pytest.param(0xA0, 2, octets.uint16(1) + b"\0" + octets.string("t"), id="UNSUBSCRIBE"),
        pytest.param(0xC0, 0, b"", id="PINGREQ"),
        pytest.param(0xE0, 0, b"", id="DISCONNECT"),
        pytest.param(0xF0, 0, b"\x18" + octets.properties(b"\x15" + octets.string("m")), id="AUTH"),
    ],
)
async def test_reserved_flags_of_the_fixed_header(
    broker: Broker, kind: int, allowed: int, body: bytes, flags: int
) -> None:
    if flags == allowed:
        return
    client = await connected(broker, "sender")
    await client.send_raw(octets.frame(kind | flags, body))
    await client.expect_closed(MALFORMED)


@mqtt5("MQTT-2.1.3-1")
@pytest.mark.parametrize("flags", range(1, 16))
async def test_reserved_flags_of_connect(broker: Broker, flags: int) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(bytes([0x10 | flags]) + octets.connect()[1:])
    await client.expect_refused(MALFORMED)


@mqtt5("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
@pytest.mark.parametrize("qos", [1, 2])
async def test_identifiers_of_deliveries_are_free_and_not_zero(broker: Broker, qos: int) -> None:
    subscriber = await connected(broker, "subscriber", receive_maximum=100)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    for number in range(50):
        await publisher.publish("t", b"%d" % number, qos=qos)
    open_ones = [await subscriber.expect(Publish, qos=qos) for _ in range(50)]
    in_use = {publish.packet_identifier for publish in open_ones}
    assert len(in_use) == 50
    assert 0 not in in_use
    # the first ten become free; what comes then may use them, but none of the others
    for publish in open_ones[:10]:
        await subscriber.acknowledge(publish)
        in_use.remove(publish.packet_identifier)
    for number in range(10):
        await publisher.publish("t", b"%d" % number, qos=qos)
        fresh = await subscriber.expect(Publish, qos=qos)
        assert fresh.packet_identifier != 0
        assert fresh.packet_identifier not in in_use
        in_use.add(fresh.packet_identifier)


@mqtt5("MQTT-2.2.1-5", "MQTT-4.3.2-4", "MQTT-4.3.3-8", "MQTT-4.3.3-11", "MQTT-3.3.4-1")
@pytest.mark.parametrize("identifier", [1, 255, 256, 65_535])
async def test_acknowledgements_echo_the_identifier(broker: Broker, identifier: int) -> None:
    client = await connected(broker, "sender")
    await client.send(Publish("t", qos=1, packet_identifier=identifier))
    await client.expect(Puback, packet_identifier=identifier)
    await client.send(Publish("t", qos=2, packet_identifier=identifier))
    await client.expect(Pubrec, packet_identifier=identifier)
    await client.send(Pubrel(identifier))
    await client.expect(Pubcomp, packet_identifier=identifier)


@mqtt5("MQTT-2.2.1-6", "MQTT-3.8.4-2", "MQTT-3.10.4-5")
@pytest.mark.parametrize("identifier", [1, 255, 256, 65_535])
async def test_suback_and_unsuback_echo_the_identifier(broker: Broker, identifier: int) -> None:
    client = await connected(broker, "subscriber")
    assert (await client.subscribe("t", packet_identifier=identifier)).packet_identifier == identifier
    assert (await client.unsubscribe("t", packet_identifier=identifier)).packet_identifier == identifier


@mqtt5("MQTT-2.2.1-5")
@pytest.mark.parametrize(
    "stimulus",
    [
        pytest.param(octets.publish(b"t", first=0x32, packet_identifier=0), id="PUBLISH QoS 1"),
        pytest.param(octets.publish(b"t", first=0x34, packet_identifier=0), id="PUBLISH QoS 2"),
        pytest.param(octets.subscribe(b"t", packet_identifier=0), id="SUBSCRIBE"),
        pytest.param(octets.frame(0xA2, b"\0\0\0" + octets.string("t")), id="UNSUBSCRIBE"),
        pytest.param(octets.frame(0x40, b"\0\0"), id="PUBACK"),
        pytest.param(octets.frame(0x62, b"\0\0"), id="PUBREL"),
    ],
)
async def test_identifier_zero_is_an_error(broker: Broker, stimulus: bytes) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(stimulus)
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR})


@mqtt5("MQTT-2.2.2-1")
async def test_a_property_length_is_never_left_out(broker: Broker) -> None:
    client = await connected(broker, "client")
    client.octets_received.clear()
    await client.subscribe("t", packet_identifier=7)
    await client.unsubscribe("t", packet_identifier=8)
    assert client.octets_received == b"\x90\x04\0\x07\0\0" + b"\xb0\x04\0\x08\0\0"
    for stimulus in (octets.frame(0x30, octets.string("t")), octets.frame(0x82, octets.uint16(1))):
        await client.send_raw(stimulus)
        await client.expect_closed({MALFORMED, PROTOCOL_ERROR})
        client = await connected(broker, "client")


@mqtt5("MQTT5-U-2.2.2-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        pytest.param(octets.publish(b"t", properties_=octets.properties(b"\x7f\0")), id="unknown"),
        pytest.param(octets.publish(b"t", properties_=octets.properties(b"\x11" + bytes(4))), id="not for PUBLISH"),
        pytest.param(octets.publish(b"t", properties_=octets.properties(b"\x23\0")), id="cut short"),
        pytest.param(octets.publish(b"t", properties_=b"\x7f\x01\0"), id="Property Length beyond the packet"),
        pytest.param(octets.subscribe(b"t", properties_=octets.properties(b"\x01\0")), id="not for SUBSCRIBE"),
        pytest.param(octets.frame(0xE0, b"\0" + octets.properties(b"\x23\0\x01")), id="not for DISCONNECT"),
    ],
)
async def test_properties_that_do_not_belong_are_malformed(broker: Broker, stimulus: bytes) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(stimulus)
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR})


TWICE_IN_PUBLISH = {
    "Payload Format Indicator": b"\x01\x01",
    "Message Expiry Interval": b"\x02" + octets.uint32(1),
    "Topic Alias": b"\x23" + octets.uint16(1),
    "Response Topic": b"\x08" + octets.string("r"),
    "Correlation Data": b"\x09" + octets.binary(b"c"),
    "Content Type": b"\x03" + octets.string("c"),
}


@mqtt5(
    *("MQTT5-U-3.3.2.3.4-1", "MQTT5-U-3.3.2.3.5-1", "MQTT5-U-3.3.2.3.6-1", "MQTT5-U-3.3.2.3.9-1"),
    "MQTT5-U-4.13.1-2",
)
@pytest.mark.parametrize("name", TWICE_IN_PUBLISH)
async def test_a_property_twice_in_publish(broker: Broker, name: str) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b"t", properties_=octets.properties(*[TWICE_IN_PUBLISH[name]] * 2)))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT5-U-3.4.2.2-1", "MQTT5-U-3.14.2.2.2-1", "MQTT5-U-3.14.2.2.3-1", "MQTT5-U-3.14.2.2.5-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        *(
            pytest.param(
                octets.frame(first, b"\0\x01\0" + octets.properties(*[b"\x1f" + octets.string("r")] * 2)), id=n
            )
            for first, n in ((0x40, "PUBACK"), (0x50, "PUBREC"), (0x62, "PUBREL"), (0x70, "PUBCOMP"))
        ),
        *(
            pytest.param(octets.frame(0xE0, b"\0" + octets.properties(*[entry] * 2)), id=f"{n} in DISCONNECT")
            for entry, n in (
                (b"\x11" + octets.uint32(1), "Session Expiry Interval"),
                (b"\x1f" + octets.string("r"), "Reason String"),
                (b"\x1c" + octets.string("s"), "Server Reference"),
            )
        ),
    ],
)
async def test_a_property_twice_in_other_packets(broker: Broker, stimulus: bytes) -> None:
    client = await connected(broker, "sender", session_expiry_interval=5)
    await client.send_raw(stimulus)
    # a Server Reference from a client is wrong whether it comes once or twice
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR} if b"\x1c" in stimulus else PROTOCOL_ERROR)


@mqtt5("MQTT-4.13.1-1", "MQTT-4.13.2-1", "MQTT5-U-4.13.1-2")
async def test_an_error_of_one_client_leaves_the_others_alone(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t")
    for stimulus in (b"\x00\x00", b"\xff\xff\xff\xff\xff", octets.publish(b"t/#"), octets.frame(0x20, b"\0\0\0")):
        offender = await connected(broker, "offender")
        await offender.send_raw(stimulus)
        await offender.expect_closed({MALFORMED, PROTOCOL_ERROR, 0x90})
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"still here")
    await subscriber.expect_message("t", b"still here")
