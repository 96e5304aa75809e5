"""All stages of a broker put together without one: no loop, no socket, time and timers moved by hand.

    broker = Assembly()
    ann, bob = broker.client("ann"), broker.client("bob")
    ann.send(Subscribe(...))          # gives what ann gets
    bob.send(Publish(...))
    assert ann.got() == [Publish(...)]
    broker.advance(60)                # runs the timers that are due

What the runtime does around the pipeline is done here as far as it decides anything: the error that ends a
connection, `Session.lost`, filling the out-queue again when its octets have left, sessions of an earlier broker,
and errands, which go on with `Assembly.run_errands`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import Connack, Connect, Packet, ProtocolVersion, Publish, Subscribe, SubscriptionRequest
from acebroker_middleware.acl import OpenAuthority
from acebroker_middleware.authn import Authn, Grant
from acebroker_middleware.authz import Authz
from acebroker_middleware.connection import CloseReason, Connection, Round
from acebroker_middleware.decode import Decode
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.expiry import Expiry
from acebroker_middleware.observe import Counters
from acebroker_middleware.pipeline import Pipeline
from acebroker_middleware.router import Router
from acebroker_middleware.session import Session
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.ports import Authority, Identity, Maybe, Store
from acebroker_middleware.state.retained import RetainedMessages
from acebroker_middleware.testing import RecordingConnection, SetClock
from tests.harness import make
from trio_acebroker.storage.memory import MemoryStore

__all__ = ["Assembly", "Client", "Errand", "Pending", "Slow", "Timers", "publish", "subscribe"]

T = TypeVar("T")


class Timers:
    """Timers that fire when the clock is moved."""

    def __init__(self) -> None:
        self.pending: list[Timer] = []

    def call_at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self, deadline, callback)
        self.pending.append(timer)
        return timer

    def run_due(self, now: float) -> None:
        for timer in sorted(self.pending, key=lambda timer: timer.deadline):
            if timer.deadline <= now and timer in self.pending:
                self.pending.remove(timer)
                timer.callback()


class Timer:
    """One pending call."""

    def __init__(self, timers: Timers, deadline: float, callback: Callable[[], None]) -> None:
        self.timers = timers
        self.deadline = deadline
        self.callback = callback

    def cancel(self) -> None:
        if self in self.timers.pending:
            self.timers.pending.remove(self)


class ByUserName:
    """Who a client is: its user name, taken at its word, or nobody. `authorities`: rights by Client Identifier."""

    name = "by-user-name"

    def __init__(self, authorities: dict[str, Authority]) -> None:
        self._authorities = authorities

    def authenticate(self, conn: Connection, connect: Connect) -> Grant:
        name = connect.username
        identity = Identity("anonymous", conn.client_identifier) if name is None else Identity("user", name)
        return Grant(identity, self._authorities.get(conn.client_identifier, OpenAuthority()))


class Assembly:
    """The stages. `authorities`: rights by Client Identifier, everything for the others.

    Unless `adopting`, what is in the store is not looked at before somebody claims it.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Any] = (),
        store: Store | None = None,
        authorities: dict[str, Authority] | None = None,
        flow_cache: bool = True,
        adopting: bool = True,
        **limits: Any,
    ) -> None:
        self.clock = SetClock()
        self.limits = Limits(**limits)
        self.counters = Counters()
        self.errands: list[Errand] = []
        self.round = Round(self.clock, self.limits, self.counters, self._errand)
        self.timers = Timers()
        self.store: Any = MemoryStore() if store is None else store
        self.authorities = {} if authorities is None else authorities
        retained = RetainedMessages(self.limits.retained_messages_max, self.limits.retained_bytes_max)
        authz = Authz(self.round)
        self.deliver = Deliver(
            self.round, self.store, retained, [*(s for s in stages if hasattr(s, "on_deliver")), authz]
        )
        self.router = Router(self.round, self.store, retained, self.deliver)
        self.session = Session(self.round, self.store, self.timers, self.router, self.deliver)
        self.expiry = Expiry(self.round, self.timers, self.router)
        authn = Authn(
            self.round,
            [ByUserName(self.authorities)],
            lambda: f"auto-{len(self.session.sessions)}",
            self.expiry.granted,
        )
        self.pipeline = Pipeline(
            self.round,
            [Decode(self.round), authn, authz, *stages, self.session, self.router],
            flow_cache=flow_cache,
        )
        memory: Any = getattr(self.store, "memory", self.store)
        for kept in memory.sessions() if adopting else ():
            claim = memory.claim(kept.client_identifier, kept.identity, clean_start=False)
            rows = memory.read(kept.client_identifier, claim.epoch, 0, 1_000_000)
            self.session.claims.adopt(kept, claim, rows)

    def _errand(self, pending: Awaitable[Any], following: Callable[[Any], Any]) -> Errand:
        self.errands.append(Errand(pending, following))
        return self.errands[-1]

    def run_errands(self) -> None:
        """Go on with every errand as far as it goes without waiting."""
        waiting = self.errands
        self.errands = []
        self.errands += [errand for errand in waiting if not errand.step()]

    def connecting(self, client_identifier: str = "client", version: int = 5, **fields: Any) -> Client:
        """A client that has sent CONNECT; `fields` are those of the packet and its properties."""
        client = Client(self, version)
        connect = make(Connect, client_identifier=client_identifier, version=ProtocolVersion(version), **fields)
        client.pending = client.feed(encode(connect, client.version))
        return client

    def client(self, client_identifier: str = "client", version: int = 5, **fields: Any) -> Client:
        """A client that was accepted."""
        client = self.connecting(client_identifier, version, **fields)
        assert client.pending is None
        connack, *client.unread = client.got()
        assert isinstance(connack, Connack), client.ended
        assert connack.reason_code == 0
        client.session_present = connack.session_present
        return client

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what is due."""
        self.clock.advance(seconds)
        self.timers.run_due(self.clock.now)


class Client:
    """The client's end. `ended` is the error that ended the connection."""

    def __init__(self, assembly: Assembly, version: int) -> None:
        self.assembly = assembly
        self.version = ProtocolVersion(version)
        self.conn = RecordingConnection(round_=assembly.round, connected=False)
        self.session_present = False
        self.unread: list[Packet] = []
        self.pending: Awaitable[None] | None = None
        self.ended: MqttError | None = None

    def feed(self, octets: bytes) -> Maybe[None]:
        """Give octets to the pipeline; an error ends the connection."""
        assert self.pending is None, "a hand-off is under way"
        try:
            return self.assembly.pipeline.feed(self.conn, octets)
        except MqttError as error:
            self.end(error)
            return None

    def send(self, *packets: Packet) -> list[Packet]:
        """Send packets in one piece; gives what the client gets at once."""
        self.pending = self.feed(b"".join(encode(packet, self.version) for packet in packets))
        return self.got()

    def step(self) -> bool:
        """Go on with a hand-off as far as it goes without waiting; True when it is over."""
        assert self.pending is not None
        self.assembly.run_errands()
        if not isinstance(self.pending, Coroutine):
            self.pending = _awaited(self.pending)
        try:
            self.pending.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            self.pending = None
        except MqttError as error:
            self.pending = None
            self.end(error)
        return self.pending is None

    def got(self) -> list[Packet]:
        """What the client gets, until nothing more comes."""
        got = [*self.unread]
        self.unread = []
        while packets := self.conn.written():
            got += packets
            if self.conn.session is not None:
                self.assembly.deliver.pump(self.conn.session)
        if self.ended is None and self.conn.ended is not None:
            self.end(self.conn.ended)
        return got

    def end(self, error: MqttError | None = None) -> None:
        """The connection is over; without an error it was cut."""
        self.ended = error
        self.assembly.session.lost(self.conn, CloseReason(error))

    def messages(self) -> list[bytes]:
        """The payloads of what the client gets, which must be PUBLISH packets only."""
        got = self.got()
        assert all(isinstance(packet, Publish) for packet in got), got
        return [packet.payload for packet in got if isinstance(packet, Publish)]


