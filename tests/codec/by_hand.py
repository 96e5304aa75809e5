"""Packets put together by hand for the conformance tests, and what the decoder answers to them."""

from __future__ import annotations

from typing import Any

from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import ProtocolVersion, Role

__all__ = [
    "METHOD",
    "NOT_UTF_8",
    "answer",
    "connect",
    "frame",
    "refused",
    "section",
    "string",
    "taken",
]

#: surrogates (alone, as a pair), overlong forms, a lone continuation, a cut sequence, beyond U+10FFFF, never UTF-8
NOT_UTF_8 = [
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xc0\xaf",
    b"\xc0\x80",
    b"\x80",
    b"a\xe2\x82",
    b"\xf4\x90\x80\x80",
    b"\xff",
]

#: the property Authentication Method "m"
METHOD = b"\x15\0\1m"


def string(octets: bytes | str) -> bytes:
    """Length and octets, whatever these are."""
    raw = octets.encode() if isinstance(octets, str) else octets
    return len(raw).to_bytes(2, "big") + raw


def section(*entries: bytes) -> bytes:
    """Property Length (below 128) and properties."""
    joined = b"".join(entries)
    assert len(joined) < 0x80
    return bytes([len(joined)]) + joined


def frame(first_octet: int, *parts: bytes) -> bytes:
    """Fixed Header and a body of less than 16,384 octets."""
    body = b"".join(parts)
    size = len(body)
    return bytes([first_octet, *([size] if size < 0x80 else [size & 0x7F | 0x80, size >> 7])]) + body


def connect(
    flags: int = 0x02,
    *payload: bytes,
    level: int = 5,
    name: bytes = b"MQTT",
    properties: bytes = b"\0",
    keep_alive: int = 0,
) -> bytes:
    """CONNECT; without a payload its Client Identifier is "c"."""
    head = string(name) + bytes([level, flags]) + keep_alive.to_bytes(2, "big")
    return frame(0x10, head, properties if level == 5 else b"", *(payload or (string("c"),)))


def answer(octets: bytes, version: int = 5, receiver: Role = "server") -> Any:
    """The one packet or error that `receiver` makes of the octets; None when it waits for more."""
    found = Decoder(100_000, ProtocolVersion(version), receiver).feed(octets)
    assert len(found) <= 1
    return found[0] if found else None


def refused(octets: bytes, reason_code: int, version: int = 5, receiver: Role = "server") -> None:
    """Assert that the octets end the connection with this reason code."""
    error = answer(octets, version, receiver)
    assert isinstance(error, MqttError), error
    assert error.reason_code == reason_code, error


def taken(octets: bytes, version: int = 5, receiver: Role = "server") -> Any:
    """Assert that the octets are one packet; returns it."""
    packet = answer(octets, version, receiver)
    assert packet is not None
    assert not isinstance(packet, MqttError), repr(packet)
    return packet
