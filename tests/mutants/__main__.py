"""`python -m tests.mutants [NAME ...]`: break the code in known ways, one at a time; each must make a test fail.

Every mutation (`mutations.py`) is tried in a fresh copy of the tree in a temporary folder, two side by side. First the
tests that it names are run; only where those pass, all others (but those of the house, of benchmarks and of this).
Where a test that is named does not end in time, the mutation counts as killed: it hangs, and somebody would notice.

Ends with 1 when a mutation survives, is stale, or breaks so much that no test can be loaded; and before all
that, when the tests that are named do not pass on the tree as it is, for then they prove nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutations import ROOT, Mutation, StaleMutation, mutations

__all__ = ["Result", "main"]

#: what is copied: all that a test run needs, and nothing of .venv/
COPIED = ("codec", "middleware", "broker", "tests", "spec", "pyproject.toml", "README.md", "Makefile", "CHANGELOG.md")
SOURCE_ROOTS = ("codec", "middleware", "broker", ".")
#: tried at the same time
SIDE_BY_SIDE = 2
#: one of the tests that are named, which take a second; a mutation that hangs is told by the name of the test
TEST_SECONDS_MAX = 20
NAMED_SECONDS_MAX = 60
#: all others, where one test has the time that pyproject.toml gives it
SUITE_SECONDS_MAX = 600
EVERYTHING = ("tests", *(f"--ignore=tests/{folder}" for folder in ("mutants", "bench", "house")))

KILLED, HANGS, SURVIVED, STALE, UNLOADABLE = "killed", "killed (hangs)", "SURVIVED", "STALE", "UNLOADABLE"


@dataclass(frozen=True)
class Run:
    """What pytest said: `outcome` is KILLED, HANGS, SURVIVED or UNLOADABLE; `test` is the one that failed."""

    outcome: str
    test: str = ""


@dataclass(frozen=True)
class Result:
    """What became of one mutation."""

    mutation: Mutation
    outcome: str
    detail: str
    seconds: float


def copy_tree(target: Path) -> None:
    """A copy of the checkout's sources, without what Python and tools leave behind."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy(source, target / name)


def run_tests(root: Path, arguments: Sequence[str], seconds_max: float) -> Run:
    """Run pytest on the tree in `root`, up to the first failure. HANGS without a test: no end in time."""
    paths = os.pathsep.join(str(root / source_root) for source_root in SOURCE_ROOTS)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return Run(HANGS)
    if process.returncode == 0:
        return Run(SURVIVED)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - (.*))?$", output, re.MULTILINE)
    if process.returncode != 1 or failed is None:
        return Run(UNLOADABLE, " | ".join(output.strip().splitlines()[-3:]))
    return Run(HANGS if "Timeout" in (failed[2] or "") else KILLED, failed[1])


def attempt(mutation: Mutation) -> Result:
    """Try one mutation."""
    began = time.monotonic()

    def result(outcome: str, detail: str) -> Result:
        return Result(mutation, outcome, detail, time.monotonic() - began)

    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        copy_tree(root)
        try:
            text = mutation.applied(root)
        except StaleMutation as error:
            return result(STALE, str(error))
        (root / mutation.file).write_text(text, encoding="utf-8")
        run = run_tests(root, [*mutation.tests, f"--timeout={TEST_SECONDS_MAX}"], NAMED_SECONDS_MAX)
        if run.outcome != SURVIVED:
            return result(run.outcome, run.test or f"no end within {NAMED_SECONDS_MAX} s")
        run = run_tests(root, EVERYTHING, SUITE_SECONDS_MAX)
        if not run.test:
            return result(SURVIVED, "no test fails")
        return result(run.outcome, f"{run.test}, not {' '.join(mutation.tests)}")


def named_tests_pass(chosen: Sequence[Mutation]) -> Run:
    """The tests that mutations name, on the tree as it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_tree(Path(folder))
        named = dict.fromkeys(test for mutation in chosen for test in mutation.tests)
        return run_tests(Path(folder), list(named), SUITE_SECONDS_MAX)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutations, print a line for each; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Every mutation must fail a test.")
    parser.add_argument("names", nargs="*", help="mutations to try, by name; default: all")
    parser.add_argument("--list", action="store_true", help="print what they break, and try none")
    options = parser.parse_args(arguments)
    known = {mutation.name: mutation for mutation in mutations()}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no mutation {unknown[0]!r}; --list names them")
    chosen = [known[name] for name in options.names or known]
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name}: {mutation.breaks} [{mutation.statement or 'ours'}]")
        return 0

    began = time.monotonic()
    unmutated = named_tests_pass(chosen)
    if unmutated.outcome != SURVIVED:
        print(f"without any mutation: {unmutated.test}: {unmutated.outcome}", file=sys.stderr)
        return 1
    results = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for result in pool.map(attempt, chosen):
            print(f"{result.outcome:15} {result.seconds:5.1f} s  {result.mutation.name}: {result.detail}", flush=True)
            results.append(result)
    bad = [result for result in results if result.outcome not in (KILLED, HANGS)]
    print(f"{len(results) - len(bad)} of {len(results)} mutations killed, in {time.monotonic() - began:.0f} s")
    for result in bad:
        mutation = result.mutation
        print(
            f"  {result.outcome}: {mutation.name}: {mutation.breaks} [{mutation.statement or 'ours'}], {mutation.file}"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
