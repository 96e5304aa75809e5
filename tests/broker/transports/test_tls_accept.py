"""What comes before the handshake of an accepted connection: its ClientHello, and the choice of an engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.broker.limits import limit
from tests.broker.transports.test_tls_openssl import Below, client, established, receive, send, server
from tests.pki import Pki
from trio_acebroker.transports.client_hello import ClientHello
from trio_acebroker.transports.memory import MemoryClient, memory_connection
from trio_acebroker.transports.tls import TlsEngine, TlsError, TlsStream
from trio_acebroker.transports.tls_accept import AcceptedTlsStream
from trio_acebroker.transports.tls_openssl import client_engine, server_engine


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost")
    return made


def accepted(pki: Pki, bytes_max: int = 4_096) -> tuple[MemoryClient, AcceptedTlsStream, list[ClientHello]]:
    """The client's end below TLS, the accepted connection, and what it will have chosen by."""
    seen: list[ClientHello] = []

    async def choose(hello: ClientHello) -> TlsEngine:
        await trio.lowlevel.checkpoint()
        seen.append(hello)
        return server_engine(server(pki))

    far, near = memory_connection()
    return far, AcceptedTlsStream(near, choose, bytes_max), seen


async def test_the_engine_gets_what_was_read(pki: Pki) -> None:
    far, near, seen = accepted(pki)
    peer = TlsStream(Below(far._in, far._out), client_engine(client(pki), "localhost"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.establish)
            await near.greet()
            await near.establish()
    assert seen == [ClientHello()]
    await send(peer, b"there")
    assert await receive(near, 5, 100) == b"there"
    await send(near, b"and back")
    assert await receive(peer, 8, 100) == b"and back"


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "not a TLS handshake"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x20\x00", "of 8196 octets"),
        (b"\x16\x03\x01\x40\x00" + bytes(1), "does not begin with ClientHello"),
        (b"\x16\x03\x01\x40\x00\x01" + bytes(5_000), "within 4096 octets"),
    ],
)
async def test_what_begins_no_tls_gets_no_answer(pki: Pki, octets: bytes, why: str) -> None:
    far, near, seen = accepted(pki)
    await far.send_all(octets)
    with pytest.raises(TlsError, match=why):
        await near.greet()
    near.close()
    assert await far.receive_some() == b""
    assert not seen


@limit("client_hello_bytes_max")
async def test_a_client_hello_at_the_limit_and_beyond(pki: Pki) -> None:
    far, near, seen = accepted(pki, bytes_max=4_100)
    await far.send_all(b"\x16\x03\x01\x10\x04\x01\x00\x10\x00" + bytes(4_096))
    await near.greet()
    assert seen == [ClientHello()]
    far, near, seen = accepted(pki, bytes_max=4_099)
    await far.send_all(b"\x16\x03\x01\x10\x04\x01\x00\x10\x00" + bytes(4_096))
    with pytest.raises(TlsError, match="at most 4099"):
        await near.greet()
    assert not seen


async def test_a_connection_that_ends_before_its_client_hello(pki: Pki) -> None:
    far, near, _ = accepted(pki)
    await far.send_all(b"\x16\x03\x01")
    await far.aclose()
    with pytest.raises(TlsError, match="ended before"):
        await near.greet()


async def test_an_end_before_there_is_an_engine_is_harmless(pki: Pki) -> None:
    far, near, _ = accepted(pki)
    with pytest.raises(TlsError):
        near.tls.export(b"label", 32, b"")
    assert near.tls.peer_public_key is None
    with pytest.raises(TlsError):
        near.send_nowait(b"x")
    near.end_of_stream()
    near.close()
    assert await far.receive_some() == b""


async def test_a_choice_may_refuse(pki: Pki, tmp_path: Path) -> None:
    far, near = memory_connection()

    async def refuse(hello: ClientHello) -> TlsEngine:
        await trio.lowlevel.checkpoint()
        raise TlsError("not today")

    stream = AcceptedTlsStream(near, refuse, 4_096)
    peer = TlsStream(Below(far._in, far._out), client_engine(client(pki), "localhost"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(established, peer)
        with pytest.raises(TlsError, match="not today"):
            await stream.greet()
        nursery.cancel_scope.cancel()
