"""QoS 1 and 2 handshakes of known flows, straight from frames: the short cut beside the stages.

What may take it: a PUBLISH of QoS 1 or 2 without DUP, RETAIN and properties on a flow that every stage
passed, and the four acknowledgements without reason code, while no plugin wants to see them. Everything else, and
whatever is odd about such a frame, takes the packet path, which answers it. Both ways lead through the same
session state, and give every client the same octets.
"""

from __future__ import annotations

from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, Publish
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.flows import Flow, Route
from acebroker_middleware.router import Router
from acebroker_middleware.state.message import Delivery, Frames, Message
from acebroker_middleware.state.session_state import SessionState

__all__ = ["PUBACK", "PUBCOMP", "PUBREC", "PUBREL", "Handshakes"]

#: first octets
PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70

_PUBACK_FRAME = 0x4002 << 16
_PUBREC_FRAME = 0x5002 << 16
_PUBREL_FRAME = 0x6202 << 16
_PUBCOMP_FRAME = 0x7002 << 16


class Handshakes:
    """The short cut of one broker. Every method gives False when the packet path has to take the frame."""

    def __init__(self, round_: Round, router: Router, deliver: Deliver) -> None:
        self._round = round_
        self._clock = round_.clock
        self._counters = round_.counters
        self._router = router
        self._deliver = deliver

    def publish(self, conn: Connection, flow: Flow, data: bytes, pos: int, topic_end: int, end: int) -> bool:
        """Take the PUBLISH of QoS 1 or 2 in `data[pos:end]`, whose Packet Identifier stands at `topic_end`."""
        after = topic_end + 2
        v5 = conn.v5
        payload_start = after + 1 if v5 else after
        if payload_start > end or (v5 and data[after]):
            return False
        identifier = data[topic_end] << 8 | data[topic_end + 1]
        if not identifier:
            return False
        qos_2 = data[pos] == 0x34
        if qos_2:
            return self._publish_qos_2(conn, flow, identifier, data[payload_start:end])
        acks = conn.ack_queue.puback
        if acks.open or flow.route.durable:
            return False
        counters = self._counters
        message = Message(
            flow.topic, data[payload_start:end], 1, False, NO_PUBLISH_PROPERTIES, None, conn.client_identifier
        )
        self._fan_out_qos_1(flow.route, message, v5, data[pos:topic_end], data[after:end])
        counters.publish_received += 1
        counters.packets_received += 1
        if flow.route.targets or not v5:
            conn.write((_PUBACK_FRAME | identifier).to_bytes(4, "big"))
        else:
            acks.open.append(identifier)
            acks.fill(identifier, 0x10)  # no matching subscribers
        return True

    def _fan_out_qos_1(self, route: Route, message: Message, v5: bool, before: bytes, after: bytes) -> None:
        """`Router.fan_out` for a fast route, whose targets take the frame as it came but for its Packet Identifier."""
        frames: Frames | None = None
        delivery = Delivery(message, 1)
        for target in route.targets:
            state = target.session
            conn = state.connection
            if conn is None and not target.qos:
                continue
            if (
                conn is not None
                and target.qos
                and conn.v5 == v5
                and conn.plain
                and not state.queue
                and not state.resend
                and conn.out_octets < conn.out_octets_max
            ):
                window = state.window
                if len(window.published) + len(window.released) < conn.send_max:
                    conn.write(before + window.open(delivery, 1).to_bytes(2, "big") + after)
                    self._counters.publish_sent += 1
                    continue
            if frames is None:
                frames = Frames(message, self._clock.now)
                frames.adopt(v5, 0x32, before, after)
            if target.qos:
                self._deliver.offer(state, delivery, frames, checked=True)
            elif conn is not None:
                self._deliver.qos_0(conn, frames, False)

    def _publish_qos_2(self, conn: Connection, flow: Flow, identifier: int, payload: bytes) -> bool:
        state = conn.session
        if state is None or state.durable or conn.ack_queue.pubrec.open:
            return False
        inbound = state.inbound
        if identifier not in inbound:
            if len(inbound) >= conn.receive_max:
                return False
            inbound[identifier] = Publish(flow.topic, payload, 2, False, False, identifier)
        self._counters.packets_received += 1
        conn.write((_PUBREC_FRAME | identifier).to_bytes(4, "big"))
        return True

    def acknowledge(self, conn: Connection, first_octet: int, identifier: int) -> bool:
        """Take PUBACK, PUBREC, PUBREL or PUBCOMP of success."""
        state = conn.session
        if state is None or state.durable:
            return False
        window = state.window
        if first_octet == PUBACK:
            if identifier in window.qos_2 or window.published.pop(identifier, None) is None:
                return False
        elif first_octet == PUBREC:
            if identifier not in window.qos_2:
                return False
            window.qos_2.remove(identifier)
            del window.published[identifier]
            window.released[identifier] = None
            conn.write((_PUBREL_FRAME | identifier).to_bytes(4, "big"))
        elif first_octet == PUBCOMP:
            if identifier not in window.released:
                return False
            del window.released[identifier]
        else:
            return self._release(conn, state, identifier)
        self._counters.packets_received += 1
        return True

    def _release(self, conn: Connection, state: SessionState, identifier: int) -> bool:
        publish = state.inbound.get(identifier)
        if publish is None or publish.retain or publish.properties is not NO_PUBLISH_PROPERTIES:
            return False
        route = self._router.route(publish.topic)
        if route.durable or conn.ack_queue.pubcomp.open:
            return False
        del state.inbound[identifier]
        message = Message(publish.topic, publish.payload, 2, False, NO_PUBLISH_PROPERTIES, None, conn.client_identifier)
        self._router.fan_out(route, message, Frames(message, self._clock.now))
        counters = self._counters
        counters.publish_received += 1
        counters.packets_received += 1
        conn.write((_PUBCOMP_FRAME | identifier).to_bytes(4, "big"))
        return True
