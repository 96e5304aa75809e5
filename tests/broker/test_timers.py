"""The wheel: when timers fire, what stops them, what stops nobody else, and that nothing stays behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import run_in_virtual_time
from trio_acebroker.runtime.timers import STALE_TICKS_MAX, TICK_SECONDS, CoarseClock, Wheel

virtual_time = pytest.mark.trio(run=run_in_virtual_time)


class Rounds:
    """A running wheel: `fired` are (time, what), `rounds` how often it flushed."""

    def __init__(self, wall: Callable[[], float] | None = None) -> None:
        self.clock = CoarseClock() if wall is None else CoarseClock(wall)
        self.fired: list[tuple[float, object]] = []
        self.rounds = 0
        self.wheel = Wheel(self.clock, self._after)

    def _after(self) -> None:
        self.rounds += 1

    def note(self, what: object) -> Callable[[], None]:
        return lambda: self.fired.append((trio.current_time(), what))

    @property
    def order(self) -> list[object]:
        return [what for _, what in self.fired]


@asynccontextmanager
async def turning(wall: Callable[[], float] | None = None) -> AsyncIterator[Rounds]:
    rounds = Rounds(wall)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.wheel.run)
        yield rounds
        nursery.cancel_scope.cancel()


@settings(max_examples=60)
@given(
    begin=st.floats(0, 1e6),
    timers=st.lists(st.tuples(st.floats(0, 50), st.floats(-5, 30)), min_size=1, max_size=20),
)
def test_never_early_and_late_by_a_tick_at_most(begin: float, timers: list[tuple[float, float]]) -> None:
    """Whenever they are set, and for whenever; what is due already fires at once."""

    async def main() -> None:
        async with turning() as rounds:
            await trio.sleep(begin)
            expected = {}
            start = trio.current_time()
            for number, (at, ahead) in enumerate(sorted(timers)):
                await trio.sleep_until(start + at)
                deadline = trio.current_time() + ahead
                rounds.wheel.call_at(deadline, rounds.note(number))
                expected[number] = max(deadline, trio.current_time())
            await trio.sleep(40)
            assert sorted(rounds.order) == sorted(expected)  # type: ignore[type-var]
            for when, number in rounds.fired:
                assert expected[number] <= when <= expected[number] + TICK_SECONDS * 1.001  # type: ignore[index]

    run_in_virtual_time(main)


@virtual_time
async def test_an_earlier_timer_wakes_a_wheel_that_sleeps_for_a_later_one() -> None:
    async with turning() as rounds:
        rounds.wheel.call_at(1_000, rounds.note("late"))
        await trio.sleep(10)
        rounds.wheel.call_at(11, rounds.note("early"))
        await trio.sleep(5)
        assert rounds.order == ["early"]
        await trio.sleep(1_000)
        assert rounds.order == ["early", "late"]


@virtual_time
async def test_a_cancelled_timer_does_not_fire() -> None:
    async with turning() as rounds:
        timers = [rounds.wheel.call_at(1, rounds.note(number)) for number in range(4)]
        timers[1].cancel()
        timers[1].cancel()
        await trio.sleep(2)
        assert rounds.order == [0, 2, 3]
        timers[2].cancel()
        assert rounds.rounds == 1
        rounds.wheel.call_at(3, rounds.note(4)).cancel()
        await trio.sleep(5)
        assert rounds.rounds == 1, "nothing was due"


@virtual_time
async def test_a_callback_may_cancel_another_that_is_due(caplog: pytest.LogCaptureFixture) -> None:
    async with turning() as rounds:
        rounds.wheel.call_at(1, lambda: victim.cancel())
        victim = rounds.wheel.call_at(1, rounds.note("victim"))
        rounds.wheel.call_at(1, rounds.note("other"))
        await trio.sleep(2)
        assert rounds.order == ["other"]
    assert not caplog.records


@virtual_time
async def test_a_callback_may_set_timers_even_for_now_without_starving_others() -> None:
    async with turning() as rounds:
        count = 0

        def again() -> None:
            nonlocal count
            count += 1
            if count < 1_000:
                rounds.wheel.call_at(rounds.clock.now, again)

        rounds.wheel.call_at(1, again)
        rounds.wheel.call_at(1, rounds.note("beside it"))
        await trio.sleep_until(1)
        await trio.testing.wait_all_tasks_blocked()
        assert rounds.order == ["beside it"]
        await trio.sleep_until(200)
        assert count == 1_000
        assert rounds.rounds == 1_000


@virtual_time
async def test_a_failing_callback_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with turning() as rounds:
        rounds.wheel.call_at(1, rounds.note("before"))
        rounds.wheel.call_at(1, lambda: [][0])
        rounds.wheel.call_at(1, rounds.note("behind"))
        rounds.wheel.call_at(2, rounds.note("later"))
        with caplog.at_level(logging.ERROR, "trio_acebroker"):
            await trio.sleep(3)
        assert rounds.order == ["before", "behind", "later"]
        assert [record.getMessage() for record in caplog.records] == ["a timer failed"]
        assert rounds.rounds == 2


@virtual_time
async def test_what_is_due_at_once_is_one_round() -> None:
    async with turning() as rounds:
        for number in range(100):
            rounds.wheel.call_at(0.95 + number / 2_000, rounds.note(number))
        await trio.sleep(2)
        assert rounds.order == list(range(100))
        assert rounds.rounds == 1


@virtual_time
async def test_the_time_of_day_may_jump() -> None:
    """Timers are about seconds that pass; who asks for the time of day gets it as it is."""
    day = 1_000.0
    async with turning(lambda: day) as rounds:
        rounds.wheel.call_at(10, rounds.note("in ten seconds"))
        assert rounds.clock.wall == 1_000.0
        for jump in (1e9, -2e9, 5.0):
            day += jump
            await trio.sleep(3)
            assert rounds.clock.wall == day
            assert rounds.fired == []
        await trio.sleep(2)
        assert rounds.order == ["in ten seconds"]


def test_nothing_stays_of_what_was_cancelled() -> None:
    """A client that comes and goes with a month of Session Expiry, a hundred thousand times."""
    clock = CoarseClock()
    wheel = Wheel(clock, lambda: None)
    kept = wheel.call_at(50, lambda: None)

    class Held:
        def __call__(self) -> None: ...

    for number in range(100_000):
        wheel.call_at(2_592_000 + number * 0.37, Held()).cancel()
    assert len(wheel) == 1
    assert len(wheel._buckets) == 1
    assert len(wheel._order) <= 2 + STALE_TICKS_MAX
    gc.collect()
    assert not any(isinstance(each, Held) for each in gc.get_objects())
    kept.cancel()
    assert len(wheel) == 0


@virtual_time
async def test_a_tick_may_be_used_again_after_everything_in_it_was_cancelled() -> None:
    async with turning() as rounds:
        for _ in range(3):
            rounds.wheel.call_at(5, rounds.note("cancelled")).cancel()
        rounds.wheel.call_at(5, rounds.note("fires"))
        await trio.sleep(10)
        assert rounds.order == ["fires"]
