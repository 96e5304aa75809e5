"""Routes: what is kept is what would be made now, through any churn of subscriptions; the bound and who makes room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebroker_codec.topics import matches
from acebroker_middleware import routes as module
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.flows import STALE, LocalSubscriber, Route, Target
from acebroker_middleware.routes import Routes
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.retained import RetainedMessages
from acebroker_middleware.state.session_state import SessionState
from acebroker_middleware.state.subscriptions import Subscription, SubscriptionTree
from acebroker_middleware.state.topic_tree import TopicTree
from acebroker_middleware.testing import RecordingConnection
from trio_acebroker.storage.memory import MemoryStore


class Made:
    """Routes over a tree, with as many sessions as are asked for, and the way in which the router uses them."""

    def __init__(self, routes_max: int = 65_536) -> None:
        self.first = RecordingConnection(4, limits=Limits(routes_max=routes_max))
        self.round = self.first.round
        self.tree: SubscriptionTree[SessionState] = SubscriptionTree()
        self.local: SubscriptionTree[LocalSubscriber] = SubscriptionTree()
        deliver = Deliver(self.round, MemoryStore(), RetainedMessages(1, 1))
        self.routes = Routes(self.round, self.tree, self.local, deliver)
        self.sessions: dict[str, SessionState] = {}

    def session(self, name: str, version: int = 4) -> SessionState:
        if name not in self.sessions:
            conn = RecordingConnection(version, client_identifier=name, round_=self.round)
            assert conn.session is not None
            self.sessions[name] = conn.session
        return self.sessions[name]

    def subscribe(self, name: str, subscription: Subscription) -> None:
        state = self.session(name)
        self.tree.add(state, subscription)
        state.subscriptions[subscription.topic_filter] = subscription
        self.routes.invalidate(subscription.filter)

    def unsubscribe(self, name: str, topic_filter: str) -> None:
        state = self.session(name)
        subscription = state.subscriptions.pop(topic_filter)
        self.tree.remove(state, topic_filter)
        self.routes.invalidate(subscription.filter)


def names(route: Route) -> list[str]:
    return sorted(target.session.client_identifier for target in route.targets)


# --- what one is made of -----------------------------------------------------------------------


def test_overlapping_subscriptions_are_one_target() -> None:
    """[MQTT-3.3.4-2], [MQTT-3.3.4-4], [MQTT-3.8.3-3]"""
    made = Made()
    made.subscribe("s", Subscription("a/+", 1, no_local=True, identifier=7))
    made.subscribe("s", Subscription("a/#", 0, retain_as_published=True, identifier=9))
    made.subscribe("s", Subscription("+/b", 0))
    (target,) = made.routes.get("a/b").targets
    assert (target.qos, target.no_local, target.retain_as_published) == (1, True, True)
    assert sorted(target.identifiers) == [7, 9]
    assert target.own == Target(target.session, 0, False, True, (9,))
    (target,) = made.routes.get("a").targets
    assert target == Target(target.session, 0, False, True, (9,))


@pytest.mark.parametrize(
    ("subscription", "aliases", "fast"),
    [
        (Subscription("a", 2, retain_as_published=True), 0, True),
        (Subscription("a", no_local=True), 0, False),
        (Subscription("a", identifier=1), 0, False),
        (Subscription("a", share_name="g"), 0, False),
        (Subscription("a"), 9, True),
        (Subscription("a" * 24), 9, False),
    ],
)
def test_which_routes_are_fast(subscription: Subscription, aliases: int, fast: bool) -> None:
    made = Made()
    conn = made.session("s", 5).connection
    assert conn is not None
    conn.sending_aliases.maximum = aliases
    made.subscribe("s", subscription)
    assert made.routes.get(subscription.filter).fast is fast


def test_local_subscribers() -> None:
    made = Made()
    subscriber = LocalSubscriber(lambda message: None)
    made.local.add(subscriber, Subscription("a/#"))
    route = made.routes.get("a/b")
    assert (route.local, route.fast) == ([subscriber], False)
    assert made.routes.get("b").fast


# --- what is kept ------------------------------------------------------------------------------


def test_a_wildcard_voids_what_it_selects_and_nothing_else() -> None:
    made = Made()
    kept = {topic: made.routes.get(topic) for topic in ("device/1/x", "device/1", "device/2/x", "other")}
    made.subscribe("s", Subscription("device/1/#"))
    assert {topic for topic, route in kept.items() if route.version == STALE} == {"device/1/x", "device/1"}
    assert all(made.routes.get(topic) is kept[topic] for topic in ("device/2/x", "other"))
    assert names(made.routes.get("device/1/x")) == ["s"]
    assert made.routes.epoch.routes == 0


def test_too_much_to_walk_voids_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WALK_STEPS_MAX", 20)
    made = Made()
    kept = [made.routes.get(f"a/{number}") for number in range(30)]
    made.subscribe("s", Subscription("a/+"))
    assert all(route.version != made.routes.epoch.routes for route in kept)
    assert names(made.routes.get("a/7")) == ["s"]
    assert len(made.routes) == 1


def test_many_filters_in_one_round_walk_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, of one SUBSCRIBE or of a session that comes or goes."""
    monkeypatch.setattr(module, "_WALK_STEPS_MAX", 100)
    made = Made()
    steps = 0
    walk = TopicTree.walk

    def counted(self: Any, topic_filter: str) -> Any:
        nonlocal steps
        for node in walk(self, topic_filter) or ():
            steps += 1
            yield node

    monkeypatch.setattr(TopicTree, "walk", counted)
    for rounds in range(1, 3):
        kept = [made.routes.get(f"{number}") for number in range(60)]
        for number in range(30):
            made.subscribe("s", Subscription(f"+/{rounds}/{number}"))
        assert steps <= rounds * 101
        assert made.routes.epoch.routes == rounds
        assert all(route.version != rounds for route in kept)
        made.first.clock.advance(1)
    kept = [made.routes.get(f"{number}") for number in range(60)]
    made.subscribe("s", Subscription("+/3"))
    made.first.clock.advance(1)
    made.subscribe("s", Subscription("+/4"))
    assert made.routes.epoch.routes == 2  # each round has its own
    assert all(route.version == 2 for route in kept)


