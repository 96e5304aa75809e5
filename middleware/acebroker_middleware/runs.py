"""Runs: rows of QoS 0 PUBLISH frames that go the same way, forwarded as slices of the input.

A run is encoded at most twice: as it came, and once for the subscribers of the other protocol level (an
MQTT 5 frame has one octet more, its empty properties). Each subscriber's out-queue is bounded in
octets; the frames that do not fit are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acebroker_codec.errors import MqttError
from acebroker_codec.wire import encode_variable_byte_integer, read_variable_byte_integer
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.flows import Flow, FlowKey, FlowMode
from acebroker_middleware.state.session_state import SessionState

__all__ = ["Runs", "from_3_to_5", "from_5_to_3"]


class Runs:
    """Forwards runs for all connections of a broker. `stages` are those with `on_run`, in order."""

    def __init__(self, round_: Round, stages: tuple[Any, ...]) -> None:
        self._round = round_
        self._counters = round_.counters
        self._stages = stages

    def continues(self, flow: Flow, other: Flow) -> bool:
        """Whether frames of another flow may stand in a run of this one: they go to the same sessions."""
        return (
            flow.route.fast_3 == other.route.fast_3
            and flow.route.fast_5 == other.route.fast_5
            and flow.mode is other.mode is FlowMode.FAST
            and not self._stages
        )

    def forward(self, conn: Connection, flow: Flow, data: bytes, start: int, end: int, count: int) -> None:
        """Forward the `count` frames in `data[start:end]` to everybody on the flow's route."""
        counters = self._counters
        counters.packets_received += count
        if flow.mode is FlowMode.DENIED:
            counters.denials[flow.rule] += count
            return
        for stage in self._stages:
            try:
                allowed = int(stage.on_run(conn, FlowKey(flow.topic), count, end - start))
            except MqttError:
                raise
            except Exception as error:
                raise StageFailure(f"stage {stage.name} failed") from error
            if allowed < count:
                if allowed <= 0:
                    return
                end = _frames_end(data, start, allowed)
                count = allowed
        counters.publish_received += count
        route = flow.route
        chunk = data if end - start == len(data) else data[start:end]
        if conn.v5:
            if route.fast_5:
                self._fan_out(route.fast_5, chunk, count)
            if route.fast_3:
                self._fan_out(route.fast_3, from_5_to_3(chunk), count)
        else:
            if route.fast_3:
                self._fan_out(route.fast_3, chunk, count)
            if route.fast_5:
                self._fan_out(route.fast_5, from_3_to_5(chunk), count)

    def _fan_out(self, sessions: Sequence[SessionState], chunk: bytes, count: int) -> None:
        octets = len(chunk)
        dirty = self._round.dirty
        sent = 0
        for state in sessions:
            conn = state.connection
            if conn is None:
                continue
            total = conn.out_octets + octets
            if total > conn.out_octets_max:
                conn.drain(conn)
                total = conn.out_octets + octets
                if total > conn.out_octets_max:
                    sent += self._fitting(conn, chunk, count)
                    continue
            conn.out_octets = total
            conn.out.append(chunk)
            sent += count
            if not conn.dirty:
                conn.dirty = True
                dirty.append(conn)
        self._counters.publish_sent += sent

    def _fitting(self, conn: Connection, chunk: bytes, count: int) -> int:
        """Queue the frames that find room, from the first, and drop the others; gives how many were queued."""
        room = conn.out_octets_max - conn.out_octets
        fitting = end = 0
        while (following := _frame(chunk, end)[1]) <= room:  # never the last one: all together do not fit
            end = following
            fitting += 1
        if fitting:
            conn.write(chunk[:end])
        conn.dropped += count - fitting
        self._counters.dropped_out_queue += count - fitting
        return fitting


def _frame(data: bytes, pos: int) -> tuple[int, int]:
    """(body start, end) of a frame known to be whole."""
    length = 0
    shift = 0
    pos += 1
    while True:
        octet = data[pos]
        pos += 1
        length |= (octet & 0x7F) << shift
        if octet < 0x80:
            return pos, pos + length
        shift += 7


def _frames_end(data: bytes, pos: int, count: int) -> int:
    for _ in range(count):
        pos = _frame(data, pos)[1]
    return pos


def from_5_to_3(run: bytes) -> bytes:
    """MQTT 5 QoS 0 frames as MQTT 3 frames, without their properties."""
    out = bytearray()
    pos = 0
    while pos < len(run):
        start, end = _frame(run, pos)
        topic_end = start + 2 + (run[start] << 8 | run[start + 1])
        payload_start = topic_end + 1
        if run[topic_end]:
            length, payload_start = read_variable_byte_integer(run, topic_end, end)
            payload_start += length
        out.append(run[pos])
        out += encode_variable_byte_integer(end - start - (payload_start - topic_end))
        out += run[start:topic_end]
        out += run[payload_start:end]
        pos = end
    return bytes(out)


def from_3_to_5(run: bytes) -> bytes:
    """MQTT 3 QoS 0 frames as MQTT 5 frames with empty properties."""
    out = bytearray()
    pos = 0
    while pos < len(run):
        start, end = _frame(run, pos)
        topic_end = start + 2 + (run[start] << 8 | run[start + 1])
        out.append(run[pos])
        out += encode_variable_byte_integer(end - start + 1)
        out += run[start:topic_end]
        out.append(0)
        out += run[topic_end:end]
        pos = end
    return bytes(out)
