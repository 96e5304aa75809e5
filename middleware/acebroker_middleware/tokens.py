"""Tokens: the access tokens that the broker keeps, one for each key, bounded in every direction.

A token is kept under what it is bound to: the thumbprint of its key, or of its certificate. A newer one takes the place
of an older one (`iat`); an older one changes nothing, so that whoever replays it takes no rights away. What
has expired is as good as not there, and is deleted when it is met.

While a connection lives by a token (`hold`), the token is in use: it is never the one that makes room. Where there
is no room, or a quota is reached, a token is refused: QuotaExceeded.

Statements: ACE-2.2.2-5, ACE-2.3-1, ACE-2.4.2-3, ACE-5-4, ACE-6.1-3, ACE-8-6, ACE-9202-3, ACE-9202-4, ADJ-9200-36, D-13.

Not here: verifying tokens, and proofs of possession. Nothing here is written to any store.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from acebroker_ace.keys import Key
from acebroker_ace.token import AccessToken
from acebroker_middleware.errors import QuotaExceeded
from acebroker_middleware.state.ports import Clock

__all__ = ["Holder", "KeptToken", "TokenLimits", "Tokens"]

T = TypeVar("T")

#: entries of the heap of ends that stand for nothing any more, beyond which it is made anew
_STALE_ENDS_MAX: Final = 1_024


class TokenLimits(Struct, frozen=True, kw_only=True):
    """How many tokens are kept: all, of one authorization server, of one subject of it, from one address."""

    tokens_max: int = 100_000
    per_issuer_max: int = 100_000
    per_subject_max: int = 100
    per_source_max: int = 10_000


class Holder(Protocol):
    """Whoever lives by a kept token."""

    def replaced(self) -> None:
        """The token was replaced by a newer one of the same key."""
        ...


class KeptToken:
    """The place of one key: its token, which may be replaced, and who lives by it."""

    __slots__ = ("client_identifier", "holders", "source", "token")

    def __init__(self, token: AccessToken, source: str) -> None:
        self.token = token
        #: the address that it was uploaded from; empty for one that was shown in CONNECT
        self.source = source
        #: of the client that proved possession last
        self.client_identifier = ""
        self.holders: set[Holder] = set()

    def __repr__(self) -> str:
        return f"KeptToken({self.token!r}, in use by {len(self.holders)})"


class Tokens:
    """All tokens of one broker. `len` counts them."""

    def __init__(self, clock: Clock, limits: TokenLimits) -> None:
        self._clock = clock
        self._limits = limits
        #: what a token is bound to -> its place
        self._kept: dict[bytes, KeptToken] = {}
        #: those of `_kept` that nobody holds, longest unused first
        self._idle: dict[bytes, None] = {}
        #: (end, number, what it is bound to)
        self._ends: list[tuple[float, int, bytes]] = []
        self._number = itertools.count()
        #: kid -> what a token is bound to whose key is called so: who had the name first
        self._named: dict[bytes, bytes] = {}
        self._keys: dict[tuple[str, bytes], Key] = {}
        self._of_clients: dict[str, bytes] = {}
        self._by_octets: dict[bytes, bytes] = {}
        self._of_issuers: Counter[str] = Counter()
        self._of_subjects: Counter[tuple[str, str]] = Counter()
        self._of_sources: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def known_keys(self) -> Mapping[tuple[str, bytes], Key]:
        """(issuer, kid) -> the key of a kept token: what a `cnf` with nothing but a `kid` means (ACE-9202-6)."""
        return self._keys

    # ---- looking up ----

    def bound_to(self, thumbprint: bytes) -> KeptToken | None:
        """The token of a key or certificate, by its thumbprint."""
        kept = self._kept.get(thumbprint)
        if kept is None:
            return None
        if not kept.token.is_valid_at(self._clock.wall):
            self.discard(thumbprint)
            return None
        return kept

    def named(self, kid: bytes) -> KeptToken | None:
        """The token whose key is called so."""
        thumbprint = self._named.get(kid)
        return None if thumbprint is None else self.bound_to(thumbprint)

    def with_octets(self, digest: bytes) -> KeptToken | None:
        """The token that is kept now and whose octets have this SHA-256."""
        thumbprint = self._by_octets.get(digest)
        return None if thumbprint is None else self.bound_to(thumbprint)

    def of_client(self, client_identifier: str) -> KeptToken | None:
        """The token that was proven last under a Client Identifier (D-13). A name proves nothing: proof follows."""
        thumbprint = self._of_clients.get(client_identifier)
        return None if thumbprint is None else self.bound_to(thumbprint)

    # ---- keeping ----

    def keep(self, token: AccessToken, source: str = "") -> KeptToken:
        """Keep a verified token, and give its place, where a newer one may stand already. Raises QuotaExceeded.

        `source`: the address that it was uploaded from; empty where possession was proven.
        """
        self.sweep()
        thumbprint = token.confirmed_by
        kept = self._kept.get(thumbprint)
        if kept is not None and (token.thumbprint == kept.token.thumbprint or not _replaces(token, kept.token)):
            return kept
        self._check_quotas(token, source, kept)
        if kept is None:
            if len(self._kept) >= self._limits.tokens_max:
                self._make_room()
            kept = self._kept[thumbprint] = KeptToken(token, source)
            self._idle[thumbprint] = None
        else:
            self._unlist(kept)
            kept.token, kept.source = token, source
            if not kept.holders:
                self._idle[thumbprint] = self._idle.pop(thumbprint)  # to the end: it was used just now
        self._list(kept)
        for holder in tuple(kept.holders):
            holder.replaced()
        return kept

    def hold(self, kept: KeptToken, holder: Holder) -> None:
        """`holder` lives by this token from now on."""
        kept.holders.add(holder)
        self._idle.pop(kept.token.confirmed_by, None)

    def let_go(self, kept: KeptToken, holder: Holder) -> None:
        """It does no more; harmless when repeated."""
        kept.holders.discard(holder)
        thumbprint = kept.token.confirmed_by
        if not kept.holders and self._kept.get(thumbprint) is kept:
            self._idle.pop(thumbprint, None)
            self._idle[thumbprint] = None

    def proven(self, kept: KeptToken, client_identifier: str) -> None:
        """A client has proven possession: it may leave the token out when it connects again.

        A name that stands for the living token of somebody else goes on doing so.
        """
        now = self.of_client(client_identifier)
        if now is not None and (now.token.issuer, now.token.subject) != (kept.token.issuer, kept.token.subject):
            return
        self._forget_client(kept)
        if now is not None:
            now.client_identifier = ""
        kept.client_identifier = client_identifier
        self._of_clients[client_identifier] = kept.token.confirmed_by

    def discard(self, thumbprint: bytes) -> None:
        """Forget the token of a key; who holds it has it still."""
        kept = self._kept.pop(thumbprint, None)
        if kept is not None:
            self._idle.pop(thumbprint, None)
            self._unlist(kept)
            self._forget_client(kept)

    def sweep(self) -> None:
        """Forget what has expired (ACE-9202-4)."""
        wall = self._clock.wall
        while self._ends and self._ends[0][0] <= wall:
            _, _, thumbprint = heapq.heappop(self._ends)
            kept = self._kept.get(thumbprint)
            if kept is not None and not kept.token.is_valid_at(wall):
                self.discard(thumbprint)

    # ---- bookkeeping ----

    def _check_quotas(self, token: AccessToken, source: str, kept: KeptToken | None) -> None:
        limits = self._limits
        old = None if kept is None else kept.token
        if old is None or old.issuer != token.issuer:
            if self._of_issuers[token.issuer] >= limits.per_issuer_max:
                raise QuotaExceeded("limit: tokens per issuer")
        if token.subject is not None and (old is None or (old.issuer, old.subject) != (token.issuer, token.subject)):
            if self._of_subjects[token.issuer, token.subject] >= limits.per_subject_max:
                raise QuotaExceeded("limit: tokens per subject")
        if source and (kept is None or kept.source != source) and self._of_sources[source] >= limits.per_source_max:
            raise QuotaExceeded("limit: tokens per source")

    def _make_room(self) -> None:
        thumbprint = next(iter(self._idle), None)
        if thumbprint is None:
            raise QuotaExceeded("limit: tokens")
        self.discard(thumbprint)

    def _list(self, kept: KeptToken) -> None:
        token = kept.token
        thumbprint = token.confirmed_by
        self._by_octets[token.thumbprint] = thumbprint
        if token.key is not None and token.key.kid is not None:
            self._keys.setdefault((token.issuer, token.key.kid), token.key)
            self._named.setdefault(token.key.kid, thumbprint)
        self._of_issuers[token.issuer] += 1
        if token.subject is not None:
            self._of_subjects[token.issuer, token.subject] += 1
        if kept.source:
            self._of_sources[kept.source] += 1
        if token.expires_at is not None:
            if len(self._ends) > 2 * len(self._kept) + _STALE_ENDS_MAX:
                self._ends = [
                    (other.token.expires_at, next(self._number), name)
                    for name, other in self._kept.items()
                    if other is not kept and other.token.expires_at is not None
                ]
                heapq.heapify(self._ends)
            heapq.heappush(self._ends, (token.expires_at, next(self._number), thumbprint))

    def _unlist(self, kept: KeptToken) -> None:
        token = kept.token
        thumbprint = token.confirmed_by
        if self._by_octets.get(token.thumbprint) == thumbprint:
            del self._by_octets[token.thumbprint]
        if token.key is not None and token.key.kid is not None:
            if self._named.get(token.key.kid) == thumbprint:
                del self._named[token.key.kid]
            known = self._keys.get((token.issuer, token.key.kid))
            if known is not None and known.thumbprint == thumbprint:
                del self._keys[token.issuer, token.key.kid]
        _count_down(self._of_issuers, token.issuer)
        if token.subject is not None:
            _count_down(self._of_subjects, (token.issuer, token.subject))
        if kept.source:
            _count_down(self._of_sources, kept.source)

    def _forget_client(self, kept: KeptToken) -> None:
        if kept.client_identifier:
            del self._of_clients[kept.client_identifier]
            kept.client_identifier = ""


def _replaces(new: AccessToken, old: AccessToken) -> bool:
    """Whether a token is no older than the one of the same key. One of unknown age is older than one of known age."""
    if old.issued_at is None:
        return True
    return new.issued_at is not None and new.issued_at >= old.issued_at


def _count_down(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
