"""Topic Names and Filters against the examples of the standard, naive definitions and brute force."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.errors import MalformedPacket, MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.topics import (
    SharedSubscription,
    check_topic_filter,
    check_topic_name,
    covers,
    has_wildcard,
    matches,
    overlaps,
)

# --- naive definitions -------------------------------------------------------------------------


def selects(topic_filter: str, topic: str) -> bool:
    """4.7 word by word, through a regular expression over the whole text."""
    if topic.startswith("$") and topic_filter.startswith(("+", "#")):
        return False
    pattern = ""
    for index, level in enumerate(topic_filter.split("/")):
        if level == "#":
            pattern += ".*" if index == 0 else "(/.*)?"
        else:
            pattern += ("" if index == 0 else "/") + ("[^/]*" if level == "+" else re.escape(level))
    return re.fullmatch(pattern, topic, re.DOTALL) is not None


def small(levels: tuple[str, ...], depth: int) -> list[str]:
    """Every text of 1 to `depth` of these levels."""
    return [
        "/".join(combination)
        for length in range(1, depth + 1)
        for combination in itertools.product(levels, repeat=length)
    ]


def valid(topic_filter: str) -> bool:
    """Valid as a filter, said as a regular expression."""
    return (
        re.fullmatch(r"((\+|[^+#/\0]*)/)*(\+|#|[^+#/\0]*)", topic_filter, re.DOTALL) is not None and topic_filter != ""
    )


FILTERS = [text for text in small(("", "a", "b", "$", "+", "#"), 3) if valid(text)]
# "z" stands for every level that no filter spells; two levels more than any filter has
TOPICS = [text for text in small(("", "a", "b", "$", "z"), 5) if text]
SELECTED = {
    topic_filter: frozenset(topic for topic in TOPICS if selects(topic_filter, topic)) for topic_filter in FILTERS
}

# --- Topic Names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic", ["a", "/", "//", " ", "a b", "$SYS/x", "$share/g/t", "ä/\U0001f600", "﻿x", "a" * 65_535]
)
def test_valid_topic_names(topic: str) -> None:
    """[MQTT-4.7.3-1]: one character is enough; spaces, empty levels and `$` are characters as any other."""
    check_topic_name(topic)


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        ("", ProtocolViolation),
        ("+", ProtocolViolation),
        ("#", ProtocolViolation),
        ("a/+", ProtocolViolation),
        ("a/#", ProtocolViolation),
        ("a+b", ProtocolViolation),
        ("a#", ProtocolViolation),
        ("\0", MalformedPacket),
        ("a/\0/b", MalformedPacket),
        ("a" * 65_536, ProtocolViolation),
        ("ä" * 32_768, ProtocolViolation),
    ],
)
def test_invalid_topic_names(topic: str, error: type[MqttError]) -> None:
    """[MQTT-4.7.0-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.7.3-3]."""
    with pytest.raises(error) as caught:
        check_topic_name(topic)
    assert caught.value.reason_code == ReasonCode.TOPIC_NAME_INVALID


# --- Topic Filters -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+",
        "/",
        "a",
        "sport/tennis/player1/#",
        "+/tennis/#",
        "sport/+/player1",
        "/+",
        "+/+",
        "+//#",
        "a b/+",
        "$SYS/#",
        "$share",
        "$shared/+",
        "$share/g/a",
        "$share/g/#",
        "$share/g//",
        "$share/g/+/a",
        "$share/consumer 1/sport/tennis/+",
        "ä" * 32_767,
    ],
)
def test_valid_filters(topic_filter: str) -> None:
    check_topic_filter(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "error"),
    [
        ("", ProtocolViolation),
        ("sport/tennis#", ProtocolViolation),
        ("sport/tennis/#/ranking", ProtocolViolation),
        ("##", ProtocolViolation),
        ("#/", ProtocolViolation),
        ("#/#", ProtocolViolation),
        ("+#", ProtocolViolation),
        ("#+", ProtocolViolation),
        ("sport+", ProtocolViolation),
        ("+sport", ProtocolViolation),
        ("a/++", ProtocolViolation),
        ("a/b+/c", ProtocolViolation),
        ("a/\0", MalformedPacket),
        ("$share/", ProtocolViolation),
        ("$share//", ProtocolViolation),
        ("$share//a", ProtocolViolation),
        ("$share/g", ProtocolViolation),
        ("$share/g/", ProtocolViolation),
        ("$share/#", ProtocolViolation),
        ("$share/+/a", ProtocolViolation),
        ("$share/#/a", ProtocolViolation),
        ("$share/g+/a", ProtocolViolation),
        ("$share/g/a#", ProtocolViolation),
        ("$share/g/#/a", ProtocolViolation),
        ("$share/g\0/a", MalformedPacket),
        ("a" * 65_536, ProtocolViolation),
        ("a/" * 32_767 + "ä", ProtocolViolation),
    ],
)
def test_invalid_filters(topic_filter: str, error: type[MqttError]) -> None:
    """[MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.8.2-1], [MQTT-4.8.2-2]."""
    with pytest.raises(error) as caught:
        check_topic_filter(topic_filter)
    assert caught.value.reason_code == ReasonCode.TOPIC_FILTER_INVALID


@settings(deadline=None, max_examples=500)
@given(st.text(alphabet="a$/+#\0", max_size=10))
def test_validity_of_any_text(text: str) -> None:
    """A filter is valid exactly when the naive grammar says so, and a valid name is a valid filter."""
    try:
        check_topic_filter(text)
    except MqttError:
        accepted = False
    else:
        accepted = True
    assert accepted == valid(text)
    try:
        check_topic_name(text)
    except MqttError:
        assert text == "" or set(text) & set("+#\0")
    else:
        assert accepted
        assert not has_wildcard(text)


def test_shared_subscription_parts() -> None:
    """[MQTT-4.8.2-2]: the first `/` after the share name ends it; the rest is the filter."""
    shared = SharedSubscription.parse("$share/g/a//#")
    assert shared == SharedSubscription("g", "a//#")
    assert str(shared) == "$share/g/a//#"
    assert SharedSubscription.parse("$share/g//") == SharedSubscription("g", "/")
    for plain in ("a", "$share", "$shared/g/a", "/$share/g/a", "$SHARE/g/a"):
        assert SharedSubscription.parse(plain) is None


# --- matching ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/#", "sports", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("/finance", "/finance", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/monitor/Clients", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("+/#", "$SYS", False),
        ("$SYS/#", "$SYS/monitor/Clients", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("a/+", "a/$b", True),
        ("a/#", "a/$b", True),
        ("ACCOUNTS", "Accounts", False),
        ("Accounts", "Accounts ", False),
        ("\u00c5", "A\u030a", False),
        ("\u00c5/+", "A\u030a/x", False),
    ],
)
def test_examples_of_matching(topic_filter: str, topic: str, expected: bool) -> None:
    """The non-normative examples of 4.7, [MQTT-4.7.2-1], [MQTT-4.7.3-4]."""
    assert matches(topic_filter, topic) is expected


def test_matching_of_all_small_filters_and_topics() -> None:
    wrong = [
        (topic_filter, topic)
        for topic_filter, selected in SELECTED.items()
        for topic in TOPICS
        if matches(topic_filter, topic) != (topic in selected)
    ]
    assert wrong == []


LEVELS = st.text(alphabet="ab$ é\n", max_size=3)
NAMES = st.lists(LEVELS, min_size=1, max_size=6).map("/".join).filter(bool)


@st.composite
def filters_near(draw: st.DrawFn, topic: str) -> str:
    """A filter that spells some levels of the topic, and so often selects it."""
    levels = [draw(st.sampled_from([level, level, "+", draw(LEVELS)])) for level in topic.split("/")]
    ending = draw(st.sampled_from(["", "", "#", "cut#", "more"]))
    if ending == "more":
        levels.append(draw(LEVELS))
    elif ending == "#":
        levels.append("#")
    elif ending == "cut#":
        levels[draw(st.integers(0, len(levels) - 1)) :] = ["#"]
    return "/".join(levels) or "+"


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_matching_agrees_with_the_naive_definition(data: st.DataObject) -> None:
    topic = data.draw(NAMES)
    topic_filter = data.draw(filters_near(topic))
    check_topic_filter(topic_filter)
    assert matches(topic_filter, topic) == selects(topic_filter, topic)


# --- covering ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "requested", "expected"),
    [
        *[("a/#", requested, True) for requested in ("a", "a/b", "a/+/c", "a/#", "a/b/#")],
        *[("a/#", requested, False) for requested in ("#", "+", "ab/#", "+/b")],
        *[("a/+", requested, True) for requested in ("a/b", "a/+", "a/")],
        *[("a/+", requested, False) for requested in ("a/#", "a", "a/b/c")],
        ("+/#", "#", True),
        ("#", "+/#", True),
        ("#", "#", True),
        ("#", "$SYS/#", False),
        ("+/#", "$SYS/#", False),
        ("$SYS/#", "$SYS/+/x", True),
        ("$SYS/#", "#", False),
        ("+/x", "$SYS/x", False),
        ("a/b", "a/+", False),
        ("a/1", "a/+", False),
    ],
)
def test_examples_of_covering(scope: str, requested: str, expected: bool) -> None:
    """ACE-2.3-10: equal, or everything that the request matches is matched by that one too."""
    assert covers(scope, requested) is expected


def test_covering_is_set_inclusion() -> None:
    """Brute force over all small pairs; the two documented shapes differ by the empty topic only."""
    wrong = {
        (scope, requested)
        for scope, selected in SELECTED.items()
        for requested, wanted in SELECTED.items()
        if covers(scope, requested) != (wanted <= selected)
    }
    assert wrong == {("/+/#", "/#"), ("+/+/#", "/#")}
    assert not any(covers(scope, requested) for scope, requested in wrong)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_what_is_covered_is_matched(data: st.DataObject) -> None:
    """Soundness on bigger filters: a topic of a covered filter is a topic of the scope."""
    topic = data.draw(NAMES)
    scope = data.draw(filters_near(topic))
    requested = data.draw(filters_near(topic))
    assert covers(requested, requested)
    assert covers(scope, topic) == matches(scope, topic)
    if covers(scope, requested) and matches(requested, topic):
        assert matches(scope, topic)


# --- overlap -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter_a", "filter_b", "expected"),
    [
        ("a/+", "+/b", True),
        ("a/#", "a", True),
        ("a/#", "+/b/c", True),
        ("a/b", "a/b/c", False),
        ("a/+/c", "a/b", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/#", False),
        ("#", "+", True),
        ("/#", "+", False),
        ("a", "b", False),
    ],
)
def test_examples_of_overlap(filter_a: str, filter_b: str, expected: bool) -> None:
    assert overlaps(filter_a, filter_b) is expected
    assert overlaps(filter_b, filter_a) is expected


def test_overlap_is_a_common_topic() -> None:
    wrong = [
        (filter_a, filter_b)
        for filter_a, topics_a in SELECTED.items()
        for filter_b, topics_b in SELECTED.items()
        if overlaps(filter_a, filter_b) == topics_a.isdisjoint(topics_b)
    ]
    assert wrong == []


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_filters_with_a_common_topic_overlap(data: st.DataObject) -> None:
    topic = data.draw(NAMES)
    filter_a = data.draw(filters_near(topic))
    filter_b = data.draw(filters_near(topic))
    if matches(filter_a, topic) and matches(filter_b, topic):
        assert overlaps(filter_a, filter_b)
    if covers(filter_a, filter_b):
        assert overlaps(filter_a, filter_b)
