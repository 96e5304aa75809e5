"""Stage 4: the session of a client - CONNECT to its end, QoS 1 and 2 towards us, acknowledgements, wills.

    absent ──CONNECT──> attached ──connection ends──> detached ──expiry──> absent
                           │  ^                           │
                           │  └────────CONNECT────────────┘
                           └── expiry 0, Clean Start: absent at once

A session belongs to its identity: nobody else resumes it or takes it over. Nothing of it moves before
authn and authz let the CONNECT pass. Every change that has to outlive us goes to the store with the
session's epoch. Fan-out of QoS 2 happens at PUBREL, once: this stage hands the router the kept
PUBLISH in its place.

Statements: [MQTT-3.1.2-4 .. 3.1.2-10], [MQTT-3.1.3-9], [MQTT-3.1.4-3 .. 6], [MQTT-3.2.2-2 .. 8], [MQTT-3.14.4-3],
[MQTT-4.1.0-1 ..], [MQTT-4.3.2-3 ..], [MQTT-4.3.3-8 ..]; MQTT 3.1.1 3.1.2.4 and 4.1.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from functools import partial
from typing import Final

from msgspec.structs import replace

from acebroker_codec.decoder import decode_publish
from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.flow import SendingAliases
from acebroker_codec.frames import body_start
from acebroker_codec.packets import (
    NO_PUBLISH_PROPERTIES,
    Connack,
    ConnackProperties,
    Connect,
    Disconnect,
    PacketType,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
    Will,
)
from acebroker_middleware.claims import Claims
from acebroker_middleware.connection import CloseReason, Connection, Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.errors import ClientDisconnected, ConnectionRefused, QuotaExceeded, SessionTakenOver
from acebroker_middleware.flows import Verdict
from acebroker_middleware.hand_offs import then, unwatched
from acebroker_middleware.router import Router
from acebroker_middleware.settling import Settling, store_failed, store_failed_for
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Message, property_octets
from acebroker_middleware.state.ports import Fenced, Maybe, Settle, Store, Timers
from acebroker_middleware.state.session_state import NEVER_EXPIRES, PendingWill, SessionState, held_octets

__all__ = ["Session"]

#: the rule of `limits.unreleased_bytes_max`
UNRELEASED: Final = "limit: unreleased publications"


class Session:
    """Stage 4. Owns all SessionStates, by Client Identifier in `sessions`."""

    name = "session"
    wants = frozenset(PacketType)

    def __init__(self, round_: Round, store: Store, timers: Timers, router: Router, deliver: Deliver) -> None:
        self._round = round_
        self._limits = round_.limits
        self._store = store
        self._timers = timers
        self._router = router
        self._deliver = deliver
        self.sessions: dict[str, SessionState] = {}
        self.claims = Claims(round_, store, router, self)
        self.takeover_by_anyone = False

    def plan(self, conn: Connection, flow: object) -> Verdict:
        """QoS 0 leaves no trace in a session."""
        return Verdict.PASS

    # ---- packets ----

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Take connection and acknowledgement packets; pass PUBLISH, SUBSCRIBE and UNSUBSCRIBE on."""
        out: Batch = []
        settling = Settling(conn, conn.session)
        if settling.state is not None and settling.state.releasing:
            self._refused(conn, settling.state)
        for packet in batch:
            kind = type(packet)
            try:
                if kind is Publish:
                    if packet.qos == 2:  # type: ignore[union-attr]
                        self._received_qos_2(conn, packet, settling)  # type: ignore[arg-type]
                    else:
                        out.append(packet)
                elif kind is Puback or kind is Pubrec or kind is Pubcomp:
                    pubrel = self._deliver.acknowledged(self._state(conn), packet, settling.steps)  # type: ignore[arg-type]
                    if pubrel is not None:
                        settling.releases.append(pubrel)
                elif kind is Pubrel:
                    self._released(conn, packet, out)  # type: ignore[arg-type]
                elif kind is Pingreq:
                    conn.send(Pingresp())
                elif kind is Disconnect:
                    self._disconnected(conn, packet)  # type: ignore[arg-type]
                elif kind is Connect:
                    pending = self._connect(conn, packet)  # type: ignore[arg-type]
                    if inspect.isawaitable(pending):
                        return then(pending, lambda _: out)  # a CONNECT is alone in its batch
                else:
                    out.append(packet)
            except MqttError as error:
                out.append(error)
                break
        settled = settling.settle(self._round, self._store)
        state = conn.session
        if state is not None and state.pump_due:
            self._deliver.pump(state)
        return out if settled is None else then(settled, lambda _: out)

    @staticmethod
    def _state(conn: Connection) -> SessionState:
        if conn.session is None:
            raise SessionTakenOver("the session was taken over")
        return conn.session

    def _received_qos_2(self, conn: Connection, packet: Publish, settling: Settling) -> None:
        state = self._state(conn)
        identifier = packet.packet_identifier
        if identifier not in state.inbound:  # else a resend: answered as the first was [MQTT-4.3.3-10]
            octets = len(packet.payload) + property_octets(packet.properties)
            if packet.retain and not self._router.retained.admits(packet.topic, octets):
                self._round.counters.retained_refused += 1
                conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, "limit: retained messages")
                return
            if state.held_octets + held_octets(packet) > self._limits.unreleased_bytes_max:
                self._too_much_unreleased(conn, packet)
                return
            state.hold(identifier, packet)
            if packet.properties.message_expiry_interval is not None:
                state.inbound_since[identifier] = self._round.clock.now
            if state.durable:
                settling.steps.append(
                    Settle(state.client_identifier, state.epoch, "inbound", identifier, publish=packet)
                )
                settling.received.append(identifier)
                return
        conn.ack_queue.pubrec.fill(identifier)

    def _too_much_unreleased(self, conn: Connection, packet: Publish) -> None:
        """MQTT 5 is told of this publication; MQTT 3 has nothing to be told, and goes."""
        if conn.v5:
            conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, UNRELEASED)
            return
        self._round.counters.denials[UNRELEASED] += 1
        raise QuotaExceeded(UNRELEASED)

    def _released(self, conn: Connection, packet: Pubrel, out: Batch) -> None:
        state = self._state(conn)
        if packet.packet_identifier in state.committing:
            # sent again, on a new connection: PUBCOMP comes when it is durable, and once
            conn.ack_queue.pubcomp.withdraw(packet.packet_identifier)
            return
        publish = state.let_go(packet.packet_identifier)
        if publish is None:
            conn.ack_queue.pubcomp.fill(packet.packet_identifier, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)
            return
        if isinstance(publish, bytes):
            publish = decode_publish(publish[0], publish, body_start(publish, 0), len(publish), conn.version)
        state.releasing[packet.packet_identifier] = publish
        out.append(publish)  # the router fans it out, forgets it, and fills the PUBCOMP

    def _refused(self, conn: Connection, state: SessionState) -> None:
        """Forget the released publications that never came to the router, as a stage between us refused them."""
        for identifier in [each for each in state.releasing if not conn.ack_queue.pubcomp.waits(each)]:
            del state.releasing[identifier]
            if state.durable:
                steps = [Settle(state.client_identifier, state.epoch, "inbound_done", identifier)]
                unwatched(self._round, partial(self._store.settle, steps), partial(store_failed, state))

    def _disconnected(self, conn: Connection, packet: Disconnect) -> None:
        if not conn.connected:  # in the middle of authentication (4.12)
            raise ClientDisconnected(ReasonCode(packet.reason_code))
        state = self._state(conn)
        interval = packet.properties.session_expiry_interval
        if interval is not None:
            state.expiry_interval = min(interval, self._limits.session_expiry_seconds_max)
        if packet.reason_code == ReasonCode.NORMAL_DISCONNECTION:
            state.will = None  # [MQTT-3.14.4-3]
        raise ClientDisconnected(ReasonCode(packet.reason_code))

    # ---- CONNECT ----

    def _connect(self, conn: Connection, connect: Connect) -> Awaitable[None] | None:
        identity = conn.identity
        assert identity is not None
        name = conn.client_identifier
        old = self.sessions.get(name)
        if old is not None and old.identity != identity and not self.takeover_by_anyone:
            raise ConnectionRefused(ReasonCode.NOT_AUTHORIZED, "the session belongs to another identity")
        if old is None and len(self.sessions) + len(self.claims) >= self._limits.sessions_max:
            self._round.counters.denials["limit: sessions"] += 1
            raise ConnectionRefused(ReasonCode.QUOTA_EXCEEDED, "limit: sessions")
        self.claims.give_up(name, _taken_over())
        if old is not None:
            self._take_over(old, connect)
        ended = old is not None and name not in self.sessions
        return self.claims.claim(
            conn, connect, identity, clean_start=connect.clean_start or ended, by_anyone=self.takeover_by_anyone
        )

    def _take_over(self, old: SessionState, connect: Connect) -> None:
        """Let go of the session's former connection, and end the session itself where Clean Start asks for it."""
        if old.expiry_timer is not None:
            old.expiry_timer.cancel()
            old.expiry_timer = None
        previous = old.connection
        if previous is not None:
            self._round.counters.takeovers += 1
            old.connection = None
            previous.session = None
            if old.will is not None:
                old.will.lease = previous.lease
            previous.end(_taken_over())
            if old.will is not None and not old.will.delay_seconds:
                self._publish_will(old)
        if connect.clean_start or not old.expiry_interval:
            self._end(old, stored=False)
        elif old.will is not None:  # a new connection within the Will Delay Interval [MQTT-3.1.3-9]
            if old.will.timer is not None:
                old.will.timer.cancel()
            old.will = None

    def open(self, conn: Connection, connect: Connect, epoch: int) -> None:
        """Attach the connection to its session, which is ours by `epoch`, and say so."""
        limits = self._limits
        state = self.sessions.get(conn.client_identifier)
        present = state is not None
        if state is None:
            assert conn.identity is not None
            state = SessionState(conn.client_identifier, conn.identity)
        asked = _session_expiry(connect, limits.session_expiry_seconds_max)
        state.epoch = epoch
        state.expiry_interval = min(asked, limits.session_expiry_seconds_max)
        state.durable = state.expiry_interval > 0
        if not state.durable:
            self._remove(state)
        state.connection = conn
        state.will = None
        if connect.will is not None:
            state.will = _pending_will(connect.will, conn.client_identifier, conn.v5)
        self.sessions[conn.client_identifier] = state
        conn.session = state
        properties = connect.properties
        if conn.v5:
            conn.send_max = min(properties.receive_maximum or 65_535, limits.in_flight_max)
            conn.receive_max = limits.receive_max
            conn.sending_aliases = SendingAliases(min(properties.topic_alias_maximum or 0, limits.topic_alias_out_max))
            conn.plain = conn.packet_bytes_max is None and not conn.sending_aliases.maximum
        connack = Connack(present, 0, self._connack_properties(conn, connect, asked))
        conn.protocol.sent(connack)
        if not conn.send(connack):  # so small a Maximum Packet Size that nothing can be said at all
            state.will = None
            raise ConnectionRefused(ReasonCode.PACKET_TOO_LARGE, "CONNACK is larger than the client takes")
        conn.connected = True
        if state.subscriptions:
            self._router.invalidate_session(state)
        if present:
            self._resume(conn, state)

    def _connack_properties(self, conn: Connection, connect: Connect, asked: int) -> ConnackProperties:
        if not conn.v5:
            return ConnackProperties()
        limits = self._limits
        keep_alive = limits.keep_alive_seconds_max if conn.keep_alive != connect.keep_alive else None
        return ConnackProperties(
            session_expiry_interval=limits.session_expiry_seconds_max
            if asked > limits.session_expiry_seconds_max
            else None,
            receive_maximum=limits.receive_max,
            maximum_packet_size=limits.packet_bytes_max,
            assigned_client_identifier=conn.client_identifier if not connect.client_identifier else None,
            topic_alias_maximum=limits.topic_alias_max or None,
            server_keep_alive=keep_alive,
            authentication_method=conn.protocol.authentication_method,  # [MQTT-4.12.0-6]
        )

    def _resume(self, conn: Connection, state: SessionState) -> None:
        """Send again what was not acknowledged, in order, with its identifiers [MQTT-4.4.0-1]."""
        for identifier, publish in state.releasing.items():
            state.hold(identifier, publish)  # it was lost on the way to the router; its PUBREL comes again
        state.releasing.clear()
        state.resend.clear()
        state.resend.extend(state.window.published)
        for identifier in state.window.released:
            conn.send(Pubrel(identifier))
        self._deliver.pump(state)

    # ---- the end ----

    def lost(self, conn: Connection, reason: CloseReason) -> None:
        """The connection is over: decide what becomes of its session and Will, before anything is awaited."""
        self.claims.lost(conn)
        state = conn.session
        if state is None or state.connection is not conn:
            return
        conn.session = None
        state.connection = None
        state.resend.clear()
        if state.releasing:
            self._refused(conn, state)
        self._router.invalidate_session(state)
        if state.will is not None:
            state.will.lease = conn.lease
            if state.will.delay_seconds and state.expiry_interval:
                deadline = self._round.clock.now + min(state.will.delay_seconds, state.expiry_interval)
                state.will.timer = self._timers.call_at(deadline, lambda: self._publish_will(state))
            else:
                self._publish_will(state)
        if not state.expiry_interval:
            self._end(state)
            return
        self.detach(state)
        for group in state.groups.values():
            for member in list(group.members):
                if member is not state:
                    self._deliver.pump(member)

    def detach(self, state: SessionState) -> None:
        """Keep a session for its client to come back, while its expiry lasts."""
        if state.expiry_timer is not None:
            state.expiry_timer.cancel()
        forever = state.expiry_interval == NEVER_EXPIRES
        expires_at = None if forever else self._round.clock.wall + state.expiry_interval
        if not forever:
            deadline = self._round.clock.now + state.expiry_interval
            state.expiry_timer = self._timers.call_at(deadline, lambda: self._end(state))
        release = partial(self._store.release, state.client_identifier, state.epoch, expires_at=expires_at)
        unwatched(self._round, release, partial(self._not_released, state))

    def _not_released(self, state: SessionState, error: Exception) -> None:
        store_failed_for(state.client_identifier, error)
        if isinstance(error, Fenced) and state.connection is None:
            state.will = None  # another owner has the session, and its Will
            self._end(state, stored=False)

    def remove(self, client_identifier: str) -> bool:
        """Delete a detached session; False when there is none, or when it is attached."""
        state = self.sessions.get(client_identifier)
        if state is None or state.connection is not None:
            return False
        self._end(state)
        return True

    def _end(self, state: SessionState, *, stored: bool = True) -> None:
        """The session is over [MQTT-4.1.0-2]: the Will that waited for it, then nothing of it stays."""
        if state.expiry_timer is not None:
            state.expiry_timer.cancel()
        if self.sessions.get(state.client_identifier) is state:
            del self.sessions[state.client_identifier]
        self._publish_will(state)
        self._router.forget(state)
        if stored and state.durable:
            self._remove(state)
        state.queue.clear()
        state.retained_waiting = None

    def _remove(self, state: SessionState) -> None:
        name = state.client_identifier
        unwatched(self._round, partial(self._store.remove, name, state.epoch), partial(store_failed_for, name))

    def _publish_will(self, state: SessionState) -> None:
        will = state.will
        if will is None:
            return
        state.will = None
        if will.timer is not None:
            will.timer.cancel()
        message = will.message
        interval = message.properties.message_expiry_interval
        if interval is not None:
            message = replace(message, expires_at=self._round.clock.now + interval)
        retain = message.retain
        if will.lease is not None:
            # published whatever became of the token, but not kept beyond it (ACE-5-9, D-25)
            retain = retain and will.lease.until > self._round.clock.wall
            message = replace(message, lease=will.lease)
        beside_topic = message.octets - len(message.topic)
        if retain and message.payload and not self._router.retained.admits(message.topic, beside_topic):
            self._round.counters.retained_refused += 1
            retain = False
        publish = partial(self._router.publish, message, retain=retain)
        unwatched(self._round, publish, partial(store_failed_for, state.client_identifier))


def _taken_over() -> SessionTakenOver:
    return SessionTakenOver("another connection uses the client identifier")


def _session_expiry(connect: Connect, longest: int) -> int:
    """Seconds that the client asks for; MQTT 3 asks for the longest, or for none with Clean Session."""
    if connect.version == 5:
        return connect.properties.session_expiry_interval or 0
    return 0 if connect.clean_start else longest


def _pending_will(will: Will, client_identifier: str, v5: bool) -> PendingWill:
    properties = NO_PUBLISH_PROPERTIES
    given = will.properties
    if v5:
        properties = PublishProperties(
            payload_format_indicator=given.payload_format_indicator,
            message_expiry_interval=given.message_expiry_interval,
            response_topic=given.response_topic,
            correlation_data=given.correlation_data,
            user_properties=given.user_properties,
            content_type=given.content_type,
        )
        if properties == NO_PUBLISH_PROPERTIES:
            properties = NO_PUBLISH_PROPERTIES
    message = Message(will.topic, will.payload, will.qos, will.retain, properties, None, client_identifier)
    return PendingWill(message, given.will_delay_interval or 0)
