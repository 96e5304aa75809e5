"""The payload validator, driven by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    Connect,
    Pingreq,
    ProtocolVersion,
    Puback,
    Publish,
    PublishProperties,
    Pubrec,
    Will,
    WillProperties,
)
from acebroker_middleware.connection import DeniedPublish
from acebroker_middleware.flows import Verdict
from acebroker_middleware.payload import PayloadValidator
from acebroker_middleware.stage import FlowStage, plan_kind
from acebroker_middleware.testing import RecordingConnection
from tests.middleware.assembly import Assembly, publish, subscribe

NOT_TEXT = b"caf\xe9"


def passes(validator: PayloadValidator, topic: str, payload: bytes, **fields: Any) -> bool:
    packet = Publish(topic, payload, **fields)
    fed = RecordingConnection().feed(validator, packet)
    assert fed.passed == ([] if fed.refused else [packet])
    return not fed.refused


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


def test_refusals_by_qos_on_mqtt_5() -> None:
    """0x99 for a wrong format, 0x97 for a length: the codes that PUBACK and PUBREC may carry."""
    good = Publish("j", b"{}")
    text = Publish("s", b"caf", 2, packet_identifier=3, properties=declared(1))
    last = ProtocolViolation("what the decoder found")
    conn = RecordingConnection()
    fed = conn.feed(
        PayloadValidator({"j": "json", "s": 3}),
        Publish("j", b"{"),
        Publish("j", b"{", 1, packet_identifier=1),
        good,
        Publish("s", b"long", 1, packet_identifier=2),
        text,
        Pingreq(),
        last,
    )
    assert (fed.passed, fed.error) == ([good, text, Pingreq()], last)
    assert fed.wrote == [Puback(1, ReasonCode.PAYLOAD_FORMAT_INVALID), Puback(2, ReasonCode.QUOTA_EXCEEDED)]
    assert conn.round.counters.denials == {
        "payload-validator: j takes json": 2,
        "payload-validator: s takes 3 octets": 1,
    }


def test_qos_2_is_refused_in_pubrec() -> None:
    packet = Publish("a", NOT_TEXT, 2, packet_identifier=3, properties=declared(1))
    fed = RecordingConnection().feed(PayloadValidator({}), packet)
    assert (fed.passed, fed.wrote) == ([], [Pubrec(3, ReasonCode.PAYLOAD_FORMAT_INVALID)])
    assert [refusal.rule for refusal in fed.refused] == ["payload-validator: declared as UTF-8, and is not"]


def test_mqtt_3_acknowledges_or_ends() -> None:
    validator = PayloadValidator({"j": "json"})
    wrong = Publish("j", b"{", 1, packet_identifier=1)
    fed = RecordingConnection(4).feed(validator, wrong)
    assert (fed.passed, fed.wrote) == ([], [Puback(1)])

    before = Publish("j", b"1")
    fed = RecordingConnection(4, denied_publish=DeniedPublish.DISCONNECT).feed(validator, before, wrong, before)
    assert fed.passed == [before]
    assert fed.error is not None
    assert fed.error.reason_code == ReasonCode.PAYLOAD_FORMAT_INVALID


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
    connect = Connect("c", version=ProtocolVersion(version), will=will)
    fed = RecordingConnection(connected=False).feed(validator, connect)
    if reason_code is None:
        assert (fed.passed, fed.error) == ([connect], None)
    else:
        assert fed.passed == []
        assert fed.error is not None
        assert fed.error.reason_code == reason_code
    plain = Connect("c")
    assert RecordingConnection(connected=False).feed(validator, plain).passed == [plain]


def test_what_was_received_before_passes() -> None:
    conn = RecordingConnection()
    assert conn.session is not None
    again = Publish("j", b"{", 2, dup=True, packet_identifier=8)
    conn.session.inbound[8] = again
    assert conn.feed(PayloadValidator({"j": "json"}), again).passed == [again]


# --- contract and arguments --------------------------------------------------------------------


def test_only_topics_with_a_rule_leave_the_cached_path() -> None:
    validator = PayloadValidator({"j/#": "json", "s": 3})
    assert isinstance(validator, FlowStage)
    assert plan_kind(validator) == "plan"
    conn = RecordingConnection()
    for topic, verdict in [
        ("j", Verdict.INSPECT),
        ("j/a", Verdict.INSPECT),
        ("s", Verdict.INSPECT),
        ("s/a", Verdict.PASS),
    ]:
        assert conn.plan(validator, topic) is verdict
    assert conn.plan(PayloadValidator({"#": 1}), "$SYS/x") is Verdict.PASS


@pytest.mark.parametrize("flow_cache", [False, True])
def test_text_that_is_none_is_refused_on_topics_without_a_rule_too(flow_cache: bool) -> None:
    broker = Assembly(stages=[PayloadValidator({})], flow_cache=flow_cache)
    reader, writer = broker.client("reader"), broker.client("writer")
    reader.send(subscribe("t"))
    writer.send(*(publish("t", payload, payload_format_indicator=1) for payload in (b"1", NOT_TEXT, b"2", NOT_TEXT)))
    assert reader.messages() == [b"1", b"2"]


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
