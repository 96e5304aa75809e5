"""MQTT 5.0, 3.12, 3.14 and 4.13: PING, DISCONNECT, and the end of a connection by an error."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import Disconnect, Pingreq, Pingresp, Publish
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, broker_running, connected, make
from trio_acebroker import Broker

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
#: what a server may send (table 3-10)
DISCONNECT_CODES = {
    *(0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99),
    *(0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2),
}

#: offence -> (octets, the code that the standard names for it)
OFFENCES = {
    "reserved packet type": (b"\x00\x00", {MALFORMED, PROTOCOL_ERROR}),
    "QoS 3": (octets.publish(b"t", first=0x36, packet_identifier=1), {MALFORMED}),
    "packet of a server": (octets.frame(0xB0, b"\0\x01\0\0"), {MALFORMED, PROTOCOL_ERROR}),
    "CONNACK": (b"\x20\x03\0\0\0", {MALFORMED, PROTOCOL_ERROR}),
    "PINGRESP": (b"\xd0\0", {MALFORMED, PROTOCOL_ERROR}),
    "PINGREQ with a body": (b"\xc0\x01\0", {MALFORMED}),
    "empty topic": (octets.publish(b""), {PROTOCOL_ERROR}),
    "Topic Alias 0": (octets.publish(b"t", properties_=b"\x03\x23\0\0"), {0x94}),
    "packet too large": (b"\x30\xff\xff\xff\x7f", {0x95}),
    "AUTH without a method": (
        octets.frame(0xF0, b"\x18" + octets.properties(b"\x15" + octets.string("m"))),
        {PROTOCOL_ERROR},
    ),
}


@mqtt5("MQTT-3.12.4-1")
async def test_pingreq_is_answered(broker: Broker) -> None:
    client = await connected(broker, "client")
    for count in (1, 3):
        await client.send(*[Pingreq()] * count)
        for _ in range(count):
            await client.expect(Pingresp)
    assert client.octets_received.endswith(b"\xd0\0" * 4)


@mqtt5("MQTT-3.14.0-1", "MQTT-3.2.0-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        b"\xc0\0",
        b"\xff\xff\xff\xff\xff",
        octets.connect(flags=0x03),
        octets.connect(name=b"MQTX"),
        b"\xe0\0",
        b"\x10\0",
    ],
    ids=bytes.hex,
)
async def test_no_disconnect_before_a_successful_connack(broker: Broker, stimulus: bytes) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(stimulus)
    received = await client.receive_raw_to_end()
    assert not received.startswith(b"\xe0")


@mqtt5("MQTT-3.14.1-1")
@pytest.mark.parametrize("first", [0xE1, 0xE2, 0xE4, 0xE8, 0xEF], ids=hex)
async def test_reserved_bits_of_disconnect(broker: Broker, first: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(bytes([first, 0]))
    await client.expect_closed(MALFORMED)


@mqtt5("MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-4.13.1-1", "MQTT-4.13.2-1")
@pytest.mark.parametrize("offence", OFFENCES)
async def test_an_offence_ends_with_a_disconnect_and_a_close(broker: Broker, offence: str) -> None:
    stimulus, codes = OFFENCES[offence]
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#")
    client = await connected(broker, "client", session_expiry_interval=10)
    # what stands behind the offence in the same piece is not looked at, and nothing follows the DISCONNECT
    await client.send_raw(stimulus + octets.publish(b"after", b"x") + b"\xc0\0")
    disconnect = await client.expect(Disconnect)
    assert disconnect.reason_code in codes
    assert disconnect.reason_code in DISCONNECT_CODES
    assert disconnect.properties.session_expiry_interval is None
    await client.expect_closed()
    await watcher.expect_silence()


@mqtt5("MQTT-4.13.1-1", "MQTT5-U-4.13.1-2")
async def test_what_came_before_an_offence_counts(broker: Broker) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#")
    client = await connected(broker, "client")
    await client.send_raw(octets.publish(b"before", b"x") + b"\xc0\0" + b"\0\0")
    await client.expect(Pingresp)
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR})
    await watcher.expect_message("before", b"x")


@mqtt5("MQTT-3.14.4-1", "MQTT-3.14.4-2")
@pytest.mark.parametrize("code", [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99])
async def test_the_broker_closes_after_the_clients_disconnect(broker: Broker, code: int) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#")
    client = await connected(broker, "client")
    await client.subscribe("#")
    stimulus = b"\xe0\0" if code == 0 else bytes([0xE0, 1, code])
    await client.send_raw(stimulus + octets.publish(b"after", b"x") + b"\xc0\0")
    await client.expect_closed()
    await watcher.expect_silence()


@mqtt5("MQTT-3.14.2-1")
@pytest.mark.parametrize("code", [0x01, 0x10, 0x84, 0x87, 0x8B, 0x8D, 0x8E, 0xA3, 0xFF], ids=hex)
async def test_codes_that_a_client_cannot_send(broker: Broker, code: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(bytes([0xE0, 1, code]))
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR})


@mqtt5("MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.1.2-24")
@pytest.mark.parametrize("offence", OFFENCES)
async def test_disconnect_fits_the_maximum_packet_size(broker: Broker, offence: str) -> None:
    probe = await connected(broker, "client", maximum_packet_size=1_000)
    limit = len(probe.octets_received)
    client = await connected(broker, "client", maximum_packet_size=limit)
    client.octets_received.clear()
    await client.send_raw(OFFENCES[offence][0])
    await client.expect_closed(OFFENCES[offence][1])
    assert len(client.octets_received) <= limit


@mqtt5("MQTT-3.14.2-1", "MQTT-3.14.4-1", "MQTT-3.14.4-2")
async def test_shutting_down_says_so() -> None:
    async with trio.open_nursery() as nursery:
        clients: list[WireClient] = []
        stop = trio.Event()
        ready = trio.Event()

        async def serve() -> None:
            async with broker_running() as broker:
                clients.extend([await connected(broker, f"client {i}") for i in range(3)])
                ready.set()
                await stop.wait()

        nursery.start_soon(serve)
        await ready.wait()
        stop.set()
        for client in clients:
            await client.expect_closed(0x8B)


@mqtt5("MQTT-4.1.0-2", "MQTT-3.14.4-2")
async def test_disconnect_of_a_client_ends_its_session_by_its_expiry(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=100)
    await client.subscribe("t", qos=1)
    await client.send(make(Disconnect, session_expiry_interval=0))
    await client.expect_closed()
    client = await WireClient.open(broker)
    assert not (await client.connect("client", clean_start=False)).session_present


@mqtt5("MQTT-4.2-1")
async def test_octets_arrive_whole_in_order_and_in_any_pieces(broker: Broker) -> None:
    """An ordered, lossless stream whose pieces mean nothing: one octet at a time, and everything at once."""
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("#")
    stimulus = octets.connect() + b"".join(octets.publish(b"t/%d" % i, bytes([i]) * i) for i in range(60))
    for piece_size in (1, 7, len(stimulus)):
        client = await WireClient.open(broker)
        for start in range(0, len(stimulus), piece_size):
            await client.send_raw(stimulus[start : start + piece_size])
        for i in range(60):
            await subscriber.expect(Publish, topic=f"t/{i}", payload=bytes([i]) * i)
        await client.aclose()
