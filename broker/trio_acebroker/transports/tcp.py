"""TCP: listening sockets (IPv4 and IPv6) and the ByteStream over an accepted one."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Awaitable, Iterator
from typing import Final

import trio

__all__ = ["BACKLOG", "TcpListener", "TcpStream", "open_listener"]

#: connections that the kernel may hold for us before we accept them
BACKLOG: Final = 4_096
#: connections taken at most per wake-up, so that a storm does not starve those that are connected
ACCEPT_BATCH_MAX: Final = 64

#: accepted sockets take TCP_NODELAY from the listening one
NODELAY_INHERITED: Final = sys.platform == "linux"

#: accept() failed for want of something: wait for it to come back
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class TcpStream:
    """A ByteStream over a connected socket, which it owns."""

    __slots__ = ("_sock", "_waited", "fileno", "peer", "peer_host", "receive_nowait", "send_nowait")

    def __init__(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self._sock = sock
        self._waited = False
        self.fileno: int = sock.fileno()
        self.peer_host: str = address[0]
        self.peer: str = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        # the socket's own methods: one call less for every read and write
        self.receive_nowait = sock.recv
        self.send_nowait = sock.send

    def wait_readable(self) -> Awaitable[None]:
        """See the port."""
        self._waited = True
        return trio.lowlevel.wait_readable(self.fileno)  # noqa: ASYNC105 - awaited by the caller, one frame less

    def wait_writable(self) -> Awaitable[None]:
        """See the port."""
        self._waited = True
        return trio.lowlevel.wait_writable(self.fileno)  # noqa: ASYNC105

    def end_of_stream(self) -> None:
        """See the port."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See the port."""
        if self._sock.fileno() >= 0:
            if self._waited:
                trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self.fileno = -1  # whoever waits for it now must not wait for another one with the same number


class TcpListener:
    """A socket with an address to listen on, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @property
    def address(self) -> tuple[str, int]:
        """What it is bound to."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def listen(self) -> None:
        """Let clients in. Raises OSError when somebody else came first."""
        self._sock.listen(BACKLOG)

    async def wait(self) -> None:
        """Return when somebody is there to be accepted."""
        await trio.lowlevel.wait_readable(self._sock)

    def accept(self) -> Iterator[TcpStream]:
        """Those who are there, at most ACCEPT_BATCH_MAX. Raises OSError when the process has no room for more."""
        for _ in range(ACCEPT_BATCH_MAX):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    raise
                continue  # gone before we came
            sock.setblocking(False)
            if not NODELAY_INHERITED:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield TcpStream(sock, address[:2])

    def close(self) -> None:
        """Stop listening."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def open_listener(host: str, port: int) -> list[TcpListener]:
    """Take every address that the host stands for; `listen` begins. Port 0 takes one free port. Raises OSError."""
    listeners: list[TcpListener] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            listeners.append(TcpListener(sock))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(listeners) > 1:
                address = (address[0], listeners[0].address[1], *address[2:])
            sock.bind(address)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners
