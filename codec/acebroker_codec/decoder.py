"""Octets to control packets: one frame (`decode_packet`), or a stream in any pieces (`Decoder`).

Strict: every reserved bit, field and value that the three versions of the standard demand is
checked, and nothing may be left over. What is wrong ends as one of

    MalformedPacket              what does not have the form of its packet               0x81
    ProtocolViolation            a form that is right, with what must not be in it       0x82 or the code named for it
    UnsupportedProtocolVersion   CONNECT of another protocol name or level               0x84
    PacketTooLarge               more octets than the receiver takes                     0x95

Leniency is for MQTT 3.1 only, whose text asks for it: the DUP flag of PUBREL, SUBSCRIBE and
UNSUBSCRIBE is ignored, a Client Identifier may be longer than 23 characters, and User Name and
Password may be missing at the end of CONNECT though their flags are set.

Statements: 1.5, 2.1, 2.2 and the layouts of 3.1 to 3.15, see the conformance tests. The order of
packets is not checked here (`protocol`), neither is what a broker allows: an empty Client
Identifier, aliases above the maximum, quotas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from acebroker_codec.directions import (
    CONNECT_RETURN_CODE_MAX,
    PACKETS_FROM,
    REASON_CODES,
    REASON_CODES_ONLY_FROM,
    SUBACK_RETURN_CODES,
)
from acebroker_codec.errors import (
    MalformedPacket,
    MqttError,
    ProtocolViolation,
    UnsupportedProtocolVersion,
)
from acebroker_codec.frames import PACKET_BYTES_MAX, frame_extent
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
    Role,
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
    PROPERTIES,
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

__all__ = ["Decoder", "check_direction", "decode_ack", "decode_packet", "decode_publish"]

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


def _connect(_first_octet: int, data: bytes, pos: int, end: int, _version: ProtocolVersion) -> Connect:
    name, pos = read_binary_data(data, pos, end)
    level, pos = read_byte(data, pos, end)
    version = _VERSIONS.get((name, level))
    if version is None:
        raise UnsupportedProtocolVersion(f"protocol name {name[:8]!r}, level {level}")
    flags, pos = read_byte(data, pos, end)
    if flags & 0x01:
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


_Body = Callable[[int, bytes, int, int, ProtocolVersion], Packet]

#: How the body behind each first octet is read; PUBLISH and the four acknowledgements check their flags themselves.
_BODIES: Final[dict[int, _Body]] = {
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

#: MQTT 3.1 sends these with QoS 1 and may set DUP on a second attempt.
_BODIES_3_1: Final[dict[int, _Body]] = {0x8A: _subscribe, 0xAA: _unsubscribe}

_OTHER: Final[dict[Role, Role]] = {"client": "server", "server": "client"}

#: The same by who receives, without what the other side never sends.
_BODIES_TO: Final[dict[Role, dict[int, _Body]]] = {
    receiver: {octet: body for octet, body in _BODIES.items() if octet >> 4 in PACKETS_FROM[sender]}
    for receiver, sender in _OTHER.items()
}


def _rare_body(first_octet: int, version: ProtocolVersion) -> _Body:
    body = _BODIES_3_1.get(first_octet) if version == _MQTT_3_1 else None
    if body is None:
        raise MalformedPacket(f"reserved packet type or flags in first octet {first_octet:#04x}")
    return body


def decode_packet(first_octet: int, body: bytes, version: ProtocolVersion) -> Packet:
    """One packet from the first octet and all that follows its Remaining Length.

    `version` is what CONNECT agreed upon; CONNECT itself says its own. The direction is not checked:
    `check_direction`. Raises `MalformedPacket`, `ProtocolViolation` or `UnsupportedProtocolVersion`.
    """
    read_body = _BODIES.get(first_octet) or _rare_body(first_octet, version)
    return read_body(first_octet, body, 0, len(body), version)


#: receiver -> type of packet -> the properties that its sender must not use
_FOREIGN_PROPERTIES: Final[dict[Role, dict[PacketType, tuple[str, ...]]]] = {
    receiver: {
        packet_type: tuple(row.name for row in PROPERTIES if context in row.contexts and row.sender == receiver)
        for packet_type, context in ((PacketType.PUBLISH, IN_PUBLISH), (PacketType.DISCONNECT, IN_DISCONNECT))
    }
    for receiver in PACKETS_FROM
}


def check_direction(packet: Packet, receiver: Role, version: ProtocolVersion) -> None:
    """Raise `ProtocolViolation` unless the other side may send this packet to `receiver`.

    Looks at the type (table 2-1), at the properties that one side alone may use ([MQTT-3.3.4-6],
    [MQTT-3.14.2-2]) and at the reason codes of DISCONNECT that one side alone may send.
    """
    packet_type = packet.packet_type
    if packet_type not in PACKETS_FROM[_OTHER[receiver]]:
        raise _wrong_direction(packet_type, receiver)
    if isinstance(packet, Publish):
        if packet.properties is not NO_PUBLISH_PROPERTIES:
            _check_properties(packet_type, packet.properties, receiver)
    elif isinstance(packet, Disconnect):
        if receiver == "client" and version != _MQTT_5:
            raise ProtocolViolation("DISCONNECT sent to a client below MQTT 5")
        if packet.reason_code in REASON_CODES_ONLY_FROM[packet_type][receiver]:
            raise ProtocolViolation(f"DISCONNECT with {packet.reason_code:#04x} sent to a {receiver}")
        _check_properties(packet_type, packet.properties, receiver)


def _wrong_direction(packet_type: int, receiver: Role) -> ProtocolViolation:
    return ProtocolViolation(f"{PacketType(packet_type).name} sent to a {receiver}")


def _check_properties(packet_type: PacketType, properties: object, receiver: Role) -> None:
    for name in _FOREIGN_PROPERTIES[receiver][packet_type]:
        if getattr(properties, name) not in (None, ()):
            raise ProtocolViolation(f"{name} in {packet_type.name} sent to a {receiver}")


class Decoder:
    """The packets in a stream of octets that arrives in any pieces.

    `packet_bytes_max`: octets of the largest packet taken (Fixed Header included), which bounds what
    is kept between two calls of `feed`. `version`: what the connection speaks; a server leaves it out
    and learns it from CONNECT, which then has to be the first packet [MQTT-3.1.0-1]. `role`: the side
    that receives, that is, our own.
    """

    __slots__ = ("_bodies", "_failed", "_needed", "_pending", "_short_taken", "packet_bytes_max", "role", "version")

    def __init__(
        self,
        packet_bytes_max: int = PACKET_BYTES_MAX,
        version: ProtocolVersion | None = None,
        role: Role = "server",
    ) -> None:
        if version is None and role == "client":
            raise ValueError("a client knows the version that it speaks")
        self.packet_bytes_max: Final = packet_bytes_max
        self.role: Final[Role] = role
        self.version = version
        self._bodies = _BODIES_TO[role]
        self._short_taken = packet_bytes_max >= 0x81  # then no length of one octet can be too large
        self._pending = bytearray()
        self._needed = 0  # octets that must be there before looking at them can bring anything
        self._failed = False

    def feed(self, data: bytes) -> list[Packet | MqttError]:
        """Take the next octets; return the packets that are complete now, in order.

        Raises nothing that `data` could cause: the first error is the last element of its list, and
        from then on every call returns an empty list.
        """
        if self._failed:
            return []
        pending = self._pending
        if pending:
            pending += data
            if len(pending) < self._needed:
                return []
            data = bytes(pending)
            pending.clear()
        found: list[Packet | MqttError] = []
        size = len(data)
        pos = 0
        self._needed = 0
        try:
            while pos < size:
                start = pos + 2
                if start <= size and data[pos + 1] < 0x80 and self._short_taken:
                    end = start + data[pos + 1]
                else:
                    extent = frame_extent(data, pos, self.packet_bytes_max)
                    if extent is None:
                        break
                    start, end = extent
                if end > size:
                    self._needed = end - pos
                    break
                first_octet = data[pos]
                version = self.version
                if first_octet & 0xF0 == 0x30 and version is not None:
                    publish = decode_publish(first_octet, data, start, end, version)
                    if publish.properties is not NO_PUBLISH_PROPERTIES:
                        check_direction(publish, self.role, version)
                    found.append(publish)
                else:
                    found.append(self._packet(first_octet, data, start, end))
                pos = end
        except MqttError as error:
            self._failed = True
            found.append(error)
            return found
        if pos < size:
            pending += data[pos:] if pos else data
        return found

    def _packet(self, first_octet: int, data: bytes, start: int, end: int) -> Packet:
        version = self.version
        if version is None:
            if first_octet >> 4 != PacketType.CONNECT:
                raise ProtocolViolation("the first packet is not CONNECT")
            version = _MQTT_5  # until CONNECT has said its own
        read_body = self._bodies.get(first_octet)
        if read_body is None:
            if 0 < first_octet >> 4 not in PACKETS_FROM[_OTHER[self.role]]:
                raise _wrong_direction(first_octet >> 4, self.role)
            read_body = _rare_body(first_octet, version)
        packet = read_body(first_octet, data, start, end, version)
        if isinstance(packet, Disconnect):
            check_direction(packet, self.role, version)
        elif self.version is None:
            assert isinstance(packet, Connect)
            self.version = packet.version
        return packet
