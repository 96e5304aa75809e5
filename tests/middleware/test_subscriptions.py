"""The SubscriptionTree: single properties, and random churn beside a list of all subscriptions."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebroker_codec.topics import SharedSubscription, matches
from acebroker_middleware.state.subscriptions import SharedGroup, Subscription, SubscriptionTree


def subscription(topic_filter: str, qos: int = 0) -> Subscription:
    """A Subscription from its filter as a client would spell it."""
    shared = SharedSubscription.parse(topic_filter)
    if shared is None:
        return Subscription(topic_filter, qos)
    return Subscription(shared.topic_filter, qos, share_name=shared.share_name)


def matched(tree: SubscriptionTree[str], topic: str) -> list[tuple[str, str]]:
    """(subscriber, filter as subscribed), sorted, with group members as `*`."""
    plain, groups = tree.match(topic)
    return sorted(
        [(subscriber, found.topic_filter) for subscriber, found in plain]
        + [("*", group.topic_filter) for group in groups]
    )


def tree_of(*pairs: tuple[str, str]) -> SubscriptionTree[str]:
    tree: SubscriptionTree[str] = SubscriptionTree()
    for subscriber, topic_filter in pairs:
        assert tree.add(subscriber, subscription(topic_filter))
    return tree


# --- matching ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "filters"),
    [
        ("a", ["#", "+", "a", "a/#"]),
        ("a/b", ["#", "+/b", "+/#", "a/#", "a/+", "a/b"]),
        ("a/", ["#", "+/#", "a/", "a/#", "a/+"]),
        ("a/b/c", ["#", "+/#", "a/#", "a/+/c", "a/b/#"]),
        ("/b", ["#", "+/#", "+/b"]),
        ("c", ["#", "+"]),
        ("$SYS", ["$SYS/#"]),
        ("$SYS/b", ["$SYS/#", "$SYS/+"]),
        ("$SYS/b/c", ["$SYS/#"]),
        ("$x", []),
        ("$x/b", []),
    ],
)
def test_which_filters_select_a_topic(topic: str, filters: list[str]) -> None:
    """[MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1]: exact, `+`, `#` with its parent level, and `$`."""
    every = ["#", "+", "+/#", "+/b", "a", "a/", "a/#", "a/+", "a/b", "a/b/#", "a/+/c", "$SYS/#", "$SYS/+"]
    tree = tree_of(*[("s", topic_filter) for topic_filter in every])
    if topic in ("a", "c"):
        filters = [*filters, "+/#"]
    if topic == "a/b":
        filters = [*filters, "a/b/#"]
    assert matched(tree, topic) == sorted(("s", topic_filter) for topic_filter in filters)


def test_overlapping_subscriptions_are_all_given() -> None:
    """[MQTT-3.3.4-2] needs every matching subscription with its QoS and identifier; none is merged here."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    low = Subscription("a/+", 0, identifier=7)
    high = Subscription("a/#", 2, no_local=True)
    other = Subscription("a/#", 1)
    tree.add("s", low)
    tree.add("s", high)
    tree.add("t", other)
    plain, groups = tree.match("a/b")
    assert Counter(plain) == Counter([("s", low), ("s", high), ("t", other)])
    assert groups == []


def test_the_lists_belong_to_the_caller() -> None:
    tree = tree_of(("s", "a"), ("t", "a"), ("s", "$share/g/a"))
    plain, groups = tree.match("a")
    plain.clear()
    groups.clear()
    assert len(matched(tree, "a")) == 3


