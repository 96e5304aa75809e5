"""A simulated client: what it keeps of its session and what it answers; and the tap on its connection.

A `Link` is one Network Connection. Everything that the broker sends on it is decoded and shown to the
model, whether the client reads it or not: what is in the `inbox` of a client when its connection is
cut, it has never seen.
"""

from __future__ import annotations

import random
import zlib
from collections import deque

import trio
from msgspec.structs import replace

from acebroker_codec import packets
from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError
from acebroker_codec.frames import PACKET_BYTES_MAX
from tests.simulation.terms import Connection, Due, Violation
from trio_acebroker.transports.memory import MemoryClient

__all__ = ["ALIAS_MAX", "RECEIVE_MAX", "Link", "SimulatedClient"]

#: what a client may have unacknowledged: the Receive Maximum that the broker announces
RECEIVE_MAX = 6
#: Topic Aliases that the broker takes
ALIAS_MAX = 3
#: one message of so many is refused by its receiver, with 0x80
REFUSED_OF = 20


class Link:
    """One Network Connection: its stream, the model's view of it, and what came, with its time."""

    def __init__(self, client: SimulatedClient, stream: MemoryClient, connection: Connection) -> None:
        self.client = client
        self.stream = stream
        self.connection = connection
        self.ended = False
        #: all that came, as octets, and as packets with the message that each PUBLISH was taken for
        self.octets = bytearray()
        self.packets: list[tuple[packets.Packet, Due | None]] = []
        #: it has published on this connection
        self.published = False
        self._arrived: list[tuple[float, packets.Packet | MqttError]] = []
        self._decoder = Decoder(
            connection.packet_max or PACKET_BYTES_MAX, packets.ProtocolVersion(connection.version), "client"
        )

    async def read(self) -> None:
        """Collect what arrives until the end of the connection."""
        try:
            while octets := await self.stream.receive_some():
                now = trio.current_time()
                self.octets += octets
                self._arrived.extend((now, packet) for packet in self._decoder.feed(octets))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.ended = True

    def take(self) -> list[tuple[float, packets.Packet]]:
        """What arrived since the last call. Violation where it is no packet for this client."""
        arrived, self._arrived = self._arrived, []
        taken: list[tuple[float, packets.Packet]] = []
        for at, packet in arrived:
            if isinstance(packet, MqttError):
                raise Violation(f"{self.client.name}: no client accepts this: {packet!r}")
            taken.append((at, packet))
        return taken


class SimulatedClient:
    """One client. `auto` clients answer at once; others when told to, one packet after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.version = 5
        self.auto = True
        #: asked for in CONNECT, which says whether DISCONNECT may ask for some
        self.session_expiry = 0
        #: Packet Identifier -> what was published and is not settled; None = released
        self.outgoing: dict[int, packets.Publish | None] = {}
        #: QoS 2 taken and not released
        self.incoming: set[int] = set()
        self.inbox: deque[tuple[packets.Packet, Due | None]] = deque()
        #: topic -> alias, as it chose them
        self.aliases: dict[str, int] = {}
        #: alias -> topic, as far as it has sent them
        self._topics: dict[int, str] = {}
        self._identifier = 0

    @property
    def connection(self) -> Connection:
        """The model's view of the connection that is open now."""
        assert self.link is not None
        return self.link.connection

    def connected(self, link: Link, present: bool) -> list[packets.Packet]:
        """CONNACK came: gives what has to be sent again [MQTT-4.4.0-1]."""
        self.link = link
        self.inbox.clear()
        self.aliases.clear()
        self._topics.clear()
        if not present:
            self.outgoing.clear()
            self.incoming.clear()
        return [
            packets.Pubrel(identifier) if publish is None else replace(self._as_version(publish), dup=True)
            for identifier, publish in self.outgoing.items()
        ]

    def _as_version(self, publish: packets.Publish) -> packets.Publish:
        return publish if self.version == 5 else replace(publish, properties=packets.NO_PUBLISH_PROPERTIES)

    def disconnected(self) -> None:
        """The connection is over; what was not read is lost."""
        self.link = None
        self.inbox.clear()

    def next_identifier(self) -> int:
        """A Packet Identifier that is free."""
        while True:
            self._identifier = self._identifier % 200 + 1
            if self._identifier not in self.outgoing:
                return self._identifier

    @property
    def has_quota(self) -> bool:
        """May it publish with QoS 1 or 2?"""
        return len(self.outgoing) < RECEIVE_MAX

    def publishes(self, publish: packets.Publish) -> None:
        """It sends this, and keeps it until it is settled."""
        if publish.qos:
            self.outgoing[publish.packet_identifier] = publish

    def aliased(self, publish: packets.Publish, rng: random.Random) -> packets.Publish:
        """The same message with a Topic Alias, set by it or standing for its topic (3.3.2.3.4)."""
        alias = self.aliases.get(publish.topic)
        if alias is not None and rng.random() < 0.8:
            return replace(publish, topic="", properties=replace(publish.properties, topic_alias=alias))
        alias = rng.randint(1, ALIAS_MAX)
        self.aliases = {topic: other for topic, other in self.aliases.items() if other != alias}
        self.aliases[publish.topic] = alias
        return replace(publish, properties=replace(publish.properties, topic_alias=alias))

    def topic_of(self, publish: packets.Publish) -> str:
        """The Topic Name of what it sends now, which an alias may stand for."""
        alias = publish.properties.topic_alias
        if alias is None:
            return publish.topic
        if publish.topic:
            self._topics[alias] = publish.topic
        return self._topics[alias]

    def answers(self, count: int = 1_000) -> list[packets.Packet]:
        """Read up to `count` packets of the inbox; gives what it answers."""
        answers: list[packets.Packet] = []
        while self.inbox and count:
            count -= 1
            packet, due = self.inbox.popleft()
            answer = self._answer(packet, due)
            if answer is not None:
                answers.append(answer)
        return answers

    def _answer(self, packet: packets.Packet, due: Due | None) -> packets.Packet | None:
        match packet:
            case packets.Publish(qos=1):
                return packets.Puback(packet.packet_identifier, self._verdict(packet))
            case packets.Publish(qos=2):
                return self._take_qos_2(packet, due)
            case packets.Pubrel():
                self.incoming.discard(packet.packet_identifier)
                return packets.Pubcomp(packet.packet_identifier)
            case packets.Pubrec(reason_code=code) if code < 0x80:
                self.outgoing[packet.packet_identifier] = None
                return packets.Pubrel(packet.packet_identifier)
            case packets.Puback() | packets.Pubrec() | packets.Pubcomp():
                self.outgoing.pop(packet.packet_identifier, None)
        return None

    def _take_qos_2(self, packet: packets.Publish, due: Due | None) -> packets.Pubrec:
        assert due is not None
        identifier = packet.packet_identifier
        if identifier not in self.incoming:
            refusal = self._verdict(packet)
            if refusal:
                return packets.Pubrec(identifier, refusal)
            self.incoming.add(identifier)
            due.taken += 1
            if due.taken > 1:
                raise Violation(f"{self.name}: took {due} twice")
        return packets.Pubrec(identifier)

    def _verdict(self, packet: packets.Publish) -> int:
        """A reason code that depends on the message alone: in whichever order messages come, it is the same."""
        refuses = self.version == 5 and zlib.crc32(packet.payload + self.name.encode()) % REFUSED_OF == 0
        return 0x80 if refuses else 0
