"""The recording Connection: it shows what a stage does, and what a stage forgets."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import trio

import trio_acebroker.testing
from acebroker_codec.errors import MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    Packet,
    PacketType,
    Pingreq,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
)
from acebroker_middleware.acl import AclAuthority, AclRules
from acebroker_middleware.connection import Connection, DeniedPublish, Round
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.observe import Counters
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.testing import RecordingConnection, Refusal, SetClock

PUBLISH = frozenset({PacketType.PUBLISH})


class Does:
    """A stage that does what a function says."""

    name = "does"
    wants = PUBLISH

    def __init__(self, function: Any) -> None:
        self._function = function

    def on_batch(self, conn: Connection, batch: Batch) -> Any:
        return self._function(conn, batch)


def same(conn: Connection, batch: Batch) -> Batch:
    return batch


def publish(qos: int = 0, packet_identifier: int = 0) -> Publish:
    return Publish("t", b"x", qos, packet_identifier=packet_identifier)


# ---- what a connection is ----


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_connected_client(version: int) -> None:
    conn = RecordingConnection(version)
    assert (conn.version, conn.v5, conn.connected) == (version, version == 5, True)
    assert conn.identity == Identity("anonymous", "client")
    assert conn.session is not None
    assert (conn.session.client_identifier, conn.session.connection) == ("client", conn)
    assert conn.authority is not None
    assert conn.authority.permits_publish("t").allowed
    assert not conn.authority.permits_publish("$SYS/t").allowed


def test_everything_can_be_chosen() -> None:
    rights = AclAuthority(AclRules.parse("topic read a", "acl"), None, "ann's")
    conn = RecordingConnection(
        client_identifier="ann's",
        identity=Identity("user", "ann"),
        authority=rights,
        limits=Limits(topic_alias_max=3),
        peer="[::1]:9",
        denied_publish=DeniedPublish.DISCONNECT,
    )
    assert conn.client_identifier == "ann's"
    assert (conn.identity, conn.authority) == (Identity("user", "ann"), rights)
    assert conn.round.limits.topic_alias_max == conn.receiving_aliases.maximum == 3
    assert (conn.peer, conn.denied_publish) == ("[::1]:9", DeniedPublish.DISCONNECT)


def test_before_connack() -> None:
    conn = RecordingConnection(connected=False)
    assert not conn.connected
    assert (conn.session, conn.identity, conn.authority) == (None, None, None)


def test_clients_of_one_broker() -> None:
    conn = RecordingConnection()
    other = RecordingConnection(client_identifier="other", round_=conn.round)
    conn.clock.advance(5)
    assert other.clock.now == 1_005
    assert other.clock.wall == SetClock().wall + 5

    class Fixed:
        now = wall = 0.0

    with pytest.raises(TypeError):
        RecordingConnection(round_=Round(Fixed(), Limits(), Counters()))


def test_the_end_is_remembered() -> None:
    conn = RecordingConnection()
    assert conn.ended is None
    first = ProtocolViolation("first")
    conn.end(first)
    conn.end(ProtocolViolation("second"))
    assert conn.ended is first


# ---- what is written ----


def test_written_packets_are_shown_once() -> None:
    conn = RecordingConnection()
    conn.send(Puback(1))
    conn.send(Suback(2, (0, 0x87)))
    assert conn.round.dirty == [conn]
    assert conn.written() == [Puback(1), Suback(2, (0, 0x87))]
    assert conn.written() == []
    assert (conn.round.dirty, conn.dirty, conn.out_octets) == ([], False, 0)
    conn.send(Pubrec(3))
    assert conn.written() == [Pubrec(3)]


def test_what_is_no_packet_for_a_client_is_seen() -> None:
    conn = RecordingConnection()
    conn.write(b"\xc0\0")  # PINGREQ, which only clients send
    with pytest.raises(AssertionError, match="PINGREQ"):
        conn.written()


# ---- on_batch ----


def test_what_passes() -> None:
    conn = RecordingConnection()
    packets = [publish(), Pingreq(), publish(1, 7)]
    fed = conn.feed(Does(same), *packets)
    assert (fed.passed, fed.error, fed.wrote, fed.refused) == (packets, None, [], [])
    assert conn.feed(Does(lambda conn, batch: batch[1:]), publish(), Pingreq()).passed == [Pingreq()]


def test_a_stage_is_not_shown_what_it_does_not_want() -> None:
    conn = RecordingConnection()
    assert conn.feed(Does(lambda conn, batch: []), Pingreq(), Pubrel(4)).passed == [Pingreq(), Pubrel(4)]


def test_refusals_of_one_batch_and_of_all() -> None:
    def refuse(conn: Connection, batch: Batch) -> Batch:
        for packet in batch:
            assert isinstance(packet, Packet)
            conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, "too much")
        return []

    conn = RecordingConnection()
    first, second = publish(1, 7), publish(2, 8)
    fed = conn.feed(Does(refuse), first, second)
    code = ReasonCode.QUOTA_EXCEEDED
    assert fed.refused == [Refusal(first, code, "too much"), Refusal(second, code, "too much")]
    assert fed.wrote == [Puback(7, code), Pubrec(8, code)]
    assert conn.feed(Does(refuse), publish()).refused == [Refusal(publish(), code, "too much")]
    assert len(conn.refusals) == 3
    assert conn.round.counters.denials == {"too much": 3}


def test_the_refusal_of_one_filter() -> None:
    class Picky:
        name = "picky"
        wants = frozenset({PacketType.SUBSCRIBE})

        def on_batch(self, conn: Connection, batch: Batch) -> Batch:
            conn.refuse(batch[0], ReasonCode.NOT_AUTHORIZED, "rule", 1)  # type: ignore[arg-type]
            return batch

    subscribe = Subscribe(3, (SubscriptionRequest("a"), SubscriptionRequest("b")))
    conn = RecordingConnection()
    fed = conn.feed(Picky(), subscribe)
    assert fed.passed == [subscribe]
    assert fed.refused == [Refusal(subscribe, ReasonCode.NOT_AUTHORIZED, "rule", 1)]


def test_errors_put_in_place_and_raised() -> None:
    error = ProtocolViolation("no")

    def raise_it(conn: Connection, batch: Batch) -> Batch:
        raise error

    conn = RecordingConnection()
    fed = conn.feed(Does(lambda conn, batch: [batch[0], error]), publish(), publish(1, 7))
    assert (fed.passed, fed.error) == ([publish()], error)
    fed = conn.feed(Does(raise_it), publish(), publish(1, 7))
    assert (fed.passed, fed.error) == ([], error)
    # what the decoder found last goes through
    fed = conn.feed(Does(same), publish(), error)
    assert (fed.passed, fed.error) == ([publish()], error)


def test_any_other_exception_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        RecordingConnection().feed(Does(lambda conn, batch: 1 // 0), publish())


def test_an_error_in_the_middle_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="before other packets"):
        RecordingConnection().feed(Does(lambda conn, batch: [MqttError(), *batch]), publish())


@pytest.mark.parametrize("packet", [publish(1, 7), publish(2, 7), Pubrel(7)], ids=repr)
def test_a_forgotten_acknowledgement_is_seen(packet: Packet) -> None:
    stage = Does(lambda conn, batch: [])
    stage.wants = frozenset(PacketType)
    with pytest.raises(AssertionError, match="never leaves"):
        RecordingConnection().feed(stage, packet)
    assert RecordingConnection().feed(stage, publish()).passed == []
    # another packet of that identifier may go on in its place
    stage = Does(lambda conn, batch: [publish(packet_identifier=7, qos=2)])
    stage.wants = frozenset(PacketType)
    RecordingConnection().feed(stage, packet)


# ---- awaitables ----


class Ready:
    """An awaitable that is no coroutine."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __await__(self) -> Generator[None, None, Batch]:
        return self._batch
        yield


