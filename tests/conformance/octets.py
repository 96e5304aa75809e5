"""Packets put together by hand, octet by octet, so that a test can send what no encoder would make."""

from __future__ import annotations

__all__ = ["binary", "connect", "frame", "properties", "publish", "string", "subscribe", "uint16", "uint32", "varint"]


def uint16(value: int) -> bytes:
    """Two Byte Integer."""
    return value.to_bytes(2, "big")


def uint32(value: int) -> bytes:
    """Four Byte Integer."""
    return value.to_bytes(4, "big")


def varint(value: int) -> bytes:
    """Variable Byte Integer, in its shortest form."""
    octets = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        octets.append(low | 0x80 if value else low)
        if not value:
            return bytes(octets)


def binary(value: bytes) -> bytes:
    """Length and octets, whatever these are."""
    return uint16(len(value)) + value


def string(value: str) -> bytes:
    """UTF-8 Encoded String; surrogates are let through."""
    return binary(value.encode("utf-8", "surrogatepass"))


def frame(first: int, body: bytes = b"") -> bytes:
    """A packet: first octet, Remaining Length, body."""
    return bytes([first]) + varint(len(body)) + body


def properties(*entries: bytes) -> bytes:
    """Property Length and the properties, each given as identifier and value."""
    joined = b"".join(entries)
    return varint(len(joined)) + joined


def connect(
    *,
    name: bytes = b"MQTT",
    version: int = 5,
    flags: int = 0x02,
    keep_alive: int = 0,
    properties_: bytes | None = None,
    payload: bytes | None = None,
) -> bytes:
    """CONNECT with every part open; a missing payload is the Client Identifier `raw`."""
    head = binary(name) + bytes([version, flags]) + uint16(keep_alive)
    if version == 5:
        head += properties() if properties_ is None else properties_
    return frame(0x10, head + (string("raw") if payload is None else payload))


def publish(
    topic: bytes,
    payload: bytes = b"",
    *,
    first: int = 0x30,
    packet_identifier: int | None = None,
    properties_: bytes | None = b"\0",
) -> bytes:
    """PUBLISH with every part open; `properties_` None for MQTT 3."""
    body = binary(topic)
    if packet_identifier is not None:
        body += uint16(packet_identifier)
    return frame(first, body + (properties_ or b"") + payload)


def subscribe(
    topic_filter: bytes,
    options: int = 0,
    *,
    packet_identifier: int = 1,
    first: int = 0x82,
    properties_: bytes | None = b"\0",
) -> bytes:
    """SUBSCRIBE to one filter with every part open; `properties_` None for MQTT 3."""
    return frame(first, uint16(packet_identifier) + (properties_ or b"") + binary(topic_filter) + bytes([options]))
