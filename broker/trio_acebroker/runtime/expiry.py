"""Ends connections whose rights are over, a few at a time, so that thousands in one second are no burden to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from acebroker_middleware.expiry import Expiry
from trio_acebroker.runtime.timers import CoarseClock

__all__ = ["CONNECTIONS_MAX", "end_expired"]

#: connections that are ended before everybody else has a turn
CONNECTIONS_MAX: Final = 32


async def end_expired(expiry: Expiry, clock: CoarseClock, after: Callable[[], None]) -> None:
    """End what is due, for ever. `after` is called after each portion (to send what it caused)."""
    due = trio.Event()

    def wake() -> None:
        due.set()

    expiry.wake = wake
    while True:
        await due.wait()
        due = trio.Event()
        more = True
        while more:
            clock.stamp()
            more = expiry.end_some(CONNECTIONS_MAX)
            after()
            await trio.lowlevel.checkpoint()