async def at_once(conn: Connection, batch: Batch) -> Batch:
    return batch


async def later(conn: Connection, batch: Batch) -> Batch:
    await trio.lowlevel.checkpoint()
    return batch


async def failing(conn: Connection, batch: Batch) -> Batch:
    raise ProtocolViolation("no")


@pytest.mark.parametrize("function", [at_once, lambda conn, batch: Ready(batch)], ids=["coroutine", "awaitable"])
def test_an_awaitable_that_does_not_wait(function: Any) -> None:
    assert RecordingConnection().feed(Does(function), publish()).passed == [publish()]


def test_an_awaitable_that_waits_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="feed_async"):
        RecordingConnection().feed(Does(later), publish())


@pytest.mark.parametrize("function", [same, at_once, later])
async def test_inside_trio_everything_can_be_fed(function: Any) -> None:
    fed = await RecordingConnection().feed_async(Does(function), publish())
    assert fed.passed == [publish()]


async def test_an_awaitable_that_fails() -> None:
    for fed in (
        RecordingConnection().feed(Does(failing), publish()),
        await RecordingConnection().feed_async(Does(failing), publish()),
    ):
        assert fed.passed == []
        assert isinstance(fed.error, ProtocolViolation)


async def test_a_forgotten_acknowledgement_is_seen_inside_trio_too() -> None:
    async def drop(conn: Connection, batch: Batch) -> Batch:
        return []

    with pytest.raises(AssertionError, match="never leaves"):
        await RecordingConnection().feed_async(Does(drop), publish(1, 7))


