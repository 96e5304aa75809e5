"""The GnuTLS engine: raw public keys both ways, both versions, and what each end refuses."""

from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL

from tests.broker.transports.gnutls import need_gnutls, public_key
from tests.broker.transports.test_tls_openssl import LABEL, only, shake_hands
from tests.pki import Pki
from trio_acebroker.transports import tls_gnutls, tls_openssl
from trio_acebroker.transports.gnutls_library import GnuTlsMissing, library
from trio_acebroker.transports.tls import TlsError, TlsFilesError, WantRead
from trio_acebroker.transports.tls_gnutls import (
    GnuTlsContext,
    GnuTlsEngine,
    client_context,
    client_engine,
    server_context,
    server_engine,
)

VERSIONS = ["TLSv1.2", "TLSv1.3"]


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    need_gnutls()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost", "127.0.0.1")
    made.issue("device")
    return made


def server(pki: Pki) -> GnuTlsContext:
    return server_context(pki.folder / "broker.pem", pki.folder / "broker.key")


def limited(context: GnuTlsContext, version: str, more: str = "") -> GnuTlsContext:
    """The same context for one version, or with other priorities behind it."""
    only = {"TLSv1.2": "-VERS-TLS1.3", "TLSv1.3": "-VERS-TLS1.2"}[version]
    other = GnuTlsContext(
        context.gnutls, f"{tls_gnutls._COMMON}:{only}:+CTYPE-SRV-RAWPK:+CTYPE-SRV-X509:+CTYPE-CLI-RAWPK{more}"
    )
    context.priorities = other.priorities
    return context


