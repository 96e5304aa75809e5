"""Authentication by ACE on one MQTT connection: the broker's side and the client's (RFC 9431, 2.2.4, 4, 6.1).

`exchange` has the order of the steps; here is what stands in the packets, and what is made of it. Time,
nonces, the exporter of TLS and verified tokens are arguments: the same calls with the same arguments give the
same answers. Whatever fails raises an `AceError`, and the handshake is closed then.

The broker learns from what a method returns what is to be done next:

    TokenNeeded          verify this token (that may take a while), then call `token_verified`
    StoredTokenNeeded    look up the token of this client, then call `token_found`
    Challenge            send this AUTH, and wait for the answer until `deadline`
    Accepted             possession is proven; when there is a packet, send it

A token shown for a challenge is verified after the answer (ACE-2.2.4.2.2-7, D-15). A nonce is taken once,
and not after `challenge_seconds`.

Statements: ACE-2.2.4.1-5, ACE-2.2.4.2-1, ACE-2.2.4.2-4, ACE-2.2.4.2.1-1 to -5, ACE-2.2.4.2.2-1 to -8,
ACE-2.4.1-1, ACE-4-7 to ACE-4-13, ACE-6.1-5, ACE-6.1-6, ACE-6.1-12 to -15, ACE-6.2-1, D-10, D-13, D-15, D-23, D-24.

Not here: verifying tokens (`token`), the Will and everything else that a scope decides, uploads to
`authz-info` (a token is verified, and that is all), and the packets around AUTH.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct

from acebroker_ace.authentication_data import (
    METHOD,
    USER_NAME_PREFIX,
    decode_answer,
    decode_challenge,
    decode_connect,
    decode_renewal,
    decode_user_name,
    encode_answer,
    encode_connect,
    encode_user_name,
)
from acebroker_ace.errors import (
    ExpiredToken,
    HandshakeRefused,
    HandshakeViolation,
    InvalidProof,
    NoToken,
    Occasion,
    StaleChallenge,
    UnusableConfirmation,
)
from acebroker_ace.exchange import Exchange, State, Step
from acebroker_ace.hints import hints_among
from acebroker_ace.keys import Key
from acebroker_ace.proof import NONCE_OCTETS, check_challenge, check_exporter, prove_challenge, prove_exporter
from acebroker_ace.token import AccessToken
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Auth, AuthProperties, Connack, Connect, Disconnect, ProtocolVersion

__all__ = [
    "CHALLENGE_SECONDS",
    "Accepted",
    "BrokerHandshake",
    "Challenge",
    "ClientHandshake",
    "StoredTokenNeeded",
    "TokenNeeded",
]

#: how long an answer to a challenge is waited for, unless told otherwise
CHALLENGE_SECONDS: Final = 30.0


class TokenNeeded(Struct, frozen=True):
    """This token is to be verified."""

    token: bytes

    def __repr__(self) -> str:
        return f"TokenNeeded(<{len(self.token)} octets>)"


class StoredTokenNeeded(Struct, frozen=True):
    """The client has shown no token: the last one of this Client Identifier that was proven is to be looked up."""

    client_identifier: str


class Challenge(Struct, frozen=True):
    """This packet is to be sent; an answer after `deadline`, on the clock of `now`, is too late."""

    packet: Auth
    deadline: float


class Accepted(Struct, frozen=True):
    """Possession of the token's key is proven; the token takes the place of any former one."""

    token: AccessToken
    #: AUTH 0 that ends a re-authentication; None where CONNACK does
    packet: Auth | None


class _ExporterProof(Struct, frozen=True):
    """A proof over the exporter, to be checked once the token is known."""

    exporter: bytes
    value: bytes

    def check(self, key: Key) -> None:
        """Raise `InvalidProof` unless it holds."""
        check_exporter(key, self.exporter, self.value)


class _ChallengeProof(Struct, frozen=True):
    """An answer to a challenge, to be checked once the token is known."""

    broker_nonce: bytes
    client_nonce: bytes
    value: bytes

    def check(self, key: Key) -> None:
        """Raise `InvalidProof` unless it holds."""
        check_challenge(key, self.broker_nonce, self.client_nonce, self.value)


_Proof: TypeAlias = _ExporterProof | _ChallengeProof


