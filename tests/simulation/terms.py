"""The terms of the model: messages, subscriptions, sessions, connections on paper, and what a filter selects.

Values alone, as MQTT 5.0 and 3.1.1 define them (1.2, 4.1, 4.7, 4.8); what happens to them is `model`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from acebroker_codec import packets

__all__ = [
    "NEVER",
    "SLACK",
    "Connection",
    "Due",
    "Flight",
    "Group",
    "Message",
    "Session",
    "Subscription",
    "Violation",
    "Waiting",
    "Will",
    "permitted",
    "selects",
]

#: how late a timer of the broker may be that another one started, in seconds
SLACK = 0.25
#: a Session Expiry Interval without end
NEVER = 0xFFFF_FFFF


class Violation(AssertionError):
    """The broker did what the standards do not allow, or did not do what they demand."""


def matches(topic_filter: list[str], topic: list[str]) -> bool:
    """4.7: does a filter, given as levels, select a Topic Name, given as levels?"""
    if not topic_filter:
        return not topic
    if topic_filter[0] == "#":
        return True
    if not topic:
        return False
    return topic_filter[0] in ("+", topic[0]) and (
        matches(topic_filter[1:], topic[1:]) or (topic_filter[1:] == ["#"] and len(topic) == 1)
    )


def selects(topic_filter: str, topic: str) -> bool:
    """`matches`, and no leading wildcard selects a topic that begins with `$` [MQTT-4.7.2-1]."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    return matches(topic_filter.split("/"), topic.split("/"))


def permitted(name: str) -> bool:
    """The rights that the simulation gives to everybody, for topics and filters alike."""
    return not name.startswith("$") or name.startswith("$d/")


@dataclass(eq=False)
class Message:
    """An Application Message, as its publisher sent it. `extra` are the properties that are passed on."""

    publisher: str
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    extra: packets.PublishProperties = packets.NO_PUBLISH_PROPERTIES
    expires_at: float | None = None

    def __repr__(self) -> str:
        until = "" if self.expires_at is None else f" until {self.expires_at:.1f}"
        retain = " retain" * self.retain
        return f"<{self.payload[:8]!r} on {self.topic} of {self.publisher}, QoS {self.qos}{retain}{until}>"


@dataclass(eq=False)
class Subscription:
    """One subscription; `filter` without `$share/Name/`."""

    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0
    share: str = ""


@dataclass(eq=False)
class Due:
    """What one session has to get. Messages of one `lane` must come in order [MQTT-4.6.0-6]."""

    message: Message
    qos: int
    retain: bool
    identifiers: tuple[int, ...]
    lane: tuple[object, ...]
    filters: tuple[str, ...] = ()
    group: Group | None = field(default=None, repr=False)
    #: the standards let the server leave it out
    optional: bool = False
    #: it may have been sent when nobody was there any more to see it
    unseen: bool = False
    #: how often the client's application got it
    taken: int = 0


@dataclass(eq=False)
class Flight:
    """A message of QoS 1 or 2 that was sent and is not settled; `connection` is where it was sent last."""

    due: Due
    connection: Connection = field(repr=False)
    released: bool = False
    optional: bool = False


@dataclass(eq=False)
class Waiting:
    """A message for a group. `again`: a member had it already, whose session ended; so its order is void."""

    message: Message
    number: int
    again: bool = False
    optional: bool = False
    unseen: bool = False


@dataclass(eq=False)
class Group:
    """A Shared Subscription (4.8.2): the sessions that share it and the messages that none of them got yet."""

    topic_filter: str
    members: dict[str, Subscription] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    #: lane -> number of the last message
    last: dict[tuple[object, ...], int] = field(default_factory=dict)

    def selects(self, topic: str) -> bool:
        """Whether its filter, without `$share/Name/`, selects a Topic Name."""
        return selects(self.topic_filter.split("/", 2)[2], topic)


@dataclass(eq=False)
class Will:
    """The Will of a CONNECT; `delay` in seconds, `expiry` that of the message, if any."""

    message: Message
    delay: int = 0
    expiry: int | None = None


@dataclass(eq=False)
class Connection:
    """One Network Connection whose CONNECT was accepted. `owed` are packets that the server still has to send."""

    session: Session
    version: int
    receive_max: int
    packet_max: int | None
    alias_max: int
    keep_alive: int
    heard: float
    open: bool = True
    #: the session was there before
    present: bool = False
    owed: dict[type[packets.Packet], list[tuple[object, ...]]] = field(default_factory=dict)
    aliases: dict[int, str] = field(default_factory=dict)

    def owe(self, kind: type[packets.Packet], *entry: object) -> None:
        """The server has to send a packet of this kind: see `Model.sent` for the entry."""
        self.owed.setdefault(kind, []).append(entry)

    @property
    def has_room(self) -> bool:
        """Whether Receive Maximum leaves room for another message of QoS 1 or 2."""
        return len(self.session.flights) < self.receive_max

    def fits(self, message: Message) -> bool:
        """Whether the client takes a packet of this size; messages are far from the border on either side."""
        return self.packet_max is None or len(message.payload) < self.packet_max / 2


@dataclass(eq=False)
class Session:
    """4.1: what is kept for a Client Identifier."""

    client: str
    connection: Connection | None = None
    expiry: int = 0
    ends_at: float | None = None
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    #: groups that it was a member of at its end
    left: list[tuple[Group, Subscription]] = field(default_factory=list)
    due: list[Due] = field(default_factory=list)
    flights: dict[int, Flight] = field(default_factory=dict)
    #: QoS 2 from the client, not released
    received: dict[int, Message] = field(default_factory=dict)
    will: Will | None = None
    will_at: float | None = None
