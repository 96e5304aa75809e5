"""The growth benchmark: every topic has its filter alone, and each kind of churn can be measured."""

from __future__ import annotations

import pytest

from tests.bench import growth


def test_the_columns_of_growth() -> None:
    figures = growth.grow(1_000)
    assert set(figures) == {"add", "remove", "octets", "none", *growth.KINDS}
    assert all(figures[kind] > 0 for kind in growth.KINDS)


@pytest.mark.parametrize("name", growth.CHURNS)
def test_every_churn_can_be_measured(name: str) -> None:
    assert growth.churn(growth.CHURNS[name], topics=300, messages_a_turn=3, turns=5) > 0