async def _awaited(pending: Awaitable[T]) -> T:
    return await pending


class Errand:
    """What is awaited for the broker and not for one client."""

    def __init__(self, pending: Awaitable[Any], following: Callable[[Any], Any]) -> None:
        self.coroutine = _followed(pending, following)
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def step(self) -> bool:
        """Go on as far as it goes without waiting; True when it is over."""
        try:
            self.coroutine.send(None)
        except StopIteration as over:
            self.done, self.result = True, over.value
        except Exception as error:
            self.done, self.error = True, error
        return self.done

    def __await__(self) -> Generator[None, None, Any]:
        while not self.done:
            yield
        if self.error is not None:
            raise self.error
        return self.result


async def _followed(pending: Awaitable[Any], following: Callable[[Any], Any]) -> Any:
    result = following(await pending)
    return await result if inspect.isawaitable(result) else result


class Pending(Generic[T]):
    """An awaitable that is done when somebody says so."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.done = False

    def __await__(self) -> Generator[None, None, T]:
        while not self.done:
            yield
        return self.value


class Slow:
    """A store whose calls named in `slow` are under way until `finish`; everything else as in memory."""

    def __init__(self, *slow: str) -> None:
        self.memory = MemoryStore()
        self.slow = set(slow)
        self.waiting: list[Pending[Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.memory, name)
        if name not in self.slow:
            return method

        def call(*arguments: Any, **named: Any) -> Pending[Any]:
            pending = Pending(method(*arguments, **named))
            self.waiting.append(pending)
            return pending

        return call

    def finish(self, count: int = 1) -> None:
        """The oldest calls are durable."""
        for pending in self.waiting[:count]:
            pending.done = True
        del self.waiting[:count]


def publish(topic: str, payload: bytes = b"", qos: int = 0, packet_identifier: int = 0, **fields: Any) -> Publish:
    """A PUBLISH; the properties by name."""
    return make(Publish, topic=topic, payload=payload, qos=qos, packet_identifier=packet_identifier, **fields)


def subscribe(*filters: str | SubscriptionRequest, qos: int = 0, packet_identifier: int = 1, **more: Any) -> Subscribe:
    """A SUBSCRIBE; `qos` and `more` for filters given as text, but for its Subscription Identifier."""
    identifier = more.pop("subscription_identifier", None)
    requests = tuple(SubscriptionRequest(each, qos, **more) if isinstance(each, str) else each for each in filters)
    return make(Subscribe, packet_identifier=packet_identifier, filters=requests, subscription_identifier=identifier)
