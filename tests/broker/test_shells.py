"""What shells promise beside MQTT, on both: hand-offs, ends, blocked sockets, fairness; nothing stays behind."""

from __future__ import annotations

import gc
import logging
import select
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from acebroker_codec import packets
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import PacketType, Publish
from acebroker_middleware.connection import CloseReason, Connection
from acebroker_middleware.errors import QuotaExceeded
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Message
from tests.harness import WireClient, broker_over_tcp, connected_over_tcp
from trio_acebroker import Limits, per_packet
from trio_acebroker.config import Listener
from trio_acebroker.runtime.connection import ConnectionTask

SHELLS = ("raw", "pump")

pytestmark = pytest.mark.parametrize("shell", SHELLS)


def listening(shell: str) -> tuple[Listener, ...]:
    return (Listener(port=0, shell=shell),)  # type: ignore[arg-type]


class Gate:
    """A stage that lets PUBLISH on `slow` wait until `open` is set, and counts who waits."""

    name = "gate"
    wants = frozenset({PacketType.PUBLISH})

    def __init__(self) -> None:
        self.open = trio.Event()
        self.waiting = trio.Event()
        self.cancelled = 0

    def on_batch(self, conn: Connection, batch: Batch) -> Any:
        if any(isinstance(packet, Publish) and packet.topic == "slow" for packet in batch):
            return self._later(batch)
        return batch

    async def _later(self, batch: Batch) -> Batch:
        self.waiting.set()
        try:
            await self.open.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return batch


async def test_a_hand_off_keeps_order_and_only_its_client_waits(shell: str) -> None:
    gate = Gate()
    async with broker_over_tcp(stages=[gate], listeners=listening(shell)) as (_, address):
        async with connected_over_tcp(address, "watcher") as watcher, connected_over_tcp(address, "slow") as slow:
            await watcher.subscribe("#", qos=1)
            await slow.send(Publish("slow", b"1", 1, packet_identifier=1))
            await gate.waiting.wait()
            await slow.send(Publish("after", b"2", 1, packet_identifier=2))
            async with connected_over_tcp(address, "other") as other:
                await other.send(Publish("other", b"3"))
                await watcher.expect(Publish, topic="other")
            gate.open.set()
            await watcher.expect(Publish, topic="slow")
            await watcher.expect(Publish, topic="after")
            await slow.expect(packets.Puback, packet_identifier=1)
            await slow.expect(packets.Puback, packet_identifier=2)
            await slow.expect_alive()


async def test_hand_offs_follow_one_another(shell: str) -> None:
    @per_packet(PacketType.PUBLISH)
    async def later(conn: Connection, packet: Publish) -> Publish:
        await trio.lowlevel.checkpoint()
        return packet

    async with broker_over_tcp(stages=[later], listeners=listening(shell)) as (_, address):
        async with connected_over_tcp(address, "a") as client:
            for number in range(1, 40):
                await client.send(Publish("t", b"", 1, packet_identifier=number))
                await client.expect(packets.Puback, packet_identifier=number)


async def test_an_end_from_outside_cancels_a_hand_off(shell: str) -> None:
    gate = Gate()
    async with broker_over_tcp(stages=[gate], listeners=listening(shell)) as (broker, address):
        async with connected_over_tcp(address, "slow") as slow:
            await slow.send(Publish("slow", b"1"))
            await gate.waiting.wait()
            broker.session.sessions["slow"].connection.end(QuotaExceeded("a test"))  # type: ignore[union-attr]
            await slow.expect_closed(ReasonCode.QUOTA_EXCEEDED)
        assert gate.cancelled == 1
        await gone(broker)


async def test_a_takeover_in_a_hand_off(shell: str) -> None:
    gate = Gate()
    async with broker_over_tcp(stages=[gate], listeners=listening(shell)) as (_, address):
        async with connected_over_tcp(address, "same") as first:
            await first.send(Publish("slow", b"1", 1, packet_identifier=1))
            await gate.waiting.wait()
            async with connected_over_tcp(address, "same") as second:
                await first.expect_closed(ReasonCode.SESSION_TAKEN_OVER)
                await second.expect_alive()


async def gone(broker: Any) -> None:
    """Wait until no connection is left."""
    with trio.fail_after(5):
        while broker.connections:
            await trio.lowlevel.checkpoint()


class Follower:
    """A stage that follows connections, with a child in each nursery."""

    name = "follower"
    wants: frozenset[PacketType] = frozenset()

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fail = trio.Event()

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        self.events.append(f"opened {conn.client_identifier}")
        nursery.start_soon(self._child)

    async def _child(self) -> None:
        try:
            await self.fail.wait()
            raise ValueError("a child fails")
        finally:
            self.events.append("child ended")

    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        self.events.append(f"closed {conn.client_identifier}")


async def test_stages_follow_a_connection_and_their_children_end_with_it(shell: str) -> None:
    stage = Follower()
    async with broker_over_tcp(stages=[stage], listeners=listening(shell)) as (broker, address):
        async with connected_over_tcp(address, "a") as client:
            await client.expect_alive()
            await client.disconnect()
        await gone(broker)
    assert stage.events == ["opened a", "child ended", "closed a"]


