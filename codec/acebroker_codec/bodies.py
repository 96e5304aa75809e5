"""The bodies of the 15 control packets: what follows the Fixed Header, octets to values (3.1 to 3.15).

    BODIES[first octet](first octet, data, start, end, version) -> packet

reads the body `data[start:end]`. Strict: every reserved bit, field and value that the three versions
of the standard demand is checked, and nothing may be left over. What is wrong ends as one of

    MalformedPacket              what does not have the form of its packet               0x81
    ProtocolViolation            a form that is right, with what must not be in it       0x82 or the code named for it
    UnsupportedProtocolVersion   CONNECT of another protocol name or level               0x84

Lenient for MQTT 3.1 only: the DUP flag of PUBREL, SUBSCRIBE and UNSUBSCRIBE and bit 0 of the Connect
Flags are ignored, and User Name and Password may be missing at the end of CONNECT though their flags
are set (its text, 2.1 and 3.1); a Client Identifier of more than 23 characters is taken, as others do.

Statements: see tests/codec/test_conformance_v5.py and test_conformance_v311.py. Not here: who may
send what (`decoder`, `directions`), in which order (`protocol`), and what a broker allows: an empty
Client Identifier, aliases above the maximum, quotas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from acebroker_codec.directions import (
    CONNECT_RETURN_CODE_MAX,
    REASON_CODES,
    SUBACK_RETURN_CODES,
)
from acebroker_codec.errors import (
    MalformedPacket,
    ProtocolViolation,
    UnsupportedProtocolVersion,
)
from acebroker_codec.packets import (
    NO_ACK_PROPERTIES,
    NO_CONNACK_PROPERTIES,
    NO_CONNECT_PROPERTIES,
    NO_DISCONNECT_PROPERTIES,
    NO_PUBLISH_PROPERTIES,
    NO_SUBSCRIBE_PROPERTIES,
    NO_UNSUBSCRIBE_PROPERTIES,
    NO_WILL_PROPERTIES,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
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
from acebroker_codec.properties import (
    IN_ACK,
    IN_AUTH,
    IN_CONNACK,
    IN_CONNECT,
    IN_DISCONNECT,
    IN_PUBLISH,
    IN_SUBSCRIBE,
    IN_UNSUBSCRIBE,
    IN_WILL,
    decode_properties,
)
from acebroker_codec.topics import SHARE_PREFIX, check_topic_filter, check_topic_name
from acebroker_codec.wire import (
    read_binary_data,
    read_byte,
    read_string,
    read_two_byte_integer,
    text_of,
)

__all__ = ["BODIES", "BODIES_3_1", "Body", "decode_ack", "decode_publish"]

_MQTT_3_1: Final = ProtocolVersion.MQTT_3_1
_MQTT_5: Final = ProtocolVersion.MQTT_5

_VERSIONS: Final[dict[tuple[bytes, int], ProtocolVersion]] = {
    (b"MQIsdp", 3): ProtocolVersion.MQTT_3_1,
    (b"MQTT", 4): ProtocolVersion.MQTT_3_1_1,
    (b"MQTT", 5): ProtocolVersion.MQTT_5,
}

#: QoS, RETAIN and DUP by the low half of the first octet of PUBLISH; None is malformed [MQTT-3.3.1-2], [MQTT-3.3.1-4].
_PUBLISH_FLAGS: Final[tuple[tuple[int, bool, bool] | None, ...]] = tuple(
    None if (flags >> 1 & 3) == 3 or flags & 0b1110 == 0b1000 else (flags >> 1 & 3, bool(flags & 1), bool(flags & 8))
    for flags in range(16)
)

_TOPIC_CACHE_ENTRIES_MAX: Final = 8_192
_TOPIC_CACHE_OCTETS_MAX: Final = 128


#: The same few topics come again and again: one `str` for each, checked once. Of short ones only, and
#: emptied when full, so that peers cannot make it large.
_topics: Final[dict[bytes, str]] = {}


def _topic_name(octets: bytes) -> str:
    topic = text_of(octets)
    check_topic_name(topic)
    if len(octets) <= _TOPIC_CACHE_OCTETS_MAX:
        if len(_topics) >= _TOPIC_CACHE_ENTRIES_MAX:
            _topics.clear()
        _topics[octets] = topic
    return topic


def _trailing() -> MalformedPacket:
    return MalformedPacket("octets behind the last field")


def decode_publish(first_octet: int, data: bytes, start: int, end: int, version: ProtocolVersion) -> Publish:
    """PUBLISH whose body is `data[start:end]` (3.3). Raises `MalformedPacket` or `ProtocolViolation`."""
    flags = _PUBLISH_FLAGS[first_octet & 0x0F]
    if flags is None:
        raise MalformedPacket("QoS 3, or DUP with QoS 0")
    qos, retain, dup = flags
    pos = start + 2
    if pos > end:
        raise MalformedPacket("PUBLISH without a Topic Name")
    topic_end = pos + (data[start] << 8 | data[start + 1])
    if topic_end > end:
        raise MalformedPacket("the Topic Name runs past the end of the packet")
    octets = data[pos:topic_end]
    pos = topic_end
    packet_identifier = 0
    if qos:
        pos += 2
        if pos > end:
            raise MalformedPacket("no room for the Packet Identifier")
        packet_identifier = data[topic_end] << 8 | data[topic_end + 1]
        if not packet_identifier:
            raise ProtocolViolation("Packet Identifier 0")
    properties = NO_PUBLISH_PROPERTIES
    if version == _MQTT_5:
        if pos < end and not data[pos]:
            pos += 1
        else:
            properties, pos = decode_properties(data, pos, end, IN_PUBLISH)
    topic = _topics.get(octets)
    if topic is None:
        if octets:
            topic = _topic_name(octets)
        elif properties.topic_alias is None:
            raise ProtocolViolation("an empty Topic Name without a Topic Alias")
        else:
            topic = ""
    return Publish(topic, data[pos:end], qos, retain, dup, packet_identifier, properties)


_ACKS: Final[dict[int, type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]]] = {
    0x40: Puback,
    0x50: Pubrec,
    0x62: Pubrel,
    0x70: Pubcomp,
}


def decode_ack(first_octet: int, data: bytes, start: int, end: int, version: ProtocolVersion) -> Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP whose body is `data[start:end]` (3.4 to 3.7)."""
    packet_class = _ACKS.get(first_octet)
    if packet_class is None:
        if first_octet != 0x6A or version != _MQTT_3_1:
            raise MalformedPacket(f"reserved flags in first octet {first_octet:#04x}")
        packet_class = Pubrel
    pos = start + 2
    if pos > end:
        raise MalformedPacket("no room for the Packet Identifier")
    packet_identifier = data[start] << 8 | data[start + 1]
    if not packet_identifier:
        raise ProtocolViolation("Packet Identifier 0")
    if pos == end:
        return packet_class(packet_identifier)
    if version != _MQTT_5:
        raise _trailing()
    reason_code = data[pos]
    if reason_code not in REASON_CODES[packet_class.packet_type]:
        raise MalformedPacket(f"reason code {reason_code:#04x} in {packet_class.packet_type.name}")
    pos += 1
    properties = NO_ACK_PROPERTIES
    if pos < end:
        properties, pos = decode_properties(data, pos, end, IN_ACK)
        if pos != end:
            raise _trailing()
    return packet_class(packet_identifier, reason_code, properties)


