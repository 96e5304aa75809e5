"""Rights that end: to the round, in both directions, when nothing happens, and when the time of day jumps."""

from __future__ import annotations

from math import inf

import pytest

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Connack, Disconnect, Pingreq, Publish
from acebroker_middleware.acl import AclAuthority, AclRules
from acebroker_middleware.errors import RightsEnded
from acebroker_middleware.expiry import RECHECK_SECONDS
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
