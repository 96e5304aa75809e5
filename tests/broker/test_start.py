"""A start that fails: one clear error, and nothing half-started - no address taken, no stage and no task left."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from acebroker_codec.packets import PacketType
from acebroker_middleware.connection import Connection
from acebroker_middleware.stage import Batch
from tests.harness import WireClient
from trio_acebroker import Broker, BrokerConfig
from trio_acebroker.cli import main
from trio_acebroker.config import Authentication, Listener
from trio_acebroker.storage.memory import MemoryStore


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as taken:
        return int(taken.getsockname()[1])


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def broker_on(*listeners: Listener, **arguments: Any) -> Broker:
    return Broker(BrokerConfig(listeners=listeners, authentication=Authentication(anonymous=True)), **arguments)


class Held:
    """A stage that has something open while the broker serves."""

    name = "held"
    wants: frozenset[PacketType] = frozenset()

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    async def __aenter__(self) -> None:
        self.events.append("entered")

    async def __aexit__(self, *_: object) -> None:
        self.events.append("left")


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports on which somebody listened, for however short a time."""
    ports: list[int] = []
    listen = socket.socket.listen

    def recorded(self: socket.socket, *backlog: int) -> None:
        listen(self, *backlog)
        ports.append(self.getsockname()[1])

    monkeypatch.setattr(socket.socket, "listen", recorded)
    return ports


@pytest.mark.parametrize("shell", ["raw", "pump"])
async def test_where_one_address_is_taken_nobody_listens_on_the_others(listened: list[int], shell: str) -> None:
    held = Held()
    first, third = free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        listeners = [Listener(port=port, shell=shell) for port in (first, taken, third)]  # type: ignore[arg-type]
        listened.clear()
        tasks = trio.lowlevel.current_statistics().tasks_living
        with pytest.RaisesGroup(OSError, allow_unwrapped=True, flatten_subgroups=True) as caught:
            await broker_on(*listeners, stages=[held]).serve()
    assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in message(caught.value)
    assert listened == []
    assert refused(first) and refused(third)
    assert held.events in ([], ["entered", "left"])
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_addresses_that_overlap_are_one_error() -> None:
    """Both can be taken, and only one listened on."""
    port = free_port()
    with pytest.RaisesGroup(OSError, allow_unwrapped=True, flatten_subgroups=True) as caught:
        await broker_on(Listener(port=port), Listener(host="0.0.0.0", port=port)).serve()
    assert "cannot listen on 0.0.0.0" in message(caught.value)
    assert refused(port)


async def test_an_unknown_host_is_one_error() -> None:
    port = free_port()
    with pytest.RaisesGroup(OSError, allow_unwrapped=True, flatten_subgroups=True) as caught:
        await broker_on(Listener(port=port), Listener(host="no-such-host.invalid", port=1)).serve()
    assert "cannot listen on no-such-host.invalid:1" in message(caught.value)
    assert refused(port)


async def test_clients_come_in_when_everything_is_ready() -> None:
    """While sessions of an earlier broker are loaded nobody listens, and a store that fails is the end of the start."""
    port = free_port()

    class Slow(MemoryStore):
        def sessions(self) -> Any:
            assert refused(port)
            raise LookupError("the store is broken")

    with pytest.RaisesGroup(LookupError, allow_unwrapped=True, flatten_subgroups=True):
        await broker_on(Listener(port=port), store=Slow()).serve()
    assert refused(port)
    broker = broker_on(Listener(port=port))
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(broker.serve)
        assert addresses == [("127.0.0.1", port)]
        async with await WireClient.open_tcp(*addresses[0]) as client:
            await client.connect("client")
        nursery.cancel_scope.cancel()
    assert refused(port)


@pytest.mark.parametrize(
    "text",
    [
        "[[listener]]\nport = 0\n",
        "[limits]\npacket_byte_max = 5",
        "[authentication]\nanonymous = true\n[authorization]\nacl_file = 'none'",
        "[authentication]\npassword_file = 'none'",
        "[authentication]\nanonymous = true\n[[stage]]\nuse = 'no-such-stage'",
        "[authentication]\nanonymous = true\n[[stage]]\nuse = 'rate-limit'",
        "x = [[[",
    ],
)
def test_a_bad_configuration_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listened: list[int], text: str
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(trio, "run", never)
    file = tmp_path / "broker.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["serve", "--config", str(file)])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert listened == []


def message(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return str(error)
