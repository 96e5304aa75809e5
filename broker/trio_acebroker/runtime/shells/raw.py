"""The `raw` shell: one task per connection that waits until its stream is readable, reads, and feeds the pipeline.

Portable and plain, over every ByteStream: the reference for any other shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trio_acebroker.runtime.broker import Broker
    from trio_acebroker.runtime.connection import ConnectionTask

__all__ = ["READ_BYTES_MAX", "RawShell"]

#: most octets read from one connection before others have their turn
READ_BYTES_MAX: Final = 65_536


class RawShell:
    """Reads for all connections of a broker, each in its own task."""

    name = "raw"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def serve(self, task: ConnectionTask) -> None:
        """Read until the end of the stream. Raises the MqttError that ends the connection, OSError when it broke."""
        broker = self._broker
        conn = task.conn
        stream = task.stream
        wait_readable = stream.wait_readable
        receive = stream.receive_nowait
        feed = broker.pipeline.feed
        flush = broker.delivery.flush
        stamp = broker.clock.stamp
        counters = broker.counters
        while True:
            if conn.out_octets > conn.out_octets_max:
                await task.drained()
            await wait_readable()
            try:
                data = receive(READ_BYTES_MAX)
            except BlockingIOError:
                continue
            if not data:
                return
            stamp()
            conn.last_received = broker.clock.now
            counters.octets_received += len(data)
            try:
                pending = feed(conn, data)
                if pending is not None:
                    flush()  # what was done before the hand-off need not wait for it
                    await task.take(pending)
            finally:
                flush()
            if conn.connected and not task.opened:
                await task.after_batch()
