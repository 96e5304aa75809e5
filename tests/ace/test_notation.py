"""CBOR, JSON and base64url of strangers: what is read, what is refused, and what bounds it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.notation import (
    DEPTH_MAX,
    ITEMS_MAX,
    NotationError,
    base64url_decode,
    base64url_encode,
    cbor_dumps,
    cbor_loads,
    cbor_tags,
    json_loads,
)
from tests.conformance.statements import ace

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_NUMBERS = st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(-300, 300) | _TEXT, inner, max_size=5),
    max_leaves=20,
)
_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
    max_leaves=20,
)

NOT_CBOR = {
    "nothing": "",
    "cut short: argument": "18",
    "cut short: argument of eight": "1b00000000000000",
    "cut short: octets": "43aabb",
    "cut short: text": "6261",
    "cut short: list": "8301",
    "cut short: map": "a101",
    "longer than everything": "5bffffffffffffffff",
    "a list longer than everything": "9bffffffffffffffff",
    "octets after it": "0000",
    "indefinite octets": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite list": "9f01ff",
    "indefinite map": "bf0101ff",
    "break alone": "ff",
    "reserved": "1c",
    "reserved of type 7": "fc",
    "undefined": "f7",
    "a simple value": "e0",
    "a simple value in two octets": "f8ff",
    "text that is not UTF-8": "62c328",
    "a surrogate as text": "63eda080",
    "a date": "c11a514b67b0",
    "a bignum": "c249010000000000000000",
    "a regular expression": "d823612e",
    "a shared reference": "81d81d00",
    "self-described": "d9d9f700",
    "a tag in a list": "81c100",
    "an integer twice": "a201010102",
    "an integer twice, longer": "a20101180102",
    "text twice": "a2616101616102",
    "octets as key": "a1410001",
    "a list as key": "a18000",
    "a float as key": "a1f9000000",
    "null as key": "a1f600",
}

NOT_JSON = {
    "nothing": b"",
    "two values": b"{}{}",
    "a name twice": b'{"a":1,"a":2}',
    "a name twice, escaped": b'{"a":1,"\\u0061":2}',
    "inside": b'[{"a":{"b":1,"b":2}}]',
    "NaN": b"[NaN]",
    "infinity": b"[-Infinity]",
    "not UTF-8": b'"\xff"',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "half a surrogate pair": b'["\\ud800"]',
    "half a surrogate pair as name": b'{"\\udfff":1}',
    "single quotes": b"{'a':1}",
    "a comma too many": b"[1,]",
    "digits without end": b"1" * 5_000,
}

NOT_BASE64URL = ["=", "AA==", "A", "AAAAA", "AB", "A+A/", "A A", "AAA\n", "ÄA", "AA ", "AAB"]


@given(_VALUES)
def test_cbor_comes_back(value: Any) -> None:
    assert cbor_loads(cbor_dumps(value)) == value


@given(_VALUES, st.data())
def test_every_prefix_of_cbor_is_refused(value: Any, data: st.DataObject) -> None:
    octets = cbor_dumps(value)
    cut = data.draw(st.integers(0, len(octets) - 1))
    with pytest.raises(NotationError):
        cbor_loads(octets[:cut])


@given(st.binary(max_size=60))
def test_arbitrary_octets_give_a_value_or_the_one_error(octets: bytes) -> None:
    for read in (cbor_loads, json_loads):
        try:
            read(octets)
        except NotationError:
            pass


@pytest.mark.parametrize("octets", NOT_CBOR.values(), ids=NOT_CBOR)
@ace("ADJ-9052-3")
def test_cbor_that_is_refused(octets: str) -> None:
    with pytest.raises(NotationError):
        cbor_loads(bytes.fromhex(octets))


def test_no_tag_reaches_the_decoder() -> None:
    for number in range(70_000):
        with pytest.raises(NotationError, match="tag"):
            cbor_loads(b"\xda" + number.to_bytes(4, "big") + b"\0")


def test_cbor_is_bounded_in_depth() -> None:
    assert cbor_loads(b"\x81" * DEPTH_MAX + b"\0")
    for opening in (b"\x81", b"\xa1\0"):
        with pytest.raises(NotationError, match="deep"):
            cbor_loads(opening * (DEPTH_MAX + 1) + b"\0")
        with pytest.raises(NotationError, match="deep"):
            cbor_loads(opening * 30_000)


def test_cbor_is_bounded_in_count() -> None:
    count = ITEMS_MAX - 1
    assert len(cbor_loads(b"\x9a" + count.to_bytes(4, "big") + bytes(count))) == count
    with pytest.raises(NotationError, match="many"):
        cbor_loads(b"\x9a" + ITEMS_MAX.to_bytes(4, "big") + bytes(ITEMS_MAX))


def test_tags_in_front_are_taken_off() -> None:
    assert cbor_tags(bytes.fromhex("d83dd28443")) == ((61, 18), bytes.fromhex("8443"))
    assert cbor_tags(b"\x80") == ((), b"\x80")
    assert cbor_tags(b"") == ((), b"")
    for octets in ("d8", "df00", "d0" * 5 + "00"):
        with pytest.raises(NotationError):
            cbor_tags(bytes.fromhex(octets))


@given(_JSON_VALUES, st.booleans())
def test_json_comes_back(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json_loads(text) == json_loads(text.encode()) == value


@pytest.mark.parametrize("octets", NOT_JSON.values(), ids=NOT_JSON)
def test_json_that_is_refused(octets: bytes) -> None:
    with pytest.raises(NotationError):
        json_loads(octets)


def test_json_is_bounded_in_depth() -> None:
    assert json_loads("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    assert json_loads('["' + "[" * 100 + '\\"{"]')
    assert len(json_loads("[" + ",".join(["[]"] * 100) + "]")) == 100
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth in (DEPTH_MAX + 1, 30_000):
            with pytest.raises(NotationError, match="deep"):
                json_loads(opening * depth + "1" + closing * depth)


def test_a_string_without_end_costs_no_more_than_its_length() -> None:
    # matched again from every escaped quote, this would take minutes: the timeout of the suite is the assertion
    with pytest.raises(NotationError):
        json_loads("[" * (DEPTH_MAX + 1) + '"' + '\\"' * 500_000)


@given(st.binary(max_size=40))
def test_base64url_comes_back(octets: bytes) -> None:
    text = base64url_encode(octets)
    assert text == base64.urlsafe_b64encode(octets).decode().rstrip("=")
    assert base64url_decode(text) == octets


@pytest.mark.parametrize("text", NOT_BASE64URL)
def test_base64url_that_is_refused(text: str) -> None:
    with pytest.raises(NotationError):
        base64url_decode(text)
