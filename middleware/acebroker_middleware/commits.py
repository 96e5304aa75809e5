"""Commits: publications that the store has to have before anybody gets them and before they are acknowledged.

Which those are: what a durable session must get (QoS 1 and 2), what is retained, and the release of a QoS 2
publication that the publisher's own durable session holds: one call has it stored for all who must get it, and
released, or nothing. A commit that has to be waited for is an errand: it goes to its end, and what it stored
goes out, even when its publisher is gone meanwhile.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Publish
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.flows import Route
from acebroker_middleware.hand_offs import both, or_failed, unwatched
from acebroker_middleware.observe import logger
from acebroker_middleware.settling import store_failed
from acebroker_middleware.state.message import Delivery, Frames, Message, property_octets
from acebroker_middleware.state.ports import Enqueue, Maybe, Settle, Store
from acebroker_middleware.state.retained import RetainedFull, octets_of
from acebroker_middleware.state.session_state import SessionState

if TYPE_CHECKING:
    from acebroker_middleware.router import Router

__all__ = ["Commit", "Commits", "acknowledge"]

#: a session and what has to be stored for it
Stored = tuple[SessionState, Delivery]


class Commit:
    """Publications of one client, in order, and what the store is asked for them.

    Each is its packet, the publisher's session, its message (None: nothing goes out), and for whom it is stored.
    """

    __slots__ = ("conn", "publications", "retained", "retained_octets", "rows", "steps")

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.publications: list[tuple[Publish, SessionState | None, Message | None, list[Stored]]] = []
        self.rows: list[Enqueue] = []
        self.steps: list[Settle] = []
        #: topic -> message to retain, None = to forget
        self.retained: dict[str, Message | None] = {}
        self.retained_octets = 0


class Commits:
    """Makes commits for the router of one broker."""

    def __init__(self, round_: Round, store: Store, router: Router) -> None:
        self._round = round_
        self._store = store
        self._router = router
        self._retained = router.retained

    @staticmethod
    def needed(conn: Connection, packet: Publish, route: Route) -> bool:
        """Whether a PUBLISH waits for the store."""
        if packet.retain or (packet.qos and route.durable):
            return True
        return packet.qos == 2 and conn.session is not None and conn.session.durable

    def has_room(self, commit: Commit, packet: Publish) -> bool:
        """Whether a PUBLISH can join, whatever else the commit retains; if not, the commit has to be made first."""
        if not packet.retain or not packet.payload:
            return True
        octets = len(packet.payload) + property_octets(packet.properties)
        return self._retained.admits(packet.topic, octets, len(commit.retained), commit.retained_octets)

    def join(self, commit: Commit, packet: Publish, message: Message | None, route: Route) -> None:
        """Add a PUBLISH, and its message unless that expired. One that cannot be retained is refused."""
        state = commit.conn.session
        if message is not None and packet.retain:
            if not self.has_room(commit, packet):
                self._round.counters.retained_refused += 1
                commit.conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, "limit: retained messages")
                return
            if commit.conn.lease is not None:
                message = replace(message, lease=commit.conn.lease)
            commit.retained[message.topic] = message if message.payload else None
            commit.retained_octets += octets_of(message)
        if packet.qos == 2 and state is not None:
            identifier = packet.packet_identifier
            state.committing[identifier] = state.releasing.pop(identifier, packet)
            if state.durable:
                commit.steps.append(Settle(state.client_identifier, state.epoch, "inbound_done", identifier))
        stored = _stored(route, message) if message is not None and message.qos else []
        commit.rows.extend(Enqueue(target.client_identifier, delivery) for target, delivery in stored)
        commit.publications.append((packet, state, message, stored))

    def make(self, commit: Commit) -> Awaitable[None] | None:
        """Ask the store for all of it; None when it is done."""
        kept = None
        sequences: Maybe[list[int]] = []
        try:
            if commit.retained:
                kept = self._retain(commit.retained)
            if commit.rows or commit.steps:
                sequences = self._store.enqueue(commit.rows, commit.steps)
        except Exception as error:
            self._failed(commit, error)
            raise
        if kept is not None or inspect.isawaitable(sequences):
            pending = or_failed(both(kept, sequences), partial(self._failed, commit))
            return self._round.errand(pending, partial(self._made, commit))
        self._made(commit, sequences)
        return None

    @staticmethod
    def _failed(commit: Commit, error: Exception) -> None:
        """Nothing went out: a PUBREL that comes again finds what it releases, one that came already cannot."""
        for packet, state, _, _ in commit.publications:
            if packet.qos == 2 and state is not None:
                state.hold(packet.packet_identifier, state.committing.pop(packet.packet_identifier))
                if state.connection is not None and state.connection is not commit.conn:
                    store_failed(state, error)

    def _made(self, commit: Commit, sequences: list[int]) -> None:
        numbers = iter(sequences)
        for packet, state, message, stored in commit.publications:
            matched = 0 if message is None else self._offer(message, stored, numbers, packet.retain)
            if packet.qos:
                acknowledge(commit.conn, state, packet, matched)

    def publish(self, message: Message, route: Route, *, retain: bool) -> Maybe[int]:
        """The same for a message of the broker itself, or a Will; gives how many subscribers were found.

        Raises RetainedFull. An awaitable may be dropped: the message goes its way.
        """
        kept = None
        if retain:
            beside_topic = message.octets - len(message.topic)
            if message.payload and not self._retained.admits(message.topic, beside_topic):
                raise RetainedFull("no room for one more retained message")
            kept = self._retain({message.topic: message if message.payload else None})
        stored = _stored(route, message) if message.qos else []
        sequences: Maybe[list[int]] = []
        if stored:
            sequences = self._store.enqueue([Enqueue(state.client_identifier, delivery) for state, delivery in stored])
        if kept is not None or inspect.isawaitable(sequences):
            offer = partial(self._offer_later, message, stored, retain)
            return self._round.errand(both(kept, sequences), offer)
        return self._offer(message, stored, iter(sequences), retain)

    def _retain(self, retained: dict[str, Message | None]) -> Awaitable[None] | None:
        kept = [message for message in retained.values() if message is not None]
        return self._store.retain(kept, [topic for topic, message in retained.items() if message is None])

    def _offer_later(self, message: Message, stored: list[Stored], retain: bool, sequences: list[int]) -> int:
        return self._offer(message, stored, iter(sequences), retain)

    def _offer(self, message: Message, stored: list[Stored], sequences: Iterator[int], retain: bool) -> int:
        """Retain a message, offer it to those it is stored for, and to everybody else."""
        router = self._router
        if retain:
            self._keep(message)
        frames = Frames(message, self._round.clock.now)
        for state, delivery in stored:
            numbered = Delivery(
                message, delivery.qos, delivery.retain, delivery.subscription_identifiers, None, next(sequences)
            )
            router.deliver.offer(state, numbered, frames, checked=False)
        had = {state for state, _ in stored}
        return len(stored) + router.fan_out(router.routes.get(message.topic), message, frames, had)

    def _keep(self, message: Message) -> None:
        if not message.payload:
            self._retained.remove(message.topic)  # [MQTT-3.3.1-6], [MQTT-3.3.1-7]
            return
        try:
            self._retained.put(message)
        except RetainedFull as error:  # others took the room while the store was waited for
            self._round.counters.retained_refused += 1
            failed = partial(logger.error, "the store keeps %s, which is not retained: %s", message.topic, error)
            unwatched(self._round, partial(self._store.retain, (), (message.topic,)), lambda _: failed())


def _stored(route: Route, message: Message) -> list[Stored]:
    """The deliveries of a message that have to be stored."""
    found = []
    for target in route.targets:
        state = target.session
        if not state.durable:
            continue
        if target.no_local and state.client_identifier == message.publisher:
            if target.own is None:
                continue  # [MQTT-3.8.3-3]
            target = target.own
        qos = min(message.qos, target.qos)
        if qos:
            retain = message.retain and target.retain_as_published
            found.append((state, Delivery(message, qos, retain, target.identifiers)))
    return found


def acknowledge(conn: Connection, state: SessionState | None, packet: Publish, matched: int) -> None:
    """The end of a PUBLISH of QoS 1 or 2 that went out: its publisher hears of it, if it is still there.

    PUBCOMP goes to whom the session belongs now, if it sent its PUBREL again meanwhile.
    """
    identifier = packet.packet_identifier
    if packet.qos == 1:
        if conn.session is not None:
            conn.ack_queue.puback.fill(identifier, 0 if matched else ReasonCode.NO_MATCHING_SUBSCRIBERS)
    elif state is not None:
        state.releasing.pop(identifier, None)
        state.committing.pop(identifier, None)
        if state.connection is not None and state.connection.ack_queue.pubcomp.waits(identifier):
            state.connection.ack_queue.pubcomp.fill(identifier)
