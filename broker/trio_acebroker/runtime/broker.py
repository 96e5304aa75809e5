"""Broker: all connections and sessions of one configuration, for a Trio program to embed.

    async with trio.open_nursery() as nursery:
        broker = Broker(BrokerConfig())
        addresses = await nursery.start(broker.serve)
        async with broker.subscribe("greetings/#") as messages:
            await broker.publish("greetings/hello", b"hi")
            async for message in messages: ...

`serve` owns every task, socket and timer. Cancelling it stops accepting, tells MQTT 5 clients 0x8B, lets
queued octets leave within `drain_seconds_max`, and leaves nothing behind. Sessions stay in the store.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import metadata
from typing import Any, Final, NamedTuple, TypeVar

import trio

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, PublishProperties
from acebroker_codec.topics import SharedSubscription, check_topic_filter, check_topic_name
from acebroker_middleware.claims import READ_MAX
from acebroker_middleware.connection import Connection, ConnectionType, DeniedPublish, Round
from acebroker_middleware.errors import ServerShuttingDown
from acebroker_middleware.flows import LocalSubscriber
from acebroker_middleware.observe import Counters
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.ports import Maybe, PskKeys, Store, Stored
from acebroker_middleware.state.retained import RetainedFull
from trio_acebroker.config import BrokerConfig, Listener
from trio_acebroker.runtime.back_pressure import BackPressure
from trio_acebroker.runtime.connection import ConnectionTask
from trio_acebroker.runtime.delivery import Delivery
from trio_acebroker.runtime.errands import Errands
from trio_acebroker.runtime.expiry import end_expired
from trio_acebroker.runtime.handshake_slots import HandshakeSlots
from trio_acebroker.runtime.shells.base import Shell
from trio_acebroker.runtime.shells.pump import PumpShell
from trio_acebroker.runtime.shells.raw import RawShell
from trio_acebroker.runtime.sys_topics import publish_sys_topics
from trio_acebroker.runtime.timers import CoarseClock, Wheel
from trio_acebroker.runtime.tls_identity import TlsIdentity
from trio_acebroker.server import Placed, compose
from trio_acebroker.storage.memory import MemoryStore
from trio_acebroker.transports.base import ByteStream
from trio_acebroker.transports.memory import MemoryClient, memory_connection
from trio_acebroker.transports.tcp import TcpListener, TcpStream, open_listener

__all__ = ["Broker", "MessageStream"]

T = TypeVar("T")

#: sessions of an earlier broker that are removed from the store in one step
SWEEP_SESSIONS_MAX: Final = 1_000
#: messages that an in-process subscription holds for a slow reader
SUBSCRIPTION_MESSAGES_MAX: Final = 10_000
#: connections that have ended and wait, at most a second, for their client to read why
LINGERING_MAX: Final = 1_000
#: how often the files of certificates are looked at
CERTIFICATES_SECONDS: Final = 10.0
#: how long accepting waits at least for its rate: less would be lost in the rounding of the clock
ACCEPT_PAUSE_SECONDS_MIN: Final = 0.001
#: how long accepting rests when the process has no room for another socket
EXHAUSTED_SECONDS: Final = 0.5

logger = logging.getLogger("trio_acebroker.broker")


class MessageStream:
    """An in-process subscription: iterate over it for messages. `dropped` counts those it had no room for."""

    def __init__(self, messages_max: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Message](messages_max)
        self.dropped = 0

    def take(self, message: Message) -> None:
        """Called by the router; never waits."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.dropped += 1

    def close(self) -> None:
        """End the iteration once what is there was read."""
        self._send.close()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._receive.__aiter__()

    async def receive(self) -> Message:
        """The next message; raises trio.EndOfChannel at the end."""
        return await self._receive.receive()


class Door(NamedTuple):
    """What a listener means for each connection that comes in by it, computed once."""

    listener: Listener
    label: str
    shell: Shell
    make: Callable[..., Connection]
    identity: TlsIdentity | None


