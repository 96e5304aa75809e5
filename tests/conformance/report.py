"""`python -m tests.conformance.report`: run every test marked with a statement, and print what is covered.

A test names its statements by `@pytest.mark.conformance("MQTT-3.1.2-24", version=5)`; `version=311` is
for MQTT 3.1.1, `version=9431` for ACE. A statement is covered when at least one test is marked with it and
none of those failed or was skipped. Ends with 1 when a marked test failed, when a mark or an exception names
a statement that does not exist, and, with `--strict`, when a statement that a server has to fulfil is neither
covered nor listed in `spec/conformance/exceptions.toml`, or is both. ACE is counted, and not demanded yet:
what is built of it has tests, the rest is to come.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conformance.statements import ACE, VERSIONS, Statement, excuses, statements

__all__ = ["Coverage", "main", "report"]

TESTS = Path(__file__).resolve().parents[1]
#: (version, statement)
Key = tuple[int, str]


class Coverage:
    """The pytest plugin that notes which test stands for which statement, and how it ended."""

    def __init__(self) -> None:
        #: statement -> the tests marked with it
        self.tests: defaultdict[Key, set[str]] = defaultdict(set)
        #: test -> passed, failed or skipped
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the marked tests only."""
        marked = []
        unmarked = []
        for item in items:
            keys = [
                (mark.kwargs["version"], statement)
                for mark in item.iter_markers("conformance")
                for statement in mark.args
            ]
            for key in keys:
                self.tests[key].add(item.nodeid)
            (marked if keys else unmarked).append(item)
        items[:] = marked
        config.hook.pytest_deselected(items=unmarked)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the worst of a test's three phases."""
        if self.outcomes.get(report.nodeid) in (None, "passed"):
            self.outcomes[report.nodeid] = report.outcome

    def covered(self, key: Key) -> bool:
        """Is there a test for the statement, and did every one of them pass?"""
        tests = self.tests.get(key, ())
        return bool(tests) and all(self.outcomes.get(test) == "passed" for test in tests)


def _counts(rows: Sequence[Statement], coverage: Coverage, excused: set[Key]) -> str:
    covered = sum(coverage.covered((row.version, row.id)) for row in rows)
    named = sum((row.version, row.id) in excused and not coverage.covered((row.version, row.id)) for row in rows)
    return f"{covered:4} covered {len(rows) - covered - named:4} not covered {named:4} excused   of {len(rows)}"


def report(coverage: Coverage) -> tuple[list[str], list[str]]:
    """What to print, and what is wrong under `--strict`."""
    lines: list[str] = []
    wrong: list[str] = []
    excused = {(excuse.version, excuse.id): excuse.reason for excuse in excuses()}
    for version in VERSIONS:
        listed = statements(version).values()
        if version == ACE:
            lines += _ace(list(listed), coverage, set(excused))
            continue
        lines.append(f"\nMQTT {'5.0' if version == 5 else '3.1.1'}")
        for role in ("server", "both", "client"):
            rows = [row for row in listed if row.role == role and row.numbered]
            lines.append(f"  {role:8}{_counts(rows, coverage, set(excused))}")
        if rows := [row for row in listed if not row.numbered]:
            lines.append(f"  {'unnumb.':8}{_counts(rows, coverage, set(excused))}")
        for row in listed:
            key = (version, row.id)
            if not coverage.covered(key) and key not in excused:
                why = "its tests do not pass" if coverage.tests.get(key) else "no test"
                lines.append(f"  not covered ({why}): {row.id} ({row.role}) {row.text}")
                if row.role in ("server", "both") and row.numbered:
                    wrong.append(f"neither covered nor excused: {row.id} of version {version}")
            if key in excused and coverage.tests.get(key):
                wrong.append(f"excused, but there is a test: {row.id} of version {version}")
    return lines, wrong


def _ace(listed: Sequence[Statement], coverage: Coverage, excused: set[Key]) -> Iterator[str]:
    yield "\nACE (RFC 9431)"
    for role in ("broker", "client", "as"):
        for binding, what in ((True, "MUST"), (False, "other")):
            rows = [row for row in listed if role in row.role.split("+") and ("MUST" in row.level) is binding]
            yield f"  {role:7}{what:6}{_counts(rows, coverage, excused)}"
    for row in listed:
        if "MUST" in row.level and "broker" in row.role and not coverage.covered((ACE, row.id)):
            yield f"  not covered: {row.id} ({row.role}) {row.text}"


def _unknown(coverage: Coverage) -> Iterator[str]:
    known = {(version, id_) for version in VERSIONS for id_ in statements(version)}
    for key in sorted(coverage.tests.keys() - known, key=str):
        yield f"no statement {key[1]!r} of version {key[0]}, which marks {', '.join(sorted(coverage.tests[key]))}"
    for excuse in excuses():
        if (excuse.version, excuse.id) not in known:
            yield f"no statement {excuse.id!r} of version {excuse.version}, which exceptions.toml excuses"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.report", description="Coverage of MQTT's rules.")
    parser.add_argument("--strict", action="store_true", help="fail on statements of the server that have no test")
    parser.add_argument("--verbose", action="store_true", help="print the tests of every statement too")
    options, to_pytest = parser.parse_known_args(arguments)
    coverage = Coverage()
    status = pytest.main(["-q", "-p", "no:cacheprovider", *(to_pytest or [str(TESTS)])], plugins=[coverage])
    lines, wrong = report(coverage)
    if options.verbose:
        for (version, statement), tests in sorted(coverage.tests.items(), key=str):
            print(f"{version} {statement}: {', '.join(sorted(tests))}")
    print(*lines, sep="\n")
    unknown = list(_unknown(coverage))
    complaints = [*unknown, *(wrong if options.strict else [])]
    if complaints:
        print("", *complaints, sep="\n", file=sys.stderr)
    return 1 if complaints or status != pytest.ExitCode.OK else 0


if __name__ == "__main__":
    sys.exit(main())
