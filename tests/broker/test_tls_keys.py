"""Clients that show a key and no certificate, on the same listener as all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from OpenSSL import SSL

from acebroker_codec.packets import Publish
from tests.broker.test_tls import connected_over_tls, tls
from tests.broker.transports.gnutls import need_gnutls, public_key
from tests.broker.transports.test_tls_openssl import client, only
from tests.harness import broker_over_tcp
from tests.pki import Pki
from tests.tls_client import TlsClient, client_over
from trio_acebroker import Broker, BrokerConfig, ConfigError
from trio_acebroker.config import Authentication, Listener
from trio_acebroker.runtime.tls_identity import TlsIdentity
from trio_acebroker.transports import tls_gnutls
from trio_acebroker.transports.client_hello import ClientHello
from trio_acebroker.transports.gnutls_library import GnuTlsMissing
from trio_acebroker.transports.tls import TlsError
from trio_acebroker.transports.tls_gnutls import GnuTlsEngine
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


# ---- raw public keys ----


def raw_engine(
    pki: Pki, *, key: str | None = "device", more: str = "", expected: str | None = "broker"
) -> GnuTlsEngine:
    """A client that shows a raw public key and expects one, unless told otherwise."""
    context = tls_gnutls.client_context(pki.ca, key=None if key is None else pki.folder / f"{key}.key")
    if more:
        priorities = f"{tls_gnutls._COMMON}{more}"
        context.priorities = tls_gnutls.GnuTlsContext(context.gnutls, priorities).priorities
    server_key = None if expected is None else public_key(pki.folder / f"{expected}.key")
    return tls_gnutls.client_engine(context, "localhost", server_key)


def raw_listeners(pki: Pki, **options: object) -> tuple[Listener, ...]:
    return (Listener(port=0, tls=tls(pki, raw_public_keys=True, **options)),)


def proven(broker: Broker, client_identifier: str) -> tuple[str | None, bytes | None]:
    """The engine that serves a client, and the key it has shown."""
    conn = broker.session.sessions[client_identifier].connection
    assert conn is not None and conn.tls is not None
    return type(conn.tls).__name__, conn.tls.peer_public_key


ANONYMOUS = ":+CTYPE-SRV-RAWPK:+CTYPE-CLI-X509"
WITH_CERTIFICATE_OF_OURS = ":+CTYPE-SRV-X509:+CTYPE-CLI-RAWPK"


async def test_clients_of_all_kinds_meet_on_one_listener(pki: Pki) -> None:
    need_gnutls()
    device = public_key(pki.folder / "device.key")
    keys = Keys(later={b"token": KEY})
    keys.may_answer.set()
    engines = {
        "raw": (raw_engine(pki), "GnuTlsEngine", device),
        "raw 1.2": (raw_engine(pki, more=":-VERS-TLS1.3:+CTYPE-SRV-RAWPK:+CTYPE-CLI-RAWPK"), "GnuTlsEngine", device),
        "mixed": (raw_engine(pki, more=WITH_CERTIFICATE_OF_OURS, expected=None), "GnuTlsEngine", device),
        "anonymous": (raw_engine(pki, key=None, more=ANONYMOUS), "GnuTlsEngine", None),
        "psk": (psk_engine(pki, b"token"), "OpenSslEngine", None),
        "certificate": (client_engine(client(pki, "device"), "localhost"), "OpenSslEngine", device),
        "plain": (client_engine(client(pki), "localhost"), "OpenSslEngine", None),
    }
    options = raw_listeners(pki, pre_shared_keys=True, client_ca=str(pki.ca))
    async with broker_over_tcp(listeners=options, psk_keys=keys) as (broker, address):
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(client_over(engine, address, name))
                for name, (engine, _, _) in engines.items()
            }
            for name, (engine, kind, key) in engines.items():
                assert proven(broker, name) == (kind, key), name
                conn = broker.session.sessions[name].connection
                assert conn is not None and conn.tls is not None
                assert conn.tls.export(LABEL, 32, b"") == engine.export(LABEL, 32, b""), name
                await clients[name].subscribe("t")
            for size in (0, 10, 200_000):
                await clients["raw"].send(Publish("t", bytes(size)))
                for client_of_a_kind in clients.values():
                    await client_of_a_kind.expect(Publish, payload=bytes(size))
            for one in clients.values():
                await one.disconnect()


@pytest.mark.parametrize(
    ("types", "asked_for_raw_key"),
    [(b"\x02", True), (b"\x02\x00", True), (b"\x00\x02", False), (b"\x00", False), (b"", False)],
)
async def test_who_could_show_both_says_which(pki: Pki, types: bytes, asked_for_raw_key: bool) -> None:
    need_gnutls()
    both = TlsIdentity(tls(pki, raw_public_keys=True, client_ca=str(pki.ca)), 32_768)
    assert isinstance(await both._engine(ClientHello(types)), GnuTlsEngine) == asked_for_raw_key
    raw_only = TlsIdentity(tls(pki, raw_public_keys=True), 32_768)
    assert isinstance(await raw_only._engine(ClientHello(types)), GnuTlsEngine) == (2 in types)


async def test_a_required_certificate_may_be_a_raw_key_but_not_nothing(pki: Pki) -> None:
    need_gnutls()
    options = raw_listeners(pki, client_ca=str(pki.ca), client_certificate="required")
    async with broker_over_tcp(listeners=options) as (broker, address):
        async with client_over(raw_engine(pki), address, "device"):
            assert proven(broker, "device")[1] is not None
        with pytest.raises((OSError, trio.BrokenResourceError, AssertionError)):
            async with client_over(raw_engine(pki, key=None, more=ANONYMOUS), address, "nobody"):
                pass


async def test_without_raw_public_keys_nobody_gets_or_shows_one(pki: Pki) -> None:
    need_gnutls()
    engine = raw_engine(pki)
    async with broker_over_tcp(listeners=(Listener(port=0, tls=tls(pki)),)) as (broker, address):
        async with client_over(engine, address, "device"):
            assert proven(broker, "device") == ("OpenSslEngine", None)
            assert engine.peer_certificate_sha256 is not None


async def test_another_key_of_ours_is_in_use_after_a_reload(pki: Pki, tmp_path: Path) -> None:
    need_gnutls()
    other = Pki(tmp_path / "other")
    other.issue("broker", "localhost")
    other.issue("device")
    async with broker_over_tcp(listeners=raw_listeners(other)) as (broker, address):
        async with client_over(raw_engine(other), address, "old") as old:
            before = raw_engine(other)
            other.issue("broker", "localhost")
            assert broker.reload_certificates(only_if_changed=True) == 1
            with pytest.raises(TlsError):
                await TlsClient.open(address, before)
            async with client_over(raw_engine(other), address, "new") as new:
                await new.expect_alive()
            await old.expect_alive()


def test_a_library_that_is_missing_is_told_before_anything_listens(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise GnuTlsMissing("libgnutls.so.30 is not installed")

    monkeypatch.setattr("trio_acebroker.transports.tls_gnutls.library", missing)
    config = BrokerConfig(listeners=raw_listeners(pki), authentication=Authentication(anonymous=True))
    with pytest.raises(ConfigError, match=r"tls\.raw_public_keys: libgnutls\.so\.30 is not installed"):
        Broker(config)
