"""The end of a broker: who is told what, what still leaves, for how long, and that nothing stays behind."""

from __future__ import annotations

import errno
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel

from acebroker_codec.packets import Connect, Disconnect, PacketType, Publish
from acebroker_middleware.connection import Connection
from acebroker_middleware.stage import Batch
from tests.broker.storage.waiting import WaitingStore
from tests.harness import WireClient, broker_running, connected, make, make_will, run_in_virtual_time, under_test
from trio_acebroker import Broker, BrokerConfig, CloseReason, Limits
from trio_acebroker.config import Authentication, Listener

virtual_time = pytest.mark.trio(run=run_in_virtual_time)


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[str]:
    under_test.choose(request.param)
    yield str(request.param)
    under_test.choose("raw")
    gc.collect()  # what was not closed complains now


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are wanted


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """No task and no file descriptor more than before."""
    tasks, files = trio.lowlevel.current_statistics().tasks_living, open_files()
    yield
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert open_files() <= files


def made(shell: str, **fields: Any) -> Broker:
    """A broker on a TCP port of its own."""
    config = {"listeners": (Listener(port=0, shell=shell),), "authentication": Authentication(anonymous=True)}  # type: ignore[arg-type]
    stages = fields.pop("stages", ())
    store = fields.pop("store", None)
    return Broker(BrokerConfig(**{**config, **fields}), stages=stages, store=store)


# --- who is told what --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_clients_are_told_in_the_way_of_their_version(shell: str, version: int) -> None:
    async with nothing_left():
        async with trio.open_nursery() as nursery:
            broker = made(shell)
            ((host, port),) = await nursery.start(broker.serve)
            client = await WireClient.open_tcp(host, port, version)
            await client.connect("client")
            unknown = await WireClient.open_tcp(host, port)
            half = await WireClient.open_tcp(host, port)
            await half.send_raw(b"\x10\x20\x00\x04MQ")
            while len(broker.connections) < 3:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        for other in (unknown, half):
            await other.expect_closed()
            await other.aclose()
        await client.expect_closed(0x8B)
        await client.aclose()
        with pytest.raises(OSError):
            await trio.open_tcp_stream(host, port)


@virtual_time
async def test_a_client_that_waits_for_a_stage_is_told_too() -> None:
    class Waits:
        name = "waits"
        wants = frozenset({PacketType.CONNECT, PacketType.PUBLISH})

        async def on_batch(self, conn: Connection, batch: Batch) -> Batch:
            if conn.connected or conn.client_identifier == "waits":
                await trio.sleep_forever()
            return batch

    async with broker_running(stages=[(Waits(), "authn")]) as broker:
        client = await connected(broker, "client")
        await client.publish("t", b"")
        connecting = await WireClient.open(broker)
        await connecting.send(make(Connect, client_identifier="waits"))
        await client.expect_silence()
        began = trio.current_time()
    assert trio.current_time() - began < 0.1
    await client.expect_closed(0x8B)
    await connecting.expect_refused(0x88)  # CONNACK has no 0x8B


@virtual_time
async def test_wills_and_sessions_at_the_end() -> None:
    """A Will goes out, also to subscribers that the same end closes; a session stays in the store."""
    store = WaitingStore()
    async with broker_running(store=store) as broker:
        subscriber = await connected(broker, "subscriber", session_expiry_interval=100)
        await subscriber.subscribe("will", qos=1)
        await connected(broker, "mourned", will=make_will("will", b"gone", qos=1))
    (kept,) = store.inner.sessions()
    assert (kept.client_identifier, kept.released) == ("subscriber", True)
    claim = store.inner.claim("subscriber", kept.identity, clean_start=False)
    assert [row.delivery.message.payload for row in store.inner.read("subscriber", claim.epoch, 0, 9)] == [b"gone"]


# --- what still leaves -------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("reads_after", [0.0, 3.0])
async def test_what_is_queued_leaves_while_the_client_reads(reads_after: float) -> None:
    """All of it, in order, with DISCONNECT behind it, though the client is slow: `drain_seconds_max` is 5 s."""
    received: list[Any] = []

    async def read(client: WireClient) -> None:
        await trio.sleep(reads_after)
        while (packet := await client.receive_or_end()) is not None:
            received.append(packet)

    async with trio.open_nursery() as nursery:
        async with broker_running(limits=Limits(out_queue_bytes_max=100_000_000)) as broker:
            client = await connected(broker, "client")
            await client.subscribe("t")
            for number in range(300):
                await broker.publish("t", b"%d" % number + bytes(50_000))
            (task,) = broker.connections
            assert task.conn.out_octets > 1_000_000
            nursery.start_soon(read, client)
    *messages, last = received
    assert last == Disconnect(0x8B)
    assert [message.payload.rstrip(b"\0") for message in messages] == [b"%d" % number for number in range(300)]


