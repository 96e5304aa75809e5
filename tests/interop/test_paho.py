"""paho-mqtt, the Python client of Eclipse, in MQTT 3.1, 3.1.1 and 5.0."""

from __future__ import annotations

import contextlib
import queue
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.statements import mqtt5, mqtt311
from tests.interop.conftest import Served

mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
PacketTypes = pytest.importorskip("paho.mqtt.packettypes").PacketTypes
Properties = pytest.importorskip("paho.mqtt.properties").Properties
ReasonCode = pytest.importorskip("paho.mqtt.reasoncodes").ReasonCode
SubscribeOptions = pytest.importorskip("paho.mqtt.subscribeoptions").SubscribeOptions

SECONDS_MAX = 5
#: how long nothing must come, where nothing may come
SILENCE_SECONDS = 0.3

versions = pytest.mark.parametrize("version", [mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5], ids=["3.1", "3.1.1", "5.0"])


def properties(kind: int, **fields: Any) -> Any:
    """Properties of a packet by paho's names of them."""
    made = Properties(kind)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class Client:
    """A paho client whose callbacks fill queues."""

    def __init__(self, served: Served, version: int, client_identifier: str, **options: Any) -> None:
        self.version = version
        will = options.pop("will", None)
        clean = options.pop("clean", True)
        session_expiry = options.pop("session_expiry", 0 if clean else 100)
        more = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.paho = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_identifier, protocol=version, reconnect_on_failure=False, **more
        )
        # beyond its window paho sends what is published now before what waits: no limit, no disorder
        self.paho.max_inflight_messages_set(0)
        self.messages: queue.Queue[Any] = queue.Queue()
        self._connected: queue.Queue[Any] = queue.Queue()
        self._disconnected: queue.Queue[Any] = queue.Queue()
        self._acknowledged: queue.Queue[tuple[int, list[Any]]] = queue.Queue()
        self.paho.on_connect = lambda _c, _u, flags, reason, _p: self._connected.put((flags, reason))
        self.paho.on_disconnect = lambda _c, _u, _f, reason, _p: self._disconnected.put(reason)
        self.paho.on_message = lambda _c, _u, message: self.messages.put(message)
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self._acknowledged.put((mid, codes))
        self.paho.on_unsubscribe = lambda _c, _u, mid, codes, _p: self._acknowledged.put((mid, codes))
        if will is not None:
            self.paho.will_set(**will)
        if version == mqtt.MQTTv5:
            more = {
                "clean_start": clean,
                "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=session_expiry),
            }
        else:
            more = {}
        self.paho.connect(served.host, served.port, keepalive=30, **more)
        self.paho.loop_start()
        flags, reason = self._connected.get(timeout=SECONDS_MAX)
        assert not reason.is_failure, reason
        self.session_present = flags.session_present

    def subscribe(self, topic_filter: str, qos: int = 0, **options: Any) -> list[int]:
        more = {"options": SubscribeOptions(qos=qos, **options)} if self.version == mqtt.MQTTv5 else {"qos": qos}
        result, identifier = self.paho.subscribe(topic_filter, **more)
        assert result == mqtt.MQTT_ERR_SUCCESS
        mid, codes = self._acknowledged.get(timeout=SECONDS_MAX)
        assert mid == identifier
        return [code.value for code in codes]

    def unsubscribe(self, topic_filter: str) -> None:
        _, identifier = self.paho.unsubscribe(topic_filter)
        assert self._acknowledged.get(timeout=SECONDS_MAX)[0] == identifier

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, **more: Any) -> None:
        information = self.paho.publish(topic, payload, qos, retain, **more)
        information.wait_for_publish(SECONDS_MAX)
        assert information.is_published()

    def expect(self, topic: str, payload: bytes, **fields: Any) -> Any:
        message = self.messages.get(timeout=SECONDS_MAX)
        assert (message.topic, message.payload) == (topic, payload)
        for name, value in fields.items():
            assert getattr(message, name) == value, name
        return message

    def expect_nothing(self) -> None:
        with pytest.raises(queue.Empty):
            self.messages.get(timeout=SILENCE_SECONDS)

    def disconnect(self, **more: Any) -> None:
        self.paho.disconnect(**more)
        self._disconnected.get(timeout=SECONDS_MAX)
        self.paho.loop_stop()

    def expect_disconnected(self) -> Any:
        reason = self._disconnected.get(timeout=SECONDS_MAX)
        self.paho.loop_stop()
        return reason

    def cut(self) -> None:
        """End the connection as a network failure does."""
        self.paho.socket().shutdown(socket.SHUT_RDWR)
        self.expect_disconnected()


