"""Retained messages on their way to new subscriptions: slice by slice, between the turns of everybody else (3.8.4).

A session has a Replay for each subscription that still has to get some; they leave one after the other, behind what
waits in the session's queue. A slice ends at a number of octets, of steps in the store, or at a full out-queue; a
message of QoS 1 or 2 waits for the window. Rights at delivery hold as everywhere: every deliver stage is asked
about each message, unless all of them have said, in this slice, that they have nothing against the whole filter.

Statements: [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.2-5], [MQTT-3.8.3-3], [MQTT-3.8.4-4].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from acebroker_codec.encoder import publish_header
from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, PublishProperties
from acebroker_codec.properties import encode_properties
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.flows import UNBOUNDED
from acebroker_middleware.state.message import Delivery, Frames, Message
from acebroker_middleware.state.retained import Replay, RetainedMessages, is_over
from acebroker_middleware.state.session_state import SessionState

__all__ = ["SLICE_OCTETS_MAX", "SLICE_STEPS_MAX", "Replays"]

#: one slice: octets to send, steps of one Replay in the store, Replays that end in it
SLICE_OCTETS_MAX: Final = 65_536
SLICE_STEPS_MAX: Final = 1_000
_REPLAYS_MAX: Final = 16
#: first octet and Remaining Length
_HEADER_BYTES_MAX: Final = 5


class Replays:
    """Sends the slices, for all sessions of a broker.

    `covers(conn, filter)` says that no deliver stage need be asked; `qos_0` and `send` are those of Deliver, for
    messages that are not as most are.
    """

    def __init__(
        self,
        round_: Round,
        retained: RetainedMessages,
        covers: Callable[[Connection, str], bool],
        qos_0: Callable[..., None],
        send: Callable[..., None],
    ) -> None:
        self._round = round_
        self._retained = retained
        self._covers = covers
        self._qos_0 = qos_0
        self._send = send

    def send(self, conn: Connection, state: SessionState) -> bool:
        """Queue a slice for a session that waits for retained messages and is attached to `conn`.

        True when there is more: call again when the others had their turn. The connection is `dirty` then. False
        when nothing is left, or when an acknowledgement has to come first.
        """
        waiting = state.retained_waiting
        assert waiting is not None
        bound = min(conn.out_octets + SLICE_OCTETS_MAX, conn.out_octets_max)
        for _ in range(_REPLAYS_MAX):
            replay = waiting[0]
            if replay.subscription.filter in state.subscriptions:  # else it was ended meanwhile [MQTT-3.10.4-2]
                if not self._slice(conn, state, replay, bound):
                    return False
                if not replay.over():
                    break
            waiting.popleft()
            if not waiting:
                state.retained_waiting = None
                return False
        if not conn.dirty:
            conn.dirty = True
            self._round.dirty.append(conn)
        return True

    def _slice(self, conn: Connection, state: SessionState, replay: Replay, bound: int) -> bool:
        """Take some steps of one Replay, while less than `bound` octets are queued. False when it has to wait.

        The common case, QoS 0 without properties, has one chunk for all its frames, and no Topic Alias: a topic
        comes once.
        """
        subscription = replay.subscription
        mark, qos_max, v5 = replay.mark, subscription.qos, conn.v5
        now, wall = self._round.clock.now, self._round.clock.wall
        not_from = state.client_identifier if subscription.no_local else None
        inspect = not self._covers(conn, subscription.filter)
        # larger ones are measured one by one
        length_max = (conn.packet_bytes_max or UNBOUNDED) - _HEADER_BYTES_MAX
        properties = _encoded(subscription.identifier) if v5 else b""
        length_min = 2 + len(properties)
        room = bound - conn.out_octets
        parts: list[Any] = []
        lengths, header = (0, 0), b""
        for node in replay.steps(SLICE_STEPS_MAX):
            if node is None or node.mark > mark:
                continue
            message = node.value
            if message is None:
                continue
            if room <= 0:
                replay.back(node)
                break
            if (message.expires_at is not None or message.lease is not None) and is_over(message, now, wall):
                self._retained.remove(message.topic)  # [MQTT-3.3.2-5]
                continue
            if not_from is not None and message.publisher == not_from:
                continue  # [MQTT-3.8.3-3]
            payload = message.payload
            topic = message.topic.encode()
            topic_size = len(topic)
            length = length_min + topic_size + len(payload)
            if (
                inspect
                or (qos_max and message.qos)
                or length > length_max
                or (v5 and message.properties is not NO_PUBLISH_PROPERTIES)
            ):
                octets = conn.out_octets
                if not self._one(conn, state, replay, message, inspect):
                    replay.back(node)
                    self._queue(conn, parts)
                    return False
                room -= conn.out_octets - octets
                continue
            if lengths != (length, topic_size):
                lengths = (length, topic_size)
                header = publish_header(0x31, length, topic_size)
            parts += (header, topic, properties, payload)
            room -= length
        self._queue(conn, parts)
        return True

    def _one(self, conn: Connection, state: SessionState, replay: Replay, message: Message, inspect: bool) -> bool:
        """Send one message that takes more; False, and nothing sent, where it has to wait."""
        subscription = replay.subscription
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        qos = min(message.qos, subscription.qos)
        # a stage that failed has left no room in the window: the connection ends
        if not conn.send_max or (qos and len(state.window) >= conn.send_max):
            return False
        if qos and state.window.octets >= self._round.limits.in_flight_bytes_max:
            return False
        if qos:
            self._send(conn, state, Delivery(message, qos, True, identifiers), None, not inspect)
        else:
            self._qos_0(conn, Frames(message, self._round.clock.now), True, identifiers, inspect, bounded=False)
        return True

    def _queue(self, conn: Connection, parts: list[Any]) -> None:
        """Queue frames, of four parts each, as one chunk."""
        if parts:
            conn.write(b"".join(parts))
            self._round.counters.publish_sent += len(parts) // 4


def _encoded(subscription_identifier: int) -> bytes:
    """The properties of a message that has none of its own."""
    if not subscription_identifier:
        return b"\0"
    return encode_properties(PublishProperties(subscription_identifiers=(subscription_identifier,)))
