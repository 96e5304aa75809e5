"""Stage 2a: the topic `authz-info`, to which clients upload tokens (RFC 9431, 2.2.2). Where tokens are taken.

    stored                     QoS 0 no answer            PUBACK, PUBREC 0x00    MQTT 3: acknowledged
    a token that is refused    QoS 0 DISCONNECT 0x87      PUBACK, PUBREC 0x87    MQTT 3: acknowledged (D-6)
    no token at all            QoS 0 DISCONNECT 0x99      PUBACK, PUBREC 0x99    MQTT 3: acknowledged
    no room, or too many       QoS 0 DISCONNECT 0x97      PUBACK, PUBREC 0x97    MQTT 3: acknowledged

Every client may upload; none gets what was uploaded: it goes to no subscriber, is not retained and stands in no store.
Nobody may subscribe to the topic, and no Will may be published to it. Filters with wildcards are not touched (D-5).

An upload gives no rights by itself: its client has to prove possession, in TLS or in CONNECT. A connection that lives
by an older token of the same key has the rights of the new one at once (`known_by_tls`).

Statements: ACE-2.2.2-2 to ACE-2.2.2-11, ACE-6.1-3, ACE-6.1-4, ACE-8-2, ACE-8-6, ADJ-9200-30, ADJ-9200-38, D-5, D-6.
"""

from __future__ import annotations

from typing import Final

from acebroker_ace.errors import AceError, Occasion
from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Connect, PacketType, Publish, Pubrel, Subscribe
from acebroker_codec.topics import SharedSubscription
from acebroker_middleware.connection import Connection, DeniedPublish, Round
from acebroker_middleware.errors import ConnectionRefused, NotAuthorized, QuotaExceeded
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.tokens import Tokens
from acebroker_middleware.verification import Verification

__all__ = ["TOPIC", "AuthzInfo"]

#: where tokens are uploaded to
TOPIC: Final = "authz-info"
_MINUTE: Final = 60.0
#: sources that are counted at one time; with more, counting begins anew
_SOURCES_MAX: Final = 65_536
_RULE: Final = "authz-info"


class AuthzInfo:
    """The stage. `uploads_per_minute_max`: from one address."""

    name = "authz-info"
    wants = frozenset({PacketType.CONNECT, PacketType.PUBLISH, PacketType.PUBREL, PacketType.SUBSCRIBE})

    def __init__(self, round_: Round, verification: Verification, tokens: Tokens, uploads_per_minute_max: int) -> None:
        self._clock = round_.clock
        self._counters = round_.counters
        self._verification = verification
        self._tokens = tokens
        self._uploads_max = uploads_per_minute_max
        self._uploads: dict[str, int] = {}
        self._counted_until = 0.0

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        """Each upload is looked at; other topics are none of ours."""
        return Verdict.INSPECT if flow.topic == TOPIC else Verdict.PASS

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        """Take uploads and their releases; refuse what else names the topic."""
        out: Batch = []
        for packet in batch:
            try:
                if isinstance(packet, Publish):
                    if packet.topic == TOPIC:
                        self._published(conn, packet)
                        continue
                elif isinstance(packet, Pubrel):
                    if self._released(conn, packet):
                        continue
                elif isinstance(packet, Subscribe):
                    self._check_filters(conn, packet)
                elif isinstance(packet, Connect) and packet.will is not None and packet.will.topic == TOPIC:
                    self._counters.denials[_RULE] += 1
                    raise ConnectionRefused(ReasonCode.NOT_AUTHORIZED, "a Will for authz-info")
            except MqttError as error:
                out.append(error)
                break
            out.append(packet)
        return out

    @staticmethod
    def _check_filters(conn: Connection, packet: Subscribe) -> None:
        for index, request in enumerate(packet.filters):
            shared = SharedSubscription.parse(request.filter)
            if (request.filter if shared is None else shared.topic_filter) == TOPIC:
                conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, _RULE, index)

    # ---- uploads ----

    def _published(self, conn: Connection, packet: Publish) -> None:
        identifier = packet.packet_identifier
        if conn.received_before(packet):
            conn.ack_queue.pubrec.fill(identifier)
            return
        if packet.qos == 2 and conn.session is not None and identifier in conn.session.inbound:
            conn.refuse(packet, ReasonCode.PACKET_IDENTIFIER_IN_USE, _RULE)  # released in this read, and not yet gone
            return
        try:
            self._check_rate(conn)
            self._tokens.keep(self._verification.verify(packet.payload), _source(conn))
        except AceError as error:
            code, rule = error.answer(Occasion.UPLOAD), f"{_RULE}: {type(error).__name__}"
        except QuotaExceeded as error:
            code, rule = error.reason_code, f"{_RULE}: {error.detail}"
        else:
            self._taken(conn, packet)
            return
        if conn.v5 and packet.qos:
            conn.refuse(packet, code, rule)
            return
        self._counters.denials[rule] += 1
        if conn.v5 or conn.denied_publish is DeniedPublish.DISCONNECT:
            raise NotAuthorized(rule, code)
        self._taken(conn, packet)  # MQTT 3 has no word for it

    @staticmethod
    def _taken(conn: Connection, packet: Publish) -> None:
        """Acknowledge, and at QoS 2 wait for the release, of which nothing will come."""
        identifier = packet.packet_identifier
        if packet.qos == 1:
            conn.ack_queue.puback.fill(identifier)
        elif packet.qos == 2:
            assert conn.session is not None
            conn.session.hold(identifier, Publish(TOPIC, b"", 2, packet_identifier=identifier))
            conn.ack_queue.pubrec.fill(identifier)

    @staticmethod
    def _released(conn: Connection, packet: Pubrel) -> bool:
        """The end of an upload at QoS 2; False for any other release."""
        identifier = packet.packet_identifier
        held = None if conn.session is None else conn.session.inbound.get(identifier)
        if conn.session is None or not isinstance(held, Publish) or held.topic != TOPIC:
            return False
        conn.session.let_go(identifier)
        conn.ack_queue.pubcomp.fill(identifier)
        return True

    def _check_rate(self, conn: Connection) -> None:
        """Raise QuotaExceeded for an address that uploads too often: verifying a bad token costs, too (ACE-8-2)."""
        now = self._clock.now
        if now >= self._counted_until or len(self._uploads) >= _SOURCES_MAX:
            self._uploads.clear()
            self._counted_until = now + _MINUTE
        source = _source(conn)
        count = self._uploads[source] = self._uploads.get(source, 0) + 1
        if count > self._uploads_max:
            raise QuotaExceeded("limit: uploads per minute")


def _source(conn: Connection) -> str:
    """The address of a client, without its port; empty in process."""
    return conn.peer.rpartition(":")[0]
