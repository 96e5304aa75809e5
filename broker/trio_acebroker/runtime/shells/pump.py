"""The `pump` shell: one task reads for all TCP connections, from a level-triggered epoll of its own (Linux).

    Trio's loop ──(the pump's epoll is readable)──> round: poll ─> read ─> pipeline ... ─> flush ─┐
         ^                                            │ nothing ready, or little                 │
         └────────────────────────────────────────────┴──── more than YIELD_SECONDS have passed ──┘

A connection costs no task and no system call of waiting while nothing has to be awaited for it. Its own
task and nursery begin when something has: a hand-off, a stage that follows connections, an end that takes time
(`ConnectionTask.run`). Meanwhile it is not read. What a connection raises ends that connection, never the pump.
"""

from __future__ import annotations

import select
import time
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from acebroker_codec.errors import MqttError
from acebroker_middleware.errors import StageFailure
from trio_acebroker.runtime.shells.base import READ_BYTES_MAX
from trio_acebroker.transports.tcp import TcpStream

if TYPE_CHECKING:
    from trio_acebroker.runtime.broker import Broker
    from trio_acebroker.runtime.connection import ConnectionTask

__all__ = ["PumpShell"]

#: most sockets served in one round
EVENTS_MAX: Final = 256
#: how long the pump works before everybody else in this process has a turn
YIELD_SECONDS: Final = 0.001
#: with so few sockets ready, another round at once would find nothing: back to Trio's loop
FEW_EVENTS: Final = 2

_READ: Final = 0x001  # EPOLLIN
_WRITE: Final = 0x004  # EPOLLOUT


class PumpShell:
    """Reads for all connections of a broker in one task, `run`. Owns its epoll: `close` it."""

    name = "pump"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._epoll = select.epoll()
        self._tasks: dict[int, ConnectionTask] = {}
        #: what a connection's task has to await before the connection is read again
        self._work: dict[ConnectionTask, Awaitable[None]] = {}
        #: tasks that run and have nothing to await
        self._parked: dict[ConnectionTask, trio.Event] = {}
        #: not read until all out-queues together are shorter
        self._held: set[ConnectionTask] = set()
        broker.pressure.resumed.append(self._resumed)

    def close(self) -> None:
        """Give the epoll back; nothing is served any more."""
        self._epoll.close()

    # ---- for connections ----

    def start(self, task: ConnectionTask) -> None:
        """See the port."""
        self._watch(task, blocked=False)

    def want_writable(self, task: ConnectionTask) -> None:
        """See the port."""
        self._watch(task, blocked=True)

    def silence(self, task: ConnectionTask) -> None:
        """See the port."""
        self._held.discard(task)
        self._unwatch(task)

    def _unwatch(self, task: ConnectionTask) -> None:
        fd = _fileno(task)
        if self._tasks.get(fd) is task:
            del self._tasks[fd]
            if not self._epoll.closed:
                self._epoll.unregister(fd)

    def _watch(self, task: ConnectionTask, *, blocked: bool) -> None:
        """Wait for what can be done with a connection now.

        One that waits for nothing leaves the epoll, which would go on reporting that its peer has gone.
        """
        if task.ending:
            return
        conn = task.conn
        # who takes no answers is not asked for more
        full = blocked and conn.out_octets > conn.out_octets_max
        mask = (0 if full or task in self._work or task in self._held else _READ) | (_WRITE if blocked else 0)
        fd = _fileno(task)
        if not mask:
            self._unwatch(task)
        elif self._tasks.get(fd) is task:
            self._epoll.modify(fd, mask)
        else:
            self._tasks[fd] = task
            self._epoll.register(fd, mask)

    async def serve(self, task: ConnectionTask) -> None:
        """See the port: await what the pump cannot, one after the other."""
        conn = task.conn
        while True:
            pending = self._work.get(task)
            if pending is None:
                event = self._parked[task] = trio.Event()
                try:
                    await event.wait()
                except trio.Cancelled:
                    if task not in self._work:
                        raise
                    # what ended it also handed something off: that begins, and is cancelled at once
                finally:
                    del self._parked[task]
                continue
            try:
                await task.take(pending)
            finally:
                del self._work[task]
                self._broker.delivery.flush()
            if conn.connected and not task.opened and task.open():
                self._work[task] = task.tell_opened()
            else:
                self._watch(task, blocked=conn.blocked)

    # ---- the task ----

    async def run(self) -> None:
        """Serve for ever."""
        poll = self._epoll.poll
        wait = partial(trio.lowlevel.wait_readable, self._epoll.fileno())
        flush = self._broker.delivery.flush
        now = time.perf_counter
        while True:
            await wait()
            began = now()
            while events := poll(0, EVENTS_MAX):
                self._broker.clock.stamp()
                for fd, mask in events:
                    self._serve(fd, mask)
                    if now() - began > YIELD_SECONDS:
                        flush()
                        await trio.lowlevel.checkpoint()
                        self._broker.clock.stamp()
                        began = now()
                flush()
                if len(events) <= FEW_EVENTS:
                    break

    def _serve(self, fd: int, mask: int) -> None:
        task = self._tasks.get(fd)
        if task is None:
            return
        broker = self._broker
        conn = task.conn
        if mask & _WRITE and broker.delivery.writable(conn):
            self._watch(task, blocked=False)
        if not mask & ~_WRITE or task in self._work or task.ending:
            return
        if broker.pressure.paused and broker.pressure.holds(conn):
            self._held.add(task)
            self._watch(task, blocked=conn.blocked)
            return
        try:
            data = task.stream.receive_nowait(READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(task, None)
            return
        conn.last_received = broker.clock.now
        broker.counters.octets_received += len(data)
        try:
            pending = broker.pipeline.feed(conn, data)
        except MqttError as error:
            self._ended(task, error)
            return
        except Exception as error:
            failure = StageFailure("the pipeline failed")
            failure.__cause__ = error
            self._ended(task, failure)
            return
        if pending is not None:
            self._hand_off(task, pending)
        elif not task.opened and conn.connected and task.open():
            self._hand_off(task, task.tell_opened())
        elif conn.blocked and conn.out_octets > conn.out_octets_max:
            self._watch(task, blocked=True)

    def _resumed(self) -> None:
        held, self._held = self._held, set()
        for task in held:
            task.conn.last_received = self._broker.clock.now
            self._watch(task, blocked=task.conn.blocked)

    def _hand_off(self, task: ConnectionTask, pending: Awaitable[None]) -> None:
        self._work[task] = pending
        self._watch(task, blocked=task.conn.blocked)
        parked = self._parked.get(task)
        if parked is not None:
            parked.set()
        else:
            task.attend()

    def _ended(self, task: ConnectionTask, error: MqttError | None) -> None:
        if task.ending:  # by what it has read: its own task does the rest
            return
        fd = _fileno(task)
        del self._tasks[fd]
        if not task.finish(error):  # else closed, and with that out of the epoll
            self._epoll.unregister(fd)


def _fileno(task: ConnectionTask) -> int:
    stream = task.stream
    assert isinstance(stream, TcpStream)
    return stream.fileno