#: what names the protocol from MQTT 3.1.1 on
_VERSION_NAME: Final = b"MQTT"


def _connect(_first_octet: int, data: bytes, pos: int, end: int, _version: ProtocolVersion) -> Connect:
    name, pos = read_binary_data(data, pos, end)
    level, pos = read_byte(data, pos, end)
    version = _VERSIONS.get((name, level))
    if version is None:
        raise UnsupportedProtocolVersion(f"protocol name {name[:8]!r}, level {level}", name_known=name == _VERSION_NAME)
    flags, pos = read_byte(data, pos, end)
    if flags & 0x01 and version is not ProtocolVersion.MQTT_3_1:  # "not used" there, and not to be looked at
        raise MalformedPacket("the reserved Connect Flag is set")
    has_will = flags & 0x04
    will_qos = flags >> 3 & 3
    will_retain = bool(flags & 0x20)
    has_username = flags & 0x80
    has_password = flags & 0x40
    if will_qos == 3 or (not has_will and (will_qos or will_retain)):
        raise MalformedPacket("Will QoS or Will Retain cannot be as they are")
    if has_password and not has_username and version != _MQTT_5:
        raise MalformedPacket("a Password without a User Name")
    keep_alive, pos = read_two_byte_integer(data, pos, end)
    properties = NO_CONNECT_PROPERTIES
    if version == _MQTT_5:
        properties, pos = decode_properties(data, pos, end, IN_CONNECT)
        if properties.authentication_data is not None and properties.authentication_method is None:
            raise ProtocolViolation("Authentication Data without an Authentication Method")
    client_identifier, pos = read_string(data, pos, end)
    will = None
    if has_will:
        will, pos = _will(data, pos, end, will_qos, will_retain, version)
    username = password = None
    # MQTT 3.1 (3.1): the Remaining Length takes precedence over the two flags
    if has_username and not (pos == end and version == _MQTT_3_1):
        username, pos = read_string(data, pos, end)
    if has_password and not (pos == end and version == _MQTT_3_1):
        password, pos = read_binary_data(data, pos, end)
    if pos != end:
        raise _trailing()
    return Connect(client_identifier, version, bool(flags & 0x02), keep_alive, username, password, will, properties)


