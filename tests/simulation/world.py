"""A broker, its simulated clients and the model, in virtual time; what must hold whenever the broker rests.

Whatever a client does is told to the model first and then done; then the broker comes to rest: all that it
sent is shown to the judge, clients that answer by themselves answer, until nothing moves any more. What
clients do is in `steps`.
"""

from __future__ import annotations

import itertools
import logging
import random
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import trio
import trio.testing
from msgspec.structs import replace

from acebroker_codec import packets
from acebroker_codec.encoder import encode
from tests.simulation.client import ALIAS_MAX, RECEIVE_MAX, Link, SimulatedClient
from tests.simulation.deadlines import deadlines
from tests.simulation.holdings import check_holdings, check_nothing_is_left, check_retained, check_store
from tests.simulation.judge import Judge
from tests.simulation.model import Model
from tests.simulation.terms import SLACK, Message, Violation, Will
from trio_acebroker import Broker, BrokerConfig
from trio_acebroker.config import Authentication, Authorization, Limits, SysTopics

__all__ = ["PACKET_MAX", "SESSION_EXPIRY_MAX", "World"]

CLIENTS = 6
SESSION_EXPIRY_MAX = 120
#: Maximum Packet Size of the clients that name one, and a payload that is too large for them
PACKET_MAX = 300
LARGE = 400
#: how near to a deadline nothing is done, in seconds
MARGIN = 2 * SLACK

#: small, so that every bound of a conversation is met often
LIMITS = Limits(
    session_expiry_seconds_max=SESSION_EXPIRY_MAX,
    in_flight_max=5,
    receive_max=RECEIVE_MAX,
    topic_alias_max=ALIAS_MAX,
    topic_alias_out_max=2,
    topic_alias_out_bytes_min=3,
    packet_bytes_max=2_000,
    flows_per_connection_max=3,
    routes_max=6,
)

#: see `terms.permitted`
RIGHTS = """\
topic readwrite #
topic readwrite $d/#
"""


