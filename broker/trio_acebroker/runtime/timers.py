"""One clock and one wheel for a whole broker: Keep Alive, Session Expiry, Will Delay, time-outs.

Timers are kept in buckets of TICK_SECONDS: setting and cancelling one are dictionary steps, and the task sleeps
until the first bucket that is due. Nothing here costs anything per message, and nothing stays of what was cancelled:
a session that comes and goes sets a timer of a month each time.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["TICK_SECONDS", "CoarseClock", "Wheel", "WheelTimer"]

#: how exact a timer is: never early, late by at most this much and the round that runs
TICK_SECONDS: Final = 0.1
#: ticks that are remembered though everything set for them was cancelled, beside as many as are in use
STALE_TICKS_MAX: Final = 64

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

    __slots__ = ("_tick", "_wheel", "callback")

    def __init__(self, wheel: Wheel, tick: int, callback: Callable[[], None]) -> None:
        self._wheel = wheel
        self._tick = tick
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """See `ports.Timer`. Nothing of it stays."""
        if self.callback is not None:
            self.callback = None
            self._wheel.forget(self._tick, self)


class Wheel:
    """Timers of one broker. `after` is called once after each round of due timers (to send what they caused)."""

    def __init__(self, clock: CoarseClock, after: Callable[[], None]) -> None:
        self._clock = clock
        self._after = after
        self._buckets: dict[int, dict[WheelTimer, None]] = {}
        #: a heap of ticks; some have no bucket any more
        self._order: list[int] = []
        self._sleep: trio.CancelScope | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def call_at(self, deadline: float, callback: Callable[[], None]) -> WheelTimer:
        """See `ports.Timers`."""
        tick = int(deadline / TICK_SECONDS)
        if tick * TICK_SECONDS < deadline:
            tick += 1
        timer = WheelTimer(self, tick, callback)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {timer: None}
            heapq.heappush(self._order, tick)
            if self._sleep is not None and self._sleep.deadline > tick * TICK_SECONDS:
                self._sleep.deadline = tick * TICK_SECONDS
        else:
            bucket[timer] = None
        return timer

    def forget(self, tick: int, timer: WheelTimer) -> None:
        """A timer was cancelled."""
        bucket = self._buckets.get(tick)
        if bucket is None or bucket.pop(timer, self) is self or bucket:
            return
        del self._buckets[tick]
        if len(self._order) > 2 * len(self._buckets) + STALE_TICKS_MAX:
            self._order = list(self._buckets)
            heapq.heapify(self._order)

    def run_due(self) -> None:
        """Call everything that is due, and nothing that is set meanwhile.

        An exception of one callback is logged and stops none of the others.
        """
        self._clock.stamp()
        now = self._clock.now
        due: list[WheelTimer] = []
        while self._order and self._order[0] * TICK_SECONDS <= now:
            due.extend(self._buckets.pop(heapq.heappop(self._order), ()))
        for timer in due:
            callback = timer.callback
            if callback is None:
                continue
            timer.callback = None
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
            while self._order and self._order[0] not in self._buckets:
                heapq.heappop(self._order)
            deadline = self._order[0] * TICK_SECONDS if self._order else float("inf")
            with trio.CancelScope(deadline=deadline) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
