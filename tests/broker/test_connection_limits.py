"""Limits of connections: how many, from where, how fast, and what happens when the process has no room for more."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from acebroker_codec.encoder import encode
from acebroker_codec.packets import Connect, ProtocolVersion
from tests.broker.limits import limit
from tests.broker.serving import serving
from tests.harness import WireClient, broker_over_tcp, make, run_in_virtual_time
from trio_acebroker import Broker, BrokerConfig, Limits
from trio_acebroker.config import Authentication, Listener
from trio_acebroker.transports.memory import MemoryClient, MemoryStream, memory_connection
from trio_acebroker.transports.tcp import TcpListener

Address = tuple[str, int]


@pytest.fixture(params=["raw", "pump"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def connected_from(address: Address, name: str, source: str = "127.0.0.1") -> WireClient:
    """A client over TCP whose CONNECT was accepted, from one of this machine's loopback addresses."""
    client = await opened(address, source)
    await client.connect(name)
    return client


async def opened(address: Address, source: str = "127.0.0.1") -> WireClient:
    stream = await trio.open_tcp_stream(*address, local_address=source)
    return WireClient(stream)


async def refused(address: Address, source: str = "127.0.0.1") -> None:
    """A connection that is closed without a word."""
    client = await opened(address, source)
    async with client:
        await client.expect_closed()


async def left(broker: Broker, count: int) -> None:
    with trio.fail_after(5):
        while len(broker.connections) > count:
            await trio.lowlevel.checkpoint()


# --- how many ----------------------------------------------------------------------------------


@limit("connections_max")
async def test_connections_of_all_listeners_together(shell: str) -> None:
    listeners = (Listener(port=0, shell=shell, name="a"), Listener(port=0, shell=shell, name="b"))  # type: ignore[arg-type]
    async with broker_over_all(listeners, connections_max=3) as (broker, (a, b)):
        clients = [await connected_from(a, "1"), await connected_from(b, "2"), await connected_from(a, "3")]
        for address in (a, b):
            await refused(address)
        assert broker.counters.connections_refused == broker.counters.denials["limit: connections"] == 2
        for client in clients:
            await client.expect_alive()
        await clients[0].disconnect()
        await left(broker, 2)
        clients.append(await connected_from(b, "4"))
        for client in clients:
            await client.aclose()


async def test_connections_of_one_listener(shell: str) -> None:
    """`listener.connections_max`; the others have their own."""
    listeners = (Listener(port=0, shell=shell, name="a", connections_max=1), Listener(port=0, shell=shell, name="b"))  # type: ignore[arg-type]
    async with broker_over_all(listeners) as (broker, (a, b)):
        first = await connected_from(a, "1")
        await refused(a)
        assert broker.counters.denials == {"limit: connections of the listener": 1}
        others = [await connected_from(b, f"b{number}") for number in range(3)]
        await first.aclose()
        await left(broker, 3)
        for client in [await connected_from(a, "2"), *others]:
            await client.expect_alive()
            await client.aclose()


@limit("connections_per_address_max")
async def test_connections_from_one_address(shell: str) -> None:
    listeners = (Listener(port=0, shell=shell, name="a"), Listener(port=0, shell=shell, name="b"))  # type: ignore[arg-type]
    async with broker_over_all(listeners, connections_per_address_max=2) as (broker, (a, b)):
        clients = [await connected_from(a, "1"), await connected_from(b, "2")]
        for address in (a, b):
            await refused(address)
        assert broker.counters.denials == {"limit: connections per address": 2}
        clients += [await connected_from(a, "3", "127.0.0.2"), await connected_from(b, "4", "127.0.0.2")]
        await refused(a, "127.0.0.2")
        await clients[0].disconnect()
        await left(broker, 3)
        clients.append(await connected_from(a, "5"))
        for client in clients:
            await client.aclose()
        await left(broker, 0)
        assert not broker._per_address, "nothing is remembered of who has gone"


