"""Clients that TLS knows already: a kept token is bound to the key, or certificate, of the handshake (RFC 9431, 2.2.3).

    pre-shared key      its identity is a `kid`, or the token itself       RFC 9202, 3.3
    raw public key      the key is what the token is bound to              RFC 9202, 3.2
    certificate         `x5t#S256`, or the key of the certificate          RFC 8705, 3

Such a client connects without any method, and has the rights of the token. It proved possession in the handshake.
When a newer token of the same key is kept, its rights are those of that one (ACE-9202-5). A client that shows a token
in CONNECT as well has the rights of that (ACE-2.2.1-9): method `ace` is asked first.

Statements: ACE-2.2.1-8, ACE-2.2.3-1, ACE-2.2.3.2-4 .. -6, ACE-9202-3, ACE-9202-5, ACE-9202-7, ACE-9202-9.

Not here: the handshake itself; TLS asks `TlsKeys` in the middle of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from acebroker_ace.algorithms import KeyType
from acebroker_ace.errors import AceError, InvalidKey, InvalidToken
from acebroker_ace.keys import Key
from acebroker_ace.psk_identity import KeyIdentity, parse_identity
from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import Auth, Connect
from acebroker_middleware.ace import check_connection_type, count_denial, grant_of, identity_of
from acebroker_middleware.authn import Grant
from acebroker_middleware.connection import Connection
from acebroker_middleware.errors import ConnectionRefused, NotAuthorized, QuotaExceeded
from acebroker_middleware.state.ports import TlsSession
from acebroker_middleware.tokens import KeptToken, Tokens
from acebroker_middleware.verification import Verification

__all__ = ["KnownByTls", "TlsKeys"]


class TlsKeys:
    """Which kept token belongs to which key of a TLS handshake: `PskKeys` and `PublicKeys` of a broker."""

    def __init__(self, verification: Verification, tokens: Tokens) -> None:
        self._verification = verification
        self.tokens = tokens

    def find(self, identity: bytes) -> bytes | None:
        """See the port. A token that is the identity is verified, and kept."""
        kept = self._of_identity(identity)
        key = None if kept is None else kept.token.key
        return key.secret if key is not None and key.key_type is KeyType.SYMMETRIC else None

    def prepare(self, identities: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """See the port: nothing here takes long."""
        found = {identity: self.find(identity) for identity in identities}
        return {identity: key for identity, key in found.items() if key is not None}

    def knows(self, public_key: bytes) -> bool:
        """See the port."""
        return self._of_public_key(public_key) is not None

    def token_of(self, tls: TlsSession) -> KeptToken | None:
        """The kept token of the client at the other end of a TLS session."""
        if tls.psk_identity is not None:
            return self._of_identity(tls.psk_identity)
        if tls.peer_certificate_sha256 is not None:
            kept = self.tokens.bound_to(tls.peer_certificate_sha256)
            if kept is not None:
                return kept
        return None if tls.peer_public_key is None else self._of_public_key(tls.peer_public_key)

    def _of_identity(self, identity: bytes) -> KeptToken | None:
        try:
            named = parse_identity(identity)
            if isinstance(named, KeyIdentity):
                return self.tokens.named(named.kid)
            kept = self.tokens.with_octets(hashlib.sha256(named.token).digest())
            return kept or self.tokens.keep(self._verification.verify(named.token))
        except (AceError, QuotaExceeded):
            return None

    def _of_public_key(self, public_key: bytes) -> KeptToken | None:
        try:
            return self.tokens.bound_to(Key.from_public_key_info(public_key).thumbprint)
        except InvalidKey:
            return None


class KnownByTls:
    """The authenticator for clients that TLS knows. `granted(conn)` hears that rights have changed."""

    name = "tls"

    def __init__(self, keys: TlsKeys, granted: Callable[[Connection], None]) -> None:
        self._keys = keys
        self._granted = granted

    def authenticate(self, conn: Connection, connect: Connect) -> Grant | None:
        """The rights of the token that is bound to what TLS has proven.

        Without such a token, a client with a certificate may be known otherwise; one with a pre-shared or raw public
        key, which nothing but a token stands behind, is refused.
        """
        tls = conn.tls
        if tls is None or connect.properties.authentication_method is not None:
            return None
        kept = self._keys.token_of(tls)
        if kept is None:
            if tls.psk_identity is None and (tls.peer_public_key is None or tls.peer_certificate_sha256 is not None):
                return None
            conn.round.counters.denials["ace: no token for the key of TLS"] += 1
            raise ConnectionRefused(ReasonCode.NOT_AUTHORIZED, "no token is kept for the key of the TLS handshake")
        try:
            check_connection_type(conn, kept.token)
        except InvalidToken as error:
            count_denial(conn, error)
            refusal = ConnectionRefused(ReasonCode.NOT_AUTHORIZED, error.detail)
        else:
            return _ByTls(conn, kept, self._keys.tokens, self._granted).grant()
        raise refusal


class _ByTls:
    """One connection that lives by a kept token."""

    __slots__ = ("_conn", "_granted", "_kept", "_tokens")

    def __init__(
        self, conn: Connection, kept: KeptToken, tokens: Tokens, granted: Callable[[Connection], None]
    ) -> None:
        self._conn = conn
        self._kept = kept
        self._tokens = tokens
        self._granted = granted
        tokens.hold(kept, self)

    def grant(self) -> Grant:
        """The rights of the token as it is now."""
        token = self._kept.token
        return grant_of(token, identity_of(token), self)

    def auth(self, conn: Connection, packet: Auth) -> Grant | None:
        """Nothing was agreed on in CONNECT [MQTT-4.12.0-7]."""
        raise ProtocolViolation("AUTH without an Authentication Method")

    def replaced(self) -> None:
        """Live by the newer token, or end where that is for somebody else."""
        grant, conn = self.grant(), self._conn
        if grant.identity != conn.identity:
            conn.end(NotAuthorized("the token was replaced by one for another subject"))
            return
        conn.authority = grant.authority
        conn.lease = grant.lease
        self._granted(conn)

    def ended(self) -> None:
        """The token is not in use any more."""
        self._tokens.let_go(self._kept, self)
