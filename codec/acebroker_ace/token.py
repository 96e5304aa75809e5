"""Access tokens: a JWT or a CWT of an authorization server that we trust, verified at a given time.

The order is that of RFC 9200, 5.10.1.1, and the first failure ends it (ACE-2.2.5-4, -9; ADJ-9200-31 .. -33):

    protection, and whose key it was    UnprotectedToken, UnauthenticToken
    the claims can be read              UnreadableClaims
    `iss`                               UnknownIssuer
    `exp`, `nbf`                        ExpiredToken, PrematureToken
    `aud`                               WrongAudience
    `scope`                             UnrecognizedScope
    `cnonce`, where nonces are used     StaleNonce
    `exi`                               ExpiredToken
    `cnf`                               UnusableConfirmation

A token may be signed, MACed or encrypted, or one in the other. What counts is that some layer proves which
server made it: encryption to a public key of ours does not (`jose`). A symmetric key in `cnf` must have been
encrypted, by itself or with the whole token (ACE-2.1-12, ACE-2.1-13, D-2).

Pure: the time, the nonces that are fresh and the counters of `exi` are arguments. Opaque references are not
read here: they are no tokens until an authorization server was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterator, Mapping
from typing import Final

from msgspec import Struct

from acebroker_ace.algorithms import TOKEN_ALGORITHMS, KeyType
from acebroker_ace.claims import Claims, Confirmation
from acebroker_ace.connection_types import ConnectionType
from acebroker_ace.cose import CoseMessage, begins_with_cose_tag
from acebroker_ace.errors import (
    ExpiredToken,
    InvalidKey,
    InvalidToken,
    MalformedToken,
    PrematureToken,
    StaleNonce,
    UnauthenticToken,
    UnknownIssuer,
    UnprotectedToken,
    UnusableConfirmation,
    WrongAudience,
)
from acebroker_ace.expires_in import ExpiresIn, sequence_number
from acebroker_ace.jose import JoseMessage
from acebroker_ace.keys import Key
from acebroker_ace.notation import NotationError, cbor_dumps, cbor_loads, json_loads
from acebroker_ace.proof import can_verify
from acebroker_ace.scope import Scope

__all__ = [
    "KEYS_TRIED_MAX",
    "LAYERS_MAX",
    "TOKEN_OCTETS_MAX",
    "AccessToken",
    "AuthorizationServer",
    "TokenVerifier",
]

#: longer tokens are not looked at
TOKEN_OCTETS_MAX: Final = 16_384
#: signed and encrypted, in either order; RFC 9431 needs no more
LAYERS_MAX: Final = 2
#: how many keys of one `kid`, or without one, are tried on a layer (ADJ-9052-6)
KEYS_TRIED_MAX: Final = 16

#: the first octet of CBOR arrays and tags; a JWT begins with a character of base64url
_CBOR_FROM: Final = 0x80


class AuthorizationServer(Struct, frozen=True):
    """One authorization server that may issue tokens for this broker.

    `keys`: its public keys, and symmetric ones that only it and this broker have. `algorithms`: names of what it
    may sign with. `audience`: what it calls this broker, where that is not the audience of the verifier.
    """

    issuer: str
    keys: tuple[Key, ...]
    algorithms: frozenset[str] = TOKEN_ALGORITHMS
    audience: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"AuthorizationServer({self.issuer!r})"


class AccessToken(Struct, frozen=True, kw_only=True):
    """A token that was verified. Times are seconds since the epoch; None: no end, no such claim."""

    issuer: str
    subject: str | None
    scope: Scope
    #: the earlier of `exp` and the end of `exi`
    expires_at: float | None
    issued_at: float | None
    #: the key to prove possession of; None where it is that of a client certificate
    key: Key | None
    certificate_thumbprint: bytes | None
    connection_types: frozenset[ConnectionType]
    #: SHA-256 of the token: its name in logs
    thumbprint: bytes

    @property
    def confirmed_by(self) -> bytes:
        """What a token is kept under: the thumbprint of its key or certificate."""
        found = self.certificate_thumbprint if self.key is None else self.key.thumbprint
        assert found is not None
        return found

    def is_valid_at(self, now: float) -> bool:
        """Whether it has not expired (ADJ-7519-3: at its end it has)."""
        return self.expires_at is None or now < self.expires_at

    def __repr__(self) -> str:
        return f"AccessToken({self.thumbprint.hex()[:16]}, issuer={self.issuer!r}, subject={self.subject!r})"


class _Opened(Struct):
    """A token with its layers taken off."""

    content: bytes
    is_cwt: bool
    #: whose key it was that proves something
    server: AuthorizationServer | None = None
    encrypted: bool = False


class TokenVerifier:
    """Verifies tokens for one broker.

    `audience`: the names of this broker. `own_keys`: private keys that authorization servers encrypt to.
    `audience_required`: refuse tokens without `aud`, which RFC 9200 would take. `json_scopes`: take a scope that
    is a JSON array in place of text.
    """

    def __init__(
        self,
        servers: Collection[AuthorizationServer],
        audience: Collection[str] = (),
        *,
        own_keys: Collection[Key] = (),
        leeway_seconds: float = 0.0,
        audience_required: bool = True,
        json_scopes: bool = False,
        token_octets_max: int = TOKEN_OCTETS_MAX,
    ) -> None:
        self._servers = tuple(servers)
        self._audience = frozenset(audience)
        self._own_keys = tuple(own_keys)
        self._leeway = leeway_seconds
        self._audience_required = audience_required
        self._json_scopes = json_scopes
        self._octets_max = token_octets_max

    def verify(
        self,
        token: bytes,
        now: float,
        *,
        client_nonces: Container[bytes] | None = None,
        expires_in: Mapping[str, ExpiresIn] | None = None,
        known_keys: Mapping[tuple[str, bytes], Key] | None = None,
    ) -> AccessToken:
        """The verified token. Raises a subclass of `InvalidToken`, each for one failure.

        `now`: seconds since the epoch. `client_nonces`: those that are fresh, None where none are given out
        (D-20). `expires_in`: issuer -> its running tokens; a token with `exi` of any other issuer is refused.
        `known_keys`: (issuer, kid) -> the key that a `cnf` with nothing but this `kid` means.
        """
        opened = self._open(token)
        claims = (Claims.from_cbor if opened.is_cwt else Claims.from_json)(opened.content)
        server = opened.server
        assert server is not None
        if claims.issuer not in (None, server.issuer):
            raise UnknownIssuer("the token was not made by its issuer")
        if claims.expires_at is not None and now >= claims.expires_at + self._leeway:
            raise ExpiredToken("the token has expired")
        if claims.not_before is not None and now < claims.not_before - self._leeway:
            raise PrematureToken("the token is not valid yet")
        self._check_audience(claims, server)
        scope = Scope.from_claim(claims.scope, json_array=self._json_scopes)
        if client_nonces is not None and claims.client_nonce not in client_nonces:
            raise StaleNonce("the token has no client nonce that is fresh")
        expires_at = self._end(claims, server, now, expires_in or {})
        confirmation = claims.confirmation()
        if confirmation is None:
            raise UnusableConfirmation("the token is bound to no key")
        return AccessToken(
            issuer=server.issuer,
            subject=claims.subject,
            scope=scope,
            expires_at=expires_at,
            issued_at=claims.issued_at,
            key=self._key(confirmation, opened, server, known_keys or {}),
            certificate_thumbprint=confirmation.certificate_thumbprint,
            connection_types=claims.connection_types,
            thumbprint=hashlib.sha256(token).digest(),
        )

    # ---- protection ----

    def _open(self, token: bytes) -> _Opened:
        if not 0 < len(token) <= self._octets_max:
            raise MalformedToken("no token, or one beyond the limit")
        opened = _Opened(token, token[0] >= _CBOR_FROM)
        for _ in range(LAYERS_MAX):
            if not self._take_off_a_layer(opened):
                break
        else:
            raise UnprotectedToken("a token nested too deep")
        if opened.server is None:
            raise UnprotectedToken("nothing proves who made the token")
        return opened

    def _take_off_a_layer(self, opened: _Opened) -> bool:
        """Open the outermost layer; whether there is another one."""
        message: CoseMessage | JoseMessage
        if opened.is_cwt:
            message = CoseMessage.parse(opened.content)
        else:
            message = JoseMessage.parse(opened.content)
        server, content = self._open_message(message)
        if server is not None and message.authenticates:
            if opened.server not in (None, server):
                raise UnknownIssuer("a token made by two authorization servers")
            opened.server = server
        opened.encrypted |= message.encrypts
        opened.content = content
        return begins_with_cose_tag(content) if isinstance(message, CoseMessage) else message.nested

    def _open_message(self, message: CoseMessage | JoseMessage) -> tuple[AuthorizationServer | None, bytes]:
        refusal: InvalidToken = UnauthenticToken("no key for this token")
        for tried, (server, key) in enumerate(self._candidates(message)):
            if tried == KEYS_TRIED_MAX:
                break
            accepted = TOKEN_ALGORITHMS if server is None or message.encrypts else server.algorithms
            try:
                return server, message.open(key, algorithms=accepted)
            except InvalidToken as error:
                refusal = error
        raise refusal

    def _candidates(self, message: CoseMessage | JoseMessage) -> Iterator[tuple[AuthorizationServer | None, Key]]:
        """The keys that may open a message: they fit, and are not named otherwise."""
        kid = message.kid_unverified
        for server in (*self._servers, None):
            for key in self._own_keys if server is None else server.keys:
                if (kid is None or key.kid in (None, kid)) and message.fits(key):
                    yield server, key

    # ---- claims ----

    def _names(self, server: AuthorizationServer) -> frozenset[str]:
        """What the server calls this broker."""
        return server.audience or self._audience

    def _check_audience(self, claims: Claims, server: AuthorizationServer) -> None:
        if claims.audience is None:
            if self._audience_required:
                raise WrongAudience("the token has no audience")
        elif not self._names(server).intersection(claims.audience):
            raise WrongAudience("the token is for another audience")

    def _end(
        self, claims: Claims, server: AuthorizationServer, now: float, expires_in: Mapping[str, ExpiresIn]
    ) -> float | None:
        ends = [] if claims.expires_at is None else [claims.expires_at + self._leeway]
        if claims.expires_in is not None:
            running = expires_in.get(server.issuer)
            if running is None:
                raise ExpiredToken("tokens with exi are not taken from this issuer")
            number = sequence_number(claims.identifier, self._names(server), decimal=not claims.in_cbor)
            ends.append(running.ends_at(number, claims.expires_in, now))
        return min(ends, default=None)

    # ---- cnf ----

    def _key(
        self,
        confirmation: Confirmation,
        opened: _Opened,
        server: AuthorizationServer,
        known_keys: Mapping[tuple[str, bytes], Key],
    ) -> Key | None:
        """The key that possession is proven of; None for a client certificate."""
        if confirmation.certificate_thumbprint is not None:
            return None
        key = confirmation.key
        if key is not None:
            if key.key_type is KeyType.SYMMETRIC and not opened.encrypted:
                raise UnusableConfirmation("a symmetric key in clear")
        elif confirmation.encrypted_key is not None:
            key = self._decrypted(confirmation.encrypted_key, server)
        else:
            assert confirmation.kid is not None
            key = known_keys.get((server.issuer, confirmation.kid))
            if key is None:
                raise UnusableConfirmation("cnf names a key that is not known here")
        if not can_verify(key):
            raise UnusableConfirmation("no proof can be made with the key of cnf")
        return key

    def _decrypted(self, encrypted_key: bytes | list[object], server: AuthorizationServer) -> Key:
        """The key in `jwe` or Encrypted_COSE_Key, which this server encrypted for us."""
        message: CoseMessage | JoseMessage
        try:
            if isinstance(encrypted_key, bytes):
                message = JoseMessage.parse(encrypted_key)
            else:
                message = CoseMessage.parse(cbor_dumps(encrypted_key))
            by, octets = self._open_message(message)
            if not message.encrypts or by not in (None, server):
                raise UnusableConfirmation("the key of cnf was not encrypted, or by somebody else")
            if isinstance(message, JoseMessage):
                members = json_loads(octets)
                key = Key.from_jwk(members) if isinstance(members, dict) else None
            else:
                labels = cbor_loads(octets)
                key = Key.from_cose_key(labels) if isinstance(labels, dict) else None
        except (InvalidKey, InvalidToken, NotationError):
            raise UnusableConfirmation("the encrypted key of cnf cannot be opened or read") from None
        if key is None or key.is_private:
            raise UnusableConfirmation("the encrypted key of cnf is none")
        return key
