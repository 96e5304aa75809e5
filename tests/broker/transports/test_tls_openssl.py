"""The OpenSSL engine and the stream over it: both ends in memory, and what each refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from OpenSSL import SSL

from tests.pki import Pki
from trio_acebroker.transports.memory import MemoryStream, memory_connection
from trio_acebroker.transports.tls import TlsError, TlsFilesError, TlsStream, WantRead
from trio_acebroker.transports.tls_openssl import (
    OpenSslEngine,
    client_context,
    client_engine,
    server_context,
    server_engine,
)

LABEL = b"EXPORTER-ACE-MQTT-Sign-Challenge"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "localhost", "127.0.0.1")
    made.issue("device")
    made.issue("revoked")
    made.crl("revoked")
    return made


def server(pki: Pki, **options: object) -> SSL.Context:
    return server_context(pki.folder / "broker.pem", pki.folder / "broker.key", **options)  # type: ignore[arg-type]


def client(pki: Pki, name: str | None = None) -> SSL.Context:
    if name is None:
        return client_context(pki.ca)
    return client_context(pki.ca, certificate=pki.folder / f"{name}.pem", key=pki.folder / f"{name}.key")


def shake_hands(left: OpenSslEngine, right: OpenSslEngine) -> None:
    """Carry octets to and fro until both are complete; raises what either raises."""
    pending = [left, right]
    for _ in range(20):
        for engine, other in ((left, right), (right, left)):
            if engine in pending:
                try:
                    engine.handshake()
                    pending.remove(engine)
                except WantRead:
                    pass
                finally:
                    octets = engine.outgoing()
                    if octets:
                        other.feed(octets)
        if not pending:
            return
    raise AssertionError("the handshake does not end")


def pair(pki: Pki, **options: object) -> tuple[OpenSslEngine, OpenSslEngine]:
    """A server and a client that are connected."""
    ends = server_engine(server(pki, **options)), client_engine(client(pki), "localhost")
    shake_hands(*ends)
    return ends


def only(version: int) -> Callable[[SSL.Context], SSL.Context]:
    def limit(context: SSL.Context) -> SSL.Context:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        return context

    return limit


@pytest.mark.parametrize(("version", "name"), [(SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")])
def test_both_versions_agree_on_keys_and_protocol(pki: Pki, version: int, name: str) -> None:
    ends = server_engine(server(pki)), client_engine(only(version)(client(pki)), "localhost")
    shake_hands(*ends)
    for engine in ends:
        assert (engine.version, engine.alpn, engine.extended_master_secret) == (name, b"mqtt", True)
    for context in (b"", None):
        assert ends[0].export(LABEL, 32, context) == ends[1].export(LABEL, 32, context)
    same = ends[0].export(LABEL, 32, b"") == ends[0].export(LABEL, 32, None)
    assert same == (name == "TLSv1.3")  # on TLS 1.2, no context is another value than an empty one
    assert ends[0].peer_certificate_sha256 is None
    assert ends[1].peer_certificate_sha256 is not None


def test_tls_1_1_is_refused(pki: Pki) -> None:
    context = only(SSL.TLS1_1_VERSION)(client(pki))
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    with pytest.raises(TlsError):
        shake_hands(server_engine(server(pki)), client_engine(context, "localhost"))


def test_no_exporter_before_the_end_of_the_handshake(pki: Pki) -> None:
    engine = server_engine(server(pki))
    with pytest.raises(TlsError, match="before the handshake"):
        engine.export(LABEL, 32, b"")
    assert engine.peer_public_key is None


def test_a_client_without_alpn_is_served(pki: Pki) -> None:
    context = client(pki)
    context.set_alpn_protos([b"http/1.1"])
    ends = server_engine(server(pki)), client_engine(context, "localhost")
    shake_hands(*ends)
    assert ends[0].alpn == b""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_name_of_the_server_is_checked(pki: Pki, host: str) -> None:
    shake_hands(server_engine(server(pki)), client_engine(client(pki), host))


@pytest.mark.parametrize("host", ["example.com", "127.0.0.2"])
def test_another_name_is_refused(pki: Pki, host: str) -> None:
    with pytest.raises(TlsError, match="certificate verify failed"):
        shake_hands(server_engine(server(pki)), client_engine(client(pki), host))


def test_an_unknown_ca_is_refused(pki: Pki, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other")
    with pytest.raises(TlsError, match="certificate verify failed"):
        shake_hands(server_engine(server(pki)), client_engine(client_context(other.ca), "localhost"))


def test_a_client_certificate_is_shown_and_named(pki: Pki) -> None:
    ends = server_engine(server(pki, client_ca=pki.ca)), client_engine(client(pki, "device"), "localhost")
    shake_hands(*ends)
    assert ends[0].peer_certificate_sha256 is not None and len(ends[0].peer_certificate_sha256) == 32
    assert ends[0].peer_public_key is not None and len(ends[0].peer_public_key) == 91


def test_an_optional_client_certificate_may_be_missing_and_a_required_one_not(pki: Pki) -> None:
    ends = server_engine(server(pki, client_ca=pki.ca)), client_engine(client(pki), "localhost")
    shake_hands(*ends)
    assert ends[0].peer_certificate_sha256 is None
    required = server_engine(server(pki, client_ca=pki.ca, client_certificate_required=True))
    with pytest.raises(TlsError):
        shake_hands(required, client_engine(client(pki), "localhost"))


def test_a_client_certificate_of_another_ca_is_refused(pki: Pki, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other")
    certificate, key = other.issue("device")
    context = client_context(pki.ca, certificate=certificate, key=key)
    with pytest.raises(TlsError):
        shake_hands(server_engine(server(pki, client_ca=pki.ca)), client_engine(context, "localhost"))


def test_a_revoked_certificate_is_refused(pki: Pki) -> None:
    context = server(pki, client_ca=pki.ca, client_crl=pki.folder / "crl.pem")
    shake_hands(server_engine(context), client_engine(client(pki, "device"), "localhost"))
    with pytest.raises(TlsError, match="certificate"):
        shake_hands(server_engine(context), client_engine(client(pki, "revoked"), "localhost"))


def test_a_session_is_not_resumed(pki: Pki) -> None:
    for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
        context = only(version)(client(pki))
        listening = server(pki)
        first = server_engine(listening), client_engine(context, "localhost")
        shake_hands(*first)
        first[0].write(b"x")
        first[1].feed(first[0].outgoing())
        assert first[1].read(9) == b"x"
        session = first[1]._connection.get_session()
        second = server_engine(listening), client_engine(context, "localhost")
        if session is not None:
            second[1]._connection.set_session(session)
        shake_hands(*second)
        assert first[0].export(LABEL, 32, b"") != second[0].export(LABEL, 32, b"")
        reused = SSL._lib.SSL_session_reused(second[0]._connection._ssl)  # type: ignore[attr-defined]
        assert not reused


def test_tls_1_2_without_extended_master_secret_is_refused(pki: Pki) -> None:
    context = only(SSL.TLS1_2_VERSION)(client(pki))
    context.set_options(0x1)  # SSL_OP_NO_EXTENDED_MASTER_SECRET
    with pytest.raises(TlsError, match="Extended Master Secret"):
        shake_hands(server_engine(server(pki)), client_engine(context, "localhost"))


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


def test_a_key_of_another_certificate_is_refused(pki: Pki) -> None:
    with pytest.raises(TlsFilesError, match=r"device\.key: .*mismatch"):
        server_context(pki.folder / "broker.pem", pki.folder / "device.key")


def test_a_broken_crl_is_named(pki: Pki, tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    for text in ("nothing", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"):
        path.write_text(text)
        with pytest.raises(TlsFilesError, match=r"crl\.pem"):
            server(pki, client_ca=pki.ca, client_crl=path)


# ---- the stream ----


class Below(MemoryStream):
    """A MemoryStream for either end: the other direction's names."""


