"""Claims: how a CONNECT gets its session from the store, and what becomes of one that nobody takes in the end.

    CONNECT ──claim──> waiting ──> the session is known here ───────────────────> attached
                          │   └──> only the store knows it: read all of it ──┘
                          ├── a rival came: the last to claim gets it
                          └── the connection ended, or the store failed: detached, or removed where it is new

A claim that has to be waited for goes to its end even when its connection does not, so that no session stays
claimed by nobody.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Connect
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import ConnectionRefused, SessionTakenOver
from acebroker_middleware.hand_offs import or_failed, then, unwatched
from acebroker_middleware.settling import store_failed_for
from acebroker_middleware.state.ports import Claim, Identity, Kept, Store, Stored
from acebroker_middleware.state.session_state import NEVER_EXPIRES, SessionState

if TYPE_CHECKING:
    from acebroker_middleware.router import Router
    from acebroker_middleware.session import Session

__all__ = ["READ_MAX", "Claims"]

#: messages of a session that are read from the store in one call
READ_MAX: Final = 1_000


class Claims:
    """The claims of one broker, for its session stage. `len` is how many are under way."""

    def __init__(self, round_: Round, store: Store, router: Router, session: Session) -> None:
        self._round = round_
        self._store = store
        self._router = router
        self._session = session
        #: Client Identifier -> the connection that waits for its session
        self._waiting: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def claim(
        self, conn: Connection, connect: Connect, identity: Identity, *, clean_start: bool, by_anyone: bool
    ) -> Awaitable[None] | None:
        """Claim the session of a connection and attach it: at once, or when the awaitable is done."""
        name = conn.client_identifier
        self._waiting[name] = conn
        try:
            claim = self._store.claim(name, identity, clean_start=clean_start, by_anyone=by_anyone)
            if inspect.isawaitable(claim):
                pending = or_failed(claim, partial(self._failed, conn))
                return self._round.errand(pending, partial(self._claimed, conn, connect))
            given = self._claimed(conn, connect, claim)
        except Exception as error:
            self._failed(conn, error)
            raise
        return None if given is None else self._round.errand(given, _nothing)

    def give_up(self, name: str, error: SessionTakenOver) -> None:
        """Somebody else wants the session for which a connection waits."""
        rival = self._waiting.pop(name, None)
        if rival is not None:
            rival.end(error)

    def lost(self, conn: Connection) -> None:
        """The connection is over. What that means for its session is decided when the claim is there."""
        if self._waiting.get(conn.client_identifier) is conn:
            del self._waiting[conn.client_identifier]

    # ---- what the store gave ----

    def _claimed(self, conn: Connection, connect: Connect, claim: Claim) -> Awaitable[None] | None:
        """Much may have happened in the meantime."""
        if not claim.epoch:
            raise self._refused(conn)
        if not claim.present or conn.client_identifier in self._session.sessions:
            self._give(conn, connect, claim)
            return None
        restoring = self._restore(conn, connect, claim, [])
        return None if restoring is None else or_failed(restoring, partial(self._failed, conn))

    def _refused(self, conn: Connection) -> ConnectionRefused:
        error = ConnectionRefused(ReasonCode.NOT_AUTHORIZED, "the session belongs to another identity")
        self._failed(conn, error)
        return error

    def _restore(self, conn: Connection, connect: Connect, claim: Claim, rows: list[Stored]) -> Awaitable[None] | None:
        """A session that another broker had: `rows` are its messages so far."""
        name = conn.client_identifier
        while True:
            found = self._store.read(name, claim.epoch, rows[-1].sequence if rows else 0, READ_MAX)
            if inspect.isawaitable(found):
                return then(found, partial(self._restore_more, conn, connect, claim, rows))
            rows = rows + found
            if len(found) < READ_MAX:
                self._restored(conn, connect, claim, rows)
                return None

    def _restore_more(
        self, conn: Connection, connect: Connect, claim: Claim, rows: list[Stored], found: list[Stored]
    ) -> Awaitable[None] | None:
        if len(found) == READ_MAX:
            return self._restore(conn, connect, claim, rows + found)
        self._restored(conn, connect, claim, rows + found)
        return None

    def _restored(self, conn: Connection, connect: Connect, claim: Claim, rows: list[Stored]) -> None:
        if conn.client_identifier not in self._session.sessions:
            assert claim.identity is not None
            self._adopt(Kept(conn.client_identifier, claim.identity, False), claim, rows)
        self._give(conn, connect, claim)

    def _give(self, conn: Connection, connect: Connect, claim: Claim) -> None:
        name = conn.client_identifier
        if self._waiting.get(name) is conn:
            del self._waiting[name]
            self._session.open(conn, connect, claim.epoch)
            return
        state = self._session.sessions.get(name)
        if state is None and name not in self._waiting:
            remove = partial(self._store.remove, name, claim.epoch)
            unwatched(self._round, remove, partial(store_failed_for, name))
        elif state is not None:
            state.epoch = max(state.epoch, claim.epoch)
            self._leave(state)

    def _failed(self, conn: Connection, error: Exception) -> None:
        """The connection does not get its session, which waits for another one as before."""
        self.lost(conn)
        state = self._session.sessions.get(conn.client_identifier)
        if state is not None:
            self._leave(state)

    def _leave(self, state: SessionState) -> None:
        if state.connection is None and state.client_identifier not in self._waiting:
            self._session.detach(state)

    # ---- at start-up ----

    def adopt(self, kept: Kept, claim: Claim, rows: Sequence[Stored]) -> None:
        """Take over a session that an earlier broker left in the store: claimed, and `rows` all its messages.

        It is detached, as if its client had just been here; one that was never released has the longest expiry.
        """
        self._session.detach(self._adopt(kept, claim, rows))

    def _adopt(self, kept: Kept, claim: Claim, rows: Sequence[Stored]) -> SessionState:
        state = SessionState(kept.client_identifier, kept.identity, claim.epoch)
        state.durable = True
        for identifier, publish in claim.inbound:
            state.hold(identifier, publish)
        for _, identifier in claim.releases:
            state.window.released[identifier] = None
        for row in rows:
            state.queue.append(replace(row.delivery, sequence=row.sequence))
            state.queued_octets += row.delivery.message.octets
        self._session.sessions[kept.client_identifier] = state
        self._router.restore(state, claim.subscriptions)
        state.expiry_interval = self._round.limits.session_expiry_seconds_max or 1
        if kept.released:
            state.expiry_interval = NEVER_EXPIRES
            if kept.expires_at is not None:
                state.expiry_interval = max(1, int(kept.expires_at - self._round.clock.wall))
        return state


def _nothing(given: None) -> None:
    return None
