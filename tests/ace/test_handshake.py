"""The handshake from both sides: every flow, every packet in every state, and all that is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.errors import (
    AceError,
    ExpiredToken,
    HandshakeRefused,
    HandshakeViolation,
    InvalidKey,
    InvalidProof,
    MalformedToken,
    NoToken,
    Occasion,
    StaleChallenge,
    UnusableConfirmation,
)
from acebroker_ace.exchange import State
from acebroker_ace.handshake import (
    CHALLENGE_SECONDS,
    Accepted,
    BrokerHandshake,
    Challenge,
    ClientHandshake,
    StoredTokenNeeded,
    TokenNeeded,
)
from acebroker_ace.hints import CreationHints
from acebroker_ace.keys import Key
from acebroker_ace.scope import Scope
from acebroker_ace.token import AccessToken
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import (
    Auth,
    AuthProperties,
    Connack,
    ConnackProperties,
    Connect,
    ConnectProperties,
    Disconnect,
    ProtocolVersion,
)
from tests.ace.issuer import b64, jwk, raw_signature
from tests.conformance.statements import ace

WALL = 1_800_000_000.0
NOW = 1_000.0
TOKEN = b"header.claims.signature"
NEW_TOKEN = b"another.token.here"
EXPORTER = bytes(range(0x40, 0x60))
BROKER_NONCE = bytes.fromhex("0102030405060708")
OTHER_NONCE = bytes.fromhex("1112131415161718")
CLIENT_NONCE = bytes.fromhex("a1a2a3a4a5a6a7a8")

SECRET = bytes(range(32))
MATERIALS: dict[str, Any] = {
    "HS256": SECRET,
    "EdDSA": Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))),
    "ES256": ec.derive_private_key(123_456_789, ec.SECP256R1()),
}
each_key = pytest.mark.parametrize("material", MATERIALS.values(), ids=MATERIALS)


def access_token(material: Any = SECRET, *, expires_at: float | None = WALL + 60) -> AccessToken:
    """A verified token bound to a key."""
    return AccessToken(
        issuer="https://as.example",
        subject="device1",
        scope=Scope(),
        expires_at=expires_at,
        issued_at=None,
        key=None if material is None else Key.from_jwk(jwk(material)),
        certificate_thumbprint=bytes(32) if material is None else None,
        connection_types=frozenset(),
        thumbprint=bytes(32),
    )


def connect(data: bytes | None = None, **changes: Any) -> Connect:
    """A CONNECT with the method."""
    properties = ConnectProperties(authentication_method="ace", authentication_data=data)
    return Connect("client1", **({"properties": properties} | changes))


def connect_v3(
    user_name: str | None, password: bytes | None, version: ProtocolVersion = ProtocolVersion.MQTT_3_1_1
) -> Connect:
    """A CONNECT of MQTT 3."""
    return Connect("client1", version, username=user_name, password=password)


def auth(reason_code: int, data: bytes | None = None, method: str | None = "ace") -> Auth:
    """An AUTH."""
    return Auth(reason_code, AuthProperties(authentication_method=method, authentication_data=data))


def with_length(token: bytes) -> bytes:
    """A token with its length in front, by hand."""
    return bytes([len(token) >> 8, len(token) & 255]) + token


def started(packet: Connect, *, exporter: bytes | None = EXPORTER) -> tuple[BrokerHandshake, Any]:
    """A broker that has received CONNECT, and what it wants."""
    broker = BrokerHandshake()
    return broker, broker.connect(packet, exporter=exporter, nonce=BROKER_NONCE, now=NOW)


def receive(broker: BrokerHandshake, packet: Auth, *, now: float = NOW + 1, nonce: bytes = OTHER_NONCE) -> Any:
    """The broker receives an AUTH."""
    return broker.auth(packet, nonce=nonce, now=now, wall=WALL)


def answer(nonce: bytes = BROKER_NONCE, material: Any = SECRET) -> Auth:
    """The right answer to a challenge."""
    return auth(0x18, CLIENT_NONCE + raw_signature(material, nonce + CLIENT_NONCE))


def proven(material: Any = SECRET) -> BrokerHandshake:
    """A broker that has accepted a client."""
    broker, _ = started(connect(with_length(TOKEN) + raw_signature(material, EXPORTER)))
    broker.token_verified(access_token(material), wall=WALL)
    assert broker.state is State.PROVEN
    return broker


# ---- the flows, octet by octet ----


@each_key
@ace("ACE-2.2.4.2-4", "ACE-2.2.4.2.1-1", "ACE-2.2.4.2.1-2", "ACE-2.2.4.2.1-4", "ACE-2.2.5-3", "ACE-2.2.5-6")
def test_proof_over_the_exporter(material: Any) -> None:
    broker, needed = started(connect(with_length(TOKEN) + raw_signature(material, EXPORTER)))
    assert needed == TokenNeeded(TOKEN)
    token = access_token(material)
    assert broker.token_verified(token, wall=WALL) == Accepted(token, None)
    assert broker.state is State.PROVEN


@each_key
@ace(
    "ACE-2.2.4.2-4",
    "ACE-2.2.4.2.2-1",
    "ACE-2.2.4.2.2-3",
    "ACE-2.2.4.2.2-4",
    "ACE-2.2.4.2.2-5",
    "ACE-2.2.4.2.2-6",
    "ACE-2.2.4.2.2-7",
)
def test_challenge(material: Any) -> None:
    broker, challenge = started(connect(with_length(TOKEN)), exporter=None)
    assert challenge == Challenge(auth(0x18, BROKER_NONCE), NOW + CHALLENGE_SECONDS)
    assert receive(broker, answer(material=material)) == TokenNeeded(TOKEN)
    token = access_token(material)
    assert broker.token_verified(token, wall=WALL) == Accepted(token, None)


@pytest.mark.parametrize("data", [None, b"\0\0"])
@ace("ACE-2.2.4.2.2-2")
def test_challenge_for_the_stored_token(data: bytes | None) -> None:
    broker, needed = started(connect(data))
    assert needed == StoredTokenNeeded("client1")
    token = access_token()
    challenge = broker.token_found(token, nonce=BROKER_NONCE, now=NOW, wall=WALL)
    assert challenge == Challenge(auth(0x18, BROKER_NONCE), NOW + CHALLENGE_SECONDS)
    assert receive(broker, answer()) == Accepted(token, None)


@pytest.mark.parametrize("stored", [None, access_token(expires_at=WALL)])
@ace("ACE-2.4.1-1")
def test_no_token_at_all_asks_for_the_server(stored: AccessToken | None) -> None:
    broker, _ = started(connect())
    with pytest.raises(NoToken) as caught:
        broker.token_found(stored, nonce=BROKER_NONCE, now=NOW, wall=WALL)
    assert caught.value.answer(broker.occasion) == ReasonCode.NOT_AUTHORIZED
    assert broker.state is State.CLOSED


@pytest.mark.parametrize("version", [ProtocolVersion.MQTT_3_1_1, ProtocolVersion.MQTT_3_1])
@each_key
@ace("ACE-6.1-5", "ACE-6.1-6", "ACE-6.1-12", "ACE-6.1-13", "ACE-6.1-14", "ACE-6.1-15")
def test_mqtt_3(material: Any, version: ProtocolVersion) -> None:
    broker, needed = started(connect_v3("ace" + b64(TOKEN), raw_signature(material, EXPORTER), version))
    assert needed == TokenNeeded(TOKEN)
    token = access_token(material)
    assert broker.token_verified(token, wall=WALL) == Accepted(token, None)


@each_key
@ace("ACE-4-7", "ACE-4-8", "ACE-4-11", "ACE-2.2.4.2.2-8")
def test_re_authentication(material: Any) -> None:
    """The new token may have another key."""
    broker = proven(SECRET)
    for nonce in (OTHER_NONCE, BROKER_NONCE):
        challenge = receive(broker, auth(0x19, with_length(NEW_TOKEN)), nonce=nonce)
        assert challenge == Challenge(auth(0x18, nonce), NOW + 1 + CHALLENGE_SECONDS)
        assert broker.occasion is Occasion.RE_AUTHENTICATION
        assert receive(broker, answer(nonce, material)) == TokenNeeded(NEW_TOKEN)
        token = access_token(material)
        assert broker.token_verified(token, wall=WALL) == Accepted(token, auth(0x00))
        assert broker.state is State.PROVEN


@ace("ACE-4-8")
def test_re_authentication_after_a_stored_token_is_about_the_new_one() -> None:
    broker, _ = started(connect())
    broker.token_found(access_token(), nonce=BROKER_NONCE, now=NOW, wall=WALL)
    receive(broker, answer())
    receive(broker, auth(0x19, with_length(NEW_TOKEN)))
    assert receive(broker, answer(OTHER_NONCE)) == TokenNeeded(NEW_TOKEN)


# ---- both sides with each other ----


def talk(
    client: ClientHandshake, broker: BrokerHandshake, token: AccessToken, outcome: Any, nonces: list[bytes]
) -> Accepted:
    """Carry packets until the broker has accepted."""
    while not isinstance(outcome, Accepted):
        if isinstance(outcome, TokenNeeded):
            outcome = broker.token_verified(token, wall=WALL)
        elif isinstance(outcome, StoredTokenNeeded):
            outcome = broker.token_found(token, nonce=nonces.pop(), now=NOW, wall=WALL)
        else:
            reply = client.receive(outcome.packet, nonce=nonces.pop())
            assert reply is not None
            outcome = receive(broker, reply, nonce=nonces.pop())
    client.receive(outcome.packet or Connack(), nonce=nonces.pop())
    assert client.state is broker.state is State.PROVEN
    return outcome


@each_key
@given(st.lists(st.binary(min_size=8, max_size=8), min_size=20, max_size=20))
@ace("ACE-2.2.4.2.1-1", "ACE-2.2.4.2.2-5", "ACE-4-7", "ACE-4-8", "ACE-4-11", "ACE-6.1-12", "ACE-2.2.5-7")
def test_client_and_broker_understand_each_other(material: Any, nonces: list[bytes]) -> None:
    key = Key.from_jwk(jwk(material, private=True))
    token = access_token(material)
    ways: list[Callable[[ClientHandshake], Connect]] = [
        lambda client: connect(client.show_with_proof(TOKEN, key, EXPORTER)),
        lambda client: connect(client.show(TOKEN, key)),
        lambda client: connect(client.show_nothing(key)),  # type: ignore[func-returns-value]
        lambda client: connect_v3(*client.user_name_and_password(TOKEN, key, EXPORTER)),
    ]
    for way in ways:
        client, broker = ClientHandshake(), BrokerHandshake()
        left = list(nonces)
        outcome = broker.connect(way(client), exporter=EXPORTER, nonce=left.pop(), now=NOW)
        talk(client, broker, token, outcome, left)
        outcome = receive(broker, client.renew(NEW_TOKEN, key), nonce=left.pop())
        assert talk(client, broker, token, outcome, left).packet == auth(0x00)


# ---- what the broker refuses ----

PROOF = raw_signature(SECRET, EXPORTER)
REFUSED_CONNECT: dict[str, tuple[Connect, type[AceError], ReasonCode]] = {
    "empty data": (connect(b""), HandshakeViolation, ReasonCode.NOT_AUTHORIZED),
    "half a length": (connect(b"\0"), HandshakeViolation, ReasonCode.NOT_AUTHORIZED),
    "token cut short": (connect(with_length(TOKEN)[:-1]), HandshakeViolation, ReasonCode.NOT_AUTHORIZED),
    "proof without token": (connect(b"\0\0" + PROOF), HandshakeViolation, ReasonCode.NOT_AUTHORIZED),
    "a user name beside it": (
        connect(with_length(TOKEN), username="u"),
        HandshakeViolation,
        ReasonCode.NOT_AUTHORIZED,
    ),
    "a password beside it": (
        connect(with_length(TOKEN), password=b""),
        HandshakeViolation,
        ReasonCode.NOT_AUTHORIZED,
    ),
    "another method": (
        connect(properties=ConnectProperties(authentication_method="ACE", authentication_data=with_length(TOKEN))),
        HandshakeViolation,
        ReasonCode.BAD_AUTHENTICATION_METHOD,
    ),
    "no method": (connect(properties=ConnectProperties()), HandshakeViolation, ReasonCode.BAD_AUTHENTICATION_METHOD),
    "MQTT 3: no credentials": (connect_v3(None, None), NoToken, ReasonCode.NOT_AUTHORIZED),
    "MQTT 3: no token": (connect_v3("ace", PROOF), NoToken, ReasonCode.NOT_AUTHORIZED),
    "MQTT 3: another user": (connect_v3("bob", PROOF), NoToken, ReasonCode.NOT_AUTHORIZED),
    "MQTT 3: no proof": (connect_v3("ace" + b64(TOKEN), None), HandshakeViolation, ReasonCode.NOT_AUTHORIZED),
    "MQTT 3: empty proof": (connect_v3("ace" + b64(TOKEN), b""), HandshakeViolation, ReasonCode.NOT_AUTHORIZED),
    "MQTT 3: bare token": (
        connect_v3("ace" + TOKEN.decode(), PROOF),
        MalformedToken,
        ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    ),
    "MQTT 3: padding": (connect_v3("aceYQ==", PROOF), MalformedToken, ReasonCode.BAD_USER_NAME_OR_PASSWORD),
}


@pytest.mark.parametrize(("packet", "kind", "code"), REFUSED_CONNECT.values(), ids=REFUSED_CONNECT)
@ace("ACE-2.4.1-1", "ACE-2.2.4.1-5", "ACE-2.2.4.2-1", "ACE-6.1-13", "ACE-6.1-6")
def test_a_connect_that_is_refused(packet: Connect, kind: type[AceError], code: ReasonCode) -> None:
    broker = BrokerHandshake()
    with pytest.raises(AceError) as caught:
        broker.connect(packet, exporter=EXPORTER, nonce=BROKER_NONCE, now=NOW)
    assert type(caught.value) is kind
    assert caught.value.answer(broker.occasion) == code
    assert broker.state is State.CLOSED


@ace("ACE-2.2.5-8", "ACE-2.4.1-1", "ACE-2.2.5-3")
@each_key
def test_a_proof_over_the_exporter_that_does_not_hold(material: Any) -> None:
    """Of another TLS session, with another key, or of the other kind."""
    stranger = raw_signature(bytes(32), EXPORTER)
    for value in (
        raw_signature(material, EXPORTER[::-1]),
        raw_signature(material, BROKER_NONCE + CLIENT_NONCE),
        raw_signature(material, b""),
        stranger,
        b"\0",
    ):
        for packet in (connect(with_length(TOKEN) + value), connect_v3("ace" + b64(TOKEN), value)):
            broker, _ = started(packet)
            with pytest.raises(InvalidProof):
                broker.token_verified(access_token(material), wall=WALL)
            assert broker.state is State.CLOSED


@ace("ACE-4-10")
def test_without_exporter_there_is_only_the_challenge() -> None:
    for packet in (connect(with_length(TOKEN) + PROOF), connect_v3("ace" + b64(TOKEN), PROOF)):
        broker = BrokerHandshake()
        with pytest.raises(InvalidProof):
            broker.connect(packet, exporter=None, nonce=BROKER_NONCE, now=NOW)
        assert broker.state is State.CLOSED
    _, challenge = started(connect(with_length(TOKEN)), exporter=None)
    assert isinstance(challenge, Challenge)


@ace("ACE-2.2.4.2.2-6", "ACE-2.2.5-8")
@each_key
def test_an_answer_that_does_not_hold(material: Any) -> None:
    for value in (
        raw_signature(material, CLIENT_NONCE + BROKER_NONCE),
        raw_signature(material, OTHER_NONCE + CLIENT_NONCE),
        raw_signature(material, BROKER_NONCE + OTHER_NONCE),
        raw_signature(material, EXPORTER),
        raw_signature(bytes(32), BROKER_NONCE + CLIENT_NONCE),
        b"\0",
    ):
        broker, _ = started(connect(with_length(TOKEN)))
        assert receive(broker, auth(0x18, CLIENT_NONCE + value)) == TokenNeeded(TOKEN)
        with pytest.raises(InvalidProof):
            broker.token_verified(access_token(material), wall=WALL)
        assert broker.state is State.CLOSED


@pytest.mark.parametrize("data", [None, b"", CLIENT_NONCE[:-1], CLIENT_NONCE])
@ace("ACE-2.2.4.2.2-5", "ACE-2.4.1-1")
def test_an_answer_of_another_shape(data: bytes | None) -> None:
    broker, _ = started(connect(with_length(TOKEN)))
    with pytest.raises(HandshakeViolation) as caught:
        receive(broker, auth(0x18, data))
    assert caught.value.answer(broker.occasion) == ReasonCode.NOT_AUTHORIZED
    assert broker.state is State.CLOSED


def test_a_challenge_lasts_thirty_seconds() -> None:
    assert CHALLENGE_SECONDS == 30
    broker, challenge = started(connect(with_length(TOKEN)))
    assert not broker.expired(NOW + 30)
    assert broker.expired(NOW + 30.1)
    receive(broker, answer(), now=challenge.deadline)
    assert not broker.expired(NOW + 100)
    broker, _ = started(connect(with_length(TOKEN)))
    with pytest.raises(StaleChallenge):
        receive(broker, answer(), now=NOW + 30.1)
    assert broker.state is State.CLOSED
    hasty = BrokerHandshake(challenge_seconds=5)
    challenge = hasty.connect(connect(with_length(TOKEN)), exporter=None, nonce=BROKER_NONCE, now=NOW)
    assert isinstance(challenge, Challenge) and challenge.deadline == NOW + 5


@pytest.mark.parametrize("nonce", [b"", BROKER_NONCE[:-1], BROKER_NONCE + b"\0"])
def test_a_nonce_of_ours_has_eight_octets(nonce: bytes) -> None:
    with pytest.raises(ValueError, match="8 octets"):
        BrokerHandshake().connect(connect(with_length(TOKEN)), exporter=None, nonce=nonce, now=NOW)


def test_a_nonce_is_taken_once() -> None:
    broker, _ = started(connect(with_length(TOKEN)))
    receive(broker, answer())
    broker.token_verified(access_token(), wall=WALL)
    receive(broker, auth(0x19, with_length(NEW_TOKEN)))
    receive(broker, answer(BROKER_NONCE))  # the answer of before, again
    with pytest.raises(InvalidProof):
        broker.token_verified(access_token(), wall=WALL)


@pytest.mark.parametrize(
    "data",
    [None, b"", b"\0\0", with_length(NEW_TOKEN)[:-1], with_length(NEW_TOKEN) + b"\0", with_length(NEW_TOKEN) + PROOF],
)
@ace("ACE-4-9", "ACE-4-11", "ACE-2.2.4.2.1-5")
def test_a_re_authentication_of_another_shape(data: bytes | None) -> None:
    """Above all: not with a proof over the exporter."""
    broker = proven()
    with pytest.raises(HandshakeViolation) as caught:
        receive(broker, auth(0x19, data))
    assert caught.value.answer(broker.occasion) == ReasonCode.NOT_AUTHORIZED
    assert broker.state is State.CLOSED


@ace("ACE-4-9", "ACE-2.2.4.2.1-5")
def test_the_proof_over_the_exporter_is_no_answer() -> None:
    broker = proven()
    receive(broker, auth(0x19, with_length(NEW_TOKEN)))
    assert receive(broker, auth(0x18, CLIENT_NONCE + PROOF)) == TokenNeeded(NEW_TOKEN)
    with pytest.raises(InvalidProof) as caught:
        broker.token_verified(access_token(), wall=WALL)
    assert caught.value.answer(broker.occasion) == ReasonCode.NOT_AUTHORIZED


@ace("ACE-4-12")
def test_a_second_re_authentication_while_one_runs() -> None:
    broker = proven()
    receive(broker, auth(0x19, with_length(NEW_TOKEN)))
    with pytest.raises(HandshakeViolation):
        receive(broker, auth(0x19, with_length(NEW_TOKEN)))
    assert broker.state is State.CLOSED


@ace("ACE-2.2.5-9")
def test_a_token_that_expires_before_it_is_proven() -> None:
    broker, _ = started(connect(with_length(TOKEN) + PROOF))
    with pytest.raises(ExpiredToken):
        broker.token_verified(access_token(expires_at=WALL), wall=WALL)
    broker, _ = started(connect())
    broker.token_found(access_token(expires_at=WALL), nonce=BROKER_NONCE, now=NOW, wall=WALL - 1)
    with pytest.raises(ExpiredToken):
        receive(broker, answer())
    assert broker.state is State.CLOSED


def test_a_token_of_a_certificate_is_not_proven_here() -> None:
    broker, _ = started(connect(with_length(TOKEN) + PROOF))
    with pytest.raises(UnusableConfirmation):
        broker.token_verified(access_token(None), wall=WALL)


@pytest.mark.parametrize("method", [None, "ACE", "", "other"])
@ace("ACE-2.2.4.2.2-5", "ACE-4-8")
def test_auth_with_another_method(method: str | None) -> None:
    for broker, reason_code, data in (
        (started(connect(with_length(TOKEN)))[0], 0x18, answer().properties.authentication_data),
        (proven(), 0x19, with_length(NEW_TOKEN)),
    ):
        with pytest.raises(HandshakeViolation) as caught:
            receive(broker, auth(reason_code, data, method))
        assert caught.value.answer(broker.occasion) == ReasonCode.PROTOCOL_ERROR
        assert broker.state is State.CLOSED


# ---- every packet in every state ----


def broker_in(state: State) -> BrokerHandshake:
    """A broker that has come to a state the regular way."""
    if state in (State.START, State.CLOSED):
        broker = BrokerHandshake()
        if state is State.CLOSED:
            broker.left()
        return broker
    if state is State.PROOF_SHOWN:
        return started(connect(with_length(TOKEN) + PROOF))[0]
    if state is State.TOKEN_SHOWN:
        return started(connect())[0]
    if state in (State.CHALLENGED, State.ANSWERED):
        broker = started(connect(with_length(TOKEN)))[0]
    else:
        broker = proven()
        if state is State.PROVEN:
            return broker
        receive(broker, auth(0x19, with_length(NEW_TOKEN)), nonce=BROKER_NONCE)
    if state in (State.ANSWERED, State.RENEWAL_ANSWERED):
        receive(broker, answer())
    return broker


#: a broker passes through this state without waiting in it
BROKER_STATES = [state for state in State if state is not State.RENEWAL_SHOWN]
CLIENT_PACKETS: dict[str, Connect | Auth] = {
    "CONNECT with proof": connect(with_length(TOKEN) + PROOF),
    "CONNECT with token": connect(with_length(TOKEN)),
    "CONNECT with nothing": connect(),
    "CONNECT of MQTT 3": connect_v3("ace" + b64(TOKEN), PROOF),
    "AUTH 0x18": answer(),
    "AUTH 0x19": auth(0x19, with_length(NEW_TOKEN)),
    "AUTH 0x00": auth(0x00),
    "AUTH 0x87": auth(0x87),
}
LEGAL_AT_THE_BROKER = {
    (State.START, "CONNECT with proof"): State.PROOF_SHOWN,
    (State.START, "CONNECT with token"): State.CHALLENGED,
    (State.START, "CONNECT with nothing"): State.TOKEN_SHOWN,
    (State.START, "CONNECT of MQTT 3"): State.PROOF_SHOWN,
    (State.CHALLENGED, "AUTH 0x18"): State.ANSWERED,
    (State.PROVEN, "AUTH 0x19"): State.RENEWAL_CHALLENGED,
    (State.RENEWAL_CHALLENGED, "AUTH 0x18"): State.RENEWAL_ANSWERED,
}


@pytest.mark.parametrize(("state", "name"), list(itertools.product(BROKER_STATES, CLIENT_PACKETS)))
@ace("ACE-4-12")
def test_every_packet_at_every_state_of_the_broker(state: State, name: str) -> None:
    broker = broker_in(state)
    assert broker.state is state
    packet = CLIENT_PACKETS[name]

    def act() -> None:
        if isinstance(packet, Connect):
            broker.connect(packet, exporter=EXPORTER, nonce=BROKER_NONCE, now=NOW)
        else:
            receive(broker, packet)

    after = LEGAL_AT_THE_BROKER.get((state, name))
    if after is not None:
        act()
        assert broker.state is after
    else:
        with pytest.raises(HandshakeViolation):
            act()
        assert broker.state is State.CLOSED


@pytest.mark.parametrize("state", BROKER_STATES)
def test_tokens_that_the_broker_did_not_ask_for(state: State) -> None:
    """Our own mistakes end in an error of ours, and in nobody's acceptance."""
    if state not in (State.PROOF_SHOWN, State.ANSWERED, State.RENEWAL_ANSWERED):
        with pytest.raises(RuntimeError):
            broker_in(state).token_verified(access_token(), wall=WALL)
    if state is not State.TOKEN_SHOWN:
        with pytest.raises(RuntimeError):
            broker_in(state).token_found(access_token(), nonce=BROKER_NONCE, now=NOW, wall=WALL)


