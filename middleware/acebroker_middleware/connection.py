"""Connection: what the stages see of one client. No I/O: octets to send pile up in `out`.

The runtime owns the socket and makes the Connection; stages read and set its fields as each
comment says. `write` and `refuse` are the only ways out towards the client.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.flow import ReceivingAliases, SendingAliases
from acebroker_codec.packets import (
    Auth,
    Connect,
    Packet,
    PacketType,
    ProtocolVersion,
    Publish,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from acebroker_codec.protocol import Protocol
from acebroker_middleware.acks import AckQueue
from acebroker_middleware.errors import NotAuthorized
from acebroker_middleware.flows import Flow
from acebroker_middleware.observe import Counters
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.leases import Lease
from acebroker_middleware.state.ports import Authority, Clock, Decision, Identity, Timer, TlsSession

if TYPE_CHECKING:
    from acebroker_middleware.authn import Dialogue
    from acebroker_middleware.state.session_state import SessionState

__all__ = ["CloseReason", "Connection", "ConnectionType", "DeniedPublish", "Round"]

logger = logging.getLogger("trio_acebroker.denied")

#: see `Round`
Errand = Callable[[Awaitable[Any], Callable[[Any], Any]], Awaitable[Any]]


class ConnectionType(enum.Enum):
    """How a client reached us; the names are those of `allowed_connection_types`."""

    MQTT = "MQTT"
    MQTT_WS = "MQTT_WS"
    IN_PROCESS = "IN_PROCESS"


class DeniedPublish(enum.Enum):
    """What MQTT 3 does with a PUBLISH that is not allowed [MQTT-3.3.5-2]."""

    IGNORE = "ignore"  # acknowledged, then dropped
    DISCONNECT = "disconnect"


class CloseReason:
    """Why a connection ended: the error that ended it, None when the peer just went away."""

    __slots__ = ("error",)

    def __init__(self, error: MqttError | None) -> None:
        self.error = error

    def __str__(self) -> str:
        if self.error is None:
            return "connection lost"
        return f"{self.error.detail or type(self.error).__name__} ({self.error.reason_code:#04x})"


class Round:
    """What all connections of a broker share while one batch is handled.

    `dirty` are the connections with octets to send, each once; the runtime sends and empties it.
    `errand(pending, following)` awaits `pending`, calls `following` with its result, and goes to the end of
    what that gives, even when the connection ends for which it is done. Awaiting what it gives tells the result.
    """

    __slots__ = ("clock", "counters", "dirty", "errand", "limits")

    def __init__(self, clock: Clock, limits: Limits, counters: Counters, errand: Errand | None = None) -> None:
        self.clock = clock
        self.limits = limits
        self.counters = counters
        self.dirty: list[Connection] = []
        self.errand: Errand = _no_errands if errand is None else errand


def _no_acks(frame: bytes) -> None:
    raise RuntimeError("an acknowledgement without a connection")


#: before CONNECT and after the end
NO_ACKS: Final = AckQueue(4, _no_acks)


class Connection:
    """One client's connection as stages see it. Fields are grouped by who sets them."""

    __slots__ = (
        "ack_queue",
        "anonymous_allowed",
        "attributes",
        "authority",
        "blocked",
        "client_identifier",
        "closed",
        "connected",
        "connection_type",
        "cut",
        "decision_octets",
        "decisions",
        "denied_publish",
        "dialogue",
        "dirty",
        "drain",
        "dropped",
        "end",
        "expired",
        "expiry_timer",
        "flow_octets",
        "flows",
        "flows_before",
        "handed_to",
        "identity",
        "keep_alive",
        "last_received",
        "lease",
        "listener",
        "needed",
        "out",
        "out_octets",
        "out_octets_max",
        "packet_bytes_max",
        "peer",
        "plain",
        "problem_information",
        "protocol",
        "protocol_versions",
        "receive_max",
        "receiving_aliases",
        "rights_end",
        "round",
        "send_max",
        "sending_aliases",
        "session",
        "started",
        "strict",
        "subscribe_refusals",
        "tail",
        "tail_since",
        "tls",
        "tokens_allowed",
        "transmit",
        "v5",
        "version",
        "waiting_connect",
        "want_writable",
    )

    def __init__(
        self,
        round_: Round,
        *,
        peer: str = "",
        listener: str = "",
        connection_type: ConnectionType = ConnectionType.MQTT,
        anonymous_allowed: bool = True,
        protocol_versions: frozenset[int] = frozenset((3, 4, 5)),
        denied_publish: DeniedPublish = DeniedPublish.IGNORE,
        tokens_allowed: bool = False,
    ) -> None:
        limits = round_.limits
        # by the runtime
        self.round = round_
        #: address of the client, as text; empty in process
        self.peer = peer
        self.listener = listener
        self.connection_type = connection_type
        self.anonymous_allowed = anonymous_allowed
        self.protocol_versions = protocol_versions
        #: the TLS session below, None without TLS
        self.tls: TlsSession | None = None
        #: access tokens are taken without TLS too: nobody can read along
        self.tokens_allowed = tokens_allowed
        #: what a refused PUBLISH of MQTT 3 leads to
        self.denied_publish = denied_publish
        #: end this connection with an error, from outside its own batch
        self.end: Callable[[MqttError], None] = _no_end
        #: try to send `out` at once, when it is over its bound in the middle of a round
        self.drain: Callable[[Connection], None] = _no_drain
        #: hand octets to the transport: how many it took; raises BlockingIOError, OSError
        self.transmit: Callable[[bytes], int] = _no_transport
        #: ask to be told, once, when the transport takes octets again
        self.want_writable: Callable[[], None] = _no_wait
        #: the socket takes no more octets now
        self.blocked = False
        self.closed = False
        self.started = round_.clock.now
        self.last_received = round_.clock.now

        # by decode
        self.version = ProtocolVersion.MQTT_3_1_1
        self.v5 = False
        self.protocol = Protocol("server")
        #: octets of a packet that is not complete, the moment when they began to come, and its size if it is known
        self.tail = bytearray()
        self.tail_since = 0.0
        self.needed = 0
        self.receiving_aliases = ReceivingAliases(limits.topic_alias_max)
        #: of its protocol version, from CONNECT on
        self.ack_queue = NO_ACKS

        # by the pipeline
        #: name of the stage that is awaited, or was the last time
        self.handed_to = ""

        # by authn
        self.client_identifier = ""
        self.identity: Identity | None = None
        self.authority: Authority | None = None
        #: when that is over, on `Clock.now`; and the timer for it
        self.rights_end = inf
        self.expiry_timer: Timer | None = None
        #: what the authority denies ends the connection, where MQTT has no answer for it
        self.strict = False
        #: of what it has retained; None: that does not depend on its rights
        self.lease: Lease | None = None
        #: the rights are over, and the connection goes on for a while, to get new ones
        self.expired = False
        #: being ended for want of rights: what it has no right to stays in its session
        self.cut = False
        #: takes AUTH packets; None: none may come
        self.dialogue: Dialogue | None = None
        #: the CONNECT that goes on when the dialogue ends well
        self.waiting_connect: Connect | None = None

        # by authz
        #: Topic Name -> its decision for PUBLISH, bounded like the flows
        self.decisions: dict[str, Decision] = {}
        self.decision_octets = 0
        #: Packet Identifier of a SUBSCRIBE of this batch -> index of a filter -> reason code that refused it
        self.subscribe_refusals: dict[int, dict[int, int]] = {}

        # by session
        self.session: SessionState | None = None
        #: CONNACK 0 was sent
        self.connected = False
        self.keep_alive = 0
        self.problem_information = True
        #: largest packet the client takes, octets; None = any
        self.packet_bytes_max: int | None = None
        #: takes packets of any size and no Topic Aliases: every frame for it can be a shared one
        self.plain = True
        #: unacknowledged QoS 1 and 2 packets: what we may send, what the client may send
        self.send_max = limits.in_flight_max
        self.receive_max = 65_535
        self.sending_aliases = SendingAliases(0)

        # by the deliver direction
        self.out: list[bytes] = []
        self.out_octets = 0
        self.out_octets_max = limits.out_queue_bytes_max
        self.dirty = False
        self.dropped = 0

        # by the flow cache
        #: topic -> what was decided about it, and the same of those met longer ago
        self.flows: dict[bytes, Flow] = {}
        self.flows_before: dict[bytes, Flow] = {}
        #: octets of `flows`
        self.flow_octets = 0

        #: for plugins: by the stage's name
        self.attributes: dict[str, Any] = {}

    def release(self) -> None:
        """The connection is over: what refers back to it goes, so that it is freed without a garbage collector."""
        self.rights_end = inf
        if self.expiry_timer is not None:
            self.expiry_timer.cancel()
            self.expiry_timer = None
        if self.dialogue is not None:
            self.dialogue.ended()
            self.dialogue = None
        self.ack_queue = NO_ACKS
        self.end = _ended
        self.want_writable = _no_wait

    def __repr__(self) -> str:
        return f"Connection({self.client_identifier!r}, peer={self.peer!r}, version={int(self.version)})"

    def write(self, frame: bytes) -> None:
        """Queue one frame; it leaves with the others at the end of the round."""
        self.out.append(frame)
        self.out_octets += len(frame)
        if not self.dirty:
            self.dirty = True
            self.round.dirty.append(self)

    def send(self, packet: Packet) -> bool:
        """Encode and queue a packet; False, and nothing sent, over the client's Maximum Packet Size [MQTT-3.1.2-25]."""
        frame = encode(packet, self.version)
        if self.packet_bytes_max is not None and len(frame) > self.packet_bytes_max:
            self.round.counters.dropped_too_large += 1
            return False
        self.round.counters.packets_sent += 1
        self.write(frame)
        return True

    def forget_flows(self) -> None:
        """Everything decided for this connection is void (its rights changed)."""
        self.flows.clear()
        self.flows_before.clear()
        self.flow_octets = 0
        self.decisions.clear()
        self.decision_octets = 0

    def received_before(self, packet: Publish) -> bool:
        """Whether this is a QoS 2 PUBLISH sent again: judged, and answered, at first receipt [MQTT-4.3.3-10].

        Not where the same read releases that identifier: what has it behind the PUBREL is another publication.
        """
        return (
            packet.qos == 2
            and self.session is not None
            and packet.packet_identifier in self.session.inbound
            and packet.packet_identifier not in self.ack_queue.pubcomp.open
        )

    def unanswered(self, packet: Packet) -> bool:
        """Whether the client still waits for an acknowledgement of this PUBLISH or PUBREL."""
        acks = self.ack_queue
        match packet:
            case Publish(qos=1):
                return acks.puback.waits(packet.packet_identifier)
            case Publish(qos=2):  # behind the session stage it stands for its PUBREL
                return acks.pubrec.waits(packet.packet_identifier) or acks.pubcomp.waits(packet.packet_identifier)
            case Pubrel():
                return acks.pubcomp.waits(packet.packet_identifier)
            case _:
                return False

    def refuse(self, packet: Packet, reason_code: ReasonCode, rule: str, index: int | None = None) -> None:
        """Answer one packet that a stage refuses, and count and log the `rule`; the stage drops the packet.

        PUBLISH: PUBACK or PUBREC with the code on MQTT 5; QoS 0 just goes. On MQTT 3 it is acknowledged,
        or the connection ends, as the authorization says; a `strict` one ends where MQTT has no such answer.
        SUBSCRIBE, UNSUBSCRIBE: every filter gets the code; with
        `index` that filter alone, and then the packet stays in the batch. AUTH, and what cannot be
        answered: raises NotAuthorized or the MqttError of `reason_code`, which ends the connection.
        """
        counters = self.round.counters
        counters.denials[rule] += 1
        logger.info(
            "denied %s: %s",
            packet.packet_type.name,
            rule,
            extra={"client_id": self.client_identifier, "peer": self.peer},
        )
        match packet:
            case Publish():
                self._refuse_publish(packet, reason_code, rule)
            case Pubrel():
                self.ack_queue.pubcomp.fill(packet.packet_identifier, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)
            case Subscribe() if index is not None:
                self.subscribe_refusals.setdefault(packet.packet_identifier, {})[index] = reason_code
            case Subscribe():
                code = reason_code if self.v5 else ReasonCode.UNSPECIFIED_ERROR
                self.send(Suback(packet.packet_identifier, (code,) * len(packet.filters)))
            case Unsubscribe():
                self.send(Unsuback(packet.packet_identifier, (reason_code,) * len(packet.filters) if self.v5 else ()))
            case Auth():
                raise MqttError(rule, reason_code)
            case _:
                raise MqttError(f"{PacketType(packet.packet_type).name} refused: {rule}", reason_code)

    def _refuse_publish(self, packet: Publish, reason_code: ReasonCode, rule: str) -> None:
        if self.strict and not (self.v5 and packet.qos):
            raise NotAuthorized(f"PUBLISH refused: {rule}", reason_code)  # ACE-3.1-5, ACE-6.2-3
        if not self.v5 and self.denied_publish is DeniedPublish.DISCONNECT:
            raise NotAuthorized(f"PUBLISH refused: {rule}", reason_code)
        if packet.qos == 1:
            self.ack_queue.puback.fill(packet.packet_identifier, reason_code)
        elif packet.qos == 2 and self.ack_queue.pubrec.waits(packet.packet_identifier):
            self.ack_queue.pubrec.fill(packet.packet_identifier, reason_code)
        elif packet.qos == 2:  # PUBREC went out at first receipt: only the handshake can be ended
            self.ack_queue.pubcomp.fill(packet.packet_identifier)


def _ended(error: MqttError) -> None:
    return None


def _no_errands(pending: Awaitable[Any], following: Callable[[Any], Any]) -> Awaitable[Any]:
    raise RuntimeError("nobody awaits anything here")


def _no_end(error: MqttError) -> None:
    raise RuntimeError("this connection has no owner")


def _no_transport(data: bytes) -> int:
    raise BlockingIOError


def _no_wait() -> None:
    return None


def _no_drain(connection: Connection) -> None:
    return None
