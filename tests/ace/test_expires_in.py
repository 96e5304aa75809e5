"""`exi`: numbers that rise, times that start once, memory that is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace import expires_in
from acebroker_ace.errors import ExpiredToken, UnreadableClaims
from acebroker_ace.expires_in import ExpiresIn, sequence_number
from tests.conformance.statements import ace


def taken(running: ExpiresIn, number: int, seconds: float, now: float) -> float | None:
    """When it ends, None where it is refused."""
    try:
        return running.ends_at(number, seconds, now)
    except ExpiredToken:
        return None


@ace("ADJ-9200-34")
def test_a_number_that_expired_takes_the_lower_ones_along() -> None:
    running = ExpiresIn()
    assert taken(running, 5, 10, now=0) == 10
    assert taken(running, 7, 100, now=0) == 100
    assert taken(running, 4, 100, now=9.9) == 109.9
    assert taken(running, 5, 10, now=9.9) == 10
    assert taken(running, 5, 10, now=10) is None
    assert taken(running, 4, 100, now=10) is None
    assert taken(running, 3, 100, now=10) is None
    assert taken(running, 6, 100, now=10) == 110
    assert taken(running, 7, 100, now=10) == 100


def test_a_token_that_lasts_no_time() -> None:
    running = ExpiresIn()
    assert taken(running, 3, 0, now=5) is None
    assert taken(running, 2, 10, now=5) is None
    assert taken(running, 4, -1, now=5) is None
    assert taken(running, 5, 1, now=5) == 6


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 20), st.integers(0, 5)), max_size=40))
def test_against_a_model_that_forgets_nothing(steps: list[tuple[int, int, int]]) -> None:
    """Model: a number has expired when its end, or that of a higher number, has come."""
    running = ExpiresIn()
    ends: dict[int, int] = {}
    now = 0
    for number, seconds, later in steps:
        now += later
        over = any(end <= now and other >= number for other, end in ends.items())
        if not over:
            ends.setdefault(number, now + seconds)
        assert taken(running, number, seconds, now) == (None if over else ends[number])


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expires_in, "LIVE_MAX", 4)
    running = ExpiresIn()
    for number in range(100):
        assert taken(running, number, 1_000, now=0) == 1_000
        assert len(running._ends) <= 4
        assert len(running._order) <= 8
    assert [taken(running, number, 1_000, now=1) for number in range(95, 100)] == [None, 1_000, 1_000, 1_000, 1_000]
    assert taken(running, 94, 1_000, now=1) is None
    assert taken(running, 99, 1_000, now=1_000) is None


def test_a_number_below_all_that_run_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expires_in, "LIVE_MAX", 2)
    running = ExpiresIn()
    assert [taken(running, number, 10, now=0) for number in (8, 9, 7)] == [10, 10, None]
    assert taken(running, 9, 10, now=0) == 10


@ace("ADJ-9200-34")
def test_the_number_follows_a_name_of_the_broker() -> None:
    names = ["rs", "mqtts://b"]
    assert sequence_number(b"rs0012", names, decimal=True) == 12
    assert sequence_number(b"mqtts://b7", names, decimal=True) == 7
    assert sequence_number(b"rs\x01\x00", names, decimal=False) == 256
    assert sequence_number(b"rs1", names, decimal=False) == 0x31
    for identifier in (None, b"", b"rs", b"1", b"RS1", b"rs" + b"1" * 21):
        for decimal in (True, False):
            with pytest.raises(UnreadableClaims):
                sequence_number(identifier, names, decimal=decimal)
    for identifier in (b"rs+1", b"rs 1", b"rs1.0", "rs²".encode()):
        with pytest.raises(UnreadableClaims):
            sequence_number(identifier, names, decimal=True)