def client_in(state: State) -> ClientHandshake:
    """A client that has come to a state the regular way."""
    client = ClientHandshake()
    key = Key(SECRET)
    if state is State.CLOSED:
        client.left()
    elif state in (State.TOKEN_SHOWN, State.ANSWERED):
        client.show(TOKEN, key)
    elif state is not State.START:
        client.show_with_proof(TOKEN, key, EXPORTER)
        if state is not State.PROOF_SHOWN:
            client.receive(Connack(), nonce=CLIENT_NONCE)
        if state in (State.RENEWAL_SHOWN, State.RENEWAL_ANSWERED):
            client.renew(NEW_TOKEN, key)
    if state in (State.ANSWERED, State.RENEWAL_ANSWERED):
        client.receive(auth(0x18, BROKER_NONCE), nonce=CLIENT_NONCE)
    return client


CLIENT_STATES = [state for state in State if state not in (State.CHALLENGED, State.RENEWAL_CHALLENGED)]
BROKER_PACKETS: dict[str, Auth | Connack | Disconnect] = {
    "CONNACK 0": Connack(),
    "CONNACK 0x87": Connack(False, 0x87),
    "AUTH 0x18": auth(0x18, BROKER_NONCE),
    "AUTH 0x00": auth(0x00),
    "AUTH 0x19": auth(0x19, with_length(TOKEN)),
    "DISCONNECT": Disconnect(0x87),
}
LEGAL_AT_THE_CLIENT = {
    (State.PROOF_SHOWN, "CONNACK 0"): State.PROVEN,
    (State.ANSWERED, "CONNACK 0"): State.PROVEN,
    (State.TOKEN_SHOWN, "AUTH 0x18"): State.ANSWERED,
    (State.RENEWAL_SHOWN, "AUTH 0x18"): State.RENEWAL_ANSWERED,
    (State.RENEWAL_ANSWERED, "AUTH 0x00"): State.PROVEN,
}
WAITING = (State.PROOF_SHOWN, State.TOKEN_SHOWN, State.ANSWERED)


