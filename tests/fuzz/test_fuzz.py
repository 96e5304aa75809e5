"""Fuzzing can fail: planted defects are found, made small, written down and told."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec import decoder, wire
from acebroker_codec.flow import AckInput, EntryState, InflightWindow
from acebroker_middleware import acl
from acebroker_middleware.state.subscriptions import SubscriptionTree
from tests.fuzz import __main__ as command
from tests.fuzz import finding as findings
from tests.fuzz.by_hypothesis import explore
from tests.fuzz.damage import damaged, spliced
from tests.fuzz.door import Door
from tests.fuzz.doors import DOORS
from tests.fuzz.finding import CORPUS, Finding, minimised, report, run
from tests.fuzz.script import Do, Setting, Step, read_script, write_script

Plant = Callable[[pytest.MonkeyPatch], None]


def index_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """SUBSCRIBE looks one octet too far."""
    bodies = decoder._BODIES_TO["server"]
    read = bodies[0x82]

    def subscribe(first_octet: int, data: bytes, start: int, end: int, version: Any) -> Any:
        if end - start == 2:
            return data[start : start + 2][2]
        return read(first_octet, data, start, end, version)

    monkeypatch.setitem(bodies, 0x82, subscribe)


def null_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings may hold U+0000."""
    monkeypatch.setattr(wire, "text_of", lambda octets: octets.decode("utf-8", "replace"))


def odd_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PUBCOMP that nobody waits for is a KeyError in the session stage."""
    acknowledge = InflightWindow.acknowledge

    def careless(self: InflightWindow[Any], identifier: int, ack: AckInput) -> Any:
        if ack is AckInput.PUBCOMP and self.state(identifier) is EntryState.UNKNOWN:
            raise KeyError(identifier)
        return acknowledge(self, identifier, ack)

    monkeypatch.setattr(InflightWindow, "acknowledge", careless)


def leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriptions to filters with `+` stay for ever."""
    remove = SubscriptionTree.remove

    def forgetful(self: SubscriptionTree[Any], subscriber: Any, topic_filter: str) -> bool:
        return "+" in topic_filter or remove(self, subscriber, topic_filter)

    monkeypatch.setattr(SubscriptionTree, "remove", forgetful)


def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """An access control list grants a filter where it should grant a part of it."""
    monkeypatch.setattr(acl, "covers", lambda scope, requested: requested.startswith(scope[:2]))


PLANTED: list[tuple[str, Plant]] = [
    ("decoder", index_error),
    ("decoder", null_character),
    ("sessions", odd_acknowledgement),
    ("sessions", leak),
    ("texts", generous),
]


@pytest.mark.parametrize(("name", "plant"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_defect_is_found(monkeypatch: pytest.MonkeyPatch, name: str, plant: Plant) -> None:
    plant(monkeypatch)
    with pytest.raises(Finding) as caught:
        explore(DOORS[name], 60, executions_max=5_000, seed=1)
    small = minimised(caught.value, 5)
    assert 0 < len(small.data) <= len(caught.value.data)
    with pytest.raises(Finding):
        run(DOORS[name], small.data)
    monkeypatch.undo()
    run(DOORS[name], small.data)


def door(execute: Callable[[bytes], None]) -> Door:
    return Door("made-up", 1, execute, st.binary(), damaged, 1, lambda: ())


def test_an_input_without_end_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(data: bytes) -> None:
        while data:
            pass

    monkeypatch.setattr(findings, "SECONDS_MAX", 0.1)
    run(door(endless), b"")
    with pytest.raises(Finding) as caught:
        run(door(endless), b"x")
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_what_nobody_can_catch_is_a_finding() -> None:
    async def never_awaited() -> None:
        pass

    def careless(data: bytes) -> None:
        never_awaited()  # type: ignore[unused-coroutine]

    with pytest.raises(Finding) as caught:
        run(door(careless), b"x")
    assert "never awaited" in str(caught.value.__cause__)


def test_a_finding_is_made_small_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(data: bytes) -> None:
        if b"a" in data and b"z" in data:
            raise LookupError("both")
        assert b"q" not in data

    with pytest.raises(Finding) as caught:
        run(door(picky), b"-" * 40 + b"a" + b"-" * 40 + b"zq" + b"-" * 40)
    small = minimised(caught.value)
    assert small.data == b"az"
    monkeypatch.setattr(findings, "RUN", tmp_path)
    told = report(small)
    assert "LookupError: both" in told
    assert "2 octets: 617a" in told
    (written,) = (tmp_path / "findings").iterdir()
    assert written.read_bytes() == b"az"
    assert str(written) in told


def test_the_command_ends_with_status_1_and_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(findings, "RUN", tmp_path)
    monkeypatch.setattr(findings, "MINIMISE_SECONDS", 1.0)
    index_error(monkeypatch)
    # the kept corpus and the seeds come first
    assert command.main(["--seconds", "20", "--engine", "hypothesis", "--door", "decoder"]) == 1
    output = capsys.readouterr().out
    assert "IndexError" in output
    assert "door decoder: " in output
    (written,) = (tmp_path / "findings").iterdir()
    assert command.main(["--door", "decoder", "--replay", str(written)]) == 1
    monkeypatch.undo()
    assert command.main(["--door", "decoder", "--replay", str(written)]) == 0


@pytest.mark.parametrize("name", DOORS)
def test_seeds_and_a_few_inputs_of_each_door_pass(name: str) -> None:
    seeds = list(DOORS[name].seeds())
    assert seeds
    for data in random.Random(0).sample(seeds, min(100, len(seeds))):
        run(DOORS[name], data)
    assert explore(DOORS[name], 60, executions_max=50, seed=0) == 50


@given(st.binary(max_size=200))
def test_every_byte_string_is_a_script(data: bytes) -> None:
    setting, steps = read_script(data)
    again = write_script(setting, steps)
    assert read_script(again) == (setting, steps)


def test_a_script_says_what_is_done() -> None:
    setting = Setting(flow_cache=False, plugin=True, narrow=True, late_store=False, pump=True, order=5)
    steps = [Step(Do.SEND, 3, b"abc"), Step(Do.PIECES, 31, b""), Step(Do.READY, 30), Step(Do.WAIT), Step(Do.OTHERS, 7)]
    assert read_script(write_script(setting, steps)) == (setting, steps)


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers())
def test_damage_goes_with_any_octets(first: bytes, second: bytes, seed: int) -> None:
    assert isinstance(damaged(first, random.Random(seed)), bytes)
    assert len(spliced(first, second, random.Random(seed))) <= len(first) + len(second)


def test_without_atheris_it_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "AVAILABLE", False)
    assert command.main(["--seconds", "0.1", "--door", "texts"]) == 0
    assert "Hypothesis only" in capsys.readouterr().out


def test_with_atheris_both_engines_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed; nothing is skipped where it is not, as it is never required."""
    if not command.AVAILABLE:
        return
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--door", "texts", "--engine", "atheris"],
        cwd=CORPUS.parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "atheris" in done.stdout
