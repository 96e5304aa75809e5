"""Plugins: what the configuration may name, and the sentence for each thing that can be wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from acebroker_codec.packets import PacketType, Pingreq, Publish
from acebroker_middleware.connection import Connection
from acebroker_middleware.stage import Batch, Stage, per_packet
from acebroker_middleware.testing import RecordingConnection
from trio_acebroker.config import ConfigError
from trio_acebroker.plugins import ENTRY_POINT_GROUP, load_stage

HERE = __name__


class Plain:
    """A stage with two options."""

    wants = frozenset({PacketType.PUBLISH})

    def __init__(self, *, name: str = "plain", limit: int = 1) -> None:
        if limit < 1:
            raise ValueError("limit is at least 1")
        self.name = name
        self.limit = limit

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch


class Holder:
    """Things that are not at the top of a module."""

    Inner = Plain


@per_packet(PacketType.PUBLISH)
def seen(conn: Connection, packet: Any) -> Any:
    return packet


def built(*, limit: int) -> Plain:
    return Plain(name="built", limit=limit)


class WithoutName:
    wants = frozenset({PacketType.PUBLISH})


class NameIsNumber(Plain):
    def __init__(self) -> None:
        self.name = 3  # type: ignore[assignment]


class WantsTuple(Plain):
    wants = (PacketType.PUBLISH,)  # type: ignore[assignment]


class WantsNumbers(Plain):
    wants = frozenset({3})  # type: ignore[arg-type]


class NotCallable(Plain):
    on_batch = 3  # type: ignore[assignment]


A_NUMBER = 3


def loaded(name: str, **options: Any) -> Stage:
    return load_stage(f"{HERE}:{name}", options)


def test_a_class_is_made_with_its_options() -> None:
    stage = loaded("Plain", limit=7)
    assert isinstance(stage, Plain)
    assert stage.limit == 7
    assert loaded("Plain") is not loaded("Plain")


def test_a_name_may_have_dots() -> None:
    assert isinstance(loaded("Holder.Inner"), Plain)


def test_a_function_may_make_the_stage() -> None:
    assert loaded("built", limit=2).name == "built"


def test_a_stage_of_one_function_is_finished() -> None:
    assert loaded("seen") is seen
    with pytest.raises(ConfigError, match="takes no options"):
        loaded("seen", limit=1)


@pytest.mark.parametrize(
    ("use", "options", "expected"),
    [
        (f"{HERE}:Nothing", {}, f"stage '{HERE}:Nothing': module '{HERE}' has no attribute 'Nothing'"),
        ("no_such_module:Name", {}, "stage 'no_such_module:Name': there is no module no_such_module"),
        (":Name", {}, "stage ':Name' is not package.module:Name"),
        ("module:", {}, "stage 'module:' is not package.module:Name"),
        (".module:Name", {}, "stage '.module:Name' is not package.module:Name"),
        (f"{HERE}:Plain", {"limits": 1}, "its options do not fit: got an unexpected keyword argument 'limits'"),
        (f"{HERE}:built", {}, "its options do not fit: missing a required argument: 'limit'"),
        (f"{HERE}:Plain", {"limit": 0}, "cannot be made: ValueError: limit is at least 1"),
        (f"{HERE}:Plain", {"limit": "x"}, "cannot be made: TypeError: "),
        (f"{HERE}:A_NUMBER", {}, "is no stage and makes none"),
        (f"{HERE}:WithoutName", {}, "is no stage: WithoutName has no name, no on_batch"),
        (f"{HERE}:NameIsNumber", {}, "is no stage: its name is no text"),
        (f"{HERE}:WantsTuple", {}, "is no stage: what it wants is no frozenset of PacketType"),
        (f"{HERE}:WantsNumbers", {}, "is no stage: what it wants is no frozenset of PacketType"),
        (f"{HERE}:NotCallable", {}, "is no stage: its on_batch cannot be called"),
        ("ratelimit", {}, "stage 'ratelimit': no installed plugin has that name; did you mean rate-limit?"),
        ("zzzzz", {}, "no installed plugin has that name; installed are: "),
    ],
)
def test_what_is_wrong_is_said(use: str, options: Mapping[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_stage(use, options)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"stage {use!r}")


def test_a_module_that_raises_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_on_import.py").write_text("1 / 0\n")
    (tmp_path / "needs_another.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        load_stage("breaks_on_import:Name", {})
    with pytest.raises(ConfigError, match="there is no module not_installed_at_all"):
        load_stage("needs_another:Name", {})


def entry_points(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = metadata.EntryPoints(metadata.EntryPoint("mine", value, ENTRY_POINT_GROUP) for value in values)
    monkeypatch.setattr(metadata, "entry_points", lambda group: points.select(group=group))


def test_an_entry_point_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, f"{HERE}:Plain")
    assert isinstance(load_stage("mine", {}), Plain)


def test_only_what_is_used_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, "antigravity:Name")
    with pytest.raises(ConfigError, match="did you mean mine"):
        load_stage("mime", {})
    assert "antigravity" not in sys.modules


def test_two_plugins_of_one_name_are_not_chosen_between(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, f"{HERE}:Plain", f"{HERE}:built")
    with pytest.raises(ConfigError, match=f"two plugins have that name; use one of {HERE}:Plain, {HERE}:built"):
        load_stage("mine", {})
    entry_points(monkeypatch, f"{HERE}:Plain", f"{HERE}:Plain")
    assert isinstance(load_stage("mine", {}), Plain)


def test_the_sample_plugin_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "sample_plugin")
    stamp = load_stage("acebroker_sample:Stamp", {"text": "!"})
    fed = RecordingConnection().feed(stamp, Publish("t", b"x", 1, packet_identifier=7), Pingreq(), Publish("u"))
    assert fed.passed == [Publish("t", b"x!", 1, packet_identifier=7), Pingreq(), Publish("u", b"!")]
    assert (fed.error, fed.wrote, fed.refused) == (None, [], [])