async def test_a_child_that_fails_ends_its_connection(shell: str, caplog: pytest.LogCaptureFixture) -> None:
    stage = Follower()
    async with broker_over_tcp(stages=[stage], listeners=listening(shell)) as (broker, address):
        async with connected_over_tcp(address, "a") as client:
            await client.expect_alive()
            stage.fail.set()
            await client.expect_closed(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
        await gone(broker)
    assert stage.events == ["opened a", "child ended", "closed a"]
    assert "a task of a stage failed" in caplog.text


async def test_a_blocked_client_gets_everything_that_was_queued(shell: str) -> None:
    """More than any socket buffer holds: the rest waits for the socket, in order."""
    limits = Limits(out_queue_bytes_max=64_000_000)
    async with broker_over_tcp(listeners=listening(shell), limits=limits) as (broker, address):
        async with connected_over_tcp(address, "slow") as slow, connected_over_tcp(address, "fast") as fast:
            await slow.subscribe("t")
            for number in range(300):
                await fast.send(Publish("t", number.to_bytes(4, "big") * 16_000))
            await fast.expect_alive()
            conn = broker.session.sessions["slow"].connection
            assert conn is not None and conn.blocked and conn.out_octets > 1_000_000
            for number in range(300):
                packet = await slow.expect(Publish)
                assert packet.payload[:4] == number.to_bytes(4, "big")
            await slow.expect_alive()
            assert not conn.blocked and not conn.out and not conn.out_octets


async def test_one_client_that_floods_does_not_keep_others_waiting(shell: str) -> None:
    """While one connection always has octets to read, another one's PINGREQ is answered between its batches."""
    async with broker_over_tcp(listeners=listening(shell)) as (_, address):
        flood = await trio.open_tcp_stream(*address)
        async with connected_over_tcp(address, "calm") as calm, trio.open_nursery() as nursery:
            flooding = WireClient(flood)
            await flooding.connect("flood")

            async def publish_without_end() -> None:
                batch = (b"\x30\x09\x00\x01f\x00" + b"x" * 5) * 20_000
                while True:
                    await flood.send_all(batch)

            nursery.start_soon(publish_without_end)
            for _ in range(20):
                await calm.expect_alive()
            nursery.cancel_scope.cancel()
        await flood.aclose()


async def test_what_fails_inside_ends_that_connection_only(
    shell: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_over_tcp(listeners=listening(shell)) as (broker, address):
        feed = broker.pipeline.feed

        def failing(conn: Connection, data: bytes) -> Any:
            if b"boom" in data:
                raise LookupError("in the pipeline itself")
            return feed(conn, data)

        monkeypatch.setattr(broker.pipeline, "feed", failing)
        async with connected_over_tcp(address, "a") as victim, connected_over_tcp(address, "b") as bystander:
            await victim.send(Publish("t", b"boom"))
            await victim.expect_closed(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
            await bystander.expect_alive()
        await gone(broker)
    assert "in the pipeline itself" in caplog.text


class Failing:
    """A stage that fails for what is delivered to `fragile`."""

    name = "failing"
    wants: frozenset[PacketType] = frozenset()

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        if conn.client_identifier == "fragile":
            raise LookupError("fragile")
        return batch


class Choosy(Gate):
    """The same, without a look at other topics."""

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.INSPECT if flow.topic == "slow" else Verdict.PASS


@pytest.mark.parametrize("waited_before", [False, True])
@pytest.mark.parametrize(
    "behind",
    [b"", b"\xff\0", b"\xe0\0", b"\x30\4\0\1u\0\x32\x09\0\4slow\0\7\0"],
    ids=["nothing", "malformed", "DISCONNECT", "a hand-off"],
)
async def test_a_connection_that_its_own_read_ended(shell: str, behind: bytes, waited_before: bool) -> None:
    """Its own message breaks its delivery; and then there is more in the same read."""
    gate = Choosy()
    async with broker_over_tcp(listeners=listening(shell), stages=[Failing(), gate]) as (broker, address):
        async with connected_over_tcp(address, "fragile") as fragile, connected_over_tcp(address, "other") as other:
            if waited_before:
                gate.open.set()
                await fragile.send(Publish("slow", b"", 1, packet_identifier=1))
                await fragile.expect(packets.Puback)
                gate.open = trio.Event()
            await fragile.subscribe("t")
            await fragile.send_raw(b"\x30\4\0\1t\0" + behind)
            await fragile.expect_closed(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
            await other.expect_alive()
        await gone(broker)
        if broker._pump is not None:
            await trio.testing.wait_all_tasks_blocked()
            assert not (broker._pump._tasks or broker._pump._work or broker._pump._parked or broker._pump._held)


async def test_connections_leave_nothing_for_the_garbage_collector(shell: str) -> None:
    def alive() -> int:
        return sum(isinstance(entry, Connection | ConnectionTask) for entry in gc.get_objects())

    async with broker_over_tcp(listeners=listening(shell)) as (broker, address):
        gc.collect()
        before = alive()  # what other tests hold
        gc.disable()
        try:
            for number in range(10):
                async with connected_over_tcp(address, f"c{number}") as client:
                    await client.subscribe("t")
                    await client.send(Publish("t", b"", 1, packet_identifier=9), packets.Disconnect())
                    await client.receive_raw_to_end()
            await gone(broker)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            assert alive() == before
        finally:
            gc.enable()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR)
    yield


def test_the_pump_is_for_platforms_with_epoll(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_acebroker.config.PUMP_POSSIBLE", False)
    assert hasattr(select, "epoll") and Listener(shell="auto").shell_name == "raw"
    if shell == "pump":
        with pytest.raises(Exception, match="epoll"):
            Listener(shell="pump")
