"""The way out: what waits and for how long, what has no room, and who takes a message that is shared."""

from __future__ import annotations

import pytest

from acebroker_codec.encoder import encode
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Packet, Pingreq, ProtocolVersion, Puback, Pubcomp, Publish, Pubrec, Pubrel
from acebroker_middleware.acl import AclAuthority, AclRules
from acebroker_middleware.connection import Connection
from acebroker_middleware.deliver import GroupQueue
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.state.message import Message
from acebroker_middleware.state.session_state import SessionState
from tests.middleware.assembly import Assembly, Client, publish, subscribe
from tests.middleware.world import World

SHARED = "$share/group/t/#"


def payloads(packets: list[Packet]) -> list[bytes]:
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


def state_of(client: Client) -> SessionState:
    assert client.conn.session is not None
    return client.conn.session


def subscribed(broker: Assembly, name: str, *filters: str, qos: int = 1, **fields: object) -> Client:
    client = broker.client(name, **fields)
    client.send(subscribe(*filters, qos=qos))
    return client


def publish_all(writer: Client, topic: str, numbers: range, qos: int = 1) -> None:
    """Messages with their number as payload, each handshake carried to its end."""
    for number in numbers:
        writer.send(publish(topic, b"%d" % number, qos, number + 1 if qos else 0))
        if qos == 2:
            writer.send(Pubrel(number + 1))


# ---- Topic Aliases ----

LONG = "a/topic/name/that/is/worth/an/alias"


@pytest.mark.parametrize("flow_cache", [False, True])
@pytest.mark.parametrize("size", [10, 600])
def test_no_alias_is_used_before_it_was_set(size: int, flow_cache: bool) -> None:
    """[MQTT-3.3.2-8..12]: an out-queue that is sent in the middle of a read is filled from the session at once.

    So the message on whose way that happens, which may find room or not, comes behind others of its topic.
    """
    world = World(out_queue_bytes_max=500, flow_cache=flow_cache)
    reader, writer = world.peer("reader", 5), world.peer("writer", 5)
    world.connect(reader, topic_alias_maximum=5)
    world.connect(writer)
    world.send(reader, subscribe("#", qos=1))
    reader.seen.clear()
    world.send(
        writer,
        publish("x", bytes(450), 1, 1),
        publish("x", bytes(450), 1, 2),
        publish(LONG, b"waits", 1, 3),
        publish(LONG, bytes(size)),
        publish(LONG, b"last"),
    )
    aliases: dict[int, str] = {}
    for packet in reader.seen:
        if isinstance(packet, Publish) and packet.properties.topic_alias is not None:
            aliases.setdefault(packet.properties.topic_alias, packet.topic)
    assert aliases == {1: LONG}
    assert len(reader.seen) == (5 if size < 500 else 4)


@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_is_not_lost_for_an_alias(qos: int) -> None:
    """What fits into the client's Maximum Packet Size by its topic alone is sent without setting one."""
    whole = len(encode(publish(LONG, bytes(50), qos, qos), ProtocolVersion.MQTT_5))
    broker = Assembly()
    reader = subscribed(broker, "reader", "#", topic_alias_maximum=5, maximum_packet_size=whole)
    writer = broker.client("writer")
    writer.send(publish(LONG, bytes(50), qos, qos))
    (first,) = reader.got()
    assert first == publish(LONG, bytes(50), qos, qos)
    writer.send(publish(LONG, bytes(51), qos, qos), publish(LONG, b"short", qos, qos), publish(LONG, b"2", qos, qos))
    setting, using = (packet for packet in reader.got() if isinstance(packet, Publish))
    assert (setting.topic, setting.payload, setting.properties.topic_alias) == (LONG, b"short", 1)
    assert (using.topic, using.payload, using.properties.topic_alias) == ("", b"2", 1)
    assert broker.counters.dropped_too_large == 1


# ---- the queue of a session ----


