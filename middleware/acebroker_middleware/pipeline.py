"""Pipeline: the stages in order, composed once, and the loop that drives octets through them.

    octets ─> frames ─┬─ plain QoS 0 PUBLISH of a known flow ─> run ─> slices to subscribers
                      └─ everything else ─> packets ─> batch ─> stage, stage, stage ...

Order is kept: a run ends before a batch begins, and the other way round. When a stage gives an
awaitable, `feed` gives one too: it finishes the batch and then the rest of the input, and the
runtime reads nothing more from that client before it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

from acebroker_codec.errors import MqttError
from acebroker_codec.frames import frame_extent
from acebroker_codec.packets import Auth, Connect, Packet, PacketType
from acebroker_codec.properties import forwarded_properties_end
from acebroker_codec.topics import check_topic_name
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.decode import Decode
from acebroker_middleware.errors import SessionTakenOver, StageFailure
from acebroker_middleware.flows import Flow, FlowKey, FlowMode, Verdict
from acebroker_middleware.hand_offs import stage_error, stage_guarded, then
from acebroker_middleware.handshakes import PUBACK, PUBCOMP, PUBREC, PUBREL, Handshakes
from acebroker_middleware.router import Router
from acebroker_middleware.runs import Runs
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.ports import Maybe

__all__ = ["FLOW_OVERHEAD_BYTES", "PROPERTIES_BYTES_MAX", "PROPERTIES_MAX", "Pipeline"]

#: what one remembered flow costs beside its topic, for the octet limit
FLOW_OVERHEAD_BYTES: Final = 256
#: properties of PUBLISH that are remembered as good, and the octets of those of one packet
PROPERTIES_MAX: Final = 1_024
PROPERTIES_BYTES_MAX: Final = 512


_ACK_TYPES = frozenset((PacketType.PUBACK, PacketType.PUBREC, PacketType.PUBREL, PacketType.PUBCOMP))
_ACKS = frozenset((PUBACK, PUBREC, PUBREL, PUBCOMP))
#: first octet
_AUTH: Final = 0xF0
_FAST: Final = FlowMode.FAST
_PACKETS: Final = FlowMode.PACKETS


class Pipeline:
    """All stages of a broker, first `decode`, last `router`.

    `stages` is the order; `flow_cache=False` sends every packet through the stages (for tests).
    """

    def __init__(self, round_: Round, stages: Sequence[Any], *, flow_cache: bool = True) -> None:
        names = [stage.name for stage in stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages have the same name: {', '.join(names)}")
        if not stages or not isinstance(stages[0], Decode) or not isinstance(stages[-1], Router):
            raise ValueError("a pipeline begins with decode and ends with the router")
        self.stages: tuple[Any, ...] = tuple(stages)
        self._round = round_
        self._limits = round_.limits
        #: a Remaining Length below this is one octet, and within the Maximum Packet Size whatever it is
        self._short = 0x80 if round_.limits.packet_bytes_max > 0x80 else 0
        self._decode: Decode = stages[0]
        self._router: Router = stages[-1]
        self._epoch = self._router.epoch
        self._chain = self.stages[1:]
        self._builtin = frozenset(("authn", "authz-info", "authz", "session", "router"))
        self._flow_stages = tuple(s for s in self._chain if PacketType.PUBLISH in s.wants)
        self._plans = tuple((s, getattr(s, "plan", None)) for s in self._flow_stages)
        self._runs = Runs(round_, tuple(s for s in self._flow_stages if hasattr(s, "on_run")))
        self._flow_cache = flow_cache
        #: properties of PUBLISH that were seen to go on as they are
        self._properties: set[bytes] = set()
        plugins = [s for s in self._chain if s.name not in self._builtin]
        # plugins see every packet of QoS 1 and 2, and with properties, that they want; the built-in stages have had
        # their say in the flow
        self._handshake_flows = not any(PacketType.PUBLISH in s.wants for s in plugins)
        self._handshake_acks = not any(s.wants & _ACK_TYPES for s in plugins)
        self._deliver = self._router.deliver
        self._handshakes = Handshakes(round_, self._router, self._deliver)

    # ---- octets ----

    def feed(self, conn: Connection, data: bytes) -> Maybe[None]:
        """Take octets of one client. Raises the MqttError that ends its connection.

        An awaitable means a hand-off: await it before feeding this connection again.
        """
        tail = conn.tail
        if tail:
            tail += data
            if len(tail) < conn.needed:
                return None
            data = bytes(tail)
            tail.clear()
            since = conn.tail_since
            pending = self._scan(conn, data, 0)
            if len(tail) == len(data):
                conn.tail_since = since  # its length is known now, and it is still the same packet
            return pending
        return self._scan(conn, data, 0)

    def _scan(self, conn: Connection, data: bytes, pos: int) -> Maybe[None]:
        size = len(data)
        batch: Batch = []
        flows = conn.flows if self._flow_cache and conn.connected else None
        if conn.rights_end <= self._round.clock.now:
            flows = None  # nothing that was decided holds: authz sees every packet
        epoch = self._epoch
        short = self._short
        plain_v5 = conn.v5
        current: Flow | None = None
        run_start = 0
        count = 0
        needed = 0
        failed: MqttError | None = None
        while pos + 2 <= size:
            length = data[pos + 1]
            start = pos + 2
            if length < short:
                end = start + length
            else:
                try:
                    limits = self._limits
                    extent = frame_extent(
                        data, pos, limits.packet_bytes_max if conn.connected else limits.connect_bytes_max
                    )
                except MqttError as error:
                    failed = error
                    break
                if extent is None:
                    break
                start, end = extent
            if end > size:
                needed = end - pos
                break
            first_octet = data[pos]
            if flows is not None and first_octet & 0xF9 == 0x30 and end - start >= 2:
                topic_end = start + 2 + (data[start] << 8 | data[start + 1])
                header_end = topic_end
                if plain_v5 and first_octet == 0x30:
                    if topic_end < end and data[topic_end] == 0:
                        header_end += 1
                    else:
                        header_end = self._properties_end(data, topic_end, end)
                if header_end <= end:
                    topic = data[start + 2 : topic_end]
                    flow = flows.get(topic)
                    if flow is None or flow.route.version != epoch.routes:
                        try:
                            flow = self._flow(conn, topic)
                        except MqttError as error:
                            failed = error
                            break
                    if flow is None:
                        pass
                    elif first_octet == 0x30:
                        if flow.mode is not _PACKETS and end - pos <= flow.route.packet_bytes_max:
                            if batch:
                                pending = self.run(conn, batch)
                                batch = []
                                flows = conn.flows if conn.session is not None else None
                                if pending is not None:
                                    return self._continue(conn, pending, data, pos)
                                continue  # rights and routes may have changed
                            if flow is not current and (current is None or not self._runs.continues(current, flow)):
                                if current is not None:
                                    self._runs.forward(conn, current, data, run_start, pos, count)
                                current = flow
                                run_start = pos
                                count = 0
                            count += 1
                            if end + 1 < size and data[end + 1] == length:
                                header = data[pos:header_end]
                                octets = end - pos
                                pos = end
                                while data.startswith(header, pos) and pos + octets <= size:
                                    pos += octets
                                count += (pos - end) // octets
                            else:
                                pos = end
                            continue
                    elif (
                        flow.mode is _FAST
                        and first_octet != 0x36
                        and self._handshake_flows
                        and not batch
                        and topic_end + 2 <= end
                    ):
                        if current is not None:
                            self._runs.forward(conn, current, data, run_start, pos, count)
                            current = None
                        taken = self._handshakes.publish(conn, flow, data, pos, topic_end, end)
                        if taken > pos:
                            pos = taken
                            continue
            elif length == 2 and first_octet in _ACKS and flows is not None and self._handshake_acks and not batch:
                if current is not None:
                    self._runs.forward(conn, current, data, run_start, pos, count)
                    current = None
                taken = self._handshakes.acknowledge(conn, data, pos)
                if taken > pos:
                    pos = taken
                    continue
            if current is not None:
                self._runs.forward(conn, current, data, run_start, pos, count)
                current = None
            if first_octet == _AUTH and batch:
                # it is alone in its batch, as CONNECT is: rights change behind what came before
                pending = self.run(conn, batch)
                batch = []
                if pending is not None:
                    return self._continue(conn, pending, data, pos)
            try:
                packet = self._decode.packet(conn, data[pos], data, start, end)
            except MqttError as error:
                failed = error
                break
            batch.append(packet)
            pos = end
            if type(packet) is Connect or type(packet) is Auth:
                pending = self.run(conn, batch)
                batch = []
                if pending is not None:
                    return self._continue(conn, pending, data, pos)
                flows = conn.flows if self._flow_cache and conn.connected else None
                plain_v5 = conn.v5
        if current is not None:
            self._runs.forward(conn, current, data, run_start, pos, count)
        if failed is not None:  # what came before it is handled first, and nothing behind it
            batch.append(failed)
        elif pos < size:
            conn.tail += data[pos:] if pos else data
            conn.needed = needed
            conn.tail_since = self._round.clock.now
        try:
            return self.run(conn, batch) if batch else None
        finally:
            session = conn.session
            if session is not None and session.pump_due:
                self._deliver.pump(session)

    def _properties_end(self, data: bytes, pos: int, end: int) -> int:
        """Where the properties at `pos` of a QoS 0 PUBLISH end, if they go on as they are; else behind `end`."""
        if pos >= end or not self._handshake_flows:
            return end + 1
        stop = pos + 1 + data[pos]
        if data[pos] < 0x80 and data[pos:stop] in self._properties:
            return stop
        stop = forwarded_properties_end(data, pos, end)
        if not stop:
            return end + 1
        if stop - pos <= PROPERTIES_BYTES_MAX:
            if len(self._properties) >= PROPERTIES_MAX:
                self._properties.clear()
            self._properties.add(data[pos:stop])
        return stop

    def _continue(self, conn: Connection, pending: Awaitable[None], data: bytes, pos: int) -> Awaitable[None]:
        return then(pending, lambda _: self._scan(conn, data, pos))

    # ---- packets ----

    def run(self, conn: Connection, batch: Batch, first: int = 0) -> Maybe[None]:
        """Send a batch through the stages, from the one with index `first` behind decode."""
        if not first:
            self._round.counters.packets_received += len(batch)
            if conn.subscribe_refusals:
                conn.subscribe_refusals.clear()
        chain = self._chain
        for index in range(first, len(chain)):
            stage = chain[index]
            if stage.name not in self._builtin and not self._wanted(stage, batch):
                continue
            try:
                result: Maybe[Batch] = stage.on_batch(conn, batch)
            except MqttError:
                raise
            except Exception as error:
                raise stage_error(stage.name, error) from error
            if not isinstance(result, list):
                return self._hand_off(conn, stage, result, index + 1)
            batch = result
            if not batch:
                return None
        last = batch[-1]
        if isinstance(last, MqttError):
            raise last
        return None

    @staticmethod
    def _wanted(stage: Any, batch: Batch) -> bool:
        wants = stage.wants
        return any(isinstance(packet, Packet) and packet.packet_type in wants for packet in batch)

    def _hand_off(self, conn: Connection, stage: Any, pending: Awaitable[Batch], following: int) -> Awaitable[None]:
        conn.handed_to = stage.name
        return then(stage_guarded(stage.name, pending), partial(self._handed_back, conn, following))

    def _handed_back(self, conn: Connection, following: int, batch: Batch) -> Maybe[None]:
        if conn.connected and conn.session is None:  # what it released belongs to the next connection
            raise SessionTakenOver("the session was taken over")
        return self.run(conn, batch, following) if batch else None

    # ---- flows ----

    def _flow(self, conn: Connection, topic: bytes) -> Flow | None:
        """The flow of a topic that is not among `conn.flows`, or stale there; None as `_decide` gives it.

        Flows are kept in two generations: when the younger one is full, it becomes the elder one, and what was in that
        is forgotten, unless it was met in the meantime and has moved to the younger one.
        """
        flow = conn.flows_before.pop(topic, None)
        if flow is None or flow.route.version != self._epoch.routes:
            flow = self._decide(conn, topic)
            if flow is None:
                return None
        flows = conn.flows
        if topic not in flows:
            limits = self._limits
            conn.flow_octets += len(topic) + FLOW_OVERHEAD_BYTES
            if (
                len(flows) >= limits.flows_per_connection_max // 2
                or conn.flow_octets > limits.flow_bytes_per_connection_max // 2
            ):
                conn.flows_before = flows.copy() if limits.flows_per_connection_max > 1 else {}
                flows.clear()  # the same dict: `_scan` holds it
                conn.flow_octets = len(topic) + FLOW_OVERHEAD_BYTES
        flows[topic] = flow
        return flow

    def _decide(self, conn: Connection, topic: bytes) -> Flow | None:
        """Decide a flow by asking every stage; None where the packet path has to find out what is wrong."""
        try:
            name = topic.decode()
            check_topic_name(name)
        except (UnicodeDecodeError, MqttError):
            return None
        limits = self._limits
        if len(topic) > limits.topic_bytes_max or name.count("/") >= limits.topic_levels_max:
            return None
        mode = FlowMode.FAST
        key = FlowKey(name)
        rule = ""
        for stage, plan in self._plans:
            try:
                verdict = Verdict.INSPECT if plan is None else plan(conn, key)
                if verdict is Verdict.PASS:
                    continue
                verdict = Verdict(verdict)
            except MqttError:
                raise
            except Exception as error:
                raise StageFailure(f"stage {stage.name} failed") from error
            if verdict is Verdict.DENY:
                mode, rule = self._denied_mode(conn), f"{stage.name}: {name}"
                decision = conn.decisions.get(name)
                rule = decision.rule if decision is not None and not decision.allowed else rule
                break
            if verdict is Verdict.INSPECT:
                mode = FlowMode.PACKETS
        route = self._router.route(name)
        if mode is FlowMode.FAST and not route.fast:
            mode = FlowMode.PACKETS
        echo = False
        session = conn.session
        for target in route.targets:
            if target.session is session:
                echo = True
                break
        return Flow(name, mode, route, rule, echo)

    @staticmethod
    def _denied_mode(conn: Connection) -> FlowMode:
        # where a denial has to end the connection, the packet path does it
        if conn.strict:
            return FlowMode.PACKETS
        return FlowMode.DENIED if conn.v5 or conn.denied_publish.value == "ignore" else FlowMode.PACKETS