def streams(pki: Pki, bytes_max: int = 4_096) -> tuple[TlsStream, TlsStream]:
    """Both ends over a connection in memory that holds `bytes_max` octets in each direction."""
    far, near = memory_connection(bytes_max)
    below = Below(far._in, far._out)
    return TlsStream(near, server_engine(server(pki))), TlsStream(below, client_engine(client(pki), "localhost"))


async def established(*ends: TlsStream) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.establish)


async def send(stream: TlsStream, data: bytes) -> None:
    """As the broker does: what was not taken is handed over again when the stream is writable."""
    while data:
        try:
            data = data[stream.send_nowait(data) :]
        except BlockingIOError:
            await stream.wait_writable()
        else:
            if data:
                await stream.wait_writable()


async def receive(stream: TlsStream, size: int, at_once: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        await stream.wait_readable()
        try:
            part = stream.receive_nowait(at_once)
        except BlockingIOError:
            continue
        assert part
        got += part
    return bytes(got)


@pytest.mark.parametrize("bytes_max", [600, 20_000, 1_000_000])
@pytest.mark.parametrize("at_once", [1_000, 65_536])
async def test_all_octets_arrive_in_order_whatever_fits_below(pki: Pki, bytes_max: int, at_once: int) -> None:
    ends = streams(pki, bytes_max)
    await established(*ends)
    data = b"".join(number.to_bytes(4, "big") for number in range(200_000))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, ends[0], data)
            assert await receive(ends[1], len(data), at_once) == data
    for end in ends:
        end.close()


