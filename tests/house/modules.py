"""The modules of the house, parsed: what the rules are checked on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from msgspec import Struct

__all__ = ["ROOT", "SOURCE_ROOTS", "Import", "Module", "modules"]

ROOT = Path(__file__).resolve().parents[2]
#: import package -> its source root
SOURCE_ROOTS = {
    "acebroker_codec": "codec",
    "acebroker_ace": "codec",
    "acebroker_middleware": "middleware",
    "trio_acebroker": "broker",
}


class Import(Struct, frozen=True):
    """One imported module, or a name out of one."""

    line: int
    #: `package.module`, or `package.module.Name`
    target: str
    #: under `if TYPE_CHECKING:`
    for_types_only: bool

    @property
    def package(self) -> str:
        """The first part of the name."""
        return self.target.partition(".")[0]


class Module(Struct, frozen=True):
    """One file of an import package."""

    #: dotted name
    name: str
    path: Path
    text: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        """The import package it belongs to."""
        return self.name.partition(".")[0]

    def __repr__(self) -> str:
        """Its name, for the output of tests."""
        return self.name


@cache
def modules() -> dict[str, Module]:
    """Every module in the source roots, by name."""
    found = {}
    for package, root in SOURCE_ROOTS.items():
        for path in sorted((ROOT / root / package).rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = parse(name, path, path.read_text(encoding="utf-8"))
    return found


def parse(name: str, path: Path, text: str) -> Module:
    """A module out of its text."""
    tree = ast.parse(text)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return Module(name, path, text, tree, tuple(_imports(tree, package, False)))


def _imports(node: ast.AST, package: str, for_types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name, for_types_only)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - child.level + 1], *([base] if base else [])])
            for alias in child.names:
                yield Import(child.lineno, f"{base}.{alias.name}", for_types_only)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), package, True)
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), package, for_types_only)
        else:
            yield from _imports(child, package, for_types_only)
