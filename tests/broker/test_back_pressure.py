"""When all out-queues together are too long: who is not read, for how long, and who is cut. On both shells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from acebroker_codec import packets
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Publish
from tests.broker.limits import limit
from tests.harness import WireClient, broker_over_tcp, connected_over_tcp, run_in_virtual_time
from trio_acebroker import Broker, Limits
from trio_acebroker.config import Listener

pytestmark = [
    pytest.mark.parametrize("shell", ["raw", "pump"]),
    pytest.mark.trio(run=run_in_virtual_time),
]

#: more than kernel buffers hold (their sizes differ by machine), so that something is left over to be counted
ONE = 8_000_000
LIMITS = Limits(out_queue_bytes_max=ONE, out_queues_bytes_max=ONE // 4, pause_seconds_max=5.0)


@asynccontextmanager
async def three(shell: str) -> AsyncIterator[tuple[Broker, WireClient, WireClient, WireClient]]:
    """A broker with a publisher, a subscriber to `t` that does not read, and one to `t` that publishes too."""
    listeners = (Listener(port=0, shell=shell),)  # type: ignore[arg-type]
    async with broker_over_tcp(listeners=listeners, limits=LIMITS) as (broker, address):
        async with (
            connected_over_tcp(address, "publisher") as publisher,
            connected_over_tcp(address, "deaf") as deaf,
            connected_over_tcp(address, "other") as other,
        ):
            await deaf.subscribe("t", qos=1)
            yield broker, publisher, deaf, other


async def flood(client: WireClient) -> None:
    """Publish until it is not read any more."""
    batch = b"".join(b"\x30\x80\x08\x00\x01t\x00" + bytes(1_020) for _ in range(64))
    assert packets.PacketType.PUBLISH == 3
    while True:
        with trio.move_on_after(1) as patience:
            await client.stream.send_all(batch)
        if patience.cancelled_caught:
            return


@limit("out_queues_bytes_max")
async def test_publishers_are_not_read_until_the_queues_are_short(shell: str) -> None:
    async with three(shell) as (broker, publisher, deaf, other):
        await other.send(packets.Pingreq())
        await other.expect(packets.Pingresp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, publisher)
            await trio.testing.wait_all_tasks_blocked()
            await other.send(packets.Pingreq())  # it may send, but is not read
            await other.expect_silence(0.5)
            received = broker.counters.octets_received
            while broker.pressure.paused:
                await deaf.stream.receive_some(1_000_000)
            await other.expect(packets.Pingresp)
            assert broker.counters.octets_received > received
            assert (broker.counters.pauses, broker.counters.shed) == (1, 0)
            nursery.cancel_scope.cancel()


@limit("pause_seconds_max")
async def test_a_pause_ends_with_a_cut_of_the_longest_queue(shell: str) -> None:
    async with three(shell) as (broker, publisher, _, other):
        await flood(publisher)
        began = trio.current_time()
        assert broker.pressure.paused
        await other.send(packets.Pingreq())
        with trio.fail_after(6):
            while (await other.receive()) != packets.Pingresp():
                pass
        assert 3 < trio.current_time() - began < 6
        assert not broker.pressure.paused
        assert broker.counters.shed == 1
        assert broker.counters.denials["limit: out-queues of all clients"] == 1
        await trio.sleep(2)
        assert broker.session.sessions.keys() == {"publisher", "other"}
        assert {task.conn.client_identifier for task in broker.connections} == {"publisher", "other"}


async def test_who_owes_acknowledgements_is_read(shell: str) -> None:
    async with three(shell) as (broker, publisher, _, other):
        await other.subscribe("mine", qos=1)
        await other.send(Publish("mine", b"x", 1, packet_identifier=7))
        received = {type(await other.receive()), type(await other.receive())}
        assert received == {packets.Puback, Publish}
        await flood(publisher)
        assert broker.pressure.paused
        await other.send(packets.Puback(1), packets.Pingreq())
        await other.expect(packets.Pingresp)


async def test_keep_alive_stands_still_while_nobody_reads(shell: str) -> None:
    listeners = (Listener(port=0, shell=shell),)  # type: ignore[arg-type]
    limits = Limits(out_queue_bytes_max=ONE, out_queues_bytes_max=ONE // 4, pause_seconds_max=60.0)
    async with broker_over_tcp(listeners=listeners, limits=limits) as (broker, address):
        async with (
            connected_over_tcp(address, "publisher") as publisher,
            connected_over_tcp(address, "deaf") as deaf,
            connected_over_tcp(address, "alive", keep_alive=2) as alive,
            connected_over_tcp(address, "gone", keep_alive=2) as silent,
        ):
            await deaf.subscribe("t", qos=1)
            with trio.move_on_after(2.5):
                await flood(publisher)
            assert broker.pressure.paused
            await alive.send(packets.Pingreq())
            await alive.expect_silence(20)
            while broker.pressure.paused:
                await deaf.stream.receive_some(1_000_000)
            await alive.expect(packets.Pingresp)
            await silent.expect_closed(ReasonCode.KEEP_ALIVE_TIMEOUT)


@pytest.mark.parametrize("together", [64_000_000, 300_000])
async def test_clients_that_publish_and_subscribe_do_not_deadlock(shell: str, together: int) -> None:
    """Each sends a lot to itself and the others before it reads anything. In the end all were served, or cut."""
    listeners = (Listener(port=0, shell=shell),)  # type: ignore[arg-type]
    limits = Limits(out_queue_bytes_max=200_000, out_queues_bytes_max=together)
    async with broker_over_tcp(listeners=listeners, limits=limits) as (broker, address):
        clients = [await WireClient.open_tcp(*address) for _ in range(4)]
        with trio.fail_after(60):
            for number, client in enumerate(clients):
                await client.connect(f"c{number}", keep_alive=0)
                await client.subscribe("all", qos=1)
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(_send_first, client)
            served = [await _served(client) for client in clients]
        assert served.count(False) == broker.counters.shed
        assert bool(broker.counters.pauses) == (together < 1_000_000)


async def _send_first(client: WireClient) -> None:
    try:
        for _ in range(2_000):
            await client.stream.send_all(b"\x30\x87\x08\x00\x03all\x00" + bytes(1_025))
        await client.stream.send_all(b"\xc0\x00")
    except trio.BrokenResourceError:
        pass  # it was cut


async def _served(client: WireClient) -> bool:
    """Read on: PINGRESP comes, or the end of the connection, with DISCONNECT where there was room for it."""
    while isinstance(packet := await client.receive_or_end(), Publish):
        pass
    await client.aclose()
    if isinstance(packet, packets.Disconnect):
        assert packet.reason_code == ReasonCode.QUOTA_EXCEEDED
    return isinstance(packet, packets.Pingresp)
