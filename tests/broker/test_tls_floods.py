"""Who begins a TLS connection and does not go on: bounded in time, number and octets, and nobody else notices."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
import trio

from acebroker_codec.packets import Publish
from tests.broker.test_tls import connected_over_tls, tls
from tests.broker.test_tls_keys import KEY, Keys, identity_of, psk_engine
from tests.broker.transports.test_client_hello import extension, hello, psk, record
from tests.harness import WireClient, broker_over_tcp
from tests.pki import Pki
from tests.tls_client import client_over
from trio_acebroker import Broker, Limits
from trio_acebroker.config import Listener
from trio_acebroker.runtime import handshake_slots

Address = tuple[str, int]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost", "127.0.0.1")
    return made


def client_hello() -> bytes:
    """As a client of the standard library begins."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@contextmanager
def many(address: Address, count: int, octets: bytes) -> AsyncIterator[list[socket.socket]]:
    """So many connections that send these octets and then nothing."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(address))
            sock.sendall(octets)
            made.append(sock)
        yield made


@asynccontextmanager
async def bystander_at(pki: Pki, **options: object) -> AsyncIterator[tuple[Broker, Address, WireClient]]:
    """A broker with a client that was there before."""
    async with broker_over_tcp(**{"listeners": (Listener(port=0, tls=tls(pki)),), **options}) as (broker, address):
        async with connected_over_tls(pki, address, "bystander") as bystander:
            await bystander.subscribe("t")
            yield broker, address, bystander
            await bystander.publish("t", b"still here")
            await bystander.expect(Publish, payload=b"still here")


async def denied(broker: Broker, count: int) -> None:
    """Return when so many handshakes have failed."""
    with trio.fail_after(20):
        while broker.counters.denials["tls: handshake"] < count:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("octets", [b"", b"\x16", client_hello()[:-1]], ids=["nothing", "an octet", "all but one"])
async def test_who_has_not_said_what_it_offers_holds_no_slot(pki: Pki, octets: bytes) -> None:
    async with bystander_at(pki, limits=Limits(handshakes_max=1)) as (broker, address, _):
        with many(address, 200, octets):
            async with connected_over_tls(pki, address, "new") as new:
                await new.expect_alive()
            while len(broker.connections) < 201:
                await trio.lowlevel.checkpoint()
        await denied(broker, 200)


async def test_handshakes_that_stall_give_way_to_others(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake_slots, "PATIENCE_SECONDS", 0.05)
    async with bystander_at(pki, limits=Limits(handshakes_max=4)) as (broker, address, bystander):
        with many(address, 40, client_hello()):
            while len(broker.connections) < 41:
                await bystander.expect_alive()
            async with connected_over_tls(pki, address, "new") as new:
                await new.expect_alive()
                await bystander.expect_alive()
            assert broker.counters.denials["tls: handshake"] >= 30


async def test_handshakes_that_stall_end_with_the_time_to_connect(pki: Pki) -> None:
    async with bystander_at(pki, limits=Limits(connect_timeout_seconds=1.0)) as (broker, address, bystander):
        with many(address, 40, client_hello()) as stalled:
            with trio.fail_after(20):
                while broker.counters.connections_accepted < 41 or len(broker.connections) > 1:
                    await bystander.expect_alive()
            for sock in stalled:
                sock.settimeout(5)
                while sock.recv(65_536):
                    pass


async def test_a_client_hello_without_end_is_cut(pki: Pki) -> None:
    async with bystander_at(pki, limits=Limits(client_hello_bytes_max=2_000)) as (broker, address, bystander):
        with many(address, 50, record(b"\x01\x00\x07\x00") + record(b"\x00") * 400):
            await denied(broker, 50)
        with many(address, 50, b"\x16\x03\x01\x40\x00\x01" + bytes(2_000)):
            await denied(broker, 100)
        await bystander.expect_alive()


async def test_many_octets_that_are_no_tls(pki: Pki) -> None:
    async with bystander_at(pki) as (broker, address, bystander):
        for number, octets in enumerate((b"\x10\x10\x00\x04MQTT", b"GET / HTTP/1.1\r\n", bytes(1_000)), 1):
            with many(address, 50, octets):
                await denied(broker, 50 * number)
            await bystander.expect_alive()


async def test_a_flood_of_identities(pki: Pki) -> None:
    """Each client tries five hundred: a few of them are looked up, in its own handshake."""

    class Counting(Keys):
        at_one_time = most = asked = 0

        async def prepare(self, identities: Sequence[bytes]) -> Mapping[bytes, bytes]:
            self.asked += len(identities)
            self.at_one_time += 1
            self.most = max(self.most, self.at_one_time)
            await trio.lowlevel.checkpoint()
            self.at_one_time -= 1
            return {identity: KEY for identity in identities if identity == b"known"}

    keys = Counting()
    options = (Listener(port=0, tls=tls(pki, pre_shared_keys=True)),)
    identities = psk(*(b"identity %d" % number for number in range(500)))
    octets = record(hello(extension(43, b"\x02\x03\x04") + extension(45, b"\x01\x01") + identities))
    async with bystander_at(pki, listeners=options, psk_keys=keys) as (broker, address, bystander):
        with many(address, 50, octets):
            await denied(broker, 50)
            async with client_over(psk_engine(pki, b"known"), address, "device"):
                assert identity_of(broker, "device") == b"known"
        assert keys.asked == 50 * 4 + 1
        await bystander.expect_alive()
