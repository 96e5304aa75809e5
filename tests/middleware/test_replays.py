"""Retained messages to new subscriptions: the frames, the slices, who is asked for rights, what waits for what."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, Puback, Publish, PublishProperties
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.expiry import Expiry
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.replays import SLICE_OCTETS_MAX, SLICE_STEPS_MAX
from acebroker_middleware.router import Router
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.retained import RetainedMessages
from acebroker_middleware.state.subscriptions import Subscription
from acebroker_middleware.testing import RecordingConnection
from tests.middleware.assembly import Timers
from trio_acebroker.runtime.back_pressure import BackPressure
from trio_acebroker.runtime.delivery import Delivery
from trio_acebroker.storage.memory import MemoryStore


class Asked:
    """A deliver stage that remembers what it was asked, and denies topics that hold `secret`."""

    name = "asked"
    wants: frozenset[Any] = frozenset()

    def __init__(self, filters: Verdict = Verdict.PASS) -> None:
        self.filters = filters
        self.asked: list[str] = []

    def plan_deliver_filter(self, conn: RecordingConnection, topic_filter: str) -> Verdict:
        self.asked.append(f"filter {topic_filter}")
        return self.filters

    def plan_deliver(self, conn: RecordingConnection, flow: FlowKey) -> Verdict:
        self.asked.append(flow.topic)
        return Verdict.DENY if "secret" in flow.topic else Verdict.PASS

    def on_deliver(self, conn: RecordingConnection, messages: list[Message]) -> list[Message]:
        raise AssertionError("nothing is to be inspected")


class Inspecting:
    """A deliver stage that knows no plan: it sees every message."""

    name = "inspecting"
    wants: frozenset[Any] = frozenset()

    def on_deliver(self, conn: RecordingConnection, messages: list[Message]) -> list[Message]:
        return [Message(m.topic, m.payload.upper(), m.qos) for m in messages if m.payload != b"drop"]


class Waiting:
    """A client that waits for retained messages, and the deliver direction that sends them."""

    def __init__(self, *stages: Any, version: int = 4, limits: Limits | None = None) -> None:
        self.conn = RecordingConnection(version, limits=limits)
        self.retained = RetainedMessages(1_000_000, 1 << 30)
        self.deliver = Deliver(self.conn.round, MemoryStore(), self.retained, stages)
        assert self.conn.session is not None
        self.state = self.conn.session

    def keep(self, *messages: Message) -> None:
        for message in messages:
            self.retained.put(message)

    def subscribe(self, *subscriptions: Subscription) -> None:
        replays = (self.retained.replay(subscription) for subscription in subscriptions)
        self.state.retained_waiting = deque(replay for replay in replays if replay is not None) or None
        self.state.subscriptions.update((subscription.filter, subscription) for subscription in subscriptions)

    def received(self) -> list[Publish]:
        """What came since the last call."""
        packets = self.conn.written()
        publishes = [packet for packet in packets if isinstance(packet, Publish)]
        assert len(publishes) == len(packets)
        return publishes

    def received_all(self) -> list[Publish]:
        """Everything that is sent while it is taken as fast as it comes."""
        came: list[Publish] = []
        while self.deliver.pump(self.state):
            came += self.received()
        assert self.state.retained_waiting is None
        return came + self.received()


def messages(number: int, topic: str = "r/{}", octets: int = 8, qos: int = 0) -> list[Message]:
    return [Message(topic.format(index), b"x" * octets, qos, True) for index in range(number)]


# --- slices ------------------------------------------------------------------------------------


def test_slices_are_bounded_in_octets() -> None:
    client = Waiting()
    client.keep(*messages(100, octets=10_000))
    client.subscribe(Subscription("#"))
    slices = 0
    came = 0
    while client.deliver.pump(client.state):
        assert SLICE_OCTETS_MAX <= client.conn.out_octets < SLICE_OCTETS_MAX + 10_100
        assert client.conn.dirty
        came += len(client.received())
        slices += 1
    came += len(client.received())
    assert (came, slices) == (100, 14)
    assert client.conn.round.counters.publish_sent == 100


def test_slices_are_bounded_in_steps() -> None:
    """Looking in vain is work too; the connection stays dirty, so that the round goes on with it."""
    client = Waiting()
    client.keep(*messages(3 * SLICE_STEPS_MAX, "a/{}"), Message("x/y/z", b"found", 0, True))
    client.subscribe(Subscription("+/+/z"))
    empty = 0
    while client.deliver.pump(client.state):
        if not client.conn.out:
            empty += 1
            assert client.conn.dirty
            client.conn.dirty = False
            client.conn.round.dirty.clear()
    assert empty >= 2
    assert [publish.topic for publish in client.received()] == ["x/y/z"]


@pytest.mark.parametrize("topic_filter", ["#", "+/+/z"])
def test_a_round_has_two_slices_and_then_others_have_their_turn(topic_filter: str) -> None:
    """The socket takes all, and yet the connection waits to be told to go on, whether something was found or not."""
    client = Waiting()
    client.keep(*messages(10 * SLICE_STEPS_MAX))
    client.subscribe(Subscription(topic_filter))
    round_, timers = client.conn.round, Timers()
    router = Router(round_, MemoryStore(), client.retained, client.deliver)
    delivery = Delivery(round_, client.deliver, BackPressure(round_, timers), Expiry(round_, timers, router))
    octets = 0
    turns = 0

    def transmit(data: bytes) -> int:
        nonlocal octets
        octets += len(data)
        return len(data)

    def want_writable() -> None:
        nonlocal turns
        turns += 1

    client.conn.transmit = transmit
    client.conn.want_writable = want_writable
    client.deliver.pump(client.state)
    delivery.flush()
    assert (client.conn.blocked, turns) == (True, 1)
    assert octets <= 2 * SLICE_OCTETS_MAX
    assert client.state.retained_waiting
    while not delivery.writable(client.conn):
        delivery.flush()
    assert turns in (8, 9)
    assert not client.state.retained_waiting


def test_slices_are_bounded_in_subscriptions() -> None:
    client = Waiting()
    client.keep(Message("a/b", b"x", 0, True))
    client.subscribe(*(Subscription(f"+/{number}/#") for number in range(100)), Subscription("a/+"))
    pumped = 1
    while client.deliver.pump(client.state):
        pumped += 1
    assert pumped == 7
    assert len(client.received()) == 1


def test_a_full_out_queue_ends_a_slice_and_drops_nothing() -> None:
    client = Waiting(limits=Limits(out_queue_bytes_max=1_000))
    client.keep(*messages(100, octets=100))
    client.subscribe(Subscription("r/+"))
    came: list[Publish] = []
    while client.deliver.pump(client.state):
        assert client.conn.out_octets < 1_120
        assert client.deliver.pump(client.state)  # no room: nothing is added
        assert client.conn.out_octets < 1_120
        came += client.received()
    came += client.received()
    assert len({publish.topic for publish in came}) == len(came) == 100
    assert client.conn.round.counters.publish_dropped == 0


def test_a_message_larger_than_the_out_queue_goes_alone() -> None:
    client = Waiting(Inspecting(), limits=Limits(out_queue_bytes_max=1_000))
    client.keep(*messages(3, octets=5_000))
    client.subscribe(Subscription("#"))
    assert [len(publish.payload) for publish in client.received_all()] == [5_000] * 3


def test_qos_1_waits_for_the_window() -> None:
    client = Waiting()
    client.conn.send_max = 2
    client.keep(*messages(5, qos=2))
    client.subscribe(Subscription("#", qos=1))
    came: list[Publish] = []
    for expected in (2, 0, 1, 1, 1):
        assert not client.deliver.pump(client.state)
        received = client.received()
        assert len(received) == expected
        assert all((publish.qos, publish.retain) == (1, True) for publish in received)
        came += received
        if expected != 2:
            client.deliver.acknowledged(client.state, Puback(came[0].packet_identifier), [])
            came.pop(0)
    assert client.state.retained_waiting is None


def test_qos_0_does_not_wait_for_the_window() -> None:
    client = Waiting()
    client.conn.send_max = 1
    client.keep(*messages(50, qos=1))
    client.subscribe(Subscription("r/0", qos=1), Subscription("r/+"))
    assert len(client.received_all()) == 51


def test_a_blocked_or_absent_client_gets_nothing() -> None:
    client = Waiting()
    client.keep(*messages(5))
    client.subscribe(Subscription("#"))
    client.conn.blocked = True
    assert not client.deliver.pump(client.state)
    client.conn.blocked = False
    client.state.connection = None
    assert not client.deliver.pump(client.state)
    assert client.received() == []
    client.state.connection = client.conn
    assert len(client.received_all()) == 5


def test_what_expires_while_it_waits_is_not_sent() -> None:
    """[MQTT-3.3.2-5]"""
    client = Waiting()
    client.keep(*messages(2), Message("r/soon", b"x", 0, True, NO_PUBLISH_PROPERTIES, client.conn.clock.now + 10))
    client.subscribe(Subscription("#"))
    client.conn.clock.advance(10)
    assert sorted(publish.topic for publish in client.received_all()) == ["r/0", "r/1"]
    assert client.retained.get("r/soon") is None


def test_own_messages_with_no_local() -> None:
    """[MQTT-3.8.3-3]"""
    client = Waiting(version=5)
    client.keep(*messages(1), Message("own", b"x", 0, True, publisher=client.conn.client_identifier))
    client.subscribe(Subscription("#", no_local=True))
    assert [publish.topic for publish in client.received_all()] == ["r/0"]
    client.subscribe(Subscription("#"))
    assert len(client.received_all()) == 2


# --- rights ------------------------------------------------------------------------------------


def test_a_covered_filter_is_asked_about_once_a_slice() -> None:
    stage = Asked()
    client = Waiting(stage)
    client.keep(*messages(2 * SLICE_STEPS_MAX))
    client.subscribe(Subscription("r/+"))
    assert len(client.received_all()) == 2 * SLICE_STEPS_MAX
    assert set(stage.asked) == {"filter r/+"}
    assert len(stage.asked) <= 4


@pytest.mark.parametrize("qos", [0, 1])
def test_rights_that_end_between_two_slices(qos: int) -> None:
    """What is asked about a filter stands for one slice; where not all of it is granted, each topic is asked about."""
    stage = Asked()
    client = Waiting(stage)
    client.keep(*messages(SLICE_STEPS_MAX, qos=qos), *messages(SLICE_STEPS_MAX, "secret/{}", qos=qos))
    client.subscribe(Subscription("#", qos=qos))
    assert client.deliver.pump(client.state)
    before = client.received()
    assert any("secret" in publish.topic for publish in before) or len(before) == SLICE_STEPS_MAX
    client.state.window.published.clear()
    stage.filters = Verdict.INSPECT
    after = client.received_all()
    assert not any("secret" in publish.topic for publish in after)
    sent = {publish.topic for publish in before + after}
    assert sent >= {f"r/{number}" for number in range(SLICE_STEPS_MAX)}
    assert client.conn.round.counters.denials["asked: delivery"] == 2 * SLICE_STEPS_MAX - len(sent)


def test_a_stage_without_plans_sees_every_message() -> None:
    client = Waiting(Asked(), Inspecting())
    client.keep(Message("a", b"small", 0, True), Message("b", b"drop", 0, True), Message("secret", b"x", 1, True))
    client.subscribe(Subscription("#", qos=1))
    assert [(publish.topic, publish.payload) for publish in client.received_all()] == [("a", b"SMALL")]


@pytest.mark.parametrize("where", ["plan_deliver_filter", "plan_deliver", "on_deliver"])
def test_a_stage_that_fails_ends_the_connection(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    stage = Asked(Verdict.INSPECT)
    monkeypatch.setattr(stage, where, fail)
    if where == "on_deliver":
        monkeypatch.setattr(stage, "plan_deliver", lambda *_: Verdict.INSPECT)
    client = Waiting(stage)
    client.keep(*messages(10))
    client.subscribe(Subscription("#"))
    assert not client.deliver.pump(client.state)
    assert client.conn.ended is not None
    assert isinstance(client.conn.ended.__cause__, ZeroDivisionError)
    assert client.received() == []


# --- frames ------------------------------------------------------------------------------------

PROPERTIES = st.sampled_from(
    [NO_PUBLISH_PROPERTIES, PublishProperties(user_properties=(("a", "b"),)), PublishProperties(content_type="text")]
)
MESSAGES = st.builds(
    Message,
    topic=st.sampled_from(["a", "b/ü", "long/" + "t" * 100, "long/" + "u" * 200, "c" * 130]),
    payload=st.sampled_from([b"x", b"y" * 60, b"z" * 126, b"w" * 200, b"v" * 16_384]),
    qos=st.integers(0, 2),
    retain=st.just(True),
    properties=PROPERTIES,
    publisher=st.sampled_from(["", "client"]),
)


@given(
    kept=st.lists(MESSAGES, max_size=8, unique_by=lambda message: message.topic),
    version=st.sampled_from([3, 4, 5]),
    qos=st.integers(0, 2),
    identifier=st.sampled_from([0, 0, 1, 300]),
    no_local=st.booleans(),
    packet_bytes_max=st.sampled_from([None, None, 100, 300]),
    aliases=st.sampled_from([0, 2]),
    covered=st.booleans(),
)
def test_every_way_of_sending_gives_the_same_packets(
    kept: list[Message],
    version: int,
    qos: int,
    identifier: int,
    no_local: bool,
    packet_bytes_max: int | None,
    aliases: int,
    covered: bool,
) -> None:
    """The chunk of plain frames, and the messages sent one by one: what comes is what the subscription asks for."""
    client = Waiting(Asked(Verdict.PASS if covered else Verdict.INSPECT), version=version)
    v5 = version == 5
    if v5:
        client.conn.packet_bytes_max = packet_bytes_max
        client.conn.sending_aliases.maximum = aliases
        client.conn.plain = packet_bytes_max is None and not aliases
    client.keep(*kept)
    client.subscribe(Subscription("#", qos, no_local, identifier=identifier if v5 else 0))
    expected: dict[str, Any] = {}
    for message in kept:
        if no_local and message.publisher == "client":
            continue
        properties = message.properties if v5 else NO_PUBLISH_PROPERTIES
        identifiers = (identifier,) if v5 and identifier else ()
        granted = min(qos, message.qos)
        expected[message.topic] = (message.payload, granted, properties.user_properties, identifiers)
    came = {}
    for publish in client.received_all():
        assert publish.retain
        topic = publish.topic
        assert topic  # aliases are set and not used: a topic comes once
        came[topic] = (
            publish.payload,
            publish.qos,
            publish.properties.user_properties,
            publish.properties.subscription_identifiers,
        )
    if v5 and packet_bytes_max is not None:
        assert set(expected) - set(came) == {
            message.topic
            for message in kept
            if message.topic in expected and _size(message, expected[message.topic]) > packet_bytes_max
        }
        expected = {topic: fields for topic, fields in expected.items() if topic in came}
    assert came == expected


def _size(message: Message, fields: Any) -> int:
    properties = len(fields[3]) and (2 if fields[3][0] < 128 else 3)
    if message.properties.user_properties:
        properties += 7
    if message.properties.content_type:
        properties += 7
    octets = 2 + len(message.topic.encode()) + (2 if fields[1] else 0) + 1 + properties + len(message.payload)
    return octets + 1 + (1 if octets < 128 else 2)
