"""Expiry: the rights of a connection end with its authority's `authorized_until`, to the round.

    granted ──> conn.rights_end, on Clock.now ──┬─ octets come in       Pipeline.feed   ─┐
                                                ├─ octets would go out  Delivery.send   ─┼─> 0x87, the connection ends
                                                └─ nothing happens      a timer         ─┘

`authorized_until` is a time of day, and rounds go by the other clock, which never jumps: the one is computed anew from
the other at least every RECHECK_SECONDS, so a time of day that is set forward or back is followed within that.
What was decided with earlier rights goes when there are new ones.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Final

from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import RightsEnded
from acebroker_middleware.router import Router
from acebroker_middleware.state.ports import Timers

__all__ = ["RECHECK_SECONDS", "Expiry"]

#: how often the time of day is looked at again
RECHECK_SECONDS: Final = 60.0


class Expiry:
    """The expiry of all connections of a broker."""

    def __init__(self, round_: Round, timers: Timers, router: Router) -> None:
        self._round = round_
        self._timers = timers
        self._router = router

    def granted(self, conn: Connection) -> None:
        """A connection has got an authority. Raises RightsEnded where the first one is over; another one is ended."""
        conn.forget_flows()
        if conn.session is not None:
            self._router.invalidate_session(conn.session)
        if self._watch(conn):
            return
        if not conn.connected:
            raise RightsEnded
        self.end(conn)

    def _due(self, conn: Connection) -> None:
        if not self._watch(conn):
            self.end(conn)

    def _watch(self, conn: Connection) -> bool:
        """Set a connection's `rights_end` and the timer for it; False when that is over."""
        if conn.expiry_timer is not None:
            conn.expiry_timer.cancel()
            conn.expiry_timer = None
        until = None if conn.authority is None else conn.authority.authorized_until
        if until is None:
            conn.rights_end = inf
            return True
        clock = self._round.clock
        left = until - clock.wall
        conn.rights_end = clock.now + left
        if left <= 0:
            return False
        due = clock.now + min(left, RECHECK_SECONDS)
        conn.expiry_timer = self._timers.call_at(due, partial(self._due, conn))
        return True

    def end(self, conn: Connection) -> None:
        """The rights are over: so is the connection."""
        self._round.counters.denials["rights ended"] += 1
        conn.end(RightsEnded())
