"""Packet Identifiers, the in-flight window against its table, and Topic Aliases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.flow import (
    ACKNOWLEDGEMENTS,
    AckInput,
    EntryState,
    InflightWindow,
    Outcome,
    ReceivingAliases,
    SendingAliases,
)


def window_in(state: EntryState) -> tuple[InflightWindow[str], int]:
    """A window with one entry in this state, and its Packet Identifier (of nothing, where the state is UNKNOWN)."""
    window: InflightWindow[str] = InflightWindow()
    if state is EntryState.UNKNOWN:
        return window, 7
    identifier = window.open("entry", 1 if state is EntryState.QOS_1 else 2)
    if state is EntryState.RELEASED:
        window.acknowledge(identifier, AckInput.PUBREC)
    assert window.state(identifier) is state
    return window, identifier


# ---- acknowledgements ----

#: 4.3.2, 4.3.3 and 4.4 as a table, again: by state, what PUBACK, PUBREC, an error PUBREC and PUBCOMP lead to
WRITTEN = """
    QOS_1     DONE       VIOLATION        VIOLATION  VIOLATION
    QOS_2     VIOLATION  RELEASE          DONE       VIOLATION
    RELEASED  VIOLATION  RELEASE          VIOLATION  DONE
    UNKNOWN   IGNORE     RELEASE_UNKNOWN  IGNORE     IGNORE
