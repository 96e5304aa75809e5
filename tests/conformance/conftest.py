"""Conformance tests run on a virtual clock: no socket, no real waiting."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import broker_running, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.config import Authorization

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time))


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