class _Errors(logging.Handler):
    """What the broker logs as an error is one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


class World:
    """One run: `World.run` serves the broker and lets its argument drive it. Methods raise Violation."""

    def __init__(self, broker: Broker, nursery: trio.Nursery, in_turn: bool) -> None:
        self.broker = broker
        #: every client answers by itself, and one after the other: never two at the same time
        self.in_turn = in_turn
        self.nursery = nursery
        self.model = Model(session_expiry_max=SESSION_EXPIRY_MAX, in_flight_max=LIMITS.in_flight_max)
        self.judge = Judge(self.model)
        self.clients = [SimulatedClient(f"c{number}") for number in range(CLIENTS)]
        #: open connections, and all that ever were
        self.links: list[Link] = []
        self.history: list[Link] = []
        #: what happened, for people
        self.trace: list[str] = []
        self._errors = _Errors()
        self._payloads = 0

    @classmethod
    async def run(
        cls,
        use: Callable[[World], Coroutine[Any, Any, None]],
        *,
        flow_cache: bool = True,
        in_turn: bool = False,
        stages: Sequence[Any] = (),
        store: Any = None,
    ) -> None:
        """Serve a broker with these plugins and this store, and let `use` drive it."""
        with tempfile.TemporaryDirectory() as folder:
            rights = Path(folder) / "rights.acl"
            rights.write_text(RIGHTS, encoding="utf-8")
            config = BrokerConfig(
                listeners=(),
                authentication=Authentication(anonymous=True),
                authorization=Authorization(acl_file=str(rights)),
                limits=LIMITS,
                sys_topics=SysTopics(interval_seconds=0),
            )
            broker = Broker(config, stages=stages, store=store, flow_cache=flow_cache)
        logger = logging.getLogger("trio_acebroker")
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.serve)
            world = cls(broker, nursery, in_turn)
            logger.addHandler(world._errors)
            try:
                await use(world)
            finally:
                logger.removeHandler(world._errors)
                nursery.cancel_scope.cancel()

    def note(self, text: str) -> None:
        """Something happened."""
        self.trace.append(f"{trio.current_time():8.1f}  {text}")

    def payload(self, rng: random.Random) -> bytes:
        """A payload that no other message has, now and then a large one."""
        self._payloads += 1
        return str(self._payloads).encode().ljust(LARGE if rng.random() < 0.1 else 0, b".")

    # ---- what clients do ----

    async def connect(self, client: SimulatedClient, version: int, **fields: Any) -> None:
        """CONNECT, perhaps as a take-over, and all that follows from it. `fields` are those of `Model.connect`."""
        stream = await self.broker.connect()
        connection = self.model.connect(client.name, version, **fields)
        link = Link(client, stream, connection)
        self.links.append(link)
        self.history.append(link)
        self.nursery.start_soon(link.read)
        client.version, client.session_expiry = version, fields.get("expiry", 0)
        resend = client.connected(link, connection.present)
        packet = _connect_packet(client.name, version, fields)
        self.note(f"{client.name} > {packet!r} {fields}")
        await self.octets(link, encode(packet, packet.version))
        await trio.testing.wait_all_tasks_blocked()
        self._show()
        if resend and client.link is link:
            await self.tell_and_send(client, resend)
        await self.settle()

    async def send(self, client: SimulatedClient, to_send: Sequence[packets.Packet]) -> None:
        """Send packets, and see what comes of it."""
        await self.tell_and_send(client, to_send)
        await self.settle()

    async def tell_and_send(self, client: SimulatedClient, to_send: Sequence[packets.Packet]) -> None:
        """Tell the model of some packets, then send them."""
        assert client.link is not None
        for packet in to_send:
            self.note(f"{client.name} > {packet!r}")
            self._tell(client, packet)
        version = packets.ProtocolVersion(client.version)
        await self.octets(client.link, b"".join(encode(packet, version) for packet in to_send))

    async def octets(self, link: Link, octets: bytes) -> None:
        """Send octets: in one piece or in several, which the octets themselves decide."""
        link.connection.heard = trio.current_time()
        rng = random.Random(octets)
        try:
            while octets:
                size = len(octets) if rng.random() < 0.7 else rng.randint(1, len(octets))
                await link.stream.send_all(octets[:size])
                octets = octets[size:]
                if octets and rng.random() < 0.5:
                    await trio.testing.wait_all_tasks_blocked()
        except trio.BrokenResourceError:
            if link.connection.open:
                raise Violation(f"{link.client.name}: the broker closed the connection") from None

    async def cut(self, client: SimulatedClient, last: Sequence[packets.Packet]) -> None:
        """The network fails, right behind some last packets."""
        if last:
            await self.tell_and_send(client, last)
        link = client.link
        assert link is not None
        self.note(f"{client.name} x cut")
        client.disconnected()
        await link.stream.aclose()
        self.model.cut(link.connection) if last else self.model.lost(link.connection)
        self.links.remove(link)
        await self.settle()

    async def offend(self, client: SimulatedClient, octets: bytes, reason_code: int) -> None:
        """Send what no client may send; the broker has to end the connection for this reason."""
        link = client.link
        assert link is not None
        self.note(f"{client.name} > {octets[:20]!r} for {reason_code:#04x}")
        self.model.refused(link.connection, reason_code)
        await self.octets(link, octets)
        await self.settle()

    async def wait(self, seconds: float) -> None:
        """Let time pass; every deadline on the way is judged by itself, and none is near at the end."""
        until = trio.current_time() + seconds
        while True:
            await self._untie()
            events = self.model.events()
            if events and events[0][0] <= until:
                await self._sleep_until(max(events[0][0], trio.current_time()) + SLACK)
                continue
            if any(abs(deadline - until) < MARGIN for deadline in deadlines(self.model)):
                until += MARGIN
                continue
            if until <= trio.current_time():
                return
            await self._sleep_until(until)

    async def _untie(self) -> None:
        """Timers of two clients that are due at nearly one moment go off in either order: one of them comes back."""
        while True:
            events = self.model.events()
            tied = [b[1] for a, b in itertools.pairwise(events) if a[1] != b[1] and b[0] - a[0] < MARGIN]
            if not tied:
                return
            client = next(client for client in self.clients if client.name == tied[0])
            await self.connect(client, 5, clean=False, expiry=SESSION_EXPIRY_MAX)

    async def _sleep_until(self, moment: float) -> None:
        await trio.sleep_until(moment)
        self.model.advance(moment)
        await self.settle()

    # ---- telling and showing ----

    def _tell(self, client: SimulatedClient, packet: packets.Packet) -> None:
        assert client.link is not None
        model, connection = self.model, client.connection
        match packet:
            case packets.Publish():
                client.link.published = True
                model.publish_received(connection, self._message(client, packet), packet.packet_identifier)
            case packets.Pubrel():
                model.pubrel_received(connection, packet.packet_identifier)
            case packets.Ack():
                model.acknowledged(connection, packet)
            case packets.Subscribe():
                identifier = packet.properties.subscription_identifier or 0
                model.subscribe(connection, packet.packet_identifier, packet.filters, identifier)
            case packets.Unsubscribe():
                model.unsubscribe(connection, packet.packet_identifier, packet.filters)
            case packets.Pingreq():
                connection.owe(packets.Pingresp)
            case packets.Disconnect():
                model.disconnect(connection, packet.reason_code, packet.properties.session_expiry_interval)

    @staticmethod
    def _message(client: SimulatedClient, packet: packets.Publish) -> Message:
        properties = packet.properties
        interval = properties.message_expiry_interval
        return Message(
            client.name,
            client.topic_of(packet),
            packet.payload,
            packet.qos,
            packet.retain,
            replace(properties, topic_alias=None, message_expiry_interval=None),
            None if interval is None else trio.current_time() + interval,
        )

    async def settle(self) -> None:
        """Until nothing moves: show what was sent, judge, let clients answer."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if self._show():
                continue
            self.judge.settled()
            answering = [client for client in self.clients if client.link and client.auto and client.inbox]
            if not answering:
                return
            for client in answering[:1] if self.in_turn else answering:
                answers = client.answers()
                if answers:
                    await self.tell_and_send(client, answers)

    def _show(self) -> bool:
        """Show the judge all that arrived; True when there was something."""
        moved = False
        # what somebody got before leaving may have gone to others since
        for link in sorted(self.links, key=lambda link: link.connection.open):
            for at, packet in link.take():
                moved = True
                self._show_packet(link, packet, at)
            if link.ended:
                if link.connection.open:
                    raise Violation(f"{link.client.name}: the broker closed the connection")
                self._forget(link)
        if not moved:
            for link in self.links:
                self.judge.owes_nothing(link.connection)
                if not link.connection.open:
                    raise Violation(f"{link.client.name}: the broker did not close the connection")
        return moved

    def _show_packet(self, link: Link, packet: packets.Packet, at: float) -> None:
        client = link.client
        shown = f" {packet.payload[:6]!r}" if isinstance(packet, packets.Publish) else ""
        self.note(f"{client.name} < {packet!r}{shown}")
        due = self.judge.sent(link.connection, packet, at)
        link.packets.append((packet, due))
        if client.link is link:
            client.inbox.append((packet, due))

    def _forget(self, link: Link) -> None:
        self.judge.owes_nothing(link.connection)
        self.links.remove(link)
        if link.client.link is link:
            link.client.disconnected()

    def check(self) -> None:
        """The broker holds what it has to hold, and logged no error."""
        if self._errors.messages:
            raise Violation("logged as an error: " + "; ".join(self._errors.messages))
        check_holdings(self.broker, self.model)
        check_store(self.broker)

    async def finish(self) -> None:
        """Everybody comes back and answers: nothing is left over, and then nobody is left."""
        self.model.now = trio.current_time()
        for client in self.clients:
            if client.name in self.model.sessions or client.link is not None:
                client.auto = True
                await self.connect(client, 5, clean=False, expiry=SESSION_EXPIRY_MAX)
        self.judge.finished()
        check_retained(self.broker, self.model)
        for client in self.clients:
            if client.link is not None:
                if client.outgoing or client.inbox:
                    raise Violation(f"{client.name}: not answered: {client.outgoing}, {client.inbox}")
                properties = packets.DisconnectProperties(session_expiry_interval=0)
                await self.send(client, [packets.Disconnect(0, properties)])
        await self.wait(2 * SESSION_EXPIRY_MAX)
        self.check()
        check_nothing_is_left(self.broker)


def _connect_packet(name: str, version: int, fields: dict[str, Any]) -> packets.Connect:
    properties = packets.NO_CONNECT_PROPERTIES
    will: Will | None = fields.get("will")
    packet_will: packets.Will | None = None
    if will is not None:
        message = will.message
        will_properties = packets.WillProperties(
            will_delay_interval=will.delay or None, message_expiry_interval=will.expiry
        )
        packet_will = packets.Will(message.topic, message.payload, message.qos, message.retain, will_properties)
    if version == 5:
        properties = packets.ConnectProperties(
            session_expiry_interval=fields.get("expiry") or None,
            receive_maximum=fields.get("receive_max"),
            maximum_packet_size=fields.get("packet_max"),
            topic_alias_maximum=fields.get("alias_max") or None,
        )
    return packets.Connect(
        name,
        packets.ProtocolVersion(version),
        fields["clean"],
        fields.get("keep_alive", 0),
        will=packet_will,
        properties=properties,
    )
