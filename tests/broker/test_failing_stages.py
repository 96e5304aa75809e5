"""A stage that raises, in each place where it can: it costs one connection, is logged by name, and harms nobody else.

On the way in, that is the connection of the client whose packets it was given; on the way out, that of the
subscriber - never the publisher's, whose message is delivered to everybody else and acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import PacketType, Pingreq, Puback, Pubcomp, Publish, Pubrec, Pubrel
from acebroker_middleware.connection import CloseReason, Connection
from acebroker_middleware.errors import QuotaExceeded
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.message import Message
from tests.harness import WireClient, broker_running, connected, make_will, run_in_virtual_time, under_test
from trio_acebroker import Broker

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    """`raw` in memory, `pump` over TCP: what `broker_running` uses."""
    under_test.choose(request.param)
    yield
    under_test.choose("raw")


each_version = pytest.mark.parametrize("version", [3, 4, 5])
each_qos = pytest.mark.parametrize("qos", [0, 1, 2])


class Broken(Exception):
    """What no stage should raise."""


class Stage:
    """Wants PUBLISH, has nothing against any; the stages below break one method each, for topics with `bad`."""

    name = "fragile"
    wants = frozenset({PacketType.PUBLISH})

    def on_batch(self, conn: Connection, batch: Batch) -> Any:
        return batch


class OnBatch(Stage):
    def on_batch(self, conn: Connection, batch: Batch) -> Any:
        if any(isinstance(packet, Publish) and "bad" in packet.topic for packet in batch):
            raise Broken
        return batch


class OnBatchLater(Stage):
    async def on_batch(self, conn: Connection, batch: Batch) -> Any:
        await trio.lowlevel.checkpoint()
        return OnBatch.on_batch(self, conn, batch)


class OnBatchForEver(Stage):
    async def on_batch(self, conn: Connection, batch: Batch) -> Any:
        if conn.client_identifier == "client" and conn.connected:
            await trio.sleep_forever()
        return batch


class OnBatchGivesNothing(Stage):
    def on_batch(self, conn: Connection, batch: Batch) -> Any:
        return None if any("bad" in getattr(packet, "topic", "") for packet in batch) else batch


class Plan(Stage):
    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        if "bad" in flow.topic:
            raise Broken
        return Verdict.PASS


class PlanGivesNothing(Stage):
    def plan(self, conn: Connection, flow: FlowKey) -> Any:
        return None if "bad" in flow.topic else Verdict.PASS


class OnRun(Stage):
    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.PASS

    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> int:
        if "bad" in flow.topic:
            raise Broken
        return count


class OnRunGivesNothing(OnRun):
    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> Any:
        return None if "bad" in flow.topic else count


class Delivering:
    """A stage that looks at what goes out only. It breaks for the client `fragile`."""

    name = "fragile"
    wants: frozenset[PacketType] = frozenset()

    def __init__(self, error: type[Exception] = Broken) -> None:
        self.error = error

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    def on_deliver(self, conn: Connection, batch: list[Message]) -> Any:
        return batch

    def breaks(self, conn: Connection, topic: str) -> bool:
        return conn.client_identifier == "fragile" and "bad" in topic


class OnDeliver(Delivering):
    def on_deliver(self, conn: Connection, batch: list[Message]) -> Any:
        if self.breaks(conn, batch[0].topic):
            raise self.error
        return batch


class OnDeliverGivesNoMessage(Delivering):
    def on_deliver(self, conn: Connection, batch: list[Message]) -> Any:
        return ["nonsense"] if self.breaks(conn, batch[0].topic) else batch


class PlanDeliver(Delivering):
    def plan_deliver(self, conn: Connection, flow: FlowKey) -> Any:
        if self.breaks(conn, flow.topic):
            raise self.error
        return Verdict.PASS


class PlanDeliverGivesNothing(Delivering):
    def plan_deliver(self, conn: Connection, flow: FlowKey) -> Any:
        return None if self.breaks(conn, flow.topic) else Verdict.PASS


INWARDS = [OnBatch, OnBatchLater, OnBatchGivesNothing, Plan, PlanGivesNothing, OnRun, OnRunGivesNothing]
OUTWARDS = [OnDeliver, OnDeliverGivesNoMessage, PlanDeliver, PlanDeliverGivesNothing]


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an error; what was raised is there with its traceback."""
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert all(record.exc_info for record in records if "too long" not in record.getMessage())
    return [record.getMessage() for record in records]


