"""Rights that end: to the round, in both directions, when nothing happens, and when the time of day jumps."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import (
    Auth,
    AuthProperties,
    Connack,
    ConnackProperties,
    Connect,
    ConnectProperties,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
)
from acebroker_middleware.acl import AclAuthority, AclRules
from acebroker_middleware.connection import Connection
from acebroker_middleware.errors import RightsEnded
from acebroker_middleware.expiry import RECHECK_SECONDS, Expiry
from acebroker_middleware.testing import RecordingConnection
from tests.conformance.statements import ace
from tests.middleware.assembly import Assembly, Client, publish, subscribe
from tests.middleware.world import World

ALL = AclRules.parse("topic readwrite #\n", "test")
NONE = AclRules.parse("topic readwrite other\n", "test")


def until(moment: float | None, rules: AclRules = ALL) -> AclAuthority:
    authority = AclAuthority(rules, None, "ends")
    authority.authorized_until = moment
    return authority


def assembly(seconds: float | None, **options: object) -> Assembly:
    """A broker that gives the client `ends` rights for so many seconds."""
    broker = Assembly(**options)  # type: ignore[arg-type]
    broker.authorities["ends"] = until(None if seconds is None else broker.clock.wall + seconds)
    return broker


def over(client: Client) -> MqttError | None:
    """What ended a connection, from inside its batch or outside."""
    if client.ended is None and client.conn.ended is not None:
        client.end(client.conn.ended)
    return client.ended


@pytest.mark.parametrize("flow_cache", [True, False])
def test_octets_that_come_after_the_end_are_not_looked_at(flow_cache: bool) -> None:
    broker = assembly(10, flow_cache=flow_cache)
    ends, reader = broker.client("ends"), broker.client("reader")
    reader.send(subscribe("t"))
    ends.send(publish("t", b"1"))
    broker.clock.advance(9.9)
    ends.send(publish("t", b"2"))
    broker.clock.advance(0.1)
    ends.send(publish("t", b"3"))
    assert (error := over(ends)) is not None and error.reason_code == ReasonCode.NOT_AUTHORIZED
    assert reader.messages() == [b"1", b"2"]
    assert broker.counters.denials["rights ended"] == 1


def test_a_client_that_does_nothing_is_cut_by_a_timer() -> None:
    broker = assembly(10)
    ends = broker.client("ends")
    broker.advance(9.9)
    assert over(ends) is None
    broker.advance(0.2)
    assert isinstance(over(ends), RightsEnded)


def test_rights_that_are_over_open_nothing() -> None:
    broker = assembly(0)
    refused = broker.connecting("ends")
    assert isinstance(refused.ended, RightsEnded)
    assert not any(isinstance(packet, Connack) and not packet.reason_code for packet in refused.got())
    assert not broker.session.sessions and not broker.timers.pending


def test_rights_without_an_end_cost_no_timer() -> None:
    broker = assembly(None)
    ends = broker.client("ends")
    assert ends.conn.rights_end == inf and not broker.timers.pending
    broker.advance(1e9)
    ends.send(Pingreq())
    assert over(ends) is None


@pytest.mark.parametrize("jump", [-3_600.0, 3_600.0])
def test_the_time_of_day_may_jump(jump: float) -> None:
    broker = assembly(1_000)
    ends = broker.client("ends")
    broker.clock.wall += jump
    broker.advance(RECHECK_SECONDS)
    assert isinstance(over(ends), RightsEnded) == (jump > 0)
    if jump < 0:
        for _ in range(int(4_500 // RECHECK_SECONDS)):
            broker.advance(RECHECK_SECONDS)
        assert over(ends) is None
        broker.advance(2 * RECHECK_SECONDS)
        assert isinstance(over(ends), RightsEnded)


def test_other_rights_void_what_was_decided() -> None:
    broker = assembly(1_000)
    ends, reader = broker.client("ends"), broker.client("reader")
    for client, topic in ((ends, "in"), (reader, "t")):
        client.send(subscribe(topic))
    writer = broker.client("writer")
    ends.send(publish("t", b"1"), publish("t", b"1"))
    writer.send(publish("in", b"2"), publish("in", b"2"))
    assert reader.messages() == [b"1"] * 2 and ends.messages() == [b"2"] * 2
    ends.conn.authority = until(broker.clock.wall + 20, NONE)
    broker.expiry.granted(ends.conn)
    ends.send(publish("t", b"1"))
    writer.send(publish("in", b"2"))
    assert reader.messages() == [] and ends.messages() == []
    broker.advance(19)
    assert over(ends) is None
    broker.advance(2)
    assert isinstance(over(ends), RightsEnded)


def test_later_rights_replace_the_timer_of_earlier_ones() -> None:
    broker = assembly(10)
    ends = broker.client("ends")
    ends.conn.authority = until(broker.clock.wall + 30)
    broker.expiry.granted(ends.conn)
    broker.advance(20)
    ends.send(Pingreq())
    assert over(ends) is None
    assert len(broker.timers.pending) == 1
    ends.end()
    ends.conn.release()
    assert not broker.timers.pending


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("blocked", [False, True])
def test_nothing_goes_out_until_the_connection_is_closed(blocked: bool, qos: int) -> None:
    """Its own task closes it, a moment after its rights were seen to be over."""
    world = World()
    ends, writer = world.peer("ends", 5), world.peer("writer", 5)
    world.connect(ends)
    world.connect(writer)
    world.send(ends, subscribe("t", qos=1))
    conn = ends.conn
    assert conn is not None
    ended: list[MqttError] = []
    conn.end = ended.append
    ends.seen.clear()
    if blocked:
        ends.takes = False
        world.send(writer, publish("t", b"before", qos, qos))
    conn.rights_end = world.clock.now
    for number in range(2, 5):
        world.send(writer, publish("t", b"behind", qos, number * qos))
        if blocked:
            ends.takes = True
            world.delivery.writable(conn)
        assert isinstance(ended[0], RightsEnded)
    assert len(ended) == world.counters.denials["rights ended"] == 1
    conn.release()
    conn.send(Disconnect(ReasonCode.NOT_AUTHORIZED))
    world.delivery.writable(conn)
    *before, last = ends.seen
    assert last == Disconnect(ReasonCode.NOT_AUTHORIZED)
    assert [each.payload for each in before if isinstance(each, Publish)] == ([b"before"] if blocked else [])


# ---- until it is over, and while it is put off ----


def held(until_: float | None, extension_seconds: float = 30, *, renewing: bool = False) -> tuple[Expiry, Connection]:
    """A connection whose rights end; `renewing`: in the middle of a re-authentication."""
    broker = Assembly()
    expiry = Expiry(broker.round, broker.timers, broker.router, extension_seconds)
    conn = RecordingConnection(5, round_=broker.round, authority=until(until_))
    expiry.granted(conn)
    if renewing:
        method = {"authentication_method": "ace"}
        conn.protocol.received(Connect("c", properties=ConnectProperties(**method)))
        conn.protocol.sent(Connack(False, 0, ConnackProperties(**method)))
        conn.protocol.received(Auth(0x19, AuthProperties(**method)))
    return expiry, conn


WALL = Assembly().clock.wall


@ace("ACE-4-1", "ACE-3.2-2")
def test_nothing_is_sent_between_the_end_and_the_end_of_the_connection() -> None:
    expiry, conn = held(WALL + 10)
    conn.send(publish("t"))
    conn.round.clock.advance(10)  # type: ignore[attr-defined]
    for _ in range(2):  # others go on sending to it
        assert not expiry.met(conn)
        assert not conn.out and not conn.out_octets and conn.send_max == 0
        conn.send(publish("t"))
    expiry.settled(conn)
    assert not conn.out and not conn.closed and conn.rights_end == inf
    assert conn.round.counters.denials["rights ended"] == 1


def test_a_send_that_was_cut_short_is_finished_and_nothing_else() -> None:
    expiry, conn = held(WALL + 10)
    for payload in (b"cut short", b"2", b"3"):
        conn.send(publish("t", payload))
    first = conn.out[0]
    conn.blocked = True
    conn.round.clock.advance(10)  # type: ignore[attr-defined]
    expiry.settled(conn)
    assert conn.out == [first] and conn.out_octets == len(first)


@ace("ACE-4-2", "ACE-4-5")
@pytest.mark.parametrize(
    ("waiting", "extended"),
    [
        ([], True),
        ([Pingresp()], True),
        ([Pingresp(), publish("t")], False),
        ([publish("t", qos=2, packet_identifier=1)], False),
    ],
)
def test_a_re_authentication_puts_off_the_end_unless_messages_are_under_way(waiting: list[Any], extended: bool) -> None:
    expiry, conn = held(WALL + 10, renewing=True)
    assert isinstance(conn, RecordingConnection)
    for packet in waiting:
        conn.send(packet)
    conn.clock.advance(10)
    assert expiry.met(conn) is extended
    assert conn.expired is extended
    assert (conn.ended is None) is extended
    if extended:
        conn.clock.advance(29.9)
        assert conn.rights_end > conn.clock.now
        conn.clock.advance(0.2)
        assert not expiry.met(conn)  # and not a second time
        assert isinstance(conn.ended, RightsEnded)


@pytest.mark.parametrize("extension_seconds", [0, 30])
def test_what_is_not_put_off(extension_seconds: float) -> None:
    expiry, conn = held(WALL + 10, extension_seconds, renewing=True)
    conn.blocked = extension_seconds > 0
    conn.round.clock.advance(10)  # type: ignore[attr-defined]
    assert not expiry.met(conn)


@ace("ACE-4-6")
def test_new_rights_end_the_extension() -> None:
    expiry, conn = held(WALL + 10, renewing=True)
    conn.round.clock.advance(15)  # type: ignore[attr-defined]
    assert expiry.met(conn) and conn.expired
    conn.authority = until(None)
    expiry.granted(conn)
    assert not conn.expired and conn.rights_end == inf


def test_a_driver_ends_so_many_at_a_time() -> None:
    broker = assembly(10)
    woken: list[None] = []
    broker.expiry.wake = lambda: woken.append(None)
    for number in range(5):
        broker.authorities[f"c{number}"] = until(broker.clock.wall + 10)
    clients = [broker.client(f"c{number}") for number in range(5)]
    broker.advance(10.1)
    assert woken and not any(over(client) for client in clients)
    clients[0].conn.authority = until(None)
    broker.expiry.granted(clients[0].conn)  # new rights in the last moment
    assert broker.expiry.end_some(3)
    assert [over(client) is not None for client in clients] == [False, True, True, False, False]
    assert not broker.expiry.end_some(3)
    assert sum(over(client) is not None for client in clients) == 4
