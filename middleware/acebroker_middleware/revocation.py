"""Revocation: a token is worth nothing any more, before its time is over.

Its connections end, what was retained under it is removed, it is kept no longer, and shown again it is refused. Who
says so is not decided here.
"""

from __future__ import annotations

from functools import partial

from acebroker_middleware.connection import Round
from acebroker_middleware.expiry import Expiry
from acebroker_middleware.hand_offs import unwatched
from acebroker_middleware.session import Session
from acebroker_middleware.settling import store_failed_for
from acebroker_middleware.state.ports import Store
from acebroker_middleware.state.retained import RetainedMessages
from acebroker_middleware.tokens import Tokens
from acebroker_middleware.verification import Verification

__all__ = ["Revocation"]


class Revocation:
    """Revokes tokens of one broker."""

    def __init__(
        self,
        round_: Round,
        store: Store,
        session: Session,
        retained: RetainedMessages,
        expiry: Expiry,
        tokens: Tokens,
        verification: Verification,
    ) -> None:
        self._round = round_
        self._store = store
        self._session = session
        self._retained = retained
        self._expiry = expiry
        self._tokens = tokens
        self._verification = verification

    def revoke(self, token: bytes) -> int:
        """Revoke a token, by the SHA-256 of its octets; gives how many connections are ended."""
        self._verification.revoke(token)
        kept = self._tokens.with_octets(token)
        if kept is not None:
            self._tokens.discard(kept.token.confirmed_by)
        topics = self._retained.revoke(token)
        if topics:
            unwatched(self._round, partial(self._store.retain, (), topics), partial(store_failed_for, ""))
        found = [
            state.connection
            for state in self._session.sessions.values()
            if state.connection is not None
            and state.connection.lease is not None
            and state.connection.lease.token == token
        ]
        for conn in found:
            conn.rights_end = self._round.clock.now
            self._expiry.end(conn)
        return len(found)
