"""The documents say what is so: every key and default of the configuration, every target of make, every example."""

from __future__ import annotations

import re
import tomllib

import msgspec
import pytest
from msgspec import inspect

from acebroker_middleware.acl import AclRules
from tests.house.modules import ROOT
from trio_acebroker.config import BrokerConfig, Listener, StageConfig
from trio_acebroker.plugins import load_stage

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
    tables: dict[str, type[msgspec.Struct]] = {"[[listener]]": Listener, "[[stage]]": StageConfig}
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
    assert len(structs()) == len(BrokerConfig.__struct_fields__)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL))
def test_examples_of_configuration_are_valid(text: str) -> None:
    tomllib.loads(text)
    config = BrokerConfig.from_toml(text, environ={"ACEBROKER_AUTHENTICATION__ANONYMOUS": "true"})
    for stage in config.stages:
        load_stage(stage.use, stage.options)


def test_the_example_of_an_acl_file_is_valid() -> None:
    (text,) = re.findall(r"```acl\n(.*?)```", CONFIGURATION, re.DOTALL)
    AclRules.parse(text, "configuration.md")
