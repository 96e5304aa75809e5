"""Rights: what is asked of an Authority in each direction, and that nobody else grants."""

from __future__ import annotations

import pytest

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import (
    Connect,
    Pingreq,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Will,
)
from acebroker_middleware.acl import AclAuthority, AclRules, DenyAll
from acebroker_middleware.authz import DECISION_OVERHEAD_BYTES, Authz
from acebroker_middleware.connection import DeniedPublish
from acebroker_middleware.errors import ConnectionRefused, NotAuthorized
from acebroker_middleware.flows import Verdict
from acebroker_middleware.state.message import Message
from acebroker_middleware.testing import RecordingConnection
from tests.middleware.assembly import Assembly, publish, subscribe

RULES = "topic write out/#\ntopic read in/#\ntopic deny in/secret\n"


def rights(text: str = RULES) -> AclAuthority:
    return AclAuthority(AclRules.parse(text, "acl"), None, "client")


def limited(version: int = 5, **options: object) -> tuple[RecordingConnection, Authz]:
    """A client with the rights of RULES, and the stage."""
    conn = RecordingConnection(version, authority=rights(), **options)
    return conn, Authz(conn.round)


# ---- PUBLISH ----


def test_a_flow_passes_or_is_denied() -> None:
    conn, authz = limited()
    assert conn.plan(authz, "out/1") is Verdict.PASS
    assert conn.plan(authz, "in/1") is Verdict.DENY


@pytest.mark.parametrize("version", [4, 5])
def test_a_denied_publish_is_answered_by_its_qos_and_version(version: int) -> None:
    conn, authz = limited(version)
    fed = conn.feed(authz, Publish("x"), publish("x", qos=1, packet_identifier=1), publish("out/1"), Pingreq())
    code = ReasonCode.NOT_AUTHORIZED if version == 5 else 0
    assert fed.passed == [publish("out/1"), Pingreq()]
    assert fed.wrote == [Puback(1, code)]
    assert conn.feed(authz, publish("x", qos=2, packet_identifier=2)).wrote == [Pubrec(2, code)]
    assert conn.round.counters.denials == {"no rule": 3}


def test_a_denied_publish_may_end_an_mqtt_3_connection() -> None:
    """[MQTT-3.3.5-2] of MQTT 3.1.1; what came before is still handled."""
    conn, authz = limited(4, denied_publish=DeniedPublish.DISCONNECT)
    fed = conn.feed(authz, publish("out/1"), publish("x"), publish("out/2"))
    assert fed.passed == [publish("out/1")]
    assert isinstance(fed.error, NotAuthorized)


def test_rights_count_at_first_receipt() -> None:
    """[MQTT-4.3.3-10]: what is sent again is answered as the first was, whatever has become of the right."""
    conn, authz = limited()
    assert conn.session is not None
    again = publish("x", qos=2, packet_identifier=7, dup=True)
    conn.session.inbound[7] = again
    assert conn.feed(authz, again).passed == [again]
    conn.ack_queue.pubrec.fill(7)
    other = publish("x", qos=2, packet_identifier=8, dup=True)
    assert conn.feed(authz, other).wrote == [Pubrec(7), Pubrec(8, ReasonCode.NOT_AUTHORIZED)]


@pytest.mark.parametrize("flow_cache", [False, True])
@pytest.mark.parametrize("first", [[], [Pingreq()]])
@pytest.mark.parametrize("expiry", [None, 100])
@pytest.mark.parametrize("version", [4, 5])
def test_what_stands_behind_its_pubrel_was_not_received_before(
    version: int, expiry: int | None, first: list[Pingreq], flow_cache: bool
) -> None:
    """A read that releases an identifier and uses it again at once: the new publication needs a right of its own."""
    broker = Assembly(authorities={"client": rights()}, flow_cache=flow_cache)
    reader = broker.client("reader")
    reader.send(subscribe("#"))
    asked = {"session_expiry_interval": expiry} if version == 5 else {"clean_start": expiry is None}
    client = broker.client(version=version, **asked)
    client.send(publish("out/1", b"granted", 2, 7))
    client.send(*first, Pubrel(7), publish("x", b"not granted", 2, 7))
    client.send(Pubrel(7))
    assert reader.messages() == [b"granted"]
    assert client.ended is None


def test_decisions_are_kept_until_rights_change() -> None:
    conn, authz = limited()
    assert conn.plan(authz, "out/1") is Verdict.PASS
    conn.authority = DenyAll()
    assert conn.plan(authz, "out/1") is Verdict.PASS
    assert conn.feed(authz, publish("out/1")).passed == [publish("out/1")]
    conn.forget_flows()
    assert conn.plan(authz, "out/1") is Verdict.DENY
    assert conn.feed(authz, publish("out/1")).passed == []


def test_kept_decisions_are_bounded() -> None:
    conn = RecordingConnection(authority=rights(), limits=Assembly(flows_per_connection_max=10).limits)
    authz = Authz(conn.round)
    for number in range(100):
        assert conn.plan(authz, f"out/{number}") is Verdict.PASS
        assert len(conn.decisions) <= 10


def test_kept_decisions_are_bounded_in_octets() -> None:
    limit = 10 * DECISION_OVERHEAD_BYTES
    conn = RecordingConnection(authority=rights(), limits=Assembly(flow_bytes_per_connection_max=limit).limits)
    authz = Authz(conn.round)
    for number in range(100):
        assert conn.plan(authz, f"out/{number}" + "x" * (number % 50)) is Verdict.PASS
        octets = sum(len(topic) + DECISION_OVERHEAD_BYTES for topic in conn.decisions)
        assert conn.decision_octets == octets <= limit
    conn.forget_flows()
    assert conn.decision_octets == 0