class Broker:
    """An MQTT broker. Make one for each `serve`.

    Arguments: `stages` are plugins beside those of the configuration, each a stage (put behind `authz`) or
    a pair of a stage and the name of the built-in one it stands behind; one that is an async context manager
    is entered by `serve`. `store` keeps sessions and retained messages (default: in memory; the caller owns one
    that is given). `psk_keys` has the keys of listeners with `tls.pre_shared_keys` (default: those of access tokens).
    `flow_cache=False` sends every packet through every stage. Raises ConfigError.
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        *,
        stages: Sequence[Any] = (),
        store: Store | None = None,
        psk_keys: PskKeys | None = None,
        flow_cache: bool = True,
    ) -> None:
        self.config = BrokerConfig() if config is None else config
        self.clock = CoarseClock()
        self.counters = Counters()
        self.store = MemoryStore() if store is None else store
        self._errands = Errands(self.clock.stamp, self._flush)
        self._round = Round(self.clock, self.config.limits, self.counters, self._errands)
        self.timers = Wheel(self.clock, self._flush)
        placed: list[Placed] = [item if isinstance(item, tuple) else (item, "authz") for item in stages]
        parts = compose(self.config, self._round, self.store, self.timers, placed, flow_cache=flow_cache)
        self.pipeline = parts.pipeline
        self.session = parts.session
        self.router = parts.router
        #: what takes access tokens; None where there is no authorization server
        self.ace = parts.ace
        self._revocation = parts.revocation
        self.pressure = BackPressure(self._round, self.timers)
        self.expiry = parts.expiry
        self.delivery = Delivery(self._round, parts.deliver, self.pressure, self.expiry)
        if psk_keys is None and self.ace is not None:
            psk_keys = self.ace.keys
        self._tls = {
            listener: TlsIdentity(listener.tls, self.config.limits.client_hello_bytes_max, psk_keys)
            for listener in self.config.listeners
            if listener.tls
        }
        self.handshakes = HandshakeSlots(self.config.limits.handshakes_max)
        self._raw = RawShell(self)
        self._pump: PumpShell | None = None
        self.lifecycle = tuple(
            stage for stage in self.pipeline.stages if hasattr(stage, "opened") or hasattr(stage, "closed")
        )
        self.started = 0.0
        self.connections: set[ConnectionTask] = set()
        self._unauthenticated: set[ConnectionTask] = set()
        self._per_address: Counter[str] = Counter()
        self._per_listener: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None
        #: it has been cancelled: connections are ending
        self.stopping = False
        #: connections that wait for their client to read our last packet
        self.lingering = 0

    def __repr__(self) -> str:
        return f"<Broker with {len(self.connections)} connections, {len(self.session.sessions)} sessions>"

    def _flush(self) -> None:
        self.delivery.flush()

    # ---- serving ----

    async def serve(self, task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled. Started with the list of bound (host, port) addresses.

        Raises OSError when an address cannot be listened on; then nothing was started.
        """
        if self._nursery is not None or self.stopping:
            raise RuntimeError("this broker was started before")
        async with AsyncExitStack() as stack:
            for stage in self.pipeline.stages:
                if hasattr(stage, "__aenter__"):
                    await stack.enter_async_context(stage)
            opened = self._open_listeners()
            for _, tcp in opened:
                stack.callback(tcp.close)
            if any(listener.shell_name == "pump" for listener, _ in opened):
                self._pump = PumpShell(self)
                stack.callback(self._pump.close)
            self.clock.stamp()
            self.started = self.clock.now
            finished = trio.Event()
            async with trio.open_nursery() as nursery:
                await nursery.start(self._host, finished)
                try:
                    await self._load()
                    self._listen(opened)
                    async with trio.open_nursery() as workers:
                        for listener, tcp in opened:
                            workers.start_soon(self._accept, listener, tcp)
                        task_status.started([tcp.address for _, tcp in opened])
                        await trio.sleep_forever()
                finally:
                    self.stopping = True
                    finished.set()

    def reload_certificates(self, *, only_if_changed: bool = False) -> int:
        """Load the files of every TLS listener again; gives how many listeners use new ones now.

        Connections that are open keep theirs. Files that cannot be used are logged, and what was loaded stays.
        """
        return sum(identity.reload(only_if_changed=only_if_changed) for identity in self._tls.values())

    async def _watch_certificates(self) -> None:
        while True:
            await trio.sleep(CERTIFICATES_SECONDS)
            self.reload_certificates(only_if_changed=True)

    def _open_listeners(self) -> list[tuple[Listener, TcpListener]]:
        opened: list[tuple[Listener, TcpListener]] = []
        try:
            for listener in self.config.listeners:
                try:
                    found = open_listener(listener.host, listener.port)
                except OSError as error:
                    raise _cannot_listen(listener, error) from error
                opened.extend((listener, tcp) for tcp in found)
        except BaseException:
            for _, tcp in opened:
                tcp.close()
            raise
        return opened

    @staticmethod
    def _listen(opened: list[tuple[Listener, TcpListener]]) -> None:
        """Let clients in, now that every address is taken and everything else is ready."""
        for listener, tcp in opened:
            try:
                tcp.listen()
            except OSError as error:
                raise _cannot_listen(listener, error) from error

    async def _load(self) -> None:
        """Take over what an earlier broker left in the store."""
        store = self.store
        while await _result(store.sweep(self.clock.wall, SWEEP_SESSIONS_MAX)):
            pass
        for message in await _result(store.retained()):
            try:
                self.router.retained.put(message)
            except RetainedFull:
                self.counters.retained_refused += 1
        for kept in await _result(store.sessions()):
            claim = await _result(store.claim(kept.client_identifier, kept.identity, clean_start=False))
            rows: list[Stored] = []
            while True:
                after = rows[-1].sequence if rows else 0
                found = await _result(store.read(kept.client_identifier, claim.epoch, after, READ_MAX))
                rows += found
                if len(found) < READ_MAX:
                    break
            self.session.claims.adopt(kept, claim, rows)

    async def _host(self, finished: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold all connections, shielded, so that they end in order and not by cancellation."""
        with trio.CancelScope(shield=True) as scope:
            async with self._errands.open(), trio.open_nursery() as self._nursery:
                async with trio.open_nursery() as timers:
                    timers.start_soon(self.timers.run)
                    timers.start_soon(end_expired, self.expiry, self.clock, self._flush)
                    if self._pump is not None:
                        timers.start_soon(self._pump.run)
                    if self._tls:
                        timers.start_soon(self._watch_certificates)
                    interval = self.config.sys_topics.interval_seconds
                    if interval:
                        timers.start_soon(publish_sys_topics, self, _version(), interval)
                    task_status.started()
                    await finished.wait()
                    timers.cancel_scope.cancel()
                scope.deadline = trio.current_time() + self.config.limits.drain_seconds_max
                for task in list(self.connections):
                    task.end(ServerShuttingDown("the broker stops"))

    # ---- connections ----

    async def _accept(self, listener: Listener, tcp: TcpListener) -> None:
        limits = self.config.limits
        label = listener.label
        shell: Shell = self._raw if self._pump is None or listener.shell_name == "raw" else self._pump
        make = partial(
            Connection,
            self._round,
            listener=label,
            anonymous_allowed=self.config.anonymous_allowed(listener),
            protocol_versions=frozenset(listener.protocol_versions),
            denied_publish=DeniedPublish(self.config.authorization.denied_publish_v3),
            tokens_allowed=listener.insecure,
        )
        door = Door(listener, label, shell, make, self._tls.get(listener))
        allowance, stamped = float(limits.accept_rate_max), trio.current_time()
        while True:
            await tcp.wait()
            now = trio.current_time()
            allowance = min(limits.accept_rate_max, allowance + (now - stamped) * limits.accept_rate_max)
            stamped = now
            if allowance < 1:
                await trio.sleep(max((1 - allowance) / limits.accept_rate_max, ACCEPT_PAUSE_SECONDS_MIN))
                continue
            self.clock.stamp()
            try:
                for stream in tcp.accept():
                    self._admit(door, stream)
                    allowance -= 1
                    if allowance < 1:
                        break
            except OSError as error:
                logger.error("cannot accept on %s: %s", label, error)
                await trio.sleep(EXHAUSTED_SECONDS)

    def _admit(self, door: Door, stream: TcpStream) -> None:
        """Start serving an accepted connection, or close it at once where a limit says so."""
        limits = self.config.limits
        listener, label = door.listener, door.label
        rule = ""
        if len(self.connections) >= limits.connections_max:
            rule = "limit: connections"
        elif listener.connections_max is not None and self._per_listener[label] >= listener.connections_max:
            rule = "limit: connections of the listener"
        elif self._per_address[stream.peer_host] >= limits.connections_per_address_max:
            rule = "limit: connections per address"
        elif len(self._unauthenticated) >= limits.unauthenticated_max:
            rule = "limit: unauthenticated connections"
        if rule:
            self.counters.connections_refused += 1
            self.counters.denials[rule] += 1
            stream.close()
            return
        served = stream if door.identity is None else door.identity.stream(stream)
        self._start(door.shell, served, door.make(peer=stream.peer))

    def _start(self, shell: Shell, stream: ByteStream, conn: Connection) -> None:
        task = ConnectionTask(self, shell, stream, conn)
        self.connections.add(task)
        self._unauthenticated.add(task)
        self._per_address[stream.peer_host] += 1
        self._per_listener[conn.listener] += 1
        self.counters.connections_accepted += 1
        shell.start(task)

    def spawn(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Start the task of a connection."""
        assert self._nursery is not None
        self._nursery.start_soon(function, name=name)

    def may_linger(self) -> bool:
        """Whether one more connection may wait for its client to close."""
        return self.lingering < LINGERING_MAX and not self.stopping

    def authenticated(self, task: ConnectionTask) -> None:
        """A connection became a client (called by its task)."""
        self._unauthenticated.discard(task)

    def gone(self, task: ConnectionTask) -> None:
        """A connection is over (called by its task)."""
        self.connections.discard(task)
        self._unauthenticated.discard(task)
        for counter, key in ((self._per_address, task.stream.peer_host), (self._per_listener, task.conn.listener)):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]

    def revoke(self, token: bytes) -> int:
        """Take an access token for nothing from now on, by the SHA-256 of its octets; gives how many clients that ends.

        What was retained under it is removed. RuntimeError where no tokens are taken.
        """
        if self._revocation is None:
            raise RuntimeError("this broker takes no tokens")
        self.clock.stamp()
        ended = self._revocation.revoke(token)
        self.delivery.flush()
        return ended

    # ---- in process ----

    async def connect(self) -> MemoryClient:
        """The client's end of a new connection in memory, served like any other (connection type IN_PROCESS).

        Anonymous clients are allowed here unless the configuration forbids them everywhere. The caller closes it.
        """
        if self._nursery is None or self.stopping:
            raise RuntimeError("the broker is not serving")
        client, stream = memory_connection()
        self.clock.stamp()
        config = self.config
        anonymous = config.authentication.anonymous
        if anonymous is None:
            anonymous = config.authentication.password_file is None and not config.authorization_servers
        self._start(
            self._raw,
            stream,
            Connection(
                self._round,
                listener="in process",
                connection_type=ConnectionType.IN_PROCESS,
                anonymous_allowed=anonymous,
                denied_publish=DeniedPublish(config.authorization.denied_publish_v3),
                tokens_allowed=True,
            ),
        )
        await trio.lowlevel.checkpoint()
        return client

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: PublishProperties = NO_PUBLISH_PROPERTIES,
    ) -> int:
        """Publish as the broker itself; gives how many subscribers were found, once durable where it has to be.

        Raises MqttError for a topic that is not valid, RetainedFull when there is no room to retain it,
        RuntimeError when the broker is not serving.
        """
        if not self._errands.running:
            raise RuntimeError("the broker is not serving")
        check_topic_name(topic)
        if qos not in (0, 1, 2):
            raise ValueError(f"QoS {qos} is none of 0, 1 and 2")
        await trio.lowlevel.checkpoint()
        self.clock.stamp()
        interval = properties.message_expiry_interval
        expires_at = None if interval is None else self.clock.now + interval
        message = Message(topic, payload, qos, retain, properties, expires_at)
        matched = self.router.publish(message, retain=retain)
        self.delivery.flush()
        return await _result(matched)

    @asynccontextmanager
    async def subscribe(
        self, topic_filter: str, *, messages_max: int = SUBSCRIPTION_MESSAGES_MAX
    ) -> AsyncIterator[MessageStream]:
        """Receive messages inside the process, retained ones first, while the block runs.

        At most `messages_max` wait for the reader; more are dropped and counted. Raises MqttError for a
        filter that is not valid, or is of a Shared Subscription: tasks can share what this gives.
        """
        check_topic_filter(topic_filter)
        if SharedSubscription.parse(topic_filter) is not None:
            raise ProtocolViolation("a Shared Subscription in process", ReasonCode.TOPIC_FILTER_INVALID)
        await trio.lowlevel.checkpoint()
        stream = MessageStream(messages_max)
        subscriber = LocalSubscriber(stream.take)
        self.clock.stamp()
        self.router.subscribe_locally(subscriber, topic_filter)
        try:
            yield stream
        finally:
            self.router.unsubscribe_locally(subscriber, topic_filter)
            stream.close()


async def _result(pending: Maybe[T]) -> T:
    return await pending if inspect.isawaitable(pending) else pending


def _cannot_listen(listener: Listener, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot listen on {listener.address}: {error.strerror}")


def _version() -> str:
    return metadata.version("trio-acebroker")
