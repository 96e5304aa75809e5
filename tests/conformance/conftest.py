"""Conformance tests run on a virtual clock: no socket, no real waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import broker_running, run_in_virtual_time
from trio_acebroker import Broker

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time))


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A broker with default settings that takes anonymous clients over memory connections."""
    async with broker_running() as running:
        yield running