"""
EXPECTED = {
    (EntryState[row[0]], ack): Outcome[outcome]
    for row in map(str.split, WRITTEN.strip().splitlines())
    for ack, outcome in zip(AckInput, row[1:], strict=True)
}


@pytest.mark.parametrize("ack", AckInput, ids=lambda ack: ack.name)
@pytest.mark.parametrize("state", EntryState, ids=lambda state: state.name)
def test_every_acknowledgement_in_every_state(state: EntryState, ack: AckInput) -> None:
    expected = EXPECTED[state, ack]
    assert ACKNOWLEDGEMENTS[state, ack] is expected
    window, identifier = window_in(state)
    before = len(window)
    if expected is Outcome.VIOLATION:
        with pytest.raises(ProtocolViolation):
            window.acknowledge(identifier, ack)
        assert window.state(identifier) is state
        assert len(window) == before
        return
    outcome, entry = window.acknowledge(identifier, ack)
    assert outcome is expected
    assert entry == ("entry" if state in (EntryState.QOS_1, EntryState.QOS_2) else None)
    if outcome is Outcome.RELEASE:
        assert window.state(identifier) is EntryState.RELEASED
        assert len(window) == 1  # the quota comes back with PUBCOMP [MQTT-4.9.0-2]
    else:
        assert window.state(identifier) is EntryState.UNKNOWN
        assert len(window) == 0
        assert not window.qos_2


def test_entries_keep_the_order_in_which_they_were_opened_and_released() -> None:
    window: InflightWindow[str] = InflightWindow()
    identifiers = [window.open(name, 2) for name in "abcd"]
    window.acknowledge(identifiers[2], AckInput.PUBREC)
    window.acknowledge(identifiers[0], AckInput.PUBREC)
    assert list(window.published.values()) == ["b", "d"]
    assert list(window.released) == [identifiers[2], identifiers[0]]


def test_a_forgotten_entry_frees_its_identifier() -> None:
    window: InflightWindow[str] = InflightWindow()
    identifier = window.open("too large", 2)
    assert window.forget(identifier) == "too large"
    assert window.forget(identifier) is None
    assert len(window) == 0
    assert window.open("next", 1) not in window.qos_2


# ---- Packet Identifiers ----


def test_identifiers_are_never_zero_and_come_round() -> None:
    window: InflightWindow[int] = InflightWindow()
    seen = set()
    for number in range(65_535 + 2):
        identifier = window.open(number, 1)
        seen.add(identifier)
        window.acknowledge(identifier, AckInput.PUBACK)
    assert seen == set(range(1, 65_536))


@pytest.mark.parametrize(
    "state", [EntryState.QOS_1, EntryState.QOS_2, EntryState.RELEASED], ids=lambda state: state.name
)
def test_an_identifier_in_use_is_not_given_again(state: EntryState) -> None:
    """[MQTT-2.2.1-4]: neither before its first acknowledgement nor between PUBREL and PUBCOMP."""
    window, kept = window_in(state)
    for number in range(2 * 65_535):
        identifier = window.open(str(number), 1)
        assert identifier != kept
        window.acknowledge(identifier, AckInput.PUBACK)
    assert window.state(kept) is state


def test_a_full_window_is_our_mistake() -> None:
    window: InflightWindow[int] = InflightWindow()
    assert {window.open(number, 1) for number in range(65_535)} == set(range(1, 65_536))
    with pytest.raises(RuntimeError):
        window.open(0, 1)
    window.acknowledge(40_000, AckInput.PUBACK)
    assert window.open(0, 1) == 40_000


@given(st.lists(st.tuples(st.sampled_from(["open 1", "open 2", *(ack.name for ack in AckInput)]), st.integers(1, 8))))
def test_the_window_agrees_with_its_table(steps: list[tuple[str, int]]) -> None:
    window: InflightWindow[int] = InflightWindow()
    model: dict[int, EntryState] = {}
    for step, number in steps:
        if step.startswith("open"):
            identifier = window.open(number, int(step[-1]))
            assert model.get(identifier, EntryState.UNKNOWN) is EntryState.UNKNOWN
            model[identifier] = EntryState.QOS_1 if step[-1] == "1" else EntryState.QOS_2
        else:
            state = model.get(number, EntryState.UNKNOWN)
            expected = EXPECTED[state, AckInput[step]]
            if expected is Outcome.VIOLATION:
                with pytest.raises(ProtocolViolation):
                    window.acknowledge(number, AckInput[step])
            else:
                assert window.acknowledge(number, AckInput[step])[0] is expected
                if expected is Outcome.RELEASE:
                    model[number] = EntryState.RELEASED
                elif expected is Outcome.DONE:
                    del model[number]
        assert {identifier: window.state(identifier) for identifier in model} == model
        assert len(window) == len(model)
        assert window.qos_2 == {identifier for identifier, state in model.items() if state is EntryState.QOS_2}


# ---- runs ----


@given(st.integers(0, 65_534), st.lists(st.integers(0, 40), max_size=3), st.integers(1, 30), st.sampled_from((1, 2)))
def test_a_row_of_identifiers_is_what_one_after_the_other_would_be(
    last: int, used: list[int], count: int, qos: int
) -> None:
    """`open_run` gives what `open` gives, or does nothing where those are not in a row."""
    windows = []
    for _ in range(2):
        window: InflightWindow[str] = InflightWindow()
        window._last = last
        for ahead in used:  # left over from the last time round
            identifier = (last + ahead) % 65_535 + 1
            window.published[identifier] = "old"
            if ahead % 2:
                window.released[identifier] = None
                del window.published[identifier]
        windows.append(window)
    one_by_one, at_once = windows
    identifiers = [one_by_one.open("entry", qos) for _ in range(count)]
    first = at_once.open_run("entry", count, qos)
    if identifiers == list(range(identifiers[0], identifiers[0] + count)) and identifiers[0] == last % 65_535 + 1:
        assert first == identifiers[0]
        assert at_once.published == one_by_one.published
        assert list(at_once.published) == list(one_by_one.published)
        assert at_once.qos_2 == one_by_one.qos_2
        assert at_once.open("next", 1) == one_by_one.open("next", 1)
    else:
        assert first == 0
        assert "entry" not in at_once.published.values()
        assert [at_once.open("entry", qos) for _ in range(count)] == identifiers


RUNS = {
    AckInput.PUBACK: (EntryState.QOS_1, InflightWindow.settle),
    AckInput.PUBREC: (EntryState.QOS_2, InflightWindow.release),
    AckInput.PUBCOMP: (EntryState.RELEASED, InflightWindow.complete),
}


@pytest.mark.parametrize("ack", RUNS, ids=lambda ack: ack.name)
@given(
    states=st.lists(st.sampled_from((EntryState.QOS_1, EntryState.QOS_2, EntryState.RELEASED)), max_size=8),
    named=st.lists(st.integers(1, 9), max_size=12),
)
def test_a_run_of_acknowledgements_is_taken_as_far_as_it_fits(
    ack: AckInput, states: list[EntryState], named: list[int]
) -> None:
    """Up to the first that is not in the state that success takes on: unknown, of the other QoS, named twice."""
    windows: list[InflightWindow[str]] = [InflightWindow(), InflightWindow()]
    for window in windows:
        for state in states:
            identifier = window.open("entry", 1 if state is EntryState.QOS_1 else 2)
            if state is EntryState.RELEASED:
                window.acknowledge(identifier, AckInput.PUBREC)
    one_by_one, at_once = windows
    wanted, take = RUNS[ack]
    count = 0
    for identifier in named:
        if one_by_one.state(identifier) is not wanted:
            break
        one_by_one.acknowledge(identifier, ack)
        count += 1
    assert take(at_once, tuple(named)) == count
    assert at_once.published == one_by_one.published
    assert at_once.qos_2 == one_by_one.qos_2
    assert list(at_once.released) == list(one_by_one.released)


# ---- Topic Aliases ----


def test_aliases_of_the_sender() -> None:
    aliases = ReceivingAliases(2)
    assert aliases.resolve("a", 1) == "a"
    assert aliases.resolve("b", 2) == "b"
    assert aliases.resolve("", 1) == "a"
    assert aliases.resolve("c", 1) == "c"  # set anew (3.3.2.3.4)
    assert aliases.resolve("", 1) == "c"
    assert aliases.resolve("", 2) == "b"


@pytest.mark.parametrize("alias", [0, 3, 65_535])
def test_an_alias_out_of_range(alias: int) -> None:
    for topic in ("a", ""):
        with pytest.raises(ProtocolViolation) as caught:
            ReceivingAliases(2).resolve(topic, alias)
        assert caught.value.reason_code == ReasonCode.TOPIC_ALIAS_INVALID


def test_an_alias_that_was_never_set() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        ReceivingAliases(2).resolve("", 2)
    assert caught.value.reason_code == ReasonCode.PROTOCOL_ERROR


def test_our_aliases_up_to_the_maximum() -> None:
    aliases = SendingAliases(2)
    assert aliases.use("a") == (1, False)
    assert aliases.use("a") == (1, True)
    assert aliases.use("b") == (2, False)
    assert aliases.use("c") == (0, False)
    assert aliases.use("b") == (2, True)
    assert SendingAliases(0).use("a") == (0, False)


def test_an_alias_that_was_not_sent_is_taken_back() -> None:
    aliases = SendingAliases(2)
    aliases.use("a")
    aliases.use("b")
    aliases.forget("a")  # not the last one: the receiver knows it
    aliases.forget("never")
    aliases.forget("b")
    assert aliases.use("a") == (1, True)
    assert aliases.use("c") == (2, False)
