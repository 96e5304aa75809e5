"""A client that never reads costs what its out-queue may hold, and nobody else notices.

Messages of QoS 0 beyond the bound are dropped and counted, those of QoS 1 and 2 wait in the session, within its
own bounds. What it asks for itself (PINGRESP, acknowledgements) is bounded by not reading on before it reads.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from acebroker_codec.encoder import encode
from acebroker_codec.packets import Pingreq, Pingresp, ProtocolVersion, Puback, Publish, Subscribe, SubscriptionRequest
from acebroker_middleware.state.bounds import Limits
from tests.harness import WireClient, broker_running, connected, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.runtime.connection import ConnectionTask
from trio_acebroker.runtime.shells.raw import READ_BYTES_MAX
from trio_acebroker.transports.memory import BUFFER_BYTES_MAX

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

OUT_QUEUE = 20_000
LIMITS = Limits(out_queue_bytes_max=OUT_QUEUE, queued_messages_max=50, queued_bytes_max=1_000_000)


def task_of(broker: Broker, client_identifier: str) -> ConnectionTask:
    (task,) = (task for task in broker.connections if task.conn.client_identifier == client_identifier)
    return task


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("fast", [True, False])
async def test_qos_0_is_dropped_and_counted_beyond_the_out_queue(version: int, fast: bool) -> None:
    async with broker_running(limits=LIMITS, flow_cache=fast) as broker:
        deaf = await connected(broker, "deaf", version)
        await deaf.subscribe("t")
        hearing = await connected(broker, "hearing", version)
        await hearing.subscribe("t")
        publisher = await connected(broker, "publisher", version)
        conn = task_of(broker, "deaf").conn
        for number in range(150):
            await publisher.publish("t", b"%d" % number + bytes(5_000))
            await hearing.expect_message("t", b"%d" % number + bytes(5_000))
            assert conn.out_octets <= OUT_QUEUE
        await publisher.expect_alive()
        received = [packet for packet in await deaf.drain() if isinstance(packet, Publish)]
        assert (BUFFER_BYTES_MAX + OUT_QUEUE) / 5_010 - 2 < len(received) < 150
        assert conn.dropped == 150 - len(received)
        assert broker.counters.dropped_out_queue == conn.dropped
        # what was taken came in order, without a gap in the beginning
        assert [int(packet.payload.rstrip(b"\0")) for packet in received] == list(range(len(received)))
        await publisher.publish("t", b"again")
        await deaf.expect_message("t", b"again")


@pytest.mark.parametrize("qos", [1, 2])
async def test_qos_1_and_2_wait_in_the_session_and_no_more_than_that(qos: int) -> None:
    async with broker_running(limits=LIMITS) as broker:
        deaf = await connected(broker, "deaf")
        await deaf.subscribe("t", qos=qos)
        publisher = await connected(broker, "publisher")
        for number in range(150):
            ack = await publisher.publish("t", b"%d" % number + bytes(5_000), qos=qos)
            assert ack is not None
            assert ack.reason_code == 0
        conn = task_of(broker, "deaf").conn
        assert conn.session is not None
        assert conn.out_octets <= OUT_QUEUE + 5_100
        assert len(conn.session.queue) == LIMITS.queued_messages_max
        assert broker.counters.dropped_queue_full == conn.session.dropped > 0
        dropped = conn.session.dropped
        for number in range(150 - dropped):
            await deaf.expect_message("t", b"%d" % number + bytes(5_000), qos=qos)
        await deaf.expect_alive()


def floods() -> dict[str, bytes]:
    """Packets that are each answered by one; enough for three buffers of each."""
    one_by_one = {
        "PINGREQ": encode(Pingreq(), ProtocolVersion.MQTT_5),
        "SUBSCRIBE": encode(Subscribe(1, (SubscriptionRequest("t"),)), ProtocolVersion.MQTT_5),
        "PUBLISH of QoS 1": encode(Publish("a", b"", 1, packet_identifier=1), ProtocolVersion.MQTT_5),
        "PUBREL": bytes.fromhex("62020001"),
    }
    return {name: packet * (1_000_000 // len(packet)) for name, packet in one_by_one.items()}


@pytest.mark.parametrize("name", floods())
async def test_a_client_that_asks_without_reading_is_not_read(name: str) -> None:
    """The answers wait in its out-queue; with that full, its own octets wait where they are."""
    flood = floods()[name]
    async with broker_running(limits=LIMITS) as broker:
        deaf = await connected(broker, "deaf")
        other = await connected(broker, "other")
        task = task_of(broker, "deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaf.send_raw, flood)
            await wait_all_tasks_blocked()
            # at most what one read asked for comes on top of the bound
            assert OUT_QUEUE < task.conn.out_octets <= OUT_QUEUE + READ_BYTES_MAX
            assert broker.counters.octets_received < len(flood)
            await other.expect_alive()
            nursery.start_soon(read_all, deaf)
            await wait_all_tasks_blocked()
            assert broker.counters.octets_received > len(flood)
            assert task.conn.out_octets == 0
            nursery.cancel_scope.cancel()


async def test_a_client_that_is_not_read_is_closed_by_its_keep_alive() -> None:
    """PINGREQ does not help a client that takes no PINGRESP."""
    async with broker_running(limits=LIMITS) as broker:
        deaf = await connected(broker, "deaf", keep_alive=10)
        task = task_of(broker, "deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaf.send_raw, floods()["PINGREQ"])
            await trio.sleep(14)
            assert task in broker.connections
            await trio.sleep(3)
            assert task not in broker.connections
            assert not broker.session.sessions


async def test_a_client_that_goes_away_unread_is_gone() -> None:
    async with broker_running(limits=LIMITS) as broker:
        deaf = await connected(broker, "deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaf.send_raw, floods()["PINGREQ"])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await deaf.aclose()
        await trio.sleep(2)
        assert not broker.connections
        assert not broker.session.sessions


async def test_one_that_reads_a_little_while_it_is_closed_is_not_counted_for_ever() -> None:
    """What was in its out-queue is no part of their sum any more, whose bound would stop all publishers."""
    async with broker_running(limits=LIMITS) as broker:
        deaf = await connected(broker, "deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaf.send_raw, floods()["PINGREQ"])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        conn = task_of(broker, "deaf").conn
        assert broker.pressure.blocked == {conn}
        await connected(broker, "deaf")  # takes its session over
        await wait_all_tasks_blocked()
        assert conn.out
        await deaf.stream.receive_some(1_000)
        await trio.sleep(2)
        assert not broker.pressure.blocked


async def read_all(client: WireClient) -> None:
    while await client.stream.receive_some():
        pass


async def test_an_unread_client_does_not_hold_up_the_end_of_the_broker() -> None:
    """The program ends within the drain time and the second for the last octets."""
    async with broker_running(limits=LIMITS) as broker, trio.open_nursery() as nursery:
        deaf = await connected(broker, "deaf")
        nursery.start_soon(deaf.send_raw, floods()["PINGREQ"])
        await wait_all_tasks_blocked()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began <= LIMITS.drain_seconds_max + 1
    assert not broker.connections


async def test_no_answer_is_lost_to_a_client_that_reads_late() -> None:
    async with broker_running(limits=LIMITS) as broker:
        slow = await connected(broker, "slow")
        await slow.subscribe("t")
        for number in range(1, 500):
            await slow.send(Publish("t", bytes(1_000), 1, packet_identifier=number))
        await slow.send(Pingreq())
        received = await slow.drain()
        assert [p.packet_identifier for p in received if isinstance(p, Puback)] == list(range(1, 500))
        assert received[-1] == Pingresp()


async def test_what_waited_in_a_group_comes_to_a_member_that_reads_slowly() -> None:
    """More than an out-queue: what was sent makes room for the rest, until the socket is full again."""
    async with broker_running(limits=LIMITS) as broker:
        member = await connected(broker, "member", session_expiry_interval=1000)
        await member.subscribe("$share/g/t", qos=1)
        await member.disconnect()
        publisher = await connected(broker, "publisher")
        for number in range(100):
            await publisher.publish("t", b"%d" % number + bytes(5_000), qos=1)
        member = await connected(broker, "member", clean_start=False)
        for number in range(100):
            await wait_all_tasks_blocked()
            await member.expect_message("t", b"%d" % number + bytes(5_000), qos=1)
