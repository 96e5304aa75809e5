"""AIF-MQTT: what is read as a scope, what it permits, and that a check costs the same however large it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace import scope as scope_module
from acebroker_ace.errors import UnrecognizedScope
from acebroker_ace.scope import Scope
from acebroker_codec.topics import covers, matches
from tests.ace.issuer import b64
from tests.conformance.statements import ace
from tests.strategies import topic_filters, topic_names

EXAMPLE = [["topic1", ["pub", "sub"]], ["topic2/#", ["pub"]], ["+/topic3", ["sub"]]]
EXAMPLE_JWT = "W1sidG9waWMxIixbInB1YiIsInN1YiJdXSxbInRvcGljMi8jIixbInB1YiJdXSxbIisvdG9waWMzIixbInN1YiJdXV0"
EXAMPLE_CBOR = "838266746f706963318263707562637375628268746f706963322f23816370756282682b2f746f706963338163737562"


def allowing(*filters: str) -> Scope:
    """A scope that permits both on each filter."""
    return Scope([[topic_filter, ["pub", "sub"]] for topic_filter in filters])


# ---- reading ----


@ace("ACE-2.3-4", "ACE-2.3-5", "ACE-2.3-6", "ACE-7-4", "ADJ-9237-1")
def test_the_example_in_every_notation() -> None:
    expected = Scope(EXAMPLE)
    assert expected.entries == {
        "topic1": frozenset({"pub", "sub"}),
        "topic2/#": frozenset({"pub"}),
        "+/topic3": frozenset({"sub"}),
    }
    assert Scope.from_claim(EXAMPLE_JWT) == expected
    assert Scope.from_claim(bytes.fromhex(EXAMPLE_CBOR)) == expected
    assert Scope.from_json(json.dumps(EXAMPLE)) == Scope.from_cbor(cbor2.dumps(EXAMPLE)) == expected
    assert hash(Scope.from_claim(EXAMPLE_JWT)) == hash(expected)
    assert Scope(EXAMPLE[:1]) != expected


def test_an_array_in_the_json_is_taken_only_where_that_is_wanted() -> None:
    assert Scope.from_claim(EXAMPLE, json_array=True) == Scope(EXAMPLE)
    with pytest.raises(UnrecognizedScope):
        Scope.from_claim(EXAMPLE)


@ace("ACE-2.3-9")
@pytest.mark.parametrize("claim", [None, "W10", b"\x80"])
def test_an_empty_scope_permits_nothing(claim: str | bytes | None) -> None:
    scope = Scope.from_claim(claim)
    assert scope == Scope()
    for topic in ("a", "/", "$SYS/x", "a/b"):
        assert not scope.permits_publish(topic)
        assert not scope.permits_receive(topic)
    for topic_filter in ("a", "+", "#", "$SYS/#"):
        assert not scope.permits_subscribe(topic_filter)


NOT_A_SCOPE: dict[str, Any] = {
    "a map": {"a": ["pub"]},
    "a number": 1,
    "null": None,
    "text": "a",
    "an entry that is text": ["a"],
    "an entry of one": [["a"]],
    "an entry of three": [["a", ["pub"], 1]],
    "no permission": [["a", []]],
    "permissions as text": [["a", "pub"]],
    "permissions as a number": [["a", 1]],
    "an unknown permission": [["a", ["pub", "admin"]]],
    "a permission in capitals": [["a", ["PUB"]]],
    "a permission that is a list": [["a", [["pub"]]]],
    "a permission that is null": [["a", [None]]],
    "an empty filter": [["", ["pub"]]],
    "a filter that is a number": [[1, ["pub"]]],
    "a # not at the end": [["a/#/b", ["pub"]]],
    "a # beside text": [["a#", ["pub"]]],
    "a + beside text": [["a+/b", ["pub"]]],
    "U+0000": [["a\0", ["pub"]]],
    "a filter beyond what MQTT can say": [["a" * 65_536, ["pub"]]],
    "a shared subscription": [["$share/g/a", ["sub"]]],
    "a good entry and a bad one": [["a", ["pub"]], ["b", ["x"]]],
}


@pytest.mark.parametrize("aif", NOT_A_SCOPE.values(), ids=NOT_A_SCOPE)
@ace("ACE-2.3-6", "ADJ-9200-33")
def test_what_is_no_scope(aif: Any) -> None:
    for read in (Scope, lambda a: Scope.from_json(json.dumps(a)), lambda a: Scope.from_cbor(cbor2.dumps(a))):
        with pytest.raises(UnrecognizedScope):
            read(aif)


@pytest.mark.parametrize(
    "claim", ["[]", "W10=", "", "topic1 topic2", b"", b"\x80\x80", b"[]", b64(b"\xff"), b64(b'["\\ud800"]')]
)
def test_claims_that_are_no_scope(claim: str | bytes) -> None:
    with pytest.raises(UnrecognizedScope):
        Scope.from_claim(claim)


def test_half_a_surrogate_pair_is_no_filter() -> None:
    with pytest.raises(UnrecognizedScope):
        Scope([["\ud800", ["pub"]]])


@ace("ADJ-9237-4")
def test_the_same_filter_twice_is_merged() -> None:
    scope = Scope([["a", ["pub"]], ["a", ["sub"]]])
    assert scope == Scope([["a", ["sub", "pub"]]])
    assert scope.permits_publish("a")
    assert scope.permits_subscribe("a")


# ---- permitting ----


@ace("ACE-2.3-3", "ADJ-9237-1")
def test_the_example_permits_what_it_says() -> None:
    scope = Scope(EXAMPLE)
    permitted = {
        "topic1": (True, True),
        "topic1/a": (False, False),
        "topic2": (True, False),
        "topic2/a": (True, False),
        "topic2/a/b": (True, False),
        "topic2/topic3": (True, True),
        "x/topic3": (False, True),
        "topic3": (False, False),
        "x/y/topic3": (False, False),
        "/topic3": (False, True),
        "$x/topic3": (False, False),
    }
    for topic, (publish, subscribe) in permitted.items():
        assert scope.permits_publish(topic) is publish, topic
        assert scope.permits_subscribe(topic) is scope.permits_receive(topic) is subscribe, topic
    assert scope.permits_subscribe("+/topic3")
    assert not scope.permits_subscribe("+/+")
    assert not scope.permits_subscribe("topic2/#")


@pytest.mark.parametrize(
    ("entry", "requested", "expected"),
    [
        *(("a/#", requested, True) for requested in ("a", "a/b", "a/+/c", "a/#", "a/b/#")),
        *(("a/#", requested, False) for requested in ("#", "+", "ab/#", "+/b")),
        *(("a/+", requested, True) for requested in ("a/b", "a/+", "a/")),
        *(("a/+", requested, False) for requested in ("a/#", "a", "a/b/c")),
        ("+/#", "#", True),
        ("#", "#", True),
        ("#", "$SYS/#", False),
        ("+/#", "$SYS/#", False),
        ("$SYS/#", "$SYS/#", True),
        ("$SYS/#", "#", False),
        ("a/b", "a/+", False),
        ("a/*", "a/b", False),
        ("a/*", "a/*", True),
    ],
)
@ace("ACE-2.3-7", "ACE-2.3-10")
def test_the_table_of_subsets(entry: str, requested: str, expected: bool) -> None:
    assert allowing(entry).permits_subscribe(requested) is expected


@ace("ACE-2.3-10")
def test_one_entry_has_to_cover_alone() -> None:
    assert not allowing("a/1", "a/2").permits_subscribe("a/+")
    assert not allowing("a", "a/+", "a/+/#").permits_subscribe("a/#")
    assert not allowing("+", "+/+/#").permits_subscribe("#")
    # and no path through the tree may take one level from each of two entries
    mixed = allowing("a/+/x", "+/b/y")
    assert mixed.permits_publish("a/b/x")
    assert mixed.permits_publish("a/b/y")
    assert not mixed.permits_publish("a/c/y")
    assert not mixed.permits_publish("c/d/x")
    assert not mixed.permits_subscribe("a/+/y")


def filters_up_to(levels: int, texts: Iterable[str]) -> list[str]:
    """Every valid filter of so many levels at most."""
    found = ["#"]
    for count in range(1, levels + 1):
        for parts in itertools.product([*texts, "+"], repeat=count):
            found.append("/".join(parts))
            if count < levels:
                found.append("/".join([*parts, "#"]))
    return [topic_filter for topic_filter in found if topic_filter]


#: filters of three levels: texts that repeat, an empty one, and one that begins with $
FILTERS = filters_up_to(3, ["a", "b", "", "$"])
#: Topic Names of one level more, with a text that no filter has: they tell the filters apart
TOPICS = [
    topic
    for count in range(1, 5)
    for topic in map("/".join, itertools.product(["a", "b", "other", "", "$"], repeat=count))
    if topic
]
#: by hand in `covers`: they differ from what is selected by the empty Topic Name alone, which cannot occur
SELECTS_ONLY_MORE_THAN_NOTHING = {("/+/#", "/#"), ("+/+/#", "/#")}


@ace("ACE-2.3-7", "ACE-2.3-10")
def test_covering_is_inclusion_for_all_small_filters() -> None:
    """The model: what is covered is what selects no Topic Name that the entry does not select."""
    selected = {
        topic_filter: frozenset(index for index, topic in enumerate(TOPICS) if matches(topic_filter, topic))
        for topic_filter in FILTERS
    }
    wrong = []
    for entry in FILTERS:
        scope = allowing(entry)
        for requested in FILTERS:
            included = (
                selected[requested] <= selected[entry] and (entry, requested) not in SELECTS_ONLY_MORE_THAN_NOTHING
            )
            if scope.permits_subscribe(requested) is not included:
                wrong.append((entry, requested))
    assert not wrong


@given(st.lists(topic_filters(), max_size=6), topic_filters(), topic_names())
def test_many_entries_permit_what_one_of_them_does(entries: list[str], requested: str, topic: str) -> None:
    scope = allowing(*(entry for entry in entries if not entry.startswith("$share/")))
    assert scope.permits_publish(topic) is any(matches(entry, topic) for entry in scope.entries)
    if not requested.startswith("$share/"):
        assert scope.permits_subscribe(requested) is any(covers(entry, requested) for entry in scope.entries)


_SMALL = st.lists(st.sampled_from(FILTERS), min_size=1, max_size=12)


@given(_SMALL, st.lists(st.sampled_from(FILTERS), max_size=30), st.lists(st.sampled_from(TOPICS), max_size=30))
def test_entries_that_overlap(entries: list[str], requested: list[str], topics: list[str]) -> None:
    scope = allowing(*entries)
    for _ in range(2):  # the second time as remembered
        assert [scope.permits_subscribe(r) for r in requested] == [
            any(covers(e, r) for e in entries) for r in requested
        ]
        assert [scope.permits_publish(t) for t in topics] == [any(matches(e, t) for e in entries) for t in topics]


@given(_SMALL, st.lists(st.sampled_from(TOPICS), max_size=30), st.integers(0, 12))
def test_without_room_to_remember_nothing_changes(entries: list[str], topics: list[str], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scope_module, "STEPS_MAX", room)
        scope = allowing(*entries)
    assert [scope.permits_publish(t) for t in topics] == [any(matches(e, t) for e in entries) for t in topics]


@pytest.mark.parametrize("count", [10, 1_000, 10_000])
def test_a_check_is_one_step_per_level_however_many_entries_there_are(count: int) -> None:
    entries = [f"site/{number % 7}/device/{number}/#" for number in range(count)]
    entries += [f"+/{number}/+/{number}/x" for number in range(count)]
    scope = allowing(*entries)
    permitted = f"site/{(count - 1) % 7}/device/{count - 1}/x"
    assert scope.permits_publish(permitted)
    assert not scope.permits_publish("other/1/device/none/x")
    # once the way is known, no entry is looked at again
    with pytest.MonkeyPatch.context() as patch:
        for path in reachable(scope):
            path.nodes = tuple(None for _ in path.nodes)  # type: ignore[misc]
        patch.setattr(scope._publish, "_path", None)
        assert scope.permits_publish(permitted)
        assert not scope.permits_publish("other/1/device/none/x")
        assert not scope.permits_publish("other/1/unheard of/none/x")


def reachable(scope: Scope) -> list[Any]:
    """Every set of branches that a permission holds on to."""
    found = {id(path): path for path in [scope._publish._start, *scope._publish._paths.values()]}
    waiting = list(found.values())
    while waiting:
        path = waiting.pop()
        for following in [*path.onward.values(), path.otherwise]:
            if following is not None and id(following) not in found:
                found[id(following)] = following
                waiting.append(following)
    return list(found.values())


def test_what_is_remembered_is_bounded() -> None:
    """Every combination of a and + makes a set of branches of its own."""
    entries = ["/".join(parts) for parts in itertools.product(["a", "+"], repeat=9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scope_module, "STEPS_MAX", 100)
        scope = allowing(*entries)
    for parts in itertools.product(["a", "b"], repeat=9):
        assert scope.permits_publish("/".join(parts))
    assert len(reachable(scope)) <= 100
    assert sum(1 + len(path.onward) for path in reachable(scope)) <= 100


def test_a_filter_of_very_many_levels() -> None:
    deep = "/".join(["a"] * 32_000)
    scope = allowing(deep, deep + "/#")
    assert scope.permits_publish(deep)
    assert scope.permits_publish(deep + "/b")
    assert not scope.permits_publish(deep[:-2])
    assert scope.permits_subscribe(deep + "/#")


def test_repr_is_the_array() -> None:
    assert repr(Scope(EXAMPLE)) == f"Scope({EXAMPLE})"
