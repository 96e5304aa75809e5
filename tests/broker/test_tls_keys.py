"""Clients that show a key and no certificate, on the same listener as all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import trio
from OpenSSL import SSL

from acebroker_codec.packets import Publish
from tests.broker.test_tls import connected_over_tls, tls
from tests.broker.transports.test_tls_openssl import client, only
from tests.harness import broker_over_tcp
from tests.pki import Pki
from tests.tls_client import TlsClient, client_over
from trio_acebroker import Broker, BrokerConfig, ConfigError
from trio_acebroker.config import Authentication, Listener
from trio_acebroker.transports.tls import TlsError
from trio_acebroker.transports.tls_openssl import OpenSslEngine, client_engine
from trio_acebroker.transports.tls_psk import IDENTITY_BYTES_MAX, offer

LABEL = b"EXPORTER-ACE-MQTT-Sign-Challenge"
KEY = b"k" * 32


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost", "127.0.0.1")
    made.issue("device")
    return made


class Keys:
    """Some keys are known at once, others after a while."""

    def __init__(self, at_once: dict[bytes, bytes] | None = None, later: dict[bytes, bytes] | None = None) -> None:
        self.at_once = at_once or {}
        self.later = later or {}
        self.prepared: list[list[bytes]] = []
        self.may_answer = trio.Event()

    def find(self, identity: bytes) -> bytes | None:
        return self.at_once.get(identity)

    async def prepare(self, identities: Sequence[bytes]) -> Mapping[bytes, bytes]:
        self.prepared.append(list(identities))
        await self.may_answer.wait()
        return {identity: self.later[identity] for identity in identities if identity in self.later}


def psk_engine(pki: Pki, identity: bytes, key: bytes = KEY, version: int = SSL.TLS1_3_VERSION) -> OpenSslEngine:
    context = only(version)(client(pki))
    if version == SSL.TLS1_2_VERSION:
        context.set_cipher_list(b"ECDHE-PSK-CHACHA20-POLY1305")
    offer(context, identity, key)
    return client_engine(context, "localhost")


def listeners(pki: Pki) -> tuple[Listener, ...]:
    return (Listener(port=0, tls=tls(pki, pre_shared_keys=True)),)


def identity_of(broker: Broker, client_identifier: str) -> bytes | None:
    conn = broker.session.sessions[client_identifier].connection
    assert conn is not None and conn.tls is not None
    return conn.tls.psk_identity


async def test_an_identity_is_looked_up_while_others_are_served(pki: Pki) -> None:
    token = bytes(range(256)) * (IDENTITY_BYTES_MAX // 256)
    keys = Keys(later={token: KEY})
    async with broker_over_tcp(listeners=listeners(pki), psk_keys=keys) as (broker, address):
        async with connected_over_tls(pki, address, "bystander") as bystander, trio.open_nursery() as nursery:

            async def device() -> None:
                engine = psk_engine(pki, token)
                async with client_over(engine, address, "device") as client:
                    assert identity_of(broker, "device") == token
                    conn = broker.session.sessions["device"].connection
                    assert conn is not None and conn.tls is not None
                    assert conn.tls.export(LABEL, 32, b"") == engine.export(LABEL, 32, b"")
                    await client.send(Publish("t", b"by key"))
                    await bystander.expect(Publish, payload=b"by key")

            await bystander.subscribe("t")
            nursery.start_soon(device)
            while not keys.prepared:
                await bystander.expect_alive()
            assert keys.prepared == [[token]]
            assert identity_of(broker, "bystander") is None
            await bystander.expect_alive()
            keys.may_answer.set()


async def test_on_tls_1_2_what_is_known_at_once_is_found(pki: Pki) -> None:
    keys = Keys({b"kid": KEY}, later={b"later": KEY})
    async with broker_over_tcp(listeners=listeners(pki), psk_keys=keys) as (broker, address):
        async with client_over(psk_engine(pki, b"kid", version=SSL.TLS1_2_VERSION), address, "device"):
            assert identity_of(broker, "device") == b"kid"
        with pytest.raises(TlsError):
            await TlsClient.open(address, psk_engine(pki, b"later", version=SSL.TLS1_2_VERSION))
        assert not keys.prepared


async def test_an_unknown_identity_is_nobody_and_a_wrong_key_is_refused(pki: Pki) -> None:
    keys = Keys(later={b"known": KEY})
    keys.may_answer.set()
    async with broker_over_tcp(listeners=listeners(pki), psk_keys=keys) as (broker, address):
        async with client_over(psk_engine(pki, b"unknown"), address, "device"):
            assert identity_of(broker, "device") is None
        with pytest.raises(OSError):
            await TlsClient.open(address, psk_engine(pki, b"known", b"x" * 32))
        with trio.fail_after(5):
            while not broker.counters.denials["tls: handshake"]:
                await trio.lowlevel.checkpoint()


async def test_an_identity_that_is_too_long_is_not_looked_up(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_acebroker.transports.tls_psk.IDENTITY_BYTES_MAX", 2 * IDENTITY_BYTES_MAX)
    engine = psk_engine(pki, bytes(IDENTITY_BYTES_MAX + 1))
    monkeypatch.undo()
    keys = Keys()
    async with broker_over_tcp(listeners=listeners(pki), psk_keys=keys) as (broker, address):
        async with client_over(engine, address, "device"):
            assert identity_of(broker, "device") is None
    assert not keys.prepared


async def test_a_look_up_that_fails_ends_one_handshake(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Keys):
        async def prepare(self, identities: Sequence[bytes]) -> Mapping[bytes, bytes]:
            await trio.lowlevel.checkpoint()
            raise LookupError("the authorization server is away")

    async with broker_over_tcp(listeners=listeners(pki), psk_keys=Failing()) as (broker, address):
        with pytest.raises(OSError):
            await TlsClient.open(address, psk_engine(pki, b"a"))
        async with connected_over_tls(pki, address, "bystander") as bystander:
            await bystander.expect_alive()
        assert broker.counters.denials["tls: handshake"] == 1
    assert "is away" in caplog.text


def test_keys_that_nobody_knows_are_told_before_anything_listens(pki: Pki) -> None:
    config = BrokerConfig(listeners=listeners(pki), authentication=Authentication(anonymous=True))
    with pytest.raises(ConfigError, match="pre_shared_keys"):
        Broker(config)
    Broker(config, psk_keys=Keys())


async def test_a_listener_without_such_keys_asks_for_none(pki: Pki) -> None:
    keys = Keys({b"a": KEY})
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),), psk_keys=keys) as (broker, address):
        async with client_over(psk_engine(pki, b"a"), address, "device"):
            assert identity_of(broker, "device") is None
    assert not keys.prepared
