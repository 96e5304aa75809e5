"""MemoryStore against a naive model: a log of what happened, read from its beginning for every question.

The machine makes any call with any epoch, old ones too, and the store has to answer as the log does.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebroker_codec.packets import Publish
from acebroker_middleware.state.message import Delivery, Message
from acebroker_middleware.state.ports import Enqueue, Fenced, Identity, Settle
from acebroker_middleware.state.subscriptions import Subscription
from trio_acebroker import MemoryStore

CLIENTS = st.sampled_from(["a", "b"])
FILTERS = st.sampled_from(["f", "g/#", "$share/n/f"])
NUMBERS = st.integers(1, 4)
WALL = st.integers(0, 5).map(float)
IDENTITIES = st.sampled_from([Identity("user", "ann"), Identity("user", "bob")])


def parsed(topic_filter: str, qos: int) -> Subscription:
    if topic_filter.startswith("$share/"):
        _, share_name, rest = topic_filter.split("/", 2)
        return Subscription(rest, qos, share_name=share_name)
    return Subscription(topic_filter, qos)


class Log:
    """What happened to one client's sessions, oldest first: `(what, *details)`."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def session(self) -> list[tuple[Any, ...]]:
        """The events of the session that there is, from the claim that made it; empty when there is none."""
        for index in range(len(self.events) - 1, -1, -1):
            if self.events[index][0] == "made":
                return self.events[index:]
            if self.events[index][0] == "removed":
                return []
        return []

    def last(self, *kinds: str) -> tuple[Any, ...] | None:
        found = [event for event in self.session() if event[0] in kinds]
        return found[-1] if found else None

    def owner(self) -> int | None:
        event = self.last("made", "claimed")
        return None if event is None else event[1]

    def subscriptions(self) -> set[Subscription]:
        """The last word on each filter."""
        said: dict[str, Subscription | None] = {}
        for event in self.session():
            if event[0] == "subscribed":
                said.update({event[1].topic_filter: event[1]})
            elif event[0] == "dropped":
                said.update({event[1]: None})
        return {subscription for subscription in said.values() if subscription is not None}

    def messages(self) -> list[tuple[int, bytes]]:
        waiting: dict[int, bytes] = {}
        last = 0
        for event in self.session():
            if event[0] == "queued":
                last += 1
                waiting[last] = event[1]
            elif event[0] in ("ack", "rec"):
                waiting.pop(event[1], None)
        return sorted(waiting.items())

    def open(self, opening: str, closing: str) -> dict[int, Any]:
        """Numbers of `opening` events without a later `closing` one, each with its last detail."""
        numbers: dict[int, Any] = {}
        for event in self.session():
            if event[0] == opening:
                numbers[event[1]] = event[2]
            elif event[0] == closing:
                numbers.pop(event[1], None)
        return numbers


