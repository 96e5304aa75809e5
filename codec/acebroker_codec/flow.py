"""Packet Identifiers, the in-flight window and Topic Aliases of one session or connection.

    outgoing      PUBACK        PUBREC < 0x80    PUBREC >= 0x80   PUBCOMP
    QOS_1         DONE          VIOLATION        VIOLATION        VIOLATION
    QOS_2         VIOLATION     RELEASE          DONE             VIOLATION
    RELEASED      VIOLATION     RELEASE again    VIOLATION        DONE
    UNKNOWN       IGNORE        RELEASE_UNKNOWN  IGNORE           IGNORE

The window knows nothing of messages: an entry is whatever the owner put there, with its QoS. It
neither sends nor times anything. Clauses: 2.2.1, 4.3.2, 4.3.3, 4.4, 4.6, 4.9 and 3.3.2.3.4 of MQTT 5.
"""

from __future__ import annotations

import enum
from typing import Final, Generic, TypeVar

from acebroker_codec.errors import ProtocolViolation, ReasonCode

__all__ = [
    "ACKNOWLEDGEMENTS",
    "AckInput",
    "EntryState",
    "InflightWindow",
    "Outcome",
    "ReceivingAliases",
    "SendingAliases",
]

T = TypeVar("T")


class EntryState(enum.Enum):
    """Where an outgoing message stands."""

    QOS_1 = 1  # PUBLISH sent, PUBACK awaited
    QOS_2 = 2  # PUBLISH sent, PUBREC awaited
    RELEASED = 3  # PUBREL sent, PUBCOMP awaited
    UNKNOWN = 4  # no such Packet Identifier


class AckInput(enum.Enum):
    """What the receiver of our message answers."""

    PUBACK = 1
    PUBREC = 2
    PUBREC_ERROR = 3  # reason code 0x80 or more
    PUBCOMP = 4


class Outcome(enum.Enum):
    """What an acknowledgement leads to."""

    DONE = 1  # the message is settled, the identifier free
    RELEASE = 2  # send PUBREL
    RELEASE_UNKNOWN = 3  # send PUBREL with 0x92 Packet Identifier not found
    IGNORE = 4
    VIOLATION = 5  # Protocol Error


_S, _I, _O = EntryState, AckInput, Outcome
#: (state, input) -> outcome; complete over both enums
ACKNOWLEDGEMENTS: Final[dict[tuple[EntryState, AckInput], Outcome]] = {
    (_S.QOS_1, _I.PUBACK): _O.DONE,
    (_S.QOS_1, _I.PUBREC): _O.VIOLATION,
    (_S.QOS_1, _I.PUBREC_ERROR): _O.VIOLATION,
    (_S.QOS_1, _I.PUBCOMP): _O.VIOLATION,
    (_S.QOS_2, _I.PUBACK): _O.VIOLATION,
    (_S.QOS_2, _I.PUBREC): _O.RELEASE,
    (_S.QOS_2, _I.PUBREC_ERROR): _O.DONE,
    (_S.QOS_2, _I.PUBCOMP): _O.VIOLATION,
    (_S.RELEASED, _I.PUBACK): _O.VIOLATION,
    (_S.RELEASED, _I.PUBREC): _O.RELEASE,
    (_S.RELEASED, _I.PUBREC_ERROR): _O.VIOLATION,
    (_S.RELEASED, _I.PUBCOMP): _O.DONE,
    (_S.UNKNOWN, _I.PUBACK): _O.IGNORE,
    (_S.UNKNOWN, _I.PUBREC): _O.RELEASE_UNKNOWN,
    (_S.UNKNOWN, _I.PUBREC_ERROR): _O.IGNORE,
    (_S.UNKNOWN, _I.PUBCOMP): _O.IGNORE,
}