class BrokerHandshake(Exchange):
    """The broker's side. `now` is a clock that never goes back, `wall` seconds since the epoch."""

    def __init__(self, challenge_seconds: float = CHALLENGE_SECONDS) -> None:
        super().__init__("server")
        self._challenge_seconds = challenge_seconds
        #: where a failure of now belongs, for `AceError.answer`
        self.occasion = Occasion.CONNECT
        self._token_octets = b""
        self._token: AccessToken | None = None
        self._proof: _Proof | None = None
        self._nonce: bytes | None = None
        self._deadline = 0.0

    def connect(
        self, connect: Connect, *, exporter: bytes | None, nonce: bytes, now: float
    ) -> TokenNeeded | StoredTokenNeeded | Challenge:
        """A CONNECT with the method `ace`, or of MQTT 3 with a user name that begins so.

        `exporter`: what TLS exports; None where it cannot, or where the TLS session was resumed (D-23). `nonce`:
        8 octets that nobody can foresee, used if there is a challenge. Raises `HandshakeViolation`,
        `MalformedToken`, `NoToken`, `InvalidProof`.
        """
        with self.closed_by_errors():
            if connect.version is not ProtocolVersion.MQTT_5:
                self.occasion = Occasion.CONNECT_V3
                self.received(Step.SHOW_WITH_PROOF)
                return self._shown_with_proof(*_credentials(connect), exporter)
            if connect.properties.authentication_method != METHOD:
                raise HandshakeViolation("another Authentication Method", ReasonCode.BAD_AUTHENTICATION_METHOD)
            if connect.username is not None or connect.password is not None:
                raise HandshakeViolation("a user name or password beside the Authentication Method")
            token, proof = decode_connect(connect.properties.authentication_data)
            self.received(Step.SHOW_WITH_PROOF if proof else Step.SHOW)
            if proof:
                return self._shown_with_proof(token, proof, exporter)
            if not token:
                return StoredTokenNeeded(connect.client_identifier)
            self._token_octets = token
            return self._challenge(nonce, now)

    def auth(self, auth: Auth, *, nonce: bytes, now: float, wall: float) -> TokenNeeded | Challenge | Accepted:
        """An AUTH packet: the answer to a challenge, or a new token. `nonce` as for `connect`.

        Raises `HandshakeViolation`, `StaleChallenge`; where the token was a stored one, as `token_verified` does.
        """
        with self.closed_by_errors():
            if auth.properties.authentication_method != METHOD:
                raise HandshakeViolation("AUTH with another method than CONNECT", ReasonCode.PROTOCOL_ERROR)
            if auth.reason_code == ReasonCode.RE_AUTHENTICATE:
                self.received(Step.RENEW)
                self.occasion = Occasion.RE_AUTHENTICATION
                self._token_octets = decode_renewal(auth.properties.authentication_data)
                return self._challenge(nonce, now)
            if auth.reason_code != ReasonCode.CONTINUE_AUTHENTICATION:
                raise HandshakeViolation("AUTH with a reason code that is not the client's", ReasonCode.PROTOCOL_ERROR)
            self.received(Step.ANSWER)
            broker_nonce, self._nonce = self._nonce, None
            client_nonce, value = decode_answer(auth.properties.authentication_data)
            if broker_nonce is None or now > self._deadline:
                raise StaleChallenge("the answer comes too late")
            self._proof = _ChallengeProof(broker_nonce, client_nonce, value)
            if self._token is not None:
                return self._decide(self._token, wall)
            return TokenNeeded(self._token_octets)

    def token_found(self, token: AccessToken | None, *, nonce: bytes, now: float, wall: float) -> Challenge:
        """The stored token after `StoredTokenNeeded`; one that has expired is as good as none (D-13).

        Raises `NoToken`: the client may be told which authorization server to ask.
        """
        with self.closed_by_errors():
            if token is None or not token.is_valid_at(wall):
                raise NoToken("no token, and none is stored")
            self._token = token
            return self._challenge(nonce, now)

    def token_verified(self, token: AccessToken, *, wall: float) -> Accepted:
        """The token after `TokenNeeded`. Raises `InvalidProof`, `UnusableConfirmation`, `ExpiredToken`."""
        with self.closed_by_errors():
            return self._decide(token, wall)

    def expired(self, now: float) -> bool:
        """Whether a challenge is open that was to be answered by now."""
        return self._nonce is not None and now > self._deadline

    def _shown_with_proof(self, token: bytes, value: bytes, exporter: bytes | None) -> TokenNeeded:
        if exporter is None:
            raise InvalidProof("this connection has no exporter to prove possession over")
        self._proof = _ExporterProof(exporter, value)
        return TokenNeeded(token)

    def _challenge(self, nonce: bytes, now: float) -> Challenge:
        if len(nonce) != NONCE_OCTETS:
            raise ValueError(f"nonces have {NONCE_OCTETS} octets")
        self.sent(Step.CHALLENGE)
        self._nonce = nonce
        self._deadline = now + self._challenge_seconds
        return Challenge(_auth(ReasonCode.CONTINUE_AUTHENTICATION, nonce), self._deadline)

    def _decide(self, token: AccessToken, wall: float) -> Accepted:
        proof, self._proof = self._proof, None
        if proof is None:
            raise RuntimeError("no token was asked for")
        if token.key is None:
            raise UnusableConfirmation("the token is bound to a certificate, which TLS proves")
        proof.check(token.key)
        if not token.is_valid_at(wall):
            raise ExpiredToken("the token has expired")
        renewed = self.state is State.RENEWAL_ANSWERED
        self.sent(Step.RENEWED if renewed else Step.ACCEPT)
        self._token, self._token_octets = None, b""
        return Accepted(token, _auth(ReasonCode.SUCCESS) if renewed else None)


