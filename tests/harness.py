"""What broker-level tests use: a running broker, and a client that speaks packets.

`broker_running` serves a `Broker` for the length of a block, without sockets unless `listeners` are
given. `WireClient` is the other end of one connection: it sends packets or raw octets and asserts
what comes back, decoded strictly by `acebroker_codec` in the client's role. It does nothing by
itself: no acknowledgement, no ping, no reconnect; the methods that carry an exchange to its end
say so.

Waiting is bounded: `RECEIVE_SECONDS` on Trio's clock, which is virtual in most tests
(`run_in_virtual_time`), so that an hour of Session Expiry costs nothing.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import trio
import trio.testing

from acebroker_codec import packets
from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError
from acebroker_middleware.state.ports import PskKeys, Store
from trio_acebroker import Broker, BrokerConfig, MemoryStore
from trio_acebroker.config import Authentication, Listener

__all__ = [
    "RECEIVE_SECONDS",
    "ByteStream",
    "WireClient",
    "broker_over_tcp",
    "broker_running",
    "connected",
    "connected_over_tcp",
    "make",
    "make_will",
    "run_in_virtual_time",
    "under_test",
]

T = TypeVar("T")
P = TypeVar("P", bound=packets.Packet)

#: how long `WireClient.receive` waits for a packet
RECEIVE_SECONDS = 5.0
#: what the client's end accepts: the most that MQTT can express
PACKET_BYTES_MAX = 268_435_460


class UnderTest:
    """What the tests of a run drive: `shell` is `raw` over memory connections, or `pump` over TCP.

    `store` makes the store of a broker for which a test gives none.
    """

    def __init__(self) -> None:
        self.shell = "raw"
        self.store: Callable[[], Any] = MemoryStore
        #: where the brokers of this process listen for `WireClient.open`
        self.addresses: WeakKeyDictionary[Broker, tuple[str, int]] = WeakKeyDictionary()
        #: of clients: closed at the end of a test, which need not do it
        self.sockets: list[socket.socket] = []

    def choose(self, shell: str, store: Callable[[], Any] = MemoryStore) -> None:
        """Drive this shell, over such a store, from now on."""
        self.shell = shell
        self.store = store
        while self.sockets:
            self.sockets.pop().close()


under_test = UnderTest()

PROPERTIES: dict[type[packets.Packet], type[Any]] = {
    packets.Connect: packets.ConnectProperties,
    packets.Connack: packets.ConnackProperties,
    packets.Publish: packets.PublishProperties,
    packets.Puback: packets.AckProperties,
    packets.Pubrec: packets.AckProperties,
    packets.Pubrel: packets.AckProperties,
    packets.Pubcomp: packets.AckProperties,
    packets.Subscribe: packets.SubscribeProperties,
    packets.Suback: packets.AckProperties,
    packets.Unsubscribe: packets.UnsubscribeProperties,
    packets.Unsuback: packets.AckProperties,
    packets.Disconnect: packets.DisconnectProperties,
    packets.Auth: packets.AuthProperties,
}


class ByteStream(Protocol):
    """One end of a connection, in memory or over a socket."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def aclose(self) -> None: ...


def make(kind: type[P], **fields: Any) -> P:
    """A packet from fields of the packet and of its properties, all by name."""
    own = {name: value for name, value in fields.items() if name in kind.__struct_fields__}
    rest = {name: value for name, value in fields.items() if name not in own}
    if rest:
        own["properties"] = PROPERTIES[kind](**rest)
    return kind(**own)


def make_will(topic: str, payload: bytes = b"", qos: int = 0, retain: bool = False, **properties: Any) -> packets.Will:
    """A Will for `WireClient.connect`, its properties by name."""
    return packets.Will(topic, payload, qos, retain, packets.WillProperties(**properties))


