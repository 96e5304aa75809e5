"""Octets out: at the end of a round, one send for each connection that got something.

A socket that takes no more makes its connection `blocked`: its out-queue, bounded in octets, waits for
`writable`, while everybody else goes on. At most JOIN_BYTES_MAX are joined for one send, so that a long
backlog is never copied again and again.
"""

from __future__ import annotations

from typing import Final

from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.expiry import Expiry
from trio_acebroker.runtime.back_pressure import BackPressure

__all__ = ["JOIN_BYTES_MAX", "Delivery"]

#: most octets joined for one send
JOIN_BYTES_MAX: Final = 262_144


class Delivery:
    """Sends what the rounds of one broker leave in out-queues."""

    def __init__(self, round_: Round, deliver: Deliver, pressure: BackPressure, expiry: Expiry) -> None:
        self._round = round_
        self._pressure = pressure
        self._expiry = expiry
        self._deliver = deliver
        self._counters = round_.counters

    def flush(self) -> None:
        """The end of a round: send for every dirty connection that is not blocked."""
        while self._round.dirty:
            dirty = self._round.dirty
            self._round.dirty = []
            for conn in dirty:
                conn.dirty = False
                if not conn.blocked:
                    self.send(conn)
        if self._pressure.blocked:
            self._pressure.check()

    def send(self, conn: Connection) -> None:
        """Send one out-queue as far as the socket takes it; fill it again from the session, once.

        Called in the middle of others' rounds: what goes wrong ends this connection.
        """
        if conn.rights_end <= self._round.clock.now and not self._expiry.met(conn):
            return
        try:
            if not self._drain(conn):
                return
            session = conn.session
            if session is not None and (session.queue or session.retained_waiting or session.resend or session.groups):
                more = self._deliver.pump(session)
                if self._drain(conn) and more:
                    # the rest goes when the others had their turn
                    self._block(conn)
        except Exception as error:
            failure = StageFailure("delivery failed")
            failure.__cause__ = error
            conn.end(failure)

    def writable(self, conn: Connection) -> bool:
        """The socket of a blocked connection takes octets again; True when nothing is left to send."""
        if conn.rights_end <= self._round.clock.now and not self._expiry.met(conn):
            return False  # while it is blocked: a frame may have been sent in part
        conn.blocked = False
        self._pressure.blocked.discard(conn)
        self.send(conn)
        return not conn.blocked

    def _drain(self, conn: Connection) -> bool:
        """True when everything was taken."""
        out = conn.out
        while out:
            if len(out) == 1:
                data, used = out[0], 1
            elif conn.out_octets <= JOIN_BYTES_MAX:
                data, used = b"".join(out), len(out)
            else:
                used, octets = 0, 0
                while used < len(out) and (octets := octets + len(out[used])) <= JOIN_BYTES_MAX:
                    used += 1
                used = max(1, used)
                data = b"".join(out[:used])
            try:
                sent = conn.transmit(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._broken(conn)
                return False
            self._counters.octets_sent += sent
            conn.out_octets -= sent
            if sent < len(data):
                out[:used] = [data[sent:]]
                self._block(conn)
                return False
            del out[:used]
        return True

    def _block(self, conn: Connection) -> None:
        conn.blocked = True
        self._pressure.blocked.add(conn)
        conn.want_writable()

    def forget(self, conn: Connection) -> None:
        """A connection ends, or is closed: what still waits for its socket counts no more."""
        self._pressure.blocked.discard(conn)

    def _broken(self, conn: Connection) -> None:
        """The client is gone; reading will say so to its own task. Nothing is kept for it."""
        self._pressure.blocked.discard(conn)
        conn.out.clear()
        conn.out_octets = 0
        conn.closed = True
        conn.transmit = _swallow


def _swallow(data: bytes) -> int:
    return len(data)
