"""Several listeners at once, each with its own settings, over IPv4 and IPv6."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from acebroker_codec.packets import PacketType, Publish
from acebroker_middleware.connection import Connection
from acebroker_middleware.passwords import hash_password
from acebroker_middleware.stage import per_packet
from tests.harness import WireClient, broker_over_tcp
from trio_acebroker import Broker, BrokerConfig
from trio_acebroker.config import Authentication, Listener

Address = tuple[str, int]


@pytest.fixture(params=["raw", "pump"])
def shell(request: pytest.FixtureRequest) -> Any:
    return request.param


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")


class Serving:
    """A broker on these listeners."""

    def __init__(self, *listeners: Listener, **config: Any) -> None:
        fields = {"authentication": Authentication(anonymous=True), **config}
        self.stages = fields.pop("stages", ())
        self.broker = Broker(BrokerConfig(listeners=listeners, **fields), stages=self.stages)
        self.addresses: list[Address] = []
        self._nursery_manager = trio.open_nursery()

    async def __aenter__(self) -> Serving:
        self._nursery = await self._nursery_manager.__aenter__()
        self.addresses = await self._nursery.start(self.broker.serve)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._nursery.cancel_scope.cancel()
        await self._nursery_manager.__aexit__(*exception)


async def connack_of(address: Address, version: int, name: str) -> int:
    """The code with which a CONNECT is answered."""
    client = await WireClient.open_tcp(*address, version)
    async with client:
        return (await client.attempt_connect(name)).reason_code


async def test_each_speaks_the_versions_that_it_is_told(shell: Any) -> None:
    all_versions = Listener(port=0, shell=shell)
    only_5 = Listener(port=0, shell=shell, protocol_versions=(5,))  # type: ignore[arg-type]
    older = Listener(port=0, shell=shell, protocol_versions=(3, 4))  # type: ignore[arg-type]
    async with Serving(all_versions, only_5, older) as serving:
        answers = [
            [await connack_of(address, version, f"client{version}") for version in (3, 4, 5)]
            for address in serving.addresses
        ]
    assert answers == [[0, 0, 0], [1, 1, 0], [0, 0, 0x84]]


async def test_each_says_whether_anybody_may_come_in(shell: Any, tmp_path: Path) -> None:
    """Unset: on loopback, while nothing else says who may; what a listener says counts more."""
    users = tmp_path / "users"
    users.write_text(f"ann:{hash_password(b'secret', bytes(16))}\n")
    listeners = (Listener(port=0, shell=shell), Listener(port=0, shell=shell, anonymous=True))
    async with Serving(*listeners, authentication=Authentication()) as serving:
        assert [await connack_of(address, 5, "client") for address in serving.addresses] == [0, 0]
    with_users = Authentication(password_file=str(users))
    async with Serving(*listeners, authentication=with_users) as serving:
        assert [await connack_of(address, 5, "client") for address in serving.addresses] == [0x87, 0]
        assert await connack_of(serving.addresses[0], 4, "client") == 5
        client = await WireClient.open_tcp(*serving.addresses[0])
        async with client:
            await client.connect("client", username="ann", password=b"secret")


async def test_clients_of_all_of_them_meet(shell: Any) -> None:
    """And stages see where each came in."""
    seen = []

    @per_packet(PacketType.PUBLISH)
    def note(conn: Connection, packet: Publish) -> Publish:
        seen.append((conn.client_identifier, conn.listener, conn.peer.rpartition(":")[0]))
        return packet

    other: Any = "raw" if shell == "pump" else "pump"
    listeners = (Listener(port=0, shell=shell, name="front"), Listener(port=0, shell=other))
    async with Serving(*listeners, stages=[note]) as serving:
        a = await WireClient.open_tcp(*serving.addresses[0])
        b = await WireClient.open_tcp(*serving.addresses[1], 4)
        async with a, b:
            await a.connect("a")
            await b.connect("b")
            for client in (a, b):
                await client.subscribe("t", qos=1)
            await a.publish("t", b"from a", qos=1)
            await b.publish("t", b"from b", qos=1)
            for client in (a, b):
                for payload in (b"from a", b"from b"):
                    await client.expect_message("t", payload)
    assert seen == [("a", "front", "127.0.0.1"), ("b", "127.0.0.1:0", "127.0.0.1")]


@needs_ipv6
async def test_ipv4_and_ipv6_beside_one_another(shell: Any) -> None:
    """On one port number, which belongs to each of them alone: `::` does not take IPv4 too."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listeners = (Listener(host="127.0.0.1", port=port, shell=shell), Listener(host="::", port=port, shell=shell))
    seen = []

    @per_packet(PacketType.PUBLISH)
    def note(conn: Connection, packet: Publish) -> Publish:
        seen.append(conn.peer)
        return packet

    async with Serving(*listeners, stages=[note]) as serving:
        assert serving.addresses == [("127.0.0.1", port), ("::", port)]
        a, b = await WireClient.open_tcp("127.0.0.1", port), await WireClient.open_tcp("::1", port)
        async with a, b:
            await a.connect("a")
            await b.connect("b")
            await a.subscribe("t")
            await b.publish("t", b"over six")
            await a.expect_message("t", b"over six")
            await a.publish("u", b"")
            await a.expect_alive()
    assert seen[0].startswith("[::1]:")
    assert seen[1].startswith("127.0.0.1:")


@needs_ipv6
async def test_a_host_name_is_all_its_addresses(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one free port for both."""
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    serving = Serving(Listener(host="localhost", port=0, shell=shell))
    async with serving:
        monkeypatch.undo()
        (first, port), (second, same) = serving.addresses
        assert (first, second) == ("127.0.0.1", "::1")
        assert port == same > 0
        for address in serving.addresses:
            assert await connack_of(address, 5, "client") == 0


async def test_the_broker_gives_the_addresses_that_it_took(shell: Any) -> None:
    async with broker_over_tcp(listeners=(Listener(port=0, shell=shell),)) as (_, (host, port)):
        assert host == "127.0.0.1"
        assert port > 0
        assert await connack_of((host, port), 5, "client") == 0
