"""The data types of the wire: integers, strings, Binary Data (MQTT 5, 1.5; MQTT 3.1.1, 1.5 and 2.2.3).

    read_...(data, pos, end) -> (value, position behind it)
    encode_...(value)        -> octets

A reader takes a `bytes` object, where to begin and where the enclosing field ends; it never looks
at or behind `end`. What does not fit, or is not what the standard demands, is a `MalformedPacket`:
strings are UTF-8 without surrogates [MQTT-1.5.4-1] and without U+0000 [MQTT-1.5.4-2], a leading
U+FEFF is kept [MQTT-1.5.4-3], a Variable Byte Integer has its shortest form [MQTT-1.5.5-1].
An encoder raises `ValueError` for a value that the type cannot hold.

Topics have more rules than strings: `topics`.
"""

from __future__ import annotations

from typing import Final

from acebroker_codec.errors import MalformedPacket

__all__ = [
    "VARIABLE_BYTE_INTEGER_MAX",
    "encode_binary_data",
    "encode_byte",
    "encode_four_byte_integer",
    "encode_string",
    "encode_string_pair",
    "encode_two_byte_integer",
    "encode_variable_byte_integer",
    "read_binary_data",
    "read_byte",
    "read_four_byte_integer",
    "read_string",
    "read_string_pair",
    "read_two_byte_integer",
    "read_variable_byte_integer",
    "text_of",
]

#: The largest value that four octets of seven bits hold (1.5.5).
VARIABLE_BYTE_INTEGER_MAX: Final = 268_435_455

_LENGTH_MAX: Final = 65_535
_ONE_OCTET: Final = tuple(bytes((value,)) for value in range(256))


def _past_the_end() -> MalformedPacket:
    return MalformedPacket("a field runs past the end of what holds it")


def read_byte(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """One octet."""
    if pos >= end:
        raise _past_the_end()
    return data[pos], pos + 1


def read_two_byte_integer(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """A big-endian integer of 16 bits (1.5.2)."""
    stop = pos + 2
    if stop > end:
        raise _past_the_end()
    return data[pos] << 8 | data[pos + 1], stop


def read_four_byte_integer(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """A big-endian integer of 32 bits (1.5.3)."""
    stop = pos + 4
    if stop > end:
        raise _past_the_end()
    return int.from_bytes(data[pos:stop], "big"), stop


def read_variable_byte_integer(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """An integer of one to four octets in its shortest form (1.5.5) [MQTT-1.5.5-1]."""
    if pos < end and data[pos] < 0x80:
        return data[pos], pos + 1
    value = 0
    for shift in (0, 7, 14, 21):
        if pos >= end:
            raise _past_the_end()
        octet = data[pos]
        pos += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            if not octet and shift:
                raise MalformedPacket("a Variable Byte Integer is longer than its shortest form")
            return value, pos
    raise MalformedPacket("a Variable Byte Integer of more than four octets")


def read_binary_data(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """Up to 65,535 octets behind their length (1.5.6)."""
    start = pos + 2
    if start > end:
        raise _past_the_end()
    stop = start + (data[pos] << 8 | data[pos + 1])
    if stop > end:
        raise _past_the_end()
    return data[start:stop], stop


def text_of(octets: bytes) -> str:
    """The text of a UTF-8 Encoded String whose octets are these; no surrogate, no U+0000 (1.5.4)."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise MalformedPacket("a string is not well-formed UTF-8") from None
    if "\0" in text:
        raise MalformedPacket("U+0000 in a string")
    return text


def read_string(data: bytes, pos: int, end: int) -> tuple[str, int]:
    """A UTF-8 Encoded String (1.5.4)."""
    start = pos + 2
    if start > end:
        raise _past_the_end()
    stop = start + (data[pos] << 8 | data[pos + 1])
    if stop > end:
        raise _past_the_end()
    return text_of(data[start:stop]), stop


def read_string_pair(data: bytes, pos: int, end: int) -> tuple[tuple[str, str], int]:
    """Two UTF-8 Encoded Strings, name and value (1.5.7) [MQTT-1.5.7-1]."""
    name, pos = read_string(data, pos, end)
    value, pos = read_string(data, pos, end)
    return (name, value), pos


def encode_byte(value: int) -> bytes:
    """One octet."""
    if not 0 <= value <= 0xFF:
        raise ValueError("not a value of one octet")
    return _ONE_OCTET[value]


def encode_two_byte_integer(value: int) -> bytes:
    """A big-endian integer of 16 bits (1.5.2)."""
    if not 0 <= value <= 0xFFFF:
        raise ValueError("not a Two Byte Integer")
    return value.to_bytes(2, "big")


def encode_four_byte_integer(value: int) -> bytes:
    """A big-endian integer of 32 bits (1.5.3)."""
    if not 0 <= value <= 0xFFFF_FFFF:
        raise ValueError("not a Four Byte Integer")
    return value.to_bytes(4, "big")


def encode_variable_byte_integer(value: int) -> bytes:
    """The shortest form of an integer up to 268,435,455 (1.5.5) [MQTT-1.5.5-1]."""
    if 0 <= value < 0x80:
        return _ONE_OCTET[value]
    if not 0 <= value <= VARIABLE_BYTE_INTEGER_MAX:
        raise ValueError("not a Variable Byte Integer")
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def encode_binary_data(octets: bytes) -> bytes:
    """Up to 65,535 octets behind their length (1.5.6)."""
    if len(octets) > _LENGTH_MAX:
        raise ValueError("more than 65,535 octets")
    return len(octets).to_bytes(2, "big") + octets


def encode_string(text: str) -> bytes:
    """A UTF-8 Encoded String (1.5.4); `ValueError` for a surrogate, U+0000 or more than 65,535 octets."""
    if "\0" in text:
        raise ValueError("U+0000 in a string")
    return encode_binary_data(text.encode())


def encode_string_pair(pair: tuple[str, str]) -> bytes:
    """Two UTF-8 Encoded Strings, name and value (1.5.7)."""
    name, value = pair
    return encode_string(name) + encode_string(value)
