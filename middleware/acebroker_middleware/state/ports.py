"""What the house asks of outside: time, timers, rights, storage.

Stages call these; `broker/` implements them (tests too). None of them does I/O in this wing. A
method annotated with `Maybe[T]` returns either the result or an awaitable of it, and only `broker/` awaits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from msgspec import Struct

__all__ = ["Authority", "Clock", "Decision", "Identity", "Maybe", "Timer", "Timers"]

T = TypeVar("T")
Maybe = T | Awaitable[T]


class Clock(Protocol):
    """Coarse time, stamped once per round."""

    #: seconds that never go backwards; what deadlines are made of
    now: float
    #: seconds since the epoch, for what is wall-clock by nature (`exp`)
    wall: float


class Timer(Protocol):
    """A pending call of `Timers.call_at`."""

    def cancel(self) -> None:
        """Never call it; harmless after it was called."""


class Timers(Protocol):
    """Calls that are due later. Pure machines name their deadline; the owner of the wheel calls."""

    def call_at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, not before `deadline` on `Clock.now`."""
        ...


class Decision(Struct, frozen=True):
    """Whether something is allowed, and the rule that said so (for logs, counters and `explain`)."""

    allowed: bool
    rule: str


class Identity(Struct, frozen=True):
    """Who a client is proven to be. Sessions belong to identities, not to client identifiers alone.

    `kind` is `anonymous`, `user` or `token`; `issuer` is empty except for tokens; `name` is the
    user name, the subject of the token, or (anonymous) the Client Identifier.
    """

    kind: str
    name: str
    issuer: str = ""


class Authority(Protocol):
    """The rights of one identity: the one place that grants. No rule means no."""

    #: moment on `Clock.wall` after which nothing is granted any more; None = no end
    authorized_until: float | None

    def permits_publish(self, topic: str) -> Decision:
        """May this identity publish to the Topic Name?"""
        ...

    def permits_subscribe(self, topic_filter: str) -> Decision:
        """May it subscribe: is everything the filter matches granted? Without any `$share` prefix."""
        ...

    def permits_receive(self, topic: str) -> Decision:
        """May a message on this Topic Name be delivered to it now?"""
        ...