@limit("unauthenticated_max")
async def test_connections_that_have_not_said_who_they_are(shell: str) -> None:
    """They are limited apart: those that are clients do not count, and go on."""
    listeners = (Listener(port=0, shell=shell),)  # type: ignore[arg-type]
    async with broker_over_all(listeners, unauthenticated_max=2) as (broker, (address,)):
        known = [await connected_from(address, f"{number}") for number in range(5)]
        silent = [await opened(address), await opened(address)]
        with trio.fail_after(5):
            while len(broker.connections) < 7:
                await trio.lowlevel.checkpoint()
        await refused(address)
        assert broker.counters.denials == {"limit: unauthenticated connections": 1}
        await silent[0].connect("no longer")
        known.append(await connected_from(address, "now"))
        for client in known:
            await client.expect_alive()
        for client in (*known, *silent):
            await client.aclose()


@asynccontextmanager
async def broker_over_all(
    listeners: tuple[Listener, ...], **limits: Any
) -> AsyncIterator[tuple[Broker, list[Address]]]:
    """A broker on several listeners; gives it and their addresses."""
    config = BrokerConfig(listeners=listeners, authentication=Authentication(anonymous=True), limits=Limits(**limits))
    broker = Broker(config)
    async with trio.open_nursery() as nursery:
        yield broker, await nursery.start(broker.serve)
        nursery.cancel_scope.cancel()


# --- how fast, and out of room, with a listener that does as it is told --------------------------


class ListenerDouble:
    """Connections and errors that come when a test says so."""

    def __init__(self) -> None:
        self.address = ("127.0.0.1", 0)
        self.queue: deque[MemoryStream | OSError] = deque()
        self.accepted = 0
        self.listening = self.closed = False
        self._come = trio.lowlevel.ParkingLot()

    def connect(self) -> MemoryClient:
        client, stream = memory_connection()
        self.queue.append(stream)
        self._come.unpark_all()
        return client

    def fail(self, error: OSError) -> None:
        self.queue.append(error)
        self._come.unpark_all()

    def listen(self) -> None:
        self.listening = True

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.queue:
            await self._come.park()

    def accept(self) -> Iterator[MemoryStream]:
        while self.queue:
            first = self.queue.popleft()
            if isinstance(first, OSError):
                raise first
            self.accepted += 1
            yield first

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def broker_over_doubles(
    patch: pytest.MonkeyPatch, count: int = 1, **limits: Any
) -> AsyncIterator[tuple[Broker, list[ListenerDouble]]]:
    """A broker that listens by doubles."""
    doubles = [ListenerDouble() for _ in range(count)]
    listeners = tuple(Listener(port=number, shell="raw") for number in range(1, count + 1))
    patch.setattr("trio_acebroker.runtime.broker.open_listener", lambda _, port: [doubles[port - 1]])
    async with broker_over_all(listeners, **limits) as (broker, _):
        assert all(double.listening for double in doubles)
        yield broker, doubles
    assert all(double.closed for double in doubles)


@limit("accept_rate_max")
@pytest.mark.trio(run=run_in_virtual_time)
async def test_connections_that_come_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's worth at once, then no more than that a second; nobody is refused, and each listener has its own."""
    async with broker_over_doubles(monkeypatch, 2, accept_rate_max=10) as (_, (busy, calm)):
        for _ in range(35):
            busy.connect()
        for seconds, accepted in ((0.01, 10), (1.0, 20), (0.5, 25), (1.2, 35)):
            await trio.sleep(seconds)
            assert abs(busy.accepted - accepted) <= 1
        calm.connect()
        await trio.sleep(0.01)
        assert calm.accepted == 1
        await trio.sleep(10)
        for _ in range(35):
            busy.connect()
        await trio.sleep(0.01)
        assert busy.accepted == 45, "what was not used is not saved up"


