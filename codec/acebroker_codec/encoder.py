"""Control packets to octets, for the version of a connection (2.1, 2.2, 3.1 to 3.15).

Every packet has one form here, the shortest: properties by identifier, no Property Length or reason
code where the standard lets them be left out. What a version or a packet cannot carry is a
`ValueError`, because it is our own mistake: properties and most reason codes below MQTT 5, a Packet
Identifier with QoS 0, a value outside the table of `properties`, a surrogate in a string.

A PUBLISH for many subscribers is encoded once: `publish_halves` leaves the Packet Identifier open.

Maximum Packet Size is not looked at: the caller measures what it gets [MQTT-3.1.2-24].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from acebroker_codec.directions import CONNECT_RETURN_CODE_MAX, REASON_CODES, SUBACK_RETURN_CODES
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import (
    NO_ACK_PROPERTIES,
    NO_PUBLISH_PROPERTIES,
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
from acebroker_codec.properties import encode_properties
from acebroker_codec.topics import SHARE_PREFIX, check_topic_filter, check_topic_name
from acebroker_codec.wire import (
    encode_binary_data,
    encode_byte,
    encode_string,
    encode_two_byte_integer,
    encode_variable_byte_integer,
)

__all__ = ["encode", "publish_frame", "publish_halves", "publish_header"]

_MQTT_5: Final = ProtocolVersion.MQTT_5

_PROTOCOL_NAMES: Final = {
    ProtocolVersion.MQTT_3_1: b"\0\6MQIsdp\3",
    ProtocolVersion.MQTT_3_1_1: b"\0\4MQTT\4",
    ProtocolVersion.MQTT_5: b"\0\4MQTT\5",
}

_TOPIC_CACHE_ENTRIES_MAX: Final = 8_192
_TOPIC_CACHE_OCTETS_MAX: Final = 128


def _checked(check: Callable[[str], None], text: str) -> str:
    try:
        check(text)
    except MqttError as error:
        raise ValueError(error.detail) from None
    return text


#: Topic Name -> its field with the length; of short ones only, and emptied when full.
_topic_fields: Final[dict[str, bytes]] = {}


def _topic_field(topic: str) -> bytes:
    field = encode_string(_checked(check_topic_name, topic))
    if len(field) <= _TOPIC_CACHE_OCTETS_MAX:
        if len(_topic_fields) >= _TOPIC_CACHE_ENTRIES_MAX:
            _topic_fields.clear()
        _topic_fields[topic] = field
    return field


def _frame(first_octet: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return encode_byte(first_octet) + encode_variable_byte_integer(len(body)) + body


def _identifier(packet_identifier: int) -> bytes:
    if not packet_identifier:
        raise ValueError("Packet Identifier 0")
    return encode_two_byte_integer(packet_identifier)


def _properties(properties: Struct, version: ProtocolVersion) -> bytes:
    octets = encode_properties(properties)
    if version == _MQTT_5:
        return octets
    if octets != b"\0":
        raise ValueError("properties need MQTT 5")
    return b""


def publish_frame(
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    dup: bool,
    packet_identifier: int,
    properties: PublishProperties,
    version: ProtocolVersion,
) -> bytes:
    """A whole PUBLISH (3.3). Raises `ValueError` for what cannot be sent, see above."""
    field = _topic_fields.get(topic)
    if field is None:
        if topic:
            field = _topic_field(topic)
        elif properties.topic_alias is None:
            raise ValueError("an empty Topic Name without a Topic Alias")
        else:
            field = b"\0\0"
    if properties is not NO_PUBLISH_PROPERTIES:
        encoded = _properties(properties, version)
    else:
        encoded = b"\0" if version == _MQTT_5 else b""
    first_octet = 0x30 | qos << 1
    if retain:
        first_octet |= 0x01
    if qos:
        if not 1 <= qos <= 2 or not 1 <= packet_identifier <= 0xFFFF:
            raise ValueError("QoS, or the Packet Identifier for it, is out of range")
        if dup:
            first_octet |= 0x08
        field += packet_identifier.to_bytes(2, "big")
    elif dup or packet_identifier:
        raise ValueError("DUP or a Packet Identifier with QoS 0")
    length = len(field) + len(encoded) + len(payload)
    if length < 0x80:
        return (first_octet << 8 | length).to_bytes(2, "big") + field + encoded + payload
    return b"".join((encode_byte(first_octet), encode_variable_byte_integer(length), field, encoded, payload))


def publish_header(first_octet: int, length: int, topic_size: int) -> bytes:
    """What stands before the topic of a PUBLISH: first octet, Remaining Length, and the topic's length.

    `length` counts everything behind the Remaining Length. Raises `ValueError` where that is too long for the wire.
    """
    if length < 0x80:
        return (first_octet << 24 | length << 16 | topic_size).to_bytes(4, "big")
    if length < 0x4000:
        return (first_octet << 32 | (length & 0x7F | 0x80) << 24 | length >> 7 << 16 | topic_size).to_bytes(5, "big")
    return encode_byte(first_octet) + encode_variable_byte_integer(length) + topic_size.to_bytes(2, "big")


def publish_halves(first_octet: int, topic: bytes, payload: bytes, properties: bytes) -> tuple[bytes, bytes]:
    """A PUBLISH for many receivers: what stands before and what stands after the Packet Identifier.

    `topic`: UTF-8, valid, without its length. `properties`: as `encode_properties` gives them for
    MQTT 5, `b""` below. With QoS above 0 in `first_octet` a frame is
    `before + packet_identifier.to_bytes(2, "big") + after`, with QoS 0 `before + after`.
    Raises `ValueError` for a packet that is too long for the wire.
    """
    size = len(topic)
    length = 2 + size + len(properties) + len(payload)
    if first_octet & 0x06:
        length += 2
    return publish_header(first_octet, length, size) + topic, properties + payload


def _publish(packet: Publish, version: ProtocolVersion) -> bytes:
    return publish_frame(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.retain,
        packet.dup,
        packet.packet_identifier,
        packet.properties,
        version,
    )


#: first octet and Remaining Length of the short form
_ACK_HEADERS: Final[dict[type[Ack], bytes]] = {
    Puback: b"\x40\x02",
    Pubrec: b"\x50\x02",
    Pubrel: b"\x62\x02",
    Pubcomp: b"\x70\x02",
}


def _ack(packet: Ack, version: ProtocolVersion) -> bytes:
    header = _ACK_HEADERS[type(packet)]
    packet_identifier = packet.packet_identifier
    if not 1 <= packet_identifier <= 0xFFFF:
        raise ValueError("the Packet Identifier is out of range")
    identifier = packet_identifier.to_bytes(2, "big")
    reason_code = packet.reason_code
    if not reason_code and packet.properties is NO_ACK_PROPERTIES:
        return header + identifier
    properties = _properties(packet.properties, version)
    if properties in (b"", b"\0"):
        if not reason_code:
            return header + identifier
        properties = b""
    if version != _MQTT_5:
        raise ValueError("an acknowledgement below MQTT 5 has no reason code")
    reason = _reason_code(packet.packet_type, reason_code)
    return header[:1] + encode_variable_byte_integer(3 + len(properties)) + identifier + reason + properties


def _reason_code(packet_type: PacketType, reason_code: int) -> bytes:
    if reason_code not in REASON_CODES[packet_type]:
        raise ValueError(f"reason code {reason_code:#04x} in {packet_type.name}")
    return encode_byte(reason_code)


def _connect(packet: Connect, version: ProtocolVersion) -> bytes:
    if packet.version != version:
        raise ValueError("CONNECT says its own version")
    flags = 0x02 if packet.clean_start else 0
    payload = [encode_string(packet.client_identifier)]
    will = packet.will
    if will is not None:
        if not 0 <= will.qos <= 2:
            raise ValueError(f"Will QoS {will.qos}")
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += _will(will, version)
    if packet.username is not None:
        flags |= 0x80
        payload.append(encode_string(packet.username))
    if packet.password is not None:
        if packet.username is None and version != _MQTT_5:
            raise ValueError("a Password without a User Name needs MQTT 5")
        flags |= 0x40
        payload.append(encode_binary_data(packet.password))
    if packet.properties.authentication_data is not None and packet.properties.authentication_method is None:
        raise ValueError("Authentication Data without an Authentication Method")
    return _frame(
        0x10,
        _PROTOCOL_NAMES[version],
        encode_byte(flags),
        encode_two_byte_integer(packet.keep_alive),
        _properties(packet.properties, version),
        *payload,
    )


def _will(will: Will, version: ProtocolVersion) -> list[bytes]:
    return [_properties(will.properties, version), _topic_field(will.topic), encode_binary_data(will.payload)]


def _connack(packet: Connack, version: ProtocolVersion) -> bytes:
    if packet.session_present and packet.reason_code:
        raise ValueError("Session Present with a refusal")
    if version == _MQTT_5:
        reason = _reason_code(PacketType.CONNACK, packet.reason_code)
    elif packet.reason_code <= CONNECT_RETURN_CODE_MAX:
        reason = encode_byte(packet.reason_code)
    else:
        raise ValueError(f"Connect Return code {packet.reason_code}")
    return _frame(0x20, encode_byte(packet.session_present), reason, _properties(packet.properties, version))


def _subscribe(packet: Subscribe, version: ProtocolVersion) -> bytes:
    if not packet.filters:
        raise ValueError("SUBSCRIBE without a Topic Filter")
    parts = [_identifier(packet.packet_identifier), _properties(packet.properties, version)]
    for request in packet.filters:
        parts.append(encode_string(_checked(check_topic_filter, request.filter)))
        parts.append(_subscription_options(request, version))
    return _frame(0x82, *parts)


def _subscription_options(request: SubscriptionRequest, version: ProtocolVersion) -> bytes:
    if not 0 <= request.qos <= 2 or not 0 <= request.retain_handling <= 2:
        raise ValueError("QoS or Retain Handling out of range")
    if request.no_local and request.filter.startswith(SHARE_PREFIX):
        raise ValueError("No Local on a Shared Subscription")
    options = request.qos | request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4
    if version != _MQTT_5 and options > 2:
        raise ValueError("Subscription Options beside QoS need MQTT 5")
    return encode_byte(options)


def _suback(packet: Suback, version: ProtocolVersion) -> bytes:
    allowed = REASON_CODES[PacketType.SUBACK] if version == _MQTT_5 else SUBACK_RETURN_CODES
    return _frame(
        0x90,
        _identifier(packet.packet_identifier),
        _properties(packet.properties, version),
        _reason_codes(packet.reason_codes, allowed),
    )


def _unsuback(packet: Unsuback, version: ProtocolVersion) -> bytes:
    parts = [_identifier(packet.packet_identifier), _properties(packet.properties, version)]
    if version == _MQTT_5:
        parts.append(_reason_codes(packet.reason_codes, REASON_CODES[PacketType.UNSUBACK]))
    elif packet.reason_codes:
        raise ValueError("UNSUBACK below MQTT 5 has no reason codes")
    return _frame(0xB0, *parts)


def _reason_codes(reason_codes: tuple[int, ...], allowed: frozenset[int]) -> bytes:
    if not reason_codes or not allowed.issuperset(reason_codes):
        raise ValueError("no reason code, or one that this acknowledgement does not have")
    return bytes(reason_codes)


def _unsubscribe(packet: Unsubscribe, version: ProtocolVersion) -> bytes:
    if not packet.filters:
        raise ValueError("UNSUBSCRIBE without a Topic Filter")
    return _frame(
        0xA2,
        _identifier(packet.packet_identifier),
        _properties(packet.properties, version),
        *(encode_string(_checked(check_topic_filter, topic_filter)) for topic_filter in packet.filters),
    )


def _pingreq(packet: Pingreq, version: ProtocolVersion) -> bytes:
    return b"\xc0\0"


def _pingresp(packet: Pingresp, version: ProtocolVersion) -> bytes:
    return b"\xd0\0"


def _disconnect(packet: Disconnect, version: ProtocolVersion) -> bytes:
    properties = _properties(packet.properties, version)
    if properties in (b"", b"\0"):
        if not packet.reason_code:
            return b"\xe0\0"
        properties = b""
    if version != _MQTT_5:
        raise ValueError("DISCONNECT below MQTT 5 has no reason code")
    return _frame(0xE0, _reason_code(PacketType.DISCONNECT, packet.reason_code), properties)


def _auth(packet: Auth, version: ProtocolVersion) -> bytes:
    if version != _MQTT_5:
        raise ValueError("AUTH needs MQTT 5")
    reason = _reason_code(PacketType.AUTH, packet.reason_code)
    properties = encode_properties(packet.properties)
    if properties == b"\0" and not packet.reason_code:
        return b"\xf0\0"
    if packet.properties.authentication_method is None:
        raise ValueError("AUTH without an Authentication Method")
    return _frame(0xF0, reason, properties)


_ENCODERS: Final[dict[type[Packet], Callable[[Any, ProtocolVersion], bytes]]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Puback: _ack,
    Pubrec: _ack,
    Pubrel: _ack,
    Pubcomp: _ack,
    Subscribe: _subscribe,
    Suback: _suback,
    Unsubscribe: _unsubscribe,
    Unsuback: _unsuback,
    Pingreq: _pingreq,
    Pingresp: _pingresp,
    Disconnect: _disconnect,
    Auth: _auth,
}


def encode(packet: Packet, version: ProtocolVersion) -> bytes:
    """The octets of any packet, in either direction.

    Raises `ValueError` for what the version, or MQTT at all, cannot carry.
    """
    return _ENCODERS[type(packet)](packet, version)
