"""The store of retained messages: its bounds, expiry, and what a Replay gives while others store and remove."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebroker_codec.topics import matches
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.retained import OVERHEAD_BYTES, Replay, RetainedFull, RetainedMessages
from acebroker_middleware.state.subscriptions import Subscription


def store(*topics: str, messages_max: int = 1_000, octets_max: int = 1 << 30) -> RetainedMessages:
    retained = RetainedMessages(messages_max, octets_max)
    for topic in topics:
        retained.put(Message(topic, b"x"))
    return retained


def replay_of(retained: RetainedMessages, subscription: Subscription) -> Replay:
    replay = retained.replay(subscription)
    assert replay is not None
    return replay


def taken(replay: Replay, steps_max: int = 1_000_000) -> list[Message]:
    """The messages of the next steps, as the deliver direction takes them."""
    return [
        node.value
        for node in replay.steps(steps_max)
        if node is not None and node.mark <= replay.mark and node.value is not None
    ]


# --- bounds ------------------------------------------------------------------------------------


def test_the_number_is_bounded() -> None:
    retained = store("a", "b", messages_max=2)
    assert retained.admits("a", 1)
    assert not retained.admits("c", 1)
    with pytest.raises(RetainedFull):
        retained.put(Message("c", b"x"))
    assert (len(retained), retained.get("c")) == (2, None)
    retained.put(Message("a", b"other"))
    assert retained.remove("b")
    retained.put(Message("c", b"x"))
    assert {message.topic for message in retained} == {"a", "c"}


def test_octets_are_bounded() -> None:
    each = OVERHEAD_BYTES + 2
    retained = store("a", "b", octets_max=2 * each + 10)
    assert retained.octets == 2 * each
    assert retained.admits("a", 11)
    assert not retained.admits("a", 12)
    for message in (Message("c", b""), Message("a", b"x" * 12)):
        with pytest.raises(RetainedFull):
            retained.put(message)
    assert retained.octets == 2 * each
    retained.put(Message("a", b"x" * 11))
    assert retained.octets == 2 * each + 10
    assert not retained.admits("b", 2)
    assert retained.admits("b", 1)
    retained.put(Message("a", b""))
    retained.remove("b")
    assert retained.octets == OVERHEAD_BYTES + 1
    retained.remove("a")
    assert retained.octets == 0


def test_the_broker_takes_no_room_from_clients() -> None:
    retained = RetainedMessages(1, OVERHEAD_BYTES + 2)
    for number in range(5):
        retained.put_own(Message(f"$SYS/{number}", b"x" * number))
        retained.put_own(Message(f"$SYS/{number}", b"y" * 2 * number))
    retained.put(Message("a", b"x"))
    with pytest.raises(RetainedFull):
        retained.put(Message("b", b""))


def test_expired_messages_are_not_given_and_are_forgotten() -> None:
    """[MQTT-3.3.2-5]"""
    retained = store("a")
    retained.put(Message("b", b"x", expires_at=10.0))
    assert len(retained.match("#", 9.9, 0.0)) == 2
    assert [message.topic for message in retained.match("#", 10.0, 0.0)] == ["a"]
    assert retained.get("b") is None


# --- replays -----------------------------------------------------------------------------------


def test_steps_go_on_where_they_stopped() -> None:
    retained = store(*(f"a/{number}" for number in range(100)))
    replay = replay_of(retained, Subscription("a/#"))
    topics: list[str] = []
    while not replay.over():
        topics += [message.topic for message in taken(replay, 7)]
    assert sorted(topics) == sorted(f"a/{number}" for number in range(100))
    assert taken(replay) == []


def test_what_was_put_back_comes_first() -> None:
    retained = store("a/1", "a/2", "a/3")
    replay = replay_of(retained, Subscription("a/+"))
    first = next(replay.steps(1))
    assert first is not None
    replay.back(first)
    assert not replay.over()
    assert len(taken(replay, 1)) == 1
    assert len(taken(replay)) == 2
    assert replay.over()


def test_a_topic_without_wildcards() -> None:
    retained = store("a")
    replay = replay_of(retained, Subscription("a"))
    assert not replay.over()
    assert [message.topic for message in taken(replay)] == ["a"]
    assert replay.over()
    assert retained.replay(Subscription("b")) is None


def test_what_was_replaced_after_the_subscription_is_passed_over() -> None:
    """Its successor went to the subscription as it came; the next subscription gets it."""
    retained = store("a", "b", "c")
    replay = replay_of(retained, Subscription("#"))
    retained.put(Message("a", b"new"))
    retained.put(Message("d", b"new"))
    retained.remove("b")
    retained.put(Message("b", b"new"))
    assert [message.topic for message in taken(replay)] == ["c"]
    assert sorted(message.topic for message in taken(replay_of(retained, Subscription("#")))) == ["a", "b", "c", "d"]


TOPICS = st.lists(st.sampled_from(["a", "b", "$s", ""]), min_size=1, max_size=3).map("/".join).filter(bool)
FILTERS = st.sampled_from(["#", "+", "a/#", "+/a", "+/+/b", "a", "a/b", "$s/#", "+/#", "a/+/+"])


class BesideCopies(RuleBasedStateMachine):
    """A Replay gives what a copy made at its beginning would give, less what was replaced or removed meanwhile."""

    @initialize()
    def start(self) -> None:
        self.retained = RetainedMessages(6, 6 * (OVERHEAD_BYTES + 8))
        self.model: dict[str, Message] = {}
        #: a Replay, what it has to give and may still do so, and what it gave
        self.replays: list[tuple[Replay, dict[str, Message], list[Message]]] = []

    @rule(topic=TOPICS, octets=st.integers(1, 12))
    def put(self, topic: str, octets: int) -> None:
        message = Message(topic, b"x" * octets)
        others = [kept for kept in self.model.values() if kept.topic != topic]
        size = sum(len(kept.topic) + len(kept.payload) + OVERHEAD_BYTES for kept in [*others, message])
        fits = len(others) < 6 and size <= 6 * (OVERHEAD_BYTES + 8)
        assert self.retained.admits(topic, octets) == fits
        if not fits:
            with pytest.raises(RetainedFull):
                self.retained.put(message)
            return
        self.retained.put(message)
        self._gone(topic)
        self.model[topic] = message

    @rule(topic=TOPICS)
    def remove(self, topic: str) -> None:
        assert self.retained.remove(topic) == (self.model.pop(topic, None) is not None)
        self._gone(topic)

    def _gone(self, topic: str) -> None:
        for _, due, _ in self.replays:
            due.pop(topic, None)

    @rule(topic_filter=FILTERS)
    def subscribe(self, topic_filter: str) -> None:
        due = {topic: message for topic, message in self.model.items() if matches(topic_filter, topic)}
        assert sorted(due) == sorted(message.topic for message in self.retained.match(topic_filter, 0.0, 0.0))
        replay = self.retained.replay(Subscription(topic_filter))
        if replay is None:
            assert not due
        else:
            self.replays.append((replay, due, []))

    @rule(data=st.data(), steps=st.integers(1, 9), back=st.booleans())
    def take(self, data: st.DataObject, steps: int, back: bool) -> None:
        if not self.replays:
            return
        replay, due, gave = data.draw(st.sampled_from(self.replays))
        if back and (node := next(replay.steps(1), None)) is not None:
            replay.back(node)
        for message in taken(replay, steps):
            assert due.pop(message.topic) is message
            gave.append(message)

    @rule()
    def finish(self) -> None:
        for replay, due, _ in self.replays:
            for message in taken(replay):
                assert due.pop(message.topic) is message
            assert not due
            assert replay.over()
        self.replays.clear()

    @invariant()
    def counts(self) -> None:
        assert {message.topic: message for message in self.retained} == self.model
        assert len(self.retained) == len(self.model)
        assert self.retained.octets == sum(len(m.topic) + len(m.payload) + OVERHEAD_BYTES for m in self.model.values())


TestBesideCopies = BesideCopies.TestCase
TestBesideCopies.settings = settings(deadline=None, max_examples=80, stateful_step_count=50)
