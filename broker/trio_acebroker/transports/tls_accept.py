"""The TLS of an accepted connection: the ClientHello is read first, and what it offers decides which engine goes on.

    accepted ─> greet: read ClientHello, choose the engine, which may take a while ─> establish: the handshake ─> octets

Nothing is sent before there is an engine: octets that begin no TLS connection get no answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeAlias

from trio_acebroker.transports.base import ByteStream
from trio_acebroker.transports.client_hello import ClientHello, ClientHelloError, ClientHelloReader
from trio_acebroker.transports.tls import READ_BYTES_MAX, TlsEngine, TlsError, TlsStream

__all__ = ["AcceptedTlsStream", "EngineChoice"]

#: gives the engine for what a client offers; raises TlsError to refuse it
EngineChoice: TypeAlias = Callable[[ClientHello], Awaitable[TlsEngine]]


class AcceptedTlsStream(TlsStream):
    """A TlsStream that gets its engine by what the client offers. Owns the stream below."""

    def __init__(self, below: ByteStream, choose: EngineChoice, client_hello_bytes_max: int) -> None:
        super().__init__(below, _NoEngine())
        self._choose = choose
        self._client_hello_bytes_max = client_hello_bytes_max

    async def greet(self) -> None:
        """Read the ClientHello and choose the engine; then call `establish`. Raises TlsError, or OSError."""
        reader = ClientHelloReader(self._client_hello_bytes_max)
        hello = None
        while hello is None:
            await self._below.wait_readable()
            try:
                data = self._below.receive_nowait(READ_BYTES_MAX)
            except BlockingIOError:
                continue
            if not data:
                raise TlsError("the connection ended before its ClientHello")
            try:
                hello = reader.feed(data)
            except ClientHelloError as error:
                raise TlsError(str(error)) from None
        self._engine = await self._choose(hello)
        self._engine.feed(bytes(reader.octets))


class _NoEngine:
    """What stands in for an engine until there is one: a connection may end before."""

    version = ""
    peer_certificate_sha256 = peer_public_key = psk_identity = None

    def handshake(self) -> NoReturn:
        raise TlsError("no ClientHello yet")

    def read(self, bytes_max: int) -> NoReturn:
        self.handshake()

    def write(self, data: bytes) -> NoReturn:
        self.handshake()

    def close_notify(self) -> NoReturn:
        self.handshake()

    def export(self, label: bytes, length: int, context: bytes | None) -> NoReturn:
        self.handshake()

    def feed(self, data: bytes) -> NoReturn:
        self.handshake()

    def outgoing(self) -> bytes:
        return b""

    def close(self) -> None:
        pass
