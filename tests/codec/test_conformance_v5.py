"""MQTT 5.0: the numbered statements that are about octets and the order of packets, each with its stimulus.

Ids with `-U-` are error conditions that the standard words without a number, see spec/conformance/mqtt5.toml.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import ProtocolViolation, UnsupportedProtocolVersion
from acebroker_codec.packets import (
    Auth,
    AuthProperties,
    Connack,
    ConnackProperties,
    Connect,
    ConnectProperties,
    Disconnect,
    DisconnectProperties,
    Packet,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from acebroker_codec.protocol import Protocol, State
from tests.codec.by_hand import METHOD, NOT_UTF_8, answer, connect, frame, refused, section, string, taken

mqtt5 = functools.partial(pytest.mark.conformance, version=5)

V5 = ProtocolVersion.MQTT_5
MALFORMED, PROTOCOL_ERROR, UNSUPPORTED = 0x81, 0x82, 0x84
TOPIC_FILTER_INVALID, TOPIC_NAME_INVALID, TOPIC_ALIAS_INVALID = 0x8F, 0x90, 0x94
ID = b"\0\1"
#: will flag with topic "w" and payload "p" behind the Client Identifier
WILL = (string("c"), b"\0", string("w"), string("p"))


def string_places(text: bytes) -> dict[str, bytes]:
    """A packet for every field of a client that is a UTF-8 Encoded String, with these octets in it."""
    field = string(text)
    return {
        "Topic Name": frame(0x30, field, b"\0"),
        "Client Identifier": connect(0x02, field),
        "User Name": connect(0x82, string("c"), field),
        "Will Topic": connect(0x06, string("c"), b"\0", field, string("p")),
        "Authentication Method": connect(properties=section(b"\x15" + field)),
        "Topic Filter of SUBSCRIBE": frame(0x82, ID, b"\0", field, b"\0"),
        "Topic Filter of UNSUBSCRIBE": frame(0xA2, ID, b"\0", field),
        "Response Topic": frame(0x30, string("t"), section(b"\x08" + field)),
        "Content Type": frame(0x30, string("t"), section(b"\x03" + field)),
        "Reason String": frame(0x40, ID, b"\0", section(b"\x1f" + field)),
        "name of a User Property": frame(0x30, string("t"), section(b"\x26" + field + string("v"))),
        "value of a User Property": frame(0x30, string("t"), section(b"\x26" + string("n") + field)),
    }


# ---- 1.5: data representation ----


@mqtt5("MQTT-1.5.4-1", "MQTT5-U-1.5.4-1", "MQTT-1.5.7-1", "MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12")
@mqtt5("MQTT-3.3.2-1", "MQTT-3.3.2-13", "MQTT-3.3.2-19", "MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-3.1.4-1")
@pytest.mark.parametrize("place", string_places(b""))
@pytest.mark.parametrize("text", NOT_UTF_8, ids=bytes.hex)
def test_strings_are_utf_8(text: bytes, place: str) -> None:
    refused(string_places(text)[place], MALFORMED)


@mqtt5("MQTT-1.5.4-1")
@pytest.mark.parametrize("text", ["\ud800", "a\udfff"], ids=ascii)
def test_no_surrogate_is_sent(text: str) -> None:
    for packet in (Publish(text), Connect(text), Unsubscribe(1, (text,))):
        with pytest.raises(ValueError):
            encode(packet, V5)


@mqtt5("MQTT-1.5.4-2", "MQTT-4.7.3-2", "MQTT5-U-1.5.4-1", "MQTT-1.5.7-1")
@pytest.mark.parametrize("place", string_places(b""))
@pytest.mark.parametrize("text", [b"\0", b"a\0", b"\0a"], ids=bytes.hex)
def test_no_string_has_u_0000(text: bytes, place: str) -> None:
    refused(string_places(text)[place], MALFORMED)


@mqtt5("MQTT-1.5.4-3")
def test_the_byte_order_mark_is_a_character() -> None:
    for octets, text in ((b"\xef\xbb\xbfa", "\ufeffa"), (b"a\xef\xbb\xbf", "a\ufeff"), (b"\xef\xbb\xbf", "\ufeff")):
        assert taken(frame(0x30, string(octets), b"\0")) == Publish(text)
        assert encode(Publish(text), V5) == frame(0x30, string(octets), b"\0")


@mqtt5("MQTT-1.5.5-1")
@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"\xc0\x80\0", id="Remaining Length of two octets"),
        pytest.param(b"\xc0\x80\x80\0", id="Remaining Length of three octets"),
        pytest.param(b"\xc0\x80\x80\x80\0", id="Remaining Length of four octets"),
        pytest.param(b"\xc0\x80\x80\x80\x80\0", id="Remaining Length of five octets"),
        pytest.param(frame(0x30, string("t"), b"\x80\0"), id="Property Length"),
        pytest.param(frame(0x82, ID, section(b"\x0b\x81\0"), string("t"), b"\0"), id="Subscription Identifier"),
        pytest.param(frame(0x30, string("t"), section(b"\x81\0\1")), id="property identifier"),
    ],
)
def test_variable_byte_integers_are_as_short_as_can_be(octets: bytes) -> None:
    refused(octets, MALFORMED)


@mqtt5("MQTT-1.5.5-1")
@pytest.mark.parametrize(("size", "length"), [(123, "7f"), (124, "8001"), (16_379, "ff7f"), (16_380, "808001")])
def test_lengths_are_sent_as_short_as_can_be(size: int, length: str) -> None:
    octets = encode(Publish("t", bytes(size)), V5)
    assert octets[: 1 + len(length) // 2] == b"\x30" + bytes.fromhex(length)


# ---- 2.1: fixed header ----

GOOD = {
    "CONNECT": (connect(), "server"),
    "CONNACK": (frame(0x20, b"\0\0\0"), "client"),
    "PUBACK": (frame(0x40, ID), "server"),
    "PUBREC": (frame(0x50, ID), "server"),
    "PUBREL": (frame(0x62, ID), "server"),
    "PUBCOMP": (frame(0x70, ID), "server"),
    "SUBSCRIBE": (frame(0x82, ID, b"\0", string("t"), b"\0"), "server"),
    "SUBACK": (frame(0x90, ID, b"\0\0"), "client"),
    "UNSUBSCRIBE": (frame(0xA2, ID, b"\0", string("t")), "server"),
    "UNSUBACK": (frame(0xB0, ID, b"\0\0"), "client"),
    "PINGREQ": (frame(0xC0), "server"),
    "PINGRESP": (frame(0xD0), "client"),
    "DISCONNECT": (frame(0xE0), "server"),
    "AUTH": (frame(0xF0, b"\x18", section(METHOD)), "server"),
}


@mqtt5("MQTT-2.1.3-1", "MQTT5-U-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1")
@mqtt5("MQTT-3.15.1-1", "MQTT-3.1.4-1")
@pytest.mark.parametrize("kind", GOOD)
def test_reserved_flags(kind: str) -> None:
    octets, receiver = GOOD[kind]
    packet = taken(octets, 5, receiver)  # type: ignore[arg-type]
    assert encode(packet, V5)[0] == octets[0]
    for flags in range(16):
        if flags != octets[0] & 0x0F:
            refused(bytes([octets[0] & 0xF0 | flags]) + octets[1:], MALFORMED, 5, receiver)  # type: ignore[arg-type]


@mqtt5("MQTT-2.1.3-1")
def test_the_reserved_packet_type() -> None:
    for flags in range(16):
        refused(bytes([flags, 0]), MALFORMED)


# ---- 2.2: packet identifier and properties ----


@mqtt5("MQTT-2.2.1-2")
def test_qos_0_has_no_packet_identifier() -> None:
    assert encode(Publish("t", b"p"), V5) == frame(0x30, string("t"), b"\0", b"p")
    # what follows the Topic Name is the Property Length, whatever it looks like
    assert taken(frame(0x30, string("t"), b"\0\1\2")) == Publish("t", b"\1\2")
    with pytest.raises(ValueError):
        encode(Publish("t", packet_identifier=1), V5)


def test_a_packet_identifier_is_not_0() -> None:
    for first_octet, rest in (
        (0x40, b""),
        (0x50, b""),
        (0x62, b""),
        (0x70, b""),
        (0x82, b"\0" + string("t") + b"\0"),
        (0xA2, b"\0" + string("t")),
    ):
        refused(frame(first_octet, b"\0\0", rest), PROTOCOL_ERROR)
    for first_octet in (0x32, 0x34):
        refused(frame(first_octet, string("t"), b"\0\0\0"), PROTOCOL_ERROR)
    for first_octet in (0x90, 0xB0):
        refused(frame(first_octet, b"\0\0\0\0"), PROTOCOL_ERROR, 5, "client")


@mqtt5("MQTT-2.2.2-1")
@pytest.mark.parametrize(
    ("packet", "octets"),
    [
        (Connect("c"), connect()),
        (Connect("c", will=Will("w", b"p")), connect(0x06, *WILL)),
        (Connack(), frame(0x20, b"\0\0\0")),
        (Publish("t"), frame(0x30, string("t"), b"\0")),
        (Subscribe(1, (SubscriptionRequest("t"),)), frame(0x82, ID, b"\0", string("t"), b"\0")),
        (Suback(1, (0,)), frame(0x90, ID, b"\0\0")),
        (Unsubscribe(1, ("t",)), frame(0xA2, ID, b"\0", string("t"))),
        (Unsuback(1, (0,)), frame(0xB0, ID, b"\0\0")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Packet) else "",
)
def test_no_properties_are_a_length_of_0(packet: Packet, octets: bytes) -> None:
    assert encode(packet, V5) == octets
    receiver: Any = "client" if octets[0] in (0x20, 0x90, 0xB0) else "server"
    assert taken(octets, 5, receiver) == packet


@mqtt5("MQTT-2.2.2-1")
def test_a_property_length_left_out() -> None:
    refused(frame(0x20, b"\0\0"), MALFORMED, 5, "client")
    refused(frame(0x30, string("t")), MALFORMED)
    refused(frame(0x82, ID), MALFORMED)
    refused(frame(0xA2, ID), MALFORMED)
    refused(frame(0xF0, b"\x18"), MALFORMED)


@mqtt5("MQTT5-U-2.2.2-1")
@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(b"\x04\0", id="unknown"),
        pytest.param(b"\x7f\0", id="unknown too"),
        pytest.param(b"\x21\0\1", id="of CONNECT"),
        pytest.param(b"\x1f\0\1r", id="of acknowledgements"),
        pytest.param(b"\x02\0\0\1", id="an integer too short"),
        pytest.param(b"\x03\0\5abc", id="a string too short"),
        pytest.param(b"\x26\0\1n", id="half a pair"),
        pytest.param(b"\x01", id="no value"),
    ],
)
def test_a_property_that_does_not_belong(entry: bytes) -> None:
    refused(frame(0x30, string("t"), section(entry), b"12345"), MALFORMED)


# ---- 3.1: CONNECT ----


@mqtt5("MQTT-3.1.2-1", "MQTT-3.1.2-2")
@pytest.mark.parametrize(
    ("name", "level"),
    [
        *((name, 5) for name in (b"MQT", b"mqtt", b"MQTTT", b"", b"MQIsdp")),
        *((b"MQTT", level) for level in (0, 3, 6, 0x85, 255)),
        (b"MQIsdp", 4),
    ],
)
def test_another_protocol(name: bytes, level: int) -> None:
    (error,) = Decoder().feed(connect(name=name, level=level, properties=b"\0"))
    assert isinstance(error, UnsupportedProtocolVersion)
    assert error.reason_code == UNSUPPORTED


@mqtt5("MQTT-3.1.2-3", "MQTT5-U-3.1.2.3-1", "MQTT-3.1.4-1")
def test_the_reserved_connect_flag() -> None:
    refused(connect(0x03), MALFORMED)
    refused(connect(0x01), MALFORMED)
    for packet in (Connect("c", clean_start=False), Connect("c", username="u", password=b"p", will=Will("w", b"p"))):
        assert not encode(packet, V5)[9] & 0x01


@mqtt5("MQTT-3.1.2-9", "MQTT-3.1.3-1", "MQTT-3.1.3-3")
def test_the_payload_of_connect_in_its_order() -> None:
    octets = connect(0xC6, *WILL, string("u"), string("pw"))
    packet = Connect("c", username="u", password=b"pw", will=Will("w", b"p"))
    assert taken(octets) == packet
    assert encode(packet, V5) == octets


@mqtt5("MQTT-3.1.2-9", "MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.1.2-18", "MQTT-3.1.2-19", "MQTT-3.1.3-3")
@mqtt5("MQTT-3.1.4-1", "MQTT-3.1.3-12")
@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        pytest.param(0x02, (), id="Client Identifier"),
        pytest.param(0x06, WILL, id="Will"),
        pytest.param(0x82, (string("c"), string("u")), id="User Name"),
        pytest.param(0x42, (string("c"), string("p")), id="Password"),
        pytest.param(0xC2, (string("c"), string("u"), string("p")), id="User Name and Password"),
        pytest.param(0xC6, (*WILL, string("u"), string("p")), id="all"),
    ],
)
def test_flags_and_fields_of_connect_agree(flags: int, fields: tuple[bytes, ...]) -> None:
    fields = fields or (string("c"),)
    taken(connect(flags, *fields))
    for missing in range(len(fields)):  # a field that a flag promises is not there
        refused(connect(flags, b"".join(fields[:missing])), MALFORMED)
    refused(connect(flags, *fields, string("more")), MALFORMED)  # a field that no flag promises is there


@mqtt5("MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.4-1")
@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22, 0x2A, 0x32, 0x1A])
def test_will_qos_and_retain_without_a_will(flags: int) -> None:
    refused(connect(flags), MALFORMED)


@mqtt5("MQTT-3.1.2-12", "MQTT5-U-3.1.2.6-1")
def test_will_qos() -> None:
    for qos in range(3):
        assert taken(connect(0x06 | qos << 3, *WILL)).will == Will("w", b"p", qos)
    refused(connect(0x1E, *WILL), MALFORMED)
    refused(connect(0x3E, *WILL), MALFORMED)
    with pytest.raises(ValueError):
        encode(Connect("c", will=Will("w", b"p", 3)), V5)


@mqtt5("MQTT-3.1.3-5")
def test_client_identifiers_that_have_to_be_taken() -> None:
    characters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for size in range(1, 24):
        name = (characters * 2)[size : size * 2]
        assert taken(connect(0x02, string(name))).client_identifier == name


TWICE_IN_CONNECT = {
    "MQTT5-U-3.1.2.11.2-1": b"\x11\0\0\0\1",
    "MQTT5-U-3.1.2.11.3-1": b"\x21\0\1",
    "MQTT5-U-3.1.2.11.4-1": b"\x27\0\0\0\1",
    "MQTT5-U-3.1.2.11.5-1": b"\x22\0\1",
    "MQTT5-U-3.1.2.11.6-1": b"\x19\1",
    "MQTT5-U-3.1.2.11.7-1": b"\x17\1",
    "MQTT5-U-3.1.2.11.9-1": METHOD,
}


@pytest.mark.parametrize("entry", [pytest.param(v, marks=mqtt5(k), id=k) for k, v in TWICE_IN_CONNECT.items()])
def test_a_property_of_connect_twice(entry: bytes) -> None:
    taken(connect(properties=section(entry)))
    refused(connect(properties=section(entry, entry)), PROTOCOL_ERROR)


@mqtt5("MQTT5-U-3.1.2.11.10-1")
def test_authentication_data_of_connect() -> None:
    data = b"\x16\0\1d"
    assert taken(connect(properties=section(data, METHOD))).properties == ConnectProperties(
        authentication_method="m", authentication_data=b"d"
    )
    refused(connect(properties=section(data)), PROTOCOL_ERROR)
    refused(connect(properties=section(METHOD, data, data)), PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(b"\x21\0\0", marks=mqtt5("MQTT5-U-3.1.2.11.3-1"), id="Receive Maximum"),
        pytest.param(b"\x27\0\0\0\0", marks=mqtt5("MQTT5-U-3.1.2.11.4-1"), id="Maximum Packet Size"),
        pytest.param(b"\x19\2", marks=mqtt5("MQTT5-U-3.1.2.11.6-1"), id="Request Response Information"),
        pytest.param(b"\x17\2", marks=mqtt5("MQTT5-U-3.1.2.11.7-1"), id="Request Problem Information"),
    ],
)
def test_a_property_of_connect_that_is_out_of_range(entry: bytes) -> None:
    refused(connect(properties=section(entry)), PROTOCOL_ERROR)


TWICE_IN_WILL = {
    "MQTT5-U-3.1.3.2.2-1": b"\x18\0\0\0\1",
    "MQTT5-U-3.1.3.2.3-1": b"\x01\1",
    "MQTT5-U-3.1.3.2.4-1": b"\x02\0\0\0\1",
    "MQTT5-U-3.1.3.2.5-1": b"\x03\0\1c",
    "MQTT5-U-3.1.3.2.6-1": b"\x08\0\1r",
    "MQTT5-U-3.1.3.2.7-1": b"\x09\0\1c",
}


@pytest.mark.parametrize("entry", [pytest.param(v, marks=mqtt5(k), id=k) for k, v in TWICE_IN_WILL.items()])
def test_a_property_of_the_will_twice(entry: bytes) -> None:
    taken(connect(0x06, string("c"), section(entry), *WILL[2:]))
    refused(connect(0x06, string("c"), section(entry, entry), *WILL[2:]), PROTOCOL_ERROR)


# ---- 3.2: CONNACK, read by a client ----


@mqtt5("MQTT-3.2.2-1")
def test_connect_acknowledge_flags() -> None:
    for flags in range(2, 256):
        refused(frame(0x20, bytes([flags]), b"\0\0"), MALFORMED, 5, "client")
    assert encode(Connack(True), V5) == frame(0x20, b"\1\0\0")
    assert encode(Connack(False), V5) == frame(0x20, b"\0\0\0")


@mqtt5("MQTT-3.2.2-6")
def test_no_session_is_present_with_a_refusal() -> None:
    refused(frame(0x20, b"\1\x87\0"), PROTOCOL_ERROR, 5, "client")
    with pytest.raises(ValueError):
        encode(Connack(True, 0x87), V5)


#: the codes that the tables of the standard print, in the order of the tables
CODES = {
    "CONNACK": "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f",
    "PUBACK": "00 10 80 83 87 90 91 97 99",
    "PUBREL": "00 92",
    "SUBACK": "00 01 02 80 83 87 8f 91 97 9e a1 a2",
    "UNSUBACK": "00 11 80 83 87 8f 91",
    # 3.14.2.1, with 8c, which table 2-6 gives to DISCONNECT as well
    "DISCONNECT of a client": "00 04 80 81 82 83 90 93 94 95 96 97 98 99",
    "DISCONNECT of a server": "00 80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2",
}


def check_codes(codes: str, before: bytes, after: bytes, packet: Any, receiver: Any, version: int = 5) -> None:
    """Every code as a one-octet field: taken and sent if in the table, otherwise neither."""
    allowed = bytes.fromhex(codes)
    for code in range(256):
        octets = frame(before[0], before[1:], bytes([code]), after)
        if code in allowed:
            assert taken(octets, version, receiver) == packet(code)
            assert answer(encode(packet(code), ProtocolVersion(version)), version, receiver) == packet(code)
        else:
            error = answer(octets, version, receiver)
            assert error.reason_code in (MALFORMED, PROTOCOL_ERROR)


@mqtt5("MQTT-3.2.2-8")
def test_codes_of_connack() -> None:
    check_codes(CODES["CONNACK"], b"\x20\0", b"\0", lambda code: Connack(False, code), "client")


TWICE_IN_CONNACK = {
    "MQTT5-U-3.2.2.3.2-1": b"\x11\0\0\0\1",
    "MQTT5-U-3.2.2.3.3-1": b"\x21\0\1",
    "MQTT5-U-3.2.2.3.4-1": b"\x24\1",
    "MQTT5-U-3.2.2.3.5-1": b"\x25\1",
    "MQTT5-U-3.2.2.3.6-1": b"\x27\0\0\0\1",
    "MQTT5-U-3.2.2.3.7-1": b"\x12\0\1a",
    "MQTT5-U-3.2.2.3.8-1": b"\x22\0\1",
    "MQTT5-U-3.2.2.3.9-1": b"\x1f\0\1r",
    "MQTT5-U-3.2.2.3.11-1": b"\x28\1",
    "MQTT5-U-3.2.2.3.12-1": b"\x29\1",
    "MQTT5-U-3.2.2.3.13-1": b"\x2a\1",
    "MQTT5-U-3.2.2.3.14-1": b"\x13\0\1",
    "MQTT5-U-3.2.2.3.15-1": b"\x1a\0\1i",
    "MQTT5-U-3.2.2.3.16-1": b"\x1c\0\1s",
    "MQTT5-U-3.2.2.3.17-1": METHOD,
    "MQTT5-U-3.2.2.3.18-1": b"\x16\0\1d",
}


@pytest.mark.parametrize("entry", [pytest.param(v, marks=mqtt5(k), id=k) for k, v in TWICE_IN_CONNACK.items()])
def test_a_property_of_connack_twice(entry: bytes) -> None:
    taken(frame(0x20, b"\0\0", section(entry)), 5, "client")
    refused(frame(0x20, b"\0\0", section(entry, entry)), PROTOCOL_ERROR, 5, "client")


@mqtt5("MQTT5-U-3.2.2.3.3-1", "MQTT5-U-3.2.2.3.4-1", "MQTT5-U-3.2.2.3.5-1", "MQTT5-U-3.2.2.3.6-1")
@mqtt5("MQTT5-U-3.2.2.3.11-1", "MQTT5-U-3.2.2.3.12-1", "MQTT5-U-3.2.2.3.13-1")
@pytest.mark.parametrize("entry", ["210000", "2402", "2502", "2700000000", "2802", "2902", "2a02", "24ff"])
def test_a_property_of_connack_that_is_out_of_range(entry: str) -> None:
    refused(frame(0x20, b"\0\0", section(bytes.fromhex(entry))), PROTOCOL_ERROR, 5, "client")


# ---- 3.3: PUBLISH ----


@mqtt5("MQTT-3.3.1-2", "MQTT-4.3.1-1")
def test_qos_0_has_no_dup() -> None:
    for retain in (0, 1):
        refused(frame(0x38 | retain, string("t"), b"\0"), MALFORMED)
    with pytest.raises(ValueError):
        encode(Publish("t", dup=True), V5)
    assert encode(Publish("t"), V5)[0] == 0x30


@mqtt5("MQTT-3.3.1-4", "MQTT5-U-3.3.1.2-1")
def test_qos_3() -> None:
    for flags in (0x06, 0x07, 0x0E, 0x0F):
        refused(frame(0x30 | flags, string("t"), ID, b"\0"), MALFORMED)
    with pytest.raises(ValueError):
        encode(Publish("t", b"", 3, packet_identifier=1), V5)


@mqtt5("MQTT-3.3.2-1")
def test_the_topic_name_leads() -> None:
    assert taken(frame(0x32, string("a/b"), ID, b"\0", b"payload")) == Publish("a/b", b"payload", 1, False, False, 1)
    assert encode(Publish("a/b", b"p", 1, packet_identifier=1), V5)[2:7] == string("a/b")
    for body in (b"", b"\0", b"\0\5a", b"\xff\xff"):
        refused(frame(0x30, body), MALFORMED)


@mqtt5("MQTT-3.3.2-2", "MQTT-4.7.0-1")
@pytest.mark.parametrize("topic", ["#", "+", "a/#", "a/+/b", "a#", "+a"])
def test_wildcards_in_a_topic_name(topic: str) -> None:
    refused(frame(0x30, string(topic), b"\0"), TOPIC_NAME_INVALID)
    refused(connect(0x06, string("c"), b"\0", string(topic), string("p")), TOPIC_NAME_INVALID)
    with pytest.raises(ValueError):
        encode(Publish(topic), V5)


@mqtt5("MQTT-3.3.2-14")
@pytest.mark.parametrize("topic", ["#", "+", "a/#", "a/+/b"])
def test_wildcards_in_a_response_topic(topic: str) -> None:
    refused(frame(0x30, string("t"), section(b"\x08" + string(topic))), TOPIC_NAME_INVALID)
    with pytest.raises(ValueError):
        encode(Publish("t", properties=PublishProperties(response_topic=topic)), V5)


@mqtt5("MQTT-3.3.2-8", "MQTT5-U-3.3.2.3.4-1")
def test_topic_alias_0() -> None:
    refused(frame(0x30, string("t"), section(b"\x23\0\0")), TOPIC_ALIAS_INVALID)
    refused(frame(0x30, string("t"), section(b"\x23\0\0")), TOPIC_ALIAS_INVALID, 5, "client")
    for alias in (1, 0xFFFF):
        packet = taken(frame(0x30, string(""), section(b"\x23" + alias.to_bytes(2, "big"))))
        assert packet == Publish("", properties=PublishProperties(topic_alias=alias))
    with pytest.raises(ValueError):
        encode(Publish("t", properties=PublishProperties(topic_alias=0)), V5)


@mqtt5("MQTT5-U-3.3.2.1-1", "MQTT-4.7.3-1")
def test_an_empty_topic_name_without_an_alias() -> None:
    refused(frame(0x30, string(""), b"\0"), PROTOCOL_ERROR)
    refused(frame(0x30, string(""), section(b"\x01\0")), PROTOCOL_ERROR)


TWICE_IN_PUBLISH = {
    "MQTT5-U-3.3.2.3.4-1": b"\x23\0\1",
    "MQTT5-U-3.3.2.3.5-1": b"\x08\0\1r",
    "MQTT5-U-3.3.2.3.6-1": b"\x09\0\1c",
    "MQTT5-U-3.3.2.3.9-1": b"\x03\0\1c",
}


@pytest.mark.parametrize("entry", [pytest.param(v, marks=mqtt5(k), id=k) for k, v in TWICE_IN_PUBLISH.items()])
def test_a_property_of_publish_twice(entry: bytes) -> None:
    taken(frame(0x30, string("t"), section(entry)))
    refused(frame(0x30, string("t"), section(entry, entry)), PROTOCOL_ERROR)


@mqtt5("MQTT-3.3.4-6")
def test_no_subscription_identifier_from_a_client() -> None:
    octets = frame(0x30, string("t"), section(b"\x0b\1"))
    refused(octets, PROTOCOL_ERROR)
    expected = Publish("t", properties=PublishProperties(subscription_identifiers=(1,)))
    assert taken(octets, 5, "client") == expected


@mqtt5("MQTT5-U-3.3.2.3.8-1")
def test_subscription_identifiers_of_publish() -> None:
    refused(frame(0x30, string("t"), section(b"\x0b\0")), PROTOCOL_ERROR, 5, "client")
    octets = frame(0x30, string("t"), section(b"\x0b\2", b"\x0b\1", b"\x0b\2"))
    packet = taken(octets, 5, "client")
    assert packet.properties.subscription_identifiers == (2, 1, 2)
    assert encode(packet, V5) == octets


@mqtt5("MQTT-3.3.2-18", "MQTT-3.1.3-10")
def test_user_properties_keep_their_order() -> None:
    pairs = (("b", "1"), ("a", "2"), ("b", "1"), ("a", "0"))
    entries = section(*(b"\x26" + string(name) + string(value) for name, value in pairs))
    publish = taken(frame(0x30, string("t"), entries))
    assert publish.properties.user_properties == pairs
    assert encode(publish, V5) == frame(0x30, string("t"), entries)
    will = taken(connect(0x06, string("c"), entries, *WILL[2:])).will
    assert will.properties.user_properties == pairs


# ---- 3.4 to 3.7: acknowledgements ----

ACKS: dict[str, tuple[int, type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp], str]] = {
    "MQTT-3.4.2-1": (0x40, Puback, "PUBACK"),
    "MQTT-3.5.2-1": (0x50, Pubrec, "PUBACK"),
    "MQTT-3.6.2-1": (0x62, Pubrel, "PUBREL"),
    "MQTT-3.7.2-1": (0x70, Pubcomp, "PUBREL"),
}


@pytest.mark.parametrize("row", [pytest.param(v, marks=mqtt5(k), id=v[1].__name__) for k, v in ACKS.items()])
@pytest.mark.parametrize("receiver", ["server", "client"])
def test_codes_of_acknowledgements(row: Any, receiver: str) -> None:
    first_octet, packet_class, codes = row
    head = bytes([first_octet]) + ID
    check_codes(CODES[codes], head, b"", lambda code: packet_class(1, code), receiver)
    check_codes(CODES[codes], head, b"\0", lambda code: packet_class(1, code), receiver)
    assert taken(frame(first_octet, ID), 5, receiver) == packet_class(1)  # type: ignore[arg-type]
    for code in range(256):
        if code not in bytes.fromhex(CODES[codes]):
            with pytest.raises(ValueError):
                encode(packet_class(1, code), V5)


@mqtt5("MQTT5-U-3.4.2.2-1")
@pytest.mark.parametrize("first_octet", [0x40, 0x50, 0x62, 0x70])
def test_a_reason_string_of_an_acknowledgement_twice(first_octet: int) -> None:
    reason = b"\x1f\0\1r"
    assert taken(frame(first_octet, ID, b"\0", section(reason))).properties.reason_string == "r"
    refused(frame(first_octet, ID, b"\0", section(reason, reason)), PROTOCOL_ERROR)


# ---- 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK ----

BAD_FILTERS = ["a/#/b", "#/", "##", "a#", "a/b#", "+a", "a+", "a/b+/c", "++", "+#", ""]


@mqtt5("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1")
@pytest.mark.parametrize("topic_filter", BAD_FILTERS)
def test_filters_that_are_none(topic_filter: str) -> None:
    refused(frame(0x82, ID, b"\0", string(topic_filter), b"\0"), TOPIC_FILTER_INVALID)
    refused(frame(0xA2, ID, b"\0", string(topic_filter)), TOPIC_FILTER_INVALID)
    with pytest.raises(ValueError):
        encode(Unsubscribe(1, (topic_filter,)), V5)


@mqtt5("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+",
        "/",
        "//",
        "a/#",
        "/#",
        "+/#",
        "+/+",
        "/+/",
        "a/+/b",
        "$SYS/#",
        " ",
        "$share/g/a",
        "$share/g//",
        "$share/g/#",
        "$shared/+",
        "$share",
    ],
)
def test_filters_that_are_some(topic_filter: str) -> None:
    packet = taken(frame(0x82, ID, b"\0", string(topic_filter), b"\0"))
    assert packet == Subscribe(1, (SubscriptionRequest(topic_filter),))
    assert taken(frame(0xA2, ID, b"\0", string(topic_filter))) == Unsubscribe(1, (topic_filter,))


@mqtt5("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    "topic_filter", ["$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/g#/a", "$share/g/a#"]
)
def test_shared_subscriptions_that_are_none(topic_filter: str) -> None:
    refused(frame(0x82, ID, b"\0", string(topic_filter), b"\0"), TOPIC_FILTER_INVALID)


@mqtt5("MQTT-4.7.3-3")
def test_the_longest_topics() -> None:
    topic = "\u20ac" * 21_845
    assert len(topic.encode()) == 65_535
    octets = encode(Publish(topic), V5)
    assert taken(octets) == Publish(topic)
    for longer in (topic + "a", "a" * 65_536):
        for packet in (Publish(longer), Unsubscribe(1, (longer,)), Subscribe(1, (SubscriptionRequest(longer),))):
            with pytest.raises(ValueError):
                encode(packet, V5)


@mqtt5("MQTT-3.8.3-2", "MQTT5-U-3.8.3-1")
def test_subscribe_without_a_filter() -> None:
    refused(frame(0x82, ID, b"\0"), PROTOCOL_ERROR)
    with pytest.raises(ValueError):
        encode(Subscribe(1, ()), V5)


@mqtt5("MQTT-3.10.3-2", "MQTT5-U-3.10.3-1")
def test_unsubscribe_without_a_filter() -> None:
    refused(frame(0xA2, ID, b"\0"), PROTOCOL_ERROR)
    with pytest.raises(ValueError):
        encode(Unsubscribe(1, ()), V5)


@mqtt5("MQTT-3.8.3-5")
def test_reserved_bits_of_the_subscription_options() -> None:
    for options in range(256):
        octets = frame(0x82, ID, b"\0", string("t"), bytes([options]))
        if options & 0xC0:
            refused(octets, MALFORMED)
        elif options & 0x03 < 3 and options >> 4 < 3:
            request = SubscriptionRequest("t", options & 3, bool(options & 4), bool(options & 8), options >> 4)
            assert taken(octets) == Subscribe(1, (request,))
            assert encode(Subscribe(1, (request,)), V5) == octets


@mqtt5("MQTT5-U-3.8.3.1-1", "MQTT-3.8.3-4")
def test_subscription_options_that_are_protocol_errors() -> None:
    for options in (0x03, 0x07, 0x0B, 0x30, 0x31, 0x34):
        refused(frame(0x82, ID, b"\0", string("t"), bytes([options])), PROTOCOL_ERROR)
    refused(frame(0x82, ID, b"\0", string("$share/g/t"), b"\x04"), PROTOCOL_ERROR)
    taken(frame(0x82, ID, b"\0", string("$share/g/t"), b"\x08"))
    with pytest.raises(ValueError):
        encode(Subscribe(1, (SubscriptionRequest("$share/g/t", no_local=True),)), V5)


@mqtt5("MQTT5-U-3.8.2.1.2-1")
def test_the_subscription_identifier_of_subscribe() -> None:
    rest = string("t") + b"\0"
    refused(frame(0x82, ID, section(b"\x0b\0"), rest), PROTOCOL_ERROR)
    refused(frame(0x82, ID, section(b"\x0b\1", b"\x0b\2"), rest), PROTOCOL_ERROR)
    refused(frame(0x82, ID, section(b"\x0b\xff\xff\xff\xff\1"), rest), MALFORMED)
    for value, octets in ((1, b"\1"), (268_435_455, b"\xff\xff\xff\x7f")):
        packet = taken(frame(0x82, ID, section(b"\x0b" + octets), rest))
        assert packet.properties.subscription_identifier == value


@mqtt5("MQTT-3.9.3-2")
def test_codes_of_suback() -> None:
    check_codes(CODES["SUBACK"], b"\x90" + ID + b"\0", b"", lambda code: Suback(1, (code,)), "client")
    check_codes(CODES["SUBACK"], b"\x90" + ID + b"\0\0", b"\1", lambda code: Suback(1, (0, code, 1)), "client")


@mqtt5("MQTT-3.11.3-2")
def test_codes_of_unsuback() -> None:
    check_codes(CODES["UNSUBACK"], b"\xb0" + ID + b"\0", b"", lambda code: Unsuback(1, (code,)), "client")


@mqtt5("MQTT5-U-3.9.2.1.2-1", "MQTT5-U-3.11.2.1.2-1")
@pytest.mark.parametrize("first_octet", [0x90, 0xB0])
def test_a_reason_string_of_suback_twice(first_octet: int) -> None:
    reason = b"\x1f\0\1r"
    assert taken(frame(first_octet, ID, section(reason), b"\0"), 5, "client").properties.reason_string == "r"
    refused(frame(first_octet, ID, section(reason, reason), b"\0"), PROTOCOL_ERROR, 5, "client")


# ---- 3.14: DISCONNECT ----


@mqtt5("MQTT-3.14.2-1")
def test_codes_of_disconnect() -> None:
    for receiver, codes in (("server", "DISCONNECT of a client"), ("client", "DISCONNECT of a server")):
        check_codes(CODES[codes], b"\xe0", b"", Disconnect, receiver)
        check_codes(CODES[codes], b"\xe0", b"\0", Disconnect, receiver)
    assert taken(frame(0xE0)) == Disconnect()


@mqtt5("MQTT-3.14.2-2")
def test_no_session_expiry_interval_from_the_server() -> None:
    octets = frame(0xE0, b"\0", section(b"\x11\0\0\0\1"))
    assert taken(octets) == Disconnect(0, DisconnectProperties(session_expiry_interval=1))
    refused(octets, PROTOCOL_ERROR, 5, "client")


TWICE_IN_DISCONNECT = {
    "MQTT5-U-3.14.2.2.2-1": (b"\x11\0\0\0\1", "server"),
    "MQTT5-U-3.14.2.2.3-1": (b"\x1f\0\1r", "server"),
    "MQTT5-U-3.14.2.2.5-1": (b"\x1c\0\1s", "client"),
}


@pytest.mark.parametrize("row", [pytest.param(v, marks=mqtt5(k), id=k) for k, v in TWICE_IN_DISCONNECT.items()])
def test_a_property_of_disconnect_twice(row: Any) -> None:
    entry, receiver = row
    taken(frame(0xE0, b"\0", section(entry)), 5, receiver)
    refused(frame(0xE0, b"\0", section(entry, entry)), PROTOCOL_ERROR, 5, receiver)


@mqtt5("MQTT5-U-3.14.2.2.2-1")
def test_a_session_that_would_not_be_kept_cannot_be_at_disconnect() -> None:
    server = connected(Connect("c"))
    later = taken(frame(0xE0, b"\0", section(b"\x11\0\0\0\1")))
    violates(server.received, later)
    assert server.state is State.CONNECTED


# ---- 3.15: AUTH ----


@mqtt5("MQTT-3.15.2-1")
def test_codes_of_auth() -> None:
    properties = AuthProperties(authentication_method="m")
    for receiver in ("server", "client"):
        check_codes("00 18 19", b"\xf0", section(METHOD), lambda code: Auth(code, properties), receiver)
    # and by who sends them
    for sender, wrong in (("client", 0x00), ("server", 0x19)):
        protocol = connected(Connect("c", properties=ConnectProperties(authentication_method="m")))
        protocol.received(Auth(0x19, properties))
        violates(protocol.received if sender == "client" else protocol.sent, Auth(wrong, properties))


@mqtt5("MQTT5-U-3.15.2.1-1")
def test_auth_without_anything() -> None:
    assert taken(frame(0xF0), 5, "client") == Auth()
    assert encode(Auth(), V5) == frame(0xF0)
    # well-formed, but the method is missing, so that it fits no exchange
    protocol = connected(Connect("c", properties=ConnectProperties(authentication_method="m")))
    protocol.received(Auth(0x19, AuthProperties(authentication_method="m")))
    violates(protocol.sent, Auth())


@mqtt5("MQTT5-U-3.15.2.2.2-1", "MQTT5-U-3.15.2.2.3-1", "MQTT5-U-3.15.2.2.4-1")
def test_properties_of_auth() -> None:
    refused(frame(0xF0, b"\x18\0"), PROTOCOL_ERROR)
    refused(frame(0xF0, b"\x18", section(b"\x16\0\1d")), PROTOCOL_ERROR)
    refused(frame(0xF0, b"\x18", section(METHOD, METHOD)), PROTOCOL_ERROR)
    for entry in (b"\x16\0\1d", b"\x1f\0\1r"):
        taken(frame(0xF0, b"\x18", section(METHOD, entry)))
        refused(frame(0xF0, b"\x18", section(METHOD, entry, entry)), PROTOCOL_ERROR)
    with pytest.raises(ValueError):
        encode(Auth(0x18), V5)


# ---- the order of packets ----


def connected(packet: Connect) -> Protocol:
    """A server that has accepted this CONNECT."""
    server = Protocol("server")
    server.received(packet)
    method = packet.properties.authentication_method
    server.sent(Connack(properties=ConnackProperties(authentication_method=method)))
    assert server.state is State.CONNECTED
    return server


def violates(step: Any, packet: Packet) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        step(packet)
    assert caught.value.reason_code == PROTOCOL_ERROR


WITH_METHOD = Connect("c", properties=ConnectProperties(authentication_method="m"))


def auth(reason_code: int, method: str | None = "m") -> Auth:
    return Auth(reason_code, AuthProperties(authentication_method=method))


@mqtt5("MQTT-3.1.0-1")
@pytest.mark.parametrize("kind", [kind for kind, (_octets, receiver) in GOOD.items() if receiver == "server"])
def test_connect_comes_first(kind: str) -> None:
    octets, _receiver = GOOD[kind]
    (found,) = Decoder().feed(octets)
    if kind == "CONNECT":
        assert found == Connect("c")
        Protocol("server").received(found)
        return
    assert isinstance(found, ProtocolViolation)
    violates(Protocol("server").received, taken(octets))
    violates(Protocol("client").sent, taken(octets))


@mqtt5("MQTT-3.1.0-2")
def test_a_second_connect() -> None:
    for server in (connected(Connect("c")), connected(WITH_METHOD)):
        violates(server.received, Connect("c"))
    server = Protocol("server")
    server.received(Connect("c"))
    violates(server.received, Connect("c"))


@mqtt5("MQTT-3.1.2-30")
def test_only_auth_and_disconnect_while_authenticating() -> None:
    for packet in (
        Publish("t"),
        Subscribe(1, (SubscriptionRequest("t"),)),
        Pingreq(),
        Puback(1),
        Unsubscribe(1, ("t",)),
    ):
        server, client = Protocol("server"), Protocol("client")
        server.received(WITH_METHOD)
        client.sent(WITH_METHOD)
        violates(server.received, packet)
        violates(client.sent, packet)
    for packet in (auth(0x18), Disconnect()):
        server = Protocol("server")
        server.received(WITH_METHOD)
        server.received(packet)


@mqtt5("MQTT-3.2.0-1", "MQTT-3.14.0-1")
def test_nothing_but_auth_before_connack() -> None:
    for packet in (Publish("t"), Suback(1, (0,)), Pingresp(), Puback(1), Unsuback(1, (0,)), Disconnect(0x8B)):
        for opening in (Connect("c"), WITH_METHOD):
            server, client = Protocol("server"), Protocol("client")
            server.received(opening)
            client.sent(opening)
            violates(server.sent, packet)
            violates(client.received, packet)
    refusing = Protocol("server")
    refusing.received(Connect("c"))
    refusing.sent(Connack(False, 0x87))
    violates(refusing.sent, Disconnect(0x87))


@mqtt5("MQTT-3.2.0-2")
def test_one_connack() -> None:
    violates(connected(Connect("c")).sent, Connack())
    client = Protocol("client")
    client.sent(Connect("c"))
    client.received(Connack())
    violates(client.received, Connack())


@mqtt5("MQTT-3.2.2-2")
def test_no_session_is_present_after_a_clean_start() -> None:
    client = Protocol("client")
    client.sent(Connect("c", clean_start=True))
    violates(client.received, Connack(True))


@mqtt5("MQTT-3.14.4-1")
def test_nothing_after_disconnect() -> None:
    for packet in (Publish("t"), Pingreq(), Disconnect(), Connect("c")):
        server = connected(Connect("c"))
        server.received(Disconnect())
        assert server.state is State.CLOSED
        violates(server.received, packet)
        violates(server.sent, packet)
    server = connected(Connect("c"))
    server.sent(Disconnect(0x8B))
    violates(server.sent, Publish("t"))


@mqtt5("MQTT-4.12.0-2", "MQTT-4.12.0-3")
def test_authentication_goes_on_with_0x18() -> None:
    for code in (0x00, 0x19):
        server, client = Protocol("server"), Protocol("client")
        server.received(WITH_METHOD)
        client.sent(WITH_METHOD)
        violates(server.sent, auth(code))
        violates(server.received, auth(code))
        violates(client.received, auth(code))
        server.sent(auth(0x18))
        server.received(auth(0x18))


@mqtt5("MQTT-4.12.0-5", "MQTT5-U-3.15-1")
def test_one_authentication_method() -> None:
    for method in ("M", "", None):
        server, client = Protocol("server"), Protocol("client")
        server.received(WITH_METHOD)
        client.sent(WITH_METHOD)
        violates(server.received, auth(0x18, method))
        violates(server.sent, auth(0x18, method))
        violates(client.received, auth(0x18, method))
        violates(client.received, Connack(properties=ConnackProperties(authentication_method=method)))
        violates(server.sent, Connack(properties=ConnackProperties(authentication_method=method)))


@mqtt5("MQTT-4.12.0-6", "MQTT-4.12.0-7", "MQTT5-U-3.15-1")
def test_no_auth_without_a_method_in_connect() -> None:
    for code in (0x00, 0x18, 0x19):
        server = Protocol("server")
        server.received(Connect("c"))
        violates(server.sent, auth(code))
        violates(server.received, auth(code))
        violates(server.sent, Connack(properties=ConnackProperties(authentication_method="m")))
        server.sent(Connack())
        violates(server.received, auth(code))
        violates(server.sent, auth(code))


@mqtt5("MQTT-4.12.1-1")
def test_authenticating_again() -> None:
    server = connected(WITH_METHOD)
    violates(server.received, auth(0x19, "other"))
    violates(server.received, auth(0x18))
    server.received(auth(0x19))
    assert server.state is State.REAUTHENTICATING
    server.received(Publish("t"))
    server.sent(auth(0x00))
    assert server.state is State.CONNECTED
