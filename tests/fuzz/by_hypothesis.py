"""The engine that knows what makes sense: Hypothesis draws inputs, and each is spoiled in several ways.

What it found once is in its example database, and comes first in the next run on the same machine.
"""

from __future__ import annotations

import random
import time
from collections import deque

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from tests.fuzz.damage import spliced
from tests.fuzz.door import Door
from tests.fuzz.finding import Finding, run

__all__ = ["explore"]

#: examples of one call of Hypothesis: time is looked at in between too, but only drawing tells it to go on
_EXAMPLES = 100
#: earlier inputs that new ones are spliced with
_REMEMBERED = 200


def explore(door: Door, seconds: float, *, executions_max: int | None = None, seed: int | None = None) -> int:
    """Execute inputs for so long; gives how many. Raises Finding for the first that fails.

    `seed` repeats a run, as far as `executions_max` rather than time ends it.
    """
    deadline = time.monotonic() + seconds
    recent: deque[bytes] = deque(maxlen=_REMEMBERED)
    executed = 0
    found: Finding | None = None

    def over() -> bool:
        return time.monotonic() >= deadline or (executions_max is not None and executed >= executions_max)

    def execute(data: bytes) -> None:
        nonlocal executed, found
        executed += 1
        try:
            run(door, data)
        except Finding as finding:
            found = finding
            raise

    def example(data: bytes, number: int) -> None:
        if over():
            return
        execute(data)
        chance = random.Random(number)
        for _ in range(door.spoilt):
            if over():
                return
            spoiled = door.spoiled(data, chance)
            if recent and chance.random() < 0.2:
                spoiled = spliced(spoiled, chance.choice(recent), chance)
            execute(spoiled)
        recent.append(data)

    example.__name__ = example.__qualname__ = f"door_{door.name}"  # what the database knows it by
    settings = hypothesis.settings(
        max_examples=_EXAMPLES,
        phases=(Phase.reuse, Phase.generate),
        deadline=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        database=hypothesis.database.DirectoryBasedExampleDatabase(".hypothesis/examples") if seed is None else None,
    )
    test = settings(hypothesis.given(door.inputs, st.integers(0, 2**32))(example))
    while not over():
        if seed is not None:
            seed += 1
            test = hypothesis.seed(seed)(test)
        try:
            test()
        except Exception:
            if found is None:
                raise
            raise found from found.__cause__  # whatever Hypothesis makes of it, out of time or not
    return executed
