"""Each module: what it is called, what it says of itself, how long it is."""

from __future__ import annotations

import ast

import pytest

from tests.house.modules import Module, modules

#: names under which things without a home gather
HOMELESS = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "base_utils", "tools"}
LINES_MAX = 500
#: modules that are longer, each with its reason
LONGER: dict[str, str] = {}


def exported(module: Module) -> list[str] | None:
    """The names in `__all__`, or None where there is none."""
    for statement in module.tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets) and statement.value:
                return list(ast.literal_eval(statement.value))
    return None


@pytest.mark.parametrize("module", modules().values(), ids=repr)
def test_it_says_what_it_is(module: Module) -> None:
    assert ast.get_docstring(module.tree), "a module opens with what it is, and what it will not do"
    if any(isinstance(statement, ast.ClassDef | ast.FunctionDef) for statement in module.tree.body):
        assert exported(module) is not None, "public names stand in __all__"


@pytest.mark.parametrize("module", modules().values(), ids=repr)
def test_public_things_have_docstrings(module: Module) -> None:
    bare = []
    for statement in module.tree.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if statement.name.startswith("_"):
                continue
            if not ast.get_docstring(statement):
                bare.append(statement.name)
            for member in statement.body if isinstance(statement, ast.ClassDef) else ():
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    if not member.name.startswith("_") and not ast.get_docstring(member):
                        bare.append(f"{statement.name}.{member.name}")
    assert not bare


@pytest.mark.parametrize("module", modules().values(), ids=repr)
def test_it_is_about_one_thing(module: Module) -> None:
    assert module.name not in LONGER or module.text.count("\n") > LINES_MAX, "no exception is needed any more"
    if module.name not in LONGER:
        assert module.text.count("\n") <= LINES_MAX
    assert not HOMELESS & set(module.name.split("."))


def test_exceptions_name_modules() -> None:
    assert set(LONGER) <= set(modules())


def test_hot_modules_never_await() -> None:
    """The message path of codec and middleware is plain functions, which a compiler could take as they are."""
    asynchronous = {
        module.name
        for module in modules().values()
        if module.package != "trio_acebroker"
        and any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(module.tree))
    }
    # the contract of plugins and what drives one by hand, as a plugin may be asynchronous; what follows an awaitable
    assert asynchronous <= {f"acebroker_middleware.{name}" for name in ("stage", "testing", "hand_offs")}
