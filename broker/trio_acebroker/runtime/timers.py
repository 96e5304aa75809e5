"""One clock and one wheel for a whole broker: Keep Alive, Session Expiry, Will Delay, time-outs.

Timers are kept in buckets of TICK_SECONDS: setting one is a dictionary step, cancelling a flag, and the
task sleeps until the first bucket that is due. Nothing here costs anything per message.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from math import ceil
from typing import Final

import trio

__all__ = ["TICK_SECONDS", "CoarseClock", "Wheel", "WheelTimer"]

#: how exact a timer is: never early, late by at most this much and the round that runs
TICK_SECONDS: Final = 0.1

logger = logging.getLogger("trio_acebroker.timers")


class CoarseClock:
    """Time as the stages see it: `now` as `stamp` took it, once per round; the time of day as it is."""

    __slots__ = ("_wall", "now")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.now = 0.0

    @property
    def wall(self) -> float:
        """See `ports.Clock`."""
        return self._wall()

    def stamp(self) -> None:
        """Take the time, inside Trio."""
        self.now = trio.current_time()


class WheelTimer:
    """A pending call."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """See `ports.Timer`."""
        self.callback = None


class Wheel:
    """Timers of one broker. `after` is called once after each round of due timers (to send what they caused)."""

    def __init__(self, clock: CoarseClock, after: Callable[[], None]) -> None:
        self._clock = clock
        self._after = after
        self._buckets: dict[int, list[WheelTimer]] = {}
        self._order: list[int] = []
        self._sleep: trio.CancelScope | None = None

    def call_at(self, deadline: float, callback: Callable[[], None]) -> WheelTimer:
        """See `ports.Timers`."""
        timer = WheelTimer(callback)
        tick = ceil(deadline / TICK_SECONDS)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [timer]
            heapq.heappush(self._order, tick)
            if self._sleep is not None and self._sleep.deadline > tick * TICK_SECONDS:
                self._sleep.deadline = tick * TICK_SECONDS
        else:
            bucket.append(timer)
        return timer

    def run_due(self) -> None:
        """Call everything that is due. An exception of one callback is logged and stops none of the others."""
        self._clock.stamp()
        now = self._clock.now
        due = False
        while self._order and self._order[0] * TICK_SECONDS <= now:
            for timer in self._buckets.pop(heapq.heappop(self._order)):
                callback = timer.callback
                if callback is None:
                    continue
                due = True
                try:
                    callback()
                except Exception:
                    logger.exception("a timer failed")
        if due:
            self._after()

    async def run(self) -> None:
        """Call what is due, for ever."""
        while True:
            self.run_due()
            deadline = self._order[0] * TICK_SECONDS if self._order else float("inf")
            with trio.CancelScope(deadline=deadline) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
