"""Connections that break in the middle of QoS 2, over TCP and by reset: every message arrives exactly once.

A reset throws away what was on its way, in both directions, so neither side knows what the other one has seen. The
clients here do after it what the standard tells them to (4.4), no more.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from acebroker_codec.encoder import encode
from acebroker_codec.packets import Packet, Pubcomp, Publish, Pubrec, Pubrel
from tests.harness import WireClient, broker_over_tcp, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.config import Listener

pytestmark = [
    pytest.mark.trio(run=run_in_virtual_time),
    pytest.mark.parametrize("shell", ["raw", "pump"]),
    pytest.mark.parametrize("version", [3, 4, 5]),
]

Address = tuple[str, int]
MESSAGES = 40


@asynccontextmanager
async def serving(shell: str) -> AsyncIterator[tuple[Broker, Address]]:
    """A broker with that shell; at the end everybody is gone."""
    async with broker_over_tcp(listeners=(Listener(port=0, shell=shell),)) as (broker, address):  # type: ignore[arg-type]
        yield broker, address
        await trio.sleep(2)
        assert not broker.connections


async def reset(client: WireClient) -> None:
    """End the connection by RST, as a crash or a firewall does."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.aclose()


async def attached(address: Address, name: str, version: int, *, present: bool) -> WireClient:
    """The client with this name, back in its session."""
    client = await WireClient.open_tcp(*address, version)
    properties: dict[str, Any] = {"session_expiry_interval": 1_000} if version == 5 else {}
    connack = await client.connect(name, clean_start=False, **properties)
    assert connack.session_present is present
    return client


async def gone(client: WireClient) -> None:
    await client.disconnect()
    await client.aclose()


# ---- the publisher's connection breaks ----


async def publish_with_resets(address: Address, version: int, number: int, *, present: bool) -> None:
    """One message: its connection breaks once, somewhere else for each number; then the exchange is finished."""
    publish = Publish("t", b"%d" % number, 2, packet_identifier=number % 7 + 1)
    release = Pubrel(publish.packet_identifier)
    client = await attached(address, "publisher", version, present=present)
    received = False
    match number % 6:
        case 0:  # nothing but the first octets of it
            await client.send_raw(encode(publish, client.version)[:4])
        case 1:
            await client.send(publish)
        case 2:
            await client.send(publish)
            await wait_all_tasks_blocked()  # the broker has it, PUBREC is on its way
        case 3:
            await client.send(publish)
            await client.expect(Pubrec)
            received = True
        case 4:
            await client.send(publish)
            await client.expect(Pubrec)
            received = True
            await client.send(release)
        case 5:
            await client.send(publish)
            await client.expect(Pubrec)
            received = True
            await client.send(release)
            await wait_all_tasks_blocked()
    await reset(client)
    client = await attached(address, "publisher", version, present=True)
    if not received:
        again = Publish("t", publish.payload, 2, dup=True, packet_identifier=publish.packet_identifier)
        await client.send(again)
        await client.expect(Pubrec, packet_identifier=publish.packet_identifier)
    await client.send(release)
    assert (await client.expect(Pubcomp)).packet_identifier == publish.packet_identifier
    await gone(client)


async def test_what_a_publisher_sends_again_is_delivered_once(shell: str, version: int) -> None:
    async with serving(shell) as (broker, address):
        subscriber = await WireClient.open_tcp(*address, version)
        await subscriber.connect("subscriber")
        await subscriber.subscribe("t", qos=2)
        for number in range(MESSAGES):
            await publish_with_resets(address, version, number, present=number > 0)
            await subscriber.expect_message("t", b"%d" % number, qos=2, dup=False)
        await subscriber.expect_alive()
        assert not broker.session.sessions["publisher"].inbound
        await gone(subscriber)


# ---- the subscriber's connection breaks ----


class Receiver:
    """A subscriber that keeps what QoS 2 asks it to keep, while its connections come and go."""

    def __init__(self, address: Address, version: int) -> None:
        self.address = address
        self.version = version
        self.received: list[bytes] = []
        #: Packet Identifiers between PUBLISH and PUBREL
        self.held: set[int] = set()
        #: of PUBLISH that came again
        self.again = 0

    async def step(self, client: WireClient, *, answer: bool = True) -> Packet:
        """Take one packet, and answer it; without `answer` the connection breaks before that."""
        packet = await client.receive()
        if isinstance(packet, Publish):
            assert packet.qos == 2
            if packet.packet_identifier in self.held:
                assert packet.dup, "it was sent before on this session"
                self.again += 1
            else:
                self.held.add(packet.packet_identifier)
                self.received.append(packet.payload)
            reply: Packet = Pubrec(packet.packet_identifier)
        else:
            assert isinstance(packet, Pubrel)
            self.held.discard(packet.packet_identifier)
            reply = Pubcomp(packet.packet_identifier)
        if answer:
            await client.send(reply)
        return packet


async def test_what_a_subscriber_gets_again_is_known_to_it(shell: str, version: int) -> None:
    async with serving(shell) as (broker, address):
        receiver = Receiver(address, version)
        client = await attached(address, "subscriber", version, present=False)
        await client.subscribe("t", qos=2)
        publisher = await WireClient.open_tcp(*address, version)
        await publisher.connect("publisher")
        for number in range(MESSAGES):
            await publisher.publish("t", b"%d" % number, qos=2)
            # a few packets, then the connection breaks: with the last answer not sent, on its way, or taken
            for step in range(number % 3):
                await receiver.step(client, answer=step == 0 or number % 4 != 0)
            if number % 3 == 0:
                await receiver.step(client, answer=False)
            if number % 2:
                await wait_all_tasks_blocked()
            await reset(client)
            client = await attached(address, "subscriber", version, present=True)
        with trio.move_on_after(1):
            while True:
                await receiver.step(client)
        assert receiver.received == [b"%d" % number for number in range(MESSAGES)]
        assert receiver.again > 0
        assert not receiver.held
        state = broker.session.sessions["subscriber"]
        assert not state.window.published and not state.window.released and not state.queue
        await gone(client)
        await gone(publisher)


async def test_a_reset_is_no_error_of_the_broker(shell: str, version: int, caplog: pytest.LogCaptureFixture) -> None:
    """At any octet, with answers on their way or not: nothing is logged above `info`, and the Will is published."""
    async with serving(shell) as (broker, address):
        other = await WireClient.open_tcp(*address, version)
        await other.connect("other")
        await other.subscribe("#")
        octets = encode(Publish("t", b"payload", 2, packet_identifier=1), other.version) + b"\x62\x02\0\1"
        for size in range(len(octets) + 1):
            client = await WireClient.open_tcp(*address, version)
            await client.connect("client")
            await client.send_raw(octets[:size])
            await reset(client)
        for size in range(3, 12):  # and in the middle of CONNECT
            client = await WireClient.open_tcp(*address, version)
            await client.send_raw(b"\x10\x0c\x00\x04MQTT\x04\x02\0\0"[:size])
            await reset(client)
        await trio.sleep(1)
        await other.drain()
        await other.expect_alive()
        assert list(broker.session.sessions) == ["other"]
        await gone(other)
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
