"""A broker that listens with TLS: real sockets, real clients, certificates that change, handshakes that never end."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from acebroker_codec.packets import Publish
from tests.broker.limits import limit
from tests.harness import WireClient, broker_over_tcp, connected
from tests.pki import Pki
from trio_acebroker import Broker, BrokerConfig, ConfigError, Limits
from trio_acebroker.config import Authentication, Listener, Tls


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made.issue("broker", "localhost", "127.0.0.1")
    made.issue("device")
    return made


def tls(pki: Pki, **options: object) -> Tls:
    files = {"certificate": str(pki.folder / "broker.pem"), "key": str(pki.folder / "broker.key")}
    return Tls(**files, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def connected_over_tls(
    pki: Pki, address: tuple[str, int], client_identifier: str, certificate: str = ""
) -> AsyncIterator[WireClient]:
    """A client of the standard library's TLS."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.set_alpn_protocols(["mqtt"])
    if certificate:
        context.load_cert_chain(pki.folder / f"{certificate}.pem", pki.folder / f"{certificate}.key")
    stream = await trio.open_ssl_over_tcp_stream(
        "localhost", address[1], https_compatible=True, ssl_context=context, happy_eyeballs_delay=0.01
    )
    client = WireClient(stream)
    async with client:
        await client.connect(client_identifier)
        yield client


async def test_clients_over_tls_and_without_meet(pki: Pki) -> None:
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),)) as (broker, address):
        async with connected_over_tls(pki, address, "a") as first:
            second = await connected(broker, "b")
            await first.subscribe("t", qos=1)
            for size in (0, 10, 200_000):
                await second.send(Publish("t", bytes(size)))
                await first.expect(Publish, payload=bytes(size))
            await first.send(Publish("t", b"from tls", 1, packet_identifier=3))
            assert {type(await first.receive()).__name__ for _ in range(2)} == {"Puback", "Publish"}
            conn = broker.session.sessions["a"].connection
            assert conn is not None and conn.tls is not None and conn.tls.version == "TLSv1.3"
            assert conn.tls.peer_certificate_sha256 is None
            await first.disconnect()


async def test_plain_mqtt_on_a_tls_listener_is_closed_and_nobody_else_notices(pki: Pki) -> None:
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),)) as (broker, address):
        async with connected_over_tls(pki, address, "a") as other:
            client = await WireClient.open_tcp(*address)
            await client.send_raw(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
            assert b"MQTT" not in await client.receive_raw_to_end()
            await client.aclose()
            await other.expect_alive()
        assert broker.counters.denials["tls: handshake"] == 1


async def test_a_handshake_that_does_not_end_is_cut(pki: Pki) -> None:
    limits = Limits(connect_timeout_seconds=0.3)
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),), limits=limits) as (_, address):
        client = await WireClient.open_tcp(*address)
        await client.send_raw(b"\x16\x03\x01\x02\x00\x01")
        with trio.fail_after(5):
            assert await client.receive_raw_to_end() == b""
        await client.aclose()


@limit("client_hello_bytes_max")
async def test_a_client_hello_that_is_too_long_is_cut_before_it_is_there(pki: Pki) -> None:
    limits = Limits(client_hello_bytes_max=2_000)
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),), limits=limits) as (broker, address):
        async with connected_over_tls(pki, address, "a") as other:
            client = await WireClient.open_tcp(*address)
            await client.send_raw(b"\x16\x03\x01\x08\x00\x01\x00\x20\x00" + bytes(2_044))  # 8,192 octets are to follow
            assert b"MQTT" not in await client.receive_raw_to_end()
            await client.aclose()
            await other.expect_alive()
        assert broker.counters.denials == {"tls: handshake": 1}


@limit("handshakes_max")
async def test_handshakes_at_one_time_are_bounded_and_all_get_their_turn(pki: Pki) -> None:
    limits = Limits(handshakes_max=2)
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),), limits=limits) as (broker, address):
        async with trio.open_nursery() as nursery:

            async def once(number: int) -> None:
                async with connected_over_tls(pki, address, f"c{number}") as client:
                    await client.expect_alive()

            for number in range(12):
                nursery.start_soon(once, number)
        assert broker.counters.connections_accepted == 12


async def test_a_client_certificate_reaches_the_stages(pki: Pki) -> None:
    options = tls(pki, client_ca=str(pki.ca), client_certificate="required")
    async with broker_over_tcp(listeners=(Listener(port=0, tls=options),)) as (broker, address):
        async with connected_over_tls(pki, address, "a", "device"):
            conn = broker.session.sessions["a"].connection
            assert conn is not None and conn.tls is not None
            assert conn.tls.peer_certificate_sha256 is not None and conn.tls.peer_public_key is not None
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            async with connected_over_tls(pki, address, "b"):
                pass


async def test_certificates_change_without_dropping_anybody(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),)) as (broker, address):
        async with connected_over_tls(pki, address, "old") as old:
            assert broker.reload_certificates(only_if_changed=True) == 0
            key = pki.folder / "broker.key"
            kept = key.read_text()
            key.write_text("nothing")
            assert broker.reload_certificates() == 0
            assert "broker.key" in caplog.text
            async with connected_over_tls(pki, address, "meanwhile") as meanwhile:
                await meanwhile.expect_alive()
            key.write_text(kept)
            other = Pki(pki.folder.parent / "other")
            for file in other.issue("broker", "localhost", "127.0.0.1"):
                shutil.copy(file, pki.folder)
            assert broker.reload_certificates(only_if_changed=True) == 1
            async with connected_over_tls(other, address, "new") as new:
                await new.expect_alive()
            await old.expect_alive()


def test_bad_files_are_told_before_anything_listens(pki: Pki, tmp_path: Path) -> None:
    config = BrokerConfig(
        listeners=(Listener(port=0, tls=Tls(certificate=str(tmp_path / "none.pem"), key="k")),),
        authentication=Authentication(anonymous=True),
    )
    with pytest.raises(ConfigError, match=r"none\.pem"):
        Broker(config)


def test_files_are_relative_to_the_configuration(pki: Pki) -> None:
    text = '[[listener]]\nanonymous = true\ntls = { certificate = "broker.pem", key = "broker.key" }\n'
    config = BrokerConfig.from_toml(text, str(pki.folder / "broker.toml"))
    assert config.listeners[0].tls == tls(pki)
    Broker(config)


def test_client_certificates_need_their_ca() -> None:
    with pytest.raises(ConfigError, match="client_ca"):
        Tls(certificate="c", key="k", client_certificate="required")
