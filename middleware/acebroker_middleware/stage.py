"""The stage contract: what a module of the pipeline, built in or plugged in, provides.

A stage is any object with `name`, `wants` and `on_batch`. It may add more, and what it does not have
is never called:

    plan            decide once per (connection, topic); without it a stage that wants PUBLISH sees every
                    one (INSPECT), which is correct and slower
    on_run          count runs of cached frames; gives how many of them may pass
    on_deliver      see what goes out to one subscriber, and drop
    plan_deliver    decide that once per (subscriber, topic); without it each message is shown
    opened, closed  the life of a connection (async)

A batch is a list of packets in order. A stage returns what is to go on: the same list, another, or an
awaitable of it (a hand-off: this connection waits, nobody else does). It refuses one packet with
`conn.refuse` and leaves it out. It ends the connection by an MqttError: put in place of the packet, as
the last element of the list, everything before it is still handled; raised, what it has not passed on is
lost. A decode error is such a last element too: leave it where it is. Any other exception ends this
connection with 0x83, and is logged with the stage's name; out of the two deliver methods, it ends the
subscriber's connection.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Packet, PacketType
from acebroker_middleware.connection import CloseReason, Connection
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.hand_offs import stage_error
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.ports import Maybe

if TYPE_CHECKING:
    import trio

__all__ = ["Batch", "DeliverStage", "FlowStage", "Lifecycle", "PerPacket", "Stage", "per_packet", "plan_kind"]

#: packets in order; an MqttError can only be the last element
Batch = list[Packet | MqttError]


@runtime_checkable
class Stage(Protocol):
    """The least that a stage is."""

    #: unique in a pipeline; what logs and counters show
    name: str
    #: batches without any of these skip the stage
    wants: frozenset[PacketType]

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Take packets of one client; give those that go on."""
        ...


@runtime_checkable
class FlowStage(Stage, Protocol):
    """A stage that may decide once per (connection, topic) for PUBLISH of QoS 0 without properties.

    It sees those of QoS 1 and 2, and those with properties, whatever it decided.

    It may also have `on_run(conn, flow, count, octets) -> int`: called once per run of cached frames, of
    `count` packets and `octets` in all; gives how many of them, from the first, may pass.
    """

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        """The verdict that stands until the connection's flows are forgotten."""
        ...


@runtime_checkable
class DeliverStage(Stage, Protocol):
    """A stage that sees what goes out to one subscriber.

    It may also have `plan_deliver(conn, flow) -> Verdict`, which decides once per (subscriber, topic), and
    `plan_deliver_filter(conn, topic_filter) -> Verdict`, which decides for all topics that a filter selects: PASS
    where it has nothing against any of them, INSPECT where it wants to be asked topic by topic.
    """

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        """Give the messages that may be delivered, in order."""
        ...


class Lifecycle(Protocol):
    """A stage that follows the life of connections."""

    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        """CONNACK 0 was queued. Children started in `nursery` die with the connection, and it with them."""
        ...

    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        """The connection ended; at most one second, shielded from cancellation."""
        ...


def plan_kind(stage: Any) -> str:
    """How a stage treats flows, in a word for people: `plan`, `plan + on_run`, `inspect` or `-`."""
    if PacketType.PUBLISH not in stage.wants:
        return "-"
    if not hasattr(stage, "plan"):
        return "inspect"
    return "plan + on_run" if hasattr(stage, "on_run") else "plan"


PacketHandler = Callable[[Connection, Any], Any]


class PerPacket:
    """A stage made of one function for single packets; see `per_packet`."""

    def __init__(self, function: PacketHandler, wants: frozenset[PacketType], name: str | None = None) -> None:
        self.name: str = name if name is not None else getattr(function, "__name__", "per-packet")
        self.wants = wants
        self._function = function

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Call the function for each packet of the wanted types, in order."""
        out: Batch = []
        for index, packet in enumerate(batch):
            if isinstance(packet, MqttError) or packet.packet_type not in self.wants:
                out.append(packet)
                continue
            try:
                result = self._function(conn, packet)
            except Exception as error:
                out.append(stage_error(self.name, error))
                return out
            if inspect.isawaitable(result):
                return self._from(conn, batch[index:], result, out)
            if not self._taken(conn, packet, result, out):
                return out
        return out

    async def _from(self, conn: Connection, rest: Batch, first: Awaitable[Any], out: Batch) -> Batch:
        """The same, from the first packet whose function has to be awaited: `first` is what it gave."""
        result: Any = first
        for packet in rest:
            if isinstance(packet, MqttError) or packet.packet_type not in self.wants:
                out.append(packet)
                continue
            try:
                if result is None:
                    result = self._function(conn, packet)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:
                out.append(stage_error(self.name, error))
                return out
            if not self._taken(conn, packet, result, out):
                return out
            result = None
        return out

    def _taken(self, conn: Connection, packet: Packet, result: Any, out: Batch) -> bool:
        """Put what the function gave into `out`; False when that ends the batch."""
        if result is not None:
            out.append(result)
        elif conn.unanswered(packet):  # dropped without a word: everything behind it would wait for the answer
            try:
                conn.refuse(packet, ReasonCode.UNSPECIFIED_ERROR, self.name)
            except MqttError as error:
                out.append(error)
                return False
        return True


def per_packet(*types: PacketType, name: str | None = None) -> Callable[[PacketHandler], PerPacket]:
    """Make a stage of a function `(conn, packet) -> packet | None`, plain or async. None drops the packet.

    A PUBLISH of QoS 1 or 2 that is dropped without `conn.refuse` is refused with 0x80 and the stage's name: its client
    waits for an answer. The function is called for packets of `types` only, and sees every one of them.
    """
    if not types:
        raise ValueError("name at least one packet type")

    def make(function: PacketHandler) -> PerPacket:
        return PerPacket(function, frozenset(types), name)

    return make