def run_in_virtual_time(
    function: Callable[[], Awaitable[T]],
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """`trio.run` on a clock that jumps to the next deadline whenever every task waits.

    For `pytestmark = pytest.mark.trio(run=run_in_virtual_time)`.
    """
    clock = clock if clock is not None else trio.testing.MockClock(autojump_threshold=0)
    return trio.run(function, clock=clock, instruments=instruments)


@contextlib.asynccontextmanager
async def broker_running(
    *, stages: Sequence[Any] = (), store: Store | None = None, flow_cache: bool = True, **overrides: Any
) -> AsyncIterator[Broker]:
    """Serve a broker inside the block, and cancel it at its end.

    Arguments: those of `Broker`, and fields of `BrokerConfig`; without any, anonymous clients are allowed. There are
    no sockets, unless `under_test` asks for the `pump` shell.
    """
    listeners = (Listener(port=0, shell="pump"),) if under_test.shell == "pump" else ()
    async with _serving(stages, store, flow_cache, {"listeners": listeners, **overrides}) as (broker, addresses):
        if listeners and addresses:
            under_test.addresses[broker] = addresses[0]
        yield broker


@contextlib.asynccontextmanager
async def broker_over_tcp(
    *,
    stages: Sequence[Any] = (),
    store: Store | None = None,
    psk_keys: PskKeys | None = None,
    flow_cache: bool = True,
    **overrides: Any,
) -> AsyncIterator[tuple[Broker, tuple[str, int]]]:
    """The same on a free TCP port of 127.0.0.1; gives the broker and its address. Not for virtual time."""
    config = {"listeners": (Listener(port=0),), **overrides}
    async with _serving(stages, store, flow_cache, config, psk_keys) as (broker, addresses):
        yield broker, addresses[0]


@contextlib.asynccontextmanager
async def _serving(
    stages: Sequence[Any],
    store: Store | None,
    flow_cache: bool,
    config: dict[str, Any],
    psk_keys: PskKeys | None = None,
) -> AsyncIterator[tuple[Broker, list[tuple[str, int]]]]:
    made = BrokerConfig(**{"authentication": Authentication(anonymous=True), **config})
    store = under_test.store() if store is None else store
    broker = Broker(made, stages=stages, store=store, psk_keys=psk_keys, flow_cache=flow_cache)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(broker.serve)
        yield broker, addresses
        nursery.cancel_scope.cancel()


async def connected(broker: Broker, client_identifier: str, version: int = 5, **fields: Any) -> WireClient:
    """A client whose CONNECT was accepted; `fields` as for `WireClient.connect`."""
    client = await WireClient.open(broker, version)
    await client.connect(client_identifier, **fields)
    return client


@contextlib.asynccontextmanager
async def connected_over_tcp(
    address: tuple[str, int], client_identifier: str, version: int = 5, **fields: Any
) -> AsyncIterator[WireClient]:
    """The same over TCP, for the length of a block; its end cuts the connection."""
    async with await WireClient.open_tcp(*address, version) as client:
        await client.connect(client_identifier, **fields)
        yield client


class WireClient:
    """The client's end of one connection.

    Everything received stands in `octets_received`, so that a test can look at the wire itself.
    Owns `stream`; `aclose` closes it without a DISCONNECT, as a network failure does.
    """

    def __init__(self, stream: ByteStream, version: int = 5) -> None:
        self.stream = stream
        self.version = packets.ProtocolVersion(version)
        self.octets_received = bytearray()
        self._decoder = Decoder(PACKET_BYTES_MAX, self.version, "client")
        self._inbox: deque[packets.Packet | MqttError] = deque()
        self._ended = False
        self._packet_identifier = 0

    @classmethod
    async def open(cls, broker: Broker, version: int = 5) -> WireClient:
        """A connection in memory, or over the shell under test; nothing is sent yet."""
        address = under_test.addresses.get(broker)
        if address is None:
            return cls(await broker.connect(), version)
        sock = socket.create_connection(address)  # at once: the broker listens on loopback
        sock.setblocking(False)
        under_test.sockets.append(sock)
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), version)

    @classmethod
    async def open_tcp(cls, host: str, port: int, version: int = 5) -> WireClient:
        """A connection over TCP; nothing is sent yet. Not for virtual time: sockets do not wait for it."""
        return cls(await trio.open_tcp_stream(host, port), version)

    async def __aenter__(self) -> WireClient:
        """For connections over sockets, which have to be closed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # ---- octets and packets ----

    async def send_raw(self, octets: bytes) -> None:
        """Send octets as they are. That the broker has closed meanwhile shows when reading."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(octets)

    async def send(self, *to_send: packets.Packet) -> None:
        """Send packets in one piece."""
        await self.send_raw(b"".join(encode(packet, self.version) for packet in to_send))

    async def receive(self) -> packets.Packet:
        """The next packet. AssertionError when none comes in time, or the connection ends."""
        packet = await self._next()
        assert packet is not None, "the connection was closed where a packet was expected"
        return packet

    async def receive_or_end(self) -> packets.Packet | None:
        """The next packet, or None where the broker has closed."""
        return await self._next()

    async def expect(self, expected: type[P] | P, **fields: Any) -> P:
        """The next packet, which must be this one, or of this type with these fields (properties too)."""
        packet = await self.receive()
        if not isinstance(expected, type):
            assert packet == expected, f"expected {expected!r}, received {packet!r}"
            return cast(P, packet)
        _check(packet, expected, fields)
        return cast(P, packet)

    async def expect_silence(self, seconds: float = 1.0) -> None:
        """Nothing comes for so long, and the connection stays open."""
        if self._inbox:
            raise AssertionError(f"expected silence, received {self._inbox[0]!r}")
        with trio.move_on_after(seconds):
            packet = await self._next(math.inf)
            raise AssertionError("the connection was closed" if packet is None else f"expected silence, got {packet!r}")

    async def expect_closed(self, reason_code: int | Collection[int] | None = None) -> None:
        """The broker closes, on MQTT 5 after a DISCONNECT with (one of) `reason_code`; None: with no packet at all."""
        packet = await self._next()
        if reason_code is not None and self.version >= packets.ProtocolVersion.MQTT_5:
            allowed = {reason_code} if isinstance(reason_code, int) else set(reason_code)
            assert isinstance(packet, packets.Disconnect), f"expected DISCONNECT, received {packet!r}"
            assert packet.reason_code in allowed, f"expected DISCONNECT with {_hex(allowed)}, received {packet!r}"
            packet = await self._next()
        assert packet is None, f"expected the end of the connection, received {packet!r}"

    async def receive_raw_to_end(self) -> bytes:
        """All octets until the broker closes, undecoded."""
        received = bytearray()
        with trio.fail_after(RECEIVE_SECONDS):
            try:
                while octets := await self.stream.receive_some(65_536):
                    received += octets
            except trio.BrokenResourceError:
                pass
        return bytes(received)

    async def expect_refused(self, reason_code: int | Collection[int]) -> None:
        """CONNECT is refused: a CONNACK with (one of) `reason_code` and then the close, or the bare close, as both
        are allowed.
        """
        packet = await self._next()
        if packet is None:
            return
        allowed = {reason_code} if isinstance(reason_code, int) else set(reason_code)
        assert isinstance(packet, packets.Connack), f"expected CONNACK, received {packet!r}"
        assert packet.reason_code in allowed, f"expected CONNACK with {_hex(allowed)}, received {packet!r}"
        assert not packet.session_present
        await self.expect_closed()

    async def expect_alive(self) -> None:
        """The connection works: a PINGREQ is answered, and nothing else was on its way."""
        await self.send(packets.Pingreq())
        await self.expect(packets.Pingresp)

    async def drain(self) -> list[packets.Packet]:
        """Everything that comes until the broker has nothing more to do now."""
        drained: list[packets.Packet] = []
        with trio.move_on_after(0.5):
            while (packet := await self._next(math.inf)) is not None:
                drained.append(packet)
        return drained

    async def aclose(self) -> None:
        """Cut the connection: no DISCONNECT."""
        await self.stream.aclose()

    async def _next(self, seconds: float = RECEIVE_SECONDS) -> packets.Packet | None:
        """The next packet, or None at the end of the connection. AssertionError when neither comes in time."""
        with trio.move_on_after(seconds) as waiting:
            while not self._inbox and not self._ended:
                try:
                    octets = await self.stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    octets = b""
                self._ended = not octets
                self.octets_received += octets
                self._inbox.extend(self._decoder.feed(bytes(octets)))
        if not self._inbox:
            assert not waiting.cancelled_caught, f"nothing was received for {seconds:g} seconds"
            return None
        packet = self._inbox.popleft()
        if isinstance(packet, MqttError):
            raise AssertionError(f"the broker sent what no client accepts: {packet!r}") from packet
        return packet

    async def _await(self, kind: type[P], packet_identifier: int) -> P:
        """Take the packet that belongs to this identifier out of the stream; what came before it stays in the inbox."""
        passed: list[packets.Packet] = []
        while True:
            packet = await self.receive()
            if isinstance(packet, kind) and getattr(packet, "packet_identifier", 0) == packet_identifier:
                self._inbox.extendleft(reversed(passed))
                return packet
            passed.append(packet)

    def next_packet_identifier(self) -> int:
        """A Packet Identifier that this client has not used yet."""
        self._packet_identifier += 1
        return self._packet_identifier

    # ---- exchanges ----

    async def attempt_connect(self, client_identifier: str = "", **fields: Any) -> packets.Connack:
        """Send CONNECT with fields of the packet and of its properties; give CONNACK, whatever it says."""
        await self.send(make(packets.Connect, client_identifier=client_identifier, version=self.version, **fields))
        return await self.expect(packets.Connack)

    async def connect(self, client_identifier: str = "", **fields: Any) -> packets.Connack:
        """`attempt_connect`, which must succeed."""
        connack = await self.attempt_connect(client_identifier, **fields)
        assert connack.reason_code == 0, f"CONNECT was refused: {connack!r}"
        return connack

    async def disconnect(self, reason_code: int = 0, **properties: Any) -> None:
        """Send DISCONNECT and wait until the broker has closed."""
        await self.send(make(packets.Disconnect, reason_code=reason_code, **properties))
        await self.expect_closed()

    async def subscribe(
        self,
        *filters: str | packets.SubscriptionRequest,
        qos: int = 0,
        packet_identifier: int | None = None,
        subscription_identifier: int | None = None,
        accepted: bool = True,
        **options: Any,
    ) -> packets.Suback:
        """Send SUBSCRIBE; `qos` and `options` are for the filters given as text. Gives SUBACK, which must grant
        everything if `accepted`. Packets that come before SUBACK can be received afterwards.
        """
        packet_identifier = packet_identifier or self.next_packet_identifier()
        requests = tuple(
            packets.SubscriptionRequest(entry, qos=qos, **options) if isinstance(entry, str) else entry
            for entry in filters
        )
        properties = packets.SubscribeProperties(subscription_identifier=subscription_identifier)
        await self.send(packets.Subscribe(packet_identifier, requests, properties))
        suback = await self._await(packets.Suback, packet_identifier)
        if accepted:
            assert all(code < 0x80 for code in suback.reason_codes), f"not everything was granted: {suback!r}"
        return suback

    async def unsubscribe(self, *filters: str, packet_identifier: int | None = None) -> packets.Unsuback:
        """Send UNSUBSCRIBE and give UNSUBACK. Packets that come before it can be received afterwards."""
        packet_identifier = packet_identifier or self.next_packet_identifier()
        await self.send(packets.Unsubscribe(packet_identifier, filters))
        return await self._await(packets.Unsuback, packet_identifier)

    async def publish(
        self, topic: str, payload: bytes = b"", *, qos: int = 0, packet_identifier: int | None = None, **fields: Any
    ) -> packets.Ack | None:
        """Send PUBLISH and carry its exchange to the end. Gives the last acknowledgement: PUBACK, PUBCOMP, or a
        PUBREC of 0x80 or above; None at QoS 0.
        """
        if qos == 0:
            await self.send(make(packets.Publish, topic=topic, payload=payload, **fields))
            return None
        packet_identifier = packet_identifier or self.next_packet_identifier()
        await self.send(
            make(packets.Publish, topic=topic, payload=payload, qos=qos, packet_identifier=packet_identifier, **fields)
        )
        if qos == 1:
            return await self._await(packets.Puback, packet_identifier)
        received = await self._await(packets.Pubrec, packet_identifier)
        if received.reason_code >= 0x80:
            return received
        await self.send(packets.Pubrel(packet_identifier))
        return await self._await(packets.Pubcomp, packet_identifier)

    async def expect_message(self, topic: str, payload: bytes, **fields: Any) -> packets.Publish:
        """The next packet is this PUBLISH; it is acknowledged to the end, as its QoS demands."""
        publish = await self.expect(packets.Publish, topic=topic, payload=payload, **fields)
        await self.acknowledge(publish)
        return publish

    async def acknowledge(self, publish: packets.Publish) -> None:
        """Carry the exchange of a received PUBLISH to its end."""
        if publish.qos == 1:
            await self.send(packets.Puback(publish.packet_identifier))
        elif publish.qos == 2:
            await self.send(packets.Pubrec(publish.packet_identifier))
            await self._await(packets.Pubrel, publish.packet_identifier)
            await self.send(packets.Pubcomp(publish.packet_identifier))


def _check(packet: packets.Packet, kind: type[packets.Packet], fields: dict[str, Any]) -> None:
    assert isinstance(packet, kind), f"expected {kind.__name__}, received {packet!r}"
    for name, value in fields.items():
        holder = packet if name in packet.__struct_fields__ else cast(Any, packet).properties
        seen = getattr(holder, name)
        assert seen == value, f"expected {name}={value!r}, received {packet!r}"


def _hex(codes: Collection[int]) -> str:
    return " or ".join(f"0x{code:02x}" for code in sorted(codes))
