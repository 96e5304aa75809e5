"""QoS 1 and 2 handshakes of known flows, straight from frames: the short cut beside the stages.

What may take it: a PUBLISH of QoS 1 or 2 without DUP, RETAIN and properties on a flow that every stage
passed, and the four acknowledgements without reason code, while no plugin wants to see them. Everything else, and
whatever is odd about such a frame, takes the packet path, which answers it. Both ways lead through the same
session state, and give every client the same octets.

Frames come in runs: a publisher's window of one topic, a read full of acknowledgements. A run is taken at once,
and each subscriber gets it as one piece; where a subscriber cannot take all of it (its window, its queue), it
is offered each message by itself. Sessions in the store take the packet path: so nothing of a run is ever sent
again, and the window of its subscribers keeps no message for its identifiers.
"""

from __future__ import annotations

from acebroker_codec.frames import body_start
from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, Publish
from acebroker_codec.publish_runs import (
    PublishRun,
    acknowledgements,
    run_of_acknowledgements,
    run_of_publications,
)
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.flows import Flow, Route, Target
from acebroker_middleware.router import Router
from acebroker_middleware.state.message import Delivery, Frames, Message
from acebroker_middleware.state.session_state import SessionState

__all__ = ["PUBACK", "PUBCOMP", "PUBREC", "PUBREL", "Handshakes"]

#: first octets
PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
#: a longer PUBLISH of QoS 2 takes the packet path, where what waits for its PUBREL is counted in octets
KEPT_FRAME_BYTES_MAX = 1_024
_PUBLISH_QOS_2 = 0x34

_PUBACK_FRAME = 0x4002 << 16
_PUBREC_FRAME = 0x5002 << 16
_PUBCOMP_FRAME = 0x7002 << 16