# ---- SUBSCRIBE ----


@pytest.mark.parametrize(
    ("topic_filter", "allowed"),
    [
        ("in/1", True),
        ("in/+/x", True),
        ("in/#", False),  # overlaps what is denied
        ("#", False),
        ("+/1", False),
        ("in/secret", False),
        ("out/1", False),
        # a Shared Subscription has the rights of its filter, whatever its name
        ("$share/group/in/1", True),
        ("$share/in/out/1", False),
        ("$share/group/#", False),
    ],
)
def test_a_filter_must_be_covered(topic_filter: str, allowed: bool) -> None:
    conn, authz = limited()
    packet = Subscribe(3, (SubscriptionRequest("in/a"), SubscriptionRequest(topic_filter)))
    fed = conn.feed(authz, packet)
    assert fed.passed == [packet]
    assert [(each.index, each.reason_code) for each in fed.refused] == ([] if allowed else [(1, 0x87)])


@pytest.mark.parametrize("version", [4, 5])
def test_suback_tells_which_filter_was_refused(version: int) -> None:
    broker = Assembly(authorities={"client": rights()})
    client = broker.client(version=version)
    (suback,) = client.send(subscribe("in/1", "out/1", "$share/group/in/2", qos=1))
    assert suback.reason_codes == (1, 0x87 if version == 5 else 0x80, 1)  # type: ignore[attr-defined]
    assert client.conn.session is not None
    assert set(client.conn.session.subscriptions) == {"in/1", "$share/group/in/2"}


@pytest.mark.parametrize("filters", [("in/1", "x"), ("x", "in/1"), ("x", "x")])
def test_no_filter_is_granted_by_a_second_subscribe_with_the_same_identifier(filters: tuple[str, str]) -> None:
    broker = Assembly(authorities={"client": rights()})
    client = broker.client()
    first, second = (subscribe(each, packet_identifier=7) for each in filters)
    assert {type(each) for each in client.send(first, second)} == {Suback}
    assert client.conn.session is not None
    assert "x" not in client.conn.session.subscriptions
    # what was refused in one read says nothing of the next one
    (suback,) = client.send(subscribe("in/2", packet_identifier=7))
    assert suback == Suback(7, (0,))


# ---- the Will ----


@pytest.mark.parametrize(("topic", "allowed"), [("out/gone", True), ("in/gone", False), ("x", False)])
def test_a_will_is_a_publish_that_comes_later(topic: str, allowed: bool) -> None:
    conn, authz = limited()
    connect = Connect("client", will=Will(topic, b"x"))
    fed = conn.feed(authz, connect)
    if allowed:
        assert (fed.passed, fed.error) == ([connect], None)
    else:
        assert fed.passed == []
        assert isinstance(fed.error, ConnectionRefused)
        assert fed.error.reason_code == ReasonCode.NOT_AUTHORIZED
        assert conn.round.counters.denials == {"no rule": 1}


def test_a_refused_will_moves_no_session() -> None:
    """[MQTT-3.1.4-2]: the session, and the connection that it has, stay as they are."""
    broker = Assembly(authorities={"client": rights()})
    first = broker.client(session_expiry_interval=100)
    first.send(subscribe("in/1"))
    second = broker.connecting(will=Will("in/gone", b"x"), clean_start=True)
    assert isinstance(second.ended, ConnectionRefused)
    assert second.got() == []
    assert first.got() == []
    assert first.ended is None
    broker.client("other").send(publish("in/1", b"still"))
    assert first.messages() == [b"still"]


# ---- to the client ----


def test_deliveries_need_the_right_to_receive() -> None:
    conn, authz = limited()
    messages = [Message("in/1", b""), Message("in/secret", b""), Message("out/1", b"")]
    assert conn.deliver(authz, *messages) == messages[:1]
    assert authz.on_deliver(conn, messages) == messages[:1]
    assert conn.plan_deliver(authz, "in/1") is Verdict.PASS
    assert conn.plan_deliver(authz, "in/secret") is Verdict.DENY
    # a whole filter: passed where all of it is granted, else each topic is asked about
    assert authz.plan_deliver_filter(conn, "in/+/x") is Verdict.PASS
    assert authz.plan_deliver_filter(conn, "in/#") is Verdict.INSPECT
    assert authz.plan_deliver_filter(conn, "x") is Verdict.INSPECT


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("flow_cache", [False, True])
def test_a_right_that_ended_ends_deliveries(qos: int, flow_cache: bool) -> None:
    broker = Assembly(flow_cache=flow_cache)
    reader, writer = broker.client("reader"), broker.client("writer")
    reader.send(subscribe("in/#", qos=1))
    for packet_identifier in (1, 2):
        writer.send(publish("in/1", b"x", qos, packet_identifier if qos else 0))
    assert reader.messages() == [b"x", b"x"]
    reader.conn.authority = DenyAll()
    assert reader.conn.session is not None
    broker.router.invalidate_session(reader.conn.session)
    writer.send(publish("in/1", b"y", qos, 3 if qos else 0))
    assert reader.got() == []


def test_without_authentication_nothing_is_granted() -> None:
    conn = RecordingConnection(connected=False)
    authz = Authz(conn.round)
    for packet in (publish("x"), Subscribe(1, (SubscriptionRequest("x"),)), Connect(will=Will("x", b""))):
        fed = conn.feed(authz, packet)
        assert fed.passed == []
        assert isinstance(fed.error, ConnectionRefused)
    with pytest.raises(ConnectionRefused):
        conn.plan_deliver(authz, "x")
