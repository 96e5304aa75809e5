"""What a token claims: the claims of JWT and CWT as one value, and `cnf`, the key it is bound to.

Claims are read from JSON (RFC 7519, 4.1; names) or CBOR (RFC 8392, 3; numbers). Each is of its type or the
token is refused (ADJ-7519-4); what is unknown is ignored. `cnf` stands for exactly one key (ADJ-7800-2,
ADJ-8747-1): `jwk` or COSE_Key, the same encrypted (`jwe`, Encrypted_COSE_Key), in JSON the thumbprint of a client
certificate (`x5t#S256`, RFC 8705), or a `kid` alone. `jku` is refused: we fetch no keys on a stranger's word.

Nothing here is judged: whether the claims hold for us and now is decided by `token`, which also opens
encrypted keys. Scopes are read by `scope`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from acebroker_ace.connection_types import ANY_CONNECTION_TYPE, ConnectionType, connection_types_of_claim
from acebroker_ace.errors import InvalidKey, UnreadableClaims, UnusableConfirmation
from acebroker_ace.keys import Key
from acebroker_ace.notation import NotationError, base64url_decode, cbor_loads, json_loads

__all__ = ["Claims", "Confirmation"]

#: name in JWT and introspection -> key in CWT (RFC 8392, 4; RFC 8747, 3; RFC 9200, 5.8.5 and 5.9.5)
_CBOR_KEYS: Final[Mapping[str, int]] = {
    "iss": 1,
    "sub": 2,
    "aud": 3,
    "exp": 4,
    "nbf": 5,
    "iat": 6,
    "cti": 7,
    "cnf": 8,
    "scope": 9,
    "cnonce": 39,
    "exi": 40,
}
_SHA_256_OCTETS: Final = 32
#: beyond any time, and within what a float holds exactly
_NUMBER_MAX: Final = 2**53


class Confirmation(Struct, frozen=True):
    """What `cnf` says. Exactly one of `key`, `encrypted_key` and `certificate_thumbprint` is set, or `kid` alone."""

    key: Key | None = None
    #: a JWE in compact serialization, or a COSE_Encrypt0 as array
    encrypted_key: bytes | list[Any] | None = None
    #: SHA-256 of the certificate in DER
    certificate_thumbprint: bytes | None = None
    #: names the key; alone, a key that the broker has already
    kid: bytes | None = None

    @classmethod
    def from_json(cls, cnf: object) -> Confirmation:
        """`cnf` of a JWT or an introspection answer (RFC 7800, 3). Raises `UnusableConfirmation`."""
        if not isinstance(cnf, dict):
            raise UnusableConfirmation("cnf is no object")
        kid = cnf.get("kid")
        if not isinstance(kid, str | None):
            raise UnusableConfirmation("kid of cnf is no text")
        encoded = None if kid is None else kid.encode()
        members = [name for name in ("jwk", "jwe", "jku", "x5t#S256") if name in cnf]
        value = cnf[members[0]] if len(members) == 1 else None
        if members == ["jwk"] and isinstance(value, dict):
            return cls(_public(Key.from_jwk, value), kid=encoded)
        if members == ["jwe"] and isinstance(value, str):
            return cls(encrypted_key=value.encode("utf-8", "replace"), kid=encoded)
        if members == ["x5t#S256"] and isinstance(value, str):
            return cls(certificate_thumbprint=_thumbprint(value), kid=encoded)
        if not members and encoded is not None:
            return cls(kid=encoded)
        raise UnusableConfirmation("cnf names no key that is accepted, or several")

    @classmethod
    def from_cbor(cls, cnf: object) -> Confirmation:
        """`cnf` of a CWT (RFC 8747, 3). Raises `UnusableConfirmation`."""
        if not isinstance(cnf, dict):
            raise UnusableConfirmation("cnf is no map")
        kid = cnf.get(3)
        if not isinstance(kid, bytes | None):
            raise UnusableConfirmation("kid of cnf is no octets")
        members = [label for label in (1, 2) if label in cnf]
        value = cnf[members[0]] if len(members) == 1 else None
        if members == [1] and isinstance(value, dict):
            return cls(_public(Key.from_cose_key, value), kid=kid)
        if members == [2] and isinstance(value, list):
            return cls(encrypted_key=value, kid=kid)
        if not members and kid is not None:
            return cls(kid=kid)
        raise UnusableConfirmation("cnf names no key that is accepted, or several")

    def __repr__(self) -> str:
        return f"Confirmation(kid={self.kid!r})"


class Claims(Struct, frozen=True, kw_only=True):
    """The claims of one token. None: the claim is absent. Times are seconds since the epoch."""

    issuer: str | None = None
    subject: str | None = None
    audience: tuple[str, ...] | None = None
    expires_at: float | None = None
    not_before: float | None = None
    issued_at: float | None = None
    #: `cti`, or `jti` in UTF-8
    identifier: bytes | None = None
    #: as it stood: text, octets, or the list of a JSON token
    scope: str | bytes | list[Any] | None = None
    #: `exi`: seconds from the first time the broker sees the token
    expires_in: float | None = None
    client_nonce: bytes | None = None
    connection_types: frozenset[ConnectionType] = ANY_CONNECTION_TYPE
    #: `cnf`, not looked into yet, and the notation it stands in
    confirmation_unread: Any = None
    in_cbor: bool = False

    def __repr__(self) -> str:
        return f"Claims(issuer={self.issuer!r}, subject={self.subject!r}, expires_at={self.expires_at!r})"

    @classmethod
    def from_json(cls, octets: bytes) -> Claims:
        """The claims of a JWT. Raises `UnreadableClaims`."""
        try:
            claims = json_loads(octets)
        except NotationError as error:
            raise UnreadableClaims(f"the claims cannot be read: {error}") from None
        if not isinstance(claims, dict):
            raise UnreadableClaims("the claims are no object")
        identifier = _text(claims, "jti")
        return cls(
            identifier=None if identifier is None else identifier.encode(),
            client_nonce=_json_nonce(claims),
            confirmation_unread=claims.get("cnf"),
            scope=_typed(claims, "scope", str, list),
            connection_types=_connection_types(claims),
            **_registered(claims),
        )

    @classmethod
    def from_cbor(cls, octets: bytes) -> Claims:
        """The claims of a CWT (ADJ-8392-4; ADJ-8392-1: no tags). Raises `UnreadableClaims`."""
        try:
            numbered = cbor_loads(octets)
        except NotationError as error:
            raise UnreadableClaims(f"the claims cannot be read: {error}") from None
        if not isinstance(numbered, dict):
            raise UnreadableClaims("the claims are no map")
        claims = {name: numbered[key] for name, key in _CBOR_KEYS.items() if key in numbered}
        others = {key: value for key, value in numbered.items() if isinstance(key, str)}
        return cls(
            identifier=_typed(claims, "cti", bytes),
            client_nonce=_typed(claims, "cnonce", bytes),
            confirmation_unread=claims.get("cnf"),
            scope=_typed(claims, "scope", bytes, str),
            connection_types=_connection_types(others),
            in_cbor=True,
            **_registered(claims),
        )

    def confirmation(self) -> Confirmation | None:
        """What `cnf` says, None without one. Raises `UnusableConfirmation`."""
        if self.confirmation_unread is None:
            return None
        read = Confirmation.from_cbor if self.in_cbor else Confirmation.from_json
        return read(self.confirmation_unread)


def _registered(claims: Mapping[str, Any]) -> dict[str, Any]:
    """What is of the same type in both notations."""
    return {
        "issuer": _text(claims, "iss"),
        "subject": _text(claims, "sub"),
        "audience": _audience(claims),
        "expires_at": _number(claims, "exp"),
        "not_before": _number(claims, "nbf"),
        "issued_at": _number(claims, "iat"),
        "expires_in": _number(claims, "exi"),
    }


def _typed(claims: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = claims.get(name)
    if name in claims and not isinstance(value, kinds):
        raise UnreadableClaims(f"{name} is of another type")
    return value


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value: str | None = _typed(claims, name, str)
    return value


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value: float | None = _typed(claims, name, int, float)
    if value is not None and (isinstance(value, bool) or not -_NUMBER_MAX <= value <= _NUMBER_MAX):
        raise UnreadableClaims(f"{name} is no number")
    return value


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = _typed(claims, "aud", str, list)
    if value is None or isinstance(value, str):
        return None if value is None else (value,)
    if not all(isinstance(name, str) for name in value):
        raise UnreadableClaims("aud is no list of text")
    return tuple(value)


def _json_nonce(claims: Mapping[str, Any]) -> bytes | None:
    value = _text(claims, "cnonce")
    try:
        return None if value is None else base64url_decode(value)
    except NotationError:
        raise UnreadableClaims("cnonce is not base64url") from None


def _connection_types(claims: Mapping[str, Any]) -> frozenset[ConnectionType]:
    """At the top, or where NATS has it; the one at the top wins."""
    holder = claims
    if "allowed_connection_types" not in claims and isinstance(claims.get("nats"), dict):
        holder = claims["nats"]
    names = holder.get("allowed_connection_types", [])
    return connection_types_of_claim(names)


def _public(read: Any, value: Mapping[Any, Any]) -> Key:
    try:
        key: Key = read(value)
    except InvalidKey as error:
        raise UnusableConfirmation(f"cnf: {error.detail}") from None
    if key.is_private:
        raise UnusableConfirmation("cnf shows a private key")
    return key


def _thumbprint(text: str) -> bytes:
    try:
        thumbprint = base64url_decode(text)
    except NotationError:
        thumbprint = b""
    if len(thumbprint) != _SHA_256_OCTETS:
        raise UnusableConfirmation("x5t#S256 is no SHA-256 in base64url")
    return thumbprint
