"""Bystanders: a publisher and two subscribers of everything, one of MQTT 3.1.1 and one of MQTT 5.

What they talk about themselves is below a topic of its own, under Client Identifiers that nobody guesses. The two
subscribers ask for the same in the same way, so they have to receive the same.
"""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from acebroker_codec import packets as p
from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError
from tests.codec import naive_decoder
from trio_acebroker import Broker
from trio_acebroker.transports.memory import MemoryClient

__all__ = ["Bystanders"]

_TOPIC = "5f3a9c1e/bystanders"
_V5 = p.ProtocolVersion.MQTT_5
_V4 = p.ProtocolVersion.MQTT_3_1_1


class _Honest:
    """A client that answers what it receives as the standard wants it, in a task of its own."""

    def __init__(self, stream: MemoryClient, name: str, version: p.ProtocolVersion) -> None:
        self.stream = stream
        self.name = f"5f3a9c1e-{name}"
        self.version = version
        self.octets = bytearray()
        self.published: list[p.Publish] = []
        self.acknowledged: list[p.Packet] = []
        self._decoder = Decoder(version=version, role="client")

    async def send(self, *packets: p.Packet) -> None:
        await self.stream.send_all(b"".join(encode(packet, self.version) for packet in packets))

    async def run(self) -> None:
        """Until the broker closes, which it should not."""
        await self.send(p.Connect(self.name, self.version, True, 0))
        while octets := await self.stream.receive_some():
            self.octets += octets
            for packet in self._decoder.feed(octets):
                assert not isinstance(packet, MqttError), f"{self.name} received what no client accepts: {packet!r}"
                await self._take(packet)
        raise AssertionError(f"{self.name} was cut off")

    async def _take(self, packet: p.Packet) -> None:
        match packet:
            case p.Publish():
                self.published.append(packet)
                if packet.qos:
                    kind = p.Puback if packet.qos == 1 else p.Pubrec
                    await self.send(kind(packet.packet_identifier))
            case p.Pubrel():
                await self.send(p.Pubcomp(packet.packet_identifier))
            case p.Pubrec() if packet.reason_code < 0x80:
                await self.send(p.Pubrel(packet.packet_identifier))
            case p.Disconnect():
                raise AssertionError(f"{self.name} was told {packet!r}")
            case _:
                self.acknowledged.append(packet)


class Bystanders:
    """Owns three connections; they end with the nursery given to `start`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._sent: list[bytes] = []
        self._identifier = 0

    async def start(self, nursery: trio.Nursery) -> None:
        """Connect and subscribe."""
        self._publisher = _Honest(await self._broker.connect(), "publisher", _V5)
        self._subscribers = [_Honest(await self._broker.connect(), f"subscriber-{v}", v) for v in (_V4, _V5)]
        for client in (self._publisher, *self._subscribers):
            nursery.start_soon(client.run)
        await wait_all_tasks_blocked()
        for client in self._subscribers:
            await client.send(p.Subscribe(1, (p.SubscriptionRequest("#", 2),)))
        await wait_all_tasks_blocked()
        assert all(len(client.acknowledged) == 2 for client in self._subscribers)

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        """Something that fuzzed clients may hear."""
        self._identifier = self._identifier % 60_000 + 1
        await self._publisher.send(
            p.Publish(topic, payload, qos, retain, packet_identifier=self._identifier if qos else 0)
        )

    async def exchange(self) -> None:
        """A message from one to the others, and look that all of them have come so far."""
        payload = b"%d" % len(self._sent)
        self._sent.append(payload)
        await self.publish(_TOPIC, payload, len(self._sent) % 3)
        await wait_all_tasks_blocked()
        for client in self._subscribers:
            received = [each.payload for each in client.published if each.topic == _TOPIC]
            assert received == self._sent, f"the bystanders' messages: {received[-3:]} instead of {self._sent[-3:]}"

    def check(self) -> None:
        """Whatever was received is well formed by the model too, and the same by both versions."""
        for client in (self._publisher, *self._subscribers):
            _, verdict = naive_decoder.decode_stream(bytes(client.octets), int(client.version), "server")
            assert verdict == "done", f"{client.name} received what the model refuses"
        compared = (0, 1, 2) if not self._broker.counters.dropped_queue_full else (0,)
        for qos in compared:
            old, new = (
                [(each.topic, each.payload, each.retain) for each in client.published if each.qos == qos]
                for client in self._subscribers
            )
            assert old == new, f"MQTT 3.1.1 and MQTT 5 received other messages of QoS {qos}"
