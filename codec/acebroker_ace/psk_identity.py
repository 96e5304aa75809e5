"""The identity in a TLS handshake with a pre-shared key: which key, or a whole token.

RFC 9431, 2.2.3.2; RFC 9202, 3.3:

    CBOR map       {8: {1: {1: 4, 2: kid}}}                             `cnf` with a COSE_Key that has a `kid` alone
    JSON object    {"cnf": {"jwk": {"kty": "oct", "kid": "..."}}}
    anything else  a token, byte for byte as the client received it (ACE-9202-8)

Both are taken without the wrapper of `cnf` too (D-8). Anybody can send an identity: one that shows the key
itself, or is of another shape, is refused.

Statements: ACE-2.2.3.2-4 to ACE-2.2.3.2-6, ACE-9202-7, ACE-9202-8.

Not here: finding the stored token by its `kid`, verifying a token, and the handshake itself.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from acebroker_ace.algorithms import KeyType
from acebroker_ace.errors import MalformedToken
from acebroker_ace.notation import NotationError, cbor_dumps, cbor_loads, json_loads

__all__ = ["IDENTITY_OCTETS_MAX", "KeyIdentity", "TokenIdentity", "identity_of_key", "parse_identity"]

#: longer identities are not looked at
IDENTITY_OCTETS_MAX: Final = 16_384

_CNF: Final = 8
_COSE_KEY: Final = 1
_KTY, _KID = 1, 2
_MAPS: Final = range(0xA0, 0xC0)


class KeyIdentity(Struct, frozen=True):
    """The client has uploaded its token; the key is called `kid`."""

    kid: bytes


class TokenIdentity(Struct, frozen=True):
    """The client shows its token here."""

    token: bytes

    def __repr__(self) -> str:
        return f"TokenIdentity(<{len(self.token)} octets>)"


def parse_identity(octets: bytes) -> KeyIdentity | TokenIdentity:
    """What an identity says. Raises `MalformedToken`."""
    if not 0 < len(octets) <= IDENTITY_OCTETS_MAX:
        raise MalformedToken("no PSK identity, or one beyond the limit")
    kid: object
    try:
        if octets[0] in _MAPS:
            key_type, kid = _members(_only(cbor_loads(octets), _CNF, _COSE_KEY), _KTY, _KID)
            symmetric = key_type in (KeyType.SYMMETRIC.value, "Symmetric")
        elif octets[:1] == b"{":
            key_type, text = _members(_only(json_loads(octets), "cnf", "jwk"), "kty", "kid")
            symmetric = key_type == "oct"
            kid = text.encode() if isinstance(text, str) else None
        else:
            return TokenIdentity(octets)
    except NotationError as error:
        raise MalformedToken(f"a PSK identity that cannot be read: {error}") from None
    if not symmetric or not isinstance(kid, bytes) or not kid:
        raise MalformedToken("a PSK identity that names no symmetric key")
    return KeyIdentity(kid)


def identity_of_key(kid: bytes) -> bytes:
    """The identity for an uploaded token, in CBOR (RFC 9202, figure 9)."""
    return cbor_dumps({_CNF: {_COSE_KEY: {_KTY: KeyType.SYMMETRIC.value, _KID: kid}}})


def _only(value: Any, outer: object, inner: object) -> dict[Any, Any]:
    """The innermost map. Each wrapper is the only member of its map; the outer one may be missing."""
    if isinstance(value, dict) and value.keys() == {outer}:
        value = value[outer]
    if isinstance(value, dict) and value.keys() == {inner} and isinstance(value[inner], dict):
        found: dict[Any, Any] = value[inner]
        return found
    raise MalformedToken("a PSK identity of another shape")


def _members(key: dict[Any, Any], key_type: object, kid: object) -> tuple[Any, Any]:
    """The two members that a key has here, and no secret."""
    if key.keys() != {key_type, kid}:
        raise MalformedToken("a PSK identity with more or less than kty and kid")
    return key[key_type], key[kid]
