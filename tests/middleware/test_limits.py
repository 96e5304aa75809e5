"""The rate limiter, driven by hand: what passes, what is dropped or refused, and that runs count like packets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.packets import Packet, Pingreq, ProtocolVersion, Puback, Publish, Pubrec
from acebroker_middleware.connection import Connection, DeniedPublish, Round
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.limits import RateLimiter
from acebroker_middleware.observe import Counters
from acebroker_middleware.stage import Batch, FlowStage, plan_kind
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.state.session_state import SessionState


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 0.0


def connection(version: int = 5, denied_publish: DeniedPublish = DeniedPublish.IGNORE) -> tuple[Connection, SetClock]:
    clock = SetClock()
    conn = Connection(Round(clock, Limits(), Counters()), denied_publish=denied_publish)
    conn.version = ProtocolVersion(version)
    conn.v5 = version == 5
    conn.ack_queue.version = version
    return conn, clock


def publish(conn: Connection, qos: int = 0, packet_identifier: int = 0, payload: bytes = b"") -> Publish:
    """A PUBLISH that was just decoded: its acknowledgement has a slot."""
    if qos == 1:
        conn.ack_queue.puback.open.append(packet_identifier)
    elif qos == 2:
        conn.ack_queue.pubrec.open.append(packet_identifier)
    return Publish("t", payload, qos, packet_identifier=packet_identifier)


def answered(conn: Connection, *packets: Packet) -> bool:
    return b"".join(conn.out) == b"".join(encode(packet, conn.version) for packet in packets)


FLOW = FlowKey("t")
#: octets of a PUBLISH with topic "t" and no payload
LEAST = 5


# --- messages ----------------------------------------------------------------------------------


def test_the_burst_then_the_rate() -> None:
    limiter = RateLimiter(messages_per_second=10, burst_messages=3)
    conn, clock = connection()
    batch: Batch = [publish(conn) for _ in range(5)]
    assert limiter.on_batch(conn, batch) == batch[:3]
    assert conn.round.counters.dropped_rate == 2
    clock.now += 0.1
    assert len(limiter.on_batch(conn, batch)) == 1
    clock.now += 0.09
    assert limiter.on_batch(conn, batch) == []
    clock.now += 0.01
    assert len(limiter.on_batch(conn, batch)) == 1
    clock.now += 1000
    assert len(limiter.on_batch(conn, batch)) == 3
    assert limiter.on_run(conn, FLOW, 5, 25) == 0
    assert conn.round.counters.publish_dropped == conn.round.counters.dropped_rate == 2 + 4 + 5 + 4 + 2 + 5
    assert conn.out == []


def test_each_connection_has_its_own_bucket() -> None:
    limiter = RateLimiter(messages_per_second=1)
    for _ in range(3):
        conn, _ = connection()
        assert limiter.on_run(conn, FLOW, 2, 10) == 1


def test_only_publish_is_limited() -> None:
    limiter = RateLimiter(messages_per_second=1, burst_messages=1)
    conn, _ = connection()
    first, second = publish(conn), publish(conn)
    last = ProtocolViolation("what the decoder found")
    assert limiter.on_batch(conn, [Pingreq(), first, Puback(7), second, Pingreq(), last]) == [
        Pingreq(),
        first,
        Puback(7),
        Pingreq(),
        last,
    ]


# --- octets ------------------------------------------------------------------------------------


def test_octets_are_those_of_topic_and_payload() -> None:
    limiter = RateLimiter(octets_per_second=100, burst_octets=2 * (LEAST + 20))
    conn, clock = connection()
    batch: Batch = [publish(conn, payload=bytes(20)) for _ in range(4)]
    assert len(limiter.on_batch(conn, batch)) == 2
    clock.now += 0.25
    assert len(limiter.on_batch(conn, batch)) == 1
    umlaut = Publish("ä" * 10)
    clock.now += 1000
    assert len(limiter.on_batch(conn, [umlaut, umlaut, umlaut, umlaut])) == 3  # 24 octets each


def test_a_message_larger_than_the_burst_passes_and_is_paid_for() -> None:
    limiter = RateLimiter(octets_per_second=100, burst_octets=50)
    conn, clock = connection()
    large = publish(conn, payload=bytes(445))
    assert limiter.on_batch(conn, [large, large]) == [large]
    clock.now += 3.9  # 450 - 50 octets are owed
    assert limiter.on_batch(conn, [large]) == []
    clock.now += 0.2
    assert limiter.on_batch(conn, [large]) == [large]


def test_both_bounds_hold() -> None:
    limiter = RateLimiter(messages_per_second=10, octets_per_second=1000)
    conn, clock = connection()
    assert limiter.on_run(conn, FLOW, 20, 200) == 10
    clock.now += 1
    assert limiter.on_run(conn, FLOW, 10, 2000) == 5


# --- QoS 1 and 2 -------------------------------------------------------------------------------


def test_qos_1_and_2_are_refused_on_mqtt_5() -> None:
    """0x97 Quota exceeded in PUBACK and PUBREC (3.4.2.1, 3.5.2.1), by name in the counters."""
    limiter = RateLimiter(messages_per_second=1)
    conn, _ = connection()
    passed = publish(conn)
    refused = [publish(conn, 1, 7), publish(conn, 2, 8)]
    assert limiter.on_batch(conn, [passed, *refused, Pingreq()]) == [passed, Pingreq()]
    assert answered(conn, Puback(7, ReasonCode.QUOTA_EXCEEDED), Pubrec(8, ReasonCode.QUOTA_EXCEEDED))
    assert conn.round.counters.denials == {"rate-limit": 2}
    assert conn.round.counters.dropped_rate == 0


def test_mqtt_3_acknowledges_or_ends() -> None:
    limiter = RateLimiter(messages_per_second=1)
    conn, _ = connection(4)
    passed = publish(conn)
    assert limiter.on_batch(conn, [passed, publish(conn, 1, 7)]) == [passed]
    assert answered(conn, Puback(7))

    conn, _ = connection(4, DeniedPublish.DISCONNECT)
    *before, error = limiter.on_batch(conn, [passed, publish(conn, 1, 7), passed])
    assert before == [passed]
    assert isinstance(error, MqttError)
    assert error.reason_code == ReasonCode.QUOTA_EXCEEDED
    assert conn.out == []


def test_what_was_received_before_passes() -> None:
    """A QoS 2 PUBLISH sent again is answered as the first was, and costs nothing."""
    limiter = RateLimiter(messages_per_second=1)
    conn, clock = connection()
    conn.session = SessionState("c", Identity("anonymous", "c"))
    conn.session.inbound[8] = again = publish(conn, 2, 8)
    assert limiter.on_run(conn, FLOW, 1, 5) == 1
    assert limiter.on_batch(conn, [again, again]) == [again, again]
    assert limiter.on_batch(conn, [publish(conn, 2, 9)]) == []
    clock.now += 1
    assert limiter.on_run(conn, FLOW, 1, 5) == 1


# --- contract and arguments --------------------------------------------------------------------


def test_it_is_a_flow_stage_that_counts_runs() -> None:
    limiter = RateLimiter(messages_per_second=1)
    assert isinstance(limiter, FlowStage)
    assert plan_kind(limiter) == "plan + on_run"
    assert limiter.plan(connection()[0], FLOW) is Verdict.PASS
    assert repr(limiter) == (
        "RateLimiter(messages_per_second=1, burst_messages=1, octets_per_second=inf, burst_octets=inf)"
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"messages_per_second": 0},
        {"messages_per_second": -1},
        {"messages_per_second": math.nan},
        {"octets_per_second": math.inf},
        {"messages_per_second": 1, "burst_messages": 0},
        {"messages_per_second": 1, "burst_messages": math.nan},
        {"messages_per_second": 1, "burst_octets": 10},
        {"burst_messages": 10},
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RateLimiter(**options)


def test_a_slow_rate_still_lets_one_message_through() -> None:
    limiter = RateLimiter(messages_per_second=0.1)
    conn, clock = connection()
    assert limiter.on_run(conn, FLOW, 3, 15) == 1
    clock.now += 10
    assert limiter.on_run(conn, FLOW, 3, 15) == 1


# --- properties --------------------------------------------------------------------------------

RATES = st.floats(0.5, 500)
BURSTS = st.floats(1, 500)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0.001, 0.1, 0.5, 3]), st.integers(1, 80), st.integers(0, 60)), max_size=30
)


@settings(deadline=None, max_examples=200)
@given(RATES, BURSTS, RATES, BURSTS, STEPS)
def test_never_more_than_burst_and_rate_and_runs_count_like_packets(
    message_rate: float,
    message_burst: float,
    octet_rate: float,
    octet_burst: float,
    steps: list[tuple[float, int, int]],
) -> None:
    limiter = RateLimiter(
        messages_per_second=message_rate,
        burst_messages=message_burst,
        octets_per_second=octet_rate,
        burst_octets=octet_burst,
    )
    by_run, run_clock = connection()
    by_packet, packet_clock = connection()
    elapsed, messages, octets = 0.0, 0, 0
    for wait, count, payload_octets in steps:
        run_clock.now += wait
        packet_clock.now += wait
        elapsed += wait
        each = LEAST + payload_octets
        passed = limiter.on_run(by_run, FLOW, count, count * each)
        batch: Batch = [publish(by_packet, payload=bytes(payload_octets))] * count
        assert len(limiter.on_batch(by_packet, batch)) == passed
        messages += passed
        octets += passed * each
        assert messages <= message_burst + elapsed * message_rate + 0.001
        assert octets <= octet_burst + elapsed * octet_rate + LEAST + 60 + 0.001
    assert by_run.round.counters.dropped_rate == by_packet.round.counters.dropped_rate
