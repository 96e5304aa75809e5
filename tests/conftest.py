"""What holds for every test: Hypothesis is repeatable, a module may name the clock that its tests run on, and nothing
is skipped where everything is required.

`ACEBROKER_REQUIRE_ALL=1` says that this machine has all that tests need (foreign clients, their
run-time, environments of their own). A test that is skipped all the same has then failed, and says
which reason it gave.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator
from typing import TypeVar

import hypothesis
import pytest

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)

REQUIRE_ALL = os.environ.get("ACEBROKER_REQUIRE_ALL", "") not in ("", "0")

# The same examples in every run, whatever else the machine does meanwhile; `make fuzz` is what explores.
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("house")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytestmark = pytest.mark.trio(run=...)` of a module counts, before pytest-trio marks every coroutine."""
    for item in items:
        module = item.getparent(pytest.Module)
        if module is None or any(mark.name == "trio" for mark in item.own_markers):
            continue
        for mark in module.own_markers:
            if mark.name == "trio" and inspect.iscoroutinefunction(getattr(item, "function", None)):
                item.add_marker(pytest.mark.trio(**mark.kwargs))


def _require(report: R) -> R:
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"ACEBROKER_REQUIRE_ALL is set, but this was skipped. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test has failed where everything is required."""
    return _require((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """And so has a module that is skipped as a whole."""
    return _require((yield))