class StoreMachine(RuleBasedStateMachine):
    """One store, two clients, and all epochs ever given."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore()
        self.logs = {"a": Log(), "b": Log()}
        self.epochs: list[int] = [0]
        self.retained: dict[str, bytes] = {}

    def owned(self, client: str, epoch: int, method: str, *arguments: Any, **named: Any) -> bool:
        """Make an owner's call; True when it was taken, which must be when the epoch is the owner's."""
        try:
            getattr(self.store, method)(*arguments, **named)
        except Fenced:
            assert epoch != self.logs[client].owner()
            return False
        assert epoch == self.logs[client].owner()
        return True

    def epoch(self, client: str, data: st.DataObject) -> int:
        """Mostly the owner's, often any other."""
        owner = self.logs[client].owner()
        return data.draw(st.sampled_from([*self.epochs, *([owner] * len(self.epochs) if owner else [])]))

    @rule(client=CLIENTS, identity=IDENTITIES, clean_start=st.booleans())
    def claim(self, client: str, identity: Identity, clean_start: bool) -> None:
        log = self.logs[client]
        claim = self.store.claim(client, identity, clean_start=clean_start)
        if log.session() and identity != log.session()[0][2]:
            assert (claim.epoch, claim.present, claim.identity) == (0, True, log.session()[0][2])
            return
        assert claim.epoch > max(self.epochs)
        self.epochs.append(claim.epoch)
        if clean_start or not log.session():
            assert not claim.present
            log.events.append(("made", claim.epoch, identity))
        else:
            made = log.session()[0]
            assert claim.present
            assert claim.identity == made[2]
            log.events.append(("claimed", claim.epoch))
        assert set(claim.subscriptions) == log.subscriptions()
        releases = {identifier: sequence for sequence, identifier in claim.releases}
        assert releases == log.open("released", "comp")
        inbound = {identifier: publish.payload for identifier, publish in claim.inbound}
        assert inbound == log.open("inbound", "inbound_done")

    @rule(client=CLIENTS, data=st.data(), expires_at=st.none() | WALL)
    def release(self, client: str, data: st.DataObject, expires_at: float | None) -> None:
        epoch = self.epoch(client, data)
        if self.owned(client, epoch, "release", client, epoch, expires_at=expires_at):
            self.logs[client].events.append(("let go", expires_at))

    @rule(client=CLIENTS, data=st.data())
    def remove(self, client: str, data: st.DataObject) -> None:
        epoch = self.epoch(client, data)
        if self.owned(client, epoch, "remove", client, epoch):
            self.logs[client].events.append(("removed",))

    @rule(client=CLIENTS, data=st.data(), add=st.lists(FILTERS, max_size=2), drop=st.lists(FILTERS, max_size=2))
    def subscribe(self, client: str, data: st.DataObject, add: list[str], drop: list[str]) -> None:
        epoch = self.epoch(client, data)
        added = [parsed(topic_filter, data.draw(st.integers(0, 2))) for topic_filter in add]
        if self.owned(client, epoch, "subscribe", client, epoch, added, drop):
            self.logs[client].events += [("dropped", topic_filter) for topic_filter in drop]
            self.logs[client].events += [("subscribed", subscription) for subscription in added]

    @rule(rows=st.lists(st.tuples(CLIENTS | st.just("nobody"), st.binary(max_size=2)), max_size=4))
    def enqueue(self, rows: list[tuple[str, bytes]]) -> None:
        expected = []
        for client, payload in rows:
            log = self.logs.get(client)
            if log is None or not log.session():
                expected.append(0)
                continue
            log.events.append(("queued", payload))
            expected.append(sum(event[0] == "queued" for event in log.session()))
        entries = [Enqueue(client, Delivery(Message("t", payload, 1), 1)) for client, payload in rows]
        assert self.store.enqueue(entries) == expected

    @rule(
        steps=st.lists(
            st.tuples(CLIENTS, st.sampled_from(["ack", "rec", "comp", "inbound", "inbound_done"]), NUMBERS, NUMBERS),
            min_size=1,
            max_size=3,
        ),
        data=st.data(),
    )
    def settle(self, steps: list[tuple[str, Any, int, int]], data: st.DataObject) -> None:
        made = []
        for client, kind, number, identifier in steps:
            publish = Publish("t", b"%d" % identifier, 2, packet_identifier=number) if kind == "inbound" else None
            made.append(Settle(client, self.epoch(client, data), kind, number, identifier, publish))
        try:
            self.store.settle(made)
        except Fenced:
            assert any(step.epoch != self.logs[step.client_identifier].owner() for step in made)
            return
        for step in made:
            log = self.logs[step.client_identifier]
            assert step.epoch == log.owner()
            log.events.append((step.kind, step.number, step.publish.payload if step.publish is not None else None))
            if step.kind == "rec":
                log.events.append(("released", step.packet_identifier, step.number))

    @rule(wall=WALL, limit=st.integers(0, 2))
    def sweep(self, wall: float, limit: int) -> None:
        over = set()
        for client, log in self.logs.items():
            event = log.last("made", "claimed", "let go")
            if event is not None and event[0] == "let go" and event[1] is not None and event[1] <= wall:
                over.add(client)
        swept = self.store.sweep(wall, limit)
        assert len(swept) == min(limit, len(over))
        assert set(swept) <= over
        for client in swept:
            self.logs[client].events.append(("removed",))

    @rule(keep=st.dictionaries(st.sampled_from("tuv"), st.binary(max_size=2)), drop=st.sets(st.sampled_from("tuv")))
    def retain(self, keep: dict[str, bytes], drop: set[str]) -> None:
        self.store.retain([Message(topic, payload, 0, True) for topic, payload in keep.items()], sorted(drop))
        self.retained = {topic: payload for topic, payload in self.retained.items() if topic not in drop} | keep

    @invariant()
    def everything_is_there(self) -> None:
        if not hasattr(self, "store"):
            return
        for client, log in self.logs.items():
            owner = log.owner()
            if owner is not None:
                for after, limit in ((0, 100), (2, 1)):
                    stored = self.store.read(client, owner, after, limit)
                    expected = [row for row in log.messages() if row[0] > after][:limit]
                    assert [(row.sequence, row.delivery.message.payload) for row in stored] == expected
        assert {message.topic: message.payload for message in self.store.retained()} == self.retained
        listed = {row.client_identifier: row for row in self.store.sessions()}
        assert set(listed) == {client for client, log in self.logs.items() if log.session()}
        for client, row in listed.items():
            event = self.logs[client].last("made", "claimed", "let go")
            assert event is not None
            assert row.released == (event[0] == "let go")
            if row.released:
                assert row.expires_at == event[1]


TestMemoryStore = StoreMachine.TestCase
TestMemoryStore.settings = settings(max_examples=100, stateful_step_count=40)
