"""Sessions: whose they are, when they end, what a store keeps of them, and what waits for a store."""

from __future__ import annotations

from typing import Any

import pytest

from acebroker_codec.encoder import encode
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    SubscriptionRequest,
    Will,
)
from acebroker_middleware.connection import CloseReason
from acebroker_middleware.errors import ClientDisconnected, ConnectionRefused, SessionTakenOver
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.state.session_state import NEVER_EXPIRES
from tests.harness import make, make_will
from tests.middleware.assembly import Assembly, Client, Slow, publish, subscribe
from trio_acebroker.storage.memory import MemoryStore


def disconnect(reason_code: int = 0, **properties: Any) -> Disconnect:
    return make(Disconnect, reason_code=reason_code, **properties)


def watcher(broker: Assembly, *filters: str) -> Client:
    client = broker.client("watcher")
    client.send(subscribe(*filters, qos=2))
    return client


# ---- whose it is ----


def test_a_session_belongs_to_its_identity() -> None:
    """[MQTT-3.1.4-2]: who is somebody else neither takes it over nor resumes it, and disturbs nobody."""
    broker = Assembly()
    ann = broker.client("shared-id", username="ann", session_expiry_interval=100)
    ann.send(subscribe("t", qos=1))
    for name in ("bob", None):
        other = broker.connecting("shared-id", username=name, clean_start=True)
        assert isinstance(other.ended, ConnectionRefused)
        assert other.ended.reason_code == ReasonCode.NOT_AUTHORIZED
        assert other.got() == []
    assert ann.send(Pingreq()) == [Pingresp()]
    ann.end()
    other = broker.connecting("shared-id", username="bob", clean_start=False)
    assert isinstance(other.ended, ConnectionRefused)
    back = broker.client("shared-id", username="ann", clean_start=False)
    assert back.session_present
    assert broker.counters.takeovers == 0


def test_takeover_by_anyone_is_a_switch() -> None:
    broker = Assembly()
    broker.session.takeover_by_anyone = True
    ann = broker.client("shared-id", username="ann", session_expiry_interval=100)
    bob = broker.client("shared-id", username="bob", clean_start=False)
    assert bob.session_present
    assert ann.got() == []
    assert isinstance(ann.ended, SessionTakenOver)
    assert broker.counters.takeovers == 1


def test_what_a_taken_over_client_sent_does_nothing() -> None:
    """Its octets may be read, and its connection end, after the session is gone."""
    broker = Assembly()
    watching = watcher(broker, "#")
    old = broker.client(session_expiry_interval=100, will=make_will("will", b"gone", will_delay_interval=10))
    new = broker.client(clean_start=False, session_expiry_interval=100)
    for packet in (
        publish("t", b"late", 2, 1),
        subscribe("t"),
        Puback(1),
        Pubrel(1),
        disconnect(session_expiry_interval=0),
    ):
        old.send(packet)
        assert isinstance(old.ended, SessionTakenOver), packet
    broker.session.lost(old.conn, CloseReason(None))
    assert new.conn.session is not None
    assert new.conn.session.connection is new.conn
    broker.advance(1_000)
    assert watching.got() == []  # neither message nor Will


# ---- limits ----


def test_the_number_of_sessions_is_limited() -> None:
    broker = Assembly(sessions_max=2)
    broker.client("one", session_expiry_interval=100).end()
    broker.client("two")
    refused = broker.connecting("three")
    assert isinstance(refused.ended, ConnectionRefused)
    assert refused.ended.reason_code == ReasonCode.QUOTA_EXCEEDED
    broker.client("two")  # its own place
    broker.advance(101)
    broker.client("three")


def test_a_session_is_kept_no_longer_than_the_limit() -> None:
    broker = Assembly(session_expiry_seconds_max=60)
    client = broker.connecting(session_expiry_interval=NEVER_EXPIRES)
    (connack,) = client.got()
    assert isinstance(connack, Connack)
    assert connack.properties.session_expiry_interval == 60
    client.send(disconnect(session_expiry_interval=NEVER_EXPIRES))
    broker.advance(59)
    assert "client" in broker.session.sessions
    broker.advance(2)
    assert broker.session.sessions == {}


def test_disconnect_may_name_an_expiry_that_the_limit_cut_to_nothing() -> None:
    """What counts is what CONNECT asked for [MQTT5-U-3.14.2.2.2-1], not what the broker made of it."""
    broker = Assembly(session_expiry_seconds_max=0)
    client = broker.client(session_expiry_interval=100)
    client.send(disconnect(session_expiry_interval=10))
    assert isinstance(client.ended, ClientDisconnected)
    assert broker.session.sessions == {}


# ---- the end ----


