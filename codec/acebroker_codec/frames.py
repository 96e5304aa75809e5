"""Where one MQTT Control Packet ends: the Remaining Length of its Fixed Header (2.1.4; MQTT 3, 2.2.3).

The size of a packet counts its Fixed Header as well (2.1.4). A packet that is too large is refused
as soon as its length is known, so before any of its octets need to be kept.

Statements: [MQTT-1.5.5-1], [MQTT-3.1.2-24], [MQTT-3.2.2-15]. What stands in a packet is not looked at.
"""

from __future__ import annotations

from typing import Final

from acebroker_codec.errors import MalformedPacket, PacketTooLarge

__all__ = ["PACKET_BYTES_MAX", "body_start", "frame_end", "frame_extent"]

#: The largest packet the wire can express: first octet, four octets of length, 268,435,455 octets.
PACKET_BYTES_MAX: Final = 268_435_460

_LENGTH_OCTETS_MAX: Final = 4


def frame_extent(data: bytes, pos: int, packet_bytes_max: int) -> tuple[int, int] | None:
    """Where the body of the packet at `pos` starts and where it will end, as soon as its length is known.

    The end may be behind the end of `data`. None while the length itself is not complete.
    Raises as `frame_end` does.
    """
    size = len(data)
    length = 0
    for index in range(_LENGTH_OCTETS_MAX):
        at = pos + 1 + index
        if at >= size:
            return None
        octet = data[at]
        length |= (octet & 0x7F) << 7 * index
        if octet < 0x80:
            if not octet and index:
                raise MalformedPacket("the Remaining Length is longer than its shortest form")
            start = at + 1
            end = start + length
            if end - pos > packet_bytes_max:
                raise PacketTooLarge(f"a packet of {end - pos} octets, at most {packet_bytes_max} are taken")
            return start, end
    raise MalformedPacket("a Remaining Length of more than four octets")


def frame_end(data: bytes, pos: int, packet_bytes_max: int) -> tuple[int, int] | None:
    """Find the whole packet whose first octet is at `pos`.

    Returns where its body starts and where it ends, or None when more octets are needed.
    Raises `MalformedPacket` for a length of more than four octets or not in its shortest form, and
    `PacketTooLarge` for a packet of more than `packet_bytes_max` octets, both before the body is there.
    """
    extent = frame_extent(data, pos, packet_bytes_max)
    if extent is None or extent[1] > len(data):
        return None
    return extent


def body_start(data: bytes, pos: int) -> int:
    """Where the body of the packet at `pos` starts, whose Remaining Length was checked before."""
    pos += 1
    while data[pos] & 0x80:
        pos += 1
    return pos + 1
