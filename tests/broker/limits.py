"""`@limit("packet_bytes_max")`: a test that reaches the named limits and shows what is documented of them.

A house test finds at least one for every field of `Limits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from acebroker_middleware.state.bounds import Limits

__all__ = ["limit"]

F = TypeVar("F", bound=Callable[..., Any])


def limit(*names: str) -> Callable[[F], F]:
    """Mark a test with the limits that it reaches."""
    unknown = set(names) - set(Limits.__struct_fields__)
    assert names and not unknown, f"no limits: {unknown}"
    mark: Callable[[F], F] = pytest.mark.limit(*names)
    return mark
