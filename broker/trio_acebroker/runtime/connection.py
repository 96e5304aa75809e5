"""One client, one nursery: from accept to the last octet.

    accepted ─> reading (a shell) ─┬─ end of stream ──────────┐
                                   ├─ MqttError (pipeline) ───┤
                                   ├─ `end` from outside ─────┼─> settled ─> answer ─> drain ─> closed
                                   ├─ a child raised ─────────┤
                                   └─ cancelled ──────────────┘

This is the one place that turns an error into CONNACK or DISCONNECT. What becomes of the session and
its Will is decided before anything is awaited. Errors of a subscriber's socket belong to the
subscriber's task: its own reading meets them.

Statements: [MQTT-3.1.2-22], [MQTT-3.1.4-1], [MQTT-3.2.2-7], [MQTT-3.14.1-1], [MQTT-4.13.1-1], [MQTT-4.13.2-1].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from acebroker_codec.directions import REASON_CODES
from acebroker_codec.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolViolation,
    ReasonCode,
    UnsupportedProtocolVersion,
    connect_return_code,
)
from acebroker_codec.packets import Connack, Disconnect, PacketType
from acebroker_codec.protocol import State
from acebroker_middleware.connection import CloseReason, Connection
from acebroker_middleware.errors import (
    ClientDisconnected,
    ConnectionRefused,
    KeepAliveTimeout,
    ServerShuttingDown,
    StageFailure,
)
from acebroker_middleware.hand_offs import stage_guarded
from acebroker_middleware.state.ports import Timer
from trio_acebroker.transports.base import ByteStream
from trio_acebroker.transports.tls import TlsError
from trio_acebroker.transports.tls_accept import AcceptedTlsStream

if TYPE_CHECKING:
    from trio_acebroker.runtime.broker import Broker
    from trio_acebroker.runtime.shells.base import Shell

__all__ = ["ConnectionTask"]

#: `closed` of all stages together, and the last octets of a connection that ends before its broker
CLOSING_SECONDS_MAX: Final = 1.0
#: a packet that comes at least as fast keeps its connection alive before it is complete
KEEP_ALIVE_BYTES_PER_SECOND: Final = 1_000
#: a client that is too slow to connect has nothing to be told
_NOT_CONNECTED: Final = "no CONNECT in time"

logger = logging.getLogger("trio_acebroker.connection")


class ConnectionTask:
    """One client's connection, as the runtime holds it: owner of its stream and of its nursery.

    A shell drives it. `raw` starts `run` at once, and the task reads; `pump` reads by itself, and starts `run` when
    something has to be awaited for this client for the first time, or when its end takes time. `end` may be called
    by anybody, at any time.
    """

    __slots__ = (
        "_answered",
        "_connect_timer",
        "_error",
        "_handing_off",
        "_keep_alive_timer",
        "_scope",
        "_settled",
        "broker",
        "conn",
        "ending",
        "nursery",
        "opened",
        "shell",
        "stream",
    )

    def __init__(self, broker: Broker, shell: Shell, stream: ByteStream, conn: Connection) -> None:
        self.broker = broker
        self.shell = shell
        self.stream = stream
        self.conn = conn
        #: lives while `run` reads; children of stages are in it
        self.nursery: trio.Nursery | None = None
        #: CONNACK 0 was sent, and everybody knows
        self.opened = False
        #: nothing more is read
        self.ending = False
        self._error: MqttError | None = None
        self._handing_off = False
        #: of `run`, from its beginning; None: no task belongs to this connection
        self._scope: trio.CancelScope | None = None
        self._keep_alive_timer: Timer | None = None
        self._answered = False
        self._settled = False
        conn.end = self.end
        conn.transmit = stream.send_nowait
        conn.drain = broker.delivery.send
        conn.want_writable = partial(shell.want_writable, self)
        self._connect_timer: Timer | None = broker.timers.call_at(
            conn.started + broker.config.limits.connect_timeout_seconds, self._connect_timeout
        )

    # ---- the task ----

    def attend(self) -> None:
        """Start the task; harmless when it runs."""
        if self._scope is None:
            self._scope = trio.CancelScope()
            self.broker.spawn(self.run, f"connection {self.conn.peer}")

    async def run(self) -> None:
        """Serve until the end of the connection; cancellation closes it."""
        assert self._scope is not None
        try:
            with self._scope:
                if not self._settled:
                    await self._serve()
        finally:
            self.settle()
            self.broker.delivery.flush()
            deadline = trio.current_time() + CLOSING_SECONDS_MAX
            try:
                with trio.CancelScope(shield=True, deadline=deadline):
                    await self._tell_closed()
                stopping = self.broker.stopping  # then `drain_seconds_max` bounds all connections together
                with trio.CancelScope(shield=not stopping, deadline=math.inf if stopping else deadline):
                    await self._drain()
            finally:
                self._closed()

    async def _serve(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                try:
                    await self.shell.serve(self)
                except MqttError as error:
                    self.ended_by(error)
                except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                    pass  # the peer is gone
                finally:
                    self.ending = True  # the nursery takes no more children
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # only children of stages are left to raise here
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None:
                logger.error("a task of a stage failed", exc_info=failed, extra=self._who())
                self.ended_by(StageFailure("a task of a stage failed"))
            if cancelled is not None:
                raise cancelled from None

    def end(self, error: MqttError) -> None:
        """End this connection with an error; the first one counts."""
        self.ended_by(error)
        self._stop()

    def _stop(self) -> None:
        """Cancel the task, which does the rest."""
        self.ending = True
        self.shell.silence(self)
        self.attend()
        assert self._scope is not None
        self._scope.cancel()

    def ended_by(self, error: MqttError) -> None:
        """Its own batch ended it; the first error counts. The cause of a stage's failure is logged."""
        if self._error is None:
            self._error = error
        if isinstance(error, StageFailure) and error.__cause__ is not None:
            logger.error("%s", error.detail, exc_info=error.__cause__, extra=self._who())

    def finish(self, error: MqttError | None) -> bool:
        """A shell met the end: an error of its batch, or the end of the stream.

        True when it is closed: no task belongs to it, and nothing has to be waited for. Else its task does the rest.
        """
        if error is not None:
            self.ended_by(error)
        if self._scope is None:
            self.settle()
            if not self.conn.out and not self._answered:
                self._closed()
                return True
        self._stop()
        return False

    def _closed(self) -> None:
        self.stream.close()
        self.broker.delivery.forget(self.conn)
        if self._error is not None:
            self._error.__traceback__ = None  # whose frames hold the error, and this
            self._error = None

    async def establish(self) -> None:
        """Make the stream ready, TLS with others in turn. Raises OSError when that fails."""
        stream = self.stream
        if isinstance(stream, AcceptedTlsStream):
            try:
                await stream.greet()
                await self.broker.handshakes.run(stream.establish)
            except TlsError as error:
                self.broker.counters.denials["tls: handshake"] += 1
                logger.info("TLS handshake failed: %s", error, extra=self._who())
                raise
            self.conn.tls = stream.tls

    async def take(self, pending: Awaitable[None]) -> None:
        """Await a hand-off within its deadline. Nothing is read meanwhile, and Keep Alive stands still."""
        self._handing_off = True
        try:
            with trio.fail_after(self.broker.config.limits.hand_off_seconds_max):
                await pending
        except trio.TooSlowError:
            late = f"stage {self.conn.handed_to} took too long"
            logger.error(late, extra=self._who())
            raise StageFailure(late) from None
        finally:
            self._handing_off = False
            self.broker.clock.stamp()
            self.conn.last_received = self.broker.clock.now

    def open(self) -> bool:
        """CONNACK 0 was queued: other timers from now on. True when stages have to be told, by `tell_opened`."""
        self.opened = True
        conn = self.conn
        if self._connect_timer is not None:
            self._connect_timer.cancel()
            self._connect_timer = None
        self.broker.authenticated(self)
        if conn.keep_alive:
            self._watch_keep_alive()
        return bool(self.broker.lifecycle)

    async def tell_opened(self) -> None:
        """Tell every stage that follows connections."""
        assert self.nursery is not None
        for stage in self.broker.lifecycle:
            if hasattr(stage, "opened"):
                self.conn.handed_to = stage.name
                await self.take(stage_guarded(stage.name, stage.opened(self.conn, self.nursery)))

    # ---- time ----

    def _connect_timeout(self) -> None:
        if not self.conn.connected:
            self.end(ProtocolViolation(_NOT_CONNECTED))

    def _watch_keep_alive(self) -> None:
        """One and a half times the Keep Alive after the last packet [MQTT-3.1.2-22].

        A large one may take longer, while it comes at `KEEP_ALIVE_BYTES_PER_SECOND`.
        """
        conn = self.conn
        if self._handing_off or self.broker.pressure.holds(conn):  # it may have sent what we do not read
            conn.last_received = conn.tail_since = self.broker.clock.now
        last = conn.last_received
        if conn.tail:
            last = min(last, conn.tail_since + len(conn.tail) / KEEP_ALIVE_BYTES_PER_SECOND)
        deadline = last + conn.keep_alive * 1.5
        if deadline <= self.broker.clock.now:
            self.end(KeepAliveTimeout(f"nothing came for {conn.keep_alive * 1.5:g} seconds"))
        else:
            self._keep_alive_timer = self.broker.timers.call_at(deadline, self._watch_keep_alive)

    # ---- the end ----

    def settle(self) -> None:
        """Everything that must be settled before the first await of the end; once."""
        if self._settled:
            return
        self._settled = self.ending = True
        self.shell.silence(self)
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
        broker.expiry.settled(conn)
        broker.gone(self)
        before = len(conn.out)
        try:
            self._answer(self._error)
        except Exception:
            logger.exception("a client could not be told why", extra=self._who())
        self._answered = len(conn.out) > before
        conn.release()
        if not conn.blocked:
            broker.delivery.send(conn)
        broker.delivery.forget(conn)
        level = logging.DEBUG if self._error is None or isinstance(self._error, ClientDisconnected) else logging.INFO
        logger.log(level, "closed: %s", reason, extra=self._who())

    def _answer(self, error: MqttError | None) -> None:
        """Tell the client why, in the way of its version and of the moment."""
        conn = self.conn
        if error is None or isinstance(error, ClientDisconnected) or conn.closed:
            return
        if conn.connected:
            if conn.v5:
                self._say(Disconnect(_spoken(PacketType.DISCONNECT, error)), error)
            return
        if isinstance(error, UnsupportedProtocolVersion):
            if not error.name_known:
                return
        elif conn.protocol.state not in (State.AWAITING_CONNACK, State.AUTHENTICATING):
            return
        if conn.v5:
            self._say(Connack(False, _spoken(PacketType.CONNACK, error)), error)
            return
        return_code = connect_return_code(error.reason_code)
        if return_code is not None:
            conn.send(Connack(False, return_code))

    def _say(self, packet: Connack | Disconnect, error: MqttError) -> None:
        """Send the packet with what there is to say beside the code, where there is room for that."""
        conn = self.conn
        if isinstance(packet, Connack) and isinstance(error, ConnectionRefused) and error.user_properties:
            refusal = replace(packet.properties, user_properties=error.user_properties)
            if conn.send(replace(packet, properties=refusal)):
                return
        if error.detail and isinstance(error, MalformedPacket | ProtocolViolation | PacketTooLarge):
            properties = replace(packet.properties, reason_string=error.detail)
            if conn.problem_information and conn.send(replace(packet, properties=properties)):
                return
        conn.send(packet)

    async def _tell_closed(self) -> None:
        for stage in self.broker.lifecycle:
            if self.opened and hasattr(stage, "closed"):
                try:
                    await stage.closed(self.conn, CloseReason(self._error))
                except Exception:
                    logger.exception("stage %s failed in closed", stage.name, extra=self._who())

    async def _drain(self) -> None:
        """Send what is queued, and let the client read it."""
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


def _spoken(packet_type: PacketType, error: MqttError) -> int:
    """The reason code of an error, or the nearest one that the packet may carry (table 2-6)."""
    code = error.reason_code
    if code >= 0x80 and code in REASON_CODES[packet_type]:
        return code
    return ReasonCode.SERVER_UNAVAILABLE if isinstance(error, ServerShuttingDown) else ReasonCode.UNSPECIFIED_ERROR
