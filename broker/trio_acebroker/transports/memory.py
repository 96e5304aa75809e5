"""Connections inside the process, for tests and embedders: no socket, no clock, bounded buffers.

client = MemoryClient  ── octets ──>  MemoryStream (a ByteStream for the broker)
                       <── octets ──
"""

from __future__ import annotations

from typing import Final

import trio

__all__ = ["BUFFER_BYTES_MAX", "MemoryClient", "MemoryStream", "memory_connection"]

#: octets that one direction holds before the sender has to wait
BUFFER_BYTES_MAX: Final = 262_144


class _Pipe:
    """One direction."""

    __slots__ = ("buffer", "changed", "closed", "size")

    def __init__(self, size: int) -> None:
        self.buffer = bytearray()
        self.closed = False
        self.size = size
        self.changed = trio.lowlevel.ParkingLot()

    def take(self, bytes_max: int) -> bytes:
        data = bytes(self.buffer[:bytes_max])
        del self.buffer[:bytes_max]
        self.changed.unpark_all()
        return data

    def put(self, data: bytes) -> int:
        taken = data[: self.size - len(self.buffer)]
        self.buffer += taken
        self.changed.unpark_all()
        return len(taken)

    def close(self) -> None:
        self.closed = True
        self.changed.unpark_all()


class MemoryStream:
    """The broker's end: a ByteStream."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False

    @property
    def peer(self) -> str:
        """In process: no address."""
        return ""

    @property
    def peer_host(self) -> str:
        """In process: no address."""
        return ""

    def receive_nowait(self, bytes_max: int) -> bytes:
        """See the port."""
        if self._closed:
            raise OSError("the stream is closed")
        if self._in.buffer:
            return self._in.take(bytes_max)
        if self._in.closed:
            return b""
        raise BlockingIOError

    def send_nowait(self, data: bytes) -> int:
        """See the port."""
        if self._closed or self._out.closed:
            raise BrokenPipeError("the other end is closed")
        taken = self._out.put(data)
        if data and not taken:
            raise BlockingIOError
        return taken

    async def wait_readable(self) -> None:
        """See the port."""
        await trio.lowlevel.checkpoint()
        while not (self._in.buffer or self._in.closed):
            await self._in.changed.park()

    async def wait_writable(self) -> None:
        """See the port."""
        await trio.lowlevel.checkpoint()
        while len(self._out.buffer) >= self._out.size and not self._out.closed:
            await self._out.changed.park()

    def end_of_stream(self) -> None:
        """See the port."""
        self._out.close()

    def close(self) -> None:
        """See the port."""
        self._closed = True
        self._out.close()
        self._in.close()


class MemoryClient(trio.abc.Stream):
    """The client's end: a Trio stream."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; raises BrokenResourceError when the broker has closed."""
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        while rest:
            if self._closed:
                raise trio.ClosedResourceError
            if self._out.closed:
                raise trio.BrokenResourceError("the broker closed the connection")
            rest = rest[self._out.put(rest) :]
            if rest:
                await self._out.changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        """Return when there is room."""
        await trio.lowlevel.checkpoint()
        while len(self._out.buffer) >= self._out.size and not self._out.closed:
            await self._out.changed.park()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived, once something has; empty at the end."""
        await trio.lowlevel.checkpoint()
        while not self._in.buffer:
            if self._closed:
                raise trio.ClosedResourceError
            if self._in.closed:
                return b""
            await self._in.changed.park()
        return self._in.take(max_bytes or BUFFER_BYTES_MAX)

    async def aclose(self) -> None:
        """Close both directions."""
        self._closed = True
        self._out.close()
        self._in.close()
        await trio.lowlevel.checkpoint()


def memory_connection(bytes_max: int = BUFFER_BYTES_MAX) -> tuple[MemoryClient, MemoryStream]:
    """Both ends of a new connection; `bytes_max` octets fit into each direction."""
    upward, downward = _Pipe(bytes_max), _Pipe(bytes_max)
    return MemoryClient(downward, upward), MemoryStream(upward, downward)
