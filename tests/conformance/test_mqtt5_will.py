"""MQTT 5.0, 3.1.2.5 and 3.1.3.2: the Will Message, its delay, and what removes it."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import Disconnect, Publish
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, connected, make, make_will
from trio_acebroker import Broker


async def watching(broker: Broker, **options: object) -> WireClient:
    """A client subscribed to the topic of the Will."""
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("will", qos=2, **options)  # type: ignore[arg-type]
    return watcher


@mqtt5("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-10")
@pytest.mark.parametrize("ending", ["cut", "0x04", "0x80", "protocol error", "malformed", "taken over"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_the_will_is_published_once_at_the_end_of_the_connection(broker: Broker, ending: str, qos: int) -> None:
    watcher = await watching(broker)
    client = await connected(broker, "client", will=make_will("will", b"gone", qos))
    await watcher.expect_silence()
    if ending == "cut":
        await client.aclose()
    elif ending == "taken over":
        await connected(broker, "client")
        await client.expect_closed(0x8E)
    else:
        stimulus = {
            "0x04": b"\xe0\x01\x04",
            "0x80": b"\xe0\x01\x80",
            "protocol error": octets.publish(b""),
            "malformed": b"\xc1\0",
        }[ending]
        await client.send_raw(stimulus)
        await client.expect_closed(None if ending.startswith("0x") else {0x81, 0x82})
    await watcher.expect_message("will", b"gone", qos=qos, retain=False)
    await watcher.expect_silence(100)


@mqtt5("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
@pytest.mark.parametrize("delay", [0, 5])
async def test_a_normal_disconnect_drops_the_will(broker: Broker, delay: int) -> None:
    watcher = await watching(broker)
    client = await connected(
        broker, "client", will=make_will("will", b"gone", will_delay_interval=delay), session_expiry_interval=100
    )
    await client.disconnect()
    await watcher.expect_silence(200)


@mqtt5("MQTT-3.1.2-14", "MQTT-3.1.2-15")
@pytest.mark.parametrize("retain", [False, True])
async def test_will_retain(broker: Broker, retain: bool) -> None:
    watcher = await watching(broker, retain_as_published=True)
    client = await connected(broker, "client", will=make_will("will", b"gone", retain=retain))
    await client.aclose()
    await watcher.expect_message("will", b"gone", retain=retain)
    late = await connected(broker, "late")
    await late.subscribe("will")
    if retain:
        await late.expect_message("will", b"gone", retain=True)
    await late.expect_silence()


@mqtt5("MQTT-3.1.2-8")
@pytest.mark.parametrize(
    ("delay", "session_expiry", "due"),
    [(0, 0, 0), (10, 0, 0), (10, 100, 10), (100, 10, 10), (10, 10, 10), (0, 100, 0)],
)
async def test_the_will_comes_after_its_delay_or_with_the_end_of_the_session(
    broker: Broker, delay: int, session_expiry: int, due: int
) -> None:
    watcher = await watching(broker)
    client = await connected(
        broker,
        "client",
        will=make_will("will", b"gone", will_delay_interval=delay),
        session_expiry_interval=session_expiry,
    )
    await client.aclose()
    if due:
        await watcher.expect_silence(due - 0.5)
        await trio.sleep(1)
    await watcher.expect_message("will", b"gone")
    await watcher.expect_silence(200)


@mqtt5("MQTT-3.1.2-8", "MQTT-3.1.2-10")
async def test_the_session_expiry_of_disconnect_counts_for_the_will(broker: Broker) -> None:
    watcher = await watching(broker)
    client = await connected(
        broker, "client", will=make_will("will", b"gone", will_delay_interval=100), session_expiry_interval=1_000
    )
    await client.send(make(Disconnect, reason_code=0x04, session_expiry_interval=10))
    await client.expect_closed()
    await watcher.expect_silence(9.5)
    await trio.sleep(1)
    await watcher.expect_message("will", b"gone")


@mqtt5("MQTT-3.1.3-9", "MQTT-3.1.2-8")
async def test_coming_back_within_the_delay_cancels_the_will(broker: Broker) -> None:
    watcher = await watching(broker)
    client = await connected(
        broker, "client", will=make_will("will", b"gone", will_delay_interval=10), session_expiry_interval=100
    )
    await client.aclose()
    await watcher.expect_silence(9)
    client = await connected(broker, "client", clean_start=False, session_expiry_interval=100)
    await watcher.expect_silence(50)
    await client.aclose()  # this connection has no Will
    await watcher.expect_silence(200)


@mqtt5("MQTT-3.1.3-9", "MQTT-3.1.2-8")
async def test_a_clean_start_within_the_delay_ends_the_session_and_so_publishes(broker: Broker) -> None:
    watcher = await watching(broker)
    client = await connected(
        broker, "client", will=make_will("will", b"gone", will_delay_interval=10), session_expiry_interval=100
    )
    await client.aclose()
    await watcher.expect_silence(5)
    await connected(broker, "client", clean_start=True)
    await watcher.expect_message("will", b"gone")
    await watcher.expect_silence(50)


@mqtt5("MQTT-3.1.3-9", "MQTT-3.1.2-8", "MQTT-3.1.4-3")
@pytest.mark.parametrize(
    ("delay", "clean_start", "published"), [(0, False, True), (10, False, False), (0, True, True), (10, True, True)]
)
async def test_takeover_and_the_will(broker: Broker, delay: int, clean_start: bool, published: bool) -> None:
    watcher = await watching(broker)
    first = await connected(
        broker, "client", will=make_will("will", b"gone", will_delay_interval=delay), session_expiry_interval=100
    )
    await connected(broker, "client", clean_start=clean_start, session_expiry_interval=100)
    await first.expect_closed(0x8E)
    if published:
        await watcher.expect_message("will", b"gone")
    await watcher.expect_silence(50)


@mqtt5("MQTT-3.1.3-10", "MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-18", "MQTT-3.3.2-20")
async def test_the_properties_of_the_will_are_published_with_it(broker: Broker) -> None:
    watcher = await watching(broker)
    fields = {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": "answers",
        "correlation_data": b"\0\xff",
        "user_properties": (("b", "1"), ("a", "2"), ("b", "1"), ("a", "0")),
    }
    client = await connected(broker, "client", will=make_will("will", b"gone", 1, will_delay_interval=0, **fields))
    await client.aclose()
    publish = await watcher.expect_message("will", b"gone", qos=1)
    assert publish.properties == make(Publish, topic="will", **fields).properties


@mqtt5("MQTT-3.3.2-5", "MQTT-3.3.2-6")
async def test_the_expiry_of_a_will_counts_from_its_publication(broker: Broker) -> None:
    watcher = await watching(broker)
    client = await connected(
        broker,
        "client",
        will=make_will("will", b"gone", will_delay_interval=20, message_expiry_interval=10),
        session_expiry_interval=100,
    )
    await client.aclose()
    await watcher.expect_silence(19)
    await trio.sleep(1.5)
    publish = await watcher.expect_message("will", b"gone")
    assert publish.properties.message_expiry_interval in (9, 10)


@mqtt5("MQTT-3.1.2-10")
async def test_a_published_will_is_forgotten(broker: Broker) -> None:
    watcher = await watching(broker)
    client = await connected(broker, "client", will=make_will("will", b"gone"), session_expiry_interval=100)
    await client.aclose()
    await watcher.expect_message("will", b"gone")
    client = await connected(broker, "client", clean_start=False, session_expiry_interval=100)
    await client.aclose()
    await watcher.expect_silence(200)


@mqtt5("MQTT-3.1.2-8", "MQTT-3.3.1-5")
async def test_the_will_reaches_sessions_that_are_away(broker: Broker) -> None:
    away = await connected(broker, "away", session_expiry_interval=100)
    await away.subscribe("will", qos=1)
    await away.disconnect()
    client = await connected(broker, "client", will=make_will("will", b"gone", 1))
    await client.aclose()
    away = await connected(broker, "away", clean_start=False)
    await away.expect_message("will", b"gone", qos=1)
