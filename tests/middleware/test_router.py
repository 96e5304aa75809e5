"""The router: routes and what makes them void, limits of subscriptions, what waits for a store."""

from __future__ import annotations

import pytest

from acebroker_codec.encoder import encode
from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from acebroker_middleware.flows import LocalSubscriber
from acebroker_middleware.state.message import Message
from tests.middleware.assembly import Assembly, Client, Slow, publish, subscribe

both_paths = pytest.mark.parametrize("flow_cache", [False, True])
NOBODY = ReasonCode.NO_MATCHING_SUBSCRIBERS


def pair(**options: object) -> tuple[Assembly, Client, Client]:
    """A broker with a reader and a writer."""
    broker = Assembly(**options)  # type: ignore[arg-type]
    return broker, broker.client("reader"), broker.client("writer")


# ---- routes ----


@both_paths
@pytest.mark.parametrize("topic_filter", ["a/b", "a/+", "#", "$share/group/a/b", "$share/group/a/#"])
def test_a_known_topic_has_new_subscribers_at_once(topic_filter: str, flow_cache: bool) -> None:
    """[MQTT-4.5.0-1]: whatever was remembered of a topic before the subscription is void."""
    _, reader, writer = pair(flow_cache=flow_cache)
    for _ in range(2):
        assert writer.send(publish("a/b", b"before"), publish("a/b", b"before", 1, 1)) == [Puback(1, NOBODY)]
    reader.send(subscribe(topic_filter, qos=1))
    writer.send(publish("a/b", b"0"), publish("a/b", b"1", 1, 2))
    assert reader.messages() == [b"0", b"1"]


@both_paths
@pytest.mark.parametrize("topic_filter", ["a/b", "a/+", "#", "$share/group/a/b", "$share/group/a/#"])
def test_a_known_topic_loses_its_subscribers_at_once(topic_filter: str, flow_cache: bool) -> None:
    """[MQTT-3.10.4-2]; by UNSUBSCRIBE, and by the end of a session."""
    broker, reader, writer = pair(flow_cache=flow_cache)
    reader.send(subscribe(topic_filter, qos=1))
    writer.send(publish("a/b", b"0"), publish("a/b", b"1", 1, 2))
    assert reader.messages() == [b"0", b"1"]
    assert reader.send(Unsubscribe(5, (topic_filter,))) == [Unsuback(5, (0,))]
    assert writer.send(publish("a/b"), publish("a/b", b"", 1, 3)) == [Puback(3, NOBODY)]
    assert reader.got() == []
    reader.send(subscribe(topic_filter, qos=1))
    writer.send(publish("a/b", b"again"))
    assert reader.messages() == [b"again"]
    reader.end()
    assert writer.send(publish("a/b", b"", 1, 3)) == [Puback(3, NOBODY)]
    assert len(broker.router.tree) == 0


@both_paths
def test_a_known_topic_follows_changed_options(flow_cache: bool) -> None:
    _, reader, writer = pair(flow_cache=flow_cache)
    for qos in (0, 1, 0):
        reader.send(subscribe("a", qos=qos))
        writer.send(publish("a", b"x", 1, 1))
        (got,) = reader.got()
        assert isinstance(got, Publish)
        assert got.qos == qos
        if qos:
            reader.send(Puback(got.packet_identifier))


@both_paths
def test_a_known_topic_follows_a_session_to_its_next_connection(flow_cache: bool) -> None:
    """Of another protocol version, even: frames then look different."""
    broker = Assembly(flow_cache=flow_cache)
    writer = broker.client("writer")
    for version in (5, 4, 3, 5):
        options = {"session_expiry_interval": 100} if version == 5 else {}
        reader = broker.client("reader", version, clean_start=False, **options)
        reader.send(subscribe("a", qos=1))
        writer.send(publish("a", b"0"), publish("a", b"1", 1, 1))
        got = reader.got()
        assert [packet.payload for packet in got if isinstance(packet, Publish)] == [b"0", b"1"]
        reader.send(*[Puback(packet.packet_identifier) for packet in got if isinstance(packet, Publish) and packet.qos])
        reader.end()


def test_remembered_routes_are_bounded() -> None:
    broker, reader, writer = pair(routes_max=8)
    reader.send(subscribe("t/1", "t/7"))
    for number in range(50):
        writer.send(publish(f"t/{number}", b"%d" % number))
        assert len(broker.router.routes) <= 8
    assert reader.messages() == [b"1", b"7"]
    writer.send(publish("t/1", b"again"))
    assert reader.messages() == [b"again"]
    # a route that was dropped while a flow holds it is still found void by the next subscription
    other = broker.client("other")
    other.send(subscribe("t/1"))
    writer.send(publish("t/1", b"both"))
    assert reader.messages() == other.messages() == [b"both"]


