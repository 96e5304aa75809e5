"""Stage 3: what may this client do. The only stage that grants; it asks the identity's one Authority.

PUBLISH and the Will by Topic Name, SUBSCRIBE by covering of the whole filter, delivery by Topic Name.
No grant is a denial; every denial names its rule. A resend of a QoS 2 PUBLISH that was taken before is
not examined again: rights count at first receipt.

Rights that last until a moment are looked at for each batch. When they are over, PUBLISH, SUBSCRIBE and PINGREQ end the
connection; while it gets new ones by a re-authentication, they are refused, and PINGREQ is answered (D-22).

Statements of ACE: ACE-3-1 to ACE-3.3-4, ACE-4-1, ACE-4-2, ACE-4-5.
"""

from __future__ import annotations

from typing import Final

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Connect, PacketType, Pingreq, Publish, Subscribe
from acebroker_codec.protocol import State
from acebroker_codec.topics import SharedSubscription
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import ConnectionRefused, RightsEnded
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.ports import Authority, Decision

__all__ = ["DECISION_OVERHEAD_BYTES", "Authz"]

#: what one remembered decision costs beside its topic, for the octet limit
DECISION_OVERHEAD_BYTES: Final = 256


class Authz:
    """Stage 3, in both directions."""

    name = "authz"
    wants = frozenset({PacketType.CONNECT, PacketType.PUBLISH, PacketType.SUBSCRIBE, PacketType.PINGREQ})

    def __init__(self, round_: Round) -> None:
        self._limits = round_.limits
        self._clock = round_.clock

    # ---- from the client ----

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        """PASS or DENY for the topic; a denial that has to end an MQTT 3 connection is left to the packet."""
        if conn.expired:
            return Verdict.DENY
        return Verdict.PASS if self._publish_decision(conn, flow.topic).allowed else Verdict.DENY

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        """Refuse what is not granted."""
        if conn.expired or conn.rights_end <= self._clock.now:
            return self._expired(conn, batch)
        decisions = conn.decisions
        out: Batch = []
        for packet in batch:
            kind = type(packet)
            try:
                if kind is Publish:
                    topic = packet.topic  # type: ignore[union-attr]
                    decision = decisions.get(topic) or self._publish_decision(conn, topic)
                    if not decision.allowed and not conn.received_before(packet):  # type: ignore[arg-type]
                        conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, decision.rule)  # type: ignore[arg-type]
                        continue
                elif kind is Subscribe:
                    self._check_filters(conn, packet)  # type: ignore[arg-type]
                elif kind is Connect:
                    self._check_will(conn, packet)  # type: ignore[arg-type]
            except MqttError as error:
                out.append(error)
                break
            out.append(packet)
        return out

    def _expired(self, conn: Connection, batch: Batch) -> Batch:
        """The rights are over: nothing passes that needs any."""
        renewing = conn.protocol.state is State.REAUTHENTICATING
        out: Batch = []
        for packet in batch:
            kind = type(packet)
            if kind is Publish or kind is Subscribe:
                if not renewing:
                    out.append(self._ended(conn))
                    break
                if kind is not Publish or not conn.received_before(packet):  # type: ignore[arg-type]
                    try:
                        conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, "rights ended")  # type: ignore[arg-type]
                    except MqttError as error:
                        out.append(error)
                        break
                    continue
            elif kind is Pingreq and not renewing:
                out.append(self._ended(conn))
                break
            out.append(packet)
        return out

    @staticmethod
    def _ended(conn: Connection) -> RightsEnded:
        if not conn.cut:
            conn.round.counters.denials["rights ended"] += 1
        return RightsEnded()

    def _publish_decision(self, conn: Connection, topic: str) -> Decision:
        decision = conn.decisions.get(topic)
        if decision is None:
            decision = _authority(conn).permits_publish(topic)
            limits = self._limits
            conn.decision_octets += len(topic) + DECISION_OVERHEAD_BYTES
            if (
                len(conn.decisions) >= limits.flows_per_connection_max
                or conn.decision_octets > limits.flow_bytes_per_connection_max
            ):
                conn.decisions.clear()
                conn.decision_octets = len(topic) + DECISION_OVERHEAD_BYTES
            conn.decisions[topic] = decision
        return decision

    @staticmethod
    def _check_filters(conn: Connection, packet: Subscribe) -> None:
        authority = _authority(conn)
        for index, request in enumerate(packet.filters):
            shared = SharedSubscription.parse(request.filter)
            decision = authority.permits_subscribe(request.filter if shared is None else shared.topic_filter)
            if not decision.allowed:
                conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, decision.rule, index)

    @staticmethod
    def _check_will(conn: Connection, connect: Connect) -> None:
        if connect.will is None:
            return
        decision = _authority(conn).permits_publish(connect.will.topic)
        if not decision.allowed:
            conn.round.counters.denials[decision.rule] += 1
            raise ConnectionRefused(ReasonCode.NOT_AUTHORIZED, f"Will: {decision.rule}")

    # ---- to the client ----

    def plan_deliver(self, conn: Connection, flow: FlowKey) -> Verdict:
        """May a message on this topic still go to this client?"""
        if conn.expired:
            return Verdict.DENY
        return Verdict.PASS if _authority(conn).permits_receive(flow.topic).allowed else Verdict.DENY

    def plan_deliver_filter(self, conn: Connection, topic_filter: str) -> Verdict:
        """PASS where everything that the filter selects may go to this client."""
        if conn.expired:
            return Verdict.INSPECT
        return Verdict.PASS if _authority(conn).permits_subscribe(topic_filter).allowed else Verdict.INSPECT

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        """Drop what is not granted (any more)."""
        authority = _authority(conn)
        return [message for message in batch if authority.permits_receive(message.topic).allowed]


def _authority(conn: Connection) -> Authority:
    if conn.authority is None:
        raise ConnectionRefused(ReasonCode.NOT_AUTHORIZED, "not authenticated")
    return conn.authority
