"""A broker inside a program: publish and subscribe without a connection, connections without a socket."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.errors import MqttError
from acebroker_codec.packets import Publish, PublishProperties
from acebroker_middleware.state.retained import RetainedFull
from tests.harness import WireClient, broker_running, connected, run_in_virtual_time
from trio_acebroker import Broker, BrokerConfig, Limits, Message
from trio_acebroker.config import Authentication

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 5])
async def test_publishing(version: int, qos: int) -> None:
    """It gives how many got it; each gets it as its subscription says."""
    properties = PublishProperties(content_type="text/plain", user_properties=(("a", "1"), ("a", "2")))
    async with broker_running() as broker:
        assert await broker.publish("t/1", b"nobody", qos=qos) == 0
        client, other = await connected(broker, "client", version), await connected(broker, "other", version)
        await client.subscribe("t/#", qos=2)
        await other.subscribe("t/+", qos=1)
        async with broker.subscribe("#") as messages:
            assert await broker.publish("t/1", b"x", qos=qos, properties=properties) == 3
            expected = {"content_type": "text/plain"} if version == 5 else {}
            await client.expect_message("t/1", b"x", qos=qos, retain=False, **expected)
            await other.expect_message("t/1", b"x", qos=min(qos, 1), retain=False, **expected)
            received = await messages.receive()
        assert (received.topic, received.payload, received.qos) == ("t/1", b"x", qos)
        assert received.properties.user_properties == (("a", "1"), ("a", "2"))


async def test_a_message_expires_before_it_is_sent() -> None:
    async with broker_running() as broker:
        client = await connected(broker, "client", session_expiry_interval=1_000)
        await client.subscribe("t", qos=1)
        await client.disconnect()
        for seconds in (5, 60):
            properties = PublishProperties(message_expiry_interval=seconds)
            await broker.publish("t", b"%d" % seconds, qos=1, properties=properties)
        await trio.sleep(10)
        client = await connected(broker, "client", clean_start=False)
        await client.expect_message("t", b"60", message_expiry_interval=50)
        await client.expect_silence()


async def test_retaining() -> None:
    async with broker_running(limits=Limits(retained_messages_max=2, group_messages_max=1)) as broker:
        for topic in ("a", "b"):
            await broker.publish(topic, topic.encode(), qos=1, retain=True)
        with pytest.raises(RetainedFull):
            await broker.publish("c", b"c", retain=True)
        await broker.publish("b", b"", retain=True)
        await broker.publish("c", b"c", retain=True)
        client = await connected(broker, "client")
        await client.subscribe("+", qos=1)
        received = {(await client.expect(Publish, retain=True)).payload for _ in range(2)}
        assert received == {b"a", b"c"}
        async with broker.subscribe("+") as messages:
            assert {(await messages.receive()).payload for _ in range(2)} == {b"a", b"c"}


@pytest.mark.parametrize("topic", ["", "a/#", "+", "a\0b", "x" * 65_536])
async def test_a_topic_that_is_none(topic: str) -> None:
    async with broker_running() as broker:
        with pytest.raises(MqttError):
            await broker.publish(topic, b"")


@pytest.mark.parametrize("qos", [-1, 3])
async def test_a_qos_that_is_none(qos: int) -> None:
    async with broker_running() as broker:
        with pytest.raises(ValueError, match="QoS"):
            await broker.publish("t", b"", qos=qos)


@pytest.mark.parametrize("topic_filter", ["", "a#", "a/#/b", "+a", "x" * 65_536, "$share/g/t"])
async def test_a_filter_that_is_none(topic_filter: str) -> None:
    """A shared subscription neither: in a program, sharing is what its tasks do with one stream."""
    async with broker_running() as broker:
        with pytest.raises(MqttError):
            async with broker.subscribe(topic_filter):
                pass


async def test_a_subscription_is_there_inside_its_block() -> None:
    async with broker_running() as broker:
        async with broker.subscribe("t") as messages:
            await broker.publish("t", b"1")
            await broker.publish("other", b"2")
            client = await connected(broker, "client")
            await client.publish("t", b"3", qos=1)
        await broker.publish("t", b"4")
        # what came before the end can still be read, and then it ends
        assert [message.payload async for message in messages] == [b"1", b"3"]
        with pytest.raises(trio.EndOfChannel):
            await messages.receive()


async def test_overlapping_subscriptions_are_streams_of_their_own() -> None:
    async with broker_running() as broker:
        async with broker.subscribe("t/#") as wide, broker.subscribe("t/1") as narrow, broker.subscribe("t/1") as same:
            assert await broker.publish("t/1", b"x") == 3
            for stream in (wide, narrow, same):
                assert (await stream.receive()).payload == b"x"
        assert await broker.publish("t/1", b"x") == 0


async def test_a_reader_that_is_too_slow_loses_what_is_new() -> None:
    """And nobody waits for it."""
    async with broker_running() as broker, broker.subscribe("t", messages_max=3) as messages:
        client = await connected(broker, "client")
        await client.subscribe("t")
        for number in range(5):
            await broker.publish("t", b"%d" % number)
            await client.expect_message("t", b"%d" % number)
        assert messages.dropped == 2
        assert [(await messages.receive()).payload for _ in range(3)] == [b"0", b"1", b"2"]
        await broker.publish("t", b"5")
        assert (await messages.receive()).payload == b"5"


async def test_a_task_that_answers_what_it_reads() -> None:
    """Request and response, all in the program, with a client at the other end."""
    async with broker_running() as broker, trio.open_nursery() as nursery:

        async def answer(messages: object) -> None:
            async for message in messages:  # type: ignore[attr-defined]
                assert isinstance(message, Message)
                topic = message.properties.response_topic
                assert topic is not None
                await broker.publish(topic, message.payload[::-1], qos=1)

        async with broker.subscribe("requests") as messages:
            nursery.start_soon(answer, messages)
            client = await connected(broker, "client")
            await client.subscribe("answers", qos=1)
            await client.publish("requests", b"abc", response_topic="answers")
            await client.expect_message("answers", b"cba")


async def test_connections_without_a_socket() -> None:
    """A client like any other, of a type of its own, which the configuration may keep out."""
    async with broker_running() as broker:
        async with WireClient(await broker.connect(), 4) as client:
            await client.connect("client", clean_start=True)
            await client.subscribe("t")
            await broker.publish("t", b"x" * 100_000)
            await client.expect_message("t", b"x" * 100_000)
            (task,) = broker.connections
            assert task.conn.connection_type.value == "IN_PROCESS"
            assert task.conn.listener == "in process"
            await client.disconnect()
    async with broker_running(authentication=Authentication(anonymous=False)) as broker:
        client = WireClient(await broker.connect())
        assert (await client.attempt_connect("client")).reason_code == 0x87


async def test_nothing_is_served_before_the_start_and_after_the_end() -> None:
    """A subscription may be there before: then it gets what is retained, and everything from the start."""
    broker = Broker(BrokerConfig(listeners=()))

    async def check() -> None:
        with pytest.raises(RuntimeError, match="not serving"):
            await broker.connect()
        for qos in (0, 1):
            with pytest.raises(RuntimeError, match="not serving"):
                await broker.publish("t", b"", qos=qos)

    await check()
    async with broker.subscribe("t") as messages, trio.open_nursery() as nursery:
        await nursery.start(broker.serve)
        await broker.publish("t", b"x")
        assert (await messages.receive()).payload == b"x"
        nursery.cancel_scope.cancel()
    await check()


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("keep_alive", [1, 10, 0])
async def test_keep_alive(version: int, keep_alive: int) -> None:
    """One and a half times as long [MQTT-3.1.2-22], from the last packet of the client, whatever it is sent itself."""
    async with broker_running() as broker:
        client = await connected(broker, "client", version, keep_alive=keep_alive)
        await client.subscribe("t")
        for _ in range(3):
            await trio.sleep(1.4 * keep_alive)
            await client.expect_alive()
        since = trio.current_time()
        while keep_alive and trio.current_time() < since + 1.3 * keep_alive:
            await broker.publish("t", b"")
            await client.expect(Publish)
            await trio.sleep(0.1 * keep_alive)
        if keep_alive:
            await client.expect_closed(0x8D)
            assert 1.5 * keep_alive <= trio.current_time() - since <= 1.5 * keep_alive + 0.2
        else:
            await trio.sleep(80_000)
            await client.expect_alive()
