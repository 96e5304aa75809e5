"""Rights out of a scope in AIF-MQTT: of a token, or the public topics (RFC 9431, 2.3 and 3)."""

from __future__ import annotations

from typing import Final, final

from acebroker_ace.scope import Scope
from acebroker_middleware.state.ports import Decision

__all__ = ["ScopeAuthority"]


@final
class ScopeAuthority:
    """The rights that a scope gives until `authorized_until`, seconds since the epoch: an `Authority`.

    Decisions name the permission that there is, or is not; `origin` says where the scope comes from.
    """

    __slots__ = ("_may_publish", "_may_subscribe", "_no_publish", "_no_subscribe", "authorized_until", "scope")

    def __init__(self, scope: Scope, authorized_until: float | None, origin: str = "scope") -> None:
        self.scope: Final = scope
        self.authorized_until: float | None = authorized_until
        self._may_publish = Decision(True, f"{origin}: pub")
        self._no_publish = Decision(False, f"{origin}: no pub")
        self._may_subscribe = Decision(True, f"{origin}: sub")
        self._no_subscribe = Decision(False, f"{origin}: no sub")

    def permits_publish(self, topic: str) -> Decision:
        """Is the Topic Name matched by an entry with `pub` (ACE-3.1-1)?"""
        return self._may_publish if self.scope.permits_publish(topic) else self._no_publish

    def permits_subscribe(self, topic_filter: str) -> Decision:
        """Is all of the filter covered by one entry with `sub` (ACE-3.3-2)?"""
        return self._may_subscribe if self.scope.permits_subscribe(topic_filter) else self._no_subscribe

    def permits_receive(self, topic: str) -> Decision:
        """Is the Topic Name matched by an entry with `sub` (ACE-3.2-1)?"""
        return self._may_subscribe if self.scope.permits_receive(topic) else self._no_subscribe
