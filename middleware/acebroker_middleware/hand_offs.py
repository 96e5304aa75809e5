"""Hand-offs: what a stage does after something that has to be awaited, kept out of the hot modules.

A hot module stays free of `async def`: where it meets an awaitable it gives back `then(awaitable,
continuation)`, which only `broker/` awaits. The batch of that connection waits; nobody else does.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar, cast

from acebroker_codec.errors import MqttError
from acebroker_codec.packets import Packet
from acebroker_middleware.errors import StageFailure
from acebroker_middleware.state.ports import Maybe

__all__ = ["or_error", "stage_guarded", "then"]

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


async def or_error(pending: Awaitable[None], batch: list[Packet | MqttError]) -> list[Packet | MqttError]:
    """`batch` once `pending` is done, or the MqttError that it raised, in its place."""
    try:
        await pending
    except MqttError as error:
        return [error]
    return batch


async def stage_guarded(name: str, pending: Awaitable[T]) -> T:
    """The result of a stage; any exception that is no MqttError becomes a StageFailure with its name."""
    try:
        return await pending
    except MqttError:
        raise
    except Exception as error:
        raise StageFailure(f"stage {name} failed") from error
