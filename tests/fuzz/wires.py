"""Wires: the client's end of a connection, in memory or over TCP, for clients that never wait."""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

from trio_acebroker.transports.memory import MemoryClient

__all__ = ["MemoryWire", "TcpWire", "Wire"]

#: octets that wait for a client whose connection is narrow
_NARROW_BYTES = 256


class Wire(Protocol):
    """One end. `ended`: the broker closed its end, and everything was taken."""

    ended: bool

    def put(self, octets: bytes) -> int:
        """Send what fits; gives how many octets that were."""
        ...

    def take(self) -> bytes:
        """What has come; empty for nothing."""
        ...

    @property
    def unread(self) -> bool:
        """Whether something that was put is known to lie there unread."""
        ...

    def cut(self) -> None:
        """End the connection, both ways, as a network does."""
        ...


class MemoryWire:
    """Over `Broker.connect`. Where it is narrow, the broker is blocked until the client reads."""

    def __init__(self, stream: MemoryClient, *, narrow: bool) -> None:
        self._up, self._down = stream._out, stream._in
        self.ended = False
        if narrow:
            self._down.size = _NARROW_BYTES

    def put(self, octets: bytes) -> int:
        return 0 if self._up.closed else self._up.put(octets)

    def take(self) -> bytes:
        octets = self._down.take(len(self._down.buffer))
        self.ended = self._down.closed
        return octets

    @property
    def unread(self) -> bool:
        return bool(self._up.buffer)

    def cut(self) -> None:
        self._up.close()
        self._down.close()


class TcpWire:
    """Over a socket, which it owns."""

    unread = False

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setblocking(False)
        # virtual time does not wait until the kernel finds it worthwhile to send
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ended = False

    def put(self, octets: bytes) -> int:
        with contextlib.suppress(OSError):
            return self._socket.send(octets)
        return 0

    def take(self) -> bytes:
        taken = bytearray()
        while not self.ended:
            try:
                octets = self._socket.recv(65_536)
            except BlockingIOError:
                break
            except OSError:
                octets = b""
            taken += octets
            self.ended = not octets
        return bytes(taken)

    def cut(self) -> None:
        self._socket.close()
