"""WaitingStore: a MemoryStore whose every call has to be awaited, as a store on a disk or across a network is.

Calls take effect in order, at once; when they are durable is the test's to say: `hold` keeps the calls
of some methods from finishing until `let_go`, and `fail` lets one call end in an error instead. Awaitables
may be dropped, as the port says, and nothing complains.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import trio

from trio_acebroker.storage.memory import MemoryStore

__all__ = ["Pending", "WaitingStore"]


class Pending:
    """A call that is under way. Awaiting it gives its result, or raises its error, once `gate` is open."""

    def __init__(self, outcome: Callable[[], Any], gate: trio.Event | None) -> None:
        self._outcome = outcome
        self._gate = gate

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self._gate is not None:
            await self._gate.wait()
        return self._outcome()


class WaitingStore:
    """A store that waits. `calls` names the methods called so far, in order; `inner` is what it keeps."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.calls: list[str] = []
        self._gates: dict[str, trio.Event] = {}
        self._errors: dict[str, list[Exception]] = {}

    def hold(self, *methods: str) -> None:
        """Calls of these methods do not finish before `let_go`."""
        for method in methods:
            self._gates[method] = trio.Event()

    def let_go(self, *methods: str) -> None:
        """Finish the calls of these methods that were held, and hold no more."""
        for method in methods:
            self._gates.pop(method).set()

    def fail(self, method: str, error: Exception) -> None:
        """The next call of the method does nothing, and ends in this error."""
        self._errors.setdefault(method, []).append(error)

    def __getattr__(self, method: str) -> Callable[..., Pending]:
        call = getattr(self.inner, method)

        def waiting(*arguments: Any, **named: Any) -> Pending:
            self.calls.append(method)
            gate = self._gates.get(method)
            try:
                if self._errors.get(method):
                    raise self._errors[method].pop(0)
                result = call(*arguments, **named)
            except Exception as error:
                return Pending(_raising(error), gate)
            return Pending(lambda: result, gate)

        return waiting


def _raising(error: Exception) -> Callable[[], Any]:
    def outcome() -> Any:
        raise error

    return outcome
