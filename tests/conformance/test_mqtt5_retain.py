"""MQTT 5.0, 3.3.1.3 and 3.8.3.1: retained messages, and which RETAIN flag a copy has."""

from __future__ import annotations

import pytest

from tests.conformance.statements import mqtt5
from tests.harness import connected
from trio_acebroker import Broker


@mqtt5("MQTT-3.3.1-5", "MQTT-3.3.1-9")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_retained_message_is_stored_and_replaced(broker: Broker, qos: int) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"old", qos=qos, retain=True)
    await publisher.publish("t", b"new", qos=qos, retain=True)
    await publisher.publish("u", b"other", qos=qos, retain=True)
    await publisher.expect_alive()
    for topic_filter in ("t", "+", "t/#"):
        subscriber = await connected(broker, f"subscriber of {topic_filter}")
        await subscriber.subscribe(topic_filter, qos=2)
        received = {(p.topic, p.payload, p.qos, p.retain) for p in await subscriber.drain()}  # type: ignore[attr-defined]
        expected = {("t", b"new", qos, True)} | ({("u", b"other", qos, True)} if topic_filter == "+" else set())
        assert received == expected


@mqtt5("MQTT-3.3.1-6", "MQTT-3.3.1-7")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_empty_payload_clears_and_is_forwarded(broker: Broker, qos: int) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", qos=qos, retain=True)
    await publisher.publish("t", b"", qos=qos, retain=True)
    await watcher.expect_message("t", b"kept", qos=qos)
    await watcher.expect_message("t", b"", qos=qos)
    late = await connected(broker, "late")
    await late.subscribe("t")
    await late.expect_silence()
    # a topic without a retained message: nothing is stored either
    await publisher.publish("fresh", b"", qos=qos, retain=True)
    await publisher.expect_alive()
    await late.subscribe("fresh")
    await late.expect_silence()


@mqtt5("MQTT-3.3.1-8")
async def test_a_message_without_retain_leaves_the_store_alone(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", retain=True)
    await publisher.publish("t", b"passing")
    await publisher.publish("t", b"")
    await publisher.publish("u", b"passing")
    await publisher.expect_alive()
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", "u")
    await subscriber.expect_message("t", b"kept", retain=True)
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "MQTT-3.8.4-4")
@pytest.mark.parametrize(("retain_handling", "first", "again"), [(0, True, True), (1, True, False), (2, False, False)])
async def test_retain_handling(broker: Broker, retain_handling: int, first: bool, again: bool) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", retain=True)
    await publisher.expect_alive()
    subscriber = await connected(broker, "subscriber")
    for expected in (first, again, again):
        await subscriber.subscribe("t", retain_handling=retain_handling)
        if expected:
            await subscriber.expect_message("t", b"kept", retain=True)
        await subscriber.expect_silence()
    # after an UNSUBSCRIBE the subscription is new
    await subscriber.unsubscribe("t")
    await subscriber.subscribe("t", retain_handling=retain_handling)
    if first:
        await subscriber.expect_message("t", b"kept", retain=True)
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.1-10")
async def test_a_resumed_subscription_is_not_new(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", retain=True)
    subscriber = await connected(broker, "subscriber", session_expiry_interval=100)
    await subscriber.subscribe("t", retain_handling=1)
    await subscriber.expect_message("t", b"kept")
    await subscriber.disconnect()
    subscriber = await connected(broker, "subscriber", session_expiry_interval=100, clean_start=False)
    await subscriber.subscribe("t", retain_handling=1)
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.1-12", "MQTT-3.3.1-13")
@pytest.mark.parametrize("retain_as_published", [False, True])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1])
async def test_retain_as_published(broker: Broker, retain_as_published: bool, retain: bool, qos: int) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=qos, retain_as_published=retain_as_published)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos, retain=retain)
    await subscriber.expect_message("t", b"x", retain=retain and retain_as_published)


@mqtt5("MQTT-3.3.1-5", "MQTT-3.3.1-9", "MQTT-3.3.4-3")
async def test_a_retained_copy_carries_the_subscription_identifier(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", qos=1, retain=True)
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", subscription_identifier=9)
    await subscriber.expect_message("t", b"kept", retain=True, qos=0, subscription_identifiers=(9,))


@mqtt5("MQTT-3.3.1-5", "MQTT-4.1.0-2")
async def test_retained_messages_outlive_the_publishers_session(broker: Broker) -> None:
    publisher = await connected(broker, "publisher", session_expiry_interval=0)
    await publisher.publish("t", b"kept", qos=1, retain=True)
    await publisher.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.subscribe("t")
    await publisher.expect_message("t", b"kept", retain=True)
