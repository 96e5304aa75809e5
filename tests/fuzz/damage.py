"""Damage: a few edits of octets, of the kinds that decoders get wrong."""

from __future__ import annotations

import random

from acebroker_codec.properties import PROPERTIES

__all__ = ["damaged", "spliced"]

_PROPERTY_IDENTIFIERS = sorted({row.identifier for row in PROPERTIES})
_INTERESTING = (0, 1, 2, 3, 4, 5, 6, 0x0B, 0x20, 0x23, 0x2B, 0x2F, 0x7F, 0x80, 0x90, 0xC0, 0xED, 0xEF, 0xFE, 0xFF)
_TWO_OCTETS = tuple(value.to_bytes(2, "big") for value in (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF))
_EDITS_MAX = 4
_REPEATED_BYTES_MAX = 12


def damaged(octets: bytes, chance: random.Random) -> bytes:
    """These octets with one to four edits; in half of the cases the Remaining Length of the first packet fits then."""
    data = bytearray(octets)
    for _ in range(chance.randint(1, _EDITS_MAX)):
        _edit(data, chance)
    if len(data) > 2 and chance.random() < 0.5:
        body = bytes(data[2:] if data[1] < 0x80 else data[3:])[:0x3FFF]
        length = [len(body)] if len(body) < 0x80 else [len(body) & 0x7F | 0x80, len(body) >> 7]
        data[1:] = bytes(length) + body
    return bytes(data)


def _edit(data: bytearray, chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    kind = chance.randrange(9)
    if kind == 0:
        data[at : at + 1] = bytes([chance.choice(_INTERESTING)])
    elif kind == 1 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 2:
        data.insert(at, chance.choice(_INTERESTING))
    elif kind == 3:
        del data[at : at + chance.randint(1, 3)]
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        start = chance.randint(0, len(data))
        data[at:at] = data[start : start + chance.randint(1, _REPEATED_BYTES_MAX)]
    elif kind == 6:
        data.insert(at, chance.choice(_PROPERTY_IDENTIFIERS))
    elif kind == 7:
        data[at : at + 2] = chance.choice(_TWO_OCTETS)
    else:
        data.insert(at, chance.randrange(256))


def spliced(first: bytes, second: bytes, chance: random.Random) -> bytes:
    """The beginning of one and the end of the other."""
    return first[: chance.randint(0, len(first))] + second[chance.randint(0, len(second)) :]
