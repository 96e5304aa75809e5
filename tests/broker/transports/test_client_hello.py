"""ClientHello as real clients send it, every prefix of it, and arbitrary octets."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_acebroker.transports.client_hello import ClientHello, ClientHelloError, ClientHelloReader


def from_python() -> bytes:
    """The ClientHello of the standard library."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="broker.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def read(octets: bytes, bytes_max: int = 32_768) -> ClientHello | None:
    """What a reader finds in octets that come at once."""
    return ClientHelloReader(bytes_max).feed(octets)


def record(*parts: bytes) -> bytes:
    """A handshake in one TLS record."""
    body = b"".join(parts)
    return b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body


def hello(extensions: bytes) -> bytes:
    """A ClientHello with nothing but extensions."""
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def test_what_a_real_client_offers() -> None:
    found = read(from_python())
    assert found == ClientHello()
    assert not found.shows_raw_public_key and not found.needs_raw_public_key


def test_it_may_come_octet_by_octet_and_what_follows_is_left_alone() -> None:
    octets = from_python()
    reader = ClientHelloReader(32_768)
    for at in range(len(octets) - 1):
        assert reader.feed(octets[at : at + 1]) is None
    assert reader.feed(octets[-1:] + b"more") == read(octets)
    assert reader.octets == octets + b"more"


@pytest.mark.parametrize("at_once", [1, 5, 6, 7, 100_000])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_it_may_come_in_several_records(size: int, at_once: int) -> None:
    message = hello(psk(b"a"))
    pieces = b"".join(record(message[at : at + size]) for at in range(0, len(message), size))
    reader = ClientHelloReader(32_768)
    found = [reader.feed(pieces[at : at + at_once]) for at in range(0, len(pieces), at_once)]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] == ClientHello(psk_identities=(b"a",))


def psk(*identities: bytes) -> bytes:
    octets = b"".join(len(identity).to_bytes(2, "big") + identity + bytes(4) for identity in identities)
    return extension(41, len(octets).to_bytes(2, "big") + octets + b"\x00\x00")


def test_identities() -> None:
    identity = b"\x00\xff" * 8_000
    assert read(record(hello(psk(identity, b"a")))) == ClientHello(psk_identities=(identity, b"a"))


@pytest.mark.parametrize(
    ("client", "server", "shows", "prefers", "needs"),
    [
        (b"\x01\x02", b"\x01\x02", True, True, True),
        (b"\x02\x00\x02", b"\x02\x02\x00", True, False, False),
        (b"\x03\x01\x02\x00", b"\x02\x00\x02", True, True, False),
        (b"\x01\x00", b"\x01\x00", False, False, False),
        (b"\x01\x00", b"\x01\x02", False, False, True),
    ],
)
def test_kinds_of_certificate(client: bytes, server: bytes, shows: bool, prefers: bool, needs: bool) -> None:
    found = read(record(hello(extension(19, client) + extension(20, server))))
    assert found is not None
    said = found.shows_raw_public_key, found.prefers_raw_public_key, found.needs_raw_public_key
    assert said == (shows, prefers, needs)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x10\x0c\x00\x04MQTT",  # MQTT without TLS
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        record(b"\x02\x00\x00\x00"),
        record(b"\x02\x00\x00\x00")[:6],
        record(b"\x01\x7f\xff\xff"),
        record(b"\x01\x00\x00\x02\x03\x03"),
        record(b"\x01\x00") + b"\x17",
        record(hello(extension(19, b"\x09\x00\x00"))),
        record(hello(extension(41, b"\x00\x09\x00\x00"))),
        record(hello(b"\x00\x00\x00\x09")),
    ],
)
def test_what_is_none(octets: bytes) -> None:
    with pytest.raises(ClientHelloError):
        read(octets)


def test_its_size_is_limited_before_it_is_there() -> None:
    octets = record(b"\x01\x00\x10\x00")
    assert read(octets, 4_100) is None
    with pytest.raises(ClientHelloError, match="at most 4099"):
        read(octets, 4_099)


def test_what_small_records_cost_is_limited_too() -> None:
    reader = ClientHelloReader(4_096)
    assert reader.feed(record(b"\x01\x00\x04\x00")) is None
    with pytest.raises(ClientHelloError, match="within 4096"):
        for _ in range(1_024):
            assert reader.feed(record(b"\x00")) is None
    assert len(reader.octets) < 4_096 + 6


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_octets(octets: bytes, as_hello: bool) -> None:
    try:
        found = read(record(b"\x01" + len(octets).to_bytes(3, "big") + octets) if as_hello else octets)
    except ClientHelloError:
        return
    assert found is None or isinstance(found, ClientHello)
