"""The data types of the wire, read and written (MQTT 5, 1.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec import wire
from acebroker_codec.errors import MalformedPacket, ReasonCode
from tests.strategies import utf_8_strings

#: the last value of each length and the first of the next, with their octets (table 1-1)
VARIABLE_BYTE_INTEGERS = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8001"),
    (16_383, "ff7f"),
    (16_384, "808001"),
    (2_097_151, "ffff7f"),
    (2_097_152, "80808001"),
    (268_435_455, "ffffff7f"),
]

TYPES: dict[str, tuple[Callable[..., Any], Callable[..., bytes], st.SearchStrategy[Any]]] = {
    "byte": (wire.read_byte, wire.encode_byte, st.integers(0, 0xFF)),
    "two": (wire.read_two_byte_integer, wire.encode_two_byte_integer, st.integers(0, 0xFFFF)),
    "four": (wire.read_four_byte_integer, wire.encode_four_byte_integer, st.integers(0, 0xFFFF_FFFF)),
    "variable": (
        wire.read_variable_byte_integer,
        wire.encode_variable_byte_integer,
        st.integers(0, wire.VARIABLE_BYTE_INTEGER_MAX),
    ),
    "binary": (wire.read_binary_data, wire.encode_binary_data, st.binary(max_size=300)),
    "string": (wire.read_string, wire.encode_string, utf_8_strings(40)),
    "pair": (wire.read_string_pair, wire.encode_string_pair, st.tuples(utf_8_strings(), utf_8_strings())),
}

NOT_UTF_8 = [
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x81\xed\xb0\x80",
    b"\xc0\x80",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\x80",
    b"\xe2\x82",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xff",
    b"\xfe",
]


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_round_trip_inside_other_octets(name: str, data: st.DataObject) -> None:
    read, encode, values = TYPES[name]
    value, before, after = data.draw(values), data.draw(st.binary(max_size=3)), data.draw(st.binary(max_size=3))
    octets = encode(value)
    pos = len(before)
    assert read(before + octets + after, pos, pos + len(octets)) == (value, pos + len(octets))


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_a_field_never_reaches_over_its_end(name: str, data: st.DataObject) -> None:
    read, encode, values = TYPES[name]
    octets = encode(data.draw(values))
    for end in range(len(octets)):
        with pytest.raises(MalformedPacket) as caught:
            read(octets, 0, end)
        assert caught.value.reason_code == ReasonCode.MALFORMED_PACKET
        with pytest.raises(MalformedPacket):  # nor where nothing more was sent
            read(octets[:end], 0, end)


@pytest.mark.parametrize(("value", "octets"), VARIABLE_BYTE_INTEGERS)
def test_variable_byte_integer_at_the_borders(value: int, octets: str) -> None:
    assert wire.encode_variable_byte_integer(value).hex() == octets
    assert wire.read_variable_byte_integer(bytes.fromhex(octets), 0, 4) == (value, len(octets) // 2)


@pytest.mark.parametrize("octets", ["8000", "808000", "80808000", "ff00", "ffff00", "818000", "80808080", "ffffffff7f"])
def test_variable_byte_integer_longer_than_needed_or_allowed(octets: str) -> None:
    data = bytes.fromhex(octets)
    with pytest.raises(MalformedPacket):
        wire.read_variable_byte_integer(data, 0, len(data))


@given(st.binary(min_size=1, max_size=5))
def test_a_variable_byte_integer_has_one_form(octets: bytes) -> None:
    try:
        value, pos = wire.read_variable_byte_integer(octets, 0, len(octets))
    except MalformedPacket:
        return
    assert wire.encode_variable_byte_integer(value) == octets[:pos]


@pytest.mark.parametrize("octets", [*NOT_UTF_8, b"\0", b"a\0b"], ids=bytes.hex)
def test_text_that_a_string_cannot_hold(octets: bytes) -> None:
    for data in (octets, b"good" + octets, octets + b"good"):
        with pytest.raises(MalformedPacket):
            wire.text_of(data)
        with pytest.raises(MalformedPacket):
            wire.read_string(wire.encode_binary_data(data), 0, 2 + len(data))


@given(st.binary(max_size=8))
def test_octets_are_a_string_exactly_when_they_are_its_utf_8(octets: bytes) -> None:
    try:
        text = wire.text_of(octets)
    except MalformedPacket:
        assert b"\0" in octets or octets.decode("utf-8", "replace").encode() != octets
    else:
        assert text.encode() == octets
        assert "\0" not in text


def test_the_byte_order_mark_is_kept() -> None:
    assert wire.text_of(b"\xef\xbb\xbfa\xef\xbb\xbf") == "\ufeffa\ufeff"
    assert wire.encode_string("\ufeffa") == b"\0\4\xef\xbb\xbfa"


@pytest.mark.parametrize(
    ("encode", "value"),
    [
        (wire.encode_byte, 256),
        (wire.encode_byte, -1),
        (wire.encode_two_byte_integer, 0x1_0000),
        (wire.encode_two_byte_integer, -1),
        (wire.encode_four_byte_integer, 0x1_0000_0000),
        (wire.encode_four_byte_integer, -1),
        (wire.encode_variable_byte_integer, 268_435_456),
        (wire.encode_variable_byte_integer, -1),
        (wire.encode_binary_data, bytes(65_536)),
        (wire.encode_string, "x" * 65_536),
        (wire.encode_string, "\u20ac" * 21_846),
        (wire.encode_string, "a\0"),
        (wire.encode_string, "\ud800"),
        (wire.encode_string_pair, ("a", "\udfff")),
    ],
)
def test_what_a_type_cannot_hold_is_not_encoded(encode: Callable[[Any], bytes], value: Any) -> None:
    with pytest.raises(ValueError):
        encode(value)


def test_the_longest_fields() -> None:
    for octets in (bytes(65_535), b"x" * 65_535):
        assert wire.read_binary_data(wire.encode_binary_data(octets), 0, 65_537) == (octets, 65_537)
    text = "\u20ac" * 21_845
    assert wire.read_string(wire.encode_string(text), 0, 65_537) == (text, 65_537)
