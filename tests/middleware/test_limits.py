"""The rate limiter, driven by hand: what passes, what is dropped or refused, and that runs count like packets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import Pingreq, Puback, Publish, Pubrec
from acebroker_middleware.connection import DeniedPublish
from acebroker_middleware.flows import Verdict
from acebroker_middleware.limits import RateLimiter
from acebroker_middleware.stage import FlowStage, plan_kind
from acebroker_middleware.testing import RecordingConnection


def publish(qos: int = 0, packet_identifier: int = 0, payload: bytes = b"") -> Publish:
    return Publish("t", payload, qos, packet_identifier=packet_identifier)


def passes(limiter: RateLimiter, conn: RecordingConnection, *packets: Publish) -> int:
    """How many of the packets, all of QoS 0, the limiter lets pass: the first ones."""
    passed = conn.feed(limiter, *packets).passed
    assert passed == list(packets[: len(passed)])
    return len(passed)


#: octets of a PUBLISH with topic "t" and no payload
LEAST = 5


# --- messages ----------------------------------------------------------------------------------


def test_the_burst_then_the_rate() -> None:
    limiter = RateLimiter(messages_per_second=10, burst_messages=3)
    conn = RecordingConnection()
    batch = [publish()] * 5
    assert passes(limiter, conn, *batch) == 3
    assert conn.round.counters.dropped_rate == 2
    conn.clock.advance(0.1)
    assert passes(limiter, conn, *batch) == 1
    conn.clock.advance(0.09)
    assert passes(limiter, conn, *batch) == 0
    conn.clock.advance(0.01)
    assert passes(limiter, conn, *batch) == 1
    conn.clock.advance(1000)
    assert passes(limiter, conn, *batch) == 3
    assert conn.run(limiter, "t", 5, 25) == 0
    assert conn.round.counters.publish_dropped == conn.round.counters.dropped_rate == 2 + 4 + 5 + 4 + 2 + 5
    assert conn.written() == []


def test_each_connection_has_its_own_bucket() -> None:
    limiter = RateLimiter(messages_per_second=1)
    for _ in range(3):
        assert RecordingConnection().run(limiter, "t", 2, 10) == 1


def test_only_publish_is_limited() -> None:
    limiter = RateLimiter(messages_per_second=1, burst_messages=1)
    last = ProtocolViolation("what the decoder found")
    fed = RecordingConnection().feed(limiter, Pingreq(), publish(), Puback(7), publish(), Pingreq(), last)
    assert fed.passed == [Pingreq(), publish(), Puback(7), Pingreq()]
    assert fed.error is last


# --- octets ------------------------------------------------------------------------------------


def test_octets_are_those_of_topic_and_payload() -> None:
    limiter = RateLimiter(octets_per_second=100, burst_octets=2 * (LEAST + 20))
    conn = RecordingConnection()
    batch = [publish(payload=bytes(20))] * 4
    assert passes(limiter, conn, *batch) == 2
    conn.clock.advance(0.25)
    assert passes(limiter, conn, *batch) == 1
    conn.clock.advance(1000)
    assert passes(limiter, conn, *[Publish("ä" * 10)] * 4) == 3  # 24 octets each


def test_a_message_larger_than_the_burst_passes_and_is_paid_for() -> None:
    limiter = RateLimiter(octets_per_second=100, burst_octets=50)
    conn = RecordingConnection()
    large = publish(payload=bytes(445))
    assert passes(limiter, conn, large, large) == 1
    conn.clock.advance(3.9)  # 450 - 50 octets are owed
    assert passes(limiter, conn, large) == 0
    conn.clock.advance(0.2)
    assert passes(limiter, conn, large) == 1


def test_both_bounds_hold() -> None:
    limiter = RateLimiter(messages_per_second=10, octets_per_second=1000)
    conn = RecordingConnection()
    assert conn.run(limiter, "t", 20, 200) == 10
    conn.clock.advance(1)
    assert conn.run(limiter, "t", 10, 2000) == 5


# --- QoS 1 and 2 -------------------------------------------------------------------------------


def test_qos_1_and_2_are_refused_on_mqtt_5() -> None:
    """0x97 Quota exceeded in PUBACK and PUBREC (3.4.2.1, 3.5.2.1), by name in the counters."""
    conn = RecordingConnection()
    fed = conn.feed(RateLimiter(messages_per_second=1), publish(), publish(1, 7), publish(2, 8), Pingreq())
    assert fed.passed == [publish(), Pingreq()]
    assert fed.wrote == [Puback(7, ReasonCode.QUOTA_EXCEEDED), Pubrec(8, ReasonCode.QUOTA_EXCEEDED)]
    assert conn.round.counters.denials == {"rate-limit": 2}
    assert conn.round.counters.dropped_rate == 0


def test_mqtt_3_acknowledges_or_ends() -> None:
    limiter = RateLimiter(messages_per_second=1)
    fed = RecordingConnection(4).feed(limiter, publish(), publish(1, 7))
    assert (fed.passed, fed.wrote) == ([publish()], [Puback(7)])

    conn = RecordingConnection(4, denied_publish=DeniedPublish.DISCONNECT)
    fed = conn.feed(limiter, publish(), publish(1, 7), publish())
    assert (fed.passed, fed.wrote) == ([publish()], [])
    assert fed.error is not None
    assert fed.error.reason_code == ReasonCode.QUOTA_EXCEEDED


def test_what_was_received_before_passes() -> None:
    """A QoS 2 PUBLISH sent again is answered as the first was, and costs nothing."""
    limiter = RateLimiter(messages_per_second=1)
    conn = RecordingConnection()
    assert conn.session is not None
    conn.session.inbound[8] = again = publish(2, 8)
    assert conn.run(limiter, "t", 1, 5) == 1
    assert passes(limiter, conn, again, again) == 2
    assert passes(limiter, conn, publish(2, 9)) == 0
    conn.clock.advance(1)
    assert conn.run(limiter, "t", 1, 5) == 1


# --- contract and arguments --------------------------------------------------------------------


def test_it_is_a_flow_stage_that_counts_runs() -> None:
    limiter = RateLimiter(messages_per_second=1)
    assert isinstance(limiter, FlowStage)
    assert plan_kind(limiter) == "plan + on_run"
    assert RecordingConnection().plan(limiter, "t") is Verdict.PASS
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
    conn = RecordingConnection()
    assert conn.run(limiter, "t", 3, 15) == 1
    conn.clock.advance(10)
    assert conn.run(limiter, "t", 3, 15) == 1


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
    by_run, by_packet = RecordingConnection(), RecordingConnection()
    elapsed, messages, octets = 0.0, 0, 0
    for wait, count, payload_octets in steps:
        by_run.clock.advance(wait)
        by_packet.clock.advance(wait)
        elapsed += wait
        each = LEAST + payload_octets
        passed = by_run.run(limiter, "t", count, count * each)
        assert passes(limiter, by_packet, *[publish(payload=bytes(payload_octets))] * count) == passed
        messages += passed
        octets += passed * each
        assert messages <= message_burst + elapsed * message_rate + 0.001
        assert octets <= octet_burst + elapsed * octet_rate + LEAST + 60 + 0.001
    assert by_run.round.counters.dropped_rate == by_packet.round.counters.dropped_rate