def test_a_stale_route_keeps_nobody_alive() -> None:
    made = Made()
    made.subscribe("s", Subscription("a"))
    made.subscribe("s", Subscription("b/+"))
    kept = [made.routes.get("a"), made.routes.get("b/c")]
    made.unsubscribe("s", "a")
    made.unsubscribe("s", "b/+")
    nodes = [made.routes._kept.get(topic) for topic in ("a", "b/c")]
    assert all(route.version == STALE for route in kept)
    assert all(node is not None and node.value is not None and not node.value.targets for node in nodes)


def test_the_bound_and_who_makes_room() -> None:
    """Who was asked for again gets a second chance; who makes room is stale for those who hold it."""
    made = Made(routes_max=4)
    kept = {topic: made.routes.get(topic) for topic in "abcd"}
    assert made.routes.get("a") is kept["a"]
    assert made.routes.get("c") is kept["c"]
    made.routes.get("e")
    made.routes.get("f")
    assert len(made.routes) == 4
    assert {topic for topic, route in kept.items() if route.version == STALE} == {"b", "d"}
    assert made.routes.get("a") is kept["a"]


def test_making_room_is_a_small_step() -> None:
    """Where all were asked for again, one of them goes after a few chances."""
    made = Made(routes_max=1_000)
    for _ in range(2):
        for number in range(1_000):
            made.routes.get(f"t/{number}")
    made.routes.get("one more")
    assert len(made.routes) == 1_000
    assert sum(node.mark for node in made.routes._kept) >= 900


# --- beside a list -----------------------------------------------------------------------------

FILTERS = st.builds(
    lambda levels, ending: "/".join([*levels, *ending]) or "+",
    st.lists(st.sampled_from(["a", "b", "$s", "+"]), max_size=3),
    st.sampled_from([[], [], ["#"]]),
)
SHARED_OR_NOT = st.builds(lambda prefix, rest: prefix + rest, st.sampled_from(["", "", "", "$share/g/"]), FILTERS)
TOPICS = st.lists(st.sampled_from(["a", "b", "$s", "x"]), min_size=1, max_size=3).map("/".join)


