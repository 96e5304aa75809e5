"""Clients in virtual time against a model of the standards: programs of fixed seeds, programs that Hypothesis makes.

A failure prints what happened and the command that replays it; see the package for more.
"""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.broker.storage.waiting import WaitingStore
from tests.simulation.program import Step, program_of, run
from tests.simulation.steps import WEIGHTS

#: 24 programs of 150 steps, each with the flow cache and without
SEEDS = range(24)
STEPS = 150

steps = st.builds(
    Step, st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(weight)]), st.integers(0, 255)
)
#: long ones, as a list of Hypothesis is not; None, which is less, leaves a step out
programs = st.lists(st.one_of(st.none(), steps, steps, steps), min_size=100, max_size=100).map(
    lambda program: [step for step in program if step is not None]
)


@pytest.mark.parametrize("flow_cache", [True, False], ids=["flow cache", "every stage"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_broker_does_what_the_standards_demand(seed: int, flow_cache: bool) -> None:
    run(program_of(seed, STEPS), flow_cache=flow_cache)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_does_with_a_store_that_has_to_be_awaited(seed: int) -> None:
    run(program_of(seed, STEPS), store=WaitingStore())


@hypothesis.given(program=programs, flow_cache=st.booleans())
@hypothesis.settings(max_examples=60, phases=set(hypothesis.Phase) - {hypothesis.Phase.explain})
def test_whatever_clients_do_next(program: list[Step], flow_cache: bool) -> None:
    run(program, flow_cache=flow_cache)