@pytest.mark.parametrize(("state", "name"), list(itertools.product(CLIENT_STATES, BROKER_PACKETS)))
def test_every_packet_at_every_state_of_the_client(state: State, name: str) -> None:
    client = client_in(state)
    assert client.state is state
    after = LEGAL_AT_THE_CLIENT.get((state, name))
    if after is not None:
        client.receive(BROKER_PACKETS[name], nonce=CLIENT_NONCE)
        assert client.state is after
        return
    refused = (name == "DISCONNECT" and state is not State.CLOSED) or (name == "CONNACK 0x87" and state in WAITING)
    with pytest.raises(HandshakeRefused if refused else HandshakeViolation) as caught:
        client.receive(BROKER_PACKETS[name], nonce=CLIENT_NONCE)
    assert not refused or caught.value.reason_code == ReasonCode.NOT_AUTHORIZED
    assert client.state is State.CLOSED


# ---- the client ----


def test_what_the_client_sends() -> None:
    key = Key(SECRET)
    assert ClientHandshake().show_with_proof(TOKEN, key, EXPORTER) == with_length(TOKEN) + PROOF
    assert ClientHandshake().show(TOKEN, key) == with_length(TOKEN)
    assert ClientHandshake().user_name_and_password(TOKEN, key, EXPORTER) == ("ace" + b64(TOKEN), PROOF)
    assert client_in(State.PROVEN).renew(NEW_TOKEN, key) == auth(0x19, with_length(NEW_TOKEN))
    client = client_in(State.TOKEN_SHOWN)
    assert client.receive(auth(0x18, BROKER_NONCE), nonce=CLIENT_NONCE) == answer()


