"""SessionState: what a client's session is made of and what outlives its connection (MQTT 5, 4.1).

A SessionState is the view in memory of one row of the store; its `epoch` is the number of the claim
that made it ours, and goes with every call on the store, so that a second owner fences the first.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from acebroker_codec.flow import InflightWindow
from acebroker_codec.packets import Publish
from acebroker_middleware.state.leases import Lease
from acebroker_middleware.state.message import Delivery, Message, property_octets
from acebroker_middleware.state.ports import Identity, Timer
from acebroker_middleware.state.retained import Replay
from acebroker_middleware.state.subscriptions import SharedGroup, Subscription

if TYPE_CHECKING:
    from acebroker_middleware.connection import Connection

__all__ = ["NEVER_EXPIRES", "PendingWill", "SessionState", "held_octets"]

#: Session Expiry Interval of a session that does not expire (3.1.2.11.2)
NEVER_EXPIRES: Final = 0xFFFFFFFF
#: what a publication costs beside its topic, payload and properties
HELD_OVERHEAD_BYTES: Final = 256


def held_octets(publish: Publish) -> int:
    """What a publication that waits for its PUBREL counts for `limits.unreleased_bytes_max`."""
    octets = len(publish.topic) + len(publish.payload) + property_octets(publish.properties)
    return octets + HELD_OVERHEAD_BYTES


class PendingWill:
    """A Will that was armed by CONNECT, with its delay in seconds [MQTT-3.1.2-8].

    `lease` is that of the connection that ended, by which it lasts where it is retained.
    """

    __slots__ = ("delay_seconds", "lease", "message", "timer")

    def __init__(self, message: Message, delay_seconds: int) -> None:
        self.lease: Lease | None = None
        self.message = message
        self.delay_seconds = delay_seconds
        self.timer: Timer | None = None


class SessionState:
    """One session. Owned by `session.Session`; the router reads it, the deliver direction fills it.

    `connection` is the connection it is attached to, None while the client is away. `window` holds what was sent
    and may have to be sent again: None for what went out in runs, where nothing is (`handshakes`). `inbound` holds
    QoS 2 publications between PUBLISH and PUBREL by Packet Identifier (some as the frame that came), `releasing`
    those between PUBREL and the router, `committing` those that the router has and the store is asked for, and
    `inbound_since` when those of them arrived that expire. `queue` are deliveries of QoS 1 and 2 that wait for
    the window, oldest first.
    """

    __slots__ = (
        "client_identifier",
        "committing",
        "connection",
        "dropped",
        "durable",
        "epoch",
        "expiry_interval",
        "expiry_timer",
        "groups",
        "held",
        "held_octets",
        "identity",
        "inbound",
        "inbound_since",
        "pump_due",
        "queue",
        "queued_octets",
        "releasing",
        "resend",
        "retained_waiting",
        "subscriptions",
        "will",
        "window",
    )

    def __init__(self, client_identifier: str, identity: Identity, epoch: int = 0) -> None:
        self.client_identifier = client_identifier
        self.identity = identity
        self.epoch = epoch
        self.connection: Connection | None = None
        #: seconds after the connection's end; 0 = ends with it
        self.expiry_interval = 0
        self.expiry_timer: Timer | None = None
        #: kept in the store: outlives the connection
        self.durable = False
        self.subscriptions: dict[str, Subscription] = {}
        self.groups: dict[str, SharedGroup[SessionState]] = {}
        self.window: InflightWindow[Delivery | None] = InflightWindow()
        self.inbound: dict[int, Publish | bytes] = {}
        self.inbound_since: dict[int, float] = {}
        #: Packet Identifier -> octets of a publication in `inbound`; those of short cuts are short, few, and not here
        self.held: dict[int, int] = {}
        self.held_octets = 0
        self.releasing: dict[int, Publish] = {}
        self.committing: dict[int, Publish] = {}
        self.queue: deque[Delivery] = deque()
        self.queued_octets = 0
        #: Packet Identifiers whose PUBLISH has to be sent again on this connection, oldest first [MQTT-4.4.0-1]
        self.resend: deque[int] = deque()
        #: retained messages that subscriptions still have to get, the next first; None for none
        self.retained_waiting: deque[Replay] | None = None
        #: acknowledgements made room in the window: what waits goes when those of the same read behind them are taken
        self.pump_due = False
        self.dropped = 0
        self.will: PendingWill | None = None

    def hold(self, identifier: int, publish: Publish) -> None:
        """Keep a QoS 2 publication until its PUBREL, and count it."""
        octets = held_octets(publish)
        self.held_octets += octets - self.held.get(identifier, 0)
        self.held[identifier] = octets
        self.inbound[identifier] = publish

    def let_go(self, identifier: int) -> Publish | bytes | None:
        """Keep it no longer; gives it."""
        self.held_octets -= self.held.pop(identifier, 0)
        return self.inbound.pop(identifier, None)

    def __repr__(self) -> str:
        return f"SessionState({self.client_identifier!r}, epoch={self.epoch}, connected={self.connection is not None})"