class InflightWindow(Generic[T]):
    """Messages sent with QoS 1 or 2 and not settled yet, in the order in which they were sent.

    `published` maps Packet Identifier -> entry for PUBLISH without its first acknowledgement, and
    `qos_2` names those of them with QoS 2; `released` holds identifiers whose PUBREL is out. `octets` are those that
    were counted when entries were put in. The owner may read all four; only the methods change them.
    """

    __slots__ = ("_counted", "_last", "octets", "published", "qos_2", "released")

    def __init__(self) -> None:
        self.octets = 0
        self._counted: dict[int, int] = {}
        self.published: dict[int, T] = {}
        self.qos_2: set[int] = set()
        self.released: dict[int, None] = {}
        self._last = 0

    def __len__(self) -> int:
        """How many of the receiver's Receive Maximum are in use [MQTT-3.3.4-7]."""
        return len(self.published) + len(self.released)

    def open(self, entry: T, qos: int, octets: int = 0) -> int:
        """Put an entry of QoS 1 or 2 into the window; gives its free Packet Identifier [MQTT-2.2.1-4].

        `octets` count until its first acknowledgement. The caller keeps `len(self)` below 65,535 (its Receive
        Maximum sees to that).
        """
        identifier = self._last % 65_535 + 1
        if identifier in self.published or identifier in self.released:
            identifier = self._next_free(identifier)
        self._last = identifier
        self.published[identifier] = entry
        if qos == 2:
            self.qos_2.add(identifier)
        if octets:
            self._counted[identifier] = octets
            self.octets += octets
        return identifier

    def open_run(self, entry: T, count: int, qos: int) -> int:
        """Put `count` messages into the window that share an entry; gives the first of their identifiers in a row.

        0, and nothing done, where no such row is free (the next ones may be in use, or end at 65,535).
        """
        first = self._last % 65_535 + 1
        last = first + count - 1
        identifiers = range(first, last + 1)
        if (
            last > 65_535
            or not self.published.keys().isdisjoint(identifiers)
            or not self.released.keys().isdisjoint(identifiers)
        ):
            return 0
        self._last = last
        self.published.update(dict.fromkeys(identifiers, entry))
        if qos == 2:
            self.qos_2.update(identifiers)
        return first

    def _next_free(self, identifier: int) -> int:
        for _ in range(65_535):
            identifier = identifier % 65_535 + 1
            if identifier not in self.published and identifier not in self.released:
                return identifier
        raise RuntimeError("all 65,535 packet identifiers are in use")

    def state(self, identifier: int) -> EntryState:
        """Where this identifier stands."""
        if identifier in self.published:
            return EntryState.QOS_2 if identifier in self.qos_2 else EntryState.QOS_1
        return EntryState.RELEASED if identifier in self.released else EntryState.UNKNOWN

    def acknowledge(self, identifier: int, ack: AckInput) -> tuple[Outcome, T | None]:
        """Take an acknowledgement; gives what follows and the entry that it settles (DONE) or releases.

        Raises ProtocolViolation where the table says VIOLATION.
        """
        outcome = ACKNOWLEDGEMENTS[self.state(identifier), ack]
        entry: T | None = None
        if outcome is Outcome.DONE:
            entry = self.forget(identifier)
            self.released.pop(identifier, None)
        elif outcome is Outcome.RELEASE:
            entry = self.forget(identifier)
            self.released[identifier] = None
        elif outcome is Outcome.VIOLATION:
            raise ProtocolViolation(
                f"{ack.name} for packet identifier {identifier} in state {self.state(identifier).name}"
            )
        return outcome, entry

    def settle(self, identifiers: tuple[int, ...]) -> int:
        """Take PUBACK of success for as many, from the first on, as are DONE by the table; gives how many."""
        published = self.published
        qos_2 = self.qos_2
        count = 0
        for identifier in identifiers:
            if identifier not in published or identifier in qos_2:
                break
            del published[identifier]
            count += 1
        if self._counted:
            self._uncount(identifiers[:count])
        return count

    def release(self, identifiers: tuple[int, ...]) -> int:
        """Take PUBREC of success for as many, from the first on, as are QOS_2; gives how many: send PUBREL for them."""
        qos_2 = self.qos_2
        count = 0
        for identifier in identifiers:
            if identifier not in qos_2:
                break
            qos_2.remove(identifier)
            del self.published[identifier]
            self.released[identifier] = None
            count += 1
        if self._counted:
            self._uncount(identifiers[:count])
        return count

    def complete(self, identifiers: tuple[int, ...]) -> int:
        """Take PUBCOMP for as many, from the first on, as are RELEASED; gives how many."""
        released = self.released
        count = 0
        for identifier in identifiers:
            if identifier not in released:
                break
            del released[identifier]
            count += 1
        return count

    def forget(self, identifier: int) -> T | None:
        """Drop an entry that was never sent whole (too large for the receiver); gives it back."""
        self.qos_2.discard(identifier)
        self._uncount((identifier,))
        return self.published.pop(identifier, None)

    def _uncount(self, identifiers: tuple[int, ...]) -> None:
        for identifier in identifiers:
            self.octets -= self._counted.pop(identifier, 0)


class ReceivingAliases:
    """Topic Aliases that the sender may set towards us, 1..maximum [MQTT-3.3.2-8 .. -12]."""

    __slots__ = ("_topics", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int) -> str:
        """The Topic Name of a PUBLISH with an alias: sets it when `topic` is not empty.

        Raises ProtocolViolation 0x94 for an alias out of range, 0x82 for one never set.
        """
        if not 1 <= alias <= self.maximum:
            raise ProtocolViolation(f"topic alias {alias} is not in 1..{self.maximum}", ReasonCode.TOPIC_ALIAS_INVALID)
        if topic:
            self._topics[alias] = topic
            return topic
        known = self._topics.get(alias)
        if known is None:
            raise ProtocolViolation(f"topic alias {alias} was never set")
        return known


class SendingAliases:
    """Topic Aliases that we use towards a receiver, never above its Topic Alias Maximum [MQTT-3.1.2-26, -27]."""

    __slots__ = ("_aliases", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._aliases: dict[str, int] = {}

    def use(self, topic: str) -> tuple[int, bool]:
        """(alias, whether the receiver already knows it); (0, False) when all are taken by other topics."""
        alias = self._aliases.get(topic)
        if alias is not None:
            return alias, True
        if len(self._aliases) >= self.maximum:
            return 0, False
        alias = len(self._aliases) + 1
        self._aliases[topic] = alias
        return alias, False

    def forget(self, topic: str) -> None:
        """Take back the alias set last: the packet that would have set it was not sent."""
        if self._aliases.get(topic) == len(self._aliases):
            del self._aliases[topic]
