"""The encoder: shortest forms, halves for many receivers, and what it refuses to send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec import encoder
from acebroker_codec.decoder import Decoder, decode_packet
from acebroker_codec.encoder import encode, publish_frame, publish_halves
from acebroker_codec.packets import (
    NO_PUBLISH_PROPERTIES,
    AckProperties,
    Auth,
    AuthProperties,
    Connack,
    ConnackProperties,
    Connect,
    ConnectProperties,
    Disconnect,
    DisconnectProperties,
    Packet,
    PacketType,
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
    SubscribeProperties,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    UnsubscribeProperties,
    Will,
    WillProperties,
)
from acebroker_codec.properties import encode_properties
from tests.strategies import ROLES, VERSIONS, packets, packets_of_type

V31, V311, V5 = VERSIONS
A_SUBSCRIPTION = (SubscriptionRequest("a"),)


def kind(packet: object) -> str:
    return type(packet).__name__


SHORTEST = [
    (Puback(0x1234), "40021234"),
    (Pubrec(0x1234), "50021234"),
    (Pubrel(0x1234), "62021234"),
    (Pubcomp(0x1234), "70021234"),
    (Disconnect(), "e000"),
    (Pingreq(), "c000"),
    (Pingresp(), "d000"),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("packet", "octets"), SHORTEST, ids=[octets for _, octets in SHORTEST])
def test_the_shortest_forms(packet: Packet, octets: str, version: ProtocolVersion) -> None:
    assert encode(packet, version).hex() == octets


@pytest.mark.parametrize(
    ("packet", "octets"),
    [
        (Auth(), "f000"),
        (Puback(1, 0, AckProperties()), "40020001"),
        (Puback(1, 0x10), "4003000110"),
        (Pubrec(1, 0x97, AckProperties()), "5003000197"),
        (Pubrel(1, 0x92), "6203000192"),
        (Pubcomp(1, 0x92), "7003000192"),
        (Puback(1, 0, AckProperties(reason_string="")), "4007000100031f0000"),
        (Pubrel(1, 0x92, AckProperties(reason_string="r")), "6208000192041f000172"),
        (Disconnect(0x04), "e00104"),
        (Disconnect(0x8E, DisconnectProperties()), "e0018e"),
        (Disconnect(0, DisconnectProperties(session_expiry_interval=1)), "e00700051100000001"),
        (Auth(0x18, AuthProperties(authentication_method="m")), "f0061804" "1500016d"),
        (Suback(1, (0, 0x80)), "90050001000080"),
        (Unsuback(1, (0x11,)), "b0040001" "0011"),
        (Connack(True), "2003010000"),
        (Connack(False, 0x87), "2003008700"),
        (Subscribe(1, (SubscriptionRequest("a", 1, True, True, 2),)), "82070001000001" "612d"),
        (Unsubscribe(1, ("a", "b")), "a2090001" "00000161" "000162"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_forms_of_mqtt_5(packet: Packet, octets: str) -> None:
    assert encode(packet, V5).hex() == octets
    found = decode_packet(bytes.fromhex(octets)[0], bytes.fromhex(octets)[2:], V5)
    assert found == packet


@pytest.mark.parametrize("version", [V31, V311])
@pytest.mark.parametrize(
    ("packet", "octets"),
    [
        (Connack(False, 5), "20020005"),
        (Suback(1, (0, 1, 2, 0x80)), "9006000100010280"),
        (Unsuback(1), "b0020001"),
        (Subscribe(1, (SubscriptionRequest("a", 2),)), "8206000100016102"),
        (Unsubscribe(1, ("a",)), "a2050001000161"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forms_of_mqtt_3(packet: Packet, octets: str, version: ProtocolVersion) -> None:
    assert encode(packet, version).hex() == octets


#: what no version can carry
NEVER = [
    Publish("t", b"", 3, packet_identifier=1),
    Publish("t", b"", -1, packet_identifier=1),
    Publish("t", b"", 1),
    Publish("t", b"", 2, packet_identifier=0x1_0000),
    Publish("t", b"", 1, packet_identifier=-1),
    Publish("t", packet_identifier=1),
    Publish("t", dup=True),
    Publish(""),
    Publish("a/#"),
    Publish("a+"),
    Publish("a\0"),
    Publish("\ud800"),
    Publish("x" * 65_536),
    Puback(0),
    Puback(0x1_0000),
    Pubrel(-1),
    Subscribe(0, A_SUBSCRIPTION),
    Subscribe(1, ()),
    Subscribe(1, (SubscriptionRequest("a/#/b"),)),
    Subscribe(1, (SubscriptionRequest(""),)),
    Subscribe(1, (SubscriptionRequest("a", 3),)),
    Subscribe(1, (SubscriptionRequest("$share//a"),)),
    Suback(0, (0,)),
    Suback(1, ()),
    Suback(1, (3,)),
    Unsubscribe(0, ("a",)),
    Unsubscribe(1, ()),
    Unsubscribe(1, ("a", "b+")),
    Unsuback(0, (0,)),
    Connack(True, 1),
    Connack(False, 6),
    Connack(False, -1),
    Connack(True, 0x87),
    Puback(1, 0x81),
    Pubrel(1, 0x10),
    Disconnect(0x01),
    Disconnect(0x100),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("packet", NEVER, ids=kind)
def test_what_cannot_be_sent(packet: Packet, version: ProtocolVersion) -> None:
    with pytest.raises(ValueError):
        encode(packet, version)


#: what only MQTT 5 can carry
ONLY_5 = [
    Publish("t", properties=PublishProperties(content_type="c")),
    Publish("", properties=PublishProperties(topic_alias=1)),
    Puback(1, 0x10),
    Puback(1, 0, AckProperties(reason_string="r")),
    Pubcomp(1, 0x92),
    Connack(False, 0x87),
    Connack(properties=ConnackProperties(server_keep_alive=1)),
    Subscribe(1, (SubscriptionRequest("a", no_local=True),)),
    Subscribe(1, (SubscriptionRequest("a", retain_as_published=True),)),
    Subscribe(1, (SubscriptionRequest("a", retain_handling=1),)),
    Subscribe(1, A_SUBSCRIPTION, SubscribeProperties(subscription_identifier=1)),
    Suback(1, (0x87,)),
    Suback(1, (0,), AckProperties(reason_string="r")),
    Unsubscribe(1, ("a",), UnsubscribeProperties(user_properties=(("a", "b"),))),
    Unsuback(1, (0,)),
    Disconnect(0x04),
    Disconnect(0, DisconnectProperties(reason_string="r")),
    Auth(),
    Auth(0x18, AuthProperties(authentication_method="m")),
]


@pytest.mark.parametrize("version", [V31, V311])
@pytest.mark.parametrize("packet", ONLY_5, ids=kind)
def test_what_needs_mqtt_5(packet: Packet, version: ProtocolVersion) -> None:
    octets = encode(packet, V5)
    assert decode_packet(octets[0], octets[2:], V5) == packet
    with pytest.raises(ValueError):
        encode(packet, version)


@pytest.mark.parametrize(
    "packet",
    [
        Auth(0x18),
        Auth(0x00, AuthProperties(reason_string="r")),
        Auth(0x01, AuthProperties(authentication_method="m")),
        Unsuback(1),
        Unsuback(1, (1,)),
        Subscribe(1, (SubscriptionRequest("$share/g/a", no_local=True),)),
        Subscribe(1, (SubscriptionRequest("a", retain_handling=3),)),
        Connack(False, 1),
        Connack(properties=ConnackProperties(maximum_qos=2)),
        Publish("t", properties=PublishProperties(topic_alias=0)),
        Publish("t", properties=PublishProperties(response_topic="a/+")),
        Publish("t", properties=PublishProperties(message_expiry_interval=1 << 32)),
        Publish("t", properties=PublishProperties(user_properties=(("a", "\0"),))),
    ],
    ids=kind,
)
def test_what_cannot_be_sent_in_mqtt_5(packet: Packet) -> None:
    with pytest.raises(ValueError):
        encode(packet, V5)


@pytest.mark.parametrize("version", VERSIONS)
def test_connect_that_cannot_be_sent(version: ProtocolVersion) -> None:
    for connect in (
        Connect("\0", version),
        Connect("c", version, keep_alive=0x1_0000),
        Connect("c", version, username="\ud800"),
        Connect("c", version, username="u", password=bytes(65_536)),
        Connect("c", version, will=Will("", b"")),
        Connect("c", version, will=Will("a/#", b"")),
        Connect("c", version, will=Will("a", bytes(65_536))),
        Connect("c", version, will=Will("a", b"", 3)),
        Connect("c", version, properties=ConnectProperties(authentication_data=b"")),
        Connect("c", V31 if version == V5 else V5),
    ):
        with pytest.raises(ValueError):
            encode(connect, version)
    for connect in (
        Connect("c", version, password=b"p"),
        Connect("c", version, properties=ConnectProperties(receive_maximum=1)),
        Connect("c", version, will=Will("t", b"", properties=WillProperties(will_delay_interval=1))),
    ):
        if version == V5:
            assert Decoder().feed(encode(connect, version)) == [connect]
        else:
            with pytest.raises(ValueError):
                encode(connect, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
@given(data=st.data())
def test_publish_halves_make_the_frame(version: ProtocolVersion, role: Any, data: st.DataObject) -> None:
    packet = data.draw(packets_of_type(PacketType.PUBLISH, version, role))
    octets = encode(packet, version)
    section = encode_properties(packet.properties) if version == V5 else b""
    before, after = publish_halves(octets[0], packet.topic.encode(), packet.payload, section)
    identifier = packet.packet_identifier.to_bytes(2, "big") if packet.qos else b""
    assert before + identifier + after == octets
    assert (
        publish_frame(
            packet.topic,
            packet.payload,
            packet.qos,
            packet.retain,
            packet.dup,
            packet.packet_identifier,
            packet.properties,
            version,
        )
        == octets
    )


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [0, 120, 121, 122, 123, 124, 125, 16_378, 16_380, 16_382, 2_097_150])
def test_remaining_length_at_its_borders(size: int, qos: int) -> None:
    packet = Publish("t", bytes(size), qos, packet_identifier=qos)
    octets = encode(packet, V311)
    before, after = publish_halves(0x30 | qos << 1, b"t", bytes(size), b"")
    assert before + (b"\0\1" if qos else b"") + after == octets
    assert Decoder(version=V311).feed(octets) == [packet]


def test_the_longest_packet() -> None:
    class Long(bytes):
        """Says that it is longer than it is, to spare the memory."""

        def __len__(self) -> int:
            return 268_435_455

    with pytest.raises(ValueError):
        publish_frame("t", Long(), 0, False, False, 0, NO_PUBLISH_PROPERTIES, V5)
    with pytest.raises(ValueError):
        publish_halves(0x30, b"t", Long(), b"\0")


def test_the_store_of_encoded_topics_is_bounded() -> None:
    for number in range(2 * encoder._TOPIC_CACHE_ENTRIES_MAX + 5):
        encode(Publish(f"t/{number}"), V311)
    encode(Publish("l" * 5_000), V311)
    assert len(encoder._topic_fields) <= encoder._TOPIC_CACHE_ENTRIES_MAX
    assert max(map(len, encoder._topic_fields.values())) <= encoder._TOPIC_CACHE_OCTETS_MAX


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
@given(data=st.data())
def test_one_packet_has_one_form(version: ProtocolVersion, role: Any, data: st.DataObject) -> None:
    """Properties that are empty but not the shared empty ones change nothing."""
    packet = data.draw(packets(version, role))
    if not hasattr(packet, "properties"):
        return
    fields = {name: getattr(packet, name) for name in packet.__struct_fields__}
    values = {name: getattr(packet.properties, name) for name in packet.properties.__struct_fields__}
    copy = type(packet)(**{**fields, "properties": type(packet.properties)(**values)})
    assert encode(copy, version) == encode(packet, version)
