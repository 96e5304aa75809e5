"""Drive one stage by hand: a Connection that records, without a broker, a socket or an event loop.

    conn = RecordingConnection(version=5)
    fed = conn.feed(stage, Publish("secret/x", b"...", qos=1, packet_identifier=7))
    assert fed.passed == []
    assert fed.wrote == [Puback(7, ReasonCode.NOT_AUTHORIZED)]

`feed` does what the pipeline does around a stage: it opens the acknowledgement slots that decode opens, skips a
stage that wants none of the packets, and takes the error apart that ends the connection. `plan`, `run`,
`plan_deliver` and `deliver` ask in the same way what the flow cache and the deliver direction ask. Time
stands still until `conn.clock` is moved.

An awaitable that has nothing to wait for is finished on the spot; a stage that really waits is driven by
`feed_async`, inside Trio. `opened` and `closed` of a stage take a nursery: await them yourself.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any, TypeVar

from msgspec import Struct

from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Packet, PacketType, ProtocolVersion, Publish, Pubrel
from acebroker_middleware.acks import AckQueue
from acebroker_middleware.acl import OpenAuthority
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.observe import Counters
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.ports import Authority, Identity, Maybe
from acebroker_middleware.state.session_state import SessionState

__all__ = ["Fed", "RecordingConnection", "Refusal", "SetClock"]

T = TypeVar("T")


class SetClock:
    """A `Clock` that stands still until it is moved."""

    def __init__(self, now: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self.now = now
        self.wall = wall

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.wall += seconds


class Refusal(Struct, frozen=True):
    """One call of `Connection.refuse`. `index` is that of a filter, where one of a SUBSCRIBE was refused."""

    packet: Packet
    reason_code: ReasonCode
    rule: str
    index: int | None = None


class Fed(Struct, frozen=True):
    """What a stage made of a batch.

    `passed` goes on to the next stage; `error` ends the connection, raised or put behind `passed`; `wrote`
    is what the client got since it was last looked at; `refused` are the refusals of this batch.
    """

    passed: list[Packet]
    error: MqttError | None
    wrote: list[Packet]
    refused: list[Refusal]


class RecordingConnection(Connection):
    """A Connection for tests of stages, after CONNACK 0 unless `connected` is False.

    `authority` grants everything but topics that begin with `$` where none is given; `session` is an
    empty SessionState. `round_` is that of another RecordingConnection, for two clients of one broker: clock,
    limits and counters are then shared. `options` are those of Connection.

    `refusals` are all calls of `refuse`, `ended` the error that `end` was called with.
    """

    __slots__ = ("_decoder", "clock", "ended", "refusals")

    def __init__(
        self,
        version: int = 5,
        *,
        client_identifier: str = "client",
        identity: Identity | None = None,
        authority: Authority | None = None,
        limits: Limits | None = None,
        round_: Round | None = None,
        connected: bool = True,
        **options: Any,
    ) -> None:
        if round_ is None:
            round_ = Round(SetClock(), Limits() if limits is None else limits, Counters())
        super().__init__(round_, **options)
        if not isinstance(round_.clock, SetClock):
            raise TypeError("a recording connection needs a clock that can be set")
        self.clock = round_.clock
        self.refusals: list[Refusal] = []
        self.ended: MqttError | None = None
        self._decoder: Decoder | None = None
        self.end = self._end
        if not connected:
            return
        self.version = ProtocolVersion(version)
        self.v5 = self.version is ProtocolVersion.MQTT_5
        self.ack_queue = AckQueue(version, self.write)
        self.connected = True
        self.client_identifier = client_identifier
        self.identity = Identity("anonymous", client_identifier) if identity is None else identity
        self.authority = OpenAuthority() if authority is None else authority
        self.session = SessionState(client_identifier, self.identity)
        self.session.connection = self

    def refuse(self, packet: Packet, reason_code: ReasonCode, rule: str, index: int | None = None) -> None:
        """Refuse as every Connection does, and remember it."""
        self.refusals.append(Refusal(packet, reason_code, rule, index))
        super().refuse(packet, reason_code, rule, index)

    def _end(self, error: MqttError) -> None:
        if self.ended is None:
            self.ended = error

    def written(self) -> list[Packet]:
        """What the client got since the last call, decoded. AssertionError for what no client would take."""
        octets = b"".join(self.out)
        self.out.clear()
        self.out_octets = 0
        if self.dirty:
            self.dirty = False
            self.round.dirty.remove(self)
        if self._decoder is None:
            self._decoder = Decoder(version=self.version, role="client")
        packets: list[Packet] = []
        for packet in self._decoder.feed(octets):
            if isinstance(packet, MqttError):
                raise AssertionError(f"this is no packet for a client: {packet.detail}") from packet
            packets.append(packet)
        return packets

    # ---- from the client ----

    def feed(self, stage: Any, *packets: Packet | MqttError) -> Fed:
        """Give a stage one batch. What is no MqttError comes out as it is; RuntimeError for a stage that waits.

        AssertionError when the stage drops a packet whose acknowledgement then never leaves: it has to be refused.
        """
        before = len(self.refusals)
        try:
            result = _finished(self._offered(stage, packets))
        except MqttError as error:
            return self._fed([error], before)
        return self._checked(packets, self._fed(result, before))

    async def feed_async(self, stage: Any, *packets: Packet | MqttError) -> Fed:
        """`feed` for a stage that really waits."""
        before = len(self.refusals)
        try:
            pending = self._offered(stage, packets)
            result = await pending if inspect.isawaitable(pending) else pending
        except MqttError as error:
            return self._fed([error], before)
        return self._checked(packets, self._fed(result, before))

    def _offered(self, stage: Any, packets: tuple[Packet | MqttError, ...]) -> Maybe[Batch]:
        for packet in packets:
            if isinstance(packet, Publish) and packet.qos:
                slots = self.ack_queue.puback if packet.qos == 1 else self.ack_queue.pubrec
                slots.open.append(packet.packet_identifier)
            elif isinstance(packet, Pubrel):
                self.ack_queue.pubcomp.open.append(packet.packet_identifier)
        if not any(isinstance(packet, Packet) and packet.packet_type in stage.wants for packet in packets):
            return list(packets)
        result: Maybe[Batch] = stage.on_batch(self, list(packets))
        return result

    def _fed(self, result: Batch, before: int) -> Fed:
        error = result[-1] if result and isinstance(result[-1], MqttError) else None
        passed = [packet for packet in result if isinstance(packet, Packet)]
        if len(passed) + (error is not None) != len(result):
            raise AssertionError("an error stands before other packets")
        return Fed(passed, error, self.written(), self.refusals[before:])

    def _checked(self, packets: tuple[Packet | MqttError, ...], fed: Fed) -> Fed:
        if fed.error is None:
            passed = {packet.packet_identifier for packet in fed.passed if isinstance(packet, Publish | Pubrel)}
            for packet in packets:
                if isinstance(packet, Publish | Pubrel) and packet.packet_identifier not in passed:
                    if self.unanswered(packet):
                        raise AssertionError(f"{packet} was dropped, and not refused: its acknowledgement never leaves")
        return fed

    def plan(self, stage: Any, topic: str) -> Verdict:
        """What the flow cache makes of a stage for QoS 0 PUBLISH on a topic: without `plan`, INSPECT."""
        if PacketType.PUBLISH not in stage.wants:
            return Verdict.PASS
        return stage.plan(self, FlowKey(topic)) if hasattr(stage, "plan") else Verdict.INSPECT

    def run(self, stage: Any, topic: str, count: int, octets: int) -> int:
        """How many of a run of `count` cached frames, `octets` in all, the stage lets pass."""
        passed: int = stage.on_run(self, FlowKey(topic), count, octets) if hasattr(stage, "on_run") else count
        return passed

    # ---- to the client ----

    def plan_deliver(self, stage: Any, topic: str) -> Verdict:
        """What the deliver direction makes of a stage for a topic: without `plan_deliver`, INSPECT."""
        if not hasattr(stage, "on_deliver"):
            return Verdict.PASS
        return stage.plan_deliver(self, FlowKey(topic)) if hasattr(stage, "plan_deliver") else Verdict.INSPECT

    def deliver(self, stage: Any, *messages: Message) -> list[Message]:
        """What this client gets of messages, one after the other, in the stage's opinion."""
        delivered: list[Message] = []
        for message in messages:
            verdict = self.plan_deliver(stage, message.topic)
            if verdict is Verdict.PASS:
                delivered.append(message)
            elif verdict is Verdict.INSPECT:
                delivered += stage.on_deliver(self, [message])
        return delivered


def _finished(pending: Maybe[T]) -> T:
    """The result of an awaitable that has nothing to wait for."""
    if not inspect.isawaitable(pending):
        return pending
    steps = _awaited(pending)
    try:
        steps.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    steps.close()
    raise RuntimeError("the stage waits for something: use feed_async")


async def _awaited(pending: Awaitable[T]) -> T:
    return await pending
