"""The TopicTree: beside a dict under churn, and walks under which the tree changes."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebroker_codec.topics import matches
from acebroker_middleware.state.topic_tree import TopicNode, TopicTree

V = TypeVar("V")

FILTERS = st.builds(
    lambda levels, ending: "/".join([*levels, *ending]) or "#",
    st.lists(st.sampled_from(["a", "b", "", "$s", "+"]), max_size=3),
    st.sampled_from([[], [], ["#"]]),
)
TOPICS = st.lists(st.sampled_from(["a", "b", "", "$s", "x"]), min_size=1, max_size=4).map("/".join).filter(bool)


def tree_of(*topics: str) -> TopicTree[str]:
    tree: TopicTree[str] = TopicTree()
    for topic in topics:
        tree.plant(topic).value = topic
    return tree


def walked(tree: TopicTree[V], topic_filter: str) -> Iterator[TopicNode[V] | None]:
    return tree.walk(topic_filter) or iter(())


def found(tree: TopicTree[str], topic_filter: str) -> list[str]:
    return sorted(node.value for node in walked(tree, topic_filter) if node is not None and node.value is not None)


@pytest.mark.parametrize(
    ("topic_filter", "topics"),
    [
        ("#", ["/", "a", "a/", "a/b", "a/b/c", "b"]),
        ("+", ["a", "b"]),
        ("+/+", ["/", "a/", "a/b"]),
        ("a/#", ["a", "a/", "a/b", "a/b/c"]),
        ("+/b/#", ["a/b", "a/b/c"]),
        ("a/+/c", ["a/b/c"]),
        ("a/b", ["a/b"]),
        ("$s/#", ["$s", "$s/b"]),
        ("$s/+", ["$s/b"]),
        ("$s", ["$s"]),
        ("c/#", []),
        ("a/b/c/d", []),
    ],
)
def test_which_topics_a_filter_selects(topic_filter: str, topics: list[str]) -> None:
    """[MQTT-4.7.1-2], [MQTT-4.7.2-1]: the parent level, and `$`, which no wildcard at the first level selects."""
    tree = tree_of("a", "a/", "a/b", "a/b/c", "/", "b", "$s", "$s/b")
    assert found(tree, topic_filter) == topics


def test_removal_leaves_nothing() -> None:
    tree = tree_of("a/b/c", "a", "$s/x")
    assert tree.node_count() == 5
    assert tree.remove("a")
    assert tree.node_count() == 5
    assert not tree.remove("a")
    assert not tree.remove("a/b")
    assert not tree.remove("z")
    assert tree.remove("a/b/c")
    assert tree.remove("$s/x")
    assert (len(tree), tree.node_count()) == (0, 0)


def test_an_emptied_tree_gives_its_memory_back() -> None:
    topics = [f"a/{number}/b" for number in range(5_000)]
    tree = tree_of(*topics)
    for topic in topics:
        assert tree.remove(topic)
    assert sys.getsizeof(tree._by_topic) == sys.getsizeof({})
    assert tree._root.childless


@pytest.mark.parametrize("topic_filter", ["a", "b", "x/#", "x/+", "a/b/c/#", "a/b/c/+", "a/b/+", "$s/#"])
def test_nothing_is_seen_at_once(topic_filter: str) -> None:
    """Where the levels before the first wildcard lead to nothing, there is nothing to walk."""
    tree = tree_of("a/b", "a/c")
    assert tree.walk(topic_filter) is None
    assert TopicTree[str]().walk("#") is None


def test_a_walk_that_has_not_begun_takes_no_memory() -> None:
    tree = tree_of(*(f"a/{number}" for number in range(10_000)))
    tracemalloc.start()
    walks = [tree.walk(topic_filter) for topic_filter in ("#", "+/+", "a/+", "a/#") for _ in range(100)]
    octets = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert octets / len(walks) < 2_000
    assert all(walk is not None and len(list(walk)) >= 10_000 for walk in walks[::100])


def test_a_step_is_a_small_one() -> None:
    """10,000 topics that a filter passes in vain are steps of their own: who walks can stop between any two."""
    tree = tree_of(*(f"{number}/a" for number in range(10_000)), "x/b")
    walk = walked(tree, "+/b")
    assert list(islice(walk, 9_999)) == [None] * 9_999
    walk = walked(tree, "+/+/+")
    assert list(islice(walk, 9_999)) == [None] * 9_999


def test_deep_topics_do_not_recurse() -> None:
    deep = "/".join(["a"] * 20_000)
    tree = tree_of(deep)
    assert found(tree, "#") == [deep]
    assert tree.remove(deep)
    assert tree.node_count() == 0


class BesideADict(RuleBasedStateMachine):
    """Every operation on the tree and on a dict, with `matches` as the judge."""

    @initialize()
    def start(self) -> None:
        self.tree: TopicTree[int] = TopicTree()
        self.model: dict[str, int] = {}

    @rule(topic=TOPICS, value=st.integers(0, 9))
    def put(self, topic: str, value: int) -> None:
        self.tree.plant(topic).value = value
        self.model[topic] = value

    @rule(topic=TOPICS)
    def remove(self, topic: str) -> None:
        assert self.tree.remove(topic) == (self.model.pop(topic, None) is not None)

    @rule(topic=TOPICS)
    def get(self, topic: str) -> None:
        node = self.tree.get(topic)
        assert (None if node is None else node.value) == self.model.get(topic)

    @rule(topic_filter=FILTERS)
    def walk(self, topic_filter: str) -> None:
        values = sorted(node.value for node in walked(self.tree, topic_filter) if node and node.value is not None)
        assert values == sorted(value for topic, value in self.model.items() if matches(topic_filter, topic))

    @invariant()
    def sizes(self) -> None:
        assert len(self.tree) == len(self.model) == len(list(self.tree))
        levels = [topic.split("/") for topic in self.model]
        assert self.tree.node_count() == len(
            {tuple(each[: depth + 1]) for each in levels for depth in range(len(each))}
        )


TestBesideADict = BesideADict.TestCase
TestBesideADict.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)


@given(
    before=st.sets(TOPICS, max_size=12),
    topic_filter=FILTERS,
    changes=st.lists(st.tuples(st.integers(0, 4), st.booleans(), TOPICS), max_size=12),
)
def test_a_walk_while_the_tree_changes(
    before: set[str], topic_filter: str, changes: list[tuple[int, bool, str]]
) -> None:
    """What is there all the time comes, once; what went before its turn does not; nothing comes that does not match."""
    tree = tree_of(*sorted(before))
    stayed = set(before)
    walk = walked(tree, topic_filter)
    came: list[str] = []

    def take(steps: int | None) -> None:
        for node in islice(walk, steps):
            if node is not None and node.value is not None:
                assert tree.get(node.value) is node
                came.append(node.value)

    for steps, adds, topic in changes:
        take(steps)
        if adds:
            tree.plant(topic).value = topic
        else:
            tree.remove(topic)
            stayed.discard(topic)
    take(None)
    assert len(set(came)) == len(came)
    assert {topic for topic in stayed if matches(topic_filter, topic)} <= set(came)
    assert all(matches(topic_filter, topic) for topic in came)
