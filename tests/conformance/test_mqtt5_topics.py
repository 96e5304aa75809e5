"""MQTT 5.0, 4.7: Topic Names and Topic Filters, and what matches."""

from __future__ import annotations

import pytest

from acebroker_codec.packets import Disconnect, Puback, Publish, Suback
from acebroker_middleware.state.bounds import Limits
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import broker_running, connected
from trio_acebroker import Broker

#: filter, topics it matches, topics it does not match
MATCHES = [
    (
        "sport/tennis/player1/#",
        ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/s/w"],
        ["sport/tennis/player2", "sport/tennis/player11", "sport/tennis"],
    ),
    ("sport/#", ["sport", "sport/", "sport/a/b"], ["sports", "Sport"]),
    ("#", ["a", "/", "/a", "a/b//c"], ["$a"]),
    ("+", ["a", " "], ["a/b", "/", "/a", "$a"]),
    ("+/+", ["/a", "a/", "/", "a/b"], ["a", "a/b/c", "$a/b"]),
    ("/+", ["/a", "/"], ["a", "/a/b"]),
    ("sport/+", ["sport/", "sport/a"], ["sport", "sport/a/b"]),
    ("+/monitor/Clients", ["x/monitor/Clients"], ["$dollar/monitor/Clients", "monitor/Clients"]),
    ("+/a/#", ["x/a", "x/a/b"], ["$x/a", "x"]),
    ("$dollar/#", ["$dollar", "$dollar/x", "$dollar/monitor/Clients"], ["dollar/x", "x/$dollar"]),
    ("$dollar/monitor/+", ["$dollar/monitor/Clients"], ["$dollar/monitor"]),
    ("a/$b/+", ["a/$b/c"], ["a/b/c"]),
    ("a/+/+/d", ["a/b/c/d", "a///d"], ["a/b/d", "a/b/c/d/e"]),
    ("a//b", ["a//b"], ["a/b", "a///b"]),
    ("accounts", ["accounts"], ["ACCOUNTS", "accounts/", "/accounts", "account"]),
    ("A B/c d", ["A B/c d"], ["A  B/c d", "AB/cd"]),
]


@mqtt5("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.2-1", "MQTT-4.7.3-1", "MQTT-3.3.2-3")
@pytest.mark.parametrize(("topic_filter", "matching", "other"), MATCHES, ids=[row[0] for row in MATCHES])
@pytest.mark.parametrize("retain", [False, True])
async def test_matching(
    dollar_broker: Broker, topic_filter: str, matching: list[str], other: list[str], retain: bool
) -> None:
    """Live and retained: both ways of matching give the same."""
    subscriber = await connected(dollar_broker, "subscriber")
    publisher = await connected(dollar_broker, "publisher")
    if not retain:
        await subscriber.subscribe(topic_filter)
    for topic in [*matching, *other]:
        await publisher.publish(topic, topic.encode(), retain=retain)
    await publisher.expect_alive()
    if retain:
        await subscriber.subscribe(topic_filter)
    received = [packet.topic for packet in await subscriber.drain() if isinstance(packet, Publish)]
    assert sorted(received) == sorted(matching)


@mqtt5("MQTT-4.7.0-1", "MQTT-4.7.1-1", "MQTT-4.7.1-2")
@pytest.mark.parametrize(
    "topic_filter",
    ["sport/tennis#", "sport/tennis/#/ranking", "#/a", "##", "sport+", "+a", "a/+b/c", "a/b+", "++", "a/#b", "/#/"],
)
async def test_misplaced_wildcards_are_refused(broker: Broker, topic_filter: str) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.subscribe(topic_filter.encode()))
    packet = await client.receive()
    if isinstance(packet, Suback):
        assert packet.reason_codes == (0x8F,)
        await client.expect_alive()
    else:
        assert isinstance(packet, Disconnect)
        assert packet.reason_code in (0x81, 0x82, 0x8F)
        await client.expect_closed()