def ends(pki: Pki, version: str = "TLSv1.3", *, host: str = "localhost") -> tuple[GnuTlsEngine, GnuTlsEngine]:
    """A server, and a client that expects its key and shows its own."""
    context = limited(client_context(pki.ca, key=pki.folder / "device.key"), version)
    expected = public_key(pki.folder / "broker.key")
    return server_engine(server(pki), client_key=True), client_engine(context, host, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_both_sides_prove_their_raw_public_key(pki: Pki, version: str) -> None:
    pair = ends(pki, version)
    shake_hands(*pair)
    for engine in pair:
        assert (engine.version, engine.alpn, engine.extended_master_secret) == (version, b"mqtt", True)
        assert engine.peer_certificate_sha256 is None
        assert engine.psk_identity is None
    assert pair[0].peer_public_key == public_key(pki.folder / "device.key")
    assert pair[1].peer_public_key == public_key(pki.folder / "broker.key")
    for context in (b"", None, b"with a context"):
        assert pair[0].export(LABEL, 32, context) == pair[1].export(LABEL, 32, context)
    same = pair[0].export(LABEL, 32, b"") == pair[0].export(LABEL, 32, None)
    assert same == (version == "TLSv1.3")


@pytest.mark.parametrize("version", VERSIONS)
def test_octets_go_both_ways_and_end_in_order(pki: Pki, version: str) -> None:
    pair = ends(pki, version)
    shake_hands(*pair)
    data = bytes(range(256)) * 1_000
    for sender, receiver in (pair, pair[::-1]):
        sender.write(data)
        receiver.feed(sender.outgoing())
        got = b""
        with contextlib.suppress(WantRead):
            while True:
                got += receiver.read(100_000)
        assert got == data
    pair[0].close_notify()
    pair[1].feed(pair[0].outgoing())
    assert pair[1].read(10) == b""
    pair[0].feed(b"")
    with pytest.raises(TlsError, match="without saying so"):
        pair[0].read(10)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_with_a_certificate_and_a_client_with_a_raw_key(pki: Pki, version: str) -> None:
    context = limited(client_context(pki.ca, key=pki.folder / "device.key"), version, ":-CTYPE-SRV-RAWPK")
    pair = server_engine(server(pki), client_key=True), client_engine(context, "localhost")
    shake_hands(*pair)
    assert pair[0].peer_public_key == public_key(pki.folder / "device.key")
    assert pair[1].peer_certificate_sha256 is not None
    assert pair[1].peer_public_key == public_key(pki.folder / "broker.key")


def test_a_client_may_expect_the_key_of_a_certificate(pki: Pki, tmp_path: Path) -> None:
    """Of a CA that it does not know, for a name that it does not ask for."""
    unknown = Pki(tmp_path / "unknown").ca
    context = limited(client_context(unknown, key=pki.folder / "device.key"), "TLSv1.3", ":-CTYPE-SRV-RAWPK")
    pair = (
        server_engine(server(pki), client_key=True),
        client_engine(context, "elsewhere", public_key(pki.folder / "broker.key")),
    )
    shake_hands(*pair)
    assert pair[1].peer_certificate_sha256 is not None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("raw", [True, False])
def test_a_server_with_another_key_is_refused_before_the_client_shows_its_own(
    pki: Pki, version: str, raw: bool
) -> None:
    more = "" if raw else ":-CTYPE-SRV-RAWPK"
    context = limited(client_context(pki.ca, key=pki.folder / "device.key"), version, more)
    pair = (
        server_engine(server(pki), client_key=True),
        client_engine(context, "localhost", public_key(pki.folder / "device.key")),
    )
    with pytest.raises(TlsError, match="certificate"):
        shake_hands(*pair)
    with pytest.raises(TlsError, match="alert" if version == "TLSv1.3" else "No certificate"):
        pair[0].handshake()
    assert pair[0].peer_public_key is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_name_of_the_server_is_checked(pki: Pki, host: str) -> None:
    context = client_context(pki.ca, key=pki.folder / "device.key")
    shake_hands(
        server_engine(limited(server(pki), "TLSv1.3", ":-CTYPE-SRV-RAWPK"), client_key=True),
        client_engine(context, host),
    )


@pytest.mark.parametrize("host", ["example.com", "127.0.0.2"])
def test_another_name_is_refused(pki: Pki, host: str) -> None:
    context = limited(client_context(pki.ca, key=pki.folder / "device.key"), "TLSv1.3", ":-CTYPE-SRV-RAWPK")
    with pytest.raises(TlsError):
        shake_hands(server_engine(server(pki), client_key=True), client_engine(context, host))


def test_an_unknown_ca_is_refused(pki: Pki, tmp_path: Path) -> None:
    unknown = Pki(tmp_path / "unknown").ca
    context = limited(client_context(unknown, key=pki.folder / "device.key"), "TLSv1.3", ":-CTYPE-SRV-RAWPK")
    with pytest.raises(TlsError):
        shake_hands(server_engine(server(pki), client_key=True), client_engine(context, "localhost"))


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_key_to_expect_a_raw_one_proves_nothing(pki: Pki, version: str) -> None:
    context = limited(client_context(pki.ca, key=pki.folder / "device.key"), version, ":-CTYPE-SRV-X509")
    with pytest.raises(TlsError):
        shake_hands(server_engine(server(pki), client_key=True), client_engine(context, "localhost"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_without_a_key_is_refused_where_one_is_needed(pki: Pki, version: str) -> None:
    context = limited(client_context(pki.ca), version)
    pair = (
        server_engine(server(pki), client_key=True),
        client_engine(context, "localhost", public_key(pki.folder / "broker.key")),
    )
    with pytest.raises(TlsError):
        shake_hands(*pair)
    assert pair[0].peer_public_key is None


@pytest.mark.parametrize("version", VERSIONS)
def test_an_anonymous_client_may_ask_for_our_raw_key(pki: Pki, version: str) -> None:
    only = {"TLSv1.2": "-VERS-TLS1.3", "TLSv1.3": "-VERS-TLS1.2"}[version]
    context = client_context(pki.ca)
    context.priorities = GnuTlsContext(
        library(), f"{tls_gnutls._COMMON}:{only}:+CTYPE-SRV-RAWPK:+CTYPE-CLI-X509"
    ).priorities
    pair = (
        server_engine(server(pki), client_key=False),
        client_engine(context, "localhost", public_key(pki.folder / "broker.key")),
    )
    shake_hands(*pair)
    assert pair[0].peer_public_key is None
    assert pair[1].peer_public_key == public_key(pki.folder / "broker.key")


def test_no_exporter_before_the_end_of_the_handshake(pki: Pki) -> None:
    pair = ends(pki)
    with pytest.raises(TlsError, match="before the handshake"):
        pair[0].export(LABEL, 32, b"")
    assert pair[0].peer_public_key is None


def test_a_client_of_another_protocol_is_served(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_acebroker.transports.tls_gnutls.ALPN", b"http/1.1")
    other = ends(pki)[1]
    monkeypatch.undo()
    pair = server_engine(server(pki), client_key=True), other
    shake_hands(*pair)
    assert pair[0].alpn == b""


def test_tls_1_1_is_refused(pki: Pki) -> None:
    context = client_context(pki.ca, key=pki.folder / "device.key")
    context.priorities = GnuTlsContext(
        library(), "NORMAL:-VERS-ALL:+VERS-TLS1.1:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK:%COMPAT"
    ).priorities
    pair = (
        server_engine(server(pki), client_key=True),
        client_engine(context, "localhost", public_key(pki.folder / "broker.key")),
    )
    with pytest.raises(TlsError):
        shake_hands(*pair)


def test_tls_1_2_without_extended_master_secret_is_refused(pki: Pki) -> None:
    context = limited(client_context(pki.ca, key=pki.folder / "device.key"), "TLSv1.2", ":%NO_SESSION_HASH")
    pair = (
        server_engine(server(pki), client_key=True),
        client_engine(context, "localhost", public_key(pki.folder / "broker.key")),
    )
    with pytest.raises(TlsError, match="Extended Master Secret"):
        shake_hands(*pair)


def test_octets_that_are_no_tls(pki: Pki) -> None:
    engine = server_engine(server(pki), client_key=True)
    engine.feed(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
    with pytest.raises(TlsError):
        engine.handshake()


def test_what_was_damaged_on_its_way_is_refused(pki: Pki) -> None:
    pair = ends(pki)
    shake_hands(*pair)
    pair[0].write(b"secret")
    octets = bytearray(pair[0].outgoing())
    octets[-1] ^= 1
    pair[1].feed(bytes(octets))
    with pytest.raises(TlsError) as caught:
        pair[1].read(100)
    assert "secret" not in str(caught.value)
    pair[0].feed(pair[1].outgoing())
    with pytest.raises(TlsError, match="alert"):
        pair[0].read(100)


def test_a_session_is_freed_with_its_engine(pki: Pki) -> None:
    gc.disable()
    try:
        pair = ends(pki)
        shake_hands(*pair)
        gone = [weakref.ref(engine) for engine in pair] + [weakref.ref(engine._context) for engine in pair]
        del pair
        assert [reference() for reference in gone] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65_537, 2_048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_keys_of_other_kinds(pki: Pki, tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path = tmp_path / "other.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = client_context(pki.ca, key=path)
    pair = (
        server_engine(server(pki), client_key=True),
        client_engine(context, "localhost", public_key(pki.folder / "broker.key")),
    )
    shake_hands(*pair)
    assert pair[0].peer_public_key == public_key(path)


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_files_that_cannot_be_used_are_named(pki: Pki, tmp_path: Path, name: str) -> None:
    files = {"certificate": pki.folder / "broker.pem", "key": pki.folder / "broker.key"}
    files[name] = tmp_path / "missing.pem"
    with pytest.raises(TlsFilesError, match=r"missing\.pem"):
        server_context(files["certificate"], files["key"])
    files[name].write_text("no PEM, but a secret")
    with pytest.raises(TlsFilesError, match=r"missing\.pem") as caught:
        server_context(files["certificate"], files["key"])
    assert "secret" not in str(caught.value)


def test_a_key_of_another_certificate_or_with_a_password_is_refused(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(TlsFilesError, match=r"broker\.pem"):
        server_context(pki.folder / "broker.pem", pki.folder / "device.key")
    path = tmp_path / "locked.key"
    key = load_pem_private_key((pki.folder / "broker.key").read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    with pytest.raises(TlsFilesError, match="password"):
        server_context(pki.folder / "broker.pem", path)
    with pytest.raises(TlsFilesError, match="holds no certificate"):
        client_context(pki.folder / "broker.key")


def test_a_key_to_expect_that_is_none(pki: Pki) -> None:
    with pytest.raises(ValueError):
        client_engine(client_context(pki.ca), "localhost", b"\x30\x00")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_other_engine_meets_this_one(pki: Pki, version: str) -> None:
    """A certificate on the server's side, nothing on the other: what both libraries can do."""
    of_openssl = tls_openssl.client_engine(tls_openssl.client_context(pki.ca), "localhost")
    context = tls_openssl.server_context(pki.folder / "broker.pem", pki.folder / "broker.key")
    of_gnutls = client_engine(limited(client_context(pki.ca), version), "localhost")
    for pair in (
        (server_engine(limited(server(pki), version), client_key=False), of_openssl),
        (tls_openssl.server_engine(context), of_gnutls),
    ):
        shake_hands(*pair)
        assert pair[0].version == version
        assert pair[0].export(LABEL, 32, b"") == pair[1].export(LABEL, 32, b"")
        for sender, receiver in (pair, pair[::-1]):
            sender.write(b"x" * 100_000)
            receiver.feed(sender.outgoing())
            assert receiver.read(16_384) == b"x" * 16_384  # behind tickets that are not used


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_certificate_instead_of_a_raw_key_is_refused(pki: Pki, version: int) -> None:
    """Nothing here verifies the certificate of a client, so none may pass."""
    context = tls_openssl.client_context(pki.ca, certificate=pki.folder / "device.pem", key=pki.folder / "device.key")
    pair = server_engine(server(pki), client_key=True), tls_openssl.client_engine(only(version)(context), "localhost")
    with pytest.raises(TlsError):
        shake_hands(*pair)
    assert pair[0].peer_public_key is None and pair[0].peer_certificate_sha256 is None


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_acebroker.transports.gnutls_library._SONAME", "libnone.so.1")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libnone.so.2")
    with pytest.raises(GnuTlsMissing, match="libnone"):
        library.__wrapped__()