@ace("ACE-2.4.1-3", "ACE-2.4.1-5")
def test_the_client_learns_which_server_to_ask() -> None:
    client = ClientHandshake()
    client.show_nothing()
    hints = CreationHints(server="https://as.example/token", client_nonce=b"nonce")
    refusal = Connack(False, 0x87, ConnackProperties(user_properties=(("x", "y"), hints.user_property())))
    with pytest.raises(HandshakeRefused) as caught:
        client.receive(refusal, nonce=CLIENT_NONCE)
    assert caught.value.hints == hints
    assert caught.value.reason_code == ReasonCode.NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (Connack(False, 0x8C), ReasonCode.BAD_AUTHENTICATION_METHOD),
        (Connack(False, 5), ReasonCode.NOT_AUTHORIZED),
        (Connack(False, 0xFE), ReasonCode.NOT_AUTHORIZED),
        (Disconnect(0x8B), ReasonCode.SERVER_SHUTTING_DOWN),
    ],
)
def test_the_client_tells_why_it_was_refused(packet: Connack | Disconnect, code: ReasonCode) -> None:
    client = client_in(State.TOKEN_SHOWN)
    with pytest.raises(HandshakeRefused) as caught:
        client.receive(packet, nonce=CLIENT_NONCE)
    assert (caught.value.reason_code, caught.value.hints) == (code, None)


