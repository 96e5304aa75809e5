"""TLS as a ByteStream: a sans-I/O engine between the plain octets of MQTT and the stream below.

    shell ── receive_nowait ──  engine.read  <── engine.feed     <── receive_nowait ── stream below
          ── send_nowait ────>  engine.write ──> engine.outgoing ──> send_nowait ────> stream below

An engine knows one TLS library and no socket. Sending keeps the port's promise that what was taken has left: the last
octet counts as taken only when all ciphertext is out, so that a flush that was cut short is asked for again.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from acebroker_middleware.state.ports import TlsSession
from trio_acebroker.transports.base import ByteStream

__all__ = ["READ_BYTES_MAX", "TlsEngine", "TlsError", "TlsFilesError", "TlsStream", "WantRead"]

#: plain octets put into the engine at once; the ciphertext of so many waits when the stream below takes none
WRITE_BYTES_MAX: Final = 262_144
#: octets read from the stream below at once
READ_BYTES_MAX: Final = 65_536


class TlsError(OSError):
    """The TLS connection failed, or ended without saying so: it is as broken as a broken socket. Holds no secret."""


class TlsFilesError(Exception):
    """A certificate, key, CA or CRL file cannot be used; the message names the file, and nothing that stands in it."""


class WantRead(Exception):
    """The engine needs octets from the other side first."""


class TlsEngine(TlsSession, Protocol):
    """One TLS connection without I/O. Every method but `feed`, `outgoing` and `close` may raise TlsError."""

    def handshake(self) -> None:
        """Go on with the handshake. Raises WantRead until it is complete."""
        ...

    def read(self, bytes_max: int) -> bytes:
        """Plain octets; empty at the orderly end. Raises WantRead where there are none."""
        ...

    def write(self, data: bytes) -> None:
        """Encrypt all of `data`."""
        ...

    def close_notify(self) -> None:
        """Say the orderly end of our direction."""
        ...

    def feed(self, data: bytes) -> None:
        """Octets from below; empty at their end."""
        ...

    def outgoing(self) -> bytes:
        """Octets for below, maybe none."""
        ...

    def close(self) -> None:
        """Free what the library holds; harmless when repeated."""
        ...


class TlsStream:
    """A ByteStream that owns the stream below and the engine."""

    def __init__(self, below: ByteStream, engine: TlsEngine) -> None:
        self._below = below
        self._engine = engine
        self._ciphertext = b""
        self._owed = 0
        self._readable = False

    @property
    def peer(self) -> str:
        """See the port."""
        return self._below.peer

    @property
    def peer_host(self) -> str:
        """See the port."""
        return self._below.peer_host

    @property
    def tls(self) -> TlsEngine:
        """What the TLS session proves, once `establish` has returned."""
        return self._engine

    async def establish(self) -> None:
        """Carry the handshake to its end, first of all. Raises TlsError, after an alert if there is one, or OSError."""
        while True:
            try:
                self._engine.handshake()
            except WantRead:
                await self._flush()
                await self._below.wait_readable()
                self._take(READ_BYTES_MAX)
                continue
            except TlsError:
                await self._flush()
                raise
            await self._flush()
            self._readable = True  # the engine may hold what came with the end of the handshake
            return

    async def _flush(self) -> None:
        while not self._push():
            await self._below.wait_writable()

    def _push(self) -> bool:
        """Send what the engine has for below; True when nothing of it is left."""
        data = self._ciphertext + self._engine.outgoing() if self._ciphertext else self._engine.outgoing()
        while data:
            try:
                data = data[self._below.send_nowait(data) :]
            except BlockingIOError:
                break
        self._ciphertext = data
        return not data

    def _take(self, bytes_max: int) -> None:
        """Feed the engine from below; BlockingIOError where there is nothing."""
        self._engine.feed(self._below.receive_nowait(bytes_max))

    def receive_nowait(self, bytes_max: int) -> bytes:
        """See the port."""
        parts: list[bytes] = []
        size = 0
        if not self._readable:  # the engine has said so
            self._take(bytes_max)
        while size < bytes_max:
            try:
                part = self._engine.read(bytes_max - size)
            except WantRead:
                self._readable = False
                if parts:
                    break
                self._take(bytes_max)
                continue
            except TlsError:
                self._push()
                self._readable = True  # it fails again, when what came before it was taken
                if parts:
                    break
                raise
            if not part:
                self._readable = True  # and stays so
                break
            parts.append(part)
            size += len(part)
        else:
            self._readable = True
        if self._ciphertext or size:  # reading may have made something to send: an alert, an update of keys
            self._push()
        return b"".join(parts)

    def send_nowait(self, data: bytes) -> int:
        """See the port: what was not taken is handed over again, at the front."""
        if not self._push():
            raise BlockingIOError
        owed, self._owed = self._owed, 0
        taken = data[owed : owed + WRITE_BYTES_MAX]
        if taken:
            self._engine.write(taken)
            if not self._push():
                self._owed = 1
                return owed + len(taken) - 1
        return owed + len(taken)

    async def wait_readable(self) -> None:
        """See the port."""
        if self._readable:
            await trio.lowlevel.checkpoint()
            return
        await self._below.wait_readable()

    async def wait_writable(self) -> None:
        """See the port."""
        await self._below.wait_writable()

    def end_of_stream(self) -> None:
        """See the port."""
        try:
            self._engine.close_notify()
            self._push()
        except OSError:
            pass
        self._below.end_of_stream()

    def close(self) -> None:
        """See the port."""
        self._engine.close()
        self._below.close()
