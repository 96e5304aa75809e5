"""Stages of one function: what they are shown, and that what they drop is answered."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import PacketType, Pingreq, Puback, Pubcomp, Publish, Pubrec
from acebroker_middleware.connection import Connection, DeniedPublish
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.stage import per_packet
from acebroker_middleware.testing import RecordingConnection


def publish(qos: int = 0, packet_identifier: int = 0) -> Publish:
    return Publish("t", b"x", qos, packet_identifier=packet_identifier)


def test_it_is_shown_what_it_wants() -> None:
    seen: list[Publish] = []

    @per_packet(PacketType.PUBLISH, name="noting")
    def note(conn: Connection, packet: Publish) -> Publish:
        seen.append(packet)
        return Publish("other", packet.payload)

    assert note.name == "noting"
    last = ProtocolViolation("what the decoder found")
    fed = RecordingConnection().feed(note, Pingreq(), publish(), last)
    assert seen == [publish()]
    assert (fed.passed, fed.error) == ([Pingreq(), Publish("other", b"x")], last)
    with pytest.raises(ValueError, match="packet type"):
        per_packet()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("raised", [ProtocolViolation("no"), ZeroDivisionError()], ids=repr)
def test_what_it_raises_ends_the_batch_in_place(raised: Exception, asynchronous: bool) -> None:
    def fail(conn: Connection, packet: Publish) -> Publish:
        if packet.qos:
            raise raised
        return packet

    async def fail_later(conn: Connection, packet: Publish) -> Publish:
        return fail(conn, packet)

    stage = per_packet(PacketType.PUBLISH, name="failing")(fail_later if asynchronous else fail)
    fed = RecordingConnection().feed(stage, publish(), publish(1, 7), publish())
    assert fed.passed == [publish()]
    if isinstance(raised, ProtocolViolation):
        assert fed.error is raised
    else:
        assert isinstance(fed.error, StageFailure)
        assert fed.error.detail == "stage failing failed"
        assert fed.error.__cause__ is raised


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_a_function_drops_is_answered(version: int, asynchronous: bool) -> None:
    """Its client would wait for ever, and so would every acknowledgement behind it."""

    def drop(conn: Connection, packet: Publish) -> Publish | None:
        return packet if packet.packet_identifier == 4 else None

    async def drop_later(conn: Connection, packet: Publish) -> Publish | None:
        return drop(conn, packet)

    stage = per_packet(PacketType.PUBLISH)(drop_later if asynchronous else drop)
    conn = RecordingConnection(version)
    fed = conn.feed(stage, publish(), publish(1, 1), publish(2, 2), publish(1, 4))
    code = ReasonCode.UNSPECIFIED_ERROR if version == 5 else 0
    assert fed.passed == [publish(1, 4)]
    assert fed.wrote == [Puback(1, code), Pubrec(2, code)]
    assert [refusal.rule for refusal in fed.refused] == [stage.name] * 2
    assert list(conn.ack_queue.puback.open) == [4]


def test_what_a_function_refused_is_not_answered_twice() -> None:
    @per_packet(PacketType.PUBLISH)
    def refuse(conn: Connection, packet: Publish) -> None:
        conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, "mine")

    conn = RecordingConnection()
    conn.ack_queue.puback.open.append(9)  # something before it is not decided yet
    fed = conn.feed(refuse, publish(1, 1), publish(2, 2))
    assert fed.wrote == [Pubrec(2, ReasonCode.QUOTA_EXCEEDED)]
    assert [refusal.rule for refusal in fed.refused] == ["mine", "mine"]
    conn.ack_queue.puback.fill(9)
    assert conn.written() == [Puback(9), Puback(1, ReasonCode.QUOTA_EXCEEDED)]


def test_dropping_may_end_an_mqtt_3_connection() -> None:
    @per_packet(PacketType.PUBLISH)
    def drop(conn: Connection, packet: Publish) -> None:
        return None

    @per_packet(PacketType.PUBLISH)
    async def drop_later(conn: Connection, packet: Publish) -> None:
        return None

    for stage in (drop, drop_later):
        conn = RecordingConnection(4, denied_publish=DeniedPublish.DISCONNECT)
        fed = conn.feed(stage, publish(), publish(1, 1), publish())
        assert fed.passed == []
        assert fed.error is not None
        assert fed.error.reason_code == ReasonCode.UNSPECIFIED_ERROR


def test_behind_the_session_stage_a_qos_2_message_stands_for_its_pubrel() -> None:
    """PUBREC went out at first receipt: a refusal can only end the handshake."""

    @per_packet(PacketType.PUBLISH)
    def drop(conn: Connection, packet: Publish) -> None:
        return None

    conn = RecordingConnection()
    conn.ack_queue.pubcomp.open.append(2)
    assert drop.on_batch(conn, [publish(2, 2)]) == []
    assert conn.written() == [Pubcomp(2)]


async def test_the_rest_of_a_batch_waits_for_a_function_that_waits() -> None:
    seen: list[int] = []

    @per_packet(PacketType.PUBLISH)
    async def note(conn: Connection, packet: Publish) -> Publish:
        await trio.lowlevel.checkpoint()
        seen.append(packet.packet_identifier)
        return packet

    conn = RecordingConnection()
    batch = [publish(1, 1), Pingreq(), publish(1, 2), publish(1, 3)]
    assert (await conn.feed_async(note, *batch)).passed == batch
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_full_read_of_small_packets_is_no_trouble_for_a_function_that_is_async(waiting: bool) -> None:
    """64 KiB hold more packets than Python has room for calls within calls."""

    @per_packet(PacketType.PUBLISH)
    async def passing(conn: Connection, packet: Publish) -> Publish:
        if waiting:
            await trio.lowlevel.checkpoint()
        return packet

    batch = [publish()] * 5_000
    assert (await RecordingConnection().feed_async(passing, *batch)).passed == batch
