"""Mutations do not go stale silently: each has its source, its statement and its tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conformance.statements import statements
from tests.mutants.mutations import ROOT, Mutation, StaleMutation, mutations

ALL = mutations()


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_its_source_occurs_once_and_what_it_becomes_is_python(mutation: Mutation) -> None:
    mutated = mutation.applied(ROOT)
    assert mutated != (ROOT / mutation.file).read_text(encoding="utf-8")
    ast.parse(mutated)


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_what_it_names_is_there(mutation: Mutation) -> None:
    assert not mutation.statement or mutation.statement in statements(5) or mutation.statement in statements(311)
    assert mutation.tests
    for test in mutation.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not name or name in functions, f"{path} has no {name}"


def test_there_are_enough_of_every_part() -> None:
    names = [mutation.name for mutation in ALL]
    assert len(set(names)) == len(names) >= 30
    parts = {"codec": 10, "session": 5, "router": 5, "deliver": 3, "authz": 3}
    for part, least in parts.items():
        assert sum(part in mutation.file for mutation in ALL) >= least


@pytest.mark.parametrize("count", [0, 2])
def test_a_stale_mutation_is_seen(tmp_path: Path, count: int) -> None:
    (tmp_path / "module.py").write_text("a = 1\n" * count + "b = 2\n")
    with pytest.raises(StaleMutation, match=f"{count} times"):
        Mutation("name", "breaks", "module.py", "a = 1", "a = 2", ("tests",)).applied(tmp_path)
