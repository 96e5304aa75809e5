"""The numbered statements of MQTT and of ACE, and what is excused from having a test.

Read from `spec/conformance/`: `mqtt5.toml`, `mqtt311.toml` and `ace.toml` list the statements,
`exceptions.toml` names those that have no test, each with its reason.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ACE", "VERSIONS", "Excuse", "Statement", "ace", "excuses", "mqtt5", "mqtt311", "statements"]

FOLDER = Path(__file__).resolve().parents[2] / "spec" / "conformance"
#: the `version` of statements of RFC 9431 and what it builds on
ACE = 9431
#: the `version` of a mark -> the file of its statements
VERSIONS = {5: "mqtt5.toml", 311: "mqtt311.toml", ACE: "ace.toml"}

#: marks a test with statements of MQTT 5.0
mqtt5 = functools.partial(pytest.mark.conformance, version=5)
#: marks a test with statements of MQTT 3.1.1
mqtt311 = functools.partial(pytest.mark.conformance, version=311)
#: marks a test with statements of `ace.toml`
ace = functools.partial(pytest.mark.conformance, version=ACE)


@dataclass(frozen=True)
class Statement:
    """One statement. `role` is who has to do it: client, server or both; of ACE broker, client, as, joined by +."""

    id: str
    version: int
    role: str
    #: the strength as the standard words it; `do` where ACE describes without a keyword
    level: str
    text: str
    #: False for error conditions that the standard words without an id
    numbered: bool


@dataclass(frozen=True)
class Excuse:
    """Why a statement has no test."""

    id: str
    version: int
    reason: str


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def statements(version: int) -> dict[str, Statement]:
    """All statements of one version by id, the numbered ones first."""
    content = _read(VERSIONS[version])
    return {
        row["id"]: Statement(row["id"], version, row["role"], row.get("level", ""), row["text"], table == "statement")
        for table in ("statement", "unnumbered")
        for row in content.get(table, [])
    }


def excuses() -> list[Excuse]:
    """The rows of exceptions.toml."""
    return [Excuse(row["id"], row["version"], row["reason"]) for row in _read("exceptions.toml").get("exception", [])]
