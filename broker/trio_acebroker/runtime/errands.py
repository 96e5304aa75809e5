"""Errands: what is awaited for the broker and not for one connection, so that it goes to its end.

A store that waits makes a message durable after its publisher has gone; what was stored has to go out all the
same. An errand is awaited in the broker's own nursery; whoever needs its result awaits the Errand, and may
be cancelled, or may not care. A round is flushed after each.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import trio

from acebroker_codec.errors import MqttError

__all__ = ["Errand", "Errands"]

logger = logging.getLogger("trio_acebroker.errands")


class Errand:
    """One of them. Awaiting it gives its result or raises its error, as often as one likes."""

    __slots__ = ("_done", "_error", "_following", "_pending", "_result", "_waiting")

    def __init__(self, pending: Awaitable[Any], following: Callable[[Any], Any]) -> None:
        self._pending = pending
        self._following = following
        self._done = trio.Event()
        self._waiting = 0
        self._result: Any = None
        self._error: Exception | None = None

    async def run(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Go to the end, with `before` before and `after` after what follows on the awaitable."""
        try:
            pending = await self._pending
            before()
            result = self._following(pending)
            after()
            self._result = await result if inspect.isawaitable(result) else result
        except Exception as error:
            self._error = error
            if not self._waiting and not isinstance(error, MqttError):
                logger.error("an errand failed that nobody waits for", exc_info=error)
        finally:
            self._done.set()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        self._waiting += 1
        try:
            await self._done.wait()
        finally:
            self._waiting -= 1
        if self._error is not None:
            raise self._error
        return self._result


class Errands:
    """The errands of one broker: call it to start one, inside `open`."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._before = before
        self._after = after
        self._nursery: trio.Nursery | None = None

    @property
    def running(self) -> bool:
        """Whether one can be started."""
        return self._nursery is not None

    def __call__(self, pending: Awaitable[Any], following: Callable[[Any], Any]) -> Errand:
        """See `Round.errand`. Raises RuntimeError when the broker is not serving."""
        if self._nursery is None:
            raise RuntimeError("the broker is not serving")
        errand = Errand(pending, following)
        self._nursery.start_soon(errand.run, self._before, self._after)
        return errand

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Errands can be started inside; leaving waits for all of them."""
        try:
            async with trio.open_nursery() as self._nursery:
                yield
        finally:
            self._nursery = None
