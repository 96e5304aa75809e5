"""Each limit has a test that reaches it: `@limit("name")` says which."""

from __future__ import annotations

import ast

import pytest

from acebroker_middleware.state.bounds import Limits
from tests.house.modules import ROOT


def reached() -> dict[str, list[str]]:
    """Limit -> the tests that are marked with it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "limit":
                    for name in mark.args:
                        found.setdefault(ast.literal_eval(name), []).append(f"{path.name}::{node.name}")
    return found


REACHED = reached()


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_there_is_a_test_that_reaches_it(name: str) -> None:
    assert REACHED.get(name), f"mark a test that reaches it with @limit({name!r})"


def test_no_mark_is_about_nothing() -> None:
    assert set(REACHED) <= set(Limits.__struct_fields__)
