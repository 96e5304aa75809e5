"""HandshakeSlots: how many TLS handshakes are under way at one time, and what becomes of those that do not go on.

A handshake costs memory before anybody is known, so there are only so many slots; others wait for one, in the order in
which they came. Clients that begin and then say nothing must not keep everybody else out: while others wait, who
takes longer than `PATIENCE_SECONDS` loses its slot and its connection. While nobody waits, a slow client has all the
time that the listener gives it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

import trio

from trio_acebroker.transports.tls import TlsError

__all__ = ["PATIENCE_SECONDS", "HandshakeSlots"]

#: what a handshake may take while others wait: enough for small devices, and for a lossy link
PATIENCE_SECONDS: Final = 2.0


class HandshakeSlots:
    """`slots_max` handshakes at one time."""

    def __init__(self, slots_max: int) -> None:
        self._limiter = trio.CapacityLimiter(slots_max)
        #: those under way and when they began, the oldest first
        self._under_way: dict[trio.CancelScope, float] = {}

    async def run(self, handshake: Callable[[], Awaitable[None]]) -> None:
        """Carry out a handshake when there is a slot. Raises TlsError where it was too slow for those who wait."""
        try:
            self._limiter.acquire_nowait()
        except trio.WouldBlock:
            self._press(self._limiter.statistics().tasks_waiting + 1)
            await self._limiter.acquire()
        scope = trio.CancelScope()
        self._under_way[scope] = trio.current_time()
        self._press(self._limiter.statistics().tasks_waiting)
        try:
            with scope:
                await handshake()
        finally:
            del self._under_way[scope]
            self._limiter.release()
        if scope.cancelled_caught:
            raise TlsError("too slow, while others wait for their handshake")

    def _press(self, waiting: int) -> None:
        """Give the oldest an end, one for each that waits."""
        for scope, began in islice(self._under_way.items(), waiting):
            scope.deadline = began + PATIENCE_SECONDS
