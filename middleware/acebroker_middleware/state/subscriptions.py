"""Who subscribed to what: Subscription, SharedGroup, and the SubscriptionTree that answers for a topic (3.8, 4.7, 4.8).

The tree is two things side by side:

    by filter    one dict: filter -> its subscribers. A Topic Name holds no wildcard, so looking up the
                 topic itself finds the exact subscribers, and nothing else, in one step.
    by levels    a trie with the wildcard filters alone. A step down follows the literal level and `+`;
                 `#` is no node: it hangs as `below` on the node of its parent level, because
                 `sport/#` selects `sport` too.

So a match costs one dict step plus a walk over the few trie nodes that agree with the topic,
whatever the number of filters. Nodes exist only on the way to a filter: the last unsubscribe takes them away.

Subscribers are any hashable objects; the tree compares them and gives them back, no more. It does
not deliver, does not check filters (`codec.topics` did) or rights, and does not choose a member of a group.

Statements: [MQTT-3.3.4-2], [MQTT-3.8.4-3], [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1], [MQTT-4.7.3-4].
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from msgspec import Struct

from acebroker_codec.topics import SHARE_PREFIX, SharedSubscription, has_wildcard
from acebroker_middleware.state.levels import Level

__all__ = ["SharedGroup", "Subscription", "SubscriptionTree"]

S = TypeVar("S", bound=Hashable)


class Subscription(Struct, frozen=True, gc=False):
    """One Topic Filter of one session with its Subscription Options (3.8.3.1).

    `filter` is what topics are matched against; for a Shared Subscription it stands without
    `$share/Name/`, and `share_name` is the Name. `identifier` 0 means none. `qos` is the granted Maximum QoS.
    """

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    identifier: int = 0
    share_name: str = ""

    @property
    def topic_filter(self) -> str:
        """The Topic Filter as the client spelled it: what an UNSUBSCRIBE names [MQTT-3.10.4-1]."""
        return f"{SHARE_PREFIX}{self.share_name}/{self.filter}" if self.share_name else self.filter


class SharedGroup(Generic[S]):
    """The sessions that share one Shared Subscription: created by the first, gone with the last (4.8.2).

    `members` is in order of joining. `waiting` belongs to the router (its queue for this group, or
    None); when the last member has left, `members` is empty and the tree no longer knows the group.
    """

    __slots__ = ("filter", "members", "share_name", "waiting")

    def __init__(self, share_name: str, topic_filter: str) -> None:
        self.share_name: Final = share_name
        self.filter: Final = topic_filter
        self.members: Final[dict[S, Subscription]] = {}
        self.waiting: object | None = None

    @property
    def topic_filter(self) -> str:
        """`$share/Name/filter`, which names the group in the whole broker."""
        return f"{SHARE_PREFIX}{self.share_name}/{self.filter}"

    def __repr__(self) -> str:
        return f"<SharedGroup {self.topic_filter!r}, {len(self.members)} members>"


class _Subscribers(Struct, Generic[S], gc=False):
    """The subscribers of one filter. Most filters have one: it is kept without a dict."""

    one: S | None = None
    subscription: Subscription | None = None
    many: dict[S, Subscription] | None = None
    groups: dict[str, SharedGroup[S]] | None = None

    def add(self, subscriber: S, subscription: Subscription) -> bool:
        if self.many is not None:
            new = subscriber not in self.many
            self.many[subscriber] = subscription
            return new
        if self.subscription is None or self.one == subscriber:
            new = self.subscription is None
            self.one, self.subscription = subscriber, subscription
            return new
        self.many = {self.one: self.subscription, subscriber: subscription}  # type: ignore[dict-item]
        self.one = self.subscription = None
        return True

    def remove(self, subscriber: S) -> bool:
        if self.many is not None:
            if self.many.pop(subscriber, None) is None:
                return False
            if len(self.many) == 1:
                ((self.one, self.subscription),) = self.many.items()
                self.many = None
            return True
        if self.subscription is None or self.one != subscriber:
            return False
        self.one = self.subscription = None
        return True

    def join(self, subscriber: S, subscription: Subscription) -> bool:
        if self.groups is None:
            self.groups = {}
        group = self.groups.get(subscription.share_name)
        if group is None:
            group = self.groups[subscription.share_name] = SharedGroup(subscription.share_name, subscription.filter)
        new = subscriber not in group.members
        group.members[subscriber] = subscription
        return new

    def leave(self, subscriber: S, share_name: str) -> bool:
        group = None if self.groups is None else self.groups.get(share_name)
        if group is None or group.members.pop(subscriber, None) is None:
            return False
        if not group.members:
            assert self.groups is not None
            del self.groups[share_name]
            self.groups = self.groups or None
        return True

    def collect(self, plain: list[tuple[S, Subscription]], groups: list[SharedGroup[S]]) -> None:
        if self.subscription is not None:
            plain.append((self.one, self.subscription))  # type: ignore[arg-type]
        elif self.many is not None:
            plain.extend(self.many.items())
        if self.groups is not None:
            groups.extend(self.groups.values())

    @property
    def empty(self) -> bool:
        return self.subscription is None and self.many is None and self.groups is None

    def plain_count(self) -> int:
        return len(self.many) if self.many is not None else int(self.subscription is not None)


class _Node(Level["_Node[S]"], Generic[S], gc=False, eq=False):
    """One level on the way to a wildcard filter. `at`: the filter that ends here; `below`: the one that adds `/#`."""

    at: _Subscribers[S] | None = None
    below: _Subscribers[S] | None = None
    plus: _Node[S] | None = None

    @property
    def empty(self) -> bool:
        return self.at is None and self.below is None and self.plus is None and self.childless


class SubscriptionTree(Generic[S]):
    """All subscriptions of a broker. `len()` counts subscriptions: a filter once for each of its subscribers."""

    __slots__ = ("_by_filter", "_count", "_node_count", "_root")

    def __init__(self) -> None:
        self._by_filter: dict[str, _Subscribers[S]] = {}
        self._root: _Node[S] = _Node()
        self._node_count = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def filter_count(self) -> int:
        """Distinct filters, `$share/Name/` not counted as part of them."""
        return len(self._by_filter)

    @property
    def node_count(self) -> int:
        """Trie nodes held for wildcard filters; 0 when there is none."""
        return self._node_count

    def add(self, subscriber: S, subscription: Subscription) -> bool:
        """Add a subscription, or replace the subscriber's own one with the same filter [MQTT-3.8.4-3].

        The filter has passed `check_topic_filter`. True when it is new, False when it replaced one.
        """
        topic_filter = subscription.filter
        subscribers = self._by_filter.get(topic_filter)
        if subscribers is None:
            subscribers = self._by_filter[topic_filter] = _Subscribers()
            if has_wildcard(topic_filter):
                self._plant(topic_filter, subscribers)
        if subscription.share_name:
            new = subscribers.join(subscriber, subscription)
        else:
            new = subscribers.add(subscriber, subscription)
        self._count += new
        return new

    def remove(self, subscriber: S, topic_filter: str) -> bool:
        """Remove the subscription to `topic_filter`, spelled as it was subscribed. False if there was none."""
        shared = SharedSubscription.parse(topic_filter)
        bare_filter = topic_filter if shared is None else shared.topic_filter
        subscribers = self._by_filter.get(bare_filter)
        if subscribers is None:
            return False
        removed = subscribers.remove(subscriber) if shared is None else subscribers.leave(subscriber, shared.share_name)
        self._count -= removed
        if subscribers.empty:
            del self._by_filter[bare_filter]
            if not self._by_filter:
                self._by_filter = {}  # a dict keeps its size when it is emptied
            if has_wildcard(bare_filter):
                self._uproot(bare_filter)
        return removed

    def remove_all(self, subscriber: S, topic_filters: Iterable[str]) -> None:
        """Remove several, as a session that ends does; what is not there is passed over."""
        for topic_filter in topic_filters:
            self.remove(subscriber, topic_filter)

    def match(self, topic: str) -> tuple[list[tuple[S, Subscription]], list[SharedGroup[S]]]:
        """Everything that selects a valid Topic Name: the plain subscriptions, and the groups of shared ones.

        A subscriber with several overlapping filters appears once for each. Both lists are the
        caller's to keep; their order means nothing.
        """
        plain: list[tuple[S, Subscription]] = []
        groups: list[SharedGroup[S]] = []
        exact = self._by_filter.get(topic)
        if exact is not None:
            exact.collect(plain, groups)
        if not self._node_count and self._root.below is None:
            return plain, groups

        levels = topic.split("/")
        if topic[0] == "$":  # no wildcard at the first level selects it [MQTT-4.7.2-1]
            child = self._root.get(levels[0])
            nodes = [] if child is None else [child]
            del levels[0]
        else:
            nodes = [self._root]
        for level in levels:
            following: list[_Node[S]] = []
            for node in nodes:
                if node.below is not None:
                    node.below.collect(plain, groups)
                if node.plus is not None:
                    following.append(node.plus)
                if node.children is not None:
                    child = node.children.get(level)
                    if child is not None:
                        following.append(child)
                elif node.name == level:
                    following.append(node.child)  # type: ignore[arg-type]
            nodes = following
            if not nodes:
                break
        for node in nodes:  # all levels are used up: what ends here, and what has `/#` after here
            if node.at is not None:
                node.at.collect(plain, groups)
            if node.below is not None:
                node.below.collect(plain, groups)
        return plain, groups

    def group(self, topic_filter: str) -> SharedGroup[S] | None:
        """The group of a Shared Subscription, by its full name `$share/Name/filter`, while it has members."""
        shared = SharedSubscription.parse(topic_filter)
        if shared is None:
            return None
        subscribers = self._by_filter.get(shared.topic_filter)
        if subscribers is None or subscribers.groups is None:
            return None
        return subscribers.groups.get(shared.share_name)

    def filters(self) -> Iterator[tuple[str, int]]:
        """Each Topic Filter as subscribed (`$share/Name/` included) with its number of subscribers.

        For monitoring: the tree must not change between two steps.
        """
        for topic_filter, subscribers in self._by_filter.items():
            plain_count = subscribers.plain_count()
            if plain_count:
                yield topic_filter, plain_count
            for group in (subscribers.groups or {}).values():
                yield group.topic_filter, len(group.members)

    def _plant(self, topic_filter: str, subscribers: _Subscribers[S]) -> None:
        node = self._root
        for level in topic_filter.split("/"):
            if level == "#":
                node.below = subscribers
                return
            if level == "+":
                child = node.plus
                if child is None:
                    child = node.plus = _Node()
                    self._node_count += 1
            else:
                child = node.get(level)
                if child is None:
                    child = _Node()
                    node.put(level, child)
                    self._node_count += 1
            node = child
        node.at = subscribers

    def _uproot(self, topic_filter: str) -> None:
        node = self._root
        path: list[tuple[_Node[S], str]] = []  # each node passed, and the level by which it was left
        for level in topic_filter.split("/"):
            if level == "#":
                node.below = None
                break
            path.append((node, level))
            child = node.plus if level == "+" else node.get(level)
            assert child is not None
            node = child
        else:
            node.at = None
        while path and node.empty:
            node, level = path.pop()
            self._node_count -= 1
            if level == "+":
                node.plus = None
            else:
                node.drop(level)
