"""What the house asks of outside: time, timers, rights, storage.

Stages call these; `broker/` implements them (tests too). None of them does I/O in this wing. A
method annotated with `Maybe[T]` returns either the result or an awaitable of it, and only `broker/` awaits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, Union

from msgspec import Struct

if TYPE_CHECKING:
    from acebroker_codec.packets import Publish
    from acebroker_middleware.state.message import Delivery, Message
    from acebroker_middleware.state.subscriptions import Subscription

__all__ = [
    "Authority",
    "Claim",
    "Clock",
    "Decision",
    "Enqueue",
    "Fenced",
    "Identity",
    "Kept",
    "Maybe",
    "PskKeys",
    "PublicKeys",
    "Settle",
    "Store",
    "Stored",
    "Timer",
    "Timers",
    "TlsSession",
    "Unavailable",
]

T = TypeVar("T")
#: a result, or an awaitable of it
Maybe: TypeAlias = Union[T, Awaitable[T]]  # noqa: UP007 - an alias with a type variable


class Clock(Protocol):
    """Coarse time, stamped once per round."""

    #: seconds that never go backwards; what deadlines are made of
    now: float

    @property
    def wall(self) -> float:
        """Seconds since the epoch, for what is wall-clock by nature (`exp`)."""
        ...


class Timer(Protocol):
    """A pending call of `Timers.call_at`."""

    def cancel(self) -> None:
        """Never call it; harmless after it was called."""


class Timers(Protocol):
    """Calls that are due later. Pure machines name their deadline; the owner of the wheel calls."""

    def call_at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, not before `deadline` on `Clock.now`."""
        ...


class TlsSession(Protocol):
    """What a TLS session proves about the other side, and binds proofs to. Complete handshakes only."""

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        ...

    @property
    def peer_certificate_sha256(self) -> bytes | None:
        """SHA-256 of the verified certificate of the other side (`x5t#S256`), None without one."""
        ...

    @property
    def peer_public_key(self) -> bytes | None:
        """SubjectPublicKeyInfo, DER, of the key that the other side has proven to hold; None without one."""
        ...

    @property
    def psk_identity(self) -> bytes | None:
        """Identity of the pre-shared key that both sides have proven to hold; None without one."""
        ...

    def export(self, label: bytes, length: int, context: bytes | None) -> bytes:
        """Keying material of `length` octets (RFC 5705; RFC 8446, 7.5); None is no context."""
        ...


class PskKeys(Protocol):
    """The pre-shared keys of TLS handshakes. Anybody can name an identity: nothing is proven when these are asked."""

    def find(self, identity: bytes) -> bytes | None:
        """The key of an identity, if it is known at once: in the middle of a handshake nothing can wait."""
        ...

    def prepare(self, identities: Sequence[bytes]) -> Maybe[Mapping[bytes, bytes]]:
        """The keys of those identities that one can be found for, however long that takes.

        Asked before a handshake of TLS 1.3, whose identities are known at its beginning; those of TLS 1.2 are not, and
        go to `find` alone.
        """
        ...


class PublicKeys(Protocol):
    """The raw public keys of TLS handshakes (RFC 7250; RFC 9202, 3.2)."""

    def knows(self, public_key: bytes) -> bool:
        """Whether anything is known of a key, a SubjectPublicKeyInfo in DER: if not, the handshake fails."""
        ...


class Decision(Struct, frozen=True):
    """Whether something is allowed, and the rule that said so (for logs, counters and `explain`)."""

    allowed: bool
    rule: str


class Identity(Struct, frozen=True):
    """Who a client is proven to be. Sessions belong to identities, not to client identifiers alone.

    `kind` is `anonymous`, `user` or `token`; `issuer` is empty except for tokens; `name` is the
    user name, the subject of the token, or (anonymous) the Client Identifier.
    """

    kind: str
    name: str
    issuer: str = ""


class Authority(Protocol):
    """The rights of one identity: the one place that grants. No rule means no."""

    #: moment on `Clock.wall` after which nothing is granted any more; None = no end
    authorized_until: float | None

    def permits_publish(self, topic: str) -> Decision:
        """May this identity publish to the Topic Name?"""
        ...

    def permits_subscribe(self, topic_filter: str) -> Decision:
        """May it subscribe: is everything the filter matches granted? Without any `$share` prefix."""
        ...

    def permits_receive(self, topic: str) -> Decision:
        """May a message on this Topic Name be delivered to it now?"""
        ...


# ---- storage ----


class Fenced(Exception):
    """The session was claimed by a later epoch: this owner has to let go of it."""


