"""Hand-offs: what a stage does after something that has to be awaited, kept out of the hot modules.

A hot module stays free of `async def`: where it meets an awaitable it gives back `then(awaitable,
continuation)`, which only `broker/` awaits. The batch of that connection waits; nobody else does. What has
to go on when that connection ends meanwhile is an errand (`Round.errand`) of the broker, not of the connection.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from acebroker_codec.errors import MqttError
from acebroker_codec.packets import Packet
from acebroker_middleware.errors import SessionTakenOver, StageFailure
from acebroker_middleware.state.ports import Fenced, Maybe

if TYPE_CHECKING:
    from acebroker_middleware.connection import Round

__all__ = ["both", "or_error", "or_failed", "stage_error", "stage_guarded", "then", "unwatched"]

T = TypeVar("T")
R = TypeVar("R")


class _Then(Generic[R]):
    """What `then` gives: awaits one thing after the other in a loop, so that a long row of them takes no stack."""

    __slots__ = ("following", "pending")

    def __init__(self, pending: Awaitable[Any], following: Callable[[Any], Maybe[R]]) -> None:
        self.pending = pending
        self.following = following

    def __await__(self) -> Generator[Any, Any, R]:
        result: Any = self
        while isinstance(result, _Then):
            following = result.following
            result = following((yield from result.pending.__await__()))
        if inspect.isawaitable(result):
            result = yield from result.__await__()
        return cast("R", result)


def then(pending: Awaitable[T], following: Callable[[T], Maybe[R]]) -> Awaitable[R]:
    """An awaitable of what `following` gives for the result of `pending`, itself awaited where it has to be."""
    return _Then(pending, following)


async def both(first: Awaitable[object] | None, second: Maybe[T]) -> T:
    """The result of `second`, once the two of them are done."""
    if first is not None:
        await first
    return await second if inspect.isawaitable(second) else second


async def or_failed(pending: Awaitable[T], failed: Callable[[Exception], None]) -> T:
    """The result; `failed` hears first of an exception instead of it."""
    try:
        return await pending
    except Exception as error:
        failed(error)
        raise


def unwatched(round_: Round, call: Callable[[], Maybe[object]], failed: Callable[[Exception], None]) -> None:
    """Make a call on the store that nobody waits for; only `failed` hears when it fails, now or later."""
    try:
        pending = call()
    except Exception as error:
        failed(error)
        return
    if inspect.isawaitable(pending):
        round_.errand(_caught(pending, failed), _nothing)


async def _caught(pending: Awaitable[object], failed: Callable[[Exception], None]) -> None:
    try:
        await pending
    except Exception as error:
        failed(error)


def _nothing(result: None) -> None:
    return None


async def or_error(pending: Awaitable[list[Packet | MqttError]]) -> list[Packet | MqttError]:
    """The batch that `pending` gives, or the MqttError that it raised, in its place."""
    try:
        return await pending
    except MqttError as error:
        return [error]


async def stage_guarded(name: str, pending: Awaitable[T]) -> T:
    """The result of a stage; any exception that is no MqttError becomes one, with the stage's name."""
    try:
        return await pending
    except MqttError:
        raise
    except Exception as error:
        raise stage_error(name, error) from error


def stage_error(name: str, error: Exception) -> MqttError:
    """What ends a connection when a stage raised: an MqttError as it is, 0x8E where the store fenced us, else 0x83."""
    if isinstance(error, MqttError):
        return error
    if isinstance(error, Fenced):
        return SessionTakenOver("the session has another owner")
    failure = StageFailure(f"stage {name} failed")
    failure.__cause__ = error
    return failure
