"""Routes: who gets the messages of a topic, made from the subscriptions when first asked for and kept while it holds.

    exact (un)subscribe      that topic's Route is stale
    wildcard (un)subscribe   those of the topics that the filter selects are, found by walking the kept topics; where
                             there is too much to walk, all are, by one step of the epoch

Nobody is told: whoever holds a stale Route sees it by its version, and asks again. Bounded in number; when full,
the one that was asked for longest ago makes room, but for those that were asked for again meanwhile (second chance).
A Route that makes room is stale too, because a later change would not find it.

Statements: [MQTT-3.3.4-2 .. 3.3.4-5], [MQTT-3.8.3-3].
"""

from __future__ import annotations

from collections import deque
from typing import Final

from acebroker_codec.topics import has_wildcard
from acebroker_middleware.connection import Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.flows import STALE, Epoch, LocalSubscriber, Route, Target, Verdict
from acebroker_middleware.state.session_state import SessionState
from acebroker_middleware.state.subscriptions import Subscription, SubscriptionTree
from acebroker_middleware.state.topic_tree import TopicNode, TopicTree

__all__ = ["Routes"]

#: octets that a frame of MQTT 3 gains on its way to MQTT 5: empty properties, and a longer Remaining Length
FRAME_GROWTH_MAX: Final = 2

#: steps of walks for wildcard filters in one round, beyond which making all Routes anew is the lesser evil
_WALK_STEPS_MAX: Final = 1_000
#: Routes that are given a second chance before one has to go all the same
_CHANCES_MAX: Final = 16
#: in the place of a Route that is stale, so that it keeps nobody alive
_NO_ROUTE: Final = Route(STALE)


class Routes:
    """All Routes of a broker. Reads both trees; `epoch` is what versions are compared with."""

    def __init__(
        self,
        round_: Round,
        tree: SubscriptionTree[SessionState],
        local: SubscriptionTree[LocalSubscriber],
        deliver: Deliver,
    ) -> None:
        self.epoch = Epoch()
        self._limits = round_.limits
        self._clock = round_.clock
        self._tree = tree
        self._local = local
        self._deliver = deliver
        #: topic -> its Route; `mark` 1: asked for again since it came to its place in `_queue`
        self._kept: TopicTree[Route] = TopicTree()
        #: the topics of `_kept`, the next to make room first
        self._queue: deque[str] = deque()
        #: steps of walks that are left in the round of that moment: one SUBSCRIBE may bring thousands of filters
        self._steps_left = _WALK_STEPS_MAX
        self._round_of_steps = round_.clock.now

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, topic: str) -> Route:
        """The Route of a Topic Name, made anew when there is none that still holds."""
        node = self._kept.get(topic)
        if node is not None:
            node.mark = 1
            route = node.value
            if route is None or route.version != self.epoch.routes:
                route = node.value = self._make(topic)
            return route
        route = self._make(topic)
        if len(self._queue) >= self._limits.routes_max:
            self._make_room()
        self._kept.plant(topic).value = route
        self._queue.append(topic)
        return route

    def _make_room(self) -> None:
        chances = 0
        while True:
            topic = self._queue.popleft()
            node = self._kept.get(topic)
            assert node is not None
            if not node.mark or chances == _CHANCES_MAX:
                break
            node.mark = 0
            self._queue.append(topic)
            chances += 1
        assert node.value is not None
        node.value.version = STALE
        self._kept.remove(topic)

    def invalidate(self, topic_filter: str) -> None:
        """A subscription to this filter (without `$share`) came, went or changed its connection."""
        if not has_wildcard(topic_filter):
            self._void(self._kept.get(topic_filter))
            return
        steps = self._kept.walk(topic_filter)
        if steps is None:
            return
        if self._round_of_steps != self._clock.now:
            self._round_of_steps = self._clock.now
            self._steps_left = _WALK_STEPS_MAX
        left = self._steps_left
        for node in steps:
            if not left:
                self.epoch.routes += 1
                self._kept = TopicTree()
                self._queue.clear()
                self._steps_left = _WALK_STEPS_MAX
                return
            left -= 1
            self._void(node)
        self._steps_left = left

    @staticmethod
    def _void(node: TopicNode[Route] | None) -> None:
        if node is not None and node.value is not None and node.value is not _NO_ROUTE:
            node.value.version = STALE
            node.value = _NO_ROUTE

    # ---- making one ----

    def _make(self, topic: str) -> Route:
        route = Route(self.epoch.routes)
        plain, groups = self._tree.match(topic)
        if groups:
            route.groups = groups
            route.fast = False
        if len(self._local):
            route.local = [subscriber for subscriber, _ in self._local.match(topic)[0]]
            route.fast = route.fast and not route.local
        if len(plain) == 1:
            ((state, subscription),) = plain
            self._aim(route, topic, {state: [subscription]})
        elif plain:
            merged: dict[SessionState, list[Subscription]] = {}
            for state, subscription in plain:
                merged.setdefault(state, []).append(subscription)
            self._aim(route, topic, merged)
        return route

    def _aim(self, route: Route, topic: str, merged: dict[SessionState, list[Subscription]]) -> None:
        """Make a target of each session with its subscriptions."""
        targets: list[Target] = []
        fast_3: list[SessionState] = []
        fast_5: list[SessionState] = []
        long = len(topic) >= self._limits.topic_alias_out_bytes_min
        for state, subscriptions in merged.items():
            conn = state.connection
            verdict = Verdict.PASS if conn is None else self._deliver.plan(conn, topic)
            if verdict is Verdict.DENY and conn is not None and not conn.strict:
                continue  # a strict one is told, by the first message that it may not get
            inspected = verdict is not Verdict.PASS
            target = _target(state, subscriptions, inspected)
            targets.append(target)
            if state.durable:
                route.durable = True
            if conn is None:
                continue
            if target.no_local or target.identifiers or inspected or (long and conn.sending_aliases.maximum > 0):
                route.fast = False
            (fast_5 if conn.v5 else fast_3).append(state)
            if conn.packet_bytes_max is not None:
                route.packet_bytes_max = min(route.packet_bytes_max, conn.packet_bytes_max - FRAME_GROWTH_MAX)
        route.targets, route.fast_3, route.fast_5 = tuple(targets), tuple(fast_3), tuple(fast_5)


def _target(state: SessionState, subscriptions: list[Subscription], inspected: bool) -> Target:
    """One session's subscriptions to a topic in one."""
    if len(subscriptions) == 1:
        (one,) = subscriptions
        identifiers = (one.identifier,) if one.identifier else ()
        return Target(state, one.qos, one.no_local, one.retain_as_published, identifiers, inspected)
    others = [s for s in subscriptions if not s.no_local]
    own = _target(state, others, inspected) if others and len(others) < len(subscriptions) else None
    return Target(
        state,
        max(s.qos for s in subscriptions),
        any(s.no_local for s in subscriptions),
        any(s.retain_as_published for s in subscriptions),
        tuple(s.identifier for s in subscriptions if s.identifier),
        inspected,
        own,
    )