@contextlib.contextmanager
def client(served: Served, version: int, client_identifier: str = "", **options: Any) -> Iterator[Client]:
    """A connected client, disconnected at the end if it still is connected."""
    made = Client(served, version, client_identifier or f"paho-{uuid.uuid4().hex[:12]}", **options)
    try:
        yield made
    finally:
        made.paho.disconnect()
        made.paho.loop_stop()


@pytest.fixture
def topic() -> str:
    """A topic of its own for each test: the broker is shared."""
    return f"interop/{uuid.uuid4().hex}"


@mqtt311("MQTT-7.0.0-2", "MQTT-7.1.1-1")
@mqtt5("MQTT-4.2-1")
@versions
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_publish_and_subscribe(served: Served, topic: str, version: int, qos: int, granted: int) -> None:
    with client(served, version) as subscriber, client(served, version) as publisher:
        assert subscriber.subscribe(topic, granted) == [granted]
        for number in range(20):
            publisher.publish(topic, b"%d" % number, qos)
        for number in range(20):
            subscriber.expect(topic, b"%d" % number, qos=min(qos, granted), retain=False)
        subscriber.unsubscribe(topic)
        publisher.publish(topic, b"too late", qos)
        subscriber.expect_nothing()


@versions
def test_many_messages_in_order(served: Served, topic: str, version: int) -> None:
    with client(served, version) as subscriber, client(served, version) as publisher:
        subscriber.subscribe(topic, 2)
        sent = [publisher.paho.publish(topic, b"%d" % number, 1 + number % 2) for number in range(500)]
        received = [subscriber.messages.get(timeout=SECONDS_MAX).payload for _ in range(500)]
        for parity in (0, 1):  # each QoS is in order
            assert [int(payload) for payload in received if int(payload) % 2 == parity] == list(range(parity, 500, 2))
        for information in sent:
            information.wait_for_publish(SECONDS_MAX)


@versions
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, 500_000])
def test_payloads_of_any_size(served: Served, topic: str, version: int, size: int) -> None:
    payload = bytes(i & 0xFF for i in range(size))
    with client(served, version) as both:
        both.subscribe(topic, 1)
        both.publish(topic, payload, 1)
        both.expect(topic, payload)


@versions
def test_retained(served: Served, topic: str, version: int) -> None:
    with client(served, version) as publisher:
        publisher.publish(topic, b"kept", 1, retain=True)
        with client(served, version) as subscriber:
            subscriber.subscribe(topic, 1)
            subscriber.expect(topic, b"kept", qos=1, retain=True)
            publisher.publish(topic, b"", 1, retain=True)
            subscriber.expect(topic, b"", retain=False)
        with client(served, version) as late:
            late.subscribe(topic, 1)
            late.expect_nothing()


@versions
@pytest.mark.parametrize("topic_filter", ["{}/+/c", "{}/#", "+/+/b/c", "{}/b/+"])
def test_wildcards(served: Served, topic: str, version: int, topic_filter: str) -> None:
    with client(served, version) as subscriber, client(served, version) as publisher:
        subscriber.subscribe(topic_filter.format(topic))
        publisher.publish("elsewhere/b/c/d", b"no")
        publisher.publish(f"{topic}/b/c", b"yes")
        message = subscriber.messages.get(timeout=SECONDS_MAX)
        assert message.topic.endswith("/b/c")
        assert message.payload == b"yes"


@versions
def test_the_will(served: Served, topic: str, version: int) -> None:
    will = {"topic": topic, "payload": b"gone", "qos": 1, "retain": True}
    with client(served, version) as watcher:
        watcher.subscribe(topic, 1)
        Client(served, version, "paho-will", will=will).disconnect()
        watcher.expect_nothing()
        Client(served, version, "paho-will", will=will).cut()
        watcher.expect(topic, b"gone", qos=1, retain=False)
        with client(served, version) as late:
            late.subscribe(topic, 1)
            late.expect(topic, b"gone", retain=True)
            late.publish(topic, b"", 1, retain=True)