def test_the_queue_of_a_session_is_bounded_in_messages() -> None:
    broker = Assembly(queued_messages_max=3)
    reader = subscribed(broker, "reader", "t", session_expiry_interval=100)
    writer = broker.client("writer")
    reader.end()
    publish_all(writer, "t", range(5))
    assert broker.counters.dropped_queue_full == 2
    reader = broker.client("reader", clean_start=False, session_expiry_interval=100)
    assert reader.messages() == [b"0", b"1", b"2"]
    # dropped is settled: it does not come back from the store either
    reader.send(Puback(1), Puback(2), Puback(3))
    again = Assembly(store=broker.store).client("reader", clean_start=False)
    assert again.session_present
    assert again.got() == []


def test_the_queue_of_a_session_is_bounded_in_octets() -> None:
    broker = Assembly(queued_bytes_max=100)
    reader = subscribed(broker, "reader", "t", receive_maximum=1)
    writer = broker.client("writer")
    for number, size in enumerate((50, 50, 30, 30, 10), 1):
        writer.send(publish("t", b"x" * size, 1, number))
    assert len(reader.got()) == 1
    assert [len(delivery.message.payload) for delivery in state_of(reader).queue] == [50, 30, 10]
    assert state_of(reader).queued_octets == 93
    assert broker.counters.dropped_queue_full == state_of(reader).dropped == 1
    for identifier in (1, 2, 3, 4):
        reader.send(Puback(identifier))
    assert state_of(reader).queued_octets == 0


def test_a_full_out_queue_drops_qos_0_and_keeps_qos_1() -> None:
    broker = Assembly(out_queue_bytes_max=100)
    reader = subscribed(broker, "reader", "t")
    writer = broker.client("writer")
    writer.send(*[publish("t", b"x" * 60)] * 3, publish("t", b"y" * 60, 1, 1), publish("t", b"z" * 60, 1, 2))
    assert broker.counters.dropped_out_queue == reader.conn.dropped == 2
    assert len(state_of(reader).queue) == 1
    assert [payload[:1] for payload in payloads(reader.got())] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("aliases", [0, 10])
def test_retained_messages_wait_for_room(version: int, aliases: int) -> None:
    """They were asked for: a client that reads slowly gets all of them."""
    broker = Assembly(out_queue_bytes_max=200, topic_alias_out_bytes_min=1)
    writer = broker.client("writer")
    for number in range(20):
        writer.send(publish(f"t/{number}", b"%d" % number + b"x" * (20 + number), retain=True))
    fields = {"topic_alias_maximum": aliases} if version == 5 else {}
    reader = broker.client("reader", version, **fields)
    got = reader.send(subscribe("t/#"))
    received = [packet for packet in got if isinstance(packet, Publish)]
    assert sorted(int(packet.payload.rstrip(b"x")) for packet in received) == list(range(20))
    assert all(packet.topic == f"t/{packet.payload.rstrip(b'x').decode()}" for packet in received)
    assert broker.counters.dropped_out_queue == 0


def test_an_expired_message_leaves_no_gap_in_the_window() -> None:
    """[MQTT-3.3.2-5]: it is settled, in the store too, and takes no quota."""
    broker = Assembly()
    reader = subscribed(broker, "reader", "t", session_expiry_interval=1_000)
    reader.end()
    writer = broker.client("writer")
    writer.send(publish("t", b"short", 1, 1, message_expiry_interval=10), publish("t", b"long", 1, 2))
    broker.advance(11)
    reader = broker.client("reader", clean_start=False, receive_maximum=1, session_expiry_interval=1_000)
    assert reader.messages() == [b"long"]
    assert broker.counters.dropped_expired == 1
    reader.send(Puback(1))
    assert Assembly(store=broker.store).client("reader", clean_start=False).got() == []


def test_what_is_sent_again_is_measured_by_the_packet_size_of_its_new_connection() -> None:
    broker = Assembly()
    reader = subscribed(broker, "reader", "t", session_expiry_interval=1_000)
    writer = broker.client("writer")
    writer.send(publish("t", b"x" * 100, 1, 1), publish("t", b"y", 1, 2))
    assert len(reader.got()) == 2
    reader.end()
    reader = broker.client("reader", clean_start=False, session_expiry_interval=1_000, maximum_packet_size=50)
    (again,) = reader.got()
    assert isinstance(again, Publish)
    assert (again.payload, again.dup) == (b"y", True)
    assert len(state_of(reader).window) == 1
    assert broker.counters.dropped_too_large == 1


