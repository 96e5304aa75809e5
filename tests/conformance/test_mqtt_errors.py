"""Errors of the broker's own, and transports: what both versions say alike."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import PacketType, Puback, Publish
from acebroker_middleware.connection import Connection
from acebroker_middleware.stage import per_packet
from tests.conformance import octets
from tests.conformance.statements import mqtt5, mqtt311
from tests.harness import WireClient, broker_over_tcp, broker_running, connected, make_will


@per_packet(PacketType.PUBLISH)
def failing(conn: Connection, packet: Publish) -> Publish:
    """A stage that cannot process one topic."""
    if packet.topic == "fail":
        raise RuntimeError("no room to process this")
    return packet


@mqtt311("MQTT-4.8.0-2")
@mqtt5("MQTT-4.13.1-1")
@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_error_while_processing_closes_that_connection_alone(version: int, qos: int) -> None:
    async with broker_running(stages=[failing]) as broker:
        other = await connected(broker, "other", version)
        await other.subscribe("#")
        client = await connected(broker, "client", version, will=make_will("will", b"gone"))
        await client.publish("before", b"x", qos=qos)
        await client.expect_alive()
        await client.send(Publish("fail", b"x", qos, packet_identifier=99 if qos else 0))
        await client.expect_closed(0x83)
        await other.expect_message("before", b"x")
        await other.expect_message("will", b"gone")
        await other.expect_alive()


@mqtt311("MQTT-7.1.1-1")
@mqtt5("MQTT-4.2-1")
@pytest.mark.trio(run=trio.run)
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_over_tcp(version: int) -> None:
    """An ordered, lossless stream in both directions, in pieces that mean nothing."""
    empty = b"\0" if version == 5 else None
    stimulus = b"".join(
        octets.publish(b"t", b"%d" % i + bytes(i), first=0x32, packet_identifier=i + 1, properties_=empty)
        for i in range(300)
    )
    async with (
        broker_over_tcp() as (_, (host, port)),
        await WireClient.open_tcp(host, port, version) as subscriber,
        await WireClient.open_tcp(host, port, version) as publisher,
    ):
        await subscriber.connect("subscriber")
        await subscriber.subscribe("t", qos=1)
        await publisher.connect("publisher")
        for start in range(0, len(stimulus), 611):
            await publisher.send_raw(stimulus[start : start + 611])
        for i in range(300):
            await subscriber.expect_message("t", b"%d" % i + bytes(i))
            await publisher.expect(Puback, packet_identifier=i + 1)
        await publisher.disconnect()
