"""`opened` and `closed`: what a stage that follows connections can rely on, and what it cannot hold up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from acebroker_codec.errors import MqttError, ProtocolViolation
from acebroker_codec.packets import PacketType, Publish
from acebroker_middleware.connection import Connection
from acebroker_middleware.errors import ClientDisconnected, NotAuthorized, SessionTakenOver
from acebroker_middleware.stage import Batch
from tests.broker.storage.waiting import WaitingStore
from tests.harness import WireClient, broker_running, connected, make, make_will, run_in_virtual_time, under_test
from trio_acebroker import CloseReason, Limits

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    under_test.choose(request.param)
    yield
    under_test.choose("raw")


class Following:
    """A stage that notes what it is told. Tests give it `child`, started for each connection, and `at_end`."""

    wants: frozenset[PacketType] = frozenset()

    def __init__(self, name: str = "following") -> None:
        self.name = name
        self.events: list[str] = []
        self.reasons: list[MqttError | None] = []
        self.child: Any = None
        self.at_end: Any = None
        self.over = trio.Event()

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        self.events.append(f"opened {conn.client_identifier}")
        if self.child is not None:
            nursery.start_soon(self._watched, conn, nursery)

    async def _watched(self, conn: Connection, nursery: trio.Nursery) -> None:
        try:
            await self.child(conn, nursery)
        finally:
            self.events.append(f"child of {conn.client_identifier} ended")

    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        self.events.append(f"closed {conn.client_identifier}")
        self.reasons.append(reason.error)
        self.over.set()
        if self.at_end is not None:
            await self.at_end(conn)


async def for_ever(conn: Connection, nursery: trio.Nursery) -> None:
    await trio.sleep_forever()


async def ended(stage: Following) -> None:
    """Return when `closed` was called."""
    with trio.fail_after(5):
        await stage.over.wait()


# --- when --------------------------------------------------------------------------------------


async def test_from_connack_to_the_end() -> None:
    """CONNACK was queued before `opened`; children end before `closed` begins."""
    stage = Following()
    stage.child = for_ever
    async with broker_running(stages=[stage]) as broker:
        client = await connected(broker, "client")
        await client.expect_alive()
        assert stage.events == ["opened client"]
        await client.disconnect()
        await ended(stage)
    assert stage.events == ["opened client", "child of client ended", "closed client"]


async def test_who_never_got_in_is_not_followed() -> None:
    stage = Following()
    async with broker_running(stages=[stage]) as broker:
        refused = await WireClient.open(broker)
        assert (await refused.attempt_connect("refused", will=make_will("$not/allowed"))).reason_code == 0x87
        await refused.expect_closed()
        silent = await WireClient.open(broker)
        await silent.aclose()
        await trio.sleep(20)
    assert stage.events == []


async def test_stages_are_asked_in_their_order() -> None:
    order: list[str] = []
    first, second = Following("first"), Following("second")
    first.events = second.events = order
    async with broker_running(stages=[first, (second, "decode")]) as broker:
        client = await connected(broker, "client")
        await client.disconnect()
        await ended(first)
    assert [stage.name for stage in broker.lifecycle] == ["second", "first"]
    assert order == ["opened client"] * 2 + ["closed client"] * 2


@pytest.mark.parametrize("how", ["disconnect", "cut", "violation", "takeover", "keep alive", "from outside"])
async def test_the_reason(how: str) -> None:
    stage = Following()
    async with broker_running(stages=[stage]) as broker:
        client = await connected(broker, "client", keep_alive=10)
        match how:
            case "disconnect":
                await client.disconnect(0x04)
            case "cut":
                await client.aclose()
            case "violation":
                await client.send_raw(b"\xff\0")
                await client.expect_closed({0x81, 0x82})
            case "takeover":
                await connected(broker, "client")
                await client.expect_closed(0x8E)
            case "keep alive":
                await trio.sleep(16)
                await client.expect_closed(0x8D)
            case "from outside":
                state = broker.session.sessions["client"]
                assert state.connection is not None
                state.connection.end(NotAuthorized("rights were taken away"))
                await client.expect_closed(0x87)
        await ended(stage)
        error = stage.reasons[0]
        text = str(CloseReason(error))
    match how:
        case "disconnect":
            assert isinstance(error, ClientDisconnected)
            assert error.reason_code == 0x04
        case "cut":
            assert error is None
            assert text == "connection lost"
        case "violation":
            assert error is not None
            assert error.reason_code in (0x81, 0x82)
        case "takeover":
            assert isinstance(error, SessionTakenOver)
        case "keep alive":
            assert text == "nothing came for 15 seconds (0x8d)"
        case "from outside":
            assert text == "rights were taken away (0x87)"


# --- what the end does not wait for --------------------------------------------------------------


async def test_session_and_will_are_decided_before_closed_awaits_anything() -> None:
    """`closed` takes its time: the Will is out, the session is free, and the same client is back meanwhile."""
    stage = Following()
    slow = trio.Event()

    async def wait(conn: Connection) -> None:
        await slow.wait()

    stage.at_end = wait
    async with broker_running(stages=[stage]) as broker:
        watcher = await connected(broker, "watcher")
        await watcher.subscribe("will")
        client = await connected(broker, "client", will=make_will("will", b"gone"), session_expiry_interval=100)
        await client.subscribe("t", qos=1)
        began = trio.current_time()
        await client.aclose()
        await watcher.expect_message("will", b"gone")
        again = await WireClient.open(broker)
        connack = await again.connect("client", clean_start=False, session_expiry_interval=100)
        assert connack.session_present
        await watcher.publish("t", b"x", qos=1)
        await again.expect_message("t", b"x")
        assert trio.current_time() - began < 0.9
        assert stage.events.count("closed client") == 1
        slow.set()


@pytest.mark.parametrize("shielded", [False, True])
async def test_closed_has_a_second(shielded: bool) -> None:
    """All stages together, shielded from the cancellation that may have ended the connection."""
    first, second = Following("first"), Following("second")
    cut: list[float] = []

    async def wait(conn: Connection) -> None:
        began = trio.current_time()
        try:
            with trio.CancelScope(shield=shielded, deadline=began + (0.5 if shielded else 60)):
                await trio.sleep_forever()
            await trio.sleep_forever()
        finally:
            cut.append(trio.current_time() - began)

    first.at_end = wait
    async with broker_running(stages=[first, second]) as broker:
        client = await connected(broker, "client")
        await client.send(make(Publish, topic="t"))
        await client.disconnect()
        await trio.sleep(2)
        assert cut == [pytest.approx(1.0, abs=0.01)]
        assert second.events == ["opened client"], "nothing was left of the second"
        assert broker.connections == set()


@pytest.mark.parametrize("drain_seconds_max", [5.0, 0.0])
async def test_the_end_of_the_broker_gives_closed_its_second(drain_seconds_max: float) -> None:
    """Shielded from it, however little time there is for octets."""
    stage = Following()
    finished: list[str] = []

    async def clean_up(conn: Connection) -> None:
        await trio.sleep(0.9)
        finished.append(conn.client_identifier)

    stage.at_end = clean_up
    async with broker_running(stages=[stage], limits=Limits(drain_seconds_max=drain_seconds_max)) as broker:
        for name in ("a", "b", "c"):
            await connected(broker, name)
        began = trio.current_time()
    assert sorted(finished) == ["a", "b", "c"]
    assert trio.current_time() - began == pytest.approx(0.9, abs=0.05), "all at the same time"


async def test_closed_may_publish_though_the_broker_ends() -> None:
    """What a stage has to say of who has gone still goes where it can: here into the store."""
    stage = Following()
    store = WaitingStore()

    async def say(conn: Connection) -> None:
        await broker.publish("gone", conn.client_identifier.encode(), qos=1)

    async with broker_running(stages=[stage], store=store) as broker:
        watcher = await connected(broker, "watcher", session_expiry_interval=100)
        await watcher.subscribe("gone", qos=1)
        stage.at_end = say
        await connected(broker, "other")
    (kept,) = store.inner.sessions()
    epoch = store.inner.claim("watcher", kept.identity, clean_start=False).epoch
    rows = store.inner.read("watcher", epoch, 0, 10)
    assert sorted(row.delivery.message.payload for row in rows) == [b"other", b"watcher"]


# --- children ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["one", "two", "in a nursery of its own"])
async def test_a_child_that_fails_ends_its_connection(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """0x83, whatever group the exceptions come in; it is logged, and nobody else hears of it."""
    stage = Following()
    fail = trio.Event()

    async def failing(conn: Connection, nursery: trio.Nursery) -> None:
        await fail.wait()
        raise LookupError("first")

    async def also_failing(conn: Connection, nursery: trio.Nursery) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("second")

    async def child(conn: Connection, nursery: trio.Nursery) -> None:
        if conn.client_identifier != "client":
            await trio.sleep_forever()
        if how == "one":
            await failing(conn, nursery)
        elif how == "two":
            nursery.start_soon(also_failing, conn, nursery)
            await failing(conn, nursery)
        else:
            async with trio.open_nursery() as own:
                own.start_soon(failing, conn, own)
                own.start_soon(also_failing, conn, own)

    stage.child = child
    async with broker_running(stages=[stage]) as broker:
        other = await connected(broker, "other")
        client = await connected(broker, "client")
        await client.expect_alive()
        with caplog.at_level(logging.ERROR, "trio_acebroker"):
            fail.set()
            await client.expect_closed(0x83)
        await ended(stage)
        await other.expect_alive()
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "a task of a stage failed"
    logged = caplog.text
    assert "LookupError: first" in logged
    assert ("ValueError: second" in logged) == (how != "one")


async def test_a_child_may_end_its_connection_in_order() -> None:
    """By `conn.end`, with the reason that the client is told."""
    stage = Following()

    async def child(conn: Connection, nursery: trio.Nursery) -> None:
        await trio.sleep(5)
        conn.end(ProtocolViolation("that was long enough"))
        await trio.sleep_forever()

    stage.child = child
    async with broker_running(stages=[stage]) as broker:
        client = await connected(broker, "client")
        await client.expect_silence(4.9)
        await client.expect_closed(0x82)
        await ended(stage)
    assert stage.events[-2:] == ["child of client ended", "closed client"]


async def test_children_die_with_a_connection_in_a_hand_off() -> None:
    class Waits:
        name = "waits"
        wants = frozenset({PacketType.PUBLISH})

        async def on_batch(self, conn: Connection, batch: Batch) -> Batch:
            await trio.sleep_forever()
            return batch

    stage = Following()
    stage.child = for_ever
    async with broker_running(stages=[stage, Waits()]) as broker:
        client = await connected(broker, "client")
        await client.publish("t", b"")
        await client.expect_silence()
        later = await connected(broker, "client")
        await client.expect_closed(0x8E)
        await ended(stage)
        assert [event for event in stage.events if event != "opened client"] == [
            "child of client ended",
            "closed client",
        ]
        await later.expect_alive()


async def test_what_comes_behind_connect_waits_for_opened() -> None:
    """`opened` may prepare what the stage needs for packets; they are read when it is done, or by its deadline."""
    seen: list[str] = []

    class Prepares(Following):
        wants = frozenset({PacketType.PUBLISH})

        async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
            await trio.sleep(3)
            seen.append("prepared")

        def on_batch(self, conn: Connection, batch: Batch) -> Batch:
            seen.append("packets")
            return batch

    async with broker_running(stages=[Prepares()]) as broker:
        client = await WireClient.open(broker)
        await client.connect("client")
        await client.publish("t", b"")
        await client.expect_alive()
        assert seen == ["prepared", "packets"]
