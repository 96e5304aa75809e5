"""The Store that keeps everything in this process: sessions outlive connections, not the process.

The reference for the port's contract: it never waits, checks every epoch, and keeps exactly what a
durable store would have to keep. Epochs come from one counter, so that a session that was removed and
made again never meets its own past.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from acebroker_codec.packets import Publish
from acebroker_middleware.state.message import Delivery, Message
from acebroker_middleware.state.ports import Claim, Enqueue, Fenced, Identity, Kept, Settle, Stored
from acebroker_middleware.state.subscriptions import Subscription

__all__ = ["MemoryStore"]


class _Row:
    __slots__ = ("epoch", "expires_at", "identity", "inbound", "last", "queue", "released", "releases", "subscriptions")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.epoch = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.queue: dict[int, Delivery] = {}
        self.last = 0
        #: Packet Identifier -> sequence, for messages received but not completed
        self.releases: dict[int, int] = {}
        self.inbound: dict[int, Publish] = {}
        self.released = False
        self.expires_at: float | None = None


class MemoryStore:
    """Store in memory. One broker at a time, or one after the other, may use it."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._epochs = count(1)
        self._retained: dict[str, Message] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self._rows)} sessions, {len(self._retained)} retained messages>"

    def claim(self, client_identifier: str, identity: Identity, *, clean_start: bool, by_anyone: bool = False) -> Claim:
        """See the port."""
        row = self._rows.get(client_identifier)
        if row is not None and row.identity != identity and not by_anyone:
            return Claim(0, True, row.identity)
        epoch = next(self._epochs)
        if row is None or clean_start:
            row = self._rows[client_identifier] = _Row(identity)
            row.epoch = epoch
            return Claim(epoch, False)
        row.epoch = epoch
        row.released = False
        return Claim(
            epoch,
            True,
            row.identity,
            tuple(row.subscriptions.values()),
            tuple((sequence, identifier) for identifier, sequence in row.releases.items()),
            tuple(row.inbound.items()),
        )

    def release(self, client_identifier: str, epoch: int, *, expires_at: float | None) -> None:
        """See the port."""
        row = self._owned(client_identifier, epoch)
        row.released = True
        row.expires_at = expires_at

    def remove(self, client_identifier: str, epoch: int) -> None:
        """See the port."""
        self._owned(client_identifier, epoch)
        del self._rows[client_identifier]

    def subscribe(self, client_identifier: str, epoch: int, add: Sequence[Subscription], drop: Sequence[str]) -> None:
        """See the port."""
        row = self._owned(client_identifier, epoch)
        for topic_filter in drop:
            row.subscriptions.pop(topic_filter, None)
        for subscription in add:
            row.subscriptions[subscription.topic_filter] = subscription

    def enqueue(self, rows: Sequence[Enqueue], steps: Sequence[Settle] = ()) -> list[int]:
        """See the port."""
        self.settle(steps)
        sequences = []
        for entry in rows:
            row = self._rows.get(entry.client_identifier)
            if row is None:
                sequences.append(0)
                continue
            row.last += 1
            row.queue[row.last] = entry.delivery
            sequences.append(row.last)
        return sequences

    def read(self, client_identifier: str, epoch: int, after: int, limit: int) -> list[Stored]:
        """See the port."""
        row = self._owned(client_identifier, epoch)
        later = (Stored(sequence, delivery) for sequence, delivery in row.queue.items() if sequence > after)
        return list(islice(later, limit))

    def settle(self, steps: Sequence[Settle]) -> None:
        """See the port."""
        rows = [self._owned(step.client_identifier, step.epoch) for step in steps]
        for row, step in zip(rows, steps, strict=True):
            match step.kind:
                case "ack":
                    row.queue.pop(step.number, None)
                case "rec":
                    row.queue.pop(step.number, None)
                    row.releases[step.packet_identifier] = step.number
                case "comp":
                    row.releases.pop(step.number, None)
                case "inbound":
                    assert step.publish is not None
                    row.inbound[step.number] = step.publish
                case "inbound_done":
                    row.inbound.pop(step.number, None)

    def sweep(self, wall: float, limit: int) -> list[str]:
        """See the port."""
        over = (
            client_identifier
            for client_identifier, row in self._rows.items()
            if row.released and row.expires_at is not None and row.expires_at <= wall
        )
        swept = list(islice(over, limit))
        for client_identifier in swept:
            del self._rows[client_identifier]
        return swept

    def sessions(self) -> list[Kept]:
        """See the port."""
        return [
            Kept(client_identifier, row.identity, row.released, row.expires_at)
            for client_identifier, row in self._rows.items()
        ]

    def retain(self, messages: Sequence[Message], drop: Sequence[str]) -> None:
        """See the port."""
        for topic in drop:
            self._retained.pop(topic, None)
        for message in messages:
            self._retained[message.topic] = message

    def retained(self) -> list[Message]:
        """See the port."""
        return list(self._retained.values())

    def _owned(self, client_identifier: str, epoch: int) -> _Row:
        row = self._rows.get(client_identifier)
        if row is None or row.epoch != epoch:
            raise Fenced(f"epoch {epoch} of session {client_identifier!r} is not the owner's")
        return row
