"""ByteStream: the port between shells and whatever carries octets.

Reading and writing never wait; waiting is apart. So one send per round, of whatever has piled up,
is possible over every transport, TLS included, and a shell of any kind can drive it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

__all__ = ["ByteStream"]


class ByteStream(Protocol):
    """One end of a connection. Whoever made it closes it."""

    @property
    def peer(self) -> str:
        """Address of the other end, as text; empty in process."""
        ...

    @property
    def peer_host(self) -> str:
        """What limits per source address count by; empty where there is no such thing."""
        ...

    def receive_nowait(self, bytes_max: int) -> bytes:
        """What has arrived, at most `bytes_max` octets; empty at the end of the stream.

        Raises BlockingIOError when nothing is there, OSError when the connection broke.
        """
        ...

    def send_nowait(self, data: bytes) -> int:
        """Hand over octets; gives how many were taken. Raises BlockingIOError for none, OSError when it broke."""
        ...

    def wait_readable(self) -> Awaitable[None]:
        """Return when `receive_nowait` would not raise BlockingIOError. Raises OSError or ClosedResourceError."""
        ...

    def wait_writable(self) -> Awaitable[None]:
        """Return when `send_nowait` would take something."""
        ...

    def end_of_stream(self) -> None:
        """Say that nothing more will be sent; receiving goes on. Harmless on a broken stream."""
        ...

    def close(self) -> None:
        """Close at once; harmless when closed. What was taken by `send_nowait` is still delivered if it can be."""
        ...
