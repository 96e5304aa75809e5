"""Imports run downwards: broker, then middleware, then ACE, then codec; and nothing goes in circles.

`codec/` and `middleware/` know neither sockets nor clocks nor chance, and nothing of Trio but its
types; what they need of that kind is given to them. Between modules of one package, an import under
`TYPE_CHECKING` may point upwards (a session names the connection that it has): it imports nothing.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.modules import ROOT, Module, modules, parse

#: what of ours and of others each package may import, besides the standard library
RIGHTS = {
    "acebroker_codec": {"acebroker_codec", "msgspec"},
    "acebroker_ace": {"acebroker_ace", "acebroker_codec", "cbor2", "cryptography", "joserfc", "msgspec"},
    "acebroker_middleware": {"acebroker_ace", "acebroker_codec", "acebroker_middleware", "argon2", "msgspec"},
    "trio_acebroker": {
        "OpenSSL",
        "acebroker_ace",
        "acebroker_codec",
        "acebroker_middleware",
        "argon2",
        "click",
        "cryptography",
        "msgspec",
        "structlog",
        "trio",
        "trio_acebroker",
    },
}
#: packages that a distribution provides under another name
DISTRIBUTIONS = {"OpenSSL": "pyOpenSSL", "argon2": "argon2-cffi"}

#: below broker/: no I/O, no clock, no randomness, no concurrency
PURE = {"acebroker_codec", "acebroker_ace", "acebroker_middleware"}
IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "fcntl",
    "glob",
    "http",
    "io",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "queue",
    "random",
    "sched",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}

#: inside a package: what the modules under a name never import
NEVER: dict[str, dict[str, set[str]]] = {
    "acebroker_middleware.state": {"acebroker_middleware": {"acebroker_middleware.state"}},
    "trio_acebroker.transports": {"trio_acebroker": {"trio_acebroker.transports"}},
    "trio_acebroker.storage": {"trio_acebroker": {"trio_acebroker.storage"}},
    "trio_acebroker.config": {"trio_acebroker": {"trio_acebroker.config_ace", "trio_acebroker.config_text"}},
    "trio_acebroker.plugins": {"trio_acebroker": {"trio_acebroker.config"}},
    "trio_acebroker.key_files": {"trio_acebroker": {"trio_acebroker.config_text"}},
    "trio_acebroker.ace": {"trio_acebroker": {"trio_acebroker.config", "trio_acebroker.key_files"}},
    "trio_acebroker.server": {
        "trio_acebroker": {"trio_acebroker.ace", "trio_acebroker.config", "trio_acebroker.plugins"}
    },
    "trio_acebroker.runtime": {"trio_acebroker.cli": set()},
}


def within(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix` or below it."""
    return name == prefix or name.startswith(f"{prefix}.")


def offences(module: Module) -> Iterator[str]:
    """What a module imports and may not."""
    for found in module.imports:
        place = f"{module.name}:{found.line} imports {found.target}"
        if found.package == "trio" and found.for_types_only and module.package == "acebroker_middleware":
            continue  # the nursery of Lifecycle
        if found.package not in RIGHTS[module.package] and found.package not in sys.stdlib_module_names:
            yield f"{place}, which {module.package} may not"
        if found.package in IMPURE and module.package in PURE:
            yield f"{place}, but below broker/ is no I/O, clock, randomness or concurrency"
        for importer, never in NEVER.items():
            if within(module.name, importer) and not found.for_types_only:
                for above, allowed in never.items():
                    if within(found.target, above) and not any(within(found.target, name) for name in allowed):
                        yield f"{place}, which stands above it"


def edges(module: Module, known: dict[str, Module]) -> set[str]:
    """The modules of ours that a module imports."""
    reached = set()
    for found in module.imports:
        target = "" if found.for_types_only else found.target
        while target and target not in known:
            target = target.rpartition(".")[0]
        if target:
            reached.add(target)
    return reached - {module.name}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A path through the graph that ends where it began, or None."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for following in sorted(graph[name]):
            if found := walk(following, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := walk(name, []))), None)


@pytest.mark.parametrize("module", modules().values(), ids=repr)
def test_imports_run_downwards(module: Module) -> None:
    assert not list(offences(module))


def test_imports_have_no_circle() -> None:
    known = modules()
    assert circle({name: edges(module, known) for name, module in known.items()}) is None


def test_every_dependency_is_declared_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    ours = set(RIGHTS)
    used = {found.package for module in modules().values() for found in module.imports}
    used = {DISTRIBUTIONS.get(package, package) for package in used - set(sys.stdlib_module_names) - ours}
    assert used == declared


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("acebroker_codec.wire", "import trio"),
        ("acebroker_codec.wire", "if TYPE_CHECKING:\n    import trio"),
        ("acebroker_codec.wire", "from acebroker_middleware import stage"),
        ("acebroker_codec.wire", "def late():\n    import time"),
        ("acebroker_codec.wire", "from os import urandom"),
        ("acebroker_codec.wire", "from acebroker_ace import scope"),
        ("acebroker_ace.token", "import time"),
        ("acebroker_ace.token", "import trio"),
        ("acebroker_ace.token", "from acebroker_middleware import stage"),
        ("acebroker_middleware.stage", "import trio"),
        ("acebroker_middleware.stage", "if not TYPE_CHECKING:\n    import trio"),
        ("acebroker_middleware.stage", "if TYPE_CHECKING:\n    pass\nelse:\n    import trio"),
        ("acebroker_middleware.stage", "try:\n    import ssl\nexcept ImportError:\n    pass"),
        ("acebroker_middleware.stage", "from trio_acebroker.runtime import connection"),
        ("acebroker_middleware.state.ports", "from acebroker_middleware import stage"),
        ("acebroker_middleware.state.ports", "from ..stage import Stage"),
        ("trio_acebroker.runtime.connection", "from trio_acebroker.cli import main"),
        ("trio_acebroker.transports.tcp", "import trio_acebroker.runtime.connection"),
        ("trio_acebroker.server", "import requests"),
    ],
)
def test_an_offence_is_seen(name: str, text: str) -> None:
    assert list(offences(parse(name, Path("module.py"), text)))


def test_trio_is_allowed_for_types() -> None:
    assert not list(offences(parse("acebroker_middleware.stage", Path("x.py"), "if TYPE_CHECKING:\n    import trio")))


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
