"""RetainedMessages: the last one of each topic (3.3.1.3), and Replay: what a new subscription gets of them.

Bounded by number and octets; replaced and removed in place; a message past its Message Expiry
Interval, or past its Lease, is never given out and is dropped when met [MQTT-3.3.2-5], ACE-5-6.

A subscription does not copy what it matches: its Replay walks the store step by step, as fast as the client takes
the messages, while others are stored and removed. What was stored after the subscription was made went to it
already, as to every subscription, and is passed over; so a Replay gives what a copy would have given, less
what was replaced or removed in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Final

from msgspec.structs import replace

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_middleware.state.leases import Lease
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.state.subscriptions import Subscription
from acebroker_middleware.state.topic_tree import TopicNode, TopicTree

__all__ = ["Replay", "RetainedFull", "RetainedMessages", "is_over", "octets_of"]

#: what one stored message costs beside its topic and payload, for the octet limit
OVERHEAD_BYTES: Final = 256
#: stands behind the last node of a walk
_END: Final[TopicNode[Message]] = TopicNode()


class RetainedFull(MqttError):
    """No room for one more retained message."""

    default_reason_code = ReasonCode.QUOTA_EXCEEDED


class Replay:
    """The retained messages that one subscription still has to get: a place in the store, which holds no message.

    A node of `steps` is a message to send when it has a value and its `mark` is not above `mark` here.
    """

    __slots__ = ("_held", "_nodes", "mark", "subscription")

    def __init__(self, subscription: Subscription, nodes: Iterator[TopicNode[Message] | None], mark: int) -> None:
        self.subscription = subscription
        self.mark = mark
        self._nodes = nodes
        self._held: TopicNode[Message] | None = None

    def steps(self, steps_max: int) -> Iterator[TopicNode[Message] | None]:
        """Up to `steps_max` next steps, each a node or None. Whoever stops early puts `back` what it could not use."""
        held = self._held
        self._held = None
        return islice(self._nodes if held is None else chain((held,), self._nodes), steps_max)

    def back(self, node: TopicNode[Message]) -> None:
        """Give this node again, as the next one."""
        self._held = node

    def over(self) -> bool:
        """Whether nothing is left."""
        if self._held is None:
            self._held = next(self._nodes, _END)
        return self._held is _END


class RetainedMessages:
    """All retained messages. `messages_max` and `octets_max` bound them; `octets` counts topics, payloads, overhead."""

    __slots__ = ("_leases", "_mark", "_messages_max", "_octets", "_octets_max", "_tree")

    def __init__(self, messages_max: int, octets_max: int) -> None:
        self._tree: TopicTree[Message] = TopicTree()
        self._octets = 0
        self._messages_max = messages_max
        self._octets_max = octets_max
        #: rises with each Replay; what is stored gets it as its `mark`
        self._mark = 0
        #: those with messages here, by their owner
        self._leases: dict[Identity, set[Lease]] = {}

    def __len__(self) -> int:
        return len(self._tree)

    def __iter__(self) -> Iterator[Message]:
        return (node.value for node in self._tree if node.value is not None)

    @property
    def octets(self) -> int:
        """Octets accounted for all stored messages."""
        return self._octets

    def put(self, message: Message) -> None:
        """Store or replace the message of its topic [MQTT-3.3.1-5]; raises RetainedFull, leaving all as it was.

        An empty payload is not stored: call `remove` for it [MQTT-3.3.1-6], [MQTT-3.3.1-7].
        """
        node = self._tree.get(message.topic)
        octets = self._octets + octets_of(message)
        if node is not None:
            assert node.value is not None
            octets -= octets_of(node.value)
        elif len(self._tree) >= self._messages_max:
            raise RetainedFull("the store of retained messages is full")
        if octets > self._octets_max:
            raise RetainedFull("the store of retained messages is full")
        if node is None:
            node = self._tree.plant(message.topic)
        elif node.value is not None and node.value.lease is not None:
            self._end(node.value.lease, message.topic)
        node.value = message
        node.mark = self._mark
        self._octets = octets
        if message.lease is not None:
            self._begin(message.lease, message.topic)

    def put_own(self, message: Message) -> None:
        """Store a message of the broker itself, in room that is added for it: clients lose none."""
        old = self.get(message.topic)
        self._messages_max += old is None
        self._octets_max += octets_of(message) - (0 if old is None else octets_of(old))
        self.put(message)

    def admits(self, topic: str, payload_bytes: int, messages: int = 0, octets: int = 0) -> bool:
        """Whether `put` would take a message on this topic now, and after so much more.

        `payload_bytes` are those of its payload and properties.
        """
        old = self.get(topic)
        if old is None and len(self._tree) + messages >= self._messages_max:
            return False
        octets += len(topic) + payload_bytes + OVERHEAD_BYTES - (0 if old is None else octets_of(old))
        return self._octets + octets <= self._octets_max

    def get(self, topic: str) -> Message | None:
        """The message stored for exactly this topic, expired or not."""
        node = self._tree.get(topic)
        return None if node is None else node.value

    def remove(self, topic: str) -> bool:
        """Forget the message of a topic; True when there was one."""
        old = self.get(topic)
        if old is None:
            return False
        self._octets -= octets_of(old)
        if old.lease is not None:
            self._end(old.lease, topic)
        return self._tree.remove(topic)

    # ---- leases ----

    def _begin(self, lease: Lease, topic: str) -> None:
        lease.topics.add(topic)
        self._leases.setdefault(lease.owner, set()).add(lease)

    def _end(self, lease: Lease, topic: str) -> None:
        lease.topics.discard(topic)
        if not lease.topics:
            leases = self._leases.get(lease.owner, set())
            leases.discard(lease)
            if not leases:
                self._leases.pop(lease.owner, None)

    def renew(self, lease: Lease, covers: Callable[[str], bool], wall: float) -> None:
        """Their publisher has a new token: what it retained lasts as long as that, where it `covers` the topic (D-25).

        What has ended already is not called back.
        """
        for old in tuple(self._leases.get(lease.owner, ())):
            if old is lease or not wall < old.until < lease.until:
                continue
            if old.scope == lease.scope:
                old.until, old.token = lease.until, lease.token
                continue
            for topic in [topic for topic in old.topics if covers(topic)]:
                node = self._tree.get(topic)
                assert node is not None and node.value is not None
                node.value = replace(node.value, lease=lease)
                self._end(old, topic)
                self._begin(lease, topic)

    def revoke(self, token: bytes) -> list[str]:
        """Remove what was retained under a token, by its thumbprint; gives the topics."""
        topics = [
            topic
            for leases in self._leases.values()
            for lease in leases
            if lease.token == token
            for topic in lease.topics
        ]
        for topic in topics:
            self.remove(topic)
        return topics

    def replay(self, subscription: Subscription) -> Replay | None:
        """What a subscription that is made now gets, wildcards never taking a leading `$` [MQTT-4.7.2-1].

        None where that is nothing, as far as can be seen at once.
        """
        nodes = self._tree.walk(subscription.filter)
        if nodes is None:
            return None
        mark = self._mark
        self._mark += 1
        return Replay(subscription, nodes, mark)

    def match(self, topic_filter: str, now: float, wall: float) -> list[Message]:
        """All live messages whose topics match the filter, at once; forgets those that have expired."""
        nodes = self._tree.walk(topic_filter) or ()
        found = [node.value for node in nodes if node is not None and node.value is not None]
        live = [message for message in found if not is_over(message, now, wall)]
        if len(live) < len(found):
            for message in found:
                if is_over(message, now, wall):
                    self.remove(message.topic)
        return live


def is_over(message: Message, now: float, wall: float) -> bool:
    """Whether a retained message lasts no longer: its expiry, or the token of its publisher."""
    if message.expires_at is not None and message.expires_at <= now:
        return True
    return message.lease is not None and message.lease.until <= wall


def octets_of(message: Message) -> int:
    """What a message counts for the octet limit."""
    return message.octets + OVERHEAD_BYTES