class Unavailable(Exception):
    """The outcome of a call on the store is unknown. Never repeated below MQTT: the client does that."""


class Enqueue(Struct, frozen=True):
    """A message of QoS 1 or 2 for one durable session."""

    client_identifier: str
    delivery: Delivery


class Stored(Struct, frozen=True):
    """A delivery as the store keeps it. `sequence` rises with every enqueue of a session, from 1."""

    sequence: int
    delivery: Delivery


class Settle(Struct, frozen=True):
    """One step of an owner. `number` is a sequence (`ack`, `rec`) or a Packet Identifier
    (`comp`, `inbound`, `inbound_done`).

    `ack`: the message is done (PUBACK, PUBREC with an error, expired, dropped).
    `rec`: its body is done, its release is pending, under `packet_identifier`. `comp`: the release is done.
    `inbound`: a QoS 2 publication was received and not released; `inbound_done`: it was released.
    """

    client_identifier: str
    epoch: int
    kind: Literal["ack", "rec", "comp", "inbound", "inbound_done"]
    number: int
    packet_identifier: int = 0
    publish: Publish | None = None


class Claim(Struct, frozen=True):
    """What a new owner of a session gets: its epoch and, when there was one, the session's content."""

    epoch: int
    present: bool
    identity: Identity | None = None
    subscriptions: tuple[Subscription, ...] = ()
    #: sequence -> Packet Identifier of messages received (PUBREC) but not completed
    releases: tuple[tuple[int, int], ...] = ()
    inbound: tuple[tuple[int, Publish], ...] = ()


class Kept(Struct, frozen=True):
    """A session that a store holds. `expires_at` on `Clock.wall`, None = never; it counts once `released`."""

    client_identifier: str
    identity: Identity
    released: bool
    expires_at: float | None = None


class Store(Protocol):
    """Sessions and retained messages that outlive a connection. Lists in, lists out; returning means durable.

    A call that gives an awaitable is under way already: awaiting it tells when it is durable, and a
    caller that need not know may drop it. Calls on one session take effect, and finish, in the order in which
    they were made. Every call of a session's owner carries its epoch, reads too, and raises Fenced when a later
    claim took the session or it is no more; any call may raise Unavailable. A call that raises Fenced changed nothing.
    `expires_at` of a message is on `Clock.now`: a store that outlives that clock keeps the time of day instead.
    """

    def claim(
        self, client_identifier: str, identity: Identity, *, clean_start: bool, by_anyone: bool = False
    ) -> Maybe[Claim]:
        """Become the owner: a higher epoch. With `clean_start` the old content is discarded [MQTT-3.1.2-4].

        The session of another identity stays as it is, unless `by_anyone`: then the Claim has epoch 0 and names it.
        """
        ...

    def release(self, client_identifier: str, epoch: int, *, expires_at: float | None) -> Maybe[None]:
        """The connection ended. `expires_at` on `Clock.wall`, None = never."""
        ...

    def remove(self, client_identifier: str, epoch: int) -> Maybe[None]:
        """The session ended: nothing of it stays."""
        ...

    def subscribe(
        self, client_identifier: str, epoch: int, add: Sequence[Subscription], drop: Sequence[str]
    ) -> Maybe[None]:
        """Drop filters, then add or replace subscriptions."""
        ...

    def enqueue(self, rows: Sequence[Enqueue], steps: Sequence[Settle] = ()) -> Maybe[list[int]]:
        """Append messages to sessions, whoever owns them; gives their sequences, 0 where there is no such session.

        `steps` of the publisher's own session are taken with it: all of it happens, or nothing.
        """
        ...

    def read(self, client_identifier: str, epoch: int, after: int, limit: int) -> Maybe[list[Stored]]:
        """Unsettled messages with a sequence above `after`, in order, at most `limit`."""
        ...

    def settle(self, steps: Sequence[Settle]) -> Maybe[None]:
        """Take steps of owners, of many sessions at once: all of them, or none. What is settled already is no error."""
        ...

    def sweep(self, wall: float, limit: int) -> Maybe[list[str]]:
        """Remove at most `limit` released sessions whose time is over; gives their Client Identifiers, each once."""
        ...

    def sessions(self) -> Maybe[list[Kept]]:
        """All sessions, at start-up."""
        ...

    def retain(self, messages: Sequence[Message], drop: Sequence[str]) -> Maybe[None]:
        """Drop the retained messages of the topics given, then keep or replace messages."""
        ...

    def retained(self) -> Maybe[list[Message]]:
        """All retained messages, at start-up."""
        ...
