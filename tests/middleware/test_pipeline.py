"""The pipeline: order, hand-offs in the middle of a read, what is remembered of flows and what bounds that."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    Connack,
    Connect,
    PacketType,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
)
from acebroker_middleware.acl import AclAuthority, AclRules, DenyAll
from acebroker_middleware.connection import Connection
from acebroker_middleware.decode import Decode
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.flows import FlowKey, FlowMode, Verdict
from acebroker_middleware.pipeline import FLOW_OVERHEAD_BYTES, PROPERTIES_MAX, Pipeline
from acebroker_middleware.stage import Batch, per_packet
from tests.middleware.assembly import Assembly, Client, Pending, publish, subscribe

both_paths = pytest.mark.parametrize("flow_cache", [False, True])
each_version = pytest.mark.parametrize("version", [3, 4, 5])


def pair(version: int = 5, reader_version: int = 5, **options: Any) -> tuple[Assembly, Client, Client]:
    """A broker, a reader of everything, and a writer."""
    broker = Assembly(**options)
    reader = broker.client("reader", reader_version)
    reader.send(subscribe("#", qos=1))
    return broker, reader, broker.client("writer", version)


# ---- how it is put together ----


def test_stages_have_names_of_their_own_and_built_in_ends() -> None:
    broker = Assembly()
    decode, *middle, router = broker.pipeline.stages
    with pytest.raises(ValueError, match="same name: decode, authn, authn"):
        Pipeline(broker.round, [decode, middle[0], middle[0], router])
    for stages in ([], [decode], [decode, *middle], [*middle, router], [router, decode]):
        with pytest.raises(ValueError, match="begins with decode and ends with the router"):
            Pipeline(broker.round, stages)
    assert isinstance(decode, Decode)


# ---- octets ----


@each_version
@both_paths
def test_any_split_of_the_octets(version: int, flow_cache: bool) -> None:
    """Runs, packets and acknowledgements, cut anywhere, give the same."""
    packets = [
        publish("a/b", b"1"),
        publish("a/b", b"2"),
        publish("c", b"3"),
        publish("c", b"4" * 130, 1, 7),
        Pingreq(),
    ]
    writer = Assembly().client("writer", version)
    octets = b"".join(encode(packet, writer.version) for packet in packets)
    for cut in range(len(octets) + 1):
        _, reader, writer = pair(version, version, flow_cache=flow_cache)
        writer.send(publish("a/b", b"0"))  # the flow is known
        assert reader.messages() == [b"0"]
        writer.feed(octets[:cut])
        writer.feed(octets[cut:])
        assert reader.messages() == [b"1", b"2", b"3", b"4" * 130]
        assert {type(packet) for packet in writer.got()} == {Puback, Pingresp}


@both_paths
@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("limit", [60, 300])
def test_a_packet_is_no_larger_than_the_limit(limit: int, in_pieces: bool, flow_cache: bool) -> None:
    """[MQTT-3.2.2-15]: below and above the length that takes one octet; in one piece as in many."""
    _, reader, writer = pair(packet_bytes_max=limit, flow_cache=flow_cache)
    header = 2 + 2 + 1 + 1 if limit < 128 else 3 + 2 + 1 + 1
    for topic in ("t", "t"):
        writer.send(publish(topic, b"x" * (limit - header)))
        assert writer.ended is None
    assert len(reader.messages()) == 2
    octets = encode(publish("t", b"x" * (limit - header + 1)), writer.version)
    pieces = [octets[at : at + 1] for at in range(len(octets))] if in_pieces else [octets]
    for piece in pieces:
        if writer.ended is None:
            writer.feed(piece)
    assert writer.ended is not None
    assert writer.ended.reason_code == ReasonCode.PACKET_TOO_LARGE
    assert reader.got() == []


@both_paths
@pytest.mark.parametrize(
    ("topic", "reason_code"),
    [
        (b"", ReasonCode.PROTOCOL_ERROR),
        (b"a/+", ReasonCode.TOPIC_NAME_INVALID),
        (b"a\0", ReasonCode.MALFORMED_PACKET),
        (b"\xff", ReasonCode.MALFORMED_PACKET),
    ],
)
def test_a_topic_that_is_none_ends_the_connection(topic: bytes, reason_code: int, flow_cache: bool) -> None:
    _, reader, writer = pair(flow_cache=flow_cache)
    good = encode(publish("a"), writer.version)
    body = len(topic).to_bytes(2, "big") + topic + b"\0x"
    writer.feed(good + bytes([0x30, len(body)]) + body + good)
    assert writer.ended is not None
    assert writer.ended.reason_code == reason_code
    assert len(reader.messages()) == 1  # what came before is handled, what came behind is not


# ---- runs ----


@both_paths
@pytest.mark.parametrize("reader_version", [3, 5])
@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("size", [0, 120, 121, 122, 123, 124, 300, 16_378])
def test_a_run_reaches_every_version(version: int, reader_version: int, size: int, flow_cache: bool) -> None:
    """The frames of MQTT 5 have one octet more: lengths that grow an octet by that, too."""
    _, reader, writer = pair(version, reader_version, flow_cache=flow_cache)
    payloads = [bytes([number]) * (size + number % 2) for number in range(6)]
    writer.send(*[publish("t", payload) for payload in payloads])
    assert reader.messages() == payloads


@both_paths
def test_a_denied_run_is_dropped_and_counted(flow_cache: bool) -> None:
    rights = AclAuthority(AclRules.parse("topic write ok\n", "acl"), None, "writer")
    broker, reader, writer = pair(authorities={"writer": rights}, flow_cache=flow_cache)
    writer.send(publish("ok", b"1"), *[publish("no", b"x")] * 5, publish("ok", b"2"), publish("no", b"x", 1, 1))
    assert reader.messages() == [b"1", b"2"]
    assert broker.counters.denials == {"no rule": 6}


def test_a_run_goes_as_far_as_the_out_queue_has_room() -> None:
    broker, reader, writer = pair(out_queue_bytes_max=100)
    writer.send(*[publish("t", b"%d" % number + b"x" * 20) for number in range(9)])
    got = reader.messages()
    assert [payload[:1] for payload in got] == [b"0", b"1", b"2"]  # 26 octets each
    assert reader.conn.dropped == broker.counters.dropped_out_queue == 6
    assert broker.counters.publish_sent == 3
    writer.send(publish("t", b"next"))
    assert reader.messages() == [b"next"]


@both_paths
def test_a_run_is_counted_like_packets(flow_cache: bool) -> None:
    broker, reader, writer = pair(flow_cache=flow_cache)
    before = broker.counters.packets_received
    writer.send(*[publish("t")] * 3, publish("u"), Pingreq(), *[publish("t")] * 2)
    assert broker.counters.packets_received - before == 7
    assert broker.counters.publish_received == broker.counters.publish_sent == 6
    assert len(reader.messages()) == 6


class Meter:
    """A plugin that lets so many of each run on topic `t` pass, or raises."""

    name = "meter"
    wants = frozenset({PacketType.PUBLISH})

    def __init__(self, allowed: Any) -> None:
        self.allowed = allowed
        self.runs: list[tuple[str, int, int]] = []

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.PASS

    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> int:
        self.runs.append((flow.topic, count, octets))
        if isinstance(self.allowed, Exception):
            raise self.allowed
        return self.allowed if flow.topic == "t" else count


@pytest.mark.parametrize(("allowed", "passed"), [(-1, 0), (0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_of_a_run_so_many_pass_as_a_stage_says(allowed: int, passed: int) -> None:
    """From the first, whatever the length of each frame."""
    meter = Meter(allowed)
    broker, reader, writer = pair(stages=[meter])
    payloads = [b"1", b"2" * 200, b"3", b"4" * 200]
    writer.send(publish("u", b"0"), *[publish("t", payload) for payload in payloads])
    assert meter.runs[1] == ("t", 4, sum(len(encode(publish("t", payload), writer.version)) for payload in payloads))
    assert reader.messages() == [b"0", *payloads[:passed]]
    assert broker.counters.publish_sent == 1 + passed


@pytest.mark.parametrize("error", [ProtocolViolation("no"), ZeroDivisionError()], ids=repr)
def test_a_run_that_a_stage_raises_for_ends_the_connection(error: Exception) -> None:
    _, reader, writer = pair(stages=[Meter(error)])
    writer.send(publish("t"))
    assert isinstance(writer.ended, StageFailure) or writer.ended is error
    assert reader.got() == []


def test_a_run_goes_on_over_topics_with_the_same_readers() -> None:
    """What goes to the same sessions leaves in one piece, and nothing else does."""
    broker, reader, writer = pair()
    other = broker.client("other", 5)
    other.send(subscribe("v/#"))
    frames = [publish(topic, b"1") for topic in ("t", "t", "u/u", "t", "v/1", "v/2", "u/u")]
    writer.send(*frames[:1], publish("u/u"), publish("v/1"), publish("v/2"))  # known flows from here on
    reader.got(), other.got()
    writer.send(*frames)
    assert [len(chunk) for chunk in reader.conn.out] == [
        sum(len(encode(frame, ProtocolVersion.MQTT_5)) for frame in chunk)
        for chunk in (frames[:4], frames[4:6], frames[6:])
    ]
    assert reader.messages() == [b"1"] * 7
    assert other.messages() == [b"1"] * 2


def test_a_stage_that_counts_runs_gets_them_by_topic() -> None:
    meter = Meter(2)
    _, reader, writer = pair(stages=[meter])
    writer.send(*[publish("t", b"t")] * 3, publish("u", b"u"), publish("t", b"t"))
    assert [(topic, count) for topic, count, _ in meter.runs] == [("t", 3), ("u", 1), ("t", 1)]
    assert reader.messages() == [b"t", b"t", b"u", b"t"]


def with_properties(octets: bytes, payload: bytes = b"x") -> bytes:
    """A PUBLISH of QoS 0 on topic t with these octets in the place of its properties."""
    body = b"\0\1t" + octets + payload
    return bytes([0x30, len(body)]) + body


USER_PROPERTY = b"\x07\x26\0\1k\0\1v"


@both_paths
@pytest.mark.parametrize("reader_version", [3, 5])
def test_properties_in_runs(reader_version: int, flow_cache: bool) -> None:
    """Readers below MQTT 5 get the payload alone."""
    _, reader, writer = pair(5, reader_version, flow_cache=flow_cache)
    for _ in range(2):
        frames = [
            with_properties(USER_PROPERTY, b"1"),
            with_properties(b"\0", b"22"),
            with_properties(USER_PROPERTY, b""),
        ]
        writer.feed(b"".join([*frames, frames[0], frames[0]]))
        got = reader.got()
        assert [(p.payload, p.properties.user_properties) for p in got if isinstance(p, Publish)] == [
            (payload, (("k", "v"),) if some and reader_version == 5 else ())
            for payload, some in ((b"1", True), (b"22", False), (b"", True), (b"1", True), (b"1", True))
        ]


@both_paths
@pytest.mark.parametrize("known", [False, True])
def test_properties_that_run_past_the_end_of_their_packet(known: bool, flow_cache: bool) -> None:
    """Though all their octets are in the read, and though they were good in another packet."""
    _, reader, writer = pair(flow_cache=flow_cache)
    if known:
        writer.feed(with_properties(USER_PROPERTY))
        assert reader.messages() == [b"x"]
    frame = with_properties(USER_PROPERTY, b"")
    writer.feed(bytes([0x30, len(frame) - 3]) + frame[2:] + frame)
    assert isinstance(writer.ended, MqttError)
    assert writer.ended.reason_code == ReasonCode.MALFORMED_PACKET
    assert reader.messages() == []


def test_remembered_properties_are_bounded() -> None:
    _, reader, writer = pair()
    for number in range(3 * PROPERTIES_MAX):
        writer.feed(with_properties(b"\x0a\x26\0\1k\0\4%04d" % number))
        assert len(writer.assembly.pipeline._properties) <= PROPERTIES_MAX
    large = b"\x26\0\1k\x02\0" + b"v" * 0x200
    large = bytes([len(large) & 0x7F | 0x80, len(large) >> 7]) + large
    known = set(writer.assembly.pipeline._properties)
    body = b"\0\1t" + large
    writer.feed(bytes([0x30, len(body) & 0x7F | 0x80, len(body) >> 7]) + body)
    assert writer.assembly.pipeline._properties == known
    assert len(reader.messages()) == 3 * PROPERTIES_MAX + 1


# ---- flows ----


def remembered(writer: Client) -> dict[bytes, Any]:
    """Both generations, which have no topic in common."""
    younger, elder = writer.conn.flows, writer.conn.flows_before
    assert not set(younger) & set(elder)
    return {**younger, **elder}


def octets_of(flows: dict[bytes, Any]) -> int:
    return sum(len(topic) + FLOW_OVERHEAD_BYTES for topic in flows)


@pytest.mark.parametrize("together", [False, True])
def test_remembered_flows_are_bounded_in_number(together: bool) -> None:
    """At most ten, and for sure the last five; in many reads or in one."""
    _, reader, writer = pair(flows_per_connection_max=10)
    packets = [publish(f"t/{number}", b"%d" % number) for number in range(100)]
    for sent in [packets] if together else [[packet] for packet in packets]:
        writer.send(*sent)
        assert 0 < len(remembered(writer)) <= 10
        last = packets[packets.index(sent[-1]) - 4 : packets.index(sent[-1]) + 1]
        assert {packet.topic.encode() for packet in last} <= set(remembered(writer))
        assert writer.conn.flow_octets == octets_of(writer.conn.flows)
    assert reader.messages() == [packet.payload for packet in packets]


def test_remembered_flows_are_bounded_in_octets() -> None:
    limit = 10 * FLOW_OVERHEAD_BYTES
    _, reader, writer = pair(flow_bytes_per_connection_max=limit)
    for number in range(100):
        writer.send(publish(f"{number}/" + "x" * (number * 7 % 400), b"%d" % number))
        assert writer.conn.flow_octets == octets_of(writer.conn.flows) <= limit // 2
        assert octets_of(remembered(writer)) <= limit
    assert len(reader.messages()) == 100
    writer.send(publish("y" * limit))
    assert len(writer.conn.flows) == 1  # one alone is remembered, whatever its size


def test_the_smallest_memory_is_enough() -> None:
    judge = Judge(**dict.fromkeys("abc", Verdict.PASS))
    _, reader, writer = pair(stages=[judge], flows_per_connection_max=1)
    writer.send(*[publish(topic, topic.encode()) for topic in "aabbaacc"])
    assert reader.messages() == [b"a", b"a", b"b", b"b", b"a", b"a", b"c", b"c"]
    assert len(remembered(writer)) == 1


def test_a_topic_that_is_met_again_is_not_forgotten() -> None:
    """A stream of topics that never come again passes by those that do; they are decided once."""
    judge = Judge(
        often=Verdict.PASS, sometimes=Verdict.PASS, **{f"once{number}": Verdict.PASS for number in range(100)}
    )
    _, _, writer = pair(stages=[judge], flows_per_connection_max=20)
    for number in range(100):
        writer.send(publish(f"once{number}"), publish("often"))
        if number % 5 == 0:
            writer.send(publish("sometimes"))
    assert sorted(judge.planned) == sorted([*(f"once{number}" for number in range(100)), "often", "sometimes"])


def test_a_topic_of_the_elder_generation_that_went_stale_is_planned_anew() -> None:
    broker, reader, writer = pair(flows_per_connection_max=4)
    writer.send(publish("t", b"1"), publish("u", b"2"), publish("v", b"3"))
    assert b"t" in writer.conn.flows_before
    other = broker.client("other", 5)
    other.send(subscribe("t"))
    writer.send(publish("t", b"4"))
    assert other.messages() == [b"4"]
    assert reader.messages() == [b"1", b"2", b"3", b"4"]


def test_a_topic_that_is_planned_anew_is_counted_once() -> None:
    _, reader, writer = pair()
    for _ in range(5):
        writer.send(publish("t"))
        assert len(reader.messages()) == 1
        reader.send(subscribe("+"))  # makes the route stale
        assert writer.conn.flow_octets == octets_of({b"t": None})


def test_rights_that_change_void_both_generations() -> None:
    _, reader, writer = pair(flows_per_connection_max=4)
    writer.send(publish("t"), publish("u"), publish("v"))
    assert len(remembered(writer)) == 3
    writer.conn.authority = DenyAll()
    writer.conn.forget_flows()
    assert (remembered(writer), writer.conn.flow_octets) == ({}, 0)
    writer.send(publish("t"), publish("v"))
    assert len(reader.messages()) == 3


@both_paths
def test_rights_that_change_count_from_the_next_packet_on(flow_cache: bool) -> None:
    _, reader, writer = pair(flow_cache=flow_cache)
    writer.send(publish("t", b"1"))
    writer.conn.authority = DenyAll()
    writer.conn.forget_flows()
    writer.send(publish("t", b"2"))
    assert reader.messages() == [b"1"]


class Judge:
    """A plugin that decides by topic; `seen` are the packets that it inspected."""

    name = "judge"
    wants = frozenset({PacketType.PUBLISH})

    def __init__(self, **verdicts: Any) -> None:
        self.verdicts = verdicts
        self.seen: list[str] = []
        self.planned: list[str] = []

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        self.seen += [packet.topic for packet in batch if isinstance(packet, Publish)]
        return batch

    def plan(self, conn: Connection, flow: FlowKey) -> Any:
        self.planned.append(flow.topic)
        verdict = self.verdicts[flow.topic]
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


def test_stages_decide_once_for_each_topic() -> None:
    judge = Judge(p=Verdict.PASS, d=Verdict.DENY, i=Verdict.INSPECT)
    broker, reader, writer = pair(stages=[judge])
    for _ in range(2):
        writer.send(*[publish(topic, topic.encode()) for topic in "ppddiip"])
    assert reader.messages() == [b"p", b"p", b"i", b"i", b"p"] * 2
    assert sorted(judge.planned) == ["d", "i", "p"]
    assert judge.seen == ["i", "i"] * 2
    assert broker.counters.denials == {"judge: d": 4}
    assert {flow.topic: flow.mode for flow in writer.conn.flows.values()} == {
        "p": FlowMode.FAST,
        "d": FlowMode.DENIED,
        "i": FlowMode.PACKETS,
    }


def test_a_plugin_that_passed_a_flow_sees_its_packets_with_properties() -> None:
    """What it was asked says nothing of properties: FlowKey holds none."""
    judge = Judge(t=Verdict.PASS)
    _, reader, writer = pair(stages=[judge])
    plain, declared = publish("t", b"1"), publish("t", b"2", payload_format_indicator=1)
    for _ in range(2):
        writer.send(plain, plain, declared, declared, plain)
    assert reader.messages() == [b"1", b"1", b"2", b"2", b"1"] * 2
    assert judge.seen == ["t", "t"] * 2


@pytest.mark.parametrize("error", [ProtocolViolation("no"), ZeroDivisionError()], ids=repr)
def test_a_plan_that_raises_ends_the_connection(error: Exception) -> None:
    _, reader, writer = pair(stages=[Judge(t=error, u=Verdict.PASS)])
    writer.send(publish("t"), publish("u", b"behind"))
    assert isinstance(writer.ended, ProtocolViolation if isinstance(error, MqttError) else StageFailure)
    assert reader.got() == []


@pytest.mark.parametrize("qos", [0, 1])
def test_what_came_before_a_plan_that_raises_goes_its_way(qos: int) -> None:
    _, reader, writer = pair(stages=[Judge(t=ZeroDivisionError(), u=Verdict.PASS)])
    writer.send(publish("u", b"1", qos, qos), publish("u", b"2", qos, 2 * qos), publish("t", b"3", qos, 3 * qos))
    assert isinstance(writer.ended, StageFailure)
    assert reader.messages() == [b"1", b"2"]


@both_paths
@pytest.mark.parametrize("largest", [40, 127, 128, 129, 130, 131, 16_386])
def test_no_frame_is_larger_than_its_subscriber_takes(largest: int, flow_cache: bool) -> None:
    """[MQTT-3.1.2-24]: a frame of MQTT 3 grows on its way to a subscriber of MQTT 5."""
    broker = Assembly(flow_cache=flow_cache)
    reader, writer = broker.client("reader", maximum_packet_size=largest), broker.client("writer", version=4)
    reader.send(subscribe("t"))
    writer.send(publish("t"))
    reader.got()
    sizes = set()
    for size in range(largest - 12, largest + 1):
        writer.send(publish("t", bytes(size)))
        sizes |= {len(encode(packet, ProtocolVersion.MQTT_5)) for packet in reader.got()}
    assert largest - 1 <= max(sizes) <= largest  # not every size exists


@both_paths
@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff\x01", b"\x80\x80\x80\x00", b"\xff\xff\xff\x7f"])
def test_what_follows_a_run_and_is_no_packet_goes_to_nobody(length: bytes, flow_cache: bool) -> None:
    """A bad Remaining Length behind a row of good frames, and octets that a subscriber could take for packets."""
    broker = Assembly(flow_cache=flow_cache)
    reader, writer = broker.client("reader"), broker.client("writer")
    reader.send(subscribe("t"))
    writer.send(publish("t"))
    reader.got()
    forged = encode(publish("elsewhere", b"forged"), ProtocolVersion.MQTT_5)
    writer.feed(encode(publish("t", b"1"), ProtocolVersion.MQTT_5) * 3 + b"\x30" + length + forged)
    assert isinstance(writer.ended, MqttError)
    assert reader.messages() == [b"1"] * 3


# ---- acknowledgements ----


@both_paths
@pytest.mark.parametrize("subscribed", [False, True])
def test_no_acknowledgement_overtakes_one_that_is_not_known_yet(subscribed: bool, flow_cache: bool) -> None:
    """[MQTT-4.6.0-2], [MQTT-4.6.0-3]: single frames and rows of them, of a flow that is known."""
    broker = Assembly(flow_cache=flow_cache)
    if subscribed:
        broker.client("reader").send(subscribe("t", qos=2))
    writer = broker.client("writer")
    writer.send(publish("t"))
    acks = writer.conn.ack_queue
    for slots, qos, kind in ((acks.puback, 1, Puback), (acks.pubrec, 2, Pubrec)):
        slots.open.append(99)
        assert writer.send(publish("t", b"x", qos, 1)) == []
        assert writer.send(*[publish("t", b"x", qos, identifier) for identifier in (2, 3, 4)]) == []
        slots.fill(99)
        got = writer.got()
        assert all(type(packet) is kind for packet in got)
        assert [packet.packet_identifier for packet in got if isinstance(packet, kind)] == [99, 1, 2, 3, 4]
    acks.pubcomp.open.append(99)
    assert writer.send(*[Pubrel(identifier) for identifier in (1, 2, 3, 4)]) == []
    acks.pubcomp.fill(99)
    assert writer.got() == [Pubcomp(identifier) for identifier in (99, 1, 2, 3, 4)]


# ---- hand-offs ----


class Gate:
    """A plugin that passes SUBSCRIBE on when its gate is opened."""

    name = "gate"
    wants = frozenset({PacketType.SUBSCRIBE})

    def __init__(self) -> None:
        self.gates: list[Pending[Batch]] = []

    def on_batch(self, conn: Connection, batch: Batch) -> Any:
        self.gates.append(Pending(batch))
        return self.gates[-1]


@both_paths
def test_a_hand_off_in_the_middle_of_a_read(flow_cache: bool) -> None:
    """What came before it is done, what comes behind it waits, and order is kept."""
    gate = Gate()
    broker = Assembly(stages=[gate], flow_cache=flow_cache)
    client = broker.client()
    other = broker.client("other")
    known = publish("t", b"0")
    client.send(known)
    # PUBLISH (run), SUBSCRIBE (waits), PUBLISH (run), SUBSCRIBE (waits), PUBLISH (QoS 1), PINGREQ
    assert (
        client.send(
            publish("t", b"1"),
            subscribe("t", packet_identifier=1),
            publish("t", b"2"),
            subscribe("t", qos=1, packet_identifier=2),
            publish("t", b"3", 1, 9),
            Pingreq(),
        )
        == []
    )
    assert not client.step()
    assert other.send(Pingreq()) == [Pingresp()]  # nobody else waits
    if not flow_cache:
        # one batch: both SUBSCRIBE packets are handed over together, with everything else
        assert len(gate.gates) == 1
        gate.gates[0].done = True
        assert client.step()
        kinds = [type(packet) for packet in client.got()]
        assert sorted(kind.__name__ for kind in kinds) == [
            "Pingresp",
            "Puback",
            "Publish",
            "Publish",
            "Suback",
            "Suback",
        ]
        return
    gate.gates[0].done = True
    assert not client.step()
    first = client.got()
    assert [type(packet) for packet in first] == [Suback, Publish]
    assert [packet.payload for packet in first if isinstance(packet, Publish)] == [b"2"]
    gate.gates[1].done = True
    assert client.step()
    rest = client.got()
    assert [packet.payload for packet in rest if isinstance(packet, Publish)] == [b"3"]
    assert {type(packet) for packet in rest} == {Suback, Publish, Puback, Pingresp}


def test_a_session_that_is_taken_over_during_a_hand_off() -> None:
    gate = Gate()
    broker = Assembly(stages=[gate])
    client = broker.client(session_expiry_interval=100)
    client.send(subscribe("t"))
    assert not client.step()
    second = broker.client(session_expiry_interval=100, clean_start=False)
    gate.gates[0].done = True
    assert client.step()
    assert client.ended is not None
    assert client.ended.reason_code == ReasonCode.SESSION_TAKEN_OVER
    assert second.conn.session is not None
    assert second.conn.session.subscriptions == {}


@pytest.mark.parametrize("error", [ProtocolViolation("no"), ZeroDivisionError()], ids=repr)
def test_a_hand_off_that_fails_ends_the_connection_in_place(error: Exception) -> None:
    """What came before is handled, and the stage is named."""
    gate = Pending(None)

    @per_packet(PacketType.SUBSCRIBE, name="failing")
    async def failing(conn: Connection, packet: Any) -> Any:
        await gate
        raise error

    broker = Assembly(stages=[failing])
    client = broker.client()
    got = client.send(publish("t", b"", 1, 1), subscribe("t"), publish("t", b"", 1, 2))
    assert not client.step()
    gate.done = True
    assert client.step()
    assert [*got, *client.got()] == [Puback(1, ReasonCode.NO_MATCHING_SUBSCRIBERS)]
    if isinstance(error, MqttError):
        assert client.ended is error
    else:
        assert isinstance(client.ended, StageFailure)
        assert client.ended.detail == "stage failing failed"


async def test_a_read_full_of_hand_offs_takes_no_stack() -> None:
    @per_packet(PacketType.SUBSCRIBE)
    async def later(conn: Connection, packet: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return packet

    broker = Assembly(stages=[later], out_queue_bytes_max=10**9)
    client = broker.client()
    client.send(publish("t"))
    pending = client.feed(
        b"".join(encode(packet, client.version) for packet in [subscribe("u"), publish("t", b"x")] * 2_000)
    )
    assert pending is not None
    await pending
    assert len(client.got()) == 2_000


# ---- CONNECT ----


def test_nothing_is_taken_before_connect() -> None:
    broker = Assembly()
    client = Client(broker, 5)
    client.feed(encode(publish("t"), client.version))
    assert client.ended is not None
    assert client.ended.reason_code == ReasonCode.PROTOCOL_ERROR


def test_what_stands_behind_connect_in_the_same_read_is_taken() -> None:
    """A client need not wait for CONNACK (3.1.4)."""
    broker, reader, _ = pair()
    client = Client(broker, 5)
    packets = [Connect("client"), publish("t", b"1"), publish("t", b"2"), publish("t", b"3", 1, 1)]
    client.feed(b"".join(encode(packet, client.version) for packet in packets))
    assert [type(packet) for packet in client.got()] == [Connack, Puback]
    assert reader.messages() == [b"1", b"2", b"3"]


@both_paths
@pytest.mark.parametrize("at_once", [False, True])
def test_without_an_answer_to_connect_nothing_goes_on(at_once: bool, flow_cache: bool) -> None:
    """A stage that drops CONNECT without a word lets nobody in."""

    @per_packet(PacketType.CONNECT)
    def dropping(conn: Connection, packet: Connect) -> Connect | None:
        return packet if packet.client_identifier != "dropped" else None

    _, reader, _ = pair(stages=[dropping], flow_cache=flow_cache)
    client = Client(reader.assembly, 5)
    octets = [encode(packet, client.version) for packet in (Connect("dropped"), publish("t", b"no session"))]
    for piece in [b"".join(octets)] if at_once else octets:
        client.feed(piece)
    assert reader.got() == []
    assert isinstance(client.ended, StageFailure)