async def test_an_orderly_end_is_told_from_a_cut(pki: Pki) -> None:
    ends = streams(pki)
    await established(*ends)
    await send(ends[0], b"last words")
    ends[0].end_of_stream()
    assert await receive(ends[1], 10, 100) == b"last words"
    assert ends[1].receive_nowait(100) == b""
    ends = streams(pki)
    await established(*ends)
    ends[0]._below.close()
    with pytest.raises(OSError):
        ends[1].receive_nowait(100)


async def test_octets_that_are_no_tls(pki: Pki) -> None:
    far, near = memory_connection()
    stream = TlsStream(near, server_engine(server(pki)))
    await far.send_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
    with pytest.raises(TlsError):
        await stream.establish()


async def test_what_came_before_the_end_or_a_failure_is_given_first(pki: Pki) -> None:
    for damaged in (False, True):
        ends = streams(pki)
        await established(*ends)
        with pytest.raises(BlockingIOError):
            ends[1].receive_nowait(100)
        ends[0]._engine.write(b"before")
        octets = ends[0]._engine.outgoing()
        if damaged:
            ends[0]._engine.write(b"damaged")
            octets += bytes(reversed(ends[0]._engine.outgoing()))
        else:
            ends[0]._engine.close_notify()
            octets += ends[0]._engine.outgoing()
        ends[0]._below.send_nowait(octets)
        assert ends[1].receive_nowait(100) == b"before"
        with trio.fail_after(1):
            await ends[1].wait_readable()
        for _ in range(2):
            if damaged:
                with pytest.raises(TlsError):
                    ends[1].receive_nowait(100)
            else:
                assert ends[1].receive_nowait(100) == b""


async def test_what_was_not_asked_for_is_readable(pki: Pki) -> None:
    """More octets than were asked for are in the engine: nothing below will say so."""
    ends = streams(pki)
    await established(*ends)
    await send(ends[0], b"0123456789")
    for digit in b"0123456789":
        with trio.fail_after(1):
            await ends[1].wait_readable()
        assert ends[1].receive_nowait(1) == bytes([digit])
    with pytest.raises(BlockingIOError):
        ends[1].receive_nowait(1)