def test_resends_keep_the_receive_maximum_and_come_before_what_is_new() -> None:
    """[MQTT-4.6.0-1]: as they were sent, QoS 1 and 2 among each other."""
    broker = Assembly()
    reader = subscribed(broker, "reader", "t", qos=2, session_expiry_interval=1_000)
    writer = broker.client("writer")
    publish_all(writer, "t", range(3))
    publish_all(writer, "t", range(3, 5), qos=2)
    assert payloads(reader.got()) == [b"0", b"1", b"2", b"3", b"4"]
    reader.end()
    publish_all(writer, "t", range(5, 6))
    reader = broker.client("reader", clean_start=False, receive_maximum=2)
    publish_all(writer, "t", range(6, 7))
    seen: list[bytes] = []
    packets = reader.got()
    while packets:
        assert len(packets) <= 2
        seen += payloads(packets)
        answers: list[Packet] = []
        for packet in packets:
            match packet:
                case Publish(qos=1):
                    answers.append(Puback(packet.packet_identifier))
                case Publish(qos=2):
                    answers.append(Pubrec(packet.packet_identifier))
                case Pubrel():
                    answers.append(Pubcomp(packet.packet_identifier))
        packets = reader.send(*answers)
    assert seen == [b"%d" % number for number in range(7)]


# ---- shared subscriptions ----


def test_equal_members_take_turns() -> None:
    """Balanced: three members, nobody slow, each gets a third, in turn."""
    broker = Assembly()
    members = [subscribed(broker, f"member {number}", SHARED) for number in range(3)]
    publish_all(broker.client("writer"), "t/x", range(9), qos=0)
    assert [member.messages() for member in members] == [
        [b"0", b"3", b"6"],
        [b"1", b"4", b"7"],
        [b"2", b"5", b"8"],
    ]


def test_a_member_with_much_to_do_is_spared() -> None:
    broker = Assembly()
    busy, idle = (subscribed(broker, name, SHARED) for name in ("busy", "idle"))
    writer = broker.client("writer")
    for number in range(10):
        writer.send(publish("t/x", b"%d" % number, 1, number + 1))
        for packet in idle.got():
            assert isinstance(packet, Publish)
            idle.send(Puback(packet.packet_identifier))
    assert len(busy.messages()) <= 2


@pytest.mark.parametrize("qos", [0, 1])
def test_a_member_whose_out_queue_is_full_is_not_chosen(qos: int) -> None:
    broker = Assembly(out_queue_bytes_max=100)
    full, free = (subscribed(broker, name, SHARED) for name in ("full", "free"))
    full.conn.write(b"\xd0\0" * 60)
    publish_all(broker.client("writer"), "t/x", range(4), qos=qos)
    assert free.messages() == [b"0", b"1", b"2", b"3"]
    assert len(full.got()) == 60
    assert broker.counters.dropped_out_queue == 0


def test_a_blocked_member_is_not_chosen() -> None:
    broker = Assembly()
    blocked, free = (subscribed(broker, name, SHARED) for name in ("blocked", "free"))
    blocked.conn.blocked = True
    publish_all(broker.client("writer"), "t/x", range(4))
    assert free.messages() == [b"0", b"1", b"2", b"3"]


def test_only_members_that_may_receive_it_are_chosen() -> None:
    """Rights may have changed since the subscription."""
    some = AclAuthority(AclRules.parse("topic read t/#\ntopic deny t/secret\n", "acl"), None, "some")
    broker = Assembly()
    member, every = (subscribed(broker, name, SHARED) for name in ("some", "every"))
    member.conn.authority = some
    writer = broker.client("writer")
    publish_all(writer, "t/secret", range(4))
    assert every.messages() == [b"0", b"1", b"2", b"3"]
    assert member.got() == []
    # nobody may: it waits for somebody who does
    every.end()
    writer.send(publish("t/secret", b"waits", 1, 1))
    assert member.got() == []
    got = payloads(broker.client("late").send(subscribe(SHARED, qos=1)))
    assert got == [b"0", b"1", b"2", b"3", b"waits"]  # the first four were not acknowledged


