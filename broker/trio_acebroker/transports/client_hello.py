"""ClientHello: what a TLS client offers, read before any engine sees it (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2).

So that one listener can choose the engine (raw public keys, RFC 7250), and can look up or verify the identity of a
pre-shared key, which may take a while, before the handshake goes on. Nothing is decided here and nothing verified.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

__all__ = ["CLIENT_HELLO_BYTES_MAX", "ClientHello", "ClientHelloError", "read_client_hello"]

#: largest ClientHello taken, in octets; an identity of 16 KiB fits
CLIENT_HELLO_BYTES_MAX: Final = 32_768

_RECORD_HEADER: Final = 5
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD_BYTES_MAX: Final = 16_384


_SERVER_NAME, _ALPN, _CLIENT_TYPES, _SERVER_TYPES, _PSK, _VERSIONS = 0, 16, 19, 20, 41, 43
_RAW_PUBLIC_KEY: Final = 2


class ClientHelloError(Exception):
    """These octets begin no TLS connection, or one with a ClientHello that is too large."""


class ClientHello(Struct, frozen=True):
    """What was offered. `psk_identities` are those of TLS 1.3; TLS 1.2 says its identity later."""

    server_name: str | None
    protocols: tuple[bytes, ...]
    versions: tuple[int, ...]
    ciphers: tuple[int, ...]
    client_certificate_types: bytes
    server_certificate_types: bytes
    psk_identities: tuple[bytes, ...]

    @property
    def raw_public_key(self) -> bool:
        """Whether a raw public key is offered, for either side (RFC 7250)."""
        return _RAW_PUBLIC_KEY in self.client_certificate_types or _RAW_PUBLIC_KEY in self.server_certificate_types


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


def read_client_hello(data: bytes, bytes_max: int = CLIENT_HELLO_BYTES_MAX) -> ClientHello | None:
    """The ClientHello that `data` begins with; None while more octets are needed.

    Raises ClientHelloError for anything else, and for one of more than `bytes_max` octets before it is complete.
    """
    message = bytearray()
    pos = 0
    while True:
        if pos < len(data) and data[pos] != _HANDSHAKE:
            raise ClientHelloError("not a TLS handshake")
        if len(data) - pos < _RECORD_HEADER:
            return None
        length = int.from_bytes(data[pos + 3 : pos + _RECORD_HEADER], "big")
        if not 0 < length <= _RECORD_BYTES_MAX:
            raise ClientHelloError(f"a TLS record of {length} octets")
        end = pos + _RECORD_HEADER + length
        message += data[pos + _RECORD_HEADER : end]
        if message and message[0] != _CLIENT_HELLO:
            raise ClientHelloError("a handshake that does not begin with ClientHello")
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > bytes_max:
                raise ClientHelloError(f"a ClientHello of {size} octets, at most {bytes_max} are taken")
            if len(message) >= 4 + size:
                return _parse(bytes(message[4 : 4 + size]))
        if end > len(data):
            return None
        pos = end


def _parse(body: bytes) -> ClientHello:
    hello = _Octets(body)
    hello.take(2 + 32)  # version, random
    hello.opaque(1)  # session
    ciphers = _numbers(hello.vector(2), 2)
    hello.opaque(1)  # compression
    extensions: dict[int, bytes] = {}
    rest = hello.vector(2) if hello else _Octets(b"")
    while rest:
        kind = rest.number(2)
        extensions.setdefault(kind, rest.opaque(2))
    return ClientHello(
        _server_name(extensions.get(_SERVER_NAME)),
        _protocols(extensions.get(_ALPN)),
        _numbers(_Octets(extensions[_VERSIONS]).vector(1), 2) if _VERSIONS in extensions else (),
        ciphers,
        _Octets(extensions[_CLIENT_TYPES]).opaque(1) if _CLIENT_TYPES in extensions else b"",
        _Octets(extensions[_SERVER_TYPES]).opaque(1) if _SERVER_TYPES in extensions else b"",
        _psk_identities(extensions.get(_PSK)),
    )


def _numbers(octets: _Octets, size: int) -> tuple[int, ...]:
    numbers = []
    while octets:
        numbers.append(octets.number(size))
    return tuple(numbers)


def _server_name(extension: bytes | None) -> str | None:
    if extension is None:
        return None
    names = _Octets(extension).vector(2)
    while names:
        kind = names.number(1)
        name = names.opaque(2)
        if kind == 0:
            return name.decode("ascii", "replace")
    return None


def _protocols(extension: bytes | None) -> tuple[bytes, ...]:
    if extension is None:
        return ()
    names = _Octets(extension).vector(2)
    found = []
    while names:
        found.append(names.opaque(1))
    return tuple(found)


def _psk_identities(extension: bytes | None) -> tuple[bytes, ...]:
    if extension is None:
        return ()
    identities = _Octets(extension).vector(2)
    found = []
    while identities:
        found.append(identities.opaque(2))
        identities.take(4)  # age of the ticket
    return tuple(found)