@pytest.mark.trio(run=run_in_virtual_time)
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_no_room_for_another_socket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    """Accepting rests for half a second and goes on; clients that are there, and other listeners, do not notice."""
    async with broker_over_doubles(monkeypatch, 2) as (_, (full, other)):
        there = WireClient(full.connect())
        await there.connect("there")
        with caplog.at_level(logging.ERROR, "trio_acebroker"):
            full.fail(OSError(error, os.strerror(error)))
            waiting = full.connect()
            await trio.sleep(0.49)
        assert full.accepted == 1
        (record,) = caplog.records
        assert record.getMessage() == f"cannot accept on 127.0.0.1:1: [Errno {error}] {os.strerror(error)}"
        await there.expect_alive()
        await WireClient(other.connect()).connect("elsewhere")
        await trio.sleep(0.02)
        assert full.accepted == 2
        await WireClient(waiting).connect("late")


def raising(error: int) -> Callable[[], Any]:
    def accept() -> Any:
        raise OSError(error, os.strerror(error))

    return accept


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_listener_says_that_there_is_no_room(error: int) -> None:
    class Full:
        accept = staticmethod(raising(error))

    with pytest.raises(OSError, match=os.strerror(error)):
        next(TcpListener(Full()).accept())  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_a_connection_that_has_gone_before_it_was_accepted_is_skipped(error: int) -> None:
    """And a listener where everybody has does not keep others waiting."""
    here, there = socket.socketpair()
    outcomes: list[Any] = [OSError(error, ""), (here, ("127.0.0.1", 9)), *[OSError(error, "")] * 1_000]

    class Flapping:
        @staticmethod
        def accept() -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, OSError):
                raise outcome
            return outcome

    (stream,) = TcpListener(Flapping()).accept()  # type: ignore[arg-type]
    assert stream.peer == "127.0.0.1:9"
    assert len(outcomes) > 900
    stream_closed(stream)
    there.close()


def stream_closed(stream: Any) -> None:
    async def close() -> None:
        stream.close()

    trio.run(close)


async def test_a_storm_of_connections_is_served_in_pieces(shell: str) -> None:
    """All are accepted, and those that are there already are answered meanwhile."""
    async with broker_over_tcp(listeners=(Listener(port=0, shell=shell),)) as (broker, address):  # type: ignore[arg-type]
        there = await connected_from(address, "there")
        storm = [await opened(address) for _ in range(300)]
        await there.expect_alive()
        with trio.fail_after(10):
            while len(broker.connections) < 301:
                await trio.lowlevel.checkpoint()
        await there.expect_alive()
        for client in (there, *storm):
            await client.aclose()


CONNECT = encode(make(Connect, client_identifier="", version=ProtocolVersion.MQTT_3_1_1), ProtocolVersion.MQTT_3_1_1)


def test_a_process_that_runs_out_of_files(tmp_path: Path) -> None:
    """Clients that are there go on, those that come wait in the kernel, and get in when somebody leaves."""
    configuration = tmp_path / "broker.toml"
    configuration.write_text("[[listener]]\nport = 0\n[authentication]\nanonymous = true\n")
    with serving("--config", str(configuration)) as broker, contextlib.ExitStack() as stack:
        broker.until("listening on")
        pid = broker.process.pid
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + 5, files + 5))

        def client() -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", broker.ports[0]), timeout=10))
            sock.sendall(CONNECT)
            return sock

        inside = [client() for _ in range(5)]
        for sock in inside:
            assert sock.recv(4) == b"\x20\x02\x00\x00"
        outside = [client() for _ in range(3)]
        broker.until("cannot accept")
        for sock in inside:
            sock.sendall(b"\xc0\x00")
            assert sock.recv(2) == b"\xd0\x00"
        for leaving, coming in zip(inside, outside, strict=False):
            leaving.close()
            assert coming.recv(4) == b"\x20\x02\x00\x00"
        assert "Traceback" not in broker.stop()