def test_with_nobody_online_the_group_keeps_messages_within_its_limits() -> None:
    broker = Assembly(group_messages_max=3, group_bytes_max=100)
    subscribed(broker, "away", SHARED, session_expiry_interval=100).end()
    writer = broker.client("writer")
    publish_all(writer, "t/x", range(2), qos=0)  # QoS 0 is not kept
    publish_all(writer, "t/x", range(2, 7))
    assert broker.counters.dropped_queue_full == 2
    member = subscribed(broker, "new", SHARED)
    assert payloads(member.got()) == []
    # SUBSCRIBE itself was answered with them
    group = broker.router.tree.group(SHARED)
    assert group is not None
    assert isinstance(group.waiting, GroupQueue)
    assert (len(group.waiting.messages), group.waiting.octets) == (0, 0)
    assert [delivery.message.payload for delivery in state_of(member).window.published.values()] == [b"2", b"3", b"4"]
    for client in (member, broker.client("away", clean_start=False)):
        client.end()
    broker.advance(101)
    assert broker.router.tree.group(SHARED) is None


def test_a_group_is_bounded_in_octets() -> None:
    broker = Assembly(group_bytes_max=100)
    subscribed(broker, "away", SHARED, session_expiry_interval=100).end()
    writer = broker.client("writer")
    for number, size in enumerate((60, 60, 20), 1):
        writer.send(publish("t/x", b"x" * size, 1, number))
    group = broker.router.tree.group(SHARED)
    assert group is not None
    assert isinstance(group.waiting, GroupQueue)
    assert group.waiting.octets == 60 + 3 + 20 + 3
    assert broker.counters.dropped_queue_full == 1


@pytest.mark.parametrize(("first", "second", "sent"), [(1, 2, 2), (1, 1, 1), (1, 0, 0)])
def test_a_delivery_of_qos_1_goes_on_when_its_session_ends(first: int, second: int, sent: int) -> None:
    """[MQTT-4.8.2-3 .. -5]: it may move, and then the QoS granted to the next one counts, up to the publisher's."""
    broker = Assembly()
    member = subscribed(broker, "first", SHARED, qos=first)
    writer = broker.client("writer")
    writer.send(publish("t/x", b"moved", 2, 1), Pubrel(1))
    assert member.messages() == [b"moved"]
    other = subscribed(broker, "second", SHARED, qos=second)
    member.end()
    (publication,) = other.got()
    assert isinstance(publication, Publish)
    assert (publication.payload, publication.qos, publication.dup) == (b"moved", sent, False)
    assert other.got() == []


def test_what_moves_keeps_its_order_and_stands_before_what_waited() -> None:
    broker = Assembly()
    subscribed(broker, "away", SHARED, session_expiry_interval=100).end()
    member = subscribed(broker, "first", SHARED, receive_maximum=3)
    publish_all(broker.client("writer"), "t/x", range(5))
    assert member.messages() == [b"0", b"1", b"2"]
    member.end()
    late = broker.client("late")
    assert payloads(late.send(subscribe(SHARED, qos=1))) == [b"0", b"1", b"2", b"3", b"4"]


def test_what_moves_is_bounded_too() -> None:
    broker = Assembly(group_messages_max=2)
    member = subscribed(broker, "first", SHARED)
    publish_all(broker.client("writer"), "t/x", range(5))
    assert len(member.got()) == 5
    subscribed(broker, "away", SHARED, session_expiry_interval=100).end()
    member.end()
    assert broker.counters.dropped_queue_full == 3


@pytest.mark.parametrize("step", ["PUBLISH", "PUBREC"])
def test_a_delivery_of_qos_2_never_moves(step: str) -> None:
    """[MQTT-4.8.2-4], [MQTT-4.8.2-5]."""
    broker = Assembly()
    member, other = (subscribed(broker, name, SHARED, qos=2) for name in ("first", "second"))
    broker.client("writer").send(publish("t/x", b"stays", 2, 1), Pubrel(1))
    assert member.messages() == [b"stays"]
    if step == "PUBREC":
        member.send(Pubrec(1))
    member.end()
    assert other.got() == []
    assert len(state_of(other).window) == 0


