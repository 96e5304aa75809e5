"""Stage 1: octets to packets that may come now: framing, versions, limits, Topic Aliases, ack slots.

The pipeline calls `packet` for each frame that the flow cache did not take. What comes out has a
full Topic Name and obeys the protocol order; every QoS 1 and 2 PUBLISH and PUBREL has its ack slot.

Statements: [MQTT-3.1.0-1], [MQTT-3.1.0-2], [MQTT-3.1.2-24], [MQTT-3.3.2-8 .. -12], [MQTT-3.3.4-9], [MQTT-4.8.0-1].
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from acebroker_codec.decoder import check_direction, decode_ack, decode_packet, decode_publish
from acebroker_codec.errors import ProtocolViolation, ReasonCode, UnsupportedProtocolVersion
from acebroker_codec.packets import (
    NO_PUBLISH_PROPERTIES,
    Connect,
    Packet,
    PacketType,
    ProtocolVersion,
    Publish,
    Pubrel,
)
from acebroker_codec.protocol import State
from acebroker_codec.wire import read_variable_byte_integer
from acebroker_middleware.acks import AckQueue
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.flows import Verdict
from acebroker_middleware.stage import Batch

__all__ = ["FILTERS_MAX_MIN", "Decode"]

_SERVER: Final = "server"
#: packets that hold filters: octets of one beside its characters
_FILTERS_IN: Final[dict[int, int]] = {PacketType.SUBSCRIBE: 3, PacketType.UNSUBSCRIBE: 2}
#: filters of one packet that are taken, however few subscriptions a client may have
FILTERS_MAX_MIN: Final = 1_000


class Decode:
    """Stage 1. `on_batch` is never needed: its work is done frame by frame, before there is a batch."""

    name = "decode"
    wants = frozenset(PacketType)

    def __init__(self, round_: Round) -> None:
        self._limits = round_.limits
        self._topic_bytes_max = round_.limits.topic_bytes_max
        self._topic_levels_max = round_.limits.topic_levels_max
        self._filters_max = max(round_.limits.subscriptions_per_client_max, FILTERS_MAX_MIN)

    def plan(self, conn: Connection, flow: object) -> Verdict:
        """A frame of a known flow needs no more decoding."""
        return Verdict.PASS

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        """Everything was done in `packet`."""
        return batch

    def packet(self, conn: Connection, first_octet: int, data: bytes, start: int, end: int) -> Packet:
        """The packet in `data[start:end]`, checked and admitted. Raises MqttError for what must not come."""
        kind = first_octet >> 4
        if conn.connected:
            if kind == 3:
                publish = decode_publish(first_octet, data, start, end, conn.version)
                return self._admit_publish(conn, publish)
            if 4 <= kind <= 7:
                ack = decode_ack(first_octet, data, start, end, conn.version)
                if type(ack) is Pubrel:
                    conn.ack_queue.pubcomp.open.append(ack.packet_identifier)
                return ack
        if (kind == PacketType.CONNECT) is not (conn.protocol.state is State.AWAITING_CONNECT):
            raise ProtocolViolation(
                "a second CONNECT" if kind == PacketType.CONNECT else "the first packet is not CONNECT"
            )
        if conn.protocol.state is State.AWAITING_CONNACK:
            raise StageFailure("a stage dropped CONNECT")  # for it is answered before anything else is decoded
        if kind in _FILTERS_IN and end - start > 3 * self._filters_max:
            self._check_filters(conn, _FILTERS_IN[kind], data, start, end)
        packet = decode_packet(first_octet, data[start:end], conn.version)
        check_direction(packet, _SERVER, conn.version)
        conn.protocol.received(packet)
        if type(packet) is Connect:
            self._admit_connect(conn, packet)
        elif type(packet) is Publish:
            return self._admit_publish(conn, packet)
        elif type(packet) is Pubrel:
            conn.ack_queue.pubcomp.open.append(packet.packet_identifier)
        return packet

    def _admit_connect(self, conn: Connection, packet: Connect) -> None:
        conn.version = packet.version
        conn.v5 = packet.version is ProtocolVersion.MQTT_5
        if packet.version not in conn.protocol_versions:
            raise UnsupportedProtocolVersion(f"the listener does not take protocol version {int(packet.version)}")
        conn.ack_queue = AckQueue(packet.version, conn.write)
        conn.packet_bytes_max = packet.properties.maximum_packet_size
        conn.problem_information = packet.properties.request_problem_information != 0
        if packet.will is not None:
            self._check_topic(packet.will.topic)

    def _check_filters(self, conn: Connection, beside: int, data: bytes, start: int, end: int) -> None:
        """Filters by the hundred thousand are counted, and not even decoded."""
        pos = start + 2
        if conn.v5:
            length, pos = read_variable_byte_integer(data, pos, end)
            pos += length
        for _ in range(self._filters_max):
            if pos + 2 > end:
                return
            pos += beside + (data[pos] << 8 | data[pos + 1])
        if pos < end:
            raise ProtocolViolation("limit: filters of one packet", ReasonCode.QUOTA_EXCEEDED)

    def _check_topic(self, topic: str) -> None:
        octets = len(topic) if topic.isascii() else len(topic.encode())
        if octets > self._topic_bytes_max or topic.count("/") >= self._topic_levels_max:
            raise ProtocolViolation("limit: topic name", ReasonCode.TOPIC_NAME_INVALID)

    def _admit_publish(self, conn: Connection, packet: Publish) -> Publish:
        properties = packet.properties
        if properties is not NO_PUBLISH_PROPERTIES:
            check_direction(packet, _SERVER, conn.version)
            if properties.topic_alias is not None:
                topic = conn.receiving_aliases.resolve(packet.topic, properties.topic_alias)
                packet = replace(packet, topic=topic)
        self._check_topic(packet.topic)
        if packet.qos:
            acks = conn.ack_queue
            slots = acks.puback if packet.qos == 1 else acks.pubrec
            slots.open.append(packet.packet_identifier)
            outstanding = len(acks.puback.open) + len(acks.pubrec.open)
            if packet.qos == 2 or outstanding > conn.receive_max:
                self._check_receive_maximum(conn, outstanding)
        return packet

    @staticmethod
    def _check_receive_maximum(conn: Connection, outstanding: int) -> None:
        """`outstanding` slots are open. Raises ProtocolViolation 0x93 [MQTT-3.3.4-9]."""
        inbound = conn.session.inbound if conn.session is not None else {}
        if outstanding + len(inbound) <= conn.receive_max:
            return
        if outstanding <= conn.receive_max:  # what is sent again uses the place that it has already
            outstanding -= sum(1 for identifier in conn.ack_queue.pubrec.open if identifier in inbound)
        if outstanding + len(inbound) > conn.receive_max:
            raise ProtocolViolation(
                f"more than {conn.receive_max} unacknowledged publications", ReasonCode.RECEIVE_MAXIMUM_EXCEEDED
            )