@pytest.mark.parametrize("version", [4, 5])
def test_nothing_stays_of_a_session_that_ends_with_its_connection(version: int) -> None:
    """[MQTT-4.1.0-2]: no session, no subscription, no timer, nothing in the store."""
    broker = Assembly()
    client = broker.client(version=version, clean_start=True, will=Will("will", b"gone"))
    client.send(subscribe("t", "w/#", "$share/group/t", qos=1))
    state = client.conn.session
    client.end()
    assert broker.session.sessions == {}
    assert len(broker.router.tree) == 0
    assert broker.router.tree.group("$share/group/t") is None
    assert broker.timers.pending == []
    assert client.conn.session is None
    assert state is not None
    assert state.connection is None
    assert not broker.client(version=version, clean_start=False).session_present


def test_an_expired_session_ends_with_its_will() -> None:
    """[MQTT-3.1.2-8]: whichever comes first."""
    broker = Assembly()
    watching = watcher(broker, "will")
    broker.client(session_expiry_interval=50, will=make_will("will", b"gone", will_delay_interval=100)).end()
    broker.advance(49)
    assert watching.got() == []
    broker.advance(2)
    assert watching.messages() == [b"gone"]
    assert broker.timers.pending == []


def test_a_session_that_never_expires_has_no_timer() -> None:
    broker = Assembly(session_expiry_seconds_max=NEVER_EXPIRES)
    broker.client(session_expiry_interval=NEVER_EXPIRES).end()
    assert broker.timers.pending == []
    broker.advance(10**9)
    assert "client" in broker.session.sessions


def test_only_detached_sessions_can_be_removed() -> None:
    broker = Assembly()
    watching = watcher(broker, "will")
    client = broker.client(session_expiry_interval=100, will=make_will("will", b"gone", will_delay_interval=50))
    assert not broker.session.remove("client")
    assert not broker.session.remove("unknown")
    client.end()
    assert broker.session.remove("client")
    assert watching.messages() == [b"gone"]
    assert broker.timers.pending == []
    assert broker.store.sweep(broker.clock.wall + 10**9, 10) == []


def test_a_will_that_cannot_be_retained_is_published_all_the_same() -> None:
    broker = Assembly(retained_messages_max=0)
    watching = watcher(broker, "will")
    broker.client(will=make_will("will", b"gone", retain=True)).end()
    assert watching.messages() == [b"gone"]
    assert broker.counters.retained_refused == 1


def test_a_pending_will_is_dropped_when_its_client_is_back() -> None:
    """[MQTT-3.1.3-9]; the Will of the new connection is another one."""
    broker = Assembly()
    watching = watcher(broker, "will")
    first = make_will("will", b"first", will_delay_interval=10)
    broker.client(session_expiry_interval=100, will=first).end()
    broker.advance(5)
    second = make_will("will", b"second", will_delay_interval=10)
    broker.client(clean_start=False, session_expiry_interval=100, will=second).end()
    broker.advance(6)
    assert watching.got() == []
    broker.advance(5)
    assert watching.messages() == [b"second"]


# ---- acknowledgements ----


def test_acknowledgements_that_do_not_fit_end_the_connection() -> None:
    broker = Assembly()
    client = broker.client()
    client.send(subscribe("t", qos=1))
    assert publish("t", b"x", 1, 1) in client.send(publish("t", b"x", 1, 9))
    client.send(Pubrec(1))
    assert client.ended is not None
    assert client.ended.reason_code == ReasonCode.PROTOCOL_ERROR


def test_acknowledgements_of_kinds_that_are_mixed() -> None:
    """PUBACK, PUBREC and PUBCOMP each in their order, in one batch with everything else."""
    broker = Assembly(flow_cache=False)
    client = broker.client()
    got = client.send(
        publish("t", b"", 1, 1),
        publish("t", b"", 2, 2),
        publish("t", b"", 1, 3),
        Pubrel(2),
        publish("t", b"", 2, 4),
        Pubrel(9),
        Pubrel(4),
    )
    acks = {kind: [p for p in got if type(p) is kind] for kind in (Puback, Pubrec, Pubcomp)}
    none, unknown = ReasonCode.NO_MATCHING_SUBSCRIBERS, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
    assert acks[Puback] == [Puback(1, none), Puback(3, none)]
    assert acks[Pubrec] == [Pubrec(2), Pubrec(4)]
    assert acks[Pubcomp] == [Pubcomp(2), Pubcomp(9, unknown), Pubcomp(4)]


# ---- what a store keeps ----


