"""All doors, by name."""

from __future__ import annotations

from tests.fuzz.decoding import DECODER
from tests.fuzz.door import Door
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.texts import TEXTS

__all__ = ["DOORS"]

DOORS: dict[str, Door] = {door.name: door for door in (DECODER, SESSIONS, TEXTS)}
