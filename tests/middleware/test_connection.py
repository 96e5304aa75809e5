"""What a stage may do to a client: refuse each kind of packet, send, forget what was decided."""

from __future__ import annotations

import logging

import pytest

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import (
    Auth,
    Connect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from acebroker_middleware.connection import CloseReason, Connection, DeniedPublish, Round
from acebroker_middleware.errors import NotAuthorized, QuotaExceeded
from acebroker_middleware.observe import Counters
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.testing import RecordingConnection, SetClock

DENIED = ReasonCode.NOT_AUTHORIZED
TWO_FILTERS = (SubscriptionRequest("a"), SubscriptionRequest("b"))


def refused(conn: RecordingConnection, packet: Packet) -> list[Packet]:
    """What the client gets for a packet that was just decoded."""
    if isinstance(packet, Publish) and packet.qos:
        slots = conn.ack_queue.puback if packet.qos == 1 else conn.ack_queue.pubrec
        slots.open.append(packet.packet_identifier)
    elif isinstance(packet, Pubrel):
        conn.ack_queue.pubcomp.open.append(packet.packet_identifier)
    conn.refuse(packet, DENIED, "a rule")
    return conn.written()


@pytest.mark.parametrize(
    ("packet", "on_mqtt_5", "on_mqtt_3"),
    [
        (Publish("t"), [], []),
        (Publish("t", b"", 1, packet_identifier=7), [Puback(7, DENIED)], [Puback(7)]),
        (Publish("t", b"", 2, packet_identifier=7), [Pubrec(7, DENIED)], [Pubrec(7)]),
        (Pubrel(7), [Pubcomp(7, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)], [Pubcomp(7)]),
        (Subscribe(7, TWO_FILTERS), [Suback(7, (DENIED, DENIED))], [Suback(7, (0x80, 0x80))]),
        (Unsubscribe(7, ("a", "b")), [Unsuback(7, (DENIED, DENIED))], [Unsuback(7)]),
    ],
    ids=lambda value: value.packet_type.name if isinstance(value, Packet) else "",
)
def test_what_can_be_answered_is_answered(packet: Packet, on_mqtt_5: list[Packet], on_mqtt_3: list[Packet]) -> None:
    for version, expected in ((5, on_mqtt_5), (4, on_mqtt_3), (3, on_mqtt_3)):
        conn = RecordingConnection(version)
        assert refused(conn, packet) == expected
        assert conn.round.counters.denials == {"a rule": 1}
        assert not conn.unanswered(packet)


@pytest.mark.parametrize(
    "packet", [Auth(0x19), Connect("client"), Pingreq(), Puback(7)], ids=lambda packet: packet.packet_type.name
)
def test_what_cannot_be_answered_ends_the_connection(packet: Packet) -> None:
    with pytest.raises(MqttError) as caught:
        RecordingConnection().refuse(packet, DENIED, "a rule")
    assert caught.value.reason_code == DENIED
    assert "a rule" in caught.value.detail


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_refused_publish_may_end_an_mqtt_3_connection(qos: int) -> None:
    packet = Publish("t", b"", qos, packet_identifier=7 if qos else 0)
    with pytest.raises(NotAuthorized):
        refused(RecordingConnection(4, denied_publish=DeniedPublish.DISCONNECT), packet)
    conn = RecordingConnection(5, denied_publish=DeniedPublish.DISCONNECT)  # MQTT 5 has answers
    assert len(refused(conn, packet)) == (1 if qos else 0)


def test_a_refusal_is_logged_with_its_rule_and_without_its_topic(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_acebroker.denied")
    refused(RecordingConnection(client_identifier="ann", peer="[::1]:9"), Publish("secret/topic", b"payload"))
    (record,) = caplog.records
    assert record.getMessage() == "denied PUBLISH: a rule"
    assert (record.client_id, record.peer) == ("ann", "[::1]:9")  # type: ignore[attr-defined]


def test_one_filter_is_refused_for_the_router_to_tell() -> None:
    conn = RecordingConnection()
    packet = Subscribe(7, TWO_FILTERS)
    conn.refuse(packet, DENIED, "a rule", 1)
    conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, "another", 0)
    assert conn.written() == []
    assert conn.subscribe_refusals == {7: {1: DENIED, 0: ReasonCode.QUOTA_EXCEEDED}}


def test_what_is_too_large_for_the_client_is_not_sent() -> None:
    """[MQTT-3.1.2-25]."""
    conn = RecordingConnection()
    conn.packet_bytes_max = 10
    assert conn.send(Suback(1, (0,) * 5))
    assert not conn.send(Suback(1, (0,) * 6))
    assert conn.written() == [Suback(1, (0,) * 5)]
    assert conn.round.counters.dropped_too_large == 1


def test_without_an_owner_nothing_can_be_done_to_the_outside() -> None:
    conn = Connection(Round(SetClock(), Limits(), Counters()))
    conn.client_identifier = "ann"
    assert repr(conn) == "Connection('ann', peer='', version=4)"
    with pytest.raises(RuntimeError):
        conn.end(MqttError())
    with pytest.raises(BlockingIOError):
        conn.transmit(b"x")
    conn.drain(conn)
    conn.want_writable()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "connection lost"),
        (QuotaExceeded("limit: sessions"), "limit: sessions (0x97)"),
        (QuotaExceeded(), "QuotaExceeded (0x97)"),
    ],
)
def test_why_a_connection_ended(error: MqttError | None, said: str) -> None:
    assert str(CloseReason(error)) == said
