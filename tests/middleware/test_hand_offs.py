"""`then`: what follows an awaitable, in order, and without a call within a call for each step."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
import trio

from acebroker_codec.errors import ProtocolViolation
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.hand_offs import or_error, stage_guarded, then
from acebroker_middleware.state.ports import Maybe


async def later(value: int) -> int:
    await trio.lowlevel.checkpoint()
    return value


async def failing(error: Exception) -> int:
    await trio.lowlevel.checkpoint()
    raise error


async def test_a_result_or_an_awaitable_of_it_may_follow() -> None:
    assert await then(later(1), lambda value: value + 1) == 2
    assert await then(later(1), lambda value: later(value + 1)) == 2
    assert await then(then(later(1), lambda value: later(value + 1)), lambda value: then(later(value), str)) == "2"


async def test_a_long_row_of_steps_takes_no_stack() -> None:
    done: list[int] = []

    def step(value: int) -> Maybe[int]:
        done.append(value)
        return then(later(value + 1), step) if value < 5_000 else value

    assert await then(later(0), step) == 5_000
    assert done == list(range(5_001))


async def test_what_raises_ends_the_row() -> None:
    reached: list[int] = []
    error = ProtocolViolation("no")

    def second(value: int) -> Awaitable[int]:
        return then(failing(error), reached.append)  # type: ignore[arg-type]

    with pytest.raises(ProtocolViolation):
        await then(later(1), second)
    assert reached == []


async def test_an_error_in_place_of_a_batch() -> None:
    error = ProtocolViolation("no")
    assert await or_error(failing(error)) == [error]  # type: ignore[arg-type]
    assert await or_error(later([error])) == [error]  # type: ignore[arg-type]


async def test_exceptions_of_a_stage_get_its_name() -> None:
    assert await stage_guarded("mine", later(1)) == 1
    with pytest.raises(ProtocolViolation):
        await stage_guarded("mine", failing(ProtocolViolation("no")))
    cause = ZeroDivisionError()
    with pytest.raises(StageFailure, match="stage mine failed") as caught:
        await stage_guarded("mine", failing(cause))
    assert caught.value.__cause__ is cause