def test_a_flow_does_not_keep_a_route_that_was_dropped_for_room() -> None:
    """An exact subscription can only mark the route that is remembered; a flow may hold an older one."""
    _, reader, writer = pair(routes_max=4)
    writer.send(publish("t/0", b"before"))
    for number in range(1, 20):
        writer.send(publish(f"t/{number}"))
    reader.send(subscribe("t/0"))
    writer.send(publish("t/0", b"after"))
    assert reader.messages() == [b"after"]


# ---- SUBSCRIBE and UNSUBSCRIBE ----


def test_the_number_of_subscriptions_is_limited() -> None:
    broker = Assembly(subscriptions_per_client_max=2)
    client = broker.client()
    quota = ReasonCode.QUOTA_EXCEEDED
    assert client.send(subscribe("a", "$share/g/b", "c", "a", qos=1)) == [Suback(1, (1, 1, quota, 1))]
    assert client.send(Unsubscribe(2, ("a",)), subscribe("c")) == [Unsuback(2, (0,)), Suback(1, (0,))]
    assert broker.counters.denials == {"limit: subscriptions per client": 1}
    old = broker.client("old", 4)
    assert old.send(subscribe("a", "b", "c")) == [Suback(1, (0, 0, 0x80))]


@pytest.mark.parametrize("topic_filter", ["a" * 21, "ä" * 11, "/" * 4, "$share/g/" + "a" * 20])
def test_filters_are_limited_in_octets_and_levels(topic_filter: str) -> None:
    broker = Assembly(topic_bytes_max=20, topic_levels_max=4)
    client = broker.client()
    assert client.send(subscribe(topic_filter)) == [Suback(1, (ReasonCode.TOPIC_FILTER_INVALID,))]
    assert broker.counters.denials == {"limit: topic filter": 1}
    assert len(broker.router.tree) == 0
    assert client.send(subscribe("a" * 20, "ä" * 10, "/" * 3)) == [Suback(1, (0, 0, 0))]


@both_paths
@pytest.mark.parametrize("topic", ["a" * 21, "ä" * 11, "/" * 4])
@pytest.mark.parametrize("qos", [0, 1])
def test_topics_are_limited_in_octets_and_levels(topic: str, qos: int, flow_cache: bool) -> None:
    broker = Assembly(topic_bytes_max=20, topic_levels_max=4, flow_cache=flow_cache)
    client = broker.client()
    client.send(publish("a" * 20), publish("ä" * 10), publish("/" * 3))
    assert client.ended is None
    client.send(publish(topic, b"", qos, qos))
    assert client.ended is not None
    assert client.ended.reason_code == ReasonCode.TOPIC_NAME_INVALID


def test_unsubscribe_names_what_was_there() -> None:
    for version, codes in ((5, (ReasonCode.NO_SUBSCRIPTION_EXISTED, 0, ReasonCode.NO_SUBSCRIPTION_EXISTED)), (4, ())):
        client = Assembly().client(version=version)
        client.send(subscribe("a", "$share/g/b"))
        assert client.send(Unsubscribe(2, ("b", "$share/g/b", "$share/h/b"))) == [Unsuback(2, codes)]


# ---- in process ----


def test_subscribers_inside_the_process() -> None:
    broker = Assembly()
    writer = broker.client("writer")
    writer.send(publish("a/kept", b"kept", retain=True), publish("a/live", b"before"))
    seen: list[Message] = []
    subscriber = LocalSubscriber(seen.append)
    broker.router.subscribe_locally(subscriber, "a/#")
    assert [(message.topic, message.payload) for message in seen] == [("a/kept", b"kept")]
    assert writer.send(publish("a/live", b"1"), publish("a/live", b"2", 1, 1)) == [Puback(1)]
    assert [message.payload for message in seen[1:]] == [b"1", b"2"]
    assert [message.publisher for message in seen[1:]] == ["writer", "writer"]
    broker.router.unsubscribe_locally(subscriber, "a/#")
    assert writer.send(publish("a/live", b"3", 1, 1)) == [Puback(1, NOBODY)]
    assert len(seen) == 3


# ---- retained messages ----


def test_no_room_for_a_retained_message() -> None:
    """0x97 by QoS, as far as the handshake has come; nothing is published."""
    broker, reader, writer = pair(retained_messages_max=1)
    reader.send(subscribe("#", qos=2))
    writer.send(publish("kept", b"x", retain=True))
    assert reader.messages() == [b"x"]
    quota = ReasonCode.QUOTA_EXCEEDED
    assert writer.send(publish("a", b"x", 0, retain=True), publish("a", b"x", 1, 1, retain=True)) == [Puback(1, quota)]
    assert writer.send(publish("a", b"x", 2, 2, retain=True)) == [Pubrec(2, quota)]
    # there was room at first receipt, and is none at PUBREL
    writer.send(publish("kept", b"", retain=True))
    assert writer.send(publish("late", b"x", 2, 3, retain=True)) == [Pubrec(3)]
    writer.send(publish("kept", b"x", retain=True))
    assert writer.send(Pubrel(3)) == [Pubcomp(3)]
    assert reader.messages() == [b"", b"x"]
    assert broker.counters.retained_refused == 4
    assert broker.counters.denials == {"limit: retained messages": 4}


