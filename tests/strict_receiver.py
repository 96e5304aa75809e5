"""StrictReceiver: the receiving end of one connection, which holds the broker to all that it asked for in CONNECT.

Whatever comes must be whole, well-formed packets, none larger than the Maximum Packet Size, with Topic Aliases that
were set before, and with no more QoS 1 and 2 messages at once than the Receive Maximum, each under an identifier of
its own. AssertionError for what is not.
"""

from __future__ import annotations

from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError
from acebroker_codec.frames import PACKET_BYTES_MAX
from acebroker_codec.packets import NO_CONNECT_PROPERTIES, ConnectProperties, Packet, ProtocolVersion, Publish

__all__ = ["StrictReceiver"]


class StrictReceiver:
    """`properties` are those of CONNECT. `open` are the Packet Identifiers of messages that are not settled."""

    def __init__(
        self, name: str, version: ProtocolVersion, properties: ConnectProperties = NO_CONNECT_PROPERTIES
    ) -> None:
        self._name = name
        self._decoder = Decoder(properties.maximum_packet_size or PACKET_BYTES_MAX, version, "client")
        self._receive_maximum = properties.receive_maximum or 65_535
        self._alias_maximum = properties.topic_alias_maximum or 0
        self._aliases: dict[int, str] = {}
        self.open: set[int] = set()

    def take(self, octets: bytes) -> list[Packet]:
        """The packets that are complete now, as they came: a topic may be empty, `topic_of` knows it."""
        packets: list[Packet] = []
        for packet in self._decoder.feed(octets):
            assert not isinstance(packet, MqttError), f"{self._name} received what no client accepts: {packet!r}"
            if isinstance(packet, Publish):
                self._check(packet)
            packets.append(packet)
        return packets

    def topic_of(self, packet: Publish) -> str:
        """The Topic Name of a PUBLISH that was just taken."""
        return packet.topic or self._aliases[packet.properties.topic_alias or 0]

    def settled(self, packet_identifier: int) -> None:
        """The client has sent the last word about a message: PUBACK, PUBCOMP, or PUBREC with an error."""
        self.open.discard(packet_identifier)

    def _check(self, packet: Publish) -> None:
        alias = packet.properties.topic_alias
        if alias is not None:
            assert alias <= self._alias_maximum, f"{self._name} received Topic Alias {alias}"
            if packet.topic:
                self._aliases[alias] = packet.topic
            assert alias in self._aliases, f"{self._name} received Topic Alias {alias}, which was never set"
        if packet.qos:
            identifier = packet.packet_identifier
            assert identifier not in self.open, f"{self._name} received identifier {identifier}, which is in use"
            self.open.add(identifier)
            assert len(self.open) <= self._receive_maximum, f"{self._name} received more than its Receive Maximum"
