"""MQTT 3.1.1: the numbered statements that are about octets and the order of packets, each with its stimulus.

MQTT 3.1.1 has no reason codes for errors: the connection is closed. The code asserted here is the one
of MQTT 5 that our error carries, for logs.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import (
    MalformedPacket,
    MqttError,
    ProtocolViolation,
    UnsupportedProtocolVersion,
    connect_return_code,
)
from acebroker_codec.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    ProtocolVersion,
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
    Will,
)
from acebroker_codec.protocol import Protocol, State
from tests.codec import by_hand
from tests.codec.by_hand import NOT_UTF_8, frame, string

mqtt311 = functools.partial(pytest.mark.conformance, version=311)

V311 = ProtocolVersion.MQTT_3_1_1
MALFORMED, PROTOCOL_ERROR = 0x81, 0x82
TOPIC_FILTER_INVALID, TOPIC_NAME_INVALID = 0x8F, 0x90
ID = b"\0\1"
WILL = (string("c"), string("w"), string("p"))

connect = functools.partial(by_hand.connect, level=4)


def refused(octets: bytes, reason_code: int, receiver: Any = "server") -> None:
    by_hand.refused(octets, reason_code, 4, receiver)


def taken(octets: bytes, receiver: Any = "server") -> Any:
    return by_hand.taken(octets, 4, receiver)


def a_connect(client_identifier: str = "c", **fields: Any) -> Connect:
    return Connect(client_identifier, V311, **fields)


def string_places(text: bytes) -> dict[str, bytes]:
    """A packet for every field of a client that is a UTF-8 encoded string, with these octets in it."""
    field = string(text)
    return {
        "Topic Name": frame(0x30, field),
        "Client Identifier": connect(0x02, field),
        "User Name": connect(0x82, string("c"), field),
        "Will Topic": connect(0x06, string("c"), field, string("p")),
        "Topic Filter of SUBSCRIBE": frame(0x82, ID, field, b"\0"),
        "Topic Filter of UNSUBSCRIBE": frame(0xA2, ID, field),
    }


# ---- 1.5: data representation ----


@mqtt311("MQTT-1.5.3-1", "MQTT-3.1.3-4", "MQTT-3.1.3-10", "MQTT-3.1.3-11", "MQTT-3.3.2-1", "MQTT-3.8.3-1")
@mqtt311("MQTT-3.10.3-1", "MQTT-3.1.4-1")
@pytest.mark.parametrize("place", string_places(b""))
@pytest.mark.parametrize("text", NOT_UTF_8, ids=bytes.hex)
def test_strings_are_utf_8(text: bytes, place: str) -> None:
    refused(string_places(text)[place], MALFORMED)


@mqtt311("MQTT-1.5.3-1")
@pytest.mark.parametrize("text", ["\ud800", "a\udfff"], ids=ascii)
def test_no_surrogate_is_sent(text: str) -> None:
    for packet in (Publish(text), a_connect(text), Unsubscribe(1, (text,))):
        with pytest.raises(ValueError):
            encode(packet, V311)


@mqtt311("MQTT-1.5.3-2", "MQTT-4.7.3-2")
@pytest.mark.parametrize("place", string_places(b""))
@pytest.mark.parametrize("text", [b"\0", b"a\0", b"\0a"], ids=bytes.hex)
def test_no_string_has_u_0000(text: bytes, place: str) -> None:
    refused(string_places(text)[place], MALFORMED)


@mqtt311("MQTT-1.5.3-3")
def test_the_byte_order_mark_is_a_character() -> None:
    for octets, text in ((b"\xef\xbb\xbfa", "\ufeffa"), (b"a\xef\xbb\xbf", "a\ufeff"), (b"\xef\xbb\xbf", "\ufeff")):
        assert taken(frame(0x30, string(octets))) == Publish(text)
        assert encode(Publish(text), V311) == frame(0x30, string(octets))


# ---- 2.2 and 2.3: fixed header and packet identifier ----

GOOD: dict[str, tuple[bytes, str]] = {
    "CONNECT": (connect(), "server"),
    "CONNACK": (frame(0x20, b"\0\0"), "client"),
    "PUBACK": (frame(0x40, ID), "server"),
    "PUBREC": (frame(0x50, ID), "server"),
    "PUBREL": (frame(0x62, ID), "server"),
    "PUBCOMP": (frame(0x70, ID), "server"),
    "SUBSCRIBE": (frame(0x82, ID, string("t"), b"\0"), "server"),
    "SUBACK": (frame(0x90, ID, b"\0"), "client"),
    "UNSUBSCRIBE": (frame(0xA2, ID, string("t")), "server"),
    "UNSUBACK": (frame(0xB0, ID), "client"),
    "PINGREQ": (frame(0xC0), "server"),
    "PINGRESP": (frame(0xD0), "client"),
    "DISCONNECT": (frame(0xE0), "server"),
}


@mqtt311("MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1")
@pytest.mark.parametrize("kind", GOOD)
def test_reserved_flags(kind: str) -> None:
    octets, receiver = GOOD[kind]
    assert encode(taken(octets, receiver), V311) == octets
    for flags in range(16):
        if flags != octets[0] & 0x0F:
            refused(bytes([octets[0] & 0xF0 | flags]) + octets[1:], MALFORMED, receiver)


@mqtt311("MQTT-2.2.2-1", "MQTT-2.2.2-2")
def test_reserved_packet_types() -> None:
    for first_octet in (*range(0x10), *range(0xF0, 0x100)):
        refused(bytes([first_octet, 0]), MALFORMED)
        refused(bytes([first_octet, 0]), MALFORMED, "client")
    with pytest.raises(ValueError):
        encode(Auth(), V311)


@mqtt311("MQTT-2.3.1-1")
@pytest.mark.parametrize(
    ("octets", "packet"),
    [
        (frame(0x82, b"\0\0", string("t"), b"\0"), Subscribe(0, (SubscriptionRequest("t"),))),
        (frame(0xA2, b"\0\0", string("t")), Unsubscribe(0, ("t",))),
        (frame(0x32, string("t"), b"\0\0"), Publish("t", b"", 1)),
        (frame(0x34, string("t"), b"\0\0"), Publish("t", b"", 2)),
        (frame(0x40, b"\0\0"), Puback(0)),
        (frame(0x50, b"\0\0"), Pubrec(0)),
        (frame(0x62, b"\0\0"), Pubrel(0)),
        (frame(0x70, b"\0\0"), Pubcomp(0)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Packet) else "",
)
def test_a_packet_identifier_is_not_0(octets: bytes, packet: Packet) -> None:
    refused(octets, PROTOCOL_ERROR)
    with pytest.raises(ValueError):
        encode(packet, V311)


@mqtt311("MQTT-2.3.1-1")
@pytest.mark.parametrize(
    "octets", [frame(0x32, string("t")), frame(0x34, string("t"), b"\1"), frame(0x82), frame(0xA2)]
)
def test_a_packet_identifier_is_there(octets: bytes) -> None:
    refused(octets, MALFORMED)


@mqtt311("MQTT-2.3.1-5")
def test_qos_0_has_no_packet_identifier() -> None:
    assert encode(Publish("t", b"p"), V311) == frame(0x30, string("t"), b"p")
    assert taken(frame(0x30, string("t"), b"\1\2")) == Publish("t", b"\1\2")
    with pytest.raises(ValueError):
        encode(Publish("t", packet_identifier=1), V311)


# ---- 3.1: CONNECT ----


@mqtt311("MQTT-3.1.2-1")
@pytest.mark.parametrize("name", [b"MQT", b"mqtt", b"MQTTT", b"", b"MQIsdp"])
def test_another_protocol_name(name: bytes) -> None:
    (error,) = Decoder().feed(connect(name=name))
    assert isinstance(error, UnsupportedProtocolVersion)


@mqtt311("MQTT-3.1.2-2")
@pytest.mark.parametrize("level", [0, 1, 2, 3, 6, 7, 0x84, 255])
def test_another_protocol_level(level: int) -> None:
    (error,) = Decoder().feed(connect(level=level))
    assert isinstance(error, UnsupportedProtocolVersion)
    assert connect_return_code(error.reason_code) == 1
    refusal = Connack(False, 1)
    assert encode(refusal, V311) == frame(0x20, b"\0\1")


@mqtt311("MQTT-3.1.2-3", "MQTT-3.1.4-1")
def test_the_reserved_connect_flag() -> None:
    refused(connect(0x03), MALFORMED)
    refused(connect(0x01), MALFORMED)
    for packet in (a_connect(clean_start=False), a_connect(username="u", password=b"p", will=Will("w", b"p"))):
        assert not encode(packet, V311)[9] & 0x01


@mqtt311("MQTT-3.1.3-1", "MQTT-3.1.3-3", "MQTT-3.1.2-9")
def test_the_payload_of_connect_in_its_order() -> None:
    octets = connect(0xC6, *WILL, string("u"), string("pw"))
    packet = a_connect(username="u", password=b"pw", will=Will("w", b"p"))
    assert taken(octets) == packet
    assert encode(packet, V311) == octets


@mqtt311("MQTT-3.1.2-9", "MQTT-3.1.2-11", "MQTT-3.1.2-18", "MQTT-3.1.2-19", "MQTT-3.1.2-20", "MQTT-3.1.2-21")
@mqtt311("MQTT-3.1.3-3", "MQTT-3.1.4-1")
@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        pytest.param(0x02, (string("c"),), id="Client Identifier"),
        pytest.param(0x06, WILL, id="Will"),
        pytest.param(0x82, (string("c"), string("u")), id="User Name"),
        pytest.param(0xC2, (string("c"), string("u"), string("p")), id="User Name and Password"),
        pytest.param(0xC6, (*WILL, string("u"), string("p")), id="all"),
    ],
)
def test_flags_and_fields_of_connect_agree(flags: int, fields: tuple[bytes, ...]) -> None:
    taken(connect(flags, *fields))
    for missing in range(len(fields)):  # a field that a flag promises is not there
        refused(connect(flags, b"".join(fields[:missing])), MALFORMED)
    refused(connect(flags, *fields, string("more")), MALFORMED)  # a field that no flag promises is there


@mqtt311("MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-15", "MQTT-3.1.4-1")
@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22, 0x2A, 0x32, 0x1A])
def test_will_qos_and_retain_without_a_will(flags: int) -> None:
    refused(connect(flags), MALFORMED)


@mqtt311("MQTT-3.1.2-14")
def test_will_qos() -> None:
    for qos in range(3):
        assert taken(connect(0x06 | qos << 3, *WILL)).will == Will("w", b"p", qos)
    refused(connect(0x1E, *WILL), MALFORMED)
    refused(connect(0x3E, *WILL), MALFORMED)
    with pytest.raises(ValueError):
        encode(a_connect(will=Will("w", b"p", 3)), V311)


@mqtt311("MQTT-3.1.2-22")
def test_a_password_needs_a_user_name() -> None:
    refused(connect(0x42, string("c"), string("p")), MALFORMED)
    with pytest.raises(ValueError):
        encode(a_connect(password=b"p"), V311)


@mqtt311("MQTT-3.1.3-5")
def test_client_identifiers_that_have_to_be_taken() -> None:
    characters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for size in range(1, 24):
        name = (characters * 2)[size : size * 2]
        assert taken(connect(0x02, string(name))).client_identifier == name


# ---- 3.2: CONNACK ----


@mqtt311("MQTT-3.2.2-4")
def test_no_session_is_present_with_a_refusal() -> None:
    for code in range(1, 6):
        refused(frame(0x20, bytes([1, code])), PROTOCOL_ERROR, "client")
        with pytest.raises(ValueError):
            encode(Connack(True, code), V311)


@mqtt311("MQTT-2.2.2-1")
def test_connect_return_codes() -> None:
    for code in range(256):
        octets = frame(0x20, bytes([0, code]))
        if code <= 5:
            assert taken(octets, "client") == Connack(False, code)
            assert encode(Connack(False, code), V311) == octets
        else:
            refused(octets, MALFORMED, "client")
            with pytest.raises(ValueError):
                encode(Connack(False, code), V311)
    for flags in range(2, 256):
        refused(frame(0x20, bytes([flags, 0])), MALFORMED, "client")


# ---- 3.3: PUBLISH ----


@mqtt311("MQTT-3.3.1-2", "MQTT-4.3.1-1")
def test_qos_0_has_no_dup() -> None:
    for retain in (0, 1):
        refused(frame(0x38 | retain, string("t")), MALFORMED)
    with pytest.raises(ValueError):
        encode(Publish("t", dup=True), V311)
    assert encode(Publish("t"), V311)[0] == 0x30


@mqtt311("MQTT-3.3.1-4")
def test_qos_3() -> None:
    for flags in (0x06, 0x07, 0x0E, 0x0F):
        refused(frame(0x30 | flags, string("t"), ID), MALFORMED)
    with pytest.raises(ValueError):
        encode(Publish("t", b"", 3, packet_identifier=1), V311)


@mqtt311("MQTT-3.3.2-1")
def test_the_topic_name_leads() -> None:
    assert taken(frame(0x32, string("a/b"), ID, b"payload")) == Publish("a/b", b"payload", 1, False, False, 1)
    assert encode(Publish("a/b", b"p", 1, packet_identifier=1), V311)[2:7] == string("a/b")
    for body in (b"", b"\0", b"\0\5a", b"\xff\xff"):
        refused(frame(0x30, body), MALFORMED)


@mqtt311("MQTT-3.3.2-2", "MQTT-4.7.1-1")
@pytest.mark.parametrize("topic", ["#", "+", "a/#", "a/+/b", "a#", "+a"])
def test_wildcards_in_a_topic_name(topic: str) -> None:
    refused(frame(0x30, string(topic)), TOPIC_NAME_INVALID)
    refused(connect(0x06, string("c"), string(topic), string("p")), TOPIC_NAME_INVALID)
    with pytest.raises(ValueError):
        encode(Publish(topic), V311)


# ---- 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK; 4.7: topics ----


@mqtt311("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-1")
@pytest.mark.parametrize(
    "topic_filter", ["a/#/b", "#/", "##", "a#", "a/b#", "+a", "a+", "a/b+/c", "++", "+#", "#a", "/#/", ""]
)
def test_filters_that_are_none(topic_filter: str) -> None:
    refused(frame(0x82, ID, string(topic_filter), b"\0"), TOPIC_FILTER_INVALID)
    refused(frame(0xA2, ID, string(topic_filter)), TOPIC_FILTER_INVALID)
    for packet in (Subscribe(1, (SubscriptionRequest(topic_filter),)), Unsubscribe(1, (topic_filter,))):
        with pytest.raises(ValueError):
            encode(packet, V311)


@mqtt311("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-3.10.3-1", "MQTT-3.8.3-1")
def test_filters_that_are_some() -> None:
    filters = ("#", "+", "/", "//", "a/#", "/#", "+/#", "+/+", "/+/", "a/+/b", "$SYS/#", " ")
    subscribe = Subscribe(1, tuple(SubscriptionRequest(each, 1) for each in filters))
    octets = frame(0x82, ID, *(string(each) + b"\1" for each in filters))
    assert taken(octets) == subscribe
    assert encode(subscribe, V311) == octets
    # packed one after another
    octets = frame(0xA2, ID, *map(string, filters))
    assert taken(octets) == Unsubscribe(1, filters)
    assert encode(Unsubscribe(1, filters), V311) == octets


@mqtt311("MQTT-4.7.3-1")
def test_an_empty_topic_name() -> None:
    refused(frame(0x30, string("")), PROTOCOL_ERROR)
    refused(connect(0x06, string("c"), string(""), string("p")), TOPIC_NAME_INVALID)
    with pytest.raises(ValueError):
        encode(Publish(""), V311)


@mqtt311("MQTT-4.7.3-3")
def test_the_longest_topics() -> None:
    topic = "\u20ac" * 21_845
    assert len(topic.encode()) == 65_535
    assert taken(encode(Publish(topic), V311)) == Publish(topic)
    for longer in (topic + "a", "a" * 65_536):
        for packet in (Publish(longer), Unsubscribe(1, (longer,)), Subscribe(1, (SubscriptionRequest(longer),))):
            with pytest.raises(ValueError):
                encode(packet, V311)


@mqtt311("MQTT-3.8.3-3")
def test_subscribe_without_a_filter() -> None:
    refused(frame(0x82, ID), PROTOCOL_ERROR)
    with pytest.raises(ValueError):
        encode(Subscribe(1, ()), V311)


@mqtt311("MQTT-3.10.3-2")
def test_unsubscribe_without_a_filter() -> None:
    refused(frame(0xA2, ID), PROTOCOL_ERROR)
    with pytest.raises(ValueError):
        encode(Unsubscribe(1, ()), V311)


def test_the_requested_qos() -> None:
    """3.8.3, whose number is printed as MQTT-3-8.3-4: bits 2 to 7 are 0, and QoS is 0, 1 or 2."""
    for options in range(256):
        octets = frame(0x82, ID, string("t"), bytes([options]))
        if options <= 2:
            assert taken(octets) == Subscribe(1, (SubscriptionRequest("t", options),))
        else:
            refused(octets, MALFORMED)
    refused(frame(0x82, ID, string("t")), MALFORMED)


@mqtt311("MQTT-3.9.3-2")
def test_return_codes_of_suback() -> None:
    for code in range(256):
        octets = frame(0x90, ID, bytes([0, code]))
        if code in (0, 1, 2, 0x80):
            assert taken(octets, "client") == Suback(1, (0, code))
            assert encode(Suback(1, (0, code)), V311) == octets
        else:
            refused(octets, MALFORMED, "client")
            with pytest.raises(ValueError):
                encode(Suback(1, (0, code)), V311)


@pytest.mark.parametrize(
    "kind", [kind for kind in GOOD if kind not in ("CONNECT", "SUBSCRIBE", "UNSUBSCRIBE", "SUBACK")]
)
def test_nothing_follows_the_last_field(kind: str) -> None:
    octets, receiver = GOOD[kind]
    refused(frame(octets[0], octets[2:], b"\0"), MALFORMED, receiver)


# ---- the order of packets ----


def connected() -> Protocol:
    server = Protocol("server")
    server.received(a_connect())
    server.sent(Connack())
    assert server.state is State.CONNECTED
    return server


def violates(step: Any, packet: Packet) -> None:
    with pytest.raises(ProtocolViolation):
        step(packet)


@mqtt311("MQTT-3.1.0-1")
@pytest.mark.parametrize("kind", [kind for kind, (_octets, receiver) in GOOD.items() if receiver == "server"])
def test_connect_comes_first(kind: str) -> None:
    octets, _receiver = GOOD[kind]
    (found,) = Decoder().feed(octets)
    if kind == "CONNECT":
        assert found == a_connect()
        Protocol("server").received(found)
        return
    assert isinstance(found, ProtocolViolation)
    violates(Protocol("server").received, taken(octets))
    violates(Protocol("client").sent, taken(octets))


@mqtt311("MQTT-3.1.0-2")
def test_a_second_connect() -> None:
    violates(connected().received, a_connect())
    server = Protocol("server")
    server.received(a_connect())
    violates(server.received, a_connect())


@mqtt311("MQTT-3.2.0-1")
def test_connack_comes_first_from_the_server() -> None:
    for packet in (Publish("t"), Suback(1, (0,)), Pingresp(), Puback(1), Unsuback(1)):
        server, client = Protocol("server"), Protocol("client")
        server.received(a_connect())
        client.sent(a_connect())
        violates(server.sent, packet)
        violates(client.received, packet)


@mqtt311("MQTT-3.2.2-1")
def test_no_session_is_present_after_a_clean_session() -> None:
    client = Protocol("client")
    client.sent(a_connect(clean_start=True))
    violates(client.received, Connack(True))
    client.received(Connack(False))


@mqtt311("MQTT-3.14.4-2")
def test_nothing_after_disconnect() -> None:
    for packet in (Publish("t"), Pingreq(), Disconnect(), a_connect()):
        server, client = connected(), Protocol("client")
        server.received(Disconnect())
        violates(server.received, packet)
        client.sent(a_connect())
        client.received(Connack())
        client.sent(Disconnect())
        violates(client.sent, packet)


@pytest.mark.parametrize("kind", GOOD)
def test_the_wrong_direction(kind: str) -> None:
    octets, receiver = GOOD[kind]
    if kind in ("PUBACK", "PUBREC", "PUBREL", "PUBCOMP"):
        return  # both sides send these
    (error,) = Decoder(version=V311, role="client" if receiver == "server" else "server").feed(octets)
    assert isinstance(error, ProtocolViolation)


def test_an_error_is_the_last_that_is_heard() -> None:
    decoder = Decoder(version=V311)
    good = frame(0xC0)
    found = decoder.feed(good + frame(0xC1) + good)
    assert found[0] == Pingreq()
    assert isinstance(found[1], MalformedPacket)
    assert isinstance(found[1], MqttError)
    assert len(found) == 2
    assert decoder.feed(good) == []