def kept_session(store: MemoryStore) -> Identity:
    """A broker that goes away with everything that a session can hold open."""
    broker = Assembly(store=store)
    client = broker.client(session_expiry_interval=1_000, receive_maximum=2)
    client.send(
        subscribe("a", qos=1, subscription_identifier=5), subscribe(SubscriptionRequest("b", qos=2), "$share/group/c")
    )
    client.send(publish("d", b"received", 2, 7))
    other = broker.client("other")
    other.send(publish("b", b"released", 2, 1), Pubrel(1))
    (released,) = client.got()
    assert isinstance(released, Publish)
    client.send(Pubrec(released.packet_identifier))
    other.send(publish("a", b"sent", 1, 2), publish("a", b"queued", 1, 3))
    assert [packet.payload for packet in client.got() if isinstance(packet, Publish)] == [b"sent"]
    client.end()
    return Identity("anonymous", "client")


@pytest.mark.parametrize("adopting", [True, False])
@pytest.mark.parametrize("slow", [(), ("claim",), ("read",), ("claim", "read")], ids=str)
def test_a_session_comes_back_from_the_store(slow: tuple[str, ...], adopting: bool) -> None:
    """[MQTT-3.1.2-5], [MQTT-4.4.0-1]: subscriptions, what was received, released and not acknowledged.

    Whether it was there at start-up, or another broker had it until now.
    """
    store = Slow(*slow)
    kept_session(store.memory)
    broker = Assembly(store=store, adopting=adopting)  # type: ignore[arg-type]
    slow = tuple(call for call in slow if call == "claim" or not adopting)
    client = broker.connecting(clean_start=False, session_expiry_interval=1_000)
    for _ in slow:
        assert not client.step()
        assert client.got() == []
        store.finish()
    assert not slow or client.step()
    connack, *rest = client.got()
    assert connack.session_present  # type: ignore[attr-defined]
    assert [type(packet) for packet in rest] == [Pubrel, Publish, Publish]
    assert [(p.payload, p.properties.subscription_identifiers) for p in rest if isinstance(p, Publish)] == [
        (b"sent", (5,)),
        (b"queued", (5,)),
    ]
    state = client.conn.session
    assert state is not None
    assert set(state.subscriptions) == {"a", "b", "$share/group/c"}
    assert set(state.groups) == {"$share/group/c"}
    store.slow.clear()
    watching = watcher(broker, "d")
    client.send(Pubrel(7))
    assert watching.messages() == [b"received"]
    broker.client("other").send(publish("c", b"shared"))
    assert [p.payload for p in client.got() if isinstance(p, Publish)] == [b"shared"]


@pytest.mark.parametrize("adopting", [True, False])
@pytest.mark.parametrize("clean_start", [True, False])
def test_a_stored_session_belongs_to_its_identity(adopting: bool, clean_start: bool) -> None:
    """Nobody else gets it, nor wipes it by Clean Start."""
    store = MemoryStore()
    kept_session(store)
    broker = Assembly(store=store, adopting=adopting)
    other = broker.connecting(clean_start=clean_start, username="bob")
    assert isinstance(other.ended, ConnectionRefused)
    assert other.ended.reason_code == ReasonCode.NOT_AUTHORIZED
    assert broker.client(clean_start=False).session_present


def test_a_clean_start_leaves_nothing_in_the_store() -> None:
    store = MemoryStore()
    kept_session(store)
    broker = Assembly(store=store)
    assert not broker.client(clean_start=True, session_expiry_interval=1_000).session_present
    broker.client("other").send(publish("a", b"x", 1, 1))
    assert len(broker.router.tree) == 0


def test_a_session_without_expiry_is_not_kept_in_the_store() -> None:
    store = MemoryStore()
    broker = Assembly(store=store)
    client = broker.client()
    client.send(subscribe("t"))
    assert not store.claim("client", Identity("anonymous", "client"), clean_start=False).present


def test_settled_messages_do_not_come_back() -> None:
    store = MemoryStore()
    broker = Assembly(store=store)
    client = broker.client(session_expiry_interval=1_000)
    client.send(subscribe("t", qos=2))
    other = broker.client("other")
    for number, qos in enumerate((1, 2, 1, 2), 1):
        other.send(publish("t", b"%d" % number, qos, number))
        other.send(Pubrel(number))
    first, second, third, fourth = client.got()
    client.send(Puback(1), Pubrec(2), Puback(3, ReasonCode.QUOTA_EXCEEDED), Pubrec(4, ReasonCode.QUOTA_EXCEEDED))
    client.send(Pubcomp(2))
    assert [type(packet) for packet in (first, second, third, fourth)] == [Publish] * 4
    client.end()
    again = Assembly(store=store).client(clean_start=False)
    assert again.session_present
    assert again.got() == []


def test_a_later_owner_fences_the_former_one() -> None:
    """Two brokers over one store: the one that claimed last owns the session."""
    store = MemoryStore()
    former, later = Assembly(store=store), Assembly(store=store)
    old = former.client(session_expiry_interval=1_000)
    old.send(subscribe("t", qos=1))
    assert later.client(clean_start=False, session_expiry_interval=1_000).session_present
    old.send(subscribe("u", qos=1))
    assert isinstance(old.ended, SessionTakenOver)
    assert former.session.sessions == {}
    assert later.client(clean_start=False).session_present