@mqtt5("MQTT-4.7.3-1")
async def test_an_empty_filter_is_refused(broker: Broker) -> None:
    for stimulus in (octets.subscribe(b""), octets.frame(0xA2, octets.uint16(1) + b"\0" + octets.binary(b""))):
        client = await connected(broker, "client")
        await client.send_raw(stimulus)
        packet = await client.receive()
        if isinstance(packet, Disconnect):
            assert packet.reason_code in (0x81, 0x82, 0x8F)
        else:
            assert packet.reason_codes[0] in (0x8F, 0x11)  # type: ignore[attr-defined]


@mqtt5("MQTT-4.7.3-2")
async def test_u_0000_in_name_and_filter(broker: Broker) -> None:
    for stimulus in (octets.publish(b"a/\0"), octets.subscribe(b"a/\0"), octets.subscribe(b"\0/#")):
        client = await connected(broker, "client")
        await client.send_raw(stimulus)
        await client.expect_closed(0x81)


@mqtt5("MQTT-4.7.3-3")
async def test_names_and_filters_of_65535_octets() -> None:
    """As long as the two octets of their length can say, where the limits allow it."""
    topic = "x/" * 60 + "y" * (65_535 - 120)
    async with broker_running(limits=Limits(topic_bytes_max=65_535)) as broker:
        client = await connected(broker, "client")
        await client.subscribe(topic, qos=1)
        await client.publish(topic, b"long", qos=1)
        await client.expect_message(topic, b"long", qos=1)
        await client.unsubscribe(topic)


@mqtt5("MQTT-4.7.3-3")
async def test_names_and_filters_beyond_the_limit_of_the_broker(broker: Broker) -> None:
    client = await connected(broker, "client")
    suback = await client.subscribe("y" * 4_097, accepted=False)
    assert suback.reason_codes in ((0x8F,), (0x97,))
    await client.send(Publish("y" * 4_097, b"x", 1, packet_identifier=1))
    packet = await client.receive()
    assert isinstance(packet, Puback | Disconnect)
    assert packet.reason_code == 0x90
    client = await connected(broker, "client")
    await client.subscribe("y" * 4_096)


@mqtt5("MQTT-4.7.3-4", "MQTT-1.5.4-3")
async def test_matching_does_not_normalise(broker: Broker) -> None:
    """Composed and decomposed, case, blanks, slashes, and the byte order mark are all different."""
    names = ["caf\u00e9", "cafe\u0301", "CAFE", "\ufeffcaf\u00e9", "a", "A", "a ", " a", "/a", "a/", "\u212b", "\u00c5"]
    subscribers = {}
    for index, name in enumerate(names):
        subscribers[name] = await connected(broker, f"subscriber {index}")
        await subscribers[name].subscribe(name)
    publisher = await connected(broker, "publisher")
    for name in names:
        await publisher.publish(name, name.encode())
    for name in names:
        await subscribers[name].expect_message(name, name.encode())
        await subscribers[name].expect_silence(0.1)


@mqtt5("MQTT-4.7.2-1")
@pytest.mark.parametrize("topic_filter", ["#", "+/x", "+/+", "+/#"])
async def test_retained_dollar_topics_stay_hidden_from_leading_wildcards(
    dollar_broker: Broker, topic_filter: str
) -> None:
    publisher = await connected(dollar_broker, "publisher")
    await publisher.publish("$own/x", b"kept", retain=True)
    await publisher.expect_alive()
    client = await connected(dollar_broker, "client")
    await client.subscribe(topic_filter)
    await client.expect_silence()
    await client.subscribe("$own/+")
    await client.expect_message("$own/x", b"kept", retain=True)


@mqtt5("MQTT-4.7.2-1")
async def test_the_brokers_own_topics_stay_hidden_from_leading_wildcards(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.subscribe("#", "+/broker/#")
    await client.expect_silence(100)