class BesideAList(RuleBasedStateMachine):
    """Subscriptions come, go and change connections; routes asked for, and those still held, are what a list says."""

    walk_steps_max = 1_000
    routes_max = 65_536

    @initialize()
    def start(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "_WALK_STEPS_MAX", self.walk_steps_max)
        self.made = Made(self.routes_max)
        self.subscriptions: dict[tuple[str, str], Subscription] = {}
        #: what flows do: hold a Route and use it while its version is that of the epoch
        self.held: dict[tuple[int, str], Route] = {}

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(name=st.sampled_from("stu"), topic_filter=SHARED_OR_NOT, qos=st.integers(0, 2))
    def subscribe(self, name: str, topic_filter: str, qos: int) -> None:
        share_name = "g" if topic_filter.startswith("$share/") else ""
        bare = topic_filter.removeprefix("$share/g/")
        subscription = Subscription(bare, qos, share_name=share_name)
        self.made.subscribe(name, subscription)
        self.subscriptions[name, topic_filter] = subscription

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        if self.subscriptions:
            name, topic_filter = data.draw(st.sampled_from(sorted(self.subscriptions)))
            self.made.unsubscribe(name, topic_filter)
            del self.subscriptions[name, topic_filter]

    @rule(name=st.sampled_from("stu"), version=st.sampled_from([4, 5, 0]))
    def reconnect(self, name: str, version: int) -> None:
        state = self.made.session(name)
        state.connection = None
        if version:
            state.connection = RecordingConnection(version, client_identifier=name, round_=self.made.round)
        for subscription in state.subscriptions.values():
            self.made.routes.invalidate(subscription.filter)

    @rule(publisher=st.integers(0, 2), topic=TOPICS)
    def publish(self, publisher: int, topic: str) -> None:
        route = self.held.get((publisher, topic))
        if route is None or route.version != self.made.routes.epoch.routes:
            route = self.held[publisher, topic] = self.made.routes.get(topic)
        self.check(topic, route)

    @rule()
    def publish_everything(self) -> None:
        for (_, topic), route in self.held.items():
            if route.version == self.made.routes.epoch.routes:
                self.check(topic, route)

    def check(self, topic: str, route: Route) -> None:
        expected: dict[str, int] = {}
        groups: set[str] = set()
        for (name, topic_filter), subscription in self.subscriptions.items():
            if not matches(subscription.filter, topic):
                continue
            if subscription.share_name:
                groups.add(topic_filter)
            else:
                expected[name] = max(expected.get(name, 0), subscription.qos)
        assert {target.session.client_identifier: target.qos for target in route.targets} == expected
        assert len(route.targets) == len(expected)
        assert {group.topic_filter for group in route.groups} == groups
        attached: dict[bool, list[str]] = {True: [], False: []}
        for name in expected:
            conn = self.made.session(name).connection
            if conn is not None:
                attached[conn.v5].append(name)
        assert sorted(state.client_identifier for state in route.fast_5) == sorted(attached[True])
        assert sorted(state.client_identifier for state in route.fast_3) == sorted(attached[False])

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "made"):
            routes = self.made.routes
            assert len(routes) == len(routes._queue) <= self.routes_max
            assert set(routes._queue) == {topic for topic in routes._queue if routes._kept.get(topic) is not None}


class BesideAListWithoutWalks(BesideAList):
    walk_steps_max = 2


class BesideAListAndNarrow(BesideAList):
    routes_max = 3


def _case(machine: Any) -> Any:
    case = machine.TestCase
    case.settings = settings(deadline=None, max_examples=60, stateful_step_count=50)
    return case


TestBesideAList = _case(BesideAList)
TestBesideAListWithoutWalks = _case(BesideAListWithoutWalks)
TestBesideAListAndNarrow = _case(BesideAListAndNarrow)
