"""ClientHello as real clients send it, every prefix of it, and arbitrary octets."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_acebroker.transports.client_hello import ClientHello, ClientHelloError, read_client_hello


def from_python(server_name: str = "broker.example", protocols: tuple[str, ...] = ("mqtt",)) -> bytes:
    """The ClientHello of the standard library."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


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
    found = read_client_hello(from_python(protocols=("mqtt", "http/1.1")))
    assert found is not None
    assert found.server_name == "broker.example"
    assert found.protocols == (b"mqtt", b"http/1.1")
    assert 0x0304 in found.versions and 0x1301 in found.ciphers
    assert not found.psk_identities and not found.raw_public_key


def test_every_prefix_asks_for_more_and_what_follows_is_left_alone() -> None:
    octets = from_python()
    whole = read_client_hello(octets)
    for size in range(len(octets)):
        assert read_client_hello(octets[:size]) is None
    assert read_client_hello(octets + b"more") == whole


def test_it_may_come_in_several_records() -> None:
    octets = from_python()
    message = octets[5:]
    pieces = b"".join(record(message[at : at + 7]) for at in range(0, len(message), 7))
    assert read_client_hello(pieces) == read_client_hello(octets)


def test_identities_and_raw_public_keys() -> None:
    identity = b"\x00\xff" * 8_000
    identities = len(identity).to_bytes(2, "big") + identity + bytes(4) + b"\x00\x01a" + bytes(4)
    psk = extension(41, len(identities).to_bytes(2, "big") + identities + b"\x00\x00")
    found = read_client_hello(record(hello(extension(19, b"\x02\x00\x02") + psk)))
    assert found is not None
    assert found.psk_identities == (identity, b"a")
    assert found.raw_public_key


@pytest.mark.parametrize(
    "octets",
    [
        b"\x10\x0c\x00\x04MQTT",  # MQTT without TLS
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        record(b"\x02\x00\x00\x00"),
        record(b"\x01\x7f\xff\xff"),
        record(b"\x01\x00\x00\x02\x03\x03"),
        record(hello(extension(0, b"\x00\x09\x00\x00"))),
        record(hello(b"\x00\x00\x00\x09")),
    ],
)
def test_what_is_none(octets: bytes) -> None:
    with pytest.raises(ClientHelloError):
        read_client_hello(octets)


def test_its_size_is_limited_before_it_is_there() -> None:
    octets = record(b"\x01\x00\x10\x00")
    assert read_client_hello(octets, 4_096) is None
    with pytest.raises(ClientHelloError, match="at most 4095"):
        read_client_hello(octets, 4_095)


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_octets(octets: bytes, as_hello: bool) -> None:
    try:
        found = read_client_hello(record(b"\x01" + len(octets).to_bytes(3, "big") + octets) if as_hello else octets)
    except ClientHelloError:
        return
    assert found is None or isinstance(found, ClientHello)