class Handshakes:
    """The short cut of one broker. What it does not take, the packet path has to take."""

    def __init__(self, round_: Round, router: Router, deliver: Deliver) -> None:
        self._clock = round_.clock
        self._counters = round_.counters
        self._router = router
        self._deliver = deliver
        self._kept_max = round_.limits.receive_max

    # ---- PUBLISH ----

    def publish(self, conn: Connection, flow: Flow, data: bytes, pos: int, topic_end: int, end: int) -> int:
        """Take the PUBLISH of QoS 1 or 2 in `data[pos:end]`, whose Packet Identifier stands at `topic_end`.

        Those like it behind it may be taken too. Gives where the first octet stands that was not taken.
        """
        if data[pos] == _PUBLISH_QOS_2:
            state = conn.session
            if state is None or state.durable or conn.ack_queue.pubrec.open or end - pos > KEPT_FRAME_BYTES_MAX:
                return pos
            if end < len(data) and data.startswith(data[pos:topic_end], end):
                run = run_of_publications(data, pos, topic_end, end, conn.v5)
                if run.count > 1 and len(state.inbound) + run.count <= self._kept_max:
                    self._keep(conn, state, run)
                    return pos + len(run.frames)
            return end if self._publish_qos_2(conn, state, flow, data, topic_end, end) else pos
        route = flow.route
        if route.durable or conn.ack_queue.puback.open:
            return pos
        if end < len(data) and not flow.echo and route.targets and data.startswith(data[pos:topic_end], end):
            run = run_of_publications(data, pos, topic_end, end, conn.v5)
            if run.count > 1:
                self._fan_out(conn, flow.topic, route, run, 1)
                self._counters.packets_received += run.count
                conn.write(run.acknowledgements(PUBACK))
                return pos + len(run.frames)
        return end if self._publish_qos_1(conn, flow, data, pos, topic_end, end) else pos

    def _publish_qos_1(self, conn: Connection, flow: Flow, data: bytes, pos: int, topic_end: int, end: int) -> bool:
        identifier = data[topic_end] << 8 | data[topic_end + 1]
        after = data[topic_end + 2 : end]
        if not identifier or (conn.v5 and after[:1] != b"\0"):
            return False
        self._fan_out_qos_1(conn, flow, data[pos:topic_end], after)
        counters = self._counters
        counters.publish_received += 1
        counters.packets_received += 1
        if flow.route.targets or not conn.v5:
            conn.write((_PUBACK_FRAME | identifier).to_bytes(4, "big"))
        else:
            acks = conn.ack_queue.puback
            acks.open.append(identifier)
            acks.fill(identifier, 0x10)  # no matching subscribers
        return True

    def _fan_out_qos_1(self, publisher: Connection, flow: Flow, before: bytes, after: bytes) -> None:
        """`Router.fan_out` for a fast route, whose targets take the frame as it came but for its Packet Identifier."""
        v5 = publisher.v5
        delivery: Delivery | None = None
        frames: Frames | None = None
        for target in flow.route.targets:
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
                    conn.write(before + window.open(None, 1).to_bytes(2, "big") + after)
                    self._counters.publish_sent += 1
                    continue
            if delivery is None or frames is None:
                payload = after[1:] if v5 else after
                name = publisher.client_identifier
                delivery = Delivery(Message(flow.topic, payload, 1, False, NO_PUBLISH_PROPERTIES, None, name), 1)
                frames = Frames(delivery.message, self._clock.now)
                frames.adopt(v5, 0x32, before, after)
            if target.qos:
                self._deliver.offer(state, delivery, frames, checked=True)
            elif conn is not None:
                self._deliver.qos_0(conn, frames, False)

    def _publish_qos_2(
        self, conn: Connection, state: SessionState, flow: Flow, data: bytes, topic_end: int, end: int
    ) -> bool:
        identifier = data[topic_end] << 8 | data[topic_end + 1]
        payload = data[topic_end + 2 : end]
        if conn.v5:
            if payload[:1] != b"\0":
                return False
            payload = payload[1:]
        inbound = state.inbound
        if identifier not in inbound:
            if not identifier or len(inbound) >= self._kept_max:
                return False
            inbound[identifier] = Publish(flow.topic, payload, 2, False, False, identifier)
        self._counters.packets_received += 1
        conn.write((_PUBREC_FRAME | identifier).to_bytes(4, "big"))
        return True

    def _keep(self, conn: Connection, state: SessionState, run: PublishRun) -> None:
        """Receive a run of QoS 2: each frame waits as it is for its PUBREL."""
        received = run.acknowledgements(PUBREC)
        inbound = state.inbound
        for identifier, frame in zip(run_of_acknowledgements(received, 0), run.split(), strict=True):
            if identifier not in inbound:
                inbound[identifier] = frame
        self._counters.packets_received += run.count
        conn.write(received)

    # ---- to subscribers ----

    def _fan_out(self, conn: Connection, topic: str, route: Route, run: PublishRun, qos: int) -> None:
        """Offer a run to everybody on a fast route."""
        self._counters.publish_received += run.count
        offers: list[tuple[Message, Frames]] = []
        for target in route.targets:
            if self._send_run(target, run, qos):
                continue
            if not offers:
                for payload in run.payloads():
                    message = Message(topic, payload, qos, False, NO_PUBLISH_PROPERTIES, None, conn.client_identifier)
                    offers.append((message, Frames(message, self._clock.now)))
            self._offer_each(target, offers, qos)

    def _send_run(self, target: Target, run: PublishRun, qos: int) -> bool:
        """Send a run as one piece; False, and nothing sent, where this subscriber has to be offered each message."""
        state = target.session
        conn = state.connection
        if conn is None or not conn.plain:
            return False
        qos = min(qos, target.qos)
        form = run.form(conn.v5, qos)
        count = run.count
        if not qos:
            if conn.out_octets + len(form.frames) > conn.out_octets_max:
                return False
            conn.write(form.frames)
        else:
            window = state.window
            if (
                state.queue
                or state.resend
                or len(window.published) + len(window.released) + count > conn.send_max
                or conn.out_octets + form.each * (count - 1) >= conn.out_octets_max
            ):
                return False
            first = window.open_run(None, count, qos)
            if not first:
                return False
            conn.write(form.renumbered(first))
        self._counters.publish_sent += count
        return True

    def _offer_each(self, target: Target, offers: list[tuple[Message, Frames]], qos: int) -> None:
        state = target.session
        if target.qos:
            for message, frames in offers:
                self._deliver.offer(state, Delivery(message, min(qos, target.qos)), frames, checked=True)
        elif state.connection is not None:
            for _, frames in offers:
                self._deliver.qos_0(state.connection, frames, False)

    # ---- acknowledgements ----

    def acknowledge(self, conn: Connection, data: bytes, pos: int) -> int:
        """Take the PUBACK, PUBREC, PUBREL or PUBCOMP of success that stands at `pos`, and those like it behind it.

        Gives where the first octet stands that was not taken.
        """
        state = conn.session
        if state is None or state.durable:
            return pos
        identifiers: tuple[int, ...] = (data[pos + 2] << 8 | data[pos + 3],)
        if pos + 4 < len(data) and data.startswith(data[pos : pos + 2], pos + 4):
            identifiers = run_of_acknowledgements(data, pos)
        first_octet = data[pos]
        if first_octet == PUBREL:
            count = self._release(conn, state, identifiers)
            if count:
                conn.write(acknowledgements(PUBCOMP, data[pos : pos + 4 * count]))
        else:
            if first_octet == PUBACK:
                count = state.window.settle(identifiers)
            elif first_octet == PUBCOMP:
                count = state.window.complete(identifiers)
            else:
                count = state.window.release(identifiers)
                if count:
                    conn.write(acknowledgements(PUBREL, data[pos : pos + 4 * count]))
            if count:
                state.pump_due = True
        self._counters.packets_received += count
        return pos + 4 * count

    def _release(self, conn: Connection, state: SessionState, identifiers: tuple[int, ...]) -> int:
        """Fan out what waited for its PUBREL, as much as can be done at once; gives how many get a PUBCOMP."""
        if conn.ack_queue.pubcomp.open:
            return 0
        first = state.inbound.get(identifiers[0])
        if type(first) is bytes:
            return self._release_run(conn, state, first, identifiers)
        if (
            not isinstance(first, Publish)
            or identifiers[0] in state.held
            or first.retain
            or first.properties is not NO_PUBLISH_PROPERTIES
        ):
            return 0
        route = self._router.route(first.topic)
        if route.durable:
            return 0
        del state.inbound[identifiers[0]]
        self._counters.publish_received += 1
        message = Message(first.topic, first.payload, 2, False, NO_PUBLISH_PROPERTIES, None, conn.client_identifier)
        self._router.fan_out(route, message, Frames(message, self._clock.now))
        return 1

    def _release_run(self, conn: Connection, state: SessionState, first: bytes, identifiers: tuple[int, ...]) -> int:
        """The same where frames wait as they came: as many as have the header of the first."""
        topic_at = body_start(first, 0)
        identifier_at = topic_at + 2 + (first[topic_at] << 8 | first[topic_at + 1])
        topic = first[topic_at + 2 : identifier_at].decode()
        route = self._router.route(topic)
        if route.durable:
            return 0
        # a client that gets what it publishes gets each message before its PUBCOMP
        echo = any(target.session is state for target in route.targets)
        many = route.fast and not echo
        header = first[:identifier_at]
        frames: list[bytes] = []
        for identifier in identifiers if many else identifiers[:1]:
            frame = state.inbound.get(identifier)
            if type(frame) is not bytes or not frame.startswith(header):
                break
            del state.inbound[identifier]
            frames.append(frame)
        run = PublishRun(b"".join(frames), len(first), identifier_at, conn.v5)
        if many:
            self._fan_out(conn, topic, route, run, 2)
        else:
            self._counters.publish_received += 1
            payload = run.payloads()[0]
            message = Message(topic, payload, 2, False, NO_PUBLISH_PROPERTIES, None, conn.client_identifier)
            self._router.fan_out(route, message, Frames(message, self._clock.now))
        return len(frames)
