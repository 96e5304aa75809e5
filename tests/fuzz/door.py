"""Door: one way in for octets, and what must hold whatever they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from hypothesis import strategies as st
from msgspec import Struct

__all__ = ["Door"]


class Door(Struct, frozen=True):
    """What is fuzzed.

    `execute` takes any octets and raises when something does not hold: an AssertionError, or whatever escaped.
    `inputs` draws octets that make sense; `spoiled` makes others of them that make a little less, `spoilt` of
    each. `seeds` are some to begin with where nothing is drawn. `share` is this door's part of the time.
    """

    name: str
    share: int
    execute: Callable[[bytes], None]
    inputs: st.SearchStrategy[bytes]
    spoiled: Callable[[bytes, random.Random], bytes]
    spoilt: int
    seeds: Callable[[], Iterable[bytes]]