@asynccontextmanager
async def bystanders(broker: Broker) -> AsyncIterator[None]:
    """Two clients between which messages of every QoS flow after the block as before it."""
    subscriber = await connected(broker, "bystander-subscriber")
    await subscriber.subscribe("by/#", qos=2)
    publisher = await connected(broker, "bystander-publisher")

    async def exchange() -> None:
        for qos in (0, 1, 2):
            await publisher.publish("by/standers", b"%d" % qos, qos=qos)
            await subscriber.expect_message("by/standers", b"%d" % qos, qos=qos)

    await exchange()
    yield
    await exchange()
    await subscriber.expect_alive()
    await publisher.expect_alive()


# ---- on the way in ----


@pytest.mark.parametrize("stage", INWARDS)
@each_version
async def test_a_stage_that_fails_inwards_ends_the_client_that_it_failed_for(
    caplog: pytest.LogCaptureFixture, stage: type[Stage], version: int
) -> None:
    async with broker_running(stages=[stage()]) as broker, bystanders(broker):
        client = await connected(broker, "client", version)
        await client.publish("good", b"x")
        await client.expect_alive()
        await client.send(Publish("bad", b"x"), Pingreq())
        await client.expect_closed(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
        assert len(broker.connections) == 2
    assert failures(caplog) == ["stage fragile failed"]


@each_version
async def test_a_stage_that_never_answers_is_named(caplog: pytest.LogCaptureFixture, version: int) -> None:
    limits = Limits(hand_off_seconds_max=7)
    async with broker_running(stages=[OnBatchForEver()], limits=limits) as broker, bystanders(broker):
        client = await connected(broker, "client", version)
        await client.send(Publish("good", b"x"))
        await trio.sleep(limits.hand_off_seconds_max + 0.1)
        await client.expect_closed(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
    assert failures(caplog) == ["stage fragile took too long"]


@each_qos
async def test_what_came_before_the_failure_of_a_decision_is_handled(qos: int) -> None:
    async with broker_running(stages=[OnRun()]) as broker:
        subscriber = await connected(broker, "subscriber")
        await subscriber.subscribe("#")
        client = await connected(broker, "client")
        await client.publish("good", b"1", qos=qos)
        await client.send(Publish("good", b"2"), Publish("bad", b"3"))
        await client.expect_closed(0x83)
        await subscriber.expect_message("good", b"1")
        await subscriber.expect_message("good", b"2")
        await subscriber.expect_alive()


# ---- on the way out ----


@pytest.mark.parametrize("stage", OUTWARDS)
@each_qos
@each_version
async def test_a_stage_that_fails_outwards_ends_the_subscriber_and_not_the_publisher(
    caplog: pytest.LogCaptureFixture, stage: type[Delivering], qos: int, version: int
) -> None:
    async with broker_running(stages=[stage()]) as broker, bystanders(broker):
        fragile = await connected(broker, "fragile", version)
        await fragile.subscribe("#", qos=qos)
        sound = await connected(broker, "sound", version)
        await sound.subscribe("#", qos=qos)
        publisher = await connected(broker, "publisher", version)
        await publisher.publish("good", b"1", qos=qos)
        await fragile.expect_message("good", b"1")
        ack = await publisher.publish("bad", b"2", qos=qos)
        assert ack is None or ack.reason_code == 0
        await fragile.expect_closed(0x83)
        await publisher.publish("good", b"3", qos=qos)
        await publisher.expect_alive()
        for payload in (b"1", b"2", b"3"):
            await sound.expect_message("bad" if payload == b"2" else "good", payload)
        await sound.expect_alive()
        assert len(broker.connections) == 4
    assert failures(caplog)
    assert set(failures(caplog)) == {"stage fragile failed"}


@pytest.mark.parametrize("stage", OUTWARDS)
async def test_a_subscriber_that_publishes_to_itself_is_ended_too(stage: type[Delivering]) -> None:
    async with broker_running(stages=[stage()]) as broker, bystanders(broker):
        fragile = await connected(broker, "fragile")
        await fragile.subscribe("#", qos=1)
        await fragile.send(Publish("bad", b"x", 1, packet_identifier=7))
        assert await fragile.receive() == Puback(7)
        await fragile.expect_closed(0x83)


@pytest.mark.parametrize("stage", [OnDeliver, PlanDeliver])
async def test_an_error_with_a_reason_code_is_what_the_subscriber_is_told(stage: type[Delivering]) -> None:
    async with broker_running(stages=[stage(QuotaExceeded)]) as broker, bystanders(broker):
        fragile = await connected(broker, "fragile")
        await fragile.subscribe("#")
        await broker.publish("bad", b"x")
        await fragile.expect_closed(ReasonCode.QUOTA_EXCEEDED)


@pytest.mark.parametrize("stage", OUTWARDS)
async def test_no_way_out_is_without_guard(caplog: pytest.LogCaptureFixture, stage: type[Delivering]) -> None:
    """Shared subscriptions, retained messages, Wills, messages of the program itself, and a queue that is resumed."""
    async with broker_running(stages=[stage()]) as broker, bystanders(broker):

        async def fragile(*filters: str, **fields: Any) -> WireClient:
            client = await connected(broker, "fragile", session_expiry_interval=100, **fields)
            if filters:
                await client.subscribe(*filters, qos=1)
            return client

        client = await fragile("$share/group/#", clean_start=True)
        publisher = await connected(broker, "publisher", will=make_will("bad/will", b"w", 1))
        await publisher.publish("bad/shared", b"x", qos=1)
        await publisher.expect_alive()
        # `choose` passes over a member whose stage fails; its connection ends all the same
        await client.expect_closed(0x83)

        client = await fragile(clean_start=True)
        await publisher.publish("bad/retained", b"x", qos=1, retain=True)
        await client.send_raw(bytes.fromhex("8207000100000123 01".replace(" ", "")))  # SUBSCRIBE to #
        assert (await client.receive()).packet_type is PacketType.SUBACK
        await client.expect_closed(0x83)

        client = await fragile("bad/will", clean_start=True)
        await publisher.aclose()
        await client.expect_closed(0x83)

        client = await fragile("bad/own", clean_start=True)
        assert await broker.publish("bad/own", b"x", qos=1) == 1
        await client.expect_closed(0x83)

        client = await fragile("bad/own", clean_start=True)
        await client.aclose()
        await wait_all_tasks_blocked()
        assert await broker.publish("bad/own", b"x", qos=1) == 1
        client = await fragile(clean_start=False)
        await client.expect_closed(0x83)
    assert set(failures(caplog)) == {"stage fragile failed"}


async def test_what_comes_behind_a_failure_waits_in_the_session() -> None:
    """Only the message that the stage raised for is lost."""
    async with broker_running(stages=[OnDeliver()]) as broker:
        fragile = await connected(broker, "fragile", session_expiry_interval=100)
        await fragile.subscribe("#", qos=2)
        publisher = await connected(broker, "publisher")
        messages = [
            Publish("good", b"1", 1),
            Publish("bad", b"2", 2),
            Publish("good", b"3", 1),
            Publish("good", b"4", 2),
        ]
        for number, message in enumerate(messages, 1):
            message = Publish(message.topic, message.payload, message.qos, packet_identifier=number)
            await publisher.send(message)
        await publisher.send(Pubrel(2), Pubrel(4))
        assert {type(packet) for packet in await publisher.drain()} == {Puback, Pubrec, Pubcomp}
        assert await fragile.receive()
        fragile = await connected(broker, "fragile", session_expiry_interval=100, clean_start=False)
        received = [packet for packet in await fragile.drain() if isinstance(packet, Publish)]
        assert {(packet.topic, packet.payload) for packet in received} == {
            ("good", b"1"),
            ("good", b"3"),
            ("good", b"4"),
        }


# ---- the life of a connection ----


class Opened(Stage):
    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        if conn.client_identifier == "fragile":
            raise Broken


class OpenedForEver(Stage):
    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        if conn.client_identifier == "fragile":
            await trio.sleep_forever()


class Child(Stage):
    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        if conn.client_identifier == "fragile":
            nursery.start_soon(self.child)

    async def child(self) -> None:
        await trio.sleep(1)
        raise Broken


class Closed(Stage):
    """It comes after another one in the list, which is asked all the same."""

    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        if conn.client_identifier == "fragile":
            raise Broken


class ClosedForEver(Stage):
    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        if conn.client_identifier == "fragile":
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("stage", "logged"),
    [
        (Opened, ["stage fragile failed"]),
        (OpenedForEver, ["stage fragile took too long"]),
        (Child, ["a task of a stage failed"]),
    ],
)
async def test_a_stage_that_fails_at_the_beginning(
    caplog: pytest.LogCaptureFixture, stage: type[Stage], logged: list[str]
) -> None:
    limits = Limits(hand_off_seconds_max=7)
    async with broker_running(stages=[stage()], limits=limits) as broker, bystanders(broker):
        client = await connected(broker, "fragile")
        await trio.sleep(limits.hand_off_seconds_max + 0.1)
        await client.expect_closed(0x83)
        assert len(broker.connections) == 2
    assert failures(caplog) == logged


@pytest.mark.parametrize(("stage", "logged"), [(Closed, ["stage fragile failed in closed"]), (ClosedForEver, [])])
async def test_a_stage_that_fails_at_the_end(
    caplog: pytest.LogCaptureFixture, stage: type[Stage], logged: list[str]
) -> None:
    async with broker_running(stages=[stage()]) as broker, bystanders(broker):
        client = await connected(broker, "fragile")
        await client.disconnect()
        assert len(broker.connections) == 2
        await connected(broker, "fragile")
    assert failures(caplog) == logged * 2
