"""Verification of tokens with what one broker remembers: fresh client nonces, `exi` counters, keys that it knows.

`acebroker_ace.token` says what is checked, in which order; here is the state that it is given.

Statements: ACE-2.2.5-1, ACE-2.2.5-2, ADJ-9200-20, ADJ-9200-22, ADJ-9200-34, D-20.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from typing import Final

from acebroker_ace.errors import InvalidToken
from acebroker_ace.expires_in import ExpiresIn
from acebroker_ace.token import AccessToken, TokenVerifier
from acebroker_middleware.state.ports import Clock
from acebroker_middleware.tokens import Tokens

__all__ = ["REVOKED_MAX", "ClientNonces", "Verification"]

_TIME_OCTETS: Final = 8
_MAC_OCTETS: Final = 8
#: revoked tokens that are remembered; the one that was revoked longest ago is forgotten first
REVOKED_MAX: Final = 100_000


class ClientNonces:
    """`cnonce`: made so that nobody else can make one, which is all that is to be remembered of those given out.

    `key`: 32 octets that nobody knows. `nonce in client_nonces` says that it is ours, and not older than `seconds`.
    """

    def __init__(self, key: bytes, clock: Clock, seconds: float) -> None:
        self._key = key
        self._clock = clock
        self._seconds = seconds

    def give(self) -> bytes:
        """A nonce that is fresh from now on."""
        time = int(self._clock.now).to_bytes(_TIME_OCTETS, "big")
        return time + self._mac(time)

    def __contains__(self, nonce: object) -> bool:
        if not isinstance(nonce, bytes) or len(nonce) != _TIME_OCTETS + _MAC_OCTETS:
            return False
        time = nonce[:_TIME_OCTETS]
        if not hmac.compare_digest(nonce[_TIME_OCTETS:], self._mac(time)):
            return False
        return int.from_bytes(time, "big") + self._seconds >= self._clock.now

    def _mac(self, time: bytes) -> bytes:
        return hmac.digest(self._key, time, "sha256")[:_MAC_OCTETS]


class Verification:
    """Verifies tokens for one broker. `issuers` are those whose tokens may have `exi`.

    `client_nonces`: None where no token needs one.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        clock: Clock,
        tokens: Tokens,
        issuers: Collection[str],
        client_nonces: ClientNonces | None = None,
    ) -> None:
        self._verifier = verifier
        self._clock = clock
        self._tokens = tokens
        self._expires_in = {issuer: ExpiresIn() for issuer in issuers}
        self.client_nonces = client_nonces
        self._revoked: dict[bytes, None] = {}

    def revoke(self, token: bytes) -> None:
        """Never take a token again, by the SHA-256 of its octets."""
        if token not in self._revoked and len(self._revoked) >= REVOKED_MAX:
            del self._revoked[next(iter(self._revoked))]
        self._revoked[token] = None

    def verify(self, token: bytes) -> AccessToken:
        """The verified token. Raises a subclass of `InvalidToken`.

        What is kept, octet by octet, was verified (ACE-2.2.4.1-18): it needs no other nonce.
        """
        digest = hashlib.sha256(token).digest()
        if digest in self._revoked:
            raise InvalidToken("the token was revoked")
        kept = self._tokens.with_octets(digest)
        if kept is not None:
            return kept.token
        return self._verifier.verify(
            token,
            self._clock.wall,
            client_nonces=self.client_nonces,
            expires_in=self._expires_in,
            known_keys=self._tokens.known_keys,
        )