@versions
def test_a_session_is_resumed(served: Served, topic: str, version: int) -> None:
    identifier = f"paho-session-{version}"
    first = Client(served, version, identifier, clean=False)
    assert not first.session_present
    first.subscribe(topic, 2)
    first.cut()
    with client(served, version) as publisher:
        for qos in (1, 2):
            publisher.publish(topic, b"%d" % qos, qos)
    second = Client(served, version, identifier, clean=False)
    assert second.session_present or version == mqtt.MQTTv31
    for qos in (1, 2):
        second.expect(topic, b"%d" % qos, qos=qos)
    second.disconnect()
    third = Client(served, version, identifier, clean=True)
    assert not third.session_present
    third.disconnect()


@versions
def test_takeover(served: Served, version: int) -> None:
    first = Client(served, version, f"paho-twice-{version}")
    second = Client(served, version, f"paho-twice-{version}")
    reason = first.expect_disconnected()
    if version == mqtt.MQTTv5:
        assert reason.value == 0x8E
    second.disconnect()


# ---- MQTT 5.0 alone ----


@mqtt5("MQTT-4.2-1")
def test_properties_are_passed_on(served: Served, topic: str) -> None:
    with client(served, mqtt.MQTTv5) as both:
        both.subscribe(topic, 1)
        sent = properties(
            PacketTypes.PUBLISH,
            PayloadFormatIndicator=1,
            MessageExpiryInterval=100,
            ContentType="text/plain",
            ResponseTopic="answers/here",
            CorrelationData=b"\0\1",
            UserProperty=[("a", "1"), ("b", "2"), ("a", "3")],
        )
        both.publish(topic, b"text", 1, properties=sent)
        received = both.expect(topic, b"text").properties
        assert received.PayloadFormatIndicator == 1
        assert received.MessageExpiryInterval in (99, 100)
        assert received.ContentType == "text/plain"
        assert received.ResponseTopic == "answers/here"
        assert received.CorrelationData == b"\0\1"
        assert received.UserProperty == [("a", "1"), ("b", "2"), ("a", "3")]


def test_topic_aliases(served: Served, topic: str) -> None:
    with client(served, mqtt.MQTTv5) as both:
        both.subscribe(topic, 1)
        for name in (topic, "", ""):
            both.publish(name, b"x", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=3))
            both.expect(topic, b"x")


def test_subscription_options(served: Served, topic: str) -> None:
    with client(served, mqtt.MQTTv5) as both, client(served, mqtt.MQTTv5) as other:
        other.publish(topic, b"kept", 1, retain=True)
        both.subscribe(topic, 1, noLocal=True, retainAsPublished=True, retainHandling=2)
        both.expect_nothing()
        both.publish(topic, b"own", 1)
        other.publish(topic, b"new", 1, retain=True)
        both.expect(topic, b"new", retain=True)
        other.publish(topic, b"", 1, retain=True)
        both.expect(topic, b"", retain=True)


def test_shared_subscriptions(served: Served, topic: str) -> None:
    with client(served, mqtt.MQTTv5) as publisher, contextlib.ExitStack() as stack:
        members = [stack.enter_context(client(served, mqtt.MQTTv5)) for _ in range(3)]
        for member in members:
            member.subscribe(f"$share/group/{topic}", 1)
        payloads = [b"%d" % number for number in range(60)]
        for payload in payloads:
            publisher.publish(topic, payload, 1)
        received: list[bytes] = []
        for member in members:
            received.append(member.messages.get(timeout=SECONDS_MAX).payload)  # nobody is left out
            with contextlib.suppress(queue.Empty):
                while True:
                    received.append(member.messages.get(timeout=SILENCE_SECONDS).payload)
        assert sorted(received) == sorted(payloads)


def test_disconnect_with_will(served: Served, topic: str) -> None:
    with client(served, mqtt.MQTTv5) as watcher:
        watcher.subscribe(topic, 1)
        leaving = Client(served, mqtt.MQTTv5, "paho-leaving", will={"topic": topic, "payload": b"gone", "qos": 1})
        leaving.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, identifier=0x04))
        watcher.expect(topic, b"gone")
