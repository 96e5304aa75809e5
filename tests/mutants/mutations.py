"""Mutations as data: one piece of source, what it becomes, which rule that breaks, and which tests must notice.

They stand in the `.toml` files of this folder, by the part of the code that they break. `source` occurs exactly
once in its `file`, spaces and all; when the code changes under a mutation, a test says that it is stale.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Mutation", "StaleMutation", "mutations"]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


class StaleMutation(Exception):
    """The source of a mutation does not occur exactly once."""


@dataclass(frozen=True)
class Mutation:
    """One row.

    `breaks`: the rule, as the mutated code has it. `statement`: its id in `spec/conformance/`, empty where the rule
    is our own. `tests`: what is most likely to notice, as arguments of pytest.
    """

    name: str
    breaks: str
    file: str
    source: str
    replacement: str
    tests: tuple[str, ...]
    statement: str = ""

    def applied(self, root: Path) -> str:
        """The text of its file below `root`, mutated. Raises StaleMutation."""
        text = (root / self.file).read_text(encoding="utf-8")
        count = text.count(self.source)
        if count != 1:
            raise StaleMutation(f"{self.file} has its source {count} times")
        return text.replace(self.source, self.replacement)


def mutations() -> list[Mutation]:
    """All of them, in the order of their files."""
    return [
        Mutation(**{**row, "tests": tuple(row["tests"])})
        for path in sorted(HERE.glob("*.toml"))
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
    ]
