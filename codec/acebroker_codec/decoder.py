"""Octets to control packets: one frame (`decode_packet`), or a stream in any pieces (`Decoder`).

Fixed Header, direction and bounds are decided here; what stands in each packet is `bodies`, whose
`decode_publish` and `decode_ack` are offered again for callers that take frames apart themselves.

Statements: [MQTT-2.1.3-1], [MQTT-3.1.0-1], [MQTT-3.3.4-6], [MQTT-3.14.2-1], [MQTT-3.14.2-2];
MQTT 3.1.1: [MQTT-2.2.2-1], [MQTT-2.2.2-2]. The order of packets is not checked here, except that no
version is known before CONNECT: `protocol`.
"""

from __future__ import annotations

from typing import Final

from acebroker_codec.bodies import BODIES, BODIES_3_1, Body, decode_ack, decode_publish
from acebroker_codec.directions import PACKETS_FROM, REASON_CODES_ONLY_FROM
from acebroker_codec.errors import MalformedPacket, MqttError, ProtocolViolation
from acebroker_codec.frames import PACKET_BYTES_MAX, frame_extent
from acebroker_codec.packets import (
    NO_PUBLISH_PROPERTIES,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    ProtocolVersion,
    Publish,
    Role,
)
from acebroker_codec.properties import IN_DISCONNECT, IN_PUBLISH, PROPERTIES

__all__ = ["Decoder", "check_direction", "decode_ack", "decode_packet", "decode_publish"]

_MQTT_5: Final = ProtocolVersion.MQTT_5

_OTHER: Final[dict[Role, Role]] = {"client": "server", "server": "client"}

#: `BODIES` by who receives, without what the other side never sends.
_BODIES_TO: Final[dict[Role, dict[int, Body]]] = {
    receiver: {octet: body for octet, body in BODIES.items() if octet >> 4 in PACKETS_FROM[sender]}
    for receiver, sender in _OTHER.items()
}


def _rare_body(first_octet: int, version: ProtocolVersion) -> Body:
    body = BODIES_3_1.get(first_octet) if version == ProtocolVersion.MQTT_3_1 else None
    if body is None:
        raise MalformedPacket(f"reserved packet type or flags in first octet {first_octet:#04x}")
    return body


def decode_packet(first_octet: int, body: bytes, version: ProtocolVersion) -> Packet:
    """One packet from the first octet and all that follows its Remaining Length.

    `version` is what CONNECT agreed upon; CONNECT itself says its own. The direction is not checked:
    `check_direction`. Raises `MalformedPacket`, `ProtocolViolation` or `UnsupportedProtocolVersion`.
    """
    read_body = BODIES.get(first_octet) or _rare_body(first_octet, version)
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
            read_body = BODIES.get(first_octet) or _rare_body(first_octet, version)
            if first_octet >> 4 not in PACKETS_FROM[_OTHER[self.role]]:
                raise _wrong_direction(first_octet >> 4, self.role)
        packet = read_body(first_octet, data, start, end, version)
        if isinstance(packet, Disconnect):
            check_direction(packet, self.role, version)
        elif self.version is None:
            assert isinstance(packet, Connect)
            self.version = packet.version
        return packet
