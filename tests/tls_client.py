"""A client over any of our TLS engines: what `WireClient` needs, and both ends of a handshake in memory."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import trio

from tests.harness import WireClient
from trio_acebroker.transports.base import ByteStream
from trio_acebroker.transports.tcp import TcpStream
from trio_acebroker.transports.tls import TlsEngine, TlsStream

__all__ = ["TlsClient", "client_over"]


class TlsClient:
    """The client's end of a TLS connection. Owns everything below."""

    def __init__(self, below: ByteStream, engine: TlsEngine) -> None:
        self.tls = engine
        self._stream = TlsStream(below, engine)

    @classmethod
    async def open(cls, address: tuple[str, int], engine: TlsEngine) -> TlsClient:
        """Connect over TCP, and shake hands. Raises OSError where the other side refuses."""
        sock = socket.create_connection(address)  # at once: the broker listens on loopback
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(TcpStream(sock, address), engine)
        try:
            with trio.fail_after(10):
                await client._stream.establish()
        except BaseException:
            client._stream.close()
            raise
        return client

    async def send_all(self, data: bytes) -> None:
        """As of a Trio stream."""
        try:
            while data:
                try:
                    data = data[self._stream.send_nowait(data) :]
                except BlockingIOError:
                    pass
                if data:
                    await self._stream.wait_writable()
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As of a Trio stream."""
        while True:
            try:
                return self._stream.receive_nowait(max_bytes or 65_536)
            except BlockingIOError:
                await self._stream.wait_readable()
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Cut the connection."""
        self._stream.close()
        await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def client_over(
    engine: TlsEngine, address: tuple[str, int], client_identifier: str, version: int = 5
) -> AsyncIterator[WireClient]:
    """An MQTT client that was accepted, for the length of a block."""
    async with WireClient(await TlsClient.open(address, engine), version) as client:
        await client.connect(client_identifier)
        yield client
