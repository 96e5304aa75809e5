"""The `raw` shell: one task per connection that waits until its stream is readable, reads, and feeds the pipeline.

Portable and plain, over every ByteStream: the reference for any other shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_acebroker.runtime.shells.base import READ_BYTES_MAX

if TYPE_CHECKING:
    from trio_acebroker.runtime.broker import Broker
    from trio_acebroker.runtime.connection import ConnectionTask

__all__ = ["RawShell"]


class RawShell:
    """Reads for all connections of a broker, each in its own task."""

    name = "raw"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: connections for which a task waits until they can be written to, and who waits for that task
        self._writing: dict[ConnectionTask, trio.lowlevel.ParkingLot] = {}
        #: set, and replaced, when a pause of all that send is over
        self._may_go_on = trio.Event()
        broker.pressure.resumed.append(self._resumed)

    def start(self, task: ConnectionTask) -> None:
        """See the port."""
        task.attend()

    async def serve(self, task: ConnectionTask) -> None:
        """See the port."""
        broker = self._broker
        conn = task.conn
        stream = task.stream
        wait_readable = stream.wait_readable
        receive = stream.receive_nowait
        feed = broker.pipeline.feed
        flush = broker.delivery.flush
        stamp = broker.clock.stamp
        counters = broker.counters
        pressure = broker.pressure
        await task.establish()
        while True:
            if conn.out_octets > conn.out_octets_max:
                await self._drained(task)
            if pressure.paused and pressure.holds(conn):
                await self._may_go_on.wait()
                conn.last_received = broker.clock.now
            await wait_readable()
            if pressure.paused and pressure.holds(conn):
                continue
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
            if conn.connected and not task.opened and task.open():
                await task.tell_opened()

    def _resumed(self) -> None:
        self._may_go_on.set()
        self._may_go_on = trio.Event()

    def want_writable(self, task: ConnectionTask) -> None:
        """See the port."""
        if task not in self._writing and not task.ending:
            assert task.nursery is not None
            self._writing[task] = trio.lowlevel.ParkingLot()
            task.nursery.start_soon(self._write, task)

    async def _write(self, task: ConnectionTask) -> None:
        delivery = self._broker.delivery
        written = self._writing[task]
        try:
            while True:
                await task.stream.wait_writable()
                delivery.writable(task.conn)
                delivery.flush()  # may block it again, with what waited in a group
                written.unpark_all()
                if not task.conn.blocked:
                    return
        finally:
            del self._writing[task]

    async def _drained(self, task: ConnectionTask) -> None:
        """Return when the out-queue is within its bound: who takes no answers is not asked for more."""
        while task.conn.out_octets > task.conn.out_octets_max and task in self._writing:
            await self._writing[task].park()

    def silence(self, task: ConnectionTask) -> None:
        """See the port: cancelling the task is enough."""
