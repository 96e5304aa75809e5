"""An Assembly with sockets that are none: what clients get, how they answer, and that they may not read.

`World.feed` is one read of one client and the round that follows it. What each client gets stands in
`Peer.received`; a `Peer` decodes it, and knows what it still has to acknowledge and to release.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import (
    Connect,
    ConnectProperties,
    Packet,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Will,
)
from acebroker_middleware.connection import CloseReason, Connection
from acebroker_middleware.state.ports import Decision
from tests.middleware.assembly import Assembly
from tests.strict_receiver import StrictReceiver
from trio_acebroker.runtime.back_pressure import BackPressure
from trio_acebroker.runtime.delivery import Delivery

__all__ = ["Peer", "Rights", "World"]


class Rights:
    """What one client may do: everything but the topics that were taken from it."""

    def __init__(self) -> None:
        self.authorized_until: float | None = None
        self.no_publish: set[str] = set()
        self.no_receive: set[str] = set()

    def permits_publish(self, topic: str) -> Decision:
        return Decision(topic not in self.no_publish, f"no publish: {topic}")

    def permits_subscribe(self, topic_filter: str) -> Decision:
        return Decision(True, "subscribe")

    def permits_receive(self, topic: str) -> Decision:
        return Decision(topic not in self.no_receive, f"no receive: {topic}")


class Peer:
    """One client, over all its connections. `takes` False is a socket that takes nothing."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = ProtocolVersion(version)
        self.rights = Rights()
        self.conn: Connection | None = None
        self.takes = True
        self.received = bytearray()
        #: every packet received and how each connection ended, in order
        self.seen: list[Packet | str] = []
        #: Packet Identifiers of what is to be answered, oldest first: PUBLISH by QoS, PUBREL; PUBREC
        self.to_acknowledge: dict[type[Packet], deque[int]] = {Puback: deque(), Pubrec: deque(), Pubcomp: deque()}
        self.to_release: deque[int] = deque()
        self.packet_identifier = 0
        #: QoS 2 publications sent, whose PUBREL was not
        self.unreleased: dict[int, Publish] = {}
        self.receiver = StrictReceiver(name, self.version)
        self.complaint: AssertionError | None = None

    def transmit(self, data: bytes) -> int:
        if not self.takes:
            raise BlockingIOError
        self.received += data
        try:
            packets = self.receiver.take(data)
        except AssertionError as error:
            self.complaint = error  # whoever sends must not hear of it
            raise
        for packet in packets:
            self.seen.append(packet)
            if isinstance(packet, Publish) and packet.qos:
                self.to_acknowledge[Puback if packet.qos == 1 else Pubrec].append(packet.packet_identifier)
            elif isinstance(packet, Pubrel):
                self.to_acknowledge[Pubcomp].append(packet.packet_identifier)
            elif (
                isinstance(packet, Pubrec)
                and packet.reason_code < 0x80
                and packet.packet_identifier not in self.to_release
            ):
                self.to_release.append(packet.packet_identifier)
        return len(data)

    def answer(self, kind: type[Packet], reason_code: int = 0) -> int:
        """The Packet Identifier of the oldest message that this packet is the answer to, which it takes away."""
        identifier = self.to_acknowledge[kind].popleft()
        if kind is not Pubrec or reason_code >= 0x80:
            self.receiver.settled(identifier)
        return identifier

    def next_identifier(self) -> int:
        self.packet_identifier = self.packet_identifier % 65_535 + 1
        return self.packet_identifier

    def connected(self, properties: ConnectProperties) -> None:
        for waiting in self.to_acknowledge.values():
            waiting.clear()
        self.to_release.clear()
        self.receiver = StrictReceiver(self.name, self.version, properties)


class World(Assembly):
    """The stages of a broker, its out-queues, and its clients. `options` as for Assembly."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.peers: dict[str, Peer] = {}
        self.delivery = Delivery(self.round, self.deliver, BackPressure(self.round, self.timers), self.expiry)

    def peer(self, name: str, version: int) -> Peer:
        """A client that is not connected yet."""
        peer = self.peers[name] = Peer(name, version)
        self.authorities[name] = peer.rights
        return peer

    def connect(self, peer: Peer, *, clean: bool = True, will: Will | None = None, **properties: Any) -> None:
        """A new connection with CONNECT; `properties` are those of MQTT 5."""
        conn = Connection(self.round)
        old, peer.conn = peer.conn, conn
        peer.rights.authorized_until = None
        asked = ConnectProperties(**properties)
        peer.connected(asked)
        conn.transmit = peer.transmit
        conn.drain = self.delivery.send
        conn.end = lambda error: self._ended(peer, conn, error)
        connect = Connect(peer.name, peer.version, clean, will=will, properties=asked)
        self.feed(peer, encode(connect, peer.version))
        if old is not None:
            assert old.session is None

    def feed(self, peer: Peer, octets: bytes) -> None:
        """One read, and the round that it makes."""
        conn = peer.conn
        if conn is None or not octets:
            return
        try:
            pending = self.pipeline.feed(conn, octets)
            assert pending is None, "nothing here makes a hand-off"
        except MqttError as error:
            self._ended(peer, conn, error)
        self._flush()

    def _flush(self) -> None:
        """The end of a round; whoever got what it cannot take complains."""
        self.delivery.flush()
        for peer in self.peers.values():
            if peer.complaint is not None:
                raise peer.complaint

    def send(self, peer: Peer, *packets: Packet) -> None:
        """Some packets in one read."""
        self.feed(peer, b"".join(encode(packet, peer.version) for packet in packets))

    def lose(self, peer: Peer, error: MqttError | None = None) -> None:
        """The connection is gone."""
        if peer.conn is not None:
            self._ended(peer, peer.conn, error)
            self._flush()

    def unblock(self, peer: Peer) -> None:
        """The socket takes octets again."""
        peer.takes = True
        if peer.conn is not None and peer.conn.blocked:
            self.delivery.writable(peer.conn)
            self._flush()

    def rights_changed(self, peer: Peer) -> None:
        """What has to happen when `peer.rights` were changed."""
        if peer.conn is not None and peer.conn.session is not None:
            self.expiry.granted(peer.conn)

    def rights_end_in(self, peer: Peer, seconds: float) -> None:
        """What this client may do, it may do for so long, unless it connects again."""
        peer.rights.authorized_until = self.clock.wall + seconds
        self.rights_changed(peer)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        super().advance(seconds)
        self._flush()

    def _ended(self, peer: Peer, conn: Connection, error: MqttError | None) -> None:
        if conn.closed:
            return
        self.session.lost(conn, CloseReason(error))
        self._flush()
        conn.closed = True
        conn.rights_end = inf
        if conn.expiry_timer is not None:
            conn.expiry_timer.cancel()
        conn.transmit = len
        conn.out.clear()
        conn.out_octets = 0
        conn.want_writable = lambda: None
        if peer.conn is conn:
            peer.conn = None
            peer.seen.append("lost" if error is None else f"{type(error).__name__} {error.reason_code}")
        else:
            peer.seen.append("taken over")
