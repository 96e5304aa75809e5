"""The payload validator, driven by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    Connect,
    Packet,
    Pingreq,
    ProtocolVersion,
    Puback,
    Publish,
    PublishProperties,
    Pubrec,
    Will,
    WillProperties,
)
from acebroker_middleware.connection import Connection, DeniedPublish, Round
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.observe import Counters
from acebroker_middleware.payload import PayloadValidator
from acebroker_middleware.stage import FlowStage, plan_kind
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.state.session_state import SessionState

NOT_TEXT = b"caf\xe9"


class StoppedClock:
    """Time plays no part here."""

    now = 0.0
    wall = 0.0


def connection(version: int = 5, denied_publish: DeniedPublish = DeniedPublish.IGNORE) -> Connection:
    conn = Connection(Round(StoppedClock(), Limits(), Counters()), denied_publish=denied_publish)
    conn.version = ProtocolVersion(version)
    conn.v5 = version == 5
    conn.ack_queue.version = version
    return conn


def passes(validator: PayloadValidator, topic: str, payload: bytes, **fields: Any) -> bool:
    conn = connection()
    packet = Publish(topic, payload, **fields)
    passed = validator.on_batch(conn, [packet]) == [packet]
    assert passed == (not conn.round.counters.denials)
    return passed


def declared(indicator: int) -> PublishProperties:
    return PublishProperties(payload_format_indicator=indicator)


# --- rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "text", "structured"),
    [
        (b"21.5", True, True),
        (b'{"t": [1, null, "\xc3\xa9"]}', True, True),
        (b" [] \r\n", True, True),
        (b"", True, False),
        (b"plain", True, False),
        (b"{'t': 1}", True, False),
        (b"[1,]", True, False),
        (b"1 2", True, False),
        (b"NaN", True, False),
        (b"\xef\xbb\xbf{}", True, False),
        (b"[" * 100_000, True, False),
        (b"\0", True, False),
        (b'"caf\xe9"', False, False),
        (b"\xff\xfe", False, False),
        (b"\xed\xa0\x80", False, False),
        (b"\xc0\xaf", False, False),
    ],
)
def test_what_is_text_and_what_is_json(payload: bytes, text: bool, structured: bool) -> None:
    validator = PayloadValidator({"text/#": "utf-8", "json/#": "json"})
    assert passes(validator, "text/a", payload) is text
    assert passes(validator, "json", payload) is structured
    assert passes(validator, "other", payload)


def test_length_and_several_rules_for_one_topic() -> None:
    validator = PayloadValidator({"a/#": 4, "+/b": "utf-8", "a/b": "json"})
    assert passes(validator, "a/c", b"\xff" * 4)
    assert not passes(validator, "a/c", b"\xff" * 5)
    assert passes(validator, "a/b", b"1234")
    assert not passes(validator, "a/b", b"12345")
    assert not passes(validator, "a/b", b"abc")
    assert passes(validator, "x/b", b"abcdef")
    assert not passes(validator, "x/b", NOT_TEXT)
    assert passes(PayloadValidator({"none": 0}), "none", b"")
    assert not passes(PayloadValidator({"none": 0}), "none", b"x")


def test_deleting_a_retained_message_is_always_possible() -> None:
    validator = PayloadValidator({"a": "json"})
    assert passes(validator, "a", b"", retain=True)
    assert not passes(validator, "a", b"")
    assert not passes(validator, "a", b"x", retain=True)


def test_a_declared_format_must_be_true_on_every_topic() -> None:
    """3.3.2.3.2: with Payload Format Indicator 1 the payload is UTF-8; 0 and none promise nothing."""
    validator = PayloadValidator({})
    assert not passes(validator, "a", NOT_TEXT, properties=declared(1))
    assert passes(validator, "a", b"text", properties=declared(1))
    assert passes(validator, "a", NOT_TEXT, properties=declared(0))
    assert passes(validator, "a", NOT_TEXT)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=12) | st.recursive(st.none() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_json_is_what_the_standard_library_reads_strictly(payload: bytes) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(payload.decode("utf-8"), parse_constant=refuse)
        expected = True
    except ValueError:
        expected = False
    assert passes(PayloadValidator({"#": "json"}), "a", payload) is expected


# --- refusals ----------------------------------------------------------------------------------


def answered(conn: Connection, *packets: Packet) -> bool:
    return b"".join(conn.out) == b"".join(encode(packet, conn.version) for packet in packets)


def test_refusals_by_qos_on_mqtt_5() -> None:
    """0x99 for a wrong format, 0x97 for a length: the codes that PUBACK and PUBREC may carry."""
    validator = PayloadValidator({"j": "json", "s": 3})
    conn = connection()
    conn.ack_queue.puback.open.extend([1, 2])
    conn.ack_queue.pubrec.open.append(3)
    good = Publish("j", b"{}")
    text = Publish("s", b"caf", 2, packet_identifier=3, properties=declared(1))
    last = ProtocolViolation("what the decoder found")
    batch = [
        Publish("j", b"{"),
        Publish("j", b"{", 1, packet_identifier=1),
        good,
        Publish("s", b"long", 1, packet_identifier=2),
        text,
        Pingreq(),
        last,
    ]
    assert validator.on_batch(conn, batch) == [good, text, Pingreq(), last]
    assert answered(conn, Puback(1, ReasonCode.PAYLOAD_FORMAT_INVALID), Puback(2, ReasonCode.QUOTA_EXCEEDED))
    assert conn.round.counters.denials == {
        "payload-validator: j takes json": 2,
        "payload-validator: s takes 3 octets": 1,
    }


def test_qos_2_is_refused_in_pubrec() -> None:
    conn = connection()
    conn.ack_queue.pubrec.open.append(3)
    assert (
        PayloadValidator({}).on_batch(conn, [Publish("a", NOT_TEXT, 2, packet_identifier=3, properties=declared(1))])
        == []
    )
    assert answered(conn, Pubrec(3, ReasonCode.PAYLOAD_FORMAT_INVALID))
    assert conn.round.counters.denials == {"payload-validator: declared as UTF-8, and is not": 1}


def test_mqtt_3_acknowledges_or_ends() -> None:
    validator = PayloadValidator({"j": "json"})
    wrong = Publish("j", b"{", 1, packet_identifier=1)
    conn = connection(4)
    conn.ack_queue.puback.open.append(1)
    assert validator.on_batch(conn, [wrong]) == []
    assert answered(conn, Puback(1))

    conn = connection(4, DeniedPublish.DISCONNECT)
    before = Publish("j", b"1")
    first, error = validator.on_batch(conn, [before, wrong, before])
    assert first is before
    assert isinstance(error, MqttError)
    assert error.reason_code == ReasonCode.PAYLOAD_FORMAT_INVALID


@pytest.mark.parametrize(
    ("will", "reason_code"),
    [
        (Will("j", b"{}"), None),
        (Will("other", NOT_TEXT), None),
        (Will("j", b"", retain=True), None),
        (Will("j", b""), ReasonCode.PAYLOAD_FORMAT_INVALID),
        (Will("s", b"long"), ReasonCode.QUOTA_EXCEEDED),
        (Will("x", NOT_TEXT, properties=WillProperties(payload_format_indicator=1)), ReasonCode.PAYLOAD_FORMAT_INVALID),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_a_will_is_held_to_the_rules(will: Will, reason_code: ReasonCode | None, version: int) -> None:
    """3.1.3.2.3: what would be refused as a PUBLISH refuses the CONNECT that asks for it."""
    validator = PayloadValidator({"j": "json", "s": 3})
    conn = connection(version)
    connect = Connect("c", version=conn.version, will=will)
    (passed,) = validator.on_batch(conn, [connect])
    if reason_code is None:
        assert passed is connect
    else:
        assert isinstance(passed, MqttError)
        assert passed.reason_code == reason_code
    plain = Connect("c")
    assert validator.on_batch(conn, [plain]) == [plain]


def test_what_was_received_before_passes() -> None:
    conn = connection()
    conn.session = SessionState("c", Identity("anonymous", "c"))
    again = Publish("j", b"{", 2, dup=True, packet_identifier=8)
    conn.session.inbound[8] = again
    assert PayloadValidator({"j": "json"}).on_batch(conn, [again]) == [again]


# --- contract and arguments --------------------------------------------------------------------


def test_only_topics_with_a_rule_leave_the_cached_path() -> None:
    validator = PayloadValidator({"j/#": "json", "s": 3})
    assert isinstance(validator, FlowStage)
    assert plan_kind(validator) == "plan"
    conn = connection()
    for topic, verdict in [
        ("j", Verdict.INSPECT),
        ("j/a", Verdict.INSPECT),
        ("s", Verdict.INSPECT),
        ("s/a", Verdict.PASS),
    ]:
        assert validator.plan(conn, FlowKey(topic)) is verdict
    assert PayloadValidator({"#": 1}).plan(conn, FlowKey("$SYS/x")) is Verdict.PASS


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"a#": "json"}, "'a#' is no Topic Filter"),
        ({"": "json"}, "'' is no Topic Filter"),
        ({"$share/g/a": "json"}, "Shared Subscription"),
        ({"$share/a": "json"}, "no Topic Filter"),
        ({"a": "xml"}, "rule of 'a'"),
        ({"a": "JSON"}, "rule of 'a'"),
        ({"a": -1}, "rule of 'a'"),
        ({"a": True}, "rule of 'a'"),
        ({"a": 1.5}, "rule of 'a'"),
        ({"a": ["json"]}, "rule of 'a'"),
    ],
)
def test_rules_that_make_no_sense(rules: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        PayloadValidator(rules)
