"""The documents say what is so: every key and default of the configuration, every target of make, every example."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from acebroker_middleware.acl import AclRules
from acebroker_middleware.connection import Connection
from acebroker_middleware.testing import RecordingConnection
from tests.house.modules import ROOT
from trio_acebroker import Broker, Publish
from trio_acebroker.cli import main
from trio_acebroker.config import AuthorizationServer, BrokerConfig, Listener, StageConfig, Tls
from trio_acebroker.plugins import load_stage

README = (ROOT / "README.md").read_text(encoding="utf-8")
PIPELINE = (ROOT / "spec" / "pipeline.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "spec" / "configuration.md").read_text(encoding="utf-8")


def shown(field: msgspec.structs.FieldInfo) -> str:
    """A default as the page has it."""
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if field.required:
        return "required"
    if default is None:
        return "unset"
    if isinstance(default, tuple):
        return f"`{[int(value) for value in default]}`"
    return f"`{msgspec.json.encode(default).decode()}`"


def structs() -> dict[str, type[msgspec.Struct]]:
    """Table -> its Struct."""
    tables: dict[str, type[msgspec.Struct]] = {
        "[[listener]]": Listener,
        "[listener.tls]": Tls,
        "[[authorization_server]]": AuthorizationServer,
        "[[stage]]": StageConfig,
    }
    for field in msgspec.structs.fields(BrokerConfig):
        kind = inspect.type_info(field.type)
        if isinstance(kind, inspect.StructType):
            tables[f"[{field.encode_name}]"] = kind.cls
    return tables


def documented(table: str) -> dict[str, str]:
    """Key -> default in the table of one section."""
    section = CONFIGURATION.partition(f"\n## {table}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))


@pytest.mark.parametrize("table", structs())
def test_every_key_is_documented_with_its_default(table: str) -> None:
    assert documented(table) == {field.encode_name: shown(field) for field in msgspec.structs.fields(structs()[table])}


def test_no_section_is_about_nothing() -> None:
    assert set(re.findall(r"^## (\[.*\])$", CONFIGURATION, re.MULTILINE)) == set(structs())
    assert len(structs()) == len(BrokerConfig.__struct_fields__) + 1  # tables, and the one inside of a listener


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL))
def test_examples_of_configuration_are_valid(text: str) -> None:
    tomllib.loads(text)
    config = BrokerConfig.from_toml(text, environ={"ACEBROKER_AUTHENTICATION__ANONYMOUS": "true"})
    for stage in config.stages:
        load_stage(stage.use, stage.options)


def test_the_example_of_an_acl_file_is_valid() -> None:
    (text,) = re.findall(r"```acl\n(.*?)```", CONFIGURATION, re.DOTALL)
    AclRules.parse(text, "configuration.md")


def blocks(language: str, page: str = README) -> list[str]:
    """The blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_readme_lists_the_targets_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    listed = set(re.findall(r"^\| `make ([a-z]+)` \|", README, re.MULTILINE))
    assert listed <= targets
    assert {"run", "test", "check", "conformance", "mutants", "fuzz", "bench"} <= listed


def test_readme_lists_the_commands() -> None:
    assert set(re.findall(r"^\| `trio-acebroker (\w+)` \|", README, re.MULTILINE)) == set(main.commands)


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "spec").glob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https:)([^)]+)\)", page.read_text(encoding="utf-8"))
    assert links or page.name != "README.md"
    assert not [link for link in links if not (page.parent / link).is_file()]


def test_the_embedding_example_runs() -> None:
    embedding, _ = blocks("python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", embedding], capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert re.match(r"listening on \[\('127\.0\.0\.1', \d+\)\]\n", run.stdout)


def test_the_plugin_example_is_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plugin = blocks("python")
    (tmp_path / "plugin.py").write_text(plugin)
    monkeypatch.syspath_prepend(tmp_path)
    (configuration,) = blocks("toml")
    config = BrokerConfig.from_toml(configuration, environ={"ACEBROKER_AUTHENTICATION__ANONYMOUS": "true"})
    assert "no_secrets" in [stage.name for stage in Broker(config).pipeline.stages]


def test_the_stage_of_pipeline_md_is_one() -> None:
    stage, _ = blocks("python", PIPELINE)
    names: dict[str, Any] = {}
    exec(stage, names)
    conn = RecordingConnection()
    assert conn.feed(names["stamp"], Publish("a"), Publish("b")).passed == [Publish("a"), Publish("b")]
    assert conn.attributes == {"seen": 2}


def test_the_test_of_pipeline_md_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plugin = blocks("python")
    (tmp_path / "plugin.py").write_text(plugin)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugin", raising=False)
    _, test = blocks("python", PIPELINE)
    names: dict[str, Any] = {}
    exec(test, names)
    names["test_secrets_go_no_further"]()
    monkeypatch.delitem(sys.modules, "plugin")


def test_pipeline_md_names_everything_of_the_recording_connection() -> None:
    own = {name for name in vars(RecordingConnection) if not name.startswith("_")} - set(vars(Connection))
    assert own == {
        "clock",
        "deliver",
        "ended",
        "feed",
        "feed_async",
        "plan",
        "plan_deliver",
        "refusals",
        "run",
        "written",
    }
    (table,) = re.findall(r"^\| of `RecordingConnection` .*?\n\n", PIPELINE, re.DOTALL | re.MULTILINE)
    assert not [name for name in own if not re.search(rf"`{name}[`.(]", table)]
