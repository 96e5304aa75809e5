"""HandshakeSlots, in virtual time: a bound, turns, and patience that ends while others wait."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_acebroker.runtime.handshake_slots import PATIENCE_SECONDS, HandshakeSlots
from trio_acebroker.transports.tls import TlsError


class Handshakes:
    """Handshakes of so many seconds through slots, and what became of each."""

    def __init__(self, slots_max: int) -> None:
        self.slots = HandshakeSlots(slots_max)
        self.at_once = self.most = 0
        #: name -> when it was over, below zero where it was cut
        self.over: dict[str, float] = {}

    async def make(self, name: str, seconds: float) -> None:
        async def handshake() -> None:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            try:
                await trio.sleep(seconds)
            finally:
                self.at_once -= 1

        try:
            await self.slots.run(handshake)
        except TlsError:
            self.over[name] = -trio.current_time()
        else:
            self.over[name] = trio.current_time()


async def test_no_more_than_the_bound_and_all_get_their_turn(autojump_clock: MockClock) -> None:
    them = Handshakes(3)
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(them.make, str(number), 0.1)
    assert them.most == 3
    assert len(them.over) == 30 and min(them.over.values()) > 0
    assert trio.current_time() == pytest.approx(1.0)


async def test_a_slow_one_has_all_the_time_while_nobody_waits(autojump_clock: MockClock) -> None:
    them = Handshakes(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(them.make, "slow", 100.0)
        nursery.start_soon(them.make, "other", 100.0)
    assert them.over == {"slow": 100.0, "other": 100.0}


async def test_slow_ones_give_way_the_oldest_first_and_no_more_than_are_needed(autojump_clock: MockClock) -> None:
    them = Handshakes(3)
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(them.make, name, 100.0)
            await trio.sleep(10)
        nursery.start_soon(them.make, "d", 0.1)
        nursery.start_soon(them.make, "e", 0.1)
    assert them.over["a"] < 0 and them.over["b"] < 0
    assert them.over["c"] == 120.0
    assert them.over["d"] == them.over["e"] == pytest.approx(30.1)


async def test_new_ones_have_their_patience(autojump_clock: MockClock) -> None:
    them = Handshakes(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(them.make, "first", 1.5)
        await trio.sleep(0.5)
        nursery.start_soon(them.make, "second", 1.9)
    assert them.over == {"first": 1.5, "second": pytest.approx(3.4)}


async def test_a_flood_that_stalls_keeps_nobody_out_for_long(autojump_clock: MockClock) -> None:
    them = Handshakes(10)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(them.make, f"stalls {number}", 1_000.0)
        await trio.testing.wait_all_tasks_blocked()
        await them.make("honest", 0.3)
        nursery.cancel_scope.cancel()
    assert 0 < them.over["honest"] < 6 * PATIENCE_SECONDS


async def test_who_is_cancelled_gives_its_slot_back(autojump_clock: MockClock) -> None:
    them = Handshakes(1)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await them.make("gone", 100.0)
        with trio.move_on_after(1):
            await them.make("gone too", 100.0)
        nursery.start_soon(them.make, "next", 0.5)
    assert them.over == {"next": 2.5}
