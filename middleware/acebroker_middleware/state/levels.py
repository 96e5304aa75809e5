"""Level: a node of the tries in this package, which split topics and filters at `/`.

Most nodes have one child at most, and a dict for it would be four times as large as the node: a single child stands in
the node itself. Parents know children and not the other way round, so that the garbage collector need not look
at nodes: millions of them would stop the broker for a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from msgspec import Struct

__all__ = ["Level"]

N = TypeVar("N")


class Level(Struct, Generic[N], gc=False, eq=False):
    """Children by the name of their level: none, `child` of the name `name`, or several in `children`."""

    name: str | None = None
    child: N | None = None
    children: dict[str, N] | None = None

    def get(self, name: str) -> N | None:
        """The child of that name."""
        if self.children is not None:
            return self.children.get(name)
        return self.child if self.name == name else None

    def put(self, name: str, child: N) -> None:
        """Add a child; there is none of that name."""
        if self.children is not None:
            self.children[name] = child
        elif self.child is None:
            self.name, self.child = name, child
        else:
            assert self.name is not None
            self.children = {self.name: self.child, name: child}
            self.name = self.child = None

    def drop(self, name: str) -> None:
        """Remove the child of that name."""
        if self.children is None:
            self.name = self.child = None
            return
        del self.children[name]
        if len(self.children) == 1:
            ((self.name, self.child),) = self.children.items()
            self.children = None

    def all(self) -> Sequence[N]:
        """The children as they are now."""
        if self.children is not None:
            return list(self.children.values())
        return () if self.child is None else (self.child,)

    @property
    def childless(self) -> bool:
        """No child at all."""
        return self.child is None and self.children is None
