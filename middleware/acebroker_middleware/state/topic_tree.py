"""TopicTree: values by Topic Name, one each, found by name or by Topic Filter (4.7).

The counterpart of the SubscriptionTree, which keeps filters and is asked for a topic. Two ways to the same nodes:

    by topic     one dict: a look-up and a replaced value are one step, whatever the number of topics
    by levels    a trie that a filter is walked through. Topics that start with `$` have a root of their own, so
                 that no wildcard at the first level ever meets them [MQTT-4.7.2-1].

A walk is lazy, and the tree may change under it: that is what lets 100,000 retained messages leave in
slices while others are stored. Nodes exist only on the way to a value: the last `remove` takes them away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, Generic, TypeVar

from acebroker_codec.topics import has_wildcard
from acebroker_middleware.state.levels import Level

__all__ = ["TopicNode", "TopicTree"]

V = TypeVar("V")

#: nodes that are looked at in one go
_PORTION_NODES_MAX: Final = 256


class TopicNode(Level["TopicNode[V]"], Generic[V], gc=False, eq=False):
    """One level of a topic; `value` where a topic with a value ends. `mark` is the owner's to use."""

    value: V | None = None
    mark: int = 0


class TopicTree(Generic[V]):
    """Values by Topic Name. `len()` counts them."""

    __slots__ = ("_by_topic", "_root", "_root_of_dollar")

    def __init__(self) -> None:
        self._by_topic: dict[str, TopicNode[V]] = {}
        self._root: Final[TopicNode[V]] = TopicNode()
        self._root_of_dollar: Final[TopicNode[V]] = TopicNode()

    def __len__(self) -> int:
        return len(self._by_topic)

    def __iter__(self) -> Iterator[TopicNode[V]]:
        return iter(self._by_topic.values())

    def get(self, topic: str) -> TopicNode[V] | None:
        """The node of exactly this topic, if it has a value."""
        return self._by_topic.get(topic)

    def plant(self, topic: str) -> TopicNode[V]:
        """The node of a topic, made where there is none. The caller gives it a value."""
        node = self._by_topic.get(topic)
        if node is not None:
            return node
        node = self._root_of(topic)
        for level in topic.split("/"):
            child = node.get(level)
            if child is None:
                child = TopicNode()
                node.put(level, child)
            node = child
        self._by_topic[topic] = node
        return node

    def remove(self, topic: str) -> bool:
        """Forget the value of a topic; True when there was one. No empty level stays behind."""
        node = self._by_topic.pop(topic, None)
        if node is None:
            return False
        if not self._by_topic:
            self._by_topic = {}  # a dict keeps its size when it is emptied
        node.value = None
        if not node.childless:
            return True
        levels = topic.split("/")
        above = self._root_of(topic)
        path: list[TopicNode[V]] = []
        for level in levels:
            path.append(above)
            child = above.get(level)
            assert child is not None
            above = child
        while path:
            node = path.pop()
            node.drop(levels[len(path)])
            if node.value is not None or not node.childless:
                break
        return True

    def walk(self, topic_filter: str) -> Iterator[TopicNode[V] | None] | None:
        """The nodes whose topics a valid filter (without `$share`) selects, in no order. Some have no value.

        None where the levels before the first wildcard lead to nothing. What is given takes no memory before its first
        step, and then that of one level of the topics, 8 octets for each, at a time.

        Every step is a small one: a None stands for a node that was looked at in vain. The tree may change between two
        steps. What is there all the time is given, once; what comes meanwhile may be; what went has no value.
        """
        if not has_wildcard(topic_filter):
            node = self._by_topic.get(topic_filter)
            return None if node is None else iter((node,))
        levels = topic_filter.split("/")
        node = self._root_of(topic_filter)
        depth = 0
        while (level := levels[depth]) not in ("+", "#"):
            node = node.get(level)
            if node is None:
                return None
            depth += 1
        if node.childless and (level == "+" or node.value is None):
            return None
        nodes: Iterable[TopicNode[V] | None] = (node,)
        for level in levels[depth:]:
            if level == "#":
                nodes = chain.from_iterable(_with_all_below(nodes))
            elif level == "+":
                nodes = chain.from_iterable(map(_children, nodes))
            else:
                nodes = map(_Child(level), nodes)
        return iter(nodes)

    def node_count(self) -> int:
        """Nodes held, counted one by one: for tests."""
        count = -2
        work = [self._root, self._root_of_dollar]
        while work:
            node = work.pop()
            count += 1
            work.extend(node.all())
        return count

    def _root_of(self, topic: str) -> TopicNode[V]:
        return self._root_of_dollar if topic[0] == "$" else self._root


def _children(node: TopicNode[V] | None) -> Sequence[TopicNode[V] | None]:
    """The children as they are now; a None for none, so that a step is a step."""
    return (None if node is None else node.all()) or (None,)


def _with_all_below(nodes: Iterable[TopicNode[V] | None]) -> Iterator[Sequence[TopicNode[V] | None]]:
    """The nodes and everything below them, in portions."""
    for top in nodes:
        yield (top,)
        work = [] if top is None else [top]
        while work:
            level = _children(work.pop())
            for start in range(0, len(level), _PORTION_NODES_MAX):
                portion = level[start : start + _PORTION_NODES_MAX]
                yield portion
                work += [
                    node
                    for node in portion
                    if node is not None and (node.child is not None or node.children is not None)
                ]


class _Child:
    """Steps down by one literal level."""

    __slots__ = ("_level",)

    def __init__(self, level: str) -> None:
        self._level = level

    def __call__(self, node: TopicNode[V] | None) -> TopicNode[V] | None:
        return None if node is None else node.get(self._level)
