"""When something of the model ends or begins by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.simulation.terms import Message, Session

if TYPE_CHECKING:
    from tests.simulation.model import Model

__all__ = ["deadlines", "events_of"]


def events_of(session: Session) -> Iterator[tuple[float, str]]:
    """What the server does at a moment: send a Will, end a session, end a silent connection."""
    if session.will_at is not None:
        yield session.will_at, "will"
    if session.connection is not None:
        if session.connection.keep_alive:
            yield session.connection.heard + 1.5 * session.connection.keep_alive, "silent"
    elif session.ends_at is not None:
        yield session.ends_at, "end"


def deadlines(model: Model) -> Iterator[float]:
    """Every such moment, and every one at which a message expires."""
    for message in _messages(model):
        if message.expires_at is not None:
            yield message.expires_at
    for session in model.sessions.values():
        yield from (moment for moment, _ in events_of(session))


def _messages(model: Model) -> Iterator[Message]:
    yield from model.retained.values()
    for group in model.groups.values():
        yield from (waiting.message for waiting in group.waiting)
    for session in model.sessions.values():
        yield from (due.message for due in session.due)
        yield from session.received.values()
