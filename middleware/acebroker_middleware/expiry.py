"""Expiry: the rights of a connection end with its authority's `authorized_until`, to the round.

    granted ──> conn.rights_end, on Clock.now ──┬─ octets come in       authz            ─┐
                                                ├─ octets would go out  Delivery.send    ─┼─> 0x87, the connection ends
                                                └─ nothing happens      a timer          ─┘

`authorized_until` is a time of day, and rounds go by the other clock, which never jumps: the one is computed anew from
the other at least every RECHECK_SECONDS, so a time of day that is set forward or back is followed within that.
What was decided with earlier rights goes when there are new ones.

A connection that is in the middle of a re-authentication when its rights end is given a little longer (`conn.expired`):
it is ended when that time is over, or as soon as anything has to be sent to it that needs rights.

Those on which nothing happens are ended by whoever drives `end_some`, so many at a time: thousands may end in the same
second. Without a driver each is ended by its timer.

Statements: ACE-4-1, ACE-4-3, ACE-4-4, ACE-4-5, ACE-9202-4, ADJ-9200-37.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Final

from acebroker_codec.protocol import State
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import RightsEnded
from acebroker_middleware.router import Router
from acebroker_middleware.state.ports import Timers

__all__ = ["RECHECK_SECONDS", "Expiry"]

#: how often the time of day is looked at again
RECHECK_SECONDS: Final = 60.0
#: upper half of the first octet of PUBLISH
_PUBLISH: Final = 0x30


class Expiry:
    """The expiry of all connections of a broker.

    `extension_seconds`: what a re-authentication that runs is given. `wake`: called when `end_some` has something to
    do; None where nobody calls that.
    """

    def __init__(self, round_: Round, timers: Timers, router: Router, extension_seconds: float = 0.0) -> None:
        self._round = round_
        self._timers = timers
        self._router = router
        self._extension = extension_seconds
        #: those whose time has come, in that order
        self._due: deque[Connection] = deque()
        self.wake: Callable[[], None] | None = None

    # ---- rights come ----

    def granted(self, conn: Connection) -> None:
        """A connection has got an authority. Raises RightsEnded where the first one is over; another one is ended."""
        conn.expired = False
        self._void(conn)
        if self._watch(conn):
            return
        if not conn.connected:
            raise RightsEnded
        self.end(conn)

    def _void(self, conn: Connection) -> None:
        conn.forget_flows()
        if conn.session is not None:
            self._router.invalidate_session(conn.session)

    def _watch(self, conn: Connection) -> bool:
        """Set a connection's `rights_end` and the timer for it; False when that is over."""
        if conn.expiry_timer is not None:
            conn.expiry_timer.cancel()
            conn.expiry_timer = None
        until = None if conn.authority is None else conn.authority.authorized_until
        if until is None:
            conn.rights_end = inf
            return True
        if conn.expired:
            until += self._extension
        clock = self._round.clock
        left = until - clock.wall
        conn.rights_end = clock.now + left
        if left <= 0:
            return False
        due = clock.now + min(left, RECHECK_SECONDS)
        conn.expiry_timer = self._timers.call_at(due, partial(self._look, conn))
        return True

    # ---- and go ----

    def _look(self, conn: Connection) -> None:
        if self._watch(conn):
            return
        if self.wake is None:
            self.met(conn)
        else:
            self._due.append(conn)
            self.wake()

    def end_some(self, connections_max: int) -> bool:
        """End connections whose time has come, so many at most; True when there are more."""
        for _ in range(min(connections_max, len(self._due))):
            conn = self._due.popleft()
            if conn.rights_end <= self._round.clock.now:
                self.met(conn)
        return bool(self._due)

    def met(self, conn: Connection) -> bool:
        """A connection was found to be past the end of its rights. True when octets may go to it all the same.

        Otherwise it is ended, and what waits to be sent to it is lost, but for what its session keeps.
        """
        if self._may_go_on(conn):
            conn.expired = True
            self._void(conn)
            if self._watch(conn):
                self._round.counters.denials["rights ended: extended"] += 1
                return True
        self.end(conn)
        return False

    def _may_go_on(self, conn: Connection) -> bool:
        if conn.cut or conn.expired or not self._extension or conn.protocol.state is not State.REAUTHENTICATING:
            return False
        # nothing that needs rights may be under way
        return not conn.blocked and not any(chunk[0] & 0xF0 == _PUBLISH for chunk in conn.out)

    def end(self, conn: Connection) -> None:
        """The rights are over: so is the connection. Until it is, nothing more is sent."""
        if not conn.cut:
            self._round.counters.denials["rights ended"] += 1
            conn.cut = True
            conn.send_max = 0
            conn.end(RightsEnded())
        _drop(conn)

    def settled(self, conn: Connection) -> None:
        """The connection is over: what may not go to it is dropped, and its last packet may."""
        if conn.rights_end <= self._round.clock.now:
            _drop(conn)
        conn.rights_end = inf


def _drop(conn: Connection) -> None:
    """What waits is not sent, but for the rest of a send that was cut short: what follows could not be read without."""
    del conn.out[1 if conn.blocked else 0 :]
    conn.out_octets = sum(map(len, conn.out))
