"""The decoder on streams: round trips, every prefix, every split, bounds, directions, and nothing but our errors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acebroker_codec import bodies
from acebroker_codec.decoder import Decoder, check_direction, decode_ack, decode_packet, decode_publish
from acebroker_codec.directions import PACKETS_FROM, REASON_CODES, REASON_CODES_ONLY_FROM
from acebroker_codec.encoder import encode
from acebroker_codec.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolViolation,
    ReasonCode,
    UnsupportedProtocolVersion,
)
from acebroker_codec.frames import frame_extent
from acebroker_codec.packets import (
    NO_PUBLISH_PROPERTIES,
    Ack,
    Connect,
    Disconnect,
    DisconnectProperties,
    Packet,
    PacketType,
    Pingreq,
    ProtocolVersion,
    Puback,
    Publish,
    PublishProperties,
    Role,
)
from tests.strategies import ROLES, VERSIONS, packet_types, packets, packets_of_type, streams

OUR_ERRORS = (MalformedPacket, ProtocolViolation, UnsupportedProtocolVersion, PacketTooLarge)

ROWS = [(version, sender) for version in VERSIONS for sender in ROLES]
each_row = pytest.mark.parametrize(("version", "sender"), ROWS)
TYPES = [(version, sender, each) for version, sender in ROWS for each in packet_types(version, sender)]


def other(role: Role) -> Role:
    return "server" if role == "client" else "client"


def decoder_for(version: ProtocolVersion, sender: Role, packet_bytes_max: int = 10_000) -> Decoder:
    return Decoder(packet_bytes_max, version, other(sender))


def octets_of(found: list[Any], version: ProtocolVersion) -> list[bytes]:
    return [encode(packet, version) for packet in found]


def outcome(decoder: Decoder, pieces: list[bytes]) -> list[Any]:
    """What came out of the pieces together; errors as type and reason code."""
    found: list[Any] = []
    for piece in pieces:
        found += decoder.feed(piece)
    return [(type(each), each.reason_code) if isinstance(each, MqttError) else each for each in found]


# ---- what is valid ----


@pytest.mark.parametrize(("version", "sender", "packet_type"), TYPES)
@settings(max_examples=50)
@given(data=st.data())
def test_round_trip(version: ProtocolVersion, sender: Role, packet_type: PacketType, data: st.DataObject) -> None:
    packet = data.draw(packets_of_type(packet_type, version, sender))
    octets = encode(packet, version)
    assert decoder_for(version, sender).feed(octets) == [packet]
    assert encode(packet, version) == octets


@each_row
@given(data=st.data())
def test_one_frame_alone(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    packet = data.draw(packets(version, sender))
    octets = encode(packet, version)
    body = octets[2:] if octets[1] < 0x80 else octets[3:]
    found = decode_packet(octets[0], body, version)
    assert found == packet
    check_direction(found, other(sender), version)
    # in the middle of others, the two fast ways give the same
    around = b"\xff\xff" + body + b"\xff\xff"
    if isinstance(packet, Publish):
        assert decode_publish(octets[0], around, 2, 2 + len(body), version) == packet
    if isinstance(packet, Ack):
        assert decode_ack(octets[0], around, 2, 2 + len(body), version) == packet


def test_empty_properties_are_the_shared_ones() -> None:
    (publish,) = decoder_for(ProtocolVersion.MQTT_5, "client").feed(b"\x30\x04\0\1t\0")
    assert isinstance(publish, Publish)
    assert publish.properties is NO_PUBLISH_PROPERTIES


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_the_version_is_learnt_from_connect(version: ProtocolVersion, data: st.DataObject) -> None:
    connect = data.draw(packets_of_type(PacketType.CONNECT, version, "client"))
    rest = data.draw(streams(version, "client"))
    decoder = Decoder()
    assert decoder.version is None
    assert decoder.feed(encode(connect, version) + b"".join(octets_of(rest, version))) == [connect, *rest]
    assert decoder.version is version


def test_a_later_connect_changes_no_version() -> None:
    decoder = Decoder()
    first, second = Connect("c", ProtocolVersion.MQTT_3_1_1), Connect("c", ProtocolVersion.MQTT_5)
    octets = encode(first, first.version) + encode(second, second.version) + b"\x30\x03\0\1t"
    assert decoder.feed(octets) == [first, second, Publish("t")]


@pytest.mark.parametrize("octets", ["c000", "300400017400", "e000", "20020000", "0000", "f000"])
def test_nothing_is_read_before_connect(octets: str) -> None:
    (error,) = Decoder().feed(bytes.fromhex(octets))
    assert type(error) is ProtocolViolation
    assert error.reason_code == ReasonCode.PROTOCOL_ERROR


def test_a_client_has_to_know_its_version() -> None:
    with pytest.raises(ValueError):
        Decoder(role="client")


# ---- pieces ----


@each_row
@settings(max_examples=40)
@given(data=st.data())
def test_every_prefix_gives_what_is_complete(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    stream = data.draw(streams(version, sender))
    parts = octets_of(stream, version)
    whole = b"".join(parts)
    ends = list(itertools.accumulate(map(len, parts)))
    for size in range(len(whole) + 1):
        complete = sum(end <= size for end in ends)
        decoder = decoder_for(version, sender)
        assert decoder.feed(whole[:size]) == stream[:complete]
        assert decoder.feed(whole[size:]) == stream[complete:]


@each_row
@settings(max_examples=40)
@given(data=st.data())
def test_octet_by_octet(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    stream = data.draw(streams(version, sender))
    whole = b"".join(octets_of(stream, version))
    assert outcome(decoder_for(version, sender), [whole[at : at + 1] for at in range(len(whole))]) == stream


def cut(data: st.DataObject, whole: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@each_row
@given(data=st.data())
def test_any_split_of_a_valid_stream(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    stream = data.draw(streams(version, sender))
    whole = b"".join(octets_of(stream, version))
    assert outcome(decoder_for(version, sender), cut(data, whole)) == stream


@each_row
@given(data=st.data())
def test_any_split_of_a_damaged_stream(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    whole = bytearray(b"".join(octets_of(data.draw(streams(version, sender)), version)))
    for _ in range(data.draw(st.integers(0, 3)) if whole else 0):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    octets = bytes(whole)
    at_once = outcome(decoder_for(version, sender), [octets])
    assert outcome(decoder_for(version, sender), cut(data, octets)) == at_once
    assert outcome(decoder_for(version, sender), [octets[at : at + 1] for at in range(len(octets))]) == at_once


# ---- what is not valid ----


@given(octets=st.binary(max_size=60), version=st.sampled_from([None, *VERSIONS]), size=st.integers(1, 70))
@example(octets=b"", version=None, size=5)
def test_arbitrary_octets_to_a_server(octets: bytes, version: ProtocolVersion | None, size: int) -> None:
    check_only_our_errors(Decoder(size, version), octets)


@given(octets=st.binary(max_size=60), version=st.sampled_from(VERSIONS))
def test_arbitrary_octets_to_a_client(octets: bytes, version: ProtocolVersion) -> None:
    check_only_our_errors(Decoder(1_000, version, "client"), octets)


@pytest.mark.parametrize("packet_type", range(16))
@given(flags=st.integers(0, 15), body=st.binary(max_size=30), version=st.sampled_from(VERSIONS))
def test_arbitrary_bodies(packet_type: int, flags: int, body: bytes, version: ProtocolVersion) -> None:
    first_octet = packet_type << 4 | flags
    try:
        packet = decode_packet(first_octet, body, version)
    except OUR_ERRORS:
        return
    # what is taken can be sent again, and is then the same
    version = packet.version if isinstance(packet, Connect) else version
    octets = encode(packet, version)
    assert decode_packet(octets[0], octets[2:], version) == packet


@each_row
@given(data=st.data())
def test_damage_gives_only_our_errors(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    octets = encode(data.draw(packets(version, sender)), version)
    for damaged in damages(octets, data):
        check_only_our_errors(decoder_for(version, sender), damaged)


@each_row
@settings(max_examples=10)
@given(data=st.data())
def test_every_single_bit_flipped(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    octets = encode(data.draw(packets(version, sender)), version)
    for position, bit in itertools.product(range(len(octets)), range(8)):
        damaged = bytearray(octets)
        damaged[position] ^= 1 << bit
        check_only_our_errors(decoder_for(version, sender), bytes(damaged))


def damages(octets: bytes, data: st.DataObject) -> list[bytes]:
    """An octet changed, put in and taken out, with the old Remaining Length and with one that fits."""
    position = data.draw(st.integers(0, len(octets) - 1))
    new = bytes([data.draw(st.integers(0, 255))])
    found = []
    for damaged in (
        octets[:position] + new + octets[position + 1 :],
        octets[:position] + new + octets[position:],
        octets[:position] + octets[position + 1 :],
    ):
        found.append(damaged)
        head = 2 if octets[1] < 0x80 else 3
        if position >= head and len(damaged) - head < 0x80:
            found.append(damaged[:1] + bytes([len(damaged) - head]) + damaged[head:])
    return found


def check_only_our_errors(decoder: Decoder, octets: bytes) -> None:
    found = decoder.feed(octets)
    assert all(isinstance(each, Packet) for each in found[:-1])
    if found and isinstance(found[-1], MqttError):
        assert type(found[-1]) in OUR_ERRORS
        assert found[-1].reason_code >= 0x80
        assert found[-1].detail
        assert decoder.feed(b"\xc0\0") == []
        assert decoder.feed(octets) == []


def test_what_stands_before_an_error_comes_out() -> None:
    decoder = decoder_for(ProtocolVersion.MQTT_5, "client")
    found = decoder.feed(b"\xc0\0" + b"\x40\2\0\7" + b"\xc1\0" + b"\xc0\0")
    assert found[:2] == [Pingreq(), Puback(7)]
    assert isinstance(found[2], MalformedPacket)
    assert len(found) == 3
    assert decoder.feed(b"\xc0\0") == []


# ---- bounds ----


@pytest.mark.parametrize("packet_bytes_max", [2, 9, 128, 129, 130, 131, 300])
@pytest.mark.parametrize("size", [2, 3, 9, 128, 129, 131, 132, 300, 20_000])
def test_the_largest_packet_taken(packet_bytes_max: int, size: int) -> None:
    if size == 2:
        octets, packet = b"\xc0\0", Pingreq()
    else:
        fixed = 2 if size <= 129 else 3 if size <= 16_386 else 4
        payload = bytes(max(size - fixed - 3, 0))
        octets, packet = encode(Publish("t", payload), ProtocolVersion.MQTT_3_1_1), Publish("t", payload)
    decoder = Decoder(packet_bytes_max, ProtocolVersion.MQTT_3_1_1)
    found = outcome(decoder, [octets[at : at + 1] for at in range(len(octets))])
    at_once = outcome(Decoder(packet_bytes_max, ProtocolVersion.MQTT_3_1_1), [octets])
    expected = [packet] if len(octets) <= packet_bytes_max else [(PacketTooLarge, ReasonCode.PACKET_TOO_LARGE)]
    assert found == at_once == expected


@pytest.mark.parametrize("length", ["7f", "ff7f", "ffff7f", "ffffff7f"])
def test_too_large_is_said_with_the_length(length: str) -> None:
    decoder = Decoder(100, ProtocolVersion.MQTT_5)
    octets = b"\x30" + bytes.fromhex(length)
    assert decoder.feed(octets[:-1]) == []
    (error,) = decoder.feed(octets[-1:])
    assert isinstance(error, PacketTooLarge)


def test_no_more_is_kept_than_one_packet() -> None:
    decoder = Decoder(1_000, ProtocolVersion.MQTT_5)
    octets = encode(Publish("t", bytes(900)), ProtocolVersion.MQTT_5)
    stream = octets * 5
    for at in range(0, len(stream), 7):
        decoder.feed(stream[at : at + 7])
        assert len(decoder._pending) <= len(octets)
    assert not decoder._pending


def test_a_large_packet_in_single_octets_is_not_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    octets = encode(Publish("t", bytes(30_000)), ProtocolVersion.MQTT_5)
    decoder = Decoder(1_000_000, ProtocolVersion.MQTT_5)
    looked_at: list[int] = []

    def counted(data: bytes, pos: int, packet_bytes_max: int) -> tuple[int, int] | None:
        looked_at.append(len(data))
        return frame_extent(data, pos, packet_bytes_max)

    monkeypatch.setattr("acebroker_codec.decoder.frame_extent", counted)
    found = list(itertools.chain.from_iterable(decoder.feed(octets[at : at + 1]) for at in range(len(octets))))
    assert found == [Publish("t", bytes(30_000))]
    assert looked_at == [1, 2, 3, 4, len(octets)]  # until its length is known, and when it is there


@each_row
@settings(max_examples=30)
@given(data=st.data())
def test_a_field_does_not_reach_into_the_next_packet(
    version: ProtocolVersion, sender: Role, data: st.DataObject
) -> None:
    """A Remaining Length that is too small by some octets, which then do stand there."""
    octets = encode(data.draw(packets(version, sender)), version)
    if octets[1] >= 0x80:
        return
    for less in range(1, octets[1] + 1):
        short = octets[:1] + bytes([octets[1] - less]) + octets[2:]
        alone = outcome(decoder_for(version, sender), [short[:-less]])
        assert outcome(decoder_for(version, sender), [short])[:1] == alone


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("first_octet", [0x30, 0x32])
def test_a_topic_name_that_ends_behind_its_packet(version: ProtocolVersion, first_octet: int) -> None:
    for behind in range(1, 6):
        octets = bytes([first_octet, 3, 0, 1 + behind]) + b"abcdefgh"
        (error,) = Decoder(version=version).feed(octets)
        assert isinstance(error, MalformedPacket)
        with pytest.raises(MalformedPacket):
            decode_publish(first_octet, octets, 2, 5, version)


def test_the_store_of_checked_topics_is_bounded() -> None:
    for number in range(3 * bodies._TOPIC_CACHE_ENTRIES_MAX):
        topic = f"t/{number}"
        body = len(topic).to_bytes(2, "big") + topic.encode()
        assert decode_publish(0x30, body, 0, len(body), ProtocolVersion.MQTT_3_1_1).topic == topic
    long = "l" * 5_000
    body = len(long).to_bytes(2, "big") + long.encode()
    assert decode_publish(0x30, body, 0, len(body), ProtocolVersion.MQTT_3_1_1).topic == long
    assert len(bodies._topics) <= bodies._TOPIC_CACHE_ENTRIES_MAX
    assert max(map(len, bodies._topics)) <= bodies._TOPIC_CACHE_OCTETS_MAX


@pytest.mark.parametrize("topic", [b"a/#", b"+", b"\xff", b"a\0b"])
def test_a_bad_topic_stays_bad(topic: bytes) -> None:
    body = len(topic).to_bytes(2, "big") + topic
    for _ in range(3):
        with pytest.raises(MqttError):
            decode_publish(0x30, body, 0, len(body), ProtocolVersion.MQTT_3_1_1)


# ---- directions ----


@each_row
@settings(max_examples=10)
@given(data=st.data())
def test_the_wrong_direction(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    wrong = sorted(set(packet_types(version, sender)) - set(packet_types(version, other(sender))))
    assert wrong
    for packet_type in wrong:
        packet = data.draw(packets_of_type(packet_type, version, sender))
        found = decoder_for(version, other(sender)).feed(encode(packet, version))
        assert [type(each) for each in found] == [ProtocolViolation]
        assert isinstance(found[0], MqttError)
        assert found[0].reason_code == ReasonCode.PROTOCOL_ERROR
        with pytest.raises(ProtocolViolation):
            check_direction(packet, sender, version)


@pytest.mark.parametrize("receiver", ROLES)
def test_reason_codes_of_disconnect_by_sender(receiver: Role) -> None:
    foreign = REASON_CODES_ONLY_FROM[PacketType.DISCONNECT][receiver]
    for reason_code in REASON_CODES[PacketType.DISCONNECT]:
        (found,) = Decoder(100, ProtocolVersion.MQTT_5, receiver).feed(bytes([0xE0, 1, reason_code]))
        if reason_code in foreign:
            assert isinstance(found, ProtocolViolation)
        else:
            assert found == Disconnect(reason_code)


@pytest.mark.parametrize(
    ("packet", "receiver"),
    [
        (Publish("t", properties=PublishProperties(subscription_identifiers=(1,))), "server"),
        (Disconnect(0, DisconnectProperties(session_expiry_interval=0)), "client"),
        (Disconnect(0, DisconnectProperties(server_reference="")), "server"),
    ],
)
def test_properties_of_one_side_only(packet: Packet, receiver: Role) -> None:
    octets = encode(packet, ProtocolVersion.MQTT_5)
    (error,) = Decoder(100, ProtocolVersion.MQTT_5, receiver).feed(octets)
    assert type(error) is ProtocolViolation
    assert error.reason_code == ReasonCode.PROTOCOL_ERROR
    assert Decoder(100, ProtocolVersion.MQTT_5, other(receiver)).feed(octets) == [packet]


def test_the_directions_cover_all_types() -> None:
    assert PACKETS_FROM["client"] | PACKETS_FROM["server"] == set(PacketType)


# ---- what MQTT 3.1 alone may do ----


@pytest.mark.parametrize("octets", ["6a020001", "8a06000100016100", "aa050001000161"])
def test_dup_of_requests_is_for_mqtt_3_1(octets: str) -> None:
    data = bytes.fromhex(octets)
    plain = bytes([data[0] & 0xF7]) + data[1:]
    expected = decoder_for(ProtocolVersion.MQTT_3_1, "client").feed(plain)
    assert decoder_for(ProtocolVersion.MQTT_3_1, "client").feed(data) == expected
    for version in (ProtocolVersion.MQTT_3_1_1, ProtocolVersion.MQTT_5):
        (error,) = decoder_for(version, "client").feed(data)
        assert isinstance(error, MalformedPacket)


@pytest.mark.parametrize(
    ("flags", "payload", "username", "password"),
    [
        (0xC2, "000163", None, None),
        (0x82, "000163", None, None),
        (0xC2, "000163000175", "u", None),
    ],
)
def test_missing_credentials_at_the_end_of_connect(
    flags: int, payload: str, username: str | None, password: bytes | None
) -> None:
    for name, level in ((b"MQIsdp", 3), (b"MQTT", 4)):
        body = len(name).to_bytes(2, "big") + name + bytes([level, flags, 0, 0]) + bytes.fromhex(payload)
        (found,) = Decoder().feed(bytes([0x10, len(body)]) + body)
        if level == 3:
            expected = Connect("c", ProtocolVersion.MQTT_3_1, True, 0, username, password)
            assert found == expected
        else:
            assert isinstance(found, MalformedPacket)


def test_bit_0_of_the_connect_flags_is_not_used_in_mqtt_3_1() -> None:
    for name, level, taken in ((b"MQIsdp", 3, True), (b"MQTT", 4, False), (b"MQTT", 5, False)):
        rest = (b"\0" if level == 5 else b"") + b"\0\1c"
        body = len(name).to_bytes(2, "big") + name + bytes([level, 0x03, 0, 0]) + rest
        (found,) = Decoder().feed(bytes([0x10, len(body)]) + body)
        if taken:
            assert found == Connect("c", ProtocolVersion.MQTT_3_1)
        else:
            assert isinstance(found, MalformedPacket)


def test_a_long_client_identifier_in_mqtt_3_1() -> None:
    connect = Connect("c" * 1_000, ProtocolVersion.MQTT_3_1)
    assert Decoder().feed(encode(connect, connect.version)) == [connect]
