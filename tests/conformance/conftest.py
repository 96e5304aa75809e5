"""Conformance tests run on a virtual clock, without real waiting; each on both shells, some over a store that waits.

`raw` runs over memory connections, `pump` over TCP: loopback sockets are quick enough that Trio's clock, which
jumps when every task waits, never overtakes them. `waiting` is `raw`, with every call on the store to be awaited.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.broker.storage.waiting import WaitingStore
from tests.harness import broker_running, run_in_virtual_time, under_test
from trio_acebroker import Broker
from trio_acebroker.config import Authorization

HERE = Path(__file__).parent
#: modules about nothing that a store keeps
STATELESS = ("_format", "_client_side", "_auth", "_topics", "_errors")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        stateless = metafunc.module.__name__.endswith(STATELESS)
        metafunc.parametrize("shell", ["raw", "pump", *([] if stateless else ["waiting"])], indirect=True)


@pytest.fixture(autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    """The shell, and the store, that `broker_running` uses."""
    chosen = getattr(request, "param", "raw")
    if chosen == "waiting":
        under_test.choose("raw", WaitingStore)
    else:
        under_test.choose(chosen)
    yield
    under_test.choose("raw")


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A broker with default settings that takes anonymous clients over memory connections."""
    async with broker_running() as running:
        yield running


@pytest.fixture
async def dollar_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that grants everybody some topics that begin with `$`, which it does not by itself."""
    acl_file = tmp_path / "acl"
    filters = ("#", "$a/#", "$own/#", "$dollar/#", "$x/#")
    acl_file.write_text("".join(f"topic readwrite {topic_filter}\n" for topic_filter in filters))
    async with broker_running(authorization=Authorization(acl_file=str(acl_file))) as running:
        yield running
