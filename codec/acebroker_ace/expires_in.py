"""`exi`: tokens that last so many seconds from when the broker first saw them (RFC 9200, 5.10.3).

For authorization servers that cannot rely on the broker's clock. Such a token is numbered: its `cti` (`jti`)
is the broker's identifier followed by a number that rises, decimal digits in a JWT, octets with the most
significant first in a CWT. Its time starts at its first verification; once a number has expired, so have all
lower ones, so that an old token is not taken for a new one and nothing has to be remembered for ever
(ADJ-9200-34).

Numbers live in memory and are forgotten with it, as the standard says (RFC 9200, 6.6). At most `LIVE_MAX` of
one issuer run at a time; beyond that the lowest number ends early.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from acebroker_ace.errors import ExpiredToken, UnreadableClaims

__all__ = ["LIVE_MAX", "ExpiresIn", "sequence_number"]

#: how many running tokens of one issuer are kept track of
LIVE_MAX: Final = 10_000
_DIGITS_MAX: Final = 20


def sequence_number(identifier: bytes | None, audience: Iterable[str], *, decimal: bool) -> int:
    """The number in `cti` or `jti` after one of the names of this broker. Raises `UnreadableClaims`."""
    for name in audience:
        prefix = name.encode()
        if identifier is not None and identifier.startswith(prefix):
            rest = identifier[len(prefix) :]
            if 0 < len(rest) <= _DIGITS_MAX:
                if not decimal:
                    return int.from_bytes(rest, "big")
                if rest.isdigit():
                    return int(rest)
    raise UnreadableClaims("a token with exi has to be numbered for this broker")


class ExpiresIn:
    """The running tokens of one authorization server."""

    __slots__ = ("_ends", "_highest_expired", "_order")

    def __init__(self) -> None:
        self._highest_expired = -1
        #: number -> end
        self._ends: dict[int, float] = {}
        #: (end, number), the first to end in front; numbers that ended early stand here still
        self._order: list[tuple[float, int]] = []

    def ends_at(self, number: int, seconds: float, now: float) -> float:
        """When the token of this number ends; its time starts now if it was not seen before.

        Raises `ExpiredToken` for a number that has expired, or is below one that has.
        """
        while self._order and self._order[0][0] <= now:
            _, ended = heapq.heappop(self._order)
            self._expire(ended)
        if number <= self._highest_expired:
            raise ExpiredToken("the token's time is over")
        end = self._ends.get(number)
        if end is None:
            end = now + seconds
            if end <= now:
                self._expire(number)
                raise ExpiredToken("the token lasts no time")
            if len(self._ends) == LIVE_MAX:
                self._expire(min(self._ends))
                if number <= self._highest_expired:
                    raise ExpiredToken("the token's time is over")
            self._ends[number] = end
            if len(self._order) >= 2 * LIVE_MAX:  # half of it has ended early
                self._order = [(at, running) for running, at in self._ends.items()]
                heapq.heapify(self._order)
            else:
                heapq.heappush(self._order, (end, number))
        return end

    def _expire(self, number: int) -> None:
        """This number is over, and all below it."""
        self._highest_expired = max(self._highest_expired, number)
        self._ends.pop(number, None)
