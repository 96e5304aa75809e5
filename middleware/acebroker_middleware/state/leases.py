"""Lease: until when the retained messages of a publisher last, where that is as long as its token (RFC 9431, 5).

All messages that were retained under one token share one Lease, so that a new token prolongs them in one step. It names
its owner and its token, so that they can be removed when that is revoked.
"""

from __future__ import annotations

from acebroker_middleware.state.ports import Identity

__all__ = ["Lease"]


class Lease:
    """The term of one token. `until` is on `Clock.wall`, infinite where the token has no end.

    `token` is the token's thumbprint. `scope` equals that of another Lease where both permit the same. `topics` are
    those of the retained messages that have this Lease; `RetainedMessages` keeps them.
    """

    __slots__ = ("owner", "scope", "token", "topics", "until")

    def __init__(self, owner: Identity, token: bytes, scope: object, until: float) -> None:
        self.owner = owner
        self.token = token
        self.scope = scope
        self.until = until
        self.topics: set[str] = set()

    def __repr__(self) -> str:
        return f"Lease({self.owner!r}, until={self.until!r}, {len(self.topics)} topics)"
