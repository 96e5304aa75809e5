"""Authentication by method `ace`, and by user name and password of MQTT 3.1.1 (RFC 9431, 2.2.4, 4 and 6).

    CONNECT ─┬─ token and proof ───────────────────────> verified ──> CONNECT goes on
             ├─ token ───────────┐
             ├─ nothing, stored ─┴─> AUTH 0x18 ─ answer ─> verified ──> CONNECT goes on
             └─ nothing ─────────────────────────────────────────────> 0x87, with `ace_as_hint`
    later    ─── AUTH 0x19, token ─> AUTH 0x18 ─ answer ─> verified ──> AUTH 0, other rights

`acebroker_ace.handshake` knows the steps; here is what stands around them: which CONNECT is meant, tokens that are
kept, who a token makes of a client, what a failure is answered with. A token has to come over TLS, or over a
connection where nobody can read along.

A session belongs to (issuer, subject); where a token names no subject, to (issuer, key). A re-authentication may
change key and scope, but not that, so that no session comes into other hands.

Statements: ACE-2.2.1-4, ACE-2.2.1-5, ACE-2.2.1-9, ACE-2.2.4.1-5, ACE-2.2.4.1-16 .. -18, ACE-2.2.4.1-21, ACE-2.2.4.2-4,
ACE-2.2.4.2.1-3, ACE-2.2.4.2.1-4, ACE-2.4-1, ACE-2.4.1-1 .. -5, ACE-4-7 .. -13, ACE-6.1-5 .. -15, ACE-6.2-1.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TypeAlias

from acebroker_ace.authentication_data import METHOD, USER_NAME_PREFIX
from acebroker_ace.connection_types import ConnectionType, permits_connection_type
from acebroker_ace.errors import AceError, InvalidToken, Occasion
from acebroker_ace.handshake import (
    CHALLENGE_SECONDS,
    Accepted,
    BrokerHandshake,
    Challenge,
    StoredTokenNeeded,
    TokenNeeded,
)
from acebroker_ace.hints import CreationHints
from acebroker_ace.proof import EXPORTER_LABEL, EXPORTER_OCTETS
from acebroker_ace.token import AccessToken
from acebroker_codec.errors import MqttError, PacketTooLarge, ReasonCode
from acebroker_codec.packets import Auth, Connect
from acebroker_middleware.authn import Dialogue, Grant
from acebroker_middleware.connection import Connection
from acebroker_middleware.errors import ConnectionRefused, NotAuthorized, QuotaExceeded
from acebroker_middleware.scope_authority import ScopeAuthority
from acebroker_middleware.state.leases import Lease
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.tokens import KeptToken, Tokens
from acebroker_middleware.verification import Verification

__all__ = ["Ace", "AceDialogue", "check_connection_type", "count_denial", "grant_of", "identity_of"]

_Needed: TypeAlias = TokenNeeded | StoredTokenNeeded | Challenge | Accepted


def identity_of(token: AccessToken) -> Identity:
    """Whom a token makes of a client: the subject, or without one the key."""
    if token.subject is not None:
        return Identity("token", token.subject, token.issuer)
    return Identity("key", token.confirmed_by.hex(), token.issuer)


def check_connection_type(conn: Connection, token: AccessToken) -> None:
    """Raise InvalidToken where a token is not for this type of connection."""
    if not permits_connection_type(token.connection_types, ConnectionType(conn.connection_type.value)):
        raise InvalidToken("the token is not for this type of connection")


class Ace:
    """The authenticator for tokens in CONNECT.

    `new_nonce` gives 8 octets that nobody can foresee. `hints` tells clients without a token whom to ask. `is_user`:
    is that a user of the password file? Then MQTT 3 means that user, whatever the name begins with.
    """

    name = "ace"

    def __init__(
        self,
        verification: Verification,
        tokens: Tokens,
        *,
        new_nonce: Callable[[], bytes],
        hints: Callable[[], CreationHints | None] = lambda: None,
        is_user: Callable[[str], bool] = lambda name: False,
        challenge_seconds: float = CHALLENGE_SECONDS,
    ) -> None:
        self.verification = verification
        self.tokens = tokens
        self.new_nonce = new_nonce
        self.hints = hints
        self.challenge_seconds = challenge_seconds
        self._is_user = is_user

    def authenticate(self, conn: Connection, connect: Connect) -> Grant | AceDialogue | None:
        """A grant for a token with its proof; for one without, a dialogue that has begun with a challenge."""
        if not self._is_meant(conn, connect):
            return None
        return AceDialogue(self).begin(conn, connect)

    def _is_meant(self, conn: Connection, connect: Connect) -> bool:
        if conn.v5:
            return connect.properties.authentication_method == METHOD
        name = connect.username
        return name is not None and name.startswith(USER_NAME_PREFIX) and not self._is_user(name)


class AceDialogue:
    """The handshake of one connection, for its whole life."""

    __slots__ = ("_ace", "_handshake", "_identity", "_kept")

    def __init__(self, ace: Ace) -> None:
        self._ace = ace
        self._handshake = BrokerHandshake(ace.challenge_seconds)
        self._identity: Identity | None = None
        self._kept: KeptToken | None = None

    def begin(self, conn: Connection, connect: Connect) -> Grant | AceDialogue:
        """Take CONNECT. Raises ConnectionRefused."""
        clock = conn.round.clock
        try:
            if conn.tls is None and not conn.tokens_allowed:
                raise InvalidToken("tokens are taken over TLS only")
            exporter = None
            if conn.tls is not None:  # the context is of zero length, and not absent (D-14)
                exporter = conn.tls.export(EXPORTER_LABEL, EXPORTER_OCTETS, b"")
            needed = self._handshake.connect(connect, exporter=exporter, nonce=self._ace.new_nonce(), now=clock.now)
            return self._go_on(conn, needed) or self
        except AceError as error:
            refusal = self._refusal(conn, error)
        raise refusal

    def auth(self, conn: Connection, packet: Auth) -> Grant | None:
        """Take AUTH. Raises ConnectionRefused before CONNACK, and NotAuthorized after it."""
        clock = conn.round.clock
        try:
            needed = self._handshake.auth(packet, nonce=self._ace.new_nonce(), now=clock.now, wall=clock.wall)
            return self._go_on(conn, needed)
        except AceError as error:
            refusal = self._refusal(conn, error)
        raise refusal

    def replaced(self) -> None:
        """Another token for its key was kept: this connection lives by the one that it has shown."""

    def ended(self) -> None:
        """The token is not in use any more."""
        self._handshake.left()
        if self._kept is not None:
            self._ace.tokens.let_go(self._kept, self)

    def _go_on(self, conn: Connection, needed: _Needed) -> Grant | None:
        """Do what the handshake needs next; the grant, or None while the client has to answer."""
        clock = conn.round.clock
        if isinstance(needed, TokenNeeded):
            token = self._ace.verification.verify(needed.token)
            needed = self._handshake.token_verified(token, wall=clock.wall)
        elif isinstance(needed, StoredTokenNeeded):
            kept = self._ace.tokens.of_client(conn.client_identifier)
            stored = None if kept is None else kept.token
            nonce = self._ace.new_nonce()
            needed = self._handshake.token_found(stored, nonce=nonce, now=clock.now, wall=clock.wall)
        if isinstance(needed, Challenge):
            _send(conn, needed.packet)
            return None
        return self._grant(conn, needed)

    def _grant(self, conn: Connection, accepted: Accepted) -> Grant:
        token = accepted.token
        check_connection_type(conn, token)
        identity = self._identity_after(token)
        self._keep(conn, token)
        self._identity = identity
        if accepted.packet is not None:
            _send(conn, accepted.packet)
        return grant_of(token, identity, self)

    def _identity_after(self, token: AccessToken) -> Identity:
        """Who the client is with this token, which must not be somebody else than before."""
        found, before = identity_of(token), self._identity
        if before is None or found == before:
            return found
        if before.kind == found.kind == "key" and before.issuer == found.issuer:
            return before  # both keys were proven here: the session stays with the first one
        raise InvalidToken("the new token is for another subject")

    def _keep(self, conn: Connection, token: AccessToken) -> None:
        tokens = self._ace.tokens
        old = self._kept
        try:
            self._kept = tokens.keep(token)
        except QuotaExceeded:  # this connection needs no place for its token
            self._kept = None
        else:
            tokens.hold(self._kept, self)
            tokens.proven(self._kept, conn.client_identifier)
        if old is not None and old is not self._kept:
            tokens.let_go(old, self)

    def _refusal(self, conn: Connection, error: AceError) -> MqttError:
        count_denial(conn, error)
        occasion = self._handshake.occasion
        code = error.answer(occasion)
        if occasion is Occasion.RE_AUTHENTICATION:
            return NotAuthorized(error.detail, code)
        hints = self._ace.hints() if conn.v5 and isinstance(error, InvalidToken) else None
        return ConnectionRefused(code, error.detail, () if hints is None else (hints.user_property(),))


def count_denial(conn: Connection, error: AceError) -> None:
    """Count what was refused, under one of few names."""
    name = error.detail if type(error) is InvalidToken else type(error).__name__
    conn.round.counters.denials[f"ace: {name}"] += 1


def grant_of(token: AccessToken, identity: Identity, dialogue: Dialogue) -> Grant:
    """The rights of a token whose key was proven."""
    until = inf if token.expires_at is None else token.expires_at
    lease = Lease(identity, token.thumbprint, token.scope, until)
    return Grant(identity, ScopeAuthority(token.scope, token.expires_at), strict=True, dialogue=dialogue, lease=lease)


def _send(conn: Connection, packet: Auth) -> None:
    conn.protocol.sent(packet)
    if not conn.send(packet):
        raise PacketTooLarge("AUTH is larger than the client takes", ReasonCode.PACKET_TOO_LARGE)