def _will(data: bytes, pos: int, end: int, qos: int, retain: bool, version: ProtocolVersion) -> tuple[Will, int]:
    properties = NO_WILL_PROPERTIES
    if version == _MQTT_5:
        properties, pos = decode_properties(data, pos, end, IN_WILL)
    topic, pos = read_string(data, pos, end)
    check_topic_name(topic)
    payload, pos = read_binary_data(data, pos, end)
    return Will(topic, payload, qos, retain, properties), pos


def _connack(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Connack:
    acknowledge_flags, pos = read_byte(data, pos, end)
    if acknowledge_flags > 1:
        raise MalformedPacket("reserved bits of the Connect Acknowledge Flags")
    reason_code, pos = read_byte(data, pos, end)
    properties = NO_CONNACK_PROPERTIES
    if version == _MQTT_5:
        if reason_code not in REASON_CODES[PacketType.CONNACK]:
            raise MalformedPacket(f"reason code {reason_code:#04x} in CONNACK")
        properties, pos = decode_properties(data, pos, end, IN_CONNACK)
    elif reason_code > CONNECT_RETURN_CODE_MAX:
        raise MalformedPacket(f"Connect Return code {reason_code}")
    if pos != end:
        raise _trailing()
    if acknowledge_flags and reason_code:
        raise ProtocolViolation("Session Present with a refusal")
    return Connack(bool(acknowledge_flags), reason_code, properties)


def _packet_identifier(data: bytes, pos: int, end: int) -> tuple[int, int]:
    packet_identifier, pos = read_two_byte_integer(data, pos, end)
    if not packet_identifier:
        raise ProtocolViolation("Packet Identifier 0")
    return packet_identifier, pos


def _subscribe(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Subscribe:
    packet_identifier, pos = _packet_identifier(data, pos, end)
    properties = NO_SUBSCRIBE_PROPERTIES
    if version == _MQTT_5:
        properties, pos = decode_properties(data, pos, end, IN_SUBSCRIBE)
    if pos == end:
        raise ProtocolViolation("SUBSCRIBE without a Topic Filter")
    requests: list[SubscriptionRequest] = []
    while pos < end:
        topic_filter, pos = read_string(data, pos, end)
        options, pos = read_byte(data, pos, end)
        check_topic_filter(topic_filter)
        requests.append(_subscription_request(topic_filter, options, version))
    return Subscribe(packet_identifier, tuple(requests), properties)


def _subscription_request(topic_filter: str, options: int, version: ProtocolVersion) -> SubscriptionRequest:
    qos = options & 0x03
    if version != _MQTT_5:
        if options > 2:
            raise MalformedPacket("reserved bits beside the requested QoS, or QoS 3")
        return SubscriptionRequest(topic_filter, qos)
    if options & 0xC0:
        raise MalformedPacket("reserved bits of the Subscription Options")
    retain_handling = options >> 4
    if qos == 3 or retain_handling == 3:
        raise ProtocolViolation("Maximum QoS 3, or Retain Handling 3")
    no_local = bool(options & 0x04)
    if no_local and topic_filter.startswith(SHARE_PREFIX):
        raise ProtocolViolation("No Local on a Shared Subscription")
    return SubscriptionRequest(topic_filter, qos, no_local, bool(options & 0x08), retain_handling)


def _suback(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Suback:
    packet_identifier, pos = _packet_identifier(data, pos, end)
    properties = NO_ACK_PROPERTIES
    allowed = SUBACK_RETURN_CODES
    if version == _MQTT_5:
        properties, pos = decode_properties(data, pos, end, IN_ACK)
        allowed = REASON_CODES[PacketType.SUBACK]
    return Suback(packet_identifier, _reason_codes(data, pos, end, allowed), properties)


def _unsuback(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Unsuback:
    packet_identifier, pos = _packet_identifier(data, pos, end)
    if version != _MQTT_5:
        if pos != end:
            raise _trailing()
        return Unsuback(packet_identifier)
    properties, pos = decode_properties(data, pos, end, IN_ACK)
    return Unsuback(packet_identifier, _reason_codes(data, pos, end, REASON_CODES[PacketType.UNSUBACK]), properties)


def _reason_codes(data: bytes, pos: int, end: int, allowed: frozenset[int]) -> tuple[int, ...]:
    if pos == end:
        raise ProtocolViolation("an acknowledgement without a reason code")
    codes = tuple(data[pos:end])
    if not allowed.issuperset(codes):
        raise MalformedPacket("a reason code that this acknowledgement does not have")
    return codes


def _unsubscribe(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Unsubscribe:
    packet_identifier, pos = _packet_identifier(data, pos, end)
    properties = NO_UNSUBSCRIBE_PROPERTIES
    if version == _MQTT_5:
        properties, pos = decode_properties(data, pos, end, IN_UNSUBSCRIBE)
    if pos == end:
        raise ProtocolViolation("UNSUBSCRIBE without a Topic Filter")
    filters: list[str] = []
    while pos < end:
        topic_filter, pos = read_string(data, pos, end)
        check_topic_filter(topic_filter)
        filters.append(topic_filter)
    return Unsubscribe(packet_identifier, tuple(filters), properties)


_PINGREQ: Final = Pingreq()
_PINGRESP: Final = Pingresp()


def _pingreq(_first_octet: int, data: bytes, pos: int, end: int, _version: ProtocolVersion) -> Pingreq:
    if pos != end:
        raise _trailing()
    return _PINGREQ


def _pingresp(_first_octet: int, data: bytes, pos: int, end: int, _version: ProtocolVersion) -> Pingresp:
    if pos != end:
        raise _trailing()
    return _PINGRESP


def _disconnect(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Disconnect:
    if pos == end:
        return Disconnect()
    if version != _MQTT_5:
        raise _trailing()
    reason_code, pos = read_byte(data, pos, end)
    if reason_code not in REASON_CODES[PacketType.DISCONNECT]:
        raise MalformedPacket(f"reason code {reason_code:#04x} in DISCONNECT")
    properties = NO_DISCONNECT_PROPERTIES
    if pos < end:
        properties, pos = decode_properties(data, pos, end, IN_DISCONNECT)
        if pos != end:
            raise _trailing()
    return Disconnect(reason_code, properties)


def _auth(_first_octet: int, data: bytes, pos: int, end: int, version: ProtocolVersion) -> Auth:
    if version != _MQTT_5:
        raise MalformedPacket("packet type 15 is reserved below MQTT 5")
    if pos == end:
        return Auth()  # the form that 3.15.2.1 allows; `protocol` misses its Authentication Method
    reason_code, pos = read_byte(data, pos, end)
    if reason_code not in REASON_CODES[PacketType.AUTH]:
        raise MalformedPacket(f"reason code {reason_code:#04x} in AUTH")
    properties, pos = decode_properties(data, pos, end, IN_AUTH)
    if pos != end:
        raise _trailing()
    if properties.authentication_method is None:
        raise ProtocolViolation("AUTH without an Authentication Method")
    return Auth(reason_code, properties)


#: Reads a body: first octet, data, where the body starts and ends, version of the connection.
Body = Callable[[int, bytes, int, int, ProtocolVersion], Packet]

#: By first octet; what is not here is reserved. PUBLISH and its acknowledgements check their flags themselves.
BODIES: Final[dict[int, Body]] = {
    0x10: _connect,
    0x20: _connack,
    **dict.fromkeys(range(0x30, 0x40), decode_publish),
    **dict.fromkeys(range(0x40, 0x80), decode_ack),
    0x82: _subscribe,
    0x90: _suback,
    0xA2: _unsubscribe,
    0xB0: _unsuback,
    0xC0: _pingreq,
    0xD0: _pingresp,
    0xE0: _disconnect,
    0xF0: _auth,
}

#: MQTT 3.1 sends these with QoS 1 and may set DUP on a second attempt; PUBREL likewise.
BODIES_3_1: Final[dict[int, Body]] = {0x8A: _subscribe, 0xAA: _unsubscribe}
