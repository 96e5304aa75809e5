"""ClientHello: what a TLS client offers, read before any engine sees it (RFC 8446, 4.1.2 and 4.2.11; RFC 7250).

So that one listener can choose the engine (raw public keys), and can look up or verify the identity of a pre-shared
key, which may take a while, before the handshake goes on. Nothing is decided here and nothing verified.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

__all__ = ["ClientHello", "ClientHelloError", "ClientHelloReader"]

_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD_BYTES_MAX: Final = 16_384

_CLIENT_TYPES, _SERVER_TYPES, _PSK = 19, 20, 41
_X509, _RAW_PUBLIC_KEY = 0, 2


class ClientHelloError(Exception):
    """These octets begin no TLS connection, or one with a ClientHello that is too large."""


class ClientHello(Struct, frozen=True):
    """What of an offer decides how we answer it."""

    #: kinds of certificate that the client can show, and that it takes from us; empty is X.509 alone (RFC 7250)
    client_certificate_types: bytes = b""
    server_certificate_types: bytes = b""
    #: of TLS 1.3; TLS 1.2 says its identity later
    psk_identities: tuple[bytes, ...] = ()

    @property
    def shows_raw_public_key(self) -> bool:
        """Whether the client can show a raw public key."""
        return _RAW_PUBLIC_KEY in self.client_certificate_types

    @property
    def prefers_raw_public_key(self) -> bool:
        """Whether it would rather show that than an X.509 certificate: what comes first is preferred."""
        return self.shows_raw_public_key and _X509 not in self.client_certificate_types.partition(b"\x02")[0]

    @property
    def needs_raw_public_key(self) -> bool:
        """Whether the client takes a raw public key from us, and no X.509 certificate."""
        return _RAW_PUBLIC_KEY in self.server_certificate_types and _X509 not in self.server_certificate_types


class _Octets:
    """A reader that never leaves its octets."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def __bool__(self) -> bool:
        return self._pos < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._pos + size
        if end > len(self._data):
            raise ClientHelloError("a field reaches over its end")
        taken = self._data[self._pos : end]
        self._pos = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size_octets: int) -> _Octets:
        return _Octets(self.opaque(size_octets))

    def opaque(self, size_octets: int) -> bytes:
        return self.take(self.number(size_octets))


class ClientHelloReader:
    """Takes octets as they come, until the ClientHello is complete. `octets` is all that came, for the engine.

    What it holds, and the work it does for each octet, is bounded: by `bytes_max` for everything until then.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.octets = bytearray()
        self._message = bytearray()
        #: where the next record begins
        self._pos = 0

    def feed(self, data: bytes) -> ClientHello | None:
        """The ClientHello, once it is complete. Raises ClientHelloError when it is none, or becomes too large."""
        octets = self.octets
        octets += data
        message = self._message
        while self._pos < len(octets):
            if octets[self._pos] != _HANDSHAKE:
                raise ClientHelloError("not a TLS handshake")
            if len(octets) - self._pos < _RECORD_HEADER:
                break
            begin = self._pos + _RECORD_HEADER
            length = int.from_bytes(octets[begin - 2 : begin], "big")
            if not 0 < length <= _RECORD_BYTES_MAX:
                raise ClientHelloError(f"a TLS record of {length} octets")
            if len(octets) > begin and not message and octets[begin] != _CLIENT_HELLO:
                raise ClientHelloError("a handshake that does not begin with ClientHello")
            if len(octets) - begin < length:
                break
            message += octets[begin : begin + length]
            self._pos = begin + length
            if len(message) >= _MESSAGE_HEADER:
                end = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
                if end > self._bytes_max:
                    raise ClientHelloError(f"a ClientHello of {end} octets, at most {self._bytes_max} are taken")
                if len(message) >= end:
                    return _parse(bytes(message[_MESSAGE_HEADER:end]))
        if len(octets) >= self._bytes_max:
            raise ClientHelloError(f"no ClientHello within {self._bytes_max} octets")
        return None


def _parse(body: bytes) -> ClientHello:
    hello = _Octets(body)
    hello.take(2 + 32)  # version, random
    hello.opaque(1)  # session
    hello.opaque(2)  # suites
    hello.opaque(1)  # compression
    extensions: dict[int, bytes] = {}
    rest = hello.vector(2) if hello else _Octets(b"")
    while rest:
        kind = rest.number(2)
        extensions.setdefault(kind, rest.opaque(2))
    return ClientHello(
        _Octets(extensions[_CLIENT_TYPES]).opaque(1) if _CLIENT_TYPES in extensions else b"",
        _Octets(extensions[_SERVER_TYPES]).opaque(1) if _SERVER_TYPES in extensions else b"",
        _psk_identities(extensions[_PSK]) if _PSK in extensions else (),
    )


def _psk_identities(extension: bytes) -> tuple[bytes, ...]:
    identities = _Octets(extension).vector(2)
    found = []
    while identities:
        found.append(identities.opaque(2))
        identities.take(4)  # age of the ticket
    return tuple(found)
