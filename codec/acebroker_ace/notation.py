"""CBOR, JSON and base64url as strangers send them: read strictly, within limits.

A token comes from whoever connects. So what is read here has no trailing octets, no map key twice
(ADJ-9052-3), bounded depth and count, and holds nothing but numbers, octets, text, lists, maps, true,
false and null. CBOR is of definite length and untagged: tags, which would have a decoder build dates,
regular expressions or shared references, are taken off in front by `cbor_tags` and refused anywhere else.

Not here: what the values mean, and limits on octets, which belong to whoever receives them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Final

import cbor2

__all__ = [
    "DEPTH_MAX",
    "ITEMS_MAX",
    "NotationError",
    "base64url_decode",
    "base64url_encode",
    "cbor_dumps",
    "cbor_loads",
    "cbor_tags",
    "json_loads",
]

#: how deep lists and maps may stand in each other
DEPTH_MAX: Final = 16
#: how many values of every kind may stand in one CBOR item: what 64 KiB of scope can hold
ITEMS_MAX: Final = 65_536

_TAG: Final = 6
_TAGS_MAX: Final = 4
#: false, true, null, and floats of 16, 32 and 64 bits
_SIMPLE: Final = frozenset({20, 21, 22, 25, 26, 27})

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
#: a string of JSON (perhaps not ended), or a bracket
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class NotationError(ValueError):
    """The octets are not what they should be written in, or beyond a limit."""


# ---- base64url (RFC 7515, 2) ----


def base64url_decode(text: str) -> bytes:
    """The octets of base64url without padding. Raises `NotationError` for any other spelling of them."""
    if len(text) % 4 == 1 or not _BASE64URL.fullmatch(text):
        raise NotationError("not base64url")
    try:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise NotationError("not base64url") from None
    if base64url_encode(octets) != text:
        raise NotationError("not base64url: bits after the end")
    return octets


def base64url_encode(octets: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


# ---- JSON (RFC 8259) ----


def json_loads(text: str | bytes) -> Any:
    """One JSON value; octets are UTF-8.

    Raises `NotationError`: no JSON, a name twice in an object, NaN or infinity, a lone surrogate, too deep.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if text.count("[") + text.count("{") > DEPTH_MAX:
            _check_json_depth(text)
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair has no UTF-8
    except NotationError:
        raise
    except ValueError:
        raise NotationError("not JSON") from None
    return value


def _check_json_depth(text: str) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        token = found[0]
        if token in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise NotationError("JSON nested too deep")
        elif token in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise NotationError("a name stands twice in a JSON object")
    return value


def _refuse_constant(name: str) -> Any:
    raise NotationError(f"{name} is no JSON")


# ---- CBOR (RFC 8949) ----


def cbor_tags(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """The tags in front of an item, outermost first, and the item without them. Raises `NotationError`."""
    tags: list[int] = []
    position = 0
    while position < len(data) and data[position] >> 5 == _TAG:
        if len(tags) == _TAGS_MAX:
            raise NotationError("too many CBOR tags")
        number, position = _argument(data, position)
        tags.append(number)
    return tuple(tags), data[position:]


def cbor_loads(data: bytes) -> Any:
    """One CBOR item without tags.

    Raises `NotationError`: not well-formed, octets after the item, an indefinite length, a tag, a key twice in
    a map or one that is neither integer nor text, a simple value beside true, false and null, a limit exceeded.
    """
    _check_cbor(data)
    try:
        return cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError):
        raise NotationError("not CBOR") from None


def cbor_dumps(value: Any) -> bytes:
    """CBOR of definite lengths with the shortest integers (ADJ-9052-2); maps keep their order."""
    return cbor2.dumps(value)


def _check_cbor(data: bytes) -> None:
    """Walk over one item without building anything."""
    position = 0
    items_left = ITEMS_MAX
    # for each list or map that we are in: the items still to come, and the keys seen (None: a list)
    open_: list[tuple[int, set[object] | None]] = []
    left = 1
    keys: set[object] | None = None
    while True:
        while not left:
            if not open_:
                if position != len(data):
                    raise NotationError("octets after a CBOR item")
                return
            left, keys = open_.pop()
        items_left -= 1
        if items_left < 0:
            raise NotationError("too many CBOR items")
        if position >= len(data):
            raise NotationError("CBOR cut short")
        start = position
        major = data[start] >> 5
        argument, position = _argument(data, start)
        if major in (2, 3):
            position += argument
            if position > len(data):
                raise NotationError("CBOR cut short")
        if keys is not None and not left % 2:
            _note_key(keys, (major, data[position - argument : position] if major == 3 else argument))
        left -= 1
        if major in (4, 5):
            if len(open_) == DEPTH_MAX:
                raise NotationError("CBOR nested too deep")
            open_.append((left, keys))
            left, keys = (argument, None) if major == 4 else (2 * argument, set())
        elif major == _TAG:
            raise NotationError("a CBOR tag where none may stand")
        elif major == 7 and data[start] & 31 not in _SIMPLE:
            raise NotationError("a simple value without meaning here")


def _note_key(keys: set[object], key: tuple[int, int | bytes]) -> None:
    if key[0] not in (0, 1, 3):
        raise NotationError("a CBOR map key that is neither integer nor text")
    if key in keys:
        raise NotationError("a key stands twice in a CBOR map")
    keys.add(key)


def _argument(data: bytes, position: int) -> tuple[int, int]:
    """The argument in the head of the item at `position`, and where the head ends."""
    info = data[position] & 31
    position += 1
    if info < 24:
        return info, position
    if info > 27:
        raise NotationError("CBOR of indefinite length, or not well-formed")
    end = position + (1 << (info - 24))
    if end > len(data):
        raise NotationError("CBOR cut short")
    return int.from_bytes(data[position:end], "big"), end