def test_same_filter_replaces() -> None:
    """[MQTT-3.8.4-3]: the second subscription to an identical filter takes the place of the first."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    for subscribers in (["s"], ["s", "t"]):  # kept alone, and kept among others
        for subscriber in subscribers:
            tree.add(subscriber, Subscription("a/#", 0))
        newer = Subscription("a/#", 2, retain_as_published=True)
        assert tree.add("s", newer) is False
        assert dict(tree.match("a")[0])["s"] == newer
        assert len(tree) == len(subscribers)
        assert tree.remove("s", "a/#")


def test_removing_what_is_not_there() -> None:
    tree = tree_of(("s", "a"), ("s", "b/+"), ("s", "$share/g/a"), ("t", "b/+"), ("u", "b/+"))
    for subscriber, topic_filter in [
        ("t", "a"),
        ("s", "b"),
        ("s", "b/#"),
        ("x", "b/+"),
        ("t", "$share/g/a"),
        ("s", "$share/h/a"),
        ("s", "$share/g/b"),
    ]:
        assert tree.remove(subscriber, topic_filter) is False
    assert len(tree) == 5
    tree.remove_all("s", ["a", "nothing", "b/+", "$share/g/a"])
    assert sorted(tree.filters()) == [("b/+", 2)]


# --- shared ------------------------------------------------------------------------------------


def test_groups_by_share_name_and_filter() -> None:
    """4.8.2: the same filter under two share names is two groups; plain subscribers of it are apart."""
    tree = tree_of(
        ("s", "$share/g/a/+"), ("t", "$share/g/a/+"), ("t", "$share/h/a/+"), ("s", "$share/g/a/b"), ("s", "a/+")
    )
    plain, groups = tree.match("a/b")
    assert plain == [("s", Subscription("a/+"))]
    assert {group.topic_filter: list(group.members) for group in groups} == {
        "$share/g/a/+": ["s", "t"],
        "$share/h/a/+": ["t"],
        "$share/g/a/b": ["s"],
    }
    assert sorted(tree.filters()) == [("$share/g/a/+", 2), ("$share/g/a/b", 1), ("$share/h/a/+", 1), ("a/+", 1)]
    assert (len(tree), tree.filter_count) == (5, 2)


def test_members_in_order_of_joining() -> None:
    tree = tree_of(("s", "$share/g/a"), ("t", "$share/g/a"), ("u", "$share/g/a"))
    group = tree.group("$share/g/a")
    assert group is not None
    assert tree.add("s", subscription("$share/g/a", qos=2)) is False
    assert list(group.members) == ["s", "t", "u"]
    assert group.members["s"].qos == 2
    tree.remove("s", "$share/g/a")
    tree.add("s", subscription("$share/g/a"))
    assert list(group.members) == ["t", "u", "s"]


def test_a_group_goes_with_its_last_member() -> None:
    """4.8.2: the Shared Subscription ends with its last session; what waited does not come back with a new one."""
    tree = tree_of(("s", "$share/g/+"), ("t", "$share/g/+"))
    group = tree.group("$share/g/+")
    assert isinstance(group, SharedGroup)
    assert group.waiting is None
    group.waiting = queue = ["message"]
    tree.remove("s", "$share/g/+")
    assert tree.group("$share/g/+") is group
    assert tree.match("x")[1] == [group]
    tree.remove("t", "$share/g/+")
    assert tree.group("$share/g/+") is None
    assert tree.match("x") == ([], [])
    assert (len(group.members), group.waiting) == (0, queue)
    tree.add("t", subscription("$share/g/+"))
    later = tree.group("$share/g/+")
    assert later is not None
    assert later is not group
    assert later.waiting is None
    assert tree.group("+") is None


# --- memory ------------------------------------------------------------------------------------


def test_nothing_is_left_behind() -> None:
    """Removal takes every node that leads nowhere, and only those."""
    tree = tree_of(("s", "a/b/c/+/d"), ("s", "a/b/#"), ("s", "a/+"), ("s", "+/#"), ("s", "#"), ("s", "x/y/z"))
    assert tree.node_count == 7  # a, a/b, a/b/c, a/b/c/+, a/b/c/+/d; a/+; +
    tree.remove("s", "a/b/c/+/d")
    assert tree.node_count == 4
    tree.remove("s", "a/b/#")
    assert tree.node_count == 3
    assert matched(tree, "a/b") == [("s", "#"), ("s", "+/#"), ("s", "a/+")]
    tree.remove_all("s", ["a/+", "+/#", "#", "x/y/z"])
    assert (len(tree), tree.node_count, tree.filter_count) == (0, 0, 0)
    assert tree.match("a") == ([], [])


def test_an_emptied_tree_gives_its_memory_back() -> None:
    tree: SubscriptionTree[str] = SubscriptionTree()
    filters = [form.format(number) for number in range(5_000) for form in ("a/{}/+", "b/{}")]
    for topic_filter in filters:
        tree.add("s", Subscription(topic_filter))
    tree.remove_all("s", filters)
    assert (len(tree), tree.node_count, tree.filter_count) == (0, 0, 0)
    assert sys.getsizeof(tree._by_filter) == sys.getsizeof({})
    assert tree._root.empty


def test_a_node_with_one_child_and_with_several() -> None:
    """The literal levels below a node, from none to three and back, in any order of leaving."""
    filters = [f"a/{level}/+" for level in "xyz"]
    for order in itertools.permutations(filters):
        tree = tree_of(*(("s", topic_filter) for topic_filter in filters))
        left = list(filters)
        for topic_filter in order:
            tree.remove("s", topic_filter)
            left.remove(topic_filter)
            for each in filters:
                found = [("s", each)] if each in left else []
                assert matched(tree, each.replace("+", "1")) == found
            assert tree.node_count == (1 + 2 * len(left) if left else 0)


def test_deep_filters_do_not_recurse() -> None:
    deep = "/".join(["a"] * 20_000)
    tree = tree_of(("s", f"{deep}/+"), ("s", f"{deep}/#"))
    assert len(matched(tree, f"{deep}/x")) == 2
    assert tree.node_count == 20_001
    tree.remove_all("s", [f"{deep}/+", f"{deep}/#"])
    assert tree.node_count == 0


def random_filter(source: random.Random, depth: int) -> str:
    levels = [source.choice(("a", "b", "c", "", "$s", "+", "+")) for _ in range(source.randint(1, depth))]
    if source.random() < 0.3:
        levels[-1] = "#"
    return "/".join(levels) or "+"


def test_long_churn_returns_to_nothing() -> None:
    source = random.Random(1883)
    tree: SubscriptionTree[int] = SubscriptionTree()
    held: set[tuple[int, str]] = set()
    for _ in range(30_000):
        pair = (source.randrange(8), random_filter(source, 5))
        if source.random() < 0.5:
            assert tree.add(pair[0], Subscription(pair[1])) == (pair not in held)
            held.add(pair)
        else:
            assert tree.remove(*pair) == (pair in held)
            held.discard(pair)
    assert len(tree) == len(held) > 100
    for pair in sorted(held):
        assert tree.remove(*pair)
    assert (len(tree), tree.node_count, tree.filter_count) == (0, 0, 0)


# --- beside a model ----------------------------------------------------------------------------

FILTERS = st.builds(
    lambda levels, ending: "/".join([*levels, *ending]) or "+",
    st.lists(st.sampled_from(["a", "b", "", "$s", "+"]), max_size=3),
    st.sampled_from([[], [], ["#"]]),
)
SHARED_OR_NOT = st.builds(
    lambda prefix, rest: prefix + rest, st.sampled_from(["", "", "$share/g/", "$share/h/"]), FILTERS
)
TOPICS = st.lists(st.sampled_from(["a", "b", "", "$s", "x"]), min_size=1, max_size=4).map("/".join).filter(bool)


class BesideAList(RuleBasedStateMachine):
    """Every operation on the tree and on a list of all (subscriber, Subscription), with `matches` as the judge."""

    @initialize()
    def start(self) -> None:
        self.tree: SubscriptionTree[str] = SubscriptionTree()
        self.model: dict[tuple[str, str], Subscription] = {}

    @rule(subscriber=st.sampled_from("stu"), topic_filter=SHARED_OR_NOT, qos=st.integers(0, 2))
    def add(self, subscriber: str, topic_filter: str, qos: int) -> None:
        added = subscription(topic_filter, qos)
        assert self.tree.add(subscriber, added) == ((subscriber, topic_filter) not in self.model)
        self.model[subscriber, topic_filter] = added

    @rule(subscriber=st.sampled_from("stu"), topic_filter=SHARED_OR_NOT)
    def remove(self, subscriber: str, topic_filter: str) -> None:
        removed = self.model.pop((subscriber, topic_filter), None)
        assert self.tree.remove(subscriber, topic_filter) == (removed is not None)

    @rule(data=st.data())
    def remove_known(self, data: st.DataObject) -> None:
        if self.model:
            subscriber, topic_filter = data.draw(st.sampled_from(sorted(self.model)))
            self.remove(subscriber, topic_filter)

    @rule(subscriber=st.sampled_from("stu"))
    def end_session(self, subscriber: str) -> None:
        theirs = [topic_filter for owner, topic_filter in self.model if owner == subscriber]
        self.tree.remove_all(subscriber, theirs)
        for topic_filter in theirs:
            del self.model[subscriber, topic_filter]

    @rule(topic=TOPICS)
    def match(self, topic: str) -> None:
        plain, groups = self.tree.match(topic)
        selected = {key: found for key, found in self.model.items() if matches(found.filter, topic)}
        assert Counter(plain) == Counter(
            (subscriber, found) for (subscriber, _), found in selected.items() if not found.share_name
        )
        members = [
            (subscriber, group.topic_filter, found) for group in groups for subscriber, found in group.members.items()
        ]
        assert Counter(members) == Counter(
            (subscriber, found.topic_filter, found) for (subscriber, _), found in selected.items() if found.share_name
        )
        assert all(group.members for group in groups)

    @invariant()
    def counts(self) -> None:
        assert len(self.tree) == len(self.model)
        assert dict(self.tree.filters()) == Counter(topic_filter for _, topic_filter in self.model)
        needed = set()
        for found in self.model.values():
            levels = found.filter.split("/")
            if "+" in levels or "#" in levels:
                path = levels[:-1] if levels[-1] == "#" else levels
                needed |= {tuple(path[: length + 1]) for length in range(len(path))}
        assert self.tree.node_count == len(needed)


TestBesideAList = BesideAList.TestCase
TestBesideAList.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)
