"""The tree: what stands at the top, what no file says, and what every package brings along."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.house.modules import ROOT, SOURCE_ROOTS

TOP = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "broker",
    "codec",
    "middleware",
    "pyproject.toml",
    "spec",
    "tests",
}

#: folders of somebody's machine, and hosts of package registries; taken apart, so that this file has none
MACHINES = [
    *(f"/{folder}/" for folder in ("work", "home", "root", "Users", "mnt", "var/tmp")),
    *(f"/{folder}/" for folder in ("tmp",)),
    "/".join(("..", "shared")),
]
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("crates", "io"),
    )
]


def ignored(path: Path) -> bool:
    """Whether .gitignore names the file, or a folder that it is in."""
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    relative = path.relative_to(ROOT)
    return relative.parts[0] == ".git" or any(
        fnmatch.fnmatch(part, pattern.strip("/")) for part in relative.parts for pattern in patterns
    )


def files() -> Iterator[Path]:
    """The project's files, without what is ignored."""
    folders = [ROOT]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if ignored(path):
                continue
            if path.is_dir():
                folders.append(path)
            else:
                yield path


def test_the_top_level_is_complete_and_no_more() -> None:
    assert {path.name for path in ROOT.iterdir() if not ignored(path)} == TOP


def test_no_file_knows_a_machine_or_a_registry() -> None:
    unwanted = re.compile("|".join(re.escape(text) for text in [*MACHINES, *REGISTRIES]))
    seen = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # octets, as a corpus has them
        seen += [f"{path.relative_to(ROOT)}: {found[0]}" for found in unwanted.finditer(text)]
    assert not seen


@pytest.mark.parametrize(("package", "root"), SOURCE_ROOTS.items())
def test_packages_are_typed_and_shipped(package: str, root: str) -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert (ROOT / root / package / "py.typed").is_file()
    assert f"{root}/{package}" in build["targets"]["wheel"]["packages"]
    assert root in build["dev-mode-dirs"]


def test_source_roots_hold_packages_only() -> None:
    for root in SOURCE_ROOTS.values():
        packages = {package for package, home in SOURCE_ROOTS.items() if home == root}
        assert {path.name for path in (ROOT / root).iterdir() if not ignored(path)} == packages


def test_every_folder_of_tests_is_a_package() -> None:
    """Otherwise two files of one name shadow each other."""
    holders = {path.parent for path in files() if path.name.startswith("test_") and path.suffix == ".py"}
    assert not [holder for holder in holders if not (holder / "__init__.py").is_file()]


def test_types_are_checked_without_trio_typing() -> None:
    """Its stubs would hide Trio's own types, and with them our mistakes."""
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("trio-typing")
