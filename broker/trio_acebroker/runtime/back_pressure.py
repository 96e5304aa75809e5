"""Back-pressure: what happens when all out-queues together grow over their bound.

Each client's out-queue has a bound of its own; this is about their sum, over connected clients only:

    FLOWING ── sum > out_queues_bytes_max ──> PAUSED ── sum <= half of it ──> FLOWING
                                                │  ^
                          pause_seconds_max over└──┘ the largest queues are cut (0x97) until half is left

While PAUSED, clients that send are not read, so that slow readers can catch up; one that owes us
acknowledgements is read all the same, as its queue could not become shorter otherwise. Nobody's Keep Alive runs
out because we did not read. A pause that never ends would be one slow client's power over all others: hence the cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import QuotaExceeded
from acebroker_middleware.state.ports import Timers

__all__ = ["BackPressure"]

#: how often the sum is taken during a pause
MEASURE_SECONDS: Final = 0.1
#: queues added up per round, on the average: with more of them the sum is taken in every second round, third ...
QUEUES_PER_ROUND: Final = 64

logger = logging.getLogger("trio_acebroker.back_pressure")


class BackPressure:
    """The state above for one broker. `resumed` are called when reading goes on."""

    def __init__(self, round_: Round, timers: Timers) -> None:
        self._round = round_
        self._timers = timers
        limits = round_.limits
        self._bytes_max = limits.out_queues_bytes_max
        self._suspects_min = limits.out_queues_bytes_max // limits.out_queue_bytes_max
        self._seconds_max = limits.pause_seconds_max
        #: connections whose socket takes no more: only they have queues between two rounds
        self.blocked: set[Connection] = set()
        self.paused = False
        self.resumed: list[Callable[[], None]] = []
        self._since = 0.0
        self._rounds = 0

    def holds(self, conn: Connection) -> bool:
        """Whether this connection must not be read now."""
        return self.paused and conn.connected and not (conn.session is not None and conn.session.window)

    def check(self) -> None:
        """The end of a round with blocked connections: take the sum where it can be too large."""
        if self.paused or len(self.blocked) < self._suspects_min:
            return
        self._rounds += 1
        if self._rounds * QUEUES_PER_ROUND >= len(self.blocked):
            self._rounds = 0
            self._measure()

    def _measure(self) -> None:
        now = self._round.clock.now
        total = sum(conn.out_octets for conn in self.blocked)
        if not self.paused:
            if total > self._bytes_max:
                self.paused = True
                self._since = now
                self._round.counters.pauses += 1
                logger.warning("%d octets wait for clients that do not read: publishers are not read", total)
                self._timers.call_at(now + MEASURE_SECONDS, self._measure)
            return
        if total > self._bytes_max // 2 and now - self._since >= self._seconds_max:
            total -= self._shed(total - self._bytes_max // 2)
        if total <= self._bytes_max // 2:
            self.paused = False
            for resumed in self.resumed:
                resumed()
        else:
            self._timers.call_at(now + MEASURE_SECONDS, self._measure)

    def _shed(self, octets: int) -> int:
        """Cut the connections with the largest out-queues until so many octets are gone; gives how many are."""
        gone = 0
        for conn in sorted(self.blocked, key=lambda blocked: blocked.out_octets, reverse=True):
            if gone >= octets:
                break
            gone += conn.out_octets
            self._round.counters.shed += 1
            self._round.counters.denials["limit: out-queues of all clients"] += 1
            conn.end(QuotaExceeded("limit: out-queues of all clients"))
            self.blocked.discard(conn)
        return gone
