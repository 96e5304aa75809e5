"""Many retained messages for one subscription: all come, others are served meanwhile, and it can be called off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from acebroker_codec.packets import Pingreq, Pingresp, Publish, Suback, Subscribe, SubscriptionRequest, Unsuback
from acebroker_middleware.replays import SLICE_STEPS_MAX
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.message import Message
from tests.harness import WireClient, broker_running, connected, run_in_virtual_time, under_test
from trio_acebroker import Broker

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

MANY = 10 * SLICE_STEPS_MAX


@pytest.fixture(params=["raw", "pump"])
def both_shells(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test runs on each shell."""
    under_test.choose(request.param)
    yield
    under_test.choose("raw")


def keep(broker: Broker, number: int, octets: int = 1, qos: int = 0) -> set[str]:
    topics = {f"r/{index}" for index in range(number)}
    for topic in topics:
        broker.router.retained.put(Message(topic, b"x" * octets, qos, True))
    return topics


async def received(client: WireClient, number: int) -> list[str]:
    """The topics of so many messages, acknowledged as they come."""
    topics = []
    for _ in range(number):
        publish = await client.expect(Publish)
        await client.acknowledge(publish)
        topics.append(publish.topic)
    return topics


@pytest.mark.usefixtures("both_shells")
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1])
async def test_all_of_them_come_once(version: int, qos: int) -> None:
    async with broker_running() as broker:
        topics = keep(broker, 3 * SLICE_STEPS_MAX, qos=qos)
        client = await connected(broker, "client", version)
        await client.send(Subscribe(1, (SubscriptionRequest("#", qos=qos),)))
        await client.expect(Suback)
        came = await received(client, len(topics))
        assert set(came) == topics
        await client.expect_alive()
        assert broker.session.sessions["client"].retained_waiting is None


@pytest.mark.usefixtures("both_shells")
async def test_looking_in_vain_goes_on_by_itself() -> None:
    """No event but the broker's own wish to go on stands between the slices that find nothing."""
    async with broker_running() as broker:
        keep(broker, 5 * SLICE_STEPS_MAX)
        broker.router.retained.put(Message("x/y/z", b"found", 0, True))
        client = await connected(broker, "client")
        await client.subscribe("+/+/z")
        await client.expect_message("x/y/z", b"found", retain=True)


@pytest.mark.usefixtures("both_shells")
async def test_others_are_served_meanwhile() -> None:
    async with broker_running() as broker:
        keep(broker, MANY)
        busy = await connected(broker, "busy")
        other = await connected(broker, "other")
        came = 0
        answered_after = -1

        async def read() -> None:
            nonlocal came
            await busy.expect(Suback)
            while came < MANY:
                await busy.expect(Publish)
                came += 1

        async with trio.open_nursery() as nursery:
            await busy.send(Subscribe(1, (SubscriptionRequest("#"),)))
            await other.send(Pingreq())
            nursery.start_soon(read)
            await other.expect(Pingresp)
            answered_after = came
        assert answered_after < MANY / 2


async def test_unsubscribe_ends_it() -> None:
    """[MQTT-3.10.4-2]: what was not sent when UNSUBSCRIBE came is not sent any more."""
    async with broker_running() as broker:
        keep(broker, MANY, octets=100)
        client = await connected(broker, "client")
        await client.send(Subscribe(1, (SubscriptionRequest("#"),)))
        await client.expect(Suback)
        await client.unsubscribe("#")
        drained = await client.drain()
        assert 0 < sum(isinstance(packet, Publish) for packet in drained) < MANY / 2
        assert not any(isinstance(packet, Unsuback) for packet in drained)
        assert not broker.session.sessions["client"].retained_waiting


async def test_the_same_filter_again_sends_all_again() -> None:
    """[MQTT-3.8.4-3]: at the new QoS, and behind what the first subscription had to get."""
    async with broker_running() as broker:
        topics = keep(broker, MANY, octets=100, qos=1)
        client = await connected(broker, "client")
        await client.send(Subscribe(1, (SubscriptionRequest("#"), SubscriptionRequest("#", qos=1))))
        await client.expect(Suback)
        for qos in (0, 1):
            came = set()
            for _ in range(MANY):
                publish = await client.expect(Publish, qos=qos)
                await client.acknowledge(publish)
                came.add(publish.topic)
            assert came == topics
        await client.expect_alive()


async def test_those_who_wait_for_too_much_are_counted() -> None:
    async with broker_running(limits=Limits(subscriptions_per_client_max=3)) as broker:
        keep(broker, MANY, octets=100)
        client = await connected(broker, "client")
        for _ in range(5):
            await client.send(Subscribe(1, (SubscriptionRequest("#"),)))
        drained = await client.drain()
        assert len(drained) == 5 + 3 * MANY
        assert broker.counters.dropped_queue_full == 2


async def test_a_session_that_comes_back_gets_the_rest() -> None:
    async with broker_running() as broker:
        topics = keep(broker, MANY, octets=100)
        client = await connected(broker, "client", session_expiry_interval=100)
        await client.subscribe("#")
        await client.aclose()
        again = await connected(broker, "client", clean_start=False, session_expiry_interval=100)
        came = {packet.topic for packet in await again.drain() if isinstance(packet, Publish)}
        assert MANY / 2 < len(came) < MANY
        assert came < topics


async def test_what_is_stored_meanwhile_comes_once() -> None:
    """Replaced, removed and new topics go to the subscription as they are published, and not again from the store."""
    async with broker_running() as broker:
        topics = keep(broker, MANY, octets=100)
        client = await connected(broker, "client")
        await client.subscribe("#", qos=1)
        publisher = await connected(broker, "publisher")
        changed = sorted(topics)[:: MANY // 20]
        for topic in [*changed, "new"]:
            await publisher.publish(topic, b"live", qos=1, retain=True)
        came: dict[str, list[bytes]] = {}
        for packet in await client.drain():
            assert isinstance(packet, Publish)
            if packet.payload == b"live":
                assert not packet.retain
            came.setdefault(packet.topic, []).append(packet.payload)
        assert set(came) == topics | {"new"}
        for topic, payloads in came.items():
            assert payloads[-1:] == [b"live"] if topic in changed or topic == "new" else [bytes(payloads[0])]
            assert len(payloads) <= (2 if topic in changed else 1)
