"""One client, one task, one nursery: from accept to the last octet.

    accepted ─> reading (a shell) ─┬─ end of stream ──────────┐
                                   ├─ MqttError (pipeline) ───┤
                                   ├─ `end` from outside ─────┼─> session decides ─> answer ─> drain ─> closed
                                   ├─ a child raised ─────────┤
                                   └─ cancelled ──────────────┘

This is the one place that turns an error into CONNACK or DISCONNECT. What becomes of the session and
its Will is decided before anything is awaited. Errors of a subscriber's socket belong to the
subscriber's task: its own reading meets them.

Statements: [MQTT-3.1.2-22], [MQTT-3.1.4-1], [MQTT-3.2.2-7], [MQTT-3.14.1-1], [MQTT-4.13.1-1], [MQTT-4.13.2-1].
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from acebroker_codec.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolViolation,
    UnsupportedProtocolVersion,
    connect_return_code,
)
from acebroker_codec.packets import Connack, Disconnect
from acebroker_codec.protocol import State
from acebroker_middleware.connection import CloseReason, Connection
from acebroker_middleware.errors import ClientDisconnected, KeepAliveTimeout, StageFailure
from acebroker_middleware.hand_offs import stage_guarded
from acebroker_middleware.state.ports import Fenced, Timer, Unavailable
from trio_acebroker.transports.base import ByteStream

if TYPE_CHECKING:
    from trio_acebroker.runtime.broker import Broker

__all__ = ["ConnectionTask"]

#: `closed` of all stages together, and the last octets of a connection that ends
CLOSING_SECONDS_MAX: Final = 1.0
#: a client that is too slow to connect has nothing to be told
_NOT_CONNECTED: Final = "no CONNECT in time"

logger = logging.getLogger("trio_acebroker.connection")


class ConnectionTask:
    """Owns the stream and the nursery of one client. `run` is the task; `end` may be called by anybody."""

    def __init__(self, broker: Broker, stream: ByteStream, conn: Connection) -> None:
        self.broker = broker
        self.stream = stream
        self.conn = conn
        self.nursery: trio.Nursery | None = None
        self._error: MqttError | None = None
        self._scope = trio.CancelScope()
        self._connect_timer: Timer | None = None
        self._keep_alive_timer: Timer | None = None
        self._written = trio.lowlevel.ParkingLot()
        self._opened = False
        self._answered = False
        conn.end = self.end
        conn.transmit = stream.send_nowait
        conn.want_writable = self._want_writable
        conn.drain = broker.delivery.send

    async def run(self) -> None:
        """Serve until the end of the connection; cancellation closes it."""
        limits = self.broker.config.limits
        self._connect_timer = self.broker.timers.call_at(
            self.conn.started + limits.connect_timeout_seconds, self._connect_timeout
        )
        try:
            with self._scope:
                await self._read()
        finally:
            self._decide()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING_SECONDS_MAX):
                await self._close()
            self.stream.close()

    def end(self, error: MqttError) -> None:
        """End this connection with an error; the first one counts."""
        self._ended_by(error)
        self._scope.cancel()

    # ---- reading ----

    async def _read(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                try:
                    await self.broker.shell.serve(self)
                except MqttError as error:
                    self._ended_by(error)
                except (Fenced, Unavailable) as error:
                    self._ended_by(StageFailure(f"the store: {type(error).__name__}"))
                except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                    pass  # the peer is gone
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # only children of stages are left to raise here
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None:
                logger.error("a task of a stage failed", exc_info=failed, extra=self._who())
                self._ended_by(StageFailure("a task of a stage failed"))
            if cancelled is not None:
                raise cancelled from None

    def _ended_by(self, error: MqttError) -> None:
        if self._error is None:
            self._error = error
        if isinstance(error, StageFailure) and error.__cause__ is not None:
            logger.error("%s", error.detail, exc_info=error.__cause__, extra=self._who())

    async def take(self, pending: Awaitable[None]) -> None:
        """Await a hand-off within its deadline."""
        try:
            with trio.fail_after(self.broker.config.limits.hand_off_seconds_max):
                await pending
        except trio.TooSlowError:
            raise StageFailure("a stage took too long") from None

    async def after_batch(self) -> None:
        """CONNACK 0 was queued for the first time: timers change, and stages are told."""
        self._opened = True
        conn = self.conn
        if self._connect_timer is not None:
            self._connect_timer.cancel()
        self.broker.authenticated(self)
        if conn.keep_alive:
            self._watch_keep_alive()
        if self.broker.lifecycle:
            assert self.nursery is not None
            for stage in self.broker.lifecycle:
                if hasattr(stage, "opened"):
                    await self.take(stage_guarded(stage.name, stage.opened(conn, self.nursery)))

    @property
    def opened(self) -> bool:
        """`after_batch` was called."""
        return self._opened

    def _want_writable(self) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._write_when_writable)

    async def _write_when_writable(self) -> None:
        while True:
            await self.stream.wait_writable()
            self.conn.want_writable = _nothing
            try:
                finished = self.broker.delivery.writable(self.conn)
                self.broker.delivery.flush()
            finally:
                self.conn.want_writable = self._want_writable
            self._written.unpark_all()
            if finished:
                return

    async def drained(self) -> None:
        """Return when the out-queue is within its bound: who takes no answers is not asked for more."""
        while self.conn.out_octets > self.conn.out_octets_max:
            await self._written.park()

    # ---- time ----

    def _connect_timeout(self) -> None:
        if not self.conn.connected:
            self.end(ProtocolViolation(_NOT_CONNECTED))

    def _watch_keep_alive(self) -> None:
        """One and a half times the Keep Alive after the last octet [MQTT-3.1.2-22]."""
        conn = self.conn
        deadline = conn.last_received + conn.keep_alive * 1.5
        if deadline <= self.broker.clock.now:
            self.end(KeepAliveTimeout(f"nothing came for {conn.keep_alive * 1.5:g} seconds"))
        else:
            self._keep_alive_timer = self.broker.timers.call_at(deadline, self._watch_keep_alive)

    # ---- the end ----

    def _decide(self) -> None:
        """Everything that must be settled before the first await of the end."""
        conn = self.conn
        broker = self.broker
        broker.clock.stamp()
        for timer in (self._connect_timer, self._keep_alive_timer):
            if timer is not None:
                timer.cancel()
        reason = CloseReason(self._error)
        try:
            broker.session.lost(conn, reason)
        except Exception:
            logger.exception("a session could not be released", extra=self._who())
        broker.gone(self)
        self._answer(self._error)
        self._answered = bool(conn.out) and self._error is not None
        conn.want_writable = _nothing
        broker.delivery.flush()
        level = logging.DEBUG if self._error is None or isinstance(self._error, ClientDisconnected) else logging.INFO
        logger.log(level, "closed: %s", reason, extra=self._who())

    def _answer(self, error: MqttError | None) -> None:
        """Tell the client why, in the way of its version and of the moment."""
        conn = self.conn
        if error is None or isinstance(error, ClientDisconnected) or conn.closed:
            return
        if conn.connected:
            if conn.v5:
                self._say(Disconnect(error.reason_code), error)
            return
        if isinstance(error, UnsupportedProtocolVersion):
            if not error.name_known:
                return
        elif conn.protocol.state not in (State.AWAITING_CONNACK, State.AUTHENTICATING):
            return
        if conn.v5:
            self._say(Connack(False, error.reason_code), error)
            return
        return_code = connect_return_code(error.reason_code)
        if return_code is not None:
            conn.send(Connack(False, return_code))

    def _say(self, packet: Connack | Disconnect, error: MqttError) -> None:
        """Send the packet with a Reason String about what the client itself sent, where there is room for one."""
        conn = self.conn
        if error.detail and isinstance(error, MalformedPacket | ProtocolViolation | PacketTooLarge):
            properties = replace(packet.properties, reason_string=error.detail)
            if conn.problem_information and conn.send(replace(packet, properties=properties)):
                return
        conn.send(packet)

    async def _close(self) -> None:
        for stage in self.broker.lifecycle:
            if self._opened and hasattr(stage, "closed"):
                try:
                    await stage.closed(self.conn, CloseReason(self._error))
                except Exception:
                    logger.exception("stage %s failed in closed", stage.name, extra=self._who())
        conn = self.conn
        while conn.out and not conn.closed:
            try:
                await self.stream.wait_writable()
            except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                return
            self.broker.delivery.writable(conn)
        if self._answered and self.broker.may_linger():
            await self._linger()

    async def _linger(self) -> None:
        """Let the client read our last packet: closing on octets unread would have a reset overtake it."""
        stream = self.stream
        stream.end_of_stream()
        self.broker.lingering += 1
        try:
            while True:
                await stream.wait_readable()
                try:
                    if not stream.receive_nowait(65_536):
                        return
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
            return
        finally:
            self.broker.lingering -= 1

    def _who(self) -> dict[str, str]:
        return {"client_id": self.conn.client_identifier, "peer": self.conn.peer, "listener": self.conn.listener}


def _nothing() -> None:
    return None
