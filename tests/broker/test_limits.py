"""Every limit that a client's packets can reach: what it is told, what is counted, and that nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import (
    Connack,
    Connect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from acebroker_codec.wire import encode_variable_byte_integer
from acebroker_middleware.decode import FILTERS_MAX_MIN
from tests.broker.limits import limit
from tests.harness import WireClient, broker_running, connected, make, make_will, run_in_virtual_time, under_test
from trio_acebroker import Broker, Limits
from trio_acebroker.config import SysTopics

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

each_version = pytest.mark.parametrize("version", [3, 4, 5])


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    under_test.choose(request.param)
    yield
    under_test.choose("raw")


@asynccontextmanager
async def limited(**limits: Any) -> AsyncIterator[Broker]:
    """A broker with these limits, and a bystander on it, whom nothing that happens may concern."""
    async with broker_running(limits=Limits(**limits), sys_topics=SysTopics(interval_seconds=0)) as broker:
        bystander = await connected(broker, "bystander")
        await bystander.subscribe("by")
        yield broker
        await bystander.publish("by", b"", qos=1)
        await bystander.expect_message("by", b"")
        await bystander.expect_alive()


def task_of(broker: Broker, client_identifier: str) -> Any:
    (task,) = (task for task in broker.connections if task.conn.client_identifier == client_identifier)
    return task


async def attempt(broker: Broker, version: int, client_identifier: str, **fields: Any) -> int:
    """Try to connect; gives the code of CONNACK."""
    client = await WireClient.open(broker, version)
    connack = await client.attempt_connect(client_identifier, **fields)
    if connack.reason_code:
        await client.expect_closed()
    return connack.reason_code


# --- packets -----------------------------------------------------------------------------------


@limit("packet_bytes_max")
@each_version
async def test_a_packet_that_is_too_large(version: int) -> None:
    """It ends at its fixed header, before there is anything of it; one octet less passes."""
    async with limited(packet_bytes_max=300) as broker:
        client = await WireClient.open(broker, version)
        connack = await client.connect("client")
        if version == 5:
            assert connack.properties.maximum_packet_size == 300
        fits = 300 - 3 - 3 - (version == 5)
        await client.publish("t", bytes(fits))
        await client.expect_alive()
        await client.send_raw(b"\x30\xff\xff\xff\x7f")  # 256 MiB are to follow
        await client.expect_closed(0x95)


@limit("connect_bytes_max")
async def test_a_connect_that_is_too_large() -> None:
    """It has a limit of its own, as anybody may send one; nobody is told anything before it was read."""
    async with limited(connect_bytes_max=300) as broker:
        client = await WireClient.open(broker)
        await client.send_raw(b"\x10\xad\x02")
        await client.expect_closed()


@limit("topic_bytes_max", "topic_levels_max")
@each_version
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("topic", ["äää", "a/b/c/d"])  # octets are counted
async def test_a_topic_name_that_is_too_long(topic: str, qos: int, version: int) -> None:
    async with limited(topic_bytes_max=5 if topic == "äää" else 9, topic_levels_max=3) as broker:
        client = await connected(broker, "client", version)
        await client.publish("a/b/c" if "/" in topic else "abcde", b"", qos=qos)
        await client.send(Publish(topic, b"", qos, packet_identifier=9 if qos else 0))
        await client.expect_closed(0x90)


@limit("topic_bytes_max", "topic_levels_max")
@each_version
@pytest.mark.parametrize("topic", ["äää", "a/b/c/d"])
async def test_a_will_topic_that_is_too_long(topic: str, version: int) -> None:
    async with limited(topic_bytes_max=9 if "/" in topic else 5, topic_levels_max=3) as broker:
        client = await WireClient.open(broker, version)
        await client.send(make(Connect, client_identifier="client", version=version, will=make_will(topic)))
        if version == 5:
            await client.expect(Connack, reason_code=0x90)
        await client.expect_closed()
        assert "client" not in broker.session.sessions


@limit("topic_bytes_max", "topic_levels_max")
@each_version
@pytest.mark.parametrize("topic_filter", ["äää", "a/+/c/#"])
async def test_a_topic_filter_that_is_too_long(topic_filter: str, version: int) -> None:
    """Refused by itself; the others of its SUBSCRIBE are granted."""
    async with limited(topic_bytes_max=9 if "/" in topic_filter else 5, topic_levels_max=3) as broker:
        client = await connected(broker, "client", version)
        suback = await client.subscribe("a", topic_filter, "b", accepted=False)
        assert suback.reason_codes == (0, 0x8F if version == 5 else 0x80, 0)
        assert broker.counters.denials == {"limit: topic filter": 1}


@limit("client_identifier_bytes_max")
@each_version
async def test_a_client_identifier_that_is_too_long(version: int) -> None:
    async with limited(client_identifier_bytes_max=9) as broker:
        assert await attempt(broker, version, "ääää1") == 0
        assert await attempt(broker, version, "äääää") == (0x85 if version == 5 else 2)


@limit("topic_alias_max")
@pytest.mark.parametrize("most", [0, 3])
async def test_a_topic_alias_that_is_too_high(most: int) -> None:
    async with limited(topic_alias_max=most) as broker:
        client = await WireClient.open(broker)
        connack = await client.connect("client")
        assert connack.properties.topic_alias_maximum == (most or None)
        for alias in range(1, most + 1):
            await client.publish("t", b"", topic_alias=alias)
        await client.expect_alive()
        await client.publish("t", b"", topic_alias=most + 1)
        await client.expect_closed(0x94)


@limit("topic_alias_out_max", "topic_alias_out_bytes_min")
@pytest.mark.parametrize("most", [0, 2])
async def test_aliases_of_the_broker(most: int) -> None:
    """No more than the limit, however many the client offers, and none for a topic that is too short."""
    async with limited(topic_alias_out_max=most, topic_alias_out_bytes_min=10) as broker:
        client = await connected(broker, "client", topic_alias_maximum=100)
        await client.subscribe("#")
        aliases = []
        for topic in ("too/short", "long/enough/1", "long/enough/2", "long/enough/3", "long/enough/1"):
            await broker.publish(topic, b"")
            aliases.append((await client.expect(Publish)).properties.topic_alias)
        assert aliases == ([None, 1, 2, None, 1] if most else [None] * 5)


# --- sessions ----------------------------------------------------------------------------------


@limit("sessions_max")
@each_version
async def test_one_session_too_many(version: int) -> None:
    """Those that are there may be resumed and taken over, and there is room again when one ends."""
    async with limited(sessions_max=3) as broker:  # one is the bystander's
        away = await WireClient.open(broker, version)
        await away.connect("away", clean_start=False, **({"session_expiry_interval": 1_000} if version == 5 else {}))
        await away.aclose()
        here = await connected(broker, "here", version)
        assert await attempt(broker, version, "one too many") == (0x97 if version == 5 else 3)
        assert broker.counters.denials == {"limit: sessions": 1}
        assert await attempt(broker, version, "away", clean_start=False) == 0
        again = await connected(broker, "here", version)
        await here.expect_closed(0x8E)
        await again.disconnect()
        assert await attempt(broker, version, "one too many") == 0


@limit("session_expiry_seconds_max")
@each_version
async def test_a_session_expiry_that_is_too_long(version: int) -> None:
    """It is cut, and MQTT 5 is told; DISCONNECT gets no more either."""
    async with limited(session_expiry_seconds_max=100) as broker:
        for _ in range(2):
            client = await WireClient.open(broker, version)
            asked = {"session_expiry_interval": 0xFFFFFFFF} if version == 5 else {}
            connack = await client.connect("client", clean_start=False, **asked)
            assert not connack.session_present
            assert connack.properties.session_expiry_interval == (100 if version == 5 else None)
            await client.disconnect(**({"session_expiry_interval": 200} if version == 5 else {}))
            await trio.sleep(99)
            assert "client" in broker.session.sessions
            await trio.sleep(2)
            assert "client" not in broker.session.sessions


@limit("session_expiry_seconds_max")
@each_version
async def test_sessions_that_end_with_their_connection(version: int) -> None:
    async with limited(session_expiry_seconds_max=0) as broker:
        client = await WireClient.open(broker, version)
        asked = {"session_expiry_interval": 7} if version == 5 else {}
        connack = await client.connect("client", clean_start=False, **asked)
        assert connack.properties.session_expiry_interval == (0 if version == 5 else None)
        await client.disconnect()
        assert "client" not in broker.session.sessions


@limit("subscriptions_per_client_max")
@each_version
async def test_one_subscription_too_many(version: int) -> None:
    """It is refused, shared ones too; replacing one takes no room, and UNSUBSCRIBE gives some back."""
    refused = 0x97 if version == 5 else 0x80
    async with limited(subscriptions_per_client_max=2) as broker:
        client = await connected(broker, "client", version)
        suback = await client.subscribe("a", "b", "$share/g/c", "a", accepted=False)
        assert suback.reason_codes == (0, 0, refused, 0)
        assert broker.counters.denials == {"limit: subscriptions per client": 1}
        await client.unsubscribe("b")
        assert (await client.subscribe("c", "d", accepted=False)).reason_codes == (0, refused)


@limit("subscriptions_per_client_max")
@each_version
@pytest.mark.parametrize("kind", [Subscribe, Unsubscribe])
@pytest.mark.parametrize("limit_of_filters", [10, FILTERS_MAX_MIN + 10])
async def test_a_packet_has_no_more_filters_than_a_client_may_have(
    limit_of_filters: int, kind: type[Subscribe] | type[Unsubscribe], version: int
) -> None:
    """A packet full of them would keep everybody waiting; 1,000 are always looked at."""
    most = max(FILTERS_MAX_MIN, limit_of_filters)
    async with limited(subscriptions_per_client_max=limit_of_filters) as broker:
        client = await connected(broker, "client", version)

        async def send(count: int) -> None:
            filters = b"".join(b"\0\4%04d" % number + b"\0" * (kind is Subscribe) for number in range(count))
            body = b"\0\1" + b"\0" * (version == 5) + filters
            await client.send_raw(bytes((kind.packet_type << 4 | 2,)) + encode_variable_byte_integer(len(body)) + body)

        await send(most)
        acknowledgement = await client.receive()
        assert len(getattr(acknowledgement, "reason_codes", ())) == (0 if kind is Unsubscribe and version < 5 else most)
        await send(most + 1)
        await client.expect_closed(ReasonCode.QUOTA_EXCEEDED)


@limit("in_flight_max")
@pytest.mark.parametrize("qos", [1, 2])
@each_version
async def test_messages_beyond_the_window_wait(version: int, qos: int) -> None:
    """However much more the client would take at once."""
    async with limited(in_flight_max=3) as broker:
        client = await connected(broker, "client", version, **({"receive_maximum": 100} if version == 5 else {}))
        await client.subscribe("t", qos=2)
        for number in range(5):
            await broker.publish("t", b"%d" % number, qos=qos)
        sent = [await client.expect(Publish) for _ in range(3)]
        await client.expect_silence()
        await client.acknowledge(sent[0])
        await client.expect_message("t", b"3")
        await client.expect_message("t", b"4")
        await client.expect_silence()


@limit("in_flight_bytes_max")
@pytest.mark.parametrize("qos", [1, 2])
@each_version
async def test_large_messages_beyond_the_octets_of_the_window_wait(version: int, qos: int) -> None:
    """In order, and one at least is always on its way; short ones count by their number alone."""
    expiry = {"session_expiry_interval": 100} if version == 5 else {}
    async with limited(in_flight_bytes_max=15_000) as broker:
        client = await WireClient.open(broker, version)
        await client.connect("client", clean_start=False, **expiry)
        await client.subscribe("t", "r", qos=2)
        publisher = await connected(broker, "publisher")
        await publisher.publish("r", bytes(16_000), qos=qos, retain=True)  # more than all of it, alone
        alone = await client.expect(Publish)
        sizes = [5_000, 10, 6_000, 5_000, 10, 4_500]
        for number, size in enumerate(sizes):
            await publisher.publish("t", bytes([number]) * size, qos=qos)
        await client.expect_silence()
        await client.acknowledge(alone)
        sent = [await client.expect(Publish) for _ in range(4)]
        assert [len(publish.payload) for publish in sent] == sizes[:4]
        await client.expect_silence()
        await client.acknowledge(sent[1])
        await client.expect_silence()
        await client.acknowledge(sent[0])
        sent += [await client.expect(Publish) for _ in range(2)]
        assert [publish.payload[0] for publish in sent] == list(range(6))
        state = broker.session.sessions["client"]
        assert state.window.octets > 15_000
        await client.aclose()
        client = await WireClient.open(broker, version)
        await client.connect("client", clean_start=False, **expiry)
        sent = [await client.expect(Publish, dup=True) for _ in range(4)]
        assert state.window.octets > 15_000, "what is sent again counts once"
        for publish in sent[-4:]:
            await client.acknowledge(publish)
        await client.expect_alive()
        assert state.window.octets == 0
        assert len(state.window) == 0
        await client.subscribe("r", qos=2)
        await client.expect_message("r", bytes(16_000))


@limit("receive_max")
async def test_more_unacknowledged_publications_than_was_told() -> None:
    async with limited(receive_max=3) as broker:
        client = await WireClient.open(broker)
        assert (await client.connect("client")).properties.receive_maximum == 3
        for identifier in (1, 2, 3):
            await client.send(Publish("t", b"", 2, packet_identifier=identifier))
            await client.expect(Pubrec)
        await client.publish("t", b"", qos=0)
        await client.send(Publish("t", b"", 2, dup=True, packet_identifier=3))
        await client.expect(Pubrec, packet_identifier=3)
        await client.send(Pubrel(1))
        await client.expect(Pubcomp)
        await client.send(Publish("t", b"", 2, packet_identifier=4))
        await client.expect(Pubrec)
        await client.send(Publish("t", b"", 2, packet_identifier=5))
        await client.expect_closed(0x93)


@limit("unreleased_bytes_max")
@each_version
@pytest.mark.parametrize("kept", [True, False])
async def test_more_octets_that_wait_for_pubrel_than_fit(version: int, kept: bool) -> None:
    """Receive Maximum alone would let a client keep a thousand of the largest packets here, and MQTT 3 has none."""
    expiry = {"session_expiry_interval": 100} if version == 5 else {}
    async with limited(unreleased_bytes_max=12_000) as broker:
        client = await WireClient.open(broker, version)
        await client.connect("client", clean_start=not kept, **(expiry if kept else {}))
        for identifier in (1, 2, 3):
            await client.send(Publish("t", bytes(3_000), 2, packet_identifier=identifier))
            await client.expect(Pubrec, packet_identifier=identifier)
        await client.send(Publish("t", bytes(3_000), 2, dup=True, packet_identifier=3))
        await client.expect(Pubrec, packet_identifier=3)
        await client.send(Pubrel(1))
        await client.expect(Pubcomp, packet_identifier=1)
        await client.send(Publish("t", bytes(3_000), 2, packet_identifier=4))
        await client.expect(Pubrec, packet_identifier=4)
        await client.send(Publish("t", bytes(3_000), 2, packet_identifier=5))
        if version == 5:
            await client.expect(Pubrec, packet_identifier=5, reason_code=0x97)
            await client.expect_alive()
            for identifier in (2, 3, 4):
                await client.send(Pubrel(identifier))
                await client.expect(Pubcomp, packet_identifier=identifier)
            assert broker.session.sessions["client"].held_octets == 0
            await client.publish("t", bytes(3_000), qos=2)
        else:
            await client.expect_closed()
        assert broker.counters.denials == {"limit: unreleased publications": 1}


@limit("unreleased_bytes_max")
@each_version
async def test_short_publications_that_wait_for_pubrel_are_few_or_counted(version: int) -> None:
    """Those of the short cut are not counted: they are short, and no more than Receive Maximum."""
    async with limited(unreleased_bytes_max=20_000, receive_max=50) as broker:
        client = await connected(broker, "client", version)
        await client.publish("t", b"")
        for identifier in range(1, 51):
            await client.send(Publish("t", b"x", 2, packet_identifier=identifier))
            await client.expect(Pubrec, packet_identifier=identifier)
        assert broker.session.sessions["client"].held_octets == 0
        more = 0
        for identifier in range(51, 200):
            await client.send(Publish("t", b"x", 2, packet_identifier=identifier))
            if not isinstance(await client.receive_or_end(), Pubrec):
                break
            more += 1
        assert more == (0 if version == 5 else 20_000 // 258)


@limit("queued_messages_max", "queued_bytes_max")
@each_version
@pytest.mark.parametrize("limits", [{"queued_messages_max": 3}, {"queued_bytes_max": 31}, {"queued_messages_max": 0}])
async def test_a_queue_that_is_full(limits: dict[str, int], version: int) -> None:
    """New messages are dropped and counted; the publisher is told nothing, as they are for somebody else."""
    async with limited(**limits) as broker:
        kept = {"session_expiry_interval": 1_000} if version == 5 else {}
        away = await WireClient.open(broker, version)
        await away.connect("away", clean_start=False, **kept)
        await away.subscribe("t", qos=1)
        await away.aclose()
        publisher = await connected(broker, "publisher", version)
        for number in range(5):
            await publisher.publish("t", b"%09d" % number, qos=1)  # 10 octets with its topic
        expected = 0 if limits == {"queued_messages_max": 0} else 3
        assert broker.counters.dropped_queue_full == 5 - expected
        away = await WireClient.open(broker, version)
        await away.connect("away", clean_start=False, **kept)
        for number in range(expected):
            await away.expect_message("t", b"%09d" % number)
        await away.expect_silence()
        await publisher.publish("t", b"and now", qos=1)
        await away.expect_message("t", b"and now")


@limit("queued_bytes_max", "group_bytes_max", "retained_bytes_max")
@pytest.mark.parametrize(
    "properties",
    [
        {"correlation_data": bytes(900)},
        {"content_type": "x" * 900},
        {"response_topic": "x" * 900},
        {"user_properties": (("k" * 450, "v" * 450),)},
        {"user_properties": (("", ""),) * 7},  # each costs more than its five octets
    ],
    ids=lambda properties: next(iter(properties)),
)
async def test_properties_count_as_much_as_a_payload(properties: dict[str, Any]) -> None:
    limits = {"queued_bytes_max": 2_500, "group_bytes_max": 2_500, "retained_bytes_max": 3_000}
    async with limited(**limits, topic_bytes_max=1_000) as broker:
        away = await connected(broker, "away", session_expiry_interval=1_000)
        await away.subscribe("t", "$share/g/s", qos=1)
        await away.disconnect()
        publisher = await connected(broker, "publisher")
        for number in range(4):
            await publisher.publish("t", b"", qos=1, **properties)
            await publisher.publish("s", b"", qos=1, **properties)
            await publisher.publish(f"r/{number}", b"x", qos=1, retain=True, **properties)
            await publisher.publish(f"q/{number}", b"x", qos=2, retain=True, **properties)
        state = broker.session.sessions["away"]
        assert 1 <= len(state.queue) <= 2
        assert state.queued_octets <= 2_500
        (group,) = state.groups.values()
        assert 1 <= len(group.waiting.messages) <= 2  # type: ignore[attr-defined]
        assert 1 <= len(broker.router.retained) <= 2
        away = await connected(broker, "away", clean_start=False)
        await away.drain()
        assert state.queued_octets == 0


@limit("group_messages_max", "group_bytes_max")
@pytest.mark.parametrize("limits", [{"group_messages_max": 3}, {"group_bytes_max": 31}, {"group_messages_max": 0}])
async def test_a_group_s_queue_that_is_full(limits: dict[str, int]) -> None:
    async with limited(**limits) as broker:
        away = await connected(broker, "away", session_expiry_interval=1_000)
        await away.subscribe("$share/g/t", qos=1)
        await away.aclose()
        publisher = await connected(broker, "publisher")
        for number in range(5):
            await publisher.publish("t", b"%09d" % number, qos=1)
        expected = 0 if limits == {"group_messages_max": 0} else 3
        assert broker.counters.dropped_queue_full == 5 - expected
        away = await connected(broker, "away", clean_start=False)
        for number in range(expected):
            await away.expect_message("t", b"%09d" % number)
        await away.expect_silence()


@limit("keep_alive_seconds_max")
@pytest.mark.parametrize("asked", [0, 21, 65_535, 20])
async def test_a_keep_alive_that_is_too_long(asked: int) -> None:
    """MQTT 5 is told another one, and is held to it; MQTT 3 cannot be told."""
    async with broker_running(limits=Limits(keep_alive_seconds_max=20)) as broker:
        client = await WireClient.open(broker)
        connack = await client.connect("client", keep_alive=asked)
        assert connack.properties.server_keep_alive == (20 if asked != 20 else None)
        older = await connected(broker, "older", 4, keep_alive=asked)
        await client.expect_silence(29)
        await client.expect_closed(0x8D)
        if asked == 20:
            await older.expect_closed()
        else:
            await older.expect_alive()


@limit("connect_timeout_seconds")
@each_version
@pytest.mark.parametrize("sent", [b"", b"\x10", b"\x10\x20\x00\x04MQTT"])
async def test_a_client_that_is_too_slow_to_connect(version: int, sent: bytes) -> None:
    async with limited(connect_timeout_seconds=7.0) as broker:
        client = await WireClient.open(broker, version)
        await client.send_raw(sent)
        await client.expect_silence(6.9)
        await client.expect_closed()
        await trio.sleep(1)
        assert {task.conn.client_identifier for task in broker.connections} == {"bystander"}


# --- delivery and retained messages ------------------------------------------------------------


@limit("retained_messages_max", "retained_bytes_max")
@each_version
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("limits", [{"retained_messages_max": 2}, {"retained_bytes_max": 600}])
async def test_one_retained_message_too_many(limits: dict[str, int], qos: int, version: int) -> None:
    """0x97 for QoS 1 and 2, counted alike; what is there may be replaced, and deleting makes room."""
    async with limited(**limits) as broker:
        client = await connected(broker, "client", version)
        for topic in ("a", "b", "a"):
            await client.publish(topic, b"x", qos=1, retain=True)
        answer = await client.publish("c", b"x", qos=qos, retain=True)
        if qos:
            assert answer is not None
            assert answer.reason_code == (0x97 if version == 5 else 0)
        await client.expect_alive()
        assert broker.counters.denials == {"limit: retained messages": 1}
        assert broker.counters.retained_refused == 1
        await client.publish("a", b"", retain=True)
        await client.expect_alive()
        await client.publish("c", b"y", qos=qos, retain=True)
        await client.subscribe("#")
        assert {(p.topic, p.payload) for p in await client.drain() if isinstance(p, Publish)} == {
            ("b", b"x"),
            ("c", b"y"),
        }


@limit("retained_messages_max", "retained_bytes_max")
@pytest.mark.parametrize("limits", [{"retained_messages_max": 0}, {"retained_bytes_max": 0}])
async def test_no_retained_messages(limits: dict[str, int]) -> None:
    """Subscribers get the message itself at QoS 0."""
    async with limited(**limits) as broker:
        client = await connected(broker, "client")
        await client.subscribe("t")
        await client.publish("t", b"x", retain=True)
        await client.expect_silence()
        answer = await client.publish("t", b"x", qos=1, retain=True)
        assert isinstance(answer, Puback)
        assert answer.reason_code == 0x97
        assert broker.counters.retained_refused == 2


@limit("out_queue_bytes_max")
@each_version
async def test_a_client_that_does_not_read(version: int) -> None:
    """QoS 0 is dropped and counted, QoS 1 waits in the session, and the publisher does not wait for it."""
    async with limited(out_queue_bytes_max=100_000) as broker:
        client = await connected(broker, "client", version)
        await client.subscribe("t/#", qos=1)
        publisher = await connected(broker, "publisher")
        for _ in range(200):
            await publisher.publish("t/0", bytes(50_000))
        await publisher.publish("t/1", b"waits", qos=1)
        conn = task_of(broker, "client").conn
        assert conn.out_octets <= 150_000
        assert conn.dropped == broker.counters.dropped_out_queue > 0
        received = [p for p in await client.drain() if isinstance(p, Publish)]
        assert len(received) == 200 - conn.dropped + 1
        assert received[-1].payload == b"waits"


# --- what is remembered ------------------------------------------------------------------------


@limit("flows_per_connection_max", "flow_bytes_per_connection_max", "routes_max")
@each_version
@pytest.mark.parametrize(
    "limits", [{"flows_per_connection_max": 10}, {"flow_bytes_per_connection_max": 3_000}, {"routes_max": 10}]
)
async def test_what_is_remembered_is_bounded_and_nothing_is_lost(limits: dict[str, int], version: int) -> None:
    async with limited(**limits) as broker:
        client = await connected(broker, "client", version)
        await client.subscribe("t/#")
        publisher = await connected(broker, "publisher", version)
        conn = task_of(broker, "publisher").conn
        for _ in range(2):
            for number in range(40):
                await publisher.publish(f"t/{number}", b"x")
                await client.expect_message(f"t/{number}", b"x")
                assert len(conn.flows) <= limits.get("flows_per_connection_max", 1_000)
                assert len(broker.router.routes) <= limits.get("routes_max", 1_000)
        if "flow_bytes_per_connection_max" in limits:
            assert len(conn.flows) <= 3_000 // 256


@limit("hand_off_seconds_max")
@each_version
async def test_a_stage_that_waits_too_long(version: int) -> None:
    class Waits:
        name = "waits"
        wants = frozenset({Publish.packet_type})

        async def on_batch(self, conn: Any, batch: Any) -> Any:
            if any(isinstance(packet, Publish) and packet.topic == "wait" for packet in batch):
                await trio.sleep_forever()
            return batch

    limits = Limits(hand_off_seconds_max=3.0)
    async with broker_running(limits=limits, stages=[Waits()]) as broker:
        other = await connected(broker, "other")
        client = await connected(broker, "client", version)
        await client.publish("wait", b"")
        await client.expect_silence(2.9)
        await client.expect_closed(0x83)
        await other.publish("t", b"", qos=1)


@limit("drain_seconds_max")
@pytest.mark.parametrize("seconds", [2.0, 0.0])
async def test_the_end_of_the_broker_waits_for_nobody_for_long(seconds: float) -> None:
    began = 0.0
    async with broker_running(limits=Limits(drain_seconds_max=seconds, out_queue_bytes_max=50_000_000)) as broker:
        stuck = await connected(broker, "stuck")
        await stuck.subscribe("t")
        for _ in range(300):
            await broker.publish("t", bytes(100_000))
        assert task_of(broker, "stuck").conn.out_octets > 1_000_000
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)
