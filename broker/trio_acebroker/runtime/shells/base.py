"""Shell: the port between connections and the way in which their octets are read.

A shell serves connections over streams of one kind. What it reads goes to the pipeline, one batch after the
other; errors and the end of a stream end the connection by its ConnectionTask; after each round it flushes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from trio_acebroker.runtime.connection import ConnectionTask

__all__ = ["READ_BYTES_MAX", "Shell"]

#: most octets read from one connection before others have their turn
READ_BYTES_MAX: Final = 65_536


class Shell(Protocol):
    """One way to read. Its methods are called by a ConnectionTask or by the broker."""

    name: str

    def start(self, task: ConnectionTask) -> None:
        """Begin to serve a connection that was just accepted."""
        ...

    async def serve(self, task: ConnectionTask) -> None:
        """The part of the connection's task between its beginning and its end.

        Raises the MqttError that ends the connection, OSError when it broke; returns at the end of the stream.
        """
        ...

    def want_writable(self, task: ConnectionTask) -> None:
        """Call `Delivery.writable` when the stream takes octets again."""
        ...

    def silence(self, task: ConnectionTask) -> None:
        """Neither read nor write this connection any more; harmless when repeated."""
        ...