class ClientHandshake(Exchange):
    """The client's side. The `show...` methods give what goes into CONNECT; `renew` gives the AUTH to send."""

    def __init__(self) -> None:
        super().__init__("client")
        self._key: Key | None = None

    def show_with_proof(self, token: bytes, key: Key, exporter: bytes) -> bytes:
        """Authentication Data with a proof over the exporter (ACE-2.2.4.2.1-1). Raises `InvalidKey`, `ValueError`."""
        data = encode_connect(token, prove_exporter(key, exporter))
        self.sent(Step.SHOW_WITH_PROOF)
        return data

    def show(self, token: bytes, key: Key) -> bytes:
        """Authentication Data that asks for a challenge. Raises `ValueError`."""
        data = encode_connect(token)
        self.sent(Step.SHOW)
        self._key = key
        return data

    def show_nothing(self, key: Key | None = None) -> None:
        """CONNECT without Authentication Data: `key` proves the stored token; without one, only hints can come."""
        self.sent(Step.SHOW)
        self._key = key

    def user_name_and_password(self, token: bytes, key: Key, exporter: bytes) -> tuple[str, bytes]:
        """For MQTT 3.1.1 (ACE-6.1-12 .. -15). Raises `InvalidKey`, `ValueError`."""
        user_name, password = encode_user_name(token), prove_exporter(key, exporter)
        self.sent(Step.SHOW_WITH_PROOF)
        return user_name, password

    def renew(self, token: bytes, key: Key) -> Auth:
        """The AUTH that begins a re-authentication (ACE-4-7, ACE-4-8). Raises `ValueError`."""
        data = encode_connect(token)
        self.sent(Step.RENEW)
        self._key = key
        return _auth(ReasonCode.RE_AUTHENTICATE, data)

    def receive(self, packet: Auth | Connack | Disconnect, *, nonce: bytes) -> Auth | None:
        """What the broker sent; the AUTH to answer with, None where there is nothing to answer.

        `nonce`: 8 octets never used before. Raises `HandshakeRefused` with the hints of the broker when it says no,
        `HandshakeViolation` for anything that it may not send.
        """
        with self.closed_by_errors():
            if isinstance(packet, Disconnect):
                self.received(Step.LEAVE)
                raise HandshakeRefused("the broker has disconnected", _code(packet.reason_code))
            if isinstance(packet, Connack):
                if packet.reason_code:
                    self.received(Step.REFUSE)
                    hints = hints_among(packet.properties.user_properties)
                    raise HandshakeRefused("the broker has refused", _code(packet.reason_code), hints)
                self.received(Step.ACCEPT)
                return None
            if packet.properties.authentication_method != METHOD:
                raise HandshakeViolation("AUTH with another method than CONNECT", ReasonCode.PROTOCOL_ERROR)
            if packet.reason_code == ReasonCode.SUCCESS:
                self.received(Step.RENEWED)
                return None
            if packet.reason_code != ReasonCode.CONTINUE_AUTHENTICATION:
                raise HandshakeViolation("AUTH with a reason code that is not the broker's", ReasonCode.PROTOCOL_ERROR)
            self.received(Step.CHALLENGE)
            broker_nonce = decode_challenge(packet.properties.authentication_data)
            if self._key is None:
                raise HandshakeViolation("a challenge for a token that was not shown")
            proof = prove_challenge(self._key, broker_nonce, nonce)
            self.sent(Step.ANSWER)
            return _auth(ReasonCode.CONTINUE_AUTHENTICATION, encode_answer(nonce, proof))


def _credentials(connect: Connect) -> tuple[bytes, bytes]:
    """Token and proof of MQTT 3.1.1, where no challenge is possible (ACE-6.1-15, ACE-6.2-1)."""
    user_name, proof = connect.username or "", connect.password or b""
    token = decode_user_name(user_name) if user_name.startswith(USER_NAME_PREFIX) else b""
    if not token:
        raise NoToken("no token in the user name")
    if not proof:
        raise HandshakeViolation("a user name with a token, and no proof as password")
    return token, proof


def _auth(reason_code: ReasonCode, data: bytes | None = None) -> Auth:
    return Auth(reason_code, AuthProperties(authentication_method=METHOD, authentication_data=data))


def _code(number: int) -> ReasonCode:
    """The reason code of that number. What MQTT 3 returns, and what is none, counts as not authorized."""
    try:
        return ReasonCode(number) if number >= ReasonCode.UNSPECIFIED_ERROR else ReasonCode.NOT_AUTHORIZED
    except ValueError:
        return ReasonCode.NOT_AUTHORIZED
