"""Clients that send octet by octet, or half a packet: bounded in time before CONNECT and after it, and in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from acebroker_codec.encoder import encode
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Connect, Pingreq, Pingresp, ProtocolVersion, Publish
from acebroker_middleware.state.bounds import Limits
from tests.conformance import octets
from tests.harness import WireClient, broker_over_tcp, broker_running, connected, run_in_virtual_time, under_test
from trio_acebroker import Broker
from trio_acebroker.runtime.connection import KEEP_ALIVE_BYTES_PER_SECOND, ConnectionTask

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    """`raw` in memory, `pump` over TCP: what `broker_running` uses."""
    under_test.choose(request.param)
    yield
    under_test.choose("raw")


LIMITS = Limits(connect_timeout_seconds=10, packet_bytes_max=50_000, connect_bytes_max=1_000)
each_version = pytest.mark.parametrize("version", [3, 4, 5])


def only_task(broker: Broker) -> ConnectionTask:
    (task,) = broker.connections
    return task


async def dribble(client: WireClient, data: bytes, seconds: float) -> None:
    """An octet every so often, until the broker closes."""
    for octet in data:
        await client.send_raw(bytes([octet]))
        with trio.move_on_after(seconds):
            with contextlib.suppress(trio.BrokenResourceError):
                assert not await client.stream.receive_some()
            return


def connect_of(version: int) -> bytes:
    return encode(Connect("client", ProtocolVersion(version), True, 0), ProtocolVersion(version))


# ---- before CONNECT ----


@each_version
@pytest.mark.parametrize("seconds", [0.5, 1, 9])
async def test_a_connect_that_never_ends_is_closed_in_time(version: int, seconds: float) -> None:
    async with broker_running(limits=LIMITS) as broker:
        other = await connected(broker, "other", version)
        client = await WireClient.open(broker, version)
        began = trio.current_time()
        await dribble(client, connect_of(version)[:-1] if seconds > 1 else connect_of(version)[:1] * 1_000, seconds)
        assert trio.current_time() - began <= 10.2
        await other.expect_alive()
        assert len(broker.connections) == 1


@pytest.mark.parametrize("sent", [b"", b"\x10", connect_of(5)[:-1]])
async def test_silence_is_closed_in_time_and_not_answered(sent: bytes) -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await WireClient.open(broker)
        await client.send_raw(sent)
        await trio.sleep(9.8)
        assert broker.connections
        await trio.sleep(0.4)
        assert not broker.connections
        assert await client.receive_raw_to_end() == b""


@each_version
async def test_a_slow_connect_in_time_is_as_good_as_any(version: int) -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await WireClient.open(broker, version)
        for octet in connect_of(version):
            await client.send_raw(bytes([octet]))
            await trio.sleep(0.2)
        assert (await client.receive()).packet_type.name == "CONNACK"
        await trio.sleep(100)
        await client.expect_alive()


async def test_those_who_only_hold_a_place_are_limited_and_give_it_back() -> None:
    """Half-open connections have a limit of their own; others may connect again when they are timed out."""
    limits = Limits(connect_timeout_seconds=10, unauthenticated_max=5)
    async with broker_over_tcp(limits=limits) as (broker, address):
        already = await WireClient.open_tcp(*address)
        await already.connect("already")
        loris = [await WireClient.open_tcp(*address) for _ in range(5)]
        for client in loris:
            await client.send_raw(b"\x10")
        await wait_all_tasks_blocked()
        refused = await WireClient.open_tcp(*address)
        assert await refused.receive_or_end() is None
        assert broker.counters.denials["limit: unauthenticated connections"] == 1
        await already.expect_alive()
        await trio.sleep(10.2)
        late = await WireClient.open_tcp(*address)
        await late.connect("late")
        for client in (already, refused, late, *loris):
            await client.aclose()


async def test_the_memory_of_a_connect_is_bounded_before_anybody_is_known() -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await WireClient.open(broker)
        await client.send_raw(b"\x10\xe3\x07" + bytes(990))  # 998 octets in all: waits for the rest
        await wait_all_tasks_blocked()
        assert len(only_task(broker).conn.tail) == 993
        await client.aclose()
        client = await WireClient.open(broker)
        await client.send_raw(b"\x10\xe6\x07")  # 1,001 octets: not worth waiting for
        assert await client.receive_or_end() is None
        assert not broker.connections


async def test_the_limit_of_a_connect_is_not_that_of_packets() -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await connected(broker, "client")
        await client.publish("t", bytes(40_000), qos=1)
        await client.expect_alive()


# ---- after CONNECT ----


@each_version
@pytest.mark.parametrize("length", [50_000, 268_435_455])
async def test_a_packet_that_is_too_large_is_refused_by_its_length(version: int, length: int) -> None:
    """Before any of its octets is kept."""
    async with broker_running(limits=LIMITS) as broker:
        client = await connected(broker, "client", version)
        await client.send_raw(b"\x30" + octets.varint(length))
        await client.expect_closed(ReasonCode.PACKET_TOO_LARGE)
        assert not broker.connections


@each_version
async def test_half_a_packet_is_kept_and_no_more(version: int) -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await connected(broker, "client", version)
        packet = encode(Publish("t", bytes(49_000)), ProtocolVersion(version))
        await client.send_raw(packet[:-1])
        await wait_all_tasks_blocked()
        assert len(only_task(broker).conn.tail) == len(packet) - 1 < LIMITS.packet_bytes_max
        await trio.sleep(1_000)  # without Keep Alive, for ever
        await client.send_raw(packet[-1:])
        await client.expect_alive()
        assert not only_task(broker).conn.tail


@each_version
async def test_octets_are_no_packets_for_keep_alive(version: int) -> None:
    """A client that sends an octet now and then, and never a whole packet, is as good as gone [MQTT-3.1.2-22]."""
    async with broker_running(limits=LIMITS) as broker:
        client = await connected(broker, "client", version, keep_alive=10)
        packet = encode(Publish("t", bytes(1_000)), ProtocolVersion(version))
        began = trio.current_time()
        for octet in packet:
            await client.send_raw(bytes([octet]))
            await trio.sleep(2)
            if not broker.connections:
                break
        assert 15 <= trio.current_time() - began <= 19
        await client.expect_closed(ReasonCode.KEEP_ALIVE_TIMEOUT)


async def test_keep_alive_counts_from_the_last_whole_packet() -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await connected(broker, "client", keep_alive=10)
        half = encode(Publish("t", b"x"), ProtocolVersion.MQTT_5)
        for _ in range(5):  # each time the end of one, and the beginning of another
            await client.send_raw(half[:3])
            await trio.sleep(8)
            await client.send_raw(half[3:])
            await client.expect_alive()
        await client.send_raw(half[:1])  # one octet: the length is not there yet
        await trio.sleep(8)
        await client.send_raw(half[1:2])
        await trio.sleep(6.8)
        assert broker.connections
        await trio.sleep(1)
        assert not broker.connections


async def test_a_large_packet_on_a_slow_line_is_alive_while_it_comes() -> None:
    async with broker_running(limits=LIMITS) as broker:
        client = await connected(broker, "client", keep_alive=10)
        packet = encode(Publish("t", bytes(45_000), 1, packet_identifier=1), ProtocolVersion.MQTT_5)
        for at in range(0, len(packet), KEEP_ALIVE_BYTES_PER_SECOND):
            await client.send_raw(packet[at : at + KEEP_ALIVE_BYTES_PER_SECOND])
            await trio.sleep(1)
        assert (await client.receive()).packet_type.name == "PUBACK"
        await client.send(Pingreq())
        assert await client.receive() == Pingresp()
