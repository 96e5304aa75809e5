"""Pre-shared keys over the OpenSSL engine: both versions, what is refused, and the downgrade that nobody mentions."""

from __future__ import annotations

import contextlib

import pytest
from OpenSSL import SSL

from tests.broker.transports.test_tls_openssl import LABEL, client, only, shake_hands
from tests.pki import Pki
from trio_acebroker.transports.tls import TlsError
from trio_acebroker.transports.tls_openssl import OpenSslEngine, client_engine, server_context, server_engine
from trio_acebroker.transports.tls_psk import IDENTITIES_MAX, IDENTITY_BYTES_MAX, PreSharedKey, offer

KEY = b"k" * 32
VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost")
    return made


def server(pki: Pki) -> SSL.Context:
    return server_context(pki.folder / "broker.pem", pki.folder / "broker.key", pre_shared_keys=True)


def ends(
    pki: Pki, version: int, identity: bytes, key: bytes, known: dict[bytes, bytes], host: str = "localhost"
) -> tuple[OpenSslEngine, OpenSslEngine]:
    """A server that knows some keys, and a client that offers one."""
    context = only(version)(client(pki))
    if version == SSL.TLS1_2_VERSION:
        context.set_cipher_list(b"ECDHE-PSK-CHACHA20-POLY1305")
    offer(context, identity, key)
    return server_engine(server(pki), known.get), client_engine(context, host)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_known_key_names_the_client(pki: Pki, version: int) -> None:
    pair = ends(pki, version, b'{"cnf":{"kid":"a"}}', KEY, {b'{"cnf":{"kid":"a"}}': KEY})
    assert pair[0].psk_identity is None
    shake_hands(*pair)
    assert pair[0].psk_identity == b'{"cnf":{"kid":"a"}}'
    assert pair[0].peer_certificate_sha256 is None
    assert pair[0].export(LABEL, 32, b"") == pair[1].export(LABEL, 32, b"")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("required", [False, True])
def test_a_key_is_taken_where_certificates_are_asked_for(pki: Pki, version: int, required: bool) -> None:
    context = server_context(
        pki.folder / "broker.pem",
        pki.folder / "broker.key",
        client_ca=pki.ca,
        client_certificate_required=required,
        pre_shared_keys=True,
    )
    pair = server_engine(context, {b"a": KEY}.get), ends(pki, version, b"a", KEY, {})[1]
    shake_hands(*pair)
    assert pair[0].psk_identity == b"a"


def test_an_identity_may_be_a_whole_token_with_any_octets(pki: Pki) -> None:
    identity = bytes(range(256)) * (IDENTITY_BYTES_MAX // 256)
    pair = ends(pki, SSL.TLS1_3_VERSION, identity, b"x" * 64, {identity: b"x" * 64})
    shake_hands(*pair)
    assert pair[0].psk_identity == identity


def test_longer_ones_are_not_looked_up() -> None:
    state = PreSharedKey(lambda identity: KEY)
    assert state.key(bytes(IDENTITY_BYTES_MAX + 1)) is None
    assert state.asked is None
    assert state.key(b"a") == KEY
    assert "k" * 32 not in repr(state)


def test_a_client_that_tries_many_is_not_looked_up_for_ever() -> None:
    asked: list[bytes] = []
    state = PreSharedKey(asked.append)
    for number in range(100):
        assert state.key(str(number).encode()) is None
    assert len(asked) == 2 * IDENTITIES_MAX


@pytest.mark.parametrize("version", VERSIONS)
def test_another_key_ends_the_handshake(pki: Pki, version: int) -> None:
    pair = ends(pki, version, b"a", KEY, {b"a": b"other" * 8})
    with pytest.raises(TlsError):
        shake_hands(*pair)
    assert pair[0].psk_identity is None


def test_an_unknown_identity_is_an_anonymous_client(pki: Pki) -> None:
    """On TLS 1.3 OpenSSL goes on with the certificate; nobody may take that for the key."""
    pair = ends(pki, SSL.TLS1_3_VERSION, b"a", KEY, {})
    shake_hands(*pair)
    assert pair[0].psk_identity is None
    assert pair[1].peer_certificate_sha256 is not None


def test_an_unknown_identity_ends_tls_1_2_without_other_suites(pki: Pki) -> None:
    pair = ends(pki, SSL.TLS1_2_VERSION, b"a", KEY, {})
    with pytest.raises(TlsError):
        shake_hands(*pair)


def test_a_key_that_was_looked_up_and_not_used_names_nobody(pki: Pki) -> None:
    """The client insists on a suite of SHA-384, which an external key does not fit: it is dropped without a word."""
    asked: list[bytes] = []

    def find(identity: bytes) -> bytes | None:
        asked.append(identity)
        return KEY

    context = only(SSL.TLS1_3_VERSION)(client(pki))
    context.set_tls13_ciphersuites(b"TLS_AES_256_GCM_SHA384")
    offer(context, b"a", KEY)
    pair = server_engine(server(pki), find), client_engine(context, "localhost")
    try:
        shake_hands(*pair)
    except TlsError:
        return  # a library that refuses is fine too
    assert pair[0].psk_identity is None
    assert pair[1].peer_certificate_sha256 is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_look_up_that_fails_is_no_key(pki: Pki, version: int, caplog: pytest.LogCaptureFixture) -> None:
    def find(identity: bytes) -> bytes | None:
        raise LookupError("store")

    context = only(version)(client(pki))
    offer(context, b"a", KEY)
    pair = server_engine(server(pki), find), client_engine(context, "localhost")
    with contextlib.suppress(TlsError):
        shake_hands(*pair)
    assert pair[0].psk_identity is None
    if version == SSL.TLS1_3_VERSION:
        assert "could not be looked up" in caplog.text


def test_without_keys_of_its_own_a_listener_takes_none(pki: Pki) -> None:
    context = only(SSL.TLS1_3_VERSION)(client(pki))
    offer(context, b"a", KEY)
    listening = server_context(pki.folder / "broker.pem", pki.folder / "broker.key")
    pair = server_engine(listening), client_engine(context, "localhost")
    shake_hands(*pair)
    assert pair[0].psk_identity is None


@pytest.mark.parametrize(("identity", "key"), [(b"", KEY), (b"a", b""), (b"a", bytes(65)), (bytes(20_000), KEY)])
def test_sizes_that_cannot_be_offered(pki: Pki, identity: bytes, key: bytes) -> None:
    with pytest.raises(ValueError, match="are needed"):
        offer(client(pki), identity, key)
