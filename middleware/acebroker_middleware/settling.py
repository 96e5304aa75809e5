"""Settling: what a batch has to tell the store of its session, and what is answered once that is durable.

PUBREC leaves after the publication is kept, PUBREL after the store knows that the message was received.
Other acknowledgements are told to the store, and nobody waits for that.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from acebroker_codec.packets import Pubrel
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.hand_offs import or_failed, stage_error, unwatched
from acebroker_middleware.observe import logger
from acebroker_middleware.state.ports import Settle, Store
from acebroker_middleware.state.session_state import SessionState

__all__ = ["Settling", "store_failed", "store_failed_for"]


class Settling:
    """For one batch of a connection that is attached to `state`. The session stage fills it."""

    __slots__ = ("conn", "received", "releases", "state", "steps")

    def __init__(self, conn: Connection, state: SessionState | None) -> None:
        self.conn = conn
        self.state = state
        self.steps: list[Settle] = []
        #: Packet Identifiers of QoS 2 publications that came for the first time
        self.received: list[int] = []
        self.releases: list[Pubrel] = []

    def settle(self, round_: Round, store: Store) -> Awaitable[None] | None:
        """Tell the store, then answer. An awaitable: the client gets its answers when that is done."""
        settled = None
        if self.steps:
            try:
                settled = store.settle(self.steps)
            except Exception as error:
                self._failed(error)
                raise
        if settled is None:
            self._answer()
        elif self.received or self.releases:
            return round_.errand(or_failed(settled, self._failed), self._answer)
        elif self.state is not None:
            unwatched(round_, lambda: settled, partial(store_failed, self.state))
        return None

    def _answer(self, settled: None = None) -> None:
        conn = self.conn
        if conn.session is None or conn.session is not self.state:
            return  # it is gone, or its last packet was sent
        for identifier in self.received:
            conn.ack_queue.pubrec.fill(identifier)
        for pubrel in self.releases:
            conn.send(pubrel)

    def _failed(self, error: Exception) -> None:
        """What is sent again was not received before."""
        if self.state is not None:
            for identifier in self.received:
                self.state.let_go(identifier)


def store_failed(state: SessionState, error: Exception) -> None:
    """The store has not done what it was asked for a session, and nobody waited for it: its client has to go."""
    if state.connection is not None:
        state.connection.end(stage_error("store", error))
    else:
        store_failed_for(state.client_identifier, error)


def store_failed_for(client_identifier: str, error: Exception) -> None:
    """The same where no client is there to be told: it is logged."""
    logger.error("the store failed: %r", error, extra={"client_id": client_identifier})