# ---- what waits for the store ----


def test_pubrec_leaves_when_the_message_is_durable_and_in_order() -> None:
    store = Slow("settle")
    broker = Assembly(store=store)  # type: ignore[arg-type]
    client = broker.client(session_expiry_interval=100)
    assert client.send(publish("t", b"1", 2, 1), publish("t", b"2", 2, 2), Pingreq(), publish("t", b"3", 2, 3)) == [
        Pingresp()
    ]
    assert not client.step()
    assert len(store.waiting) == 1
    assert client.got() == []
    store.finish()
    assert client.step()
    assert client.got() == [Pubrec(1), Pubrec(2), Pubrec(3)]


def test_what_was_released_before_a_takeover_goes_out_once() -> None:
    """[MQTT-4.3.3-12]: the store answers at the moment of the takeover, and the next connection sends PUBREL again."""
    store = Slow()
    broker = Assembly(store=store)  # type: ignore[arg-type]
    watching = watcher(broker, "t")
    client = broker.client(session_expiry_interval=100)
    client.send(publish("t", b"once", 2, 1))
    store.slow.add("settle")
    client.send(publish("t", b"", 2, 2), Pubrel(1))
    again = broker.client(clean_start=False, session_expiry_interval=100)
    store.finish()
    assert client.step()
    assert isinstance(client.ended, SessionTakenOver)
    again.send(Pubrel(1))
    assert watching.messages() == [b"once"]


def test_what_stands_behind_a_commit_is_left_to_the_connection_that_took_over() -> None:
    store = Slow("enqueue")
    broker = Assembly(store=store)  # type: ignore[arg-type]
    watching = watcher(broker, "t", "u")
    client = broker.client(session_expiry_interval=100)
    client.send(publish("t", b"1", 2, 1), publish("t", b"2", 2, 2))
    client.send(Pubrel(1), publish("u", b"between"), Pubrel(2))
    again = broker.client(clean_start=False, session_expiry_interval=100)
    store.finish()
    assert client.step()
    assert isinstance(client.ended, SessionTakenOver)
    assert watching.messages() == [b"1"]
    again.send(Pubrel(2))
    store.finish()
    assert again.step()
    assert watching.messages() == [b"2"]
    assert again.got() == [Pubcomp(2)]


def test_a_pubrel_that_comes_twice_while_its_commit_is_under_way_is_answered_once() -> None:
    """Or the answers to everything behind it would wait for ever, and pile up."""
    store = Slow()
    broker = Assembly(store=store)  # type: ignore[arg-type]
    broker.client("durable", session_expiry_interval=100).send(subscribe("t", qos=1))
    client = broker.client(session_expiry_interval=100)
    client.send(publish("t", b"", 2, 1), publish("u", b"", 2, 2))
    store.slow.add("enqueue")
    client.send(Pubrel(1))
    again = broker.client(clean_start=False, session_expiry_interval=100)
    assert again.send(Pubrel(1), Pubrel(1), Pubrel(1)) == []
    store.finish()
    store.slow.clear()
    assert client.step()
    assert again.got() == [Pubcomp(1)]
    assert again.send(Pubrel(2)) == [Pubcomp(2)]


def test_many_messages_may_wait_for_the_store_at_once() -> None:
    store = Slow("settle")
    broker = Assembly(store=store, receive_max=2_000)  # type: ignore[arg-type]
    client = broker.client(session_expiry_interval=100)
    identifiers = range(1, 1_501)
    client.send(*(publish("t", b"", 2, identifier) for identifier in identifiers))
    store.finish(1_500)
    assert client.step()
    assert client.got() == [Pubrec(identifier) for identifier in identifiers]


def test_packets_behind_a_connect_wait_for_the_claim() -> None:
    store = Slow("claim")
    broker = Assembly(store=store)  # type: ignore[arg-type]
    client = broker.connecting()
    assert not client.step()
    assert client.got() == []
    store.finish()
    assert client.step()
    assert [type(packet) for packet in client.got()] == [Connack]


def test_what_stands_behind_a_connect_in_one_read_is_handled_after_it() -> None:
    store = Slow("claim")
    broker = Assembly(store=store)  # type: ignore[arg-type]
    client = Client(broker, 5)
    packets: list[Packet] = [Connect("client"), subscribe("t", qos=1), publish("t", b"x", 1, 3), Pingreq()]
    client.pending = client.feed(b"".join(encode(packet, client.version) for packet in packets))
    assert not client.step()
    store.finish()
    assert client.step()
    got = client.got()
    assert isinstance(got[0], Connack)
    assert {Suback, Publish, Puback, Pingresp} == {type(packet) for packet in got[1:]}