@virtual_time
@pytest.mark.parametrize("seconds", [2.5, 0.0])
async def test_who_does_not_read_is_cut(seconds: float) -> None:
    """At the bound, without keeping those who do."""
    limits = Limits(drain_seconds_max=seconds, out_queue_bytes_max=100_000_000)
    async with broker_running(limits=limits) as broker:
        stuck = [await connected(broker, f"stuck{number}") for number in range(3)]
        for client in stuck:
            await client.subscribe("t")
        reader = await connected(broker, "reader")
        for _ in range(300):
            await broker.publish("t", bytes(50_000))
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)
    await reader.expect_closed(0x8B)
    for client in stuck:
        packets = await client.drain()
        assert not any(isinstance(packet, Disconnect) for packet in packets)


# --- nothing stays -----------------------------------------------------------------------------


async def test_nothing_stays_behind(shell: str) -> None:
    """Clients in every state, subscriptions in process, connections in memory, timers."""
    async with nothing_left():
        clients: list[WireClient] = []
        async with trio.open_nursery() as nursery:
            broker = made(shell, store=WaitingStore())
            ((host, port),) = await nursery.start(broker.serve)
            for number in range(12):
                client = await WireClient.open_tcp(host, port, 4 if number % 2 else 5)
                clients.append(client)
                if number < 9:
                    await client.connect(f"{number}", keep_alive=9, will=make_will("w", b"x", qos=1))
                if number < 6:
                    await client.subscribe("#", "$share/g/#", qos=2)
                if number < 3:
                    await client.send(Publish("t", b"", 2, packet_identifier=7))
            memory = WireClient(await broker.connect())
            await memory.connect("memory")
            async with broker.subscribe("#"):
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
        for client in clients:
            await client.aclose()
        assert broker.connections == set()


async def test_a_broker_serves_once(shell: str) -> None:
    broker = made(shell)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.serve)
        with pytest.raises(RuntimeError, match="started before"):
            await broker.serve()
        assert await broker.publish("t", b"") == 0
        nursery.cancel_scope.cancel()
    with pytest.raises(RuntimeError, match="started before"):
        await broker.serve()
    with pytest.raises(RuntimeError, match="not serving"):
        await broker.connect()


@pytest.mark.parametrize("method", ["sweep", "retained", "sessions"])
async def test_a_broker_that_is_cancelled_while_it_starts(shell: str, method: str) -> None:
    """It waits for its store, and nobody can connect yet."""
    store = WaitingStore()
    store.hold(method)
    broker = made(shell, store=store)
    async with nothing_left():
        with trio.move_on_after(0.05):
            await broker.serve()
    assert store.calls[-1] == method


async def test_a_store_that_fails_at_the_start(shell: str) -> None:
    store = WaitingStore()
    store.fail("sessions", ConnectionError("no store"))
    broker = made(shell, store=store)
    async with nothing_left():
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match="no store"), allow_unwrapped=True):
            await broker.serve()


# --- plugins with resources --------------------------------------------------------------------


class Resource:
    """A stage that is an async context manager; `events` are shared by all."""

    wants: frozenset[PacketType] = frozenset()

    def __init__(self, name: str, events: list[str], *, fails: bool = False) -> None:
        self.name = name
        self._events = events
        self._fails = fails

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    async def __aenter__(self) -> Resource:
        await trio.lowlevel.checkpoint()
        if self._fails:
            raise LookupError(f"{self.name} has no database")
        self._events.append(f"enter {self.name}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._events.append(f"exit {self.name}")
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()

    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        await trio.lowlevel.checkpoint()
        self._events.append(f"{self.name} closed {conn.client_identifier}")


async def test_resources_live_as_long_as_the_broker_serves(shell: str) -> None:
    """From before anybody can connect until everybody has gone, the last one first."""
    events: list[str] = []
    broker = made(shell, stages=[Resource("one", events), Resource("two", events)])
    async with nothing_left():
        async with trio.open_nursery() as nursery:
            ((host, port),) = await nursery.start(broker.serve)
            assert events == ["enter one", "enter two"]
            client = await WireClient.open_tcp(host, port)
            await client.connect("client")
            nursery.cancel_scope.cancel()
        await client.aclose()
    assert events == ["enter one", "enter two", "one closed client", "two closed client", "exit two", "exit one"]


async def test_a_resource_that_is_not_there_starts_nothing(shell: str) -> None:
    events: list[str] = []
    broker = made(shell, stages=[Resource("one", events), Resource("two", events, fails=True)])
    async with nothing_left():
        with pytest.raises(LookupError, match="two has no database"):
            await broker.serve()
    assert events == ["enter one", "exit one"]


async def test_a_port_that_is_taken_lets_resources_go(shell: str) -> None:
    events: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = Listener(port=taken.getsockname()[1], shell=shell)  # type: ignore[arg-type]
        broker = made(shell, stages=[Resource("one", events)], listeners=(listener,))
        async with nothing_left():
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{listener.port}") as caught:
                await broker.serve()
    assert caught.value.errno == errno.EADDRINUSE
    assert events in ([], ["enter one", "exit one"])