# ---- what waits for the store ----


def durable_pair(*slow: str) -> tuple[Assembly, Slow, Client, Client]:
    """A reader whose session is kept in a store with slow calls, and a writer whose is not."""
    store = Slow()
    broker = Assembly(store=store)  # type: ignore[arg-type]
    reader = broker.client("reader", session_expiry_interval=100)
    reader.send(subscribe("t/#", qos=2))
    writer = broker.client("writer")
    store.slow.update(slow)
    return broker, store, reader, writer


@both_paths
def test_puback_leaves_when_the_message_is_durable_and_in_order(flow_cache: bool) -> None:
    _, store, reader, writer = durable_pair("enqueue")
    got = writer.send(publish("t/1", b"1", 1, 1), publish("none", b"", 1, 2), publish("t/3", b"3", 1, 3))
    assert got == []
    assert not writer.step()
    assert len(store.waiting) == 1
    assert reader.got() == []
    store.finish()
    assert not writer.step()
    assert writer.got() == [Puback(1), Puback(2, NOBODY)]
    assert reader.messages() == [b"1"]
    store.finish()
    assert writer.step()
    assert writer.got() == [Puback(3)]
    assert reader.messages() == [b"3"]


def test_what_stands_behind_a_message_that_waits_comes_after_it() -> None:
    """A hand-off in the middle of a read: the rest of the read is handled when it is over."""
    _, store, reader, writer = durable_pair("enqueue")
    writer.send(publish("other", b"known"))
    assert writer.send(publish("t/1", b"1", 1, 1), publish("other", b"fast"), subscribe("own"), publish("own")) == []
    store.finish()
    assert writer.step()
    assert [type(packet) for packet in writer.got()] == [Puback, Suback, Publish]
    assert reader.messages() == [b"1"]


def test_an_error_behind_a_message_that_waits_comes_after_it() -> None:
    _, store, reader, writer = durable_pair("enqueue")
    writer.pending = writer.feed(encode(publish("t/1", b"", 1, 1), writer.version) + b"\xff\0")
    assert writer.ended is None
    store.finish()
    assert writer.step()
    assert writer.got() == [Puback(1)]
    assert writer.ended is not None
    assert writer.ended.reason_code == ReasonCode.MALFORMED_PACKET
    assert reader.messages() == [b""]


def test_a_retained_message_is_acknowledged_when_it_is_kept() -> None:
    _, store, _, writer = durable_pair("retain")
    assert writer.send(publish("kept", b"x", 1, 1, retain=True), publish("other", b"", 1, 2)) == []
    assert not writer.step()
    store.finish()
    assert writer.step()
    assert writer.got() == [Puback(1, NOBODY), Puback(2, NOBODY)]


def test_many_messages_may_wait_for_the_store_at_once() -> None:
    broker, store, reader, writer = durable_pair("enqueue")
    identifiers = range(1, 1_001)
    writer.send(*(publish("t/1", b"", 1, identifier) for identifier in identifiers))
    store.finish(1_000)
    assert writer.step()
    assert writer.got() == [Puback(identifier) for identifier in identifiers]
    assert broker.counters.publish_sent == len(reader.messages()) == 1_000


# ---- the stage ----


def test_only_an_error_leaves_the_last_stage() -> None:
    broker = Assembly()
    client = broker.client()
    error = ProtocolViolation("what the decoder found")
    assert broker.router.on_batch(client.conn, [publish("t"), error]) == [error]
    assert broker.router.on_batch(client.conn, [Pingresp()]) == []


def test_overlapping_subscriptions_are_one_delivery() -> None:
    """[MQTT-3.3.4-2 .. -4], with No Local in some of them [MQTT-3.8.3-3]."""
    broker = Assembly()
    client = broker.client()
    client.send(subscribe("a/#", qos=2, no_local=True, subscription_identifier=1))
    client.send(subscribe("a/+", qos=1, retain_as_published=True, subscription_identifier=2))
    client.send(subscribe(SubscriptionRequest("a/b"), subscription_identifier=3))
    (own,) = [p for p in client.send(publish("a/b", b"own", 1, 1, retain=True)) if isinstance(p, Publish)]
    assert (own.qos, own.retain, sorted(own.properties.subscription_identifiers)) == (1, True, [2, 3])
    other = broker.client("other")
    other.send(publish("a/b", b"foreign", 2, 1), Pubrel(1))
    (foreign,) = client.got()
    assert isinstance(foreign, Publish)
    assert (foreign.qos, sorted(foreign.properties.subscription_identifiers)) == (2, [1, 2, 3])