def test_the_client_answers_no_challenge_that_it_did_not_ask_for() -> None:
    client = ClientHandshake()
    client.show_nothing()
    with pytest.raises(HandshakeViolation):
        client.receive(auth(0x18, BROKER_NONCE), nonce=CLIENT_NONCE)
    for challenge in (
        auth(0x18),
        auth(0x18, b""),
        auth(0x18, BROKER_NONCE + b"\0"),
        auth(0x18, BROKER_NONCE, "other"),
        auth(0x18, BROKER_NONCE, None),
    ):
        client = client_in(State.TOKEN_SHOWN)
        with pytest.raises(HandshakeViolation):
            client.receive(challenge, nonce=CLIENT_NONCE)
        assert client.state is State.CLOSED


def test_the_client_does_not_step_out_of_order() -> None:
    key = Key(SECRET)
    with pytest.raises(RuntimeError):
        client_in(State.TOKEN_SHOWN).renew(NEW_TOKEN, key)
    with pytest.raises(RuntimeError):
        client_in(State.PROVEN).show(TOKEN, key)
    with pytest.raises(RuntimeError):
        client_in(State.RENEWAL_SHOWN).renew(NEW_TOKEN, key)


def test_a_key_that_cannot_sign_leaves_the_client_where_it_was() -> None:
    client = ClientHandshake()
    public = Key.from_jwk(jwk(MATERIALS["EdDSA"]))
    with pytest.raises(InvalidKey):
        client.show_with_proof(TOKEN, public, EXPORTER)
    with pytest.raises(ValueError, match="token"):
        client.show(b"", public)
    assert client.state is State.START


# ---- nothing is shown ----


def test_no_secret_is_shown() -> None:
    broker, needed = started(connect(with_length(TOKEN) + PROOF))
    _, challenge = started(connect(with_length(TOKEN)))
    shown = [repr(broker), repr(needed), repr(challenge), repr(StoredTokenNeeded("client1"))]
    shown.append(repr(broker.token_verified(access_token(), wall=WALL)))
    client = client_in(State.TOKEN_SHOWN)
    shown.append(repr(client))
    shown.append(repr(client.receive(auth(0x18, BROKER_NONCE), nonce=CLIENT_NONCE)))
    broker, _ = started(connect(with_length(TOKEN) + PROOF[::-1]))
    with pytest.raises(InvalidProof) as caught:
        broker.token_verified(access_token(), wall=WALL)
    shown.append(str(caught.value) + repr(caught.value))
    for secret in (TOKEN, PROOF, SECRET):
        for text in shown:
            assert secret.hex() not in text
            assert b64(secret) not in text
            assert repr(secret)[2:-1] not in text