# ---- flows and deliveries ----


class Planned:
    """Decides by the first letter of a topic."""

    name = "planned"
    wants = PUBLISH

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return {"p": Verdict.PASS, "d": Verdict.DENY, "i": Verdict.INSPECT}[flow.topic[0]]

    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> int:
        return count // 2

    plan_deliver = plan

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        return [message for message in batch if message.payload]


class DeliverOnly:
    """Sees what goes out, and nothing that comes in."""

    name = "deliver-only"
    wants: frozenset[PacketType] = frozenset()

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        raise NotImplementedError

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        return []


def test_plans_and_runs() -> None:
    conn = RecordingConnection()
    stage = Planned()
    assert [conn.plan(stage, topic) for topic in ("p", "d", "i")] == list(Verdict)
    assert conn.run(stage, "p", 5, 50) == 2
    assert conn.plan(Does(same), "t") is Verdict.INSPECT
    assert conn.run(Does(same), "t", 5, 50) == 5
    assert conn.plan(DeliverOnly(), "t") is Verdict.PASS


def test_deliveries() -> None:
    conn = RecordingConnection()
    messages = [Message(topic, payload) for topic in ("p", "d", "i") for payload in (b"", b"x")]
    assert conn.deliver(Planned(), *messages) == [Message("p", b""), Message("p", b"x"), Message("i", b"x")]
    assert [conn.plan_deliver(Planned(), topic) for topic in ("p", "d", "i")] == list(Verdict)
    assert conn.deliver(DeliverOnly(), Message("t", b"x")) == []
    assert conn.plan_deliver(DeliverOnly(), "t") is Verdict.INSPECT
    assert conn.deliver(Does(same), Message("t", b"x")) == [Message("t", b"x")]
    assert conn.plan_deliver(Does(same), "t") is Verdict.PASS


# ---- public ----


def test_public_names() -> None:
    assert trio_acebroker.testing.RecordingConnection is RecordingConnection
    assert list(trio_acebroker.testing.__all__) == sorted(trio_acebroker.testing.__all__)
    assert not [name for name in trio_acebroker.testing.__all__ if not hasattr(trio_acebroker.testing, name)]