@pytest.mark.parametrize("qos", [1, 2])
def test_an_error_discards_for_the_whole_group(qos: int) -> None:
    """[MQTT-4.8.2-6]: nothing moves when the session ends later."""
    broker = Assembly()
    member, other = (subscribed(broker, name, SHARED, qos=qos) for name in ("first", "second"))
    broker.client("writer").send(publish("t/x", b"x", qos, 1), Pubrel(1))
    assert member.messages() == [b"x"]
    member.send((Puback if qos == 1 else Pubrec)(1, ReasonCode.QUOTA_EXCEEDED))
    member.end()
    assert other.got() == []


def test_a_message_is_gone_with_the_last_member() -> None:
    broker = Assembly()
    member = subscribed(broker, "only", SHARED)
    broker.client("writer").send(publish("t/x", b"x", 1, 1))
    assert member.messages() == [b"x"]
    member.end()
    assert subscribed(broker, "next", SHARED).got() == []


def test_a_message_granted_qos_0_waits_in_its_group_for_room() -> None:
    broker = Assembly(out_queue_bytes_max=100)
    subscribed(broker, "away", SHARED, session_expiry_interval=100).end()
    writer = broker.client("writer")
    for number in range(3):
        writer.send(publish("t/x", b"%d" % number + b"x" * 60, 1, number + 1))
    reader = broker.client("reader")
    assert [payload[:1] for payload in payloads(reader.send(subscribe(SHARED, qos=0)))] == [b"0", b"1", b"2"]
    assert broker.counters.dropped_out_queue == 0
    group = broker.router.tree.group(SHARED)
    assert group is not None
    assert isinstance(group.waiting, GroupQueue)
    assert group.waiting.octets == 0


# ---- deliver stages ----


class Censor:
    """A stage of the deliver direction."""

    name = "censor"
    wants: frozenset[object] = frozenset()

    def on_batch(self, conn: Connection, batch: list[object]) -> list[object]:
        raise NotImplementedError

    def plan_deliver(self, conn: Connection, flow: FlowKey) -> Verdict:
        return {"p": Verdict.PASS, "d": Verdict.DENY}.get(flow.topic[0], Verdict.INSPECT)

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        (message,) = batch
        if message.payload == b"bad":
            return []
        return [Message(message.topic, message.payload.upper(), message.qos)]


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("kept", [False, True], ids=["at once", "from the queue"])
def test_stages_see_what_goes_out(qos: int, kept: bool) -> None:
    broker = Assembly(stages=[Censor()])
    reader = subscribed(broker, "reader", "#", session_expiry_interval=100)
    writer = broker.client("writer")
    if kept:
        reader.end()
    for number, topic in enumerate(("pass", "denied", "inspected"), 1):
        for payload, identifier in ((b"good", 2 * number), (b"bad", 2 * number + 1)):
            writer.send(publish(topic, payload, qos, identifier if qos else 0))
    if kept:
        reader = broker.client("reader", clean_start=False)
    expected = [b"good", b"bad", b"GOOD"] if qos or not kept else []
    assert reader.messages() == expected
    assert len(state_of(reader).window) == (len(expected) if qos else 0)
    assert broker.counters.denials["censor: delivery"] == (2 if kept and qos else 0)


def test_a_message_that_a_stage_drops_takes_no_quota() -> None:
    broker = Assembly(stages=[Censor()])
    reader = subscribed(broker, "reader", "i", receive_maximum=1)
    writer = broker.client("writer")
    for number, payload in enumerate((b"bad", b"one", b"bad", b"two"), 1):
        writer.send(publish("i", payload, 1, number))
    assert reader.messages() == [b"ONE"]
    assert payloads(reader.send(Puback(1))) == [b"TWO"]
    assert reader.send(Pingreq()) != []
