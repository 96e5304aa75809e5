"""MQTT 5.0, 3.3: PUBLISH, from a client and on to the subscribers."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from acebroker_codec.packets import Pubcomp, Publish, Pubrec, Pubrel, SubscriptionRequest
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import connected, make
from trio_acebroker import Broker

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
TOPIC_ALIAS_INVALID = 0x94


@mqtt5("MQTT-3.3.1-2", "MQTT-3.3.1-4", "MQTT5-U-3.3.1.2-1")
@pytest.mark.parametrize("first", [0x36, 0x37, 0x3E, 0x3F, 0x38, 0x39], ids=hex)
async def test_qos_3_and_dup_with_qos_0_are_malformed(broker: Broker, first: int) -> None:
    client = await connected(broker, "sender")
    identifier = 1 if first & 6 else None
    await client.send_raw(octets.publish(b"t", first=first, packet_identifier=identifier))
    await client.expect_closed(MALFORMED)


@mqtt5("MQTT-3.3.1-3", "MQTT-4.3.2-2", "MQTT-4.3.3-2")
@pytest.mark.parametrize("qos", [1, 2])
async def test_dup_of_the_publisher_is_not_passed_on(broker: Broker, qos: int) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"again", qos=qos, dup=True)
    await subscriber.expect_message("t", b"again", qos=qos, dup=False)


@mqtt5("MQTT-4.3.1-1", "MQTT-3.3.1-2", "MQTT-3.8.4-8")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
async def test_delivery_qos_is_the_lower_one(broker: Broker, qos: int, granted: int) -> None:
    subscriber = await connected(broker, "subscriber")
    assert (await subscriber.subscribe("t", qos=granted)).reason_codes == (granted,)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    await subscriber.expect_message("t", b"x", qos=min(qos, granted), dup=False)
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.2-1", "MQTT-4.7.3-1", "MQTT5-U-3.3.2.1-1")
async def test_an_empty_topic_without_an_alias_is_a_protocol_error(broker: Broker) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b""))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.3.2-2", "MQTT-4.7.0-1")
@pytest.mark.parametrize("topic", [b"#", b"+", b"a/#", b"a/+/b", b"a+", b"#a"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_topic_with_wildcards_is_refused(broker: Broker, topic: bytes, qos: int) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#")
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(topic, first=0x30 | qos << 1, packet_identifier=1 if qos else None))
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR, 0x90})
    await watcher.expect_silence()


@mqtt5("MQTT-3.3.2-3")
async def test_delivered_topics_match_the_filter(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("a/+/c", "b/#")
    publisher = await connected(broker, "publisher")
    for topic in ("a/b/c", "a/c", "a/b/c/d", "b", "b/c", "bc", "a//c"):
        await publisher.publish(topic, b"x")
    for topic in ("a/b/c", "b", "b/c", "a//c"):
        await subscriber.expect_message(topic, b"x")
    await subscriber.expect_silence()


PASSED_ON: dict[str, dict[str, Any]] = {
    "Payload Format Indicator 0": {"payload_format_indicator": 0},
    "Payload Format Indicator 1": {"payload_format_indicator": 1},
    "Response Topic": {"response_topic": "answers/here"},
    "Correlation Data": {"correlation_data": bytes(range(256))},
    "Content Type": {"content_type": "text/plain; charset=utf-8"},
    "User Properties": {"user_properties": (("b", "1"), ("a", "2"), ("b", "3"), ("", ""), ("a", "2"))},
}


@mqtt5(
    *("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"),
)
@pytest.mark.parametrize("name", [*PASSED_ON, "all"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
async def test_properties_are_passed_on(broker: Broker, name: str, qos: int, retain: bool) -> None:
    fields = {key: value for row in PASSED_ON.values() for key, value in row.items()}
    fields = fields if name == "all" else PASSED_ON[name]
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"text", qos=qos, retain=retain, **fields)
    received = [await subscriber.expect_message("t", b"text", qos=qos)]
    if retain:
        late = await connected(broker, "late")
        await late.subscribe("t", qos=2)
        received.append(await late.expect_message("t", b"text", qos=qos, retain=True))
    for publish in received:
        assert publish.properties == make(Publish, topic="t", **fields).properties


@mqtt5("MQTT-3.3.2-5")
@pytest.mark.parametrize("qos", [1, 2])
async def test_a_message_that_expired_while_waiting_is_not_delivered(broker: Broker, qos: int) -> None:
    subscriber = await connected(broker, "subscriber", session_expiry_interval=1_000)
    await subscriber.subscribe("t", qos=2)
    await subscriber.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"short", qos=qos, message_expiry_interval=10)
    await publisher.publish("t", b"long", qos=qos, message_expiry_interval=100)
    await trio.sleep(11)
    subscriber = await connected(broker, "subscriber", clean_start=False)
    await subscriber.expect_message("t", b"long")
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.2-6")
async def test_message_expiry_is_reduced_by_the_waiting_time(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber", session_expiry_interval=1_000)
    await subscriber.subscribe("t", qos=1)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"now", qos=1, message_expiry_interval=100)
    await subscriber.expect_message("t", b"now", message_expiry_interval=100)
    await subscriber.disconnect()
    await publisher.publish("t", b"later", qos=1, message_expiry_interval=100)
    await trio.sleep(30.5)
    subscriber = await connected(broker, "subscriber", clean_start=False)
    publish = await subscriber.expect_message("t", b"later")
    assert publish.properties.message_expiry_interval in (69, 70)


@mqtt5("MQTT-3.3.2-5", "MQTT-3.3.2-6")
async def test_the_time_between_publish_and_pubrel_counts(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    for identifier, interval in ((1, 100), (2, 20)):
        publish = make(Publish, topic="t", qos=2, packet_identifier=identifier, message_expiry_interval=interval)
        await publisher.send(publish)
        await publisher.expect(Pubrec)
    await trio.sleep(30.5)
    for identifier in (2, 1):
        await publisher.send(Pubrel(identifier))
        await publisher.expect(Pubcomp, reason_code=0)
    message = await subscriber.expect_message("t", b"")
    assert message.properties.message_expiry_interval in (69, 70)
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.2-5", "MQTT-3.3.2-6")
async def test_retained_messages_age_and_expire(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1, retain=True, message_expiry_interval=100)
    await trio.sleep(40.5)
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("t")
    publish = await subscriber.expect_message("t", b"x", retain=True)
    assert publish.properties.message_expiry_interval in (59, 60)
    await trio.sleep(60)
    await subscriber.subscribe("t")
    await subscriber.expect_silence()


@mqtt5("MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.3.2-19")
@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(b"\x08" + octets.binary(b"\xff"), id="Response Topic not UTF-8"),
        pytest.param(b"\x08" + octets.string("a/#"), id="Response Topic with #"),
        pytest.param(b"\x08" + octets.string("a/+"), id="Response Topic with +"),
        pytest.param(b"\x03" + octets.binary(b"\xff"), id="Content Type not UTF-8"),
    ],
)
async def test_response_topic_and_content_type_are_checked(broker: Broker, entry: bytes) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#")
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b"t", properties_=octets.properties(entry)))
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR, 0x90})
    await watcher.expect_silence()


@mqtt5("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4", "MQTT-3.3.4-5")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_overlapping_subscriptions(broker: Broker, qos: int) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("a/#", qos=0, subscription_identifier=11)
    await subscriber.subscribe("a/+", qos=2, subscription_identifier=22)
    await subscriber.subscribe("a/b", qos=1, subscription_identifier=268_435_455)
    await subscriber.subscribe("b/#", qos=2, subscription_identifier=44)
    await subscriber.subscribe("+/b", qos=0)
    publisher = await connected(broker, "publisher")
    await publisher.publish("a/b", b"x", qos=qos)
    received = await subscriber.drain()
    assert all(isinstance(packet, Publish) for packet in received)
    copies = [packet for packet in received if isinstance(packet, Publish)]
    identifiers = sorted(i for copy in copies for i in copy.properties.subscription_identifiers)
    assert identifiers == [11, 22, 268_435_455]
    assert max(copy.qos for copy in copies) == qos
    if len(copies) > 1:  # a copy a subscription: each has the identifier of its own
        assert all(len(copy.properties.subscription_identifiers) <= 1 for copy in copies)


@mqtt5("MQTT-3.3.4-6", "MQTT5-U-3.3.2.3.8-1")
@pytest.mark.parametrize("value", [b"\0", b"\x01"], ids=["0", "1"])
async def test_a_subscription_identifier_from_a_client_is_an_error(broker: Broker, value: bytes) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b"t", properties_=octets.properties(b"\x0b" + value)))
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR})


# ---- Topic Alias, from the client ----


@mqtt5("MQTT-3.3.2-12")
async def test_every_alias_up_to_the_announced_maximum_is_taken(broker: Broker) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("#")
    publisher = await connected(broker, "publisher")
    for alias in range(1, 65):
        await publisher.publish(f"topic/{alias}", b"first", topic_alias=alias)
        await publisher.publish("", b"second", topic_alias=alias)
        await subscriber.expect_message(f"topic/{alias}", b"first", topic_alias=None)
        await subscriber.expect_message(f"topic/{alias}", b"second", topic_alias=None)
    await publisher.publish("another", b"changed", topic_alias=7)
    await publisher.publish("", b"changed", topic_alias=7)
    for _ in range(2):
        await subscriber.expect_message("another", b"changed")


@mqtt5("MQTT-3.3.2-12", "MQTT-3.2.2-17")
async def test_the_announced_maximum_is_the_limit(broker: Broker) -> None:
    client = await connected(broker, "sender")
    maximum = 64
    await client.publish("t", topic_alias=maximum)
    await client.expect_alive()
    await client.publish("t", topic_alias=maximum + 1)
    await client.expect_closed(TOPIC_ALIAS_INVALID)


@mqtt5("MQTT-3.3.2-8", "MQTT-3.3.2-9", "MQTT5-U-3.3.2.3.4-1")
@pytest.mark.parametrize("alias", [0, 65, 65_535])
async def test_alias_0_and_aliases_above_the_maximum(broker: Broker, alias: int) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b"t", properties_=octets.properties(b"\x23" + octets.uint16(alias))))
    await client.expect_closed(TOPIC_ALIAS_INVALID)


@mqtt5("MQTT5-U-3.3.2.1-1")
async def test_an_alias_without_a_mapping_is_a_protocol_error(broker: Broker) -> None:
    client = await connected(broker, "sender")
    await client.send_raw(octets.publish(b"", properties_=octets.properties(b"\x23\0\x05")))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.3.2-7")
async def test_aliases_of_a_client_die_with_the_connection(broker: Broker) -> None:
    first = await connected(broker, "sender", session_expiry_interval=100)
    await first.publish("t", topic_alias=1)
    await first.expect_alive()
    await first.disconnect()
    second = await connected(broker, "sender", clean_start=False)
    await second.send_raw(octets.publish(b"", properties_=octets.properties(b"\x23\0\x01")))
    await second.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.3.2-7")
async def test_aliases_belong_to_one_connection(broker: Broker) -> None:
    first = await connected(broker, "first")
    await first.publish("t", topic_alias=1)
    second = await connected(broker, "second")
    await second.send_raw(octets.publish(b"", properties_=octets.properties(b"\x23\0\x01")))
    await second.expect_closed(PROTOCOL_ERROR)
    await first.expect_alive()


# ---- Topic Alias, towards the client ----

LONG = "a/topic/that/is/long/enough/for/an/alias/to/pay/"


@mqtt5("MQTT-3.1.2-26", "MQTT-3.3.2-11", "MQTT-3.3.2-8", "MQTT-3.3.2-10")
@pytest.mark.parametrize("maximum", [1, 2, 3, 65_535])
@pytest.mark.parametrize("qos", [0, 1])
async def test_aliases_of_the_broker_stay_within_the_maximum(broker: Broker, maximum: int, qos: int) -> None:
    subscriber = await connected(broker, "subscriber", topic_alias_maximum=maximum)
    await subscriber.subscribe("#", qos=qos)
    publisher = await connected(broker, "publisher")
    mapping: dict[int, str] = {}
    for number in (0, 0, 1, 1, 2, 3, 0, 4, 4, 2, 1, 0, 0):
        await publisher.publish(f"{LONG}{number}", b"%d" % number, qos=qos)
        publish = await subscriber.expect(Publish, payload=b"%d" % number, qos=qos)
        await subscriber.acknowledge(publish)
        topic, alias = publish.topic, publish.properties.topic_alias
        if alias is not None:
            assert 1 <= alias <= maximum
            if topic:
                mapping[alias] = topic
            topic = mapping[alias]
        assert topic == f"{LONG}{number}"


@mqtt5("MQTT-3.1.2-27", "MQTT-3.3.2-7")
@pytest.mark.parametrize("maximum", [None, 0])
async def test_no_alias_towards_a_client_that_takes_none(broker: Broker, maximum: int | None) -> None:
    first = await connected(broker, "subscriber", topic_alias_maximum=10, session_expiry_interval=100)
    await first.subscribe("#")
    publisher = await connected(broker, "publisher")
    for _ in range(3):
        await publisher.publish(LONG, b"x")
        await first.expect(Publish)
    await first.disconnect()
    second = await connected(broker, "subscriber", topic_alias_maximum=maximum, clean_start=False)
    for _ in range(3):
        await publisher.publish(LONG, b"x")
        await second.expect(Publish, topic=LONG, topic_alias=None)


@mqtt5("MQTT-3.3.2-7")
async def test_aliases_of_the_broker_die_with_the_connection(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    for _ in range(2):
        subscriber = await connected(
            broker, "subscriber", topic_alias_maximum=10, session_expiry_interval=100, clean_start=False
        )
        await subscriber.subscribe(SubscriptionRequest("#", retain_handling=2))
        await publisher.publish(LONG, b"x")
        await subscriber.expect(Publish, topic=LONG)
        await publisher.publish(LONG, b"x")
        await subscriber.expect(Publish)
        await subscriber.disconnect()
