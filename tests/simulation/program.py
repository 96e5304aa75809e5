"""Programs of steps: made of a seed, run in virtual time, and made shorter when they fail.

A step is a name and a number, the seed for all that it chooses; so a program without some of its steps is a
program still, and does much the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import trio
import trio.testing

from tests.simulation.steps import WEIGHTS, perform
from tests.simulation.terms import Violation
from tests.simulation.world import World

__all__ = ["Failure", "Step", "minimised", "program_of", "run", "step_of"]

#: lines of what happened that a failure shows
TRACE_LINES = 40


class Step(NamedTuple):
    """One step of a program."""

    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name}:{self.seed}"


def step_of(text: str) -> Step:
    """The step that prints as this. Raises ValueError."""
    name, _, seed = text.partition(":")
    if name not in WEIGHTS:
        raise ValueError(f"no step is called {name!r}")
    return Step(name, int(seed))


class Failure(AssertionError):
    """A program that showed a violation at step `index`. `trace` is all that happened."""

    def __init__(self, program: Sequence[Step], index: int, reason: str, trace: list[str], flow_cache: bool) -> None:
        option = "" if flow_cache else "--without-flow-cache "
        replay = f"replay: python -m tests.simulation {option}" + " ".join(str(step) for step in program)
        super().__init__("\n".join([*trace[-TRACE_LINES:], f"step {index}: {reason}", replay]))
        self.program = program
        self.index = index
        self.trace = trace


def program_of(seed: int, steps: int) -> list[Step]:
    """The program of a seed; the first steps of a longer one are the shorter one."""
    rng = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    return [Step(rng.choices(names, weights)[0], rng.getrandbits(32)) for _ in range(steps)]


def run(program: Sequence[Step], *, flow_cache: bool = True, **options: Any) -> World:
    """Run a program and see it to its end, `options` as for World.run; gives its world. Raises Failure."""
    worlds: list[World] = []

    async def use(world: World) -> None:
        worlds.append(world)
        index = -1
        try:
            for index, step in enumerate(program):
                world.trace.append(f"-- {index} {step.name}")
                await perform(world, *step)
            index = len(program)
            world.trace.append("-- end")
            await world.finish()
        except Violation as violation:
            raise Failure(program, index, str(violation), world.trace, flow_cache) from violation

    async def main() -> None:
        try:
            await World.run(use, flow_cache=flow_cache, **options)
        except BaseExceptionGroup as group:
            failure = _first_failure(group)
            if failure is None:
                raise
            raise failure from None

    # the order in which Trio runs tasks that are ready hangs on the last step, which a shortened program keeps
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio._core._run._r.seed(program[-1].seed if program else 0)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return worlds[0]


def _first_failure(group: BaseExceptionGroup[BaseException]) -> Failure | None:
    for error in group.exceptions:
        found = _first_failure(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Failure):
            return found
    return None


def minimised(failure: Failure, *, flow_cache: bool = True) -> Failure:
    """A shorter program that still fails, by leaving out steps as long as that succeeds."""
    shortest = list(failure.program[: failure.index + 1])
    size = max(1, len(shortest) // 2)
    while True:
        position = 0
        while position < len(shortest):
            candidate = shortest[:position] + shortest[position + size :]
            try:
                run(candidate, flow_cache=flow_cache)
            except Failure as again:
                failure, shortest = again, candidate
            else:
                position += size
        if size == 1:
            return failure
        size //= 2
