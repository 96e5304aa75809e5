"""RetainedMessages: the last retained message of each topic (3.3.1.3), found by filter.

Bounded by number and octets; replaced and removed in place; a message past its Message Expiry
Interval is never given out and is dropped when met [MQTT-3.3.2-5].
"""

from __future__ import annotations

from collections.abc import Iterator

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_middleware.state.message import Message

__all__ = ["RetainedFull", "RetainedMessages"]

#: what one stored message costs beside its topic and payload, for the octet limit
OVERHEAD_BYTES = 256


class RetainedFull(MqttError):
    """No room for one more retained message."""

    default_reason_code = ReasonCode.QUOTA_EXCEEDED


class _Level:
    __slots__ = ("below", "message")

    def __init__(self) -> None:
        self.below: dict[str, _Level] = {}
        self.message: Message | None = None


class RetainedMessages:
    """A trie by topic level. `messages_max` and `octets_max` bound it; `octets` counts topic, payload and overhead."""

    __slots__ = ("_count", "_messages_max", "_octets", "_octets_max", "_root")

    def __init__(self, messages_max: int, octets_max: int) -> None:
        self._root = _Level()
        self._count = 0
        self._octets = 0
        self._messages_max = messages_max
        self._octets_max = octets_max

    def __len__(self) -> int:
        return self._count

    @property
    def octets(self) -> int:
        """Octets accounted for all stored messages."""
        return self._octets

    def put(self, message: Message) -> None:
        """Store or replace the message of its topic [MQTT-3.3.1-5]; raises RetainedFull, leaving all as it was.

        An empty payload is not stored: call `remove` for it [MQTT-3.3.1-6], [MQTT-3.3.1-7].
        """
        levels = message.topic.split("/")
        if not self.admits(message.topic, len(message.payload)):
            raise RetainedFull("the store of retained messages is full")
        old = self.get(message.topic)
        node = self._root
        for level in levels:
            below = node.below.get(level)
            if below is None:
                below = node.below[level] = _Level()
            node = below
        node.message = message
        self._count += old is None
        self._octets += _octets(message) - (0 if old is None else _octets(old))

    def put_own(self, message: Message) -> None:
        """Store a message of the broker itself, in room that is added for it: clients lose none."""
        old = self.get(message.topic)
        self._messages_max += old is None
        self._octets_max += _octets(message) - (0 if old is None else _octets(old))
        self.put(message)

    def admits(self, topic: str, payload_bytes: int) -> bool:
        """Whether `put` would take a message of so many octets on this topic now."""
        old = self.get(topic)
        octets = len(topic) + payload_bytes + OVERHEAD_BYTES - (0 if old is None else _octets(old))
        if self._count + (old is None) > self._messages_max:
            return False
        return octets <= 0 or self._octets + octets <= self._octets_max  # what shrinks is always taken

    def get(self, topic: str) -> Message | None:
        """The message stored for exactly this topic, expired or not."""
        node: _Level | None = self._root
        for level in topic.split("/"):
            node = node.below.get(level)  # type: ignore[union-attr]
            if node is None:
                return None
        return node.message if node is not None else None

    def remove(self, topic: str) -> bool:
        """Forget the message of a topic; True when there was one. No empty level stays behind."""
        levels = topic.split("/")
        path = [self._root]
        for level in levels:
            node = path[-1].below.get(level)
            if node is None:
                return False
            path.append(node)
        leaf = path[-1]
        if leaf.message is None:
            return False
        self._count -= 1
        self._octets -= _octets(leaf.message)
        leaf.message = None
        for depth in range(len(levels), 0, -1):
            if path[depth].message is not None or path[depth].below:
                break
            del path[depth - 1].below[levels[depth - 1]]
        return True

    def match(self, topic_filter: str, now: float) -> list[Message]:
        """The live messages whose topics match the filter, wildcards never taking a leading `$` [MQTT-4.7.2-1]."""
        levels = topic_filter.split("/")
        found: list[Message] = []
        expired: list[str] = []
        work: list[tuple[_Level, int]] = [(self._root, 0)]
        while work:
            node, depth = work.pop()
            if depth == len(levels):
                self._take(node.message, now, found, expired)
                continue
            level = levels[depth]
            if level == "#":
                if depth > 0:
                    self._take(node.message, now, found, expired)  # `a/#` matches `a` [MQTT-4.7.1-2]
                for name, below in node.below.items():
                    if depth > 0 or not name.startswith("$"):
                        for message in _all(below):
                            self._take(message, now, found, expired)
            elif level == "+":
                for name, below in node.below.items():
                    if depth > 0 or not name.startswith("$"):
                        work.append((below, depth + 1))
            else:
                exact = node.below.get(level)
                if exact is not None:
                    work.append((exact, depth + 1))
        for topic in expired:
            self.remove(topic)
        return found

    def __iter__(self) -> Iterator[Message]:
        return _all(self._root)

    @staticmethod
    def _take(message: Message | None, now: float, found: list[Message], expired: list[str]) -> None:
        if message is None:
            return
        if message.expires_at is not None and message.expires_at <= now:
            expired.append(message.topic)
        else:
            found.append(message)


def _all(node: _Level) -> Iterator[Message]:
    work = [node]
    while work:
        node = work.pop()
        if node.message is not None:
            yield node.message
        work.extend(node.below.values())


def _octets(message: Message) -> int:
    return len(message.topic) + len(message.payload) + OVERHEAD_BYTES
