"""MQTT 5.0, 3.1.2.4, 3.1.2.11.2, 4.1: what a session keeps, for whom, and for how long."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import Disconnect, Publish
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, connected, make, make_will
from trio_acebroker import Broker


async def present(broker: Broker, client_identifier: str = "client", **fields: int) -> bool:
    """Is there a session? Connects with Clean Start 0, so there is one afterwards, and ends the connection."""
    client = await WireClient.open(broker)
    connack = await client.connect(client_identifier, clean_start=False, **{"session_expiry_interval": 100, **fields})
    await client.disconnect()
    return connack.session_present


@mqtt5("MQTT-3.1.2-4", "MQTT-3.1.4-4", "MQTT-3.2.2-2")
async def test_clean_start_drops_the_stored_session(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=1_000)
    await client.subscribe("t", qos=1)
    await client.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"while away", qos=1)
    client = await WireClient.open(broker)
    assert not (await client.connect("client", clean_start=True)).session_present
    await publisher.publish("t", b"now", qos=1)
    await client.expect_silence()


@mqtt5("MQTT-3.1.2-5", "MQTT-3.2.2-3", "MQTT-3.1.2-23", "MQTT-3.1.3-2", "MQTT-4.5.0-1")
async def test_a_stored_session_is_resumed(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=1_000)
    await client.subscribe("t", qos=1)
    await client.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"while away", qos=1)
    client = await WireClient.open(broker)
    assert (await client.connect("client", clean_start=False)).session_present
    await client.expect_message("t", b"while away", qos=1)
    await publisher.publish("t", b"now", qos=1)
    await client.expect_message("t", b"now", qos=1)


@mqtt5("MQTT-3.1.2-6", "MQTT-3.2.2-3")
async def test_without_a_stored_session_one_is_created(broker: Broker) -> None:
    assert not await present(broker)
    assert await present(broker)


@mqtt5("MQTT-3.1.3-2")
async def test_sessions_are_told_apart_by_client_identifier(broker: Broker) -> None:
    for client_identifier in ("a", "A", "a "):
        assert not await present(broker, client_identifier)
    for client_identifier in ("a", "A", "a "):
        assert await present(broker, client_identifier)


@mqtt5("MQTT-4.1.0-2", "MQTT-3.1.2-23")
@pytest.mark.parametrize("ending", ["DISCONNECT", "cut"])
async def test_a_session_ends_when_its_expiry_interval_ran_out(broker: Broker, ending: str) -> None:
    for waiting, kept in ((9, True), (12, False)):
        client = await connected(broker, "client", session_expiry_interval=10)
        await client.subscribe("t", qos=1)
        await (client.disconnect() if ending == "DISCONNECT" else client.aclose())
        await trio.sleep(waiting)
        assert await present(broker) == kept


@mqtt5("MQTT-4.1.0-2")
@pytest.mark.parametrize("session_expiry_interval", [None, 0])
async def test_without_an_expiry_interval_the_session_ends_with_the_connection(
    broker: Broker, session_expiry_interval: int | None
) -> None:
    client = await connected(broker, "client", session_expiry_interval=session_expiry_interval)
    await client.subscribe("t", qos=1)
    await client.disconnect()
    assert not await present(broker)


@mqtt5("MQTT-4.1.0-1")
async def test_a_session_does_not_end_while_connected(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=1)
    await client.subscribe("t", qos=1)
    await trio.sleep(60)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1)
    publish = await client.expect(Publish)
    await client.aclose()
    client = await WireClient.open(broker)
    connack = await client.connect("client", clean_start=False, session_expiry_interval=1)
    assert connack.session_present
    await client.expect(Publish, packet_identifier=publish.packet_identifier, dup=True)


@mqtt5("MQTT-3.1.2-23", "MQTT-4.1.0-2")
async def test_the_expiry_interval_can_change_at_disconnect(broker: Broker) -> None:
    for at_connect, at_disconnect, waiting, kept in (
        (10, 100, 50, True),
        (100, 10, 50, False),
        (100, 0, 0, False),
        (10, 0xFFFF_FFFF, 2_000, True),
    ):
        client = await connected(broker, "client", session_expiry_interval=at_connect)
        await client.disconnect(session_expiry_interval=at_disconnect)
        await trio.sleep(waiting)
        assert await present(broker, session_expiry_interval=0) == kept


@mqtt5("MQTT5-U-3.14.2.2.2-1")
async def test_an_expiry_interval_at_disconnect_needs_one_at_connect(broker: Broker) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("will")

    client = await connected(broker, "client", will=make_will("will", b"gone"))
    await client.send(make(Disconnect, session_expiry_interval=10))
    await client.expect_closed(0x82)
    # it was no valid DISCONNECT
    await watcher.expect_message("will", b"gone")


@mqtt5("MQTT-3.1.2-23")
async def test_expiry_never_is_kept_or_cut_openly(broker: Broker) -> None:
    client = await WireClient.open(broker)
    connack = await client.connect("client", session_expiry_interval=0xFFFF_FFFF)
    granted = connack.properties.session_expiry_interval
    assert granted is None or granted >= 86_400
    await client.disconnect()
    await trio.sleep(4_000)
    assert await present(broker)


@mqtt5("MQTT-3.1.2-23", "MQTT-4.1.0-1")
async def test_the_session_holds_subscriptions_and_both_kinds_of_open_deliveries(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=100, receive_maximum=1)
    await client.subscribe("a", qos=1, subscription_identifier=5)
    await client.subscribe("b", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("b", b"sent", qos=2)
    await publisher.publish("a", b"queued", qos=1)
    await client.expect(Publish, payload=b"sent")
    await client.aclose()
    client = await connected(broker, "client", clean_start=False)
    await client.expect_message("b", b"sent", dup=True)
    await client.expect_message("a", b"queued", dup=False, subscription_identifiers=(5,))


@mqtt5("MQTT-3.1.4-3", "MQTT-3.1.2-5", "MQTT-3.2.2-3", "MQTT-4.4.0-1")
async def test_takeover_resumes_the_session_of_the_evicted_connection(broker: Broker) -> None:
    first = await connected(broker, "client", session_expiry_interval=100)
    await first.subscribe("t", qos=1)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1)
    publish = await first.expect(Publish)
    second = await WireClient.open(broker)
    assert (await second.connect("client", clean_start=False, session_expiry_interval=100)).session_present
    await first.expect_closed(0x8E)
    await second.expect(Publish, packet_identifier=publish.packet_identifier, dup=True)
    third = await WireClient.open(broker)
    assert not (await third.connect("client", clean_start=True)).session_present
    await second.expect_closed(0x8E)
    await third.expect_silence()


@mqtt5("MQTT-3.1.2-5")
async def test_takeover_of_a_session_that_ends_with_its_connection(broker: Broker) -> None:
    """Session Expiry 0 is still a session while it is connected: Clean Start 0 resumes it."""
    first = await connected(broker, "client")
    await first.subscribe("t", qos=1)
    second = await WireClient.open(broker)
    connack = await second.connect("client", clean_start=False)
    await first.expect_closed(0x8E)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1)
    if connack.session_present:
        await second.expect_message("t", b"x")
    else:
        await second.expect_silence()
