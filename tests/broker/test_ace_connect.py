"""CONNECT with a token: every way to prove possession, every way to fail, and what a failure leaves behind."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from acebroker_codec.packets import Auth, Connack, Disconnect, Pingreq, Publish
from tests.ace.devices import (
    AUDIENCE,
    CLIENT_NONCE,
    WALL,
    Device,
    FakeTls,
    answer_to,
    auth,
    broker_with_ace,
    issue_cwt,
    with_length,
)
from tests.ace.issuer import b64, raw_signature
from tests.conformance.statements import ace
from tests.harness import WireClient, connected, make_will, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.config import Ace, Authentication

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

NOT_AUTHORIZED = 0x87
SECRET = bytes(range(32))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with broker_with_ace(tmp_path, anonymous=True, ace=Ace(public_subscribe=("news/#",))) as running:
        yield running


async def refused(client: WireClient, answer: Any, code: int = NOT_AUTHORIZED) -> Connack:
    """The answer refuses the CONNECT, and the connection ends."""
    assert isinstance(answer, Connack) and answer.reason_code == code, answer
    assert not answer.session_present
    await client.expect_closed()
    return answer


# ---- proof over the exporter ----


@pytest.mark.parametrize("kind", ["Ed25519", "P-256", "HS256"])
@ace("ACE-2.2.1-4", "ACE-2.2.1-12", "ACE-2.2.4.2-4", "ACE-2.2.4.2.1-4", "ACE-2.2.4.2.1-3", "ACE-2.2.5-6", "ACE-2.4-1")
@ace("ACE-2.4.2-1", "ACE-2.4.2-2", "ACE-2.2.4.1-14", "ACE-2.3-1")
async def test_token_and_proof_over_the_exporter(broker: Broker, kind: str) -> None:
    keys: dict[str, Any] = {
        "Ed25519": Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        "P-256": ec.derive_private_key(987_654_321, ec.SECP256R1()),
        "HS256": SECRET,
    }
    device = Device(keys[kind])
    client = await device.open(broker)
    token = issue_cwt(SECRET) if kind == "HS256" else device.token()
    connack = await device.attempt(client, with_length(token) + device.proof())
    assert isinstance(connack, Connack)
    assert (connack.reason_code, connack.session_present) == (0, False)
    assert connack.properties.authentication_method == "ace"  # [MQTT-4.12.0-6]
    assert connack.properties.authentication_data is None
    await client.subscribe("own/a")
    await client.send(Publish("own/a", b"hello"))
    await client.expect(Publish, topic="own/a", payload=b"hello")
    conn = broker.session.sessions["device1"].connection
    assert conn is not None and conn.identity is not None
    assert (conn.identity.kind, conn.identity.issuer, conn.identity.name) == ("token", "https://as.example", "device1")


@ace("ACE-2.2.4.2.1-3", "ACE-2.2.5-8")
async def test_a_proof_of_another_tls_session_is_worth_nothing(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker, tls=FakeTls("mine"))
    await refused(client, await device.attempt(client, with_length(device.token()) + device.proof(FakeTls("other"))))


@ace("ACE-2.2.5-8")
@pytest.mark.parametrize("damage", [lambda p: p[:-1], lambda p: p + b"\0", lambda p: bytes(64), lambda p: b"\0"])
async def test_a_proof_that_does_not_hold(broker: Broker, damage: Callable[[bytes], bytes]) -> None:
    device = Device()
    client = await device.open(broker)
    await refused(client, await device.attempt(client, with_length(device.token()) + damage(device.proof())))


async def test_the_token_of_somebody_else_is_worth_nothing(broker: Broker) -> None:
    device, thief = Device(), Device(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    client = await thief.open(broker)
    await refused(client, await thief.attempt(client, with_length(device.token()) + thief.proof()))


@ace("ACE-2.2.1-1")
async def test_tokens_need_tls(broker: Broker, tmp_path: Path) -> None:
    device = Device()
    client = await device.open(broker, plain=True)
    for task in broker.connections:
        task.conn.tokens_allowed = False  # a listener without TLS that does not say `insecure`
    await refused(client, await device.attempt(client, with_length(device.token())))
    assert broker.counters.denials["ace: tokens are taken over TLS only"] == 1


async def test_without_an_exporter_there_is_a_challenge(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker, plain=True)
    challenge = await device.attempt(client, with_length(device.token()))
    await client.send(answer_to(challenge, device.key))
    await client.expect(Connack, reason_code=0)
    other = await device.open(broker, plain=True)
    await refused(other, await device.attempt(other, with_length(device.token()) + device.proof()))


# ---- challenge ----


@pytest.mark.parametrize("kind", ["Ed25519", "HS256"])
@ace("ACE-2.2.4.2.2-1", "ACE-2.2.4.2.2-3", "ACE-2.2.4.2.2-4", "ACE-2.2.4.2.2-6", "ACE-2.2.4.2.2-7", "ACE-2.2.4.2-4")
async def test_challenge(broker: Broker, kind: str) -> None:
    device = Device(SECRET if kind == "HS256" else None)
    client = await device.open(broker)
    token = issue_cwt(SECRET) if kind == "HS256" else device.token()
    challenge = await device.attempt(client, with_length(token))
    assert isinstance(challenge, Auth)
    assert challenge.properties.authentication_method == "ace"
    await client.send(answer_to(challenge, device.key))
    await client.expect(Connack, reason_code=0, authentication_method="ace", authentication_data=None)
    await client.expect_alive()


async def test_every_challenge_is_another_one(broker: Broker) -> None:
    nonces = set()
    for _ in range(20):
        client = await Device().open(broker)
        challenge = await Device().attempt(client, with_length(Device().token()))
        assert isinstance(challenge, Auth)
        nonces.add(challenge.properties.authentication_data)
    assert len(nonces) == 20


@ace("ACE-2.2.4.2.2-6", "ACE-2.2.5-8", "ACE-2.4.1-1")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda key, nonce: CLIENT_NONCE + raw_signature(key, CLIENT_NONCE + nonce), id="client's first"),
        pytest.param(lambda key, nonce: CLIENT_NONCE + raw_signature(key, nonce), id="one nonce"),
        pytest.param(lambda key, nonce: CLIENT_NONCE + raw_signature(key, nonce + bytes(8)), id="another nonce"),
        pytest.param(lambda key, nonce: CLIENT_NONCE, id="no proof"),
        pytest.param(lambda key, nonce: CLIENT_NONCE[:-1], id="half a nonce"),
        pytest.param(lambda key, nonce: None, id="nothing"),
        pytest.param(
            lambda key, nonce: b"\0\x08" + CLIENT_NONCE + raw_signature(key, nonce + CLIENT_NONCE), id="with a length"
        ),
    ],
)
async def test_a_wrong_answer(broker: Broker, data: Callable[[Any, bytes], bytes | None]) -> None:
    device = Device()
    client = await device.open(broker)
    challenge = await device.attempt(client, with_length(device.token()))
    assert isinstance(challenge, Auth) and challenge.properties.authentication_data is not None
    await client.send(auth(0x18, data(device.key, challenge.properties.authentication_data)))
    await refused(client, await client.receive())


async def test_the_answer_to_the_challenge_of_another_connection(broker: Broker) -> None:
    device = Device()
    first, second = await device.open(broker), await device.open(broker)
    challenge = await device.attempt(first, with_length(device.token()))
    await device.attempt(second, with_length(device.token()))
    await second.send(answer_to(challenge, device.key))
    await refused(second, await second.receive())


async def test_an_answer_that_comes_too_late(tmp_path: Path) -> None:
    async with broker_with_ace(tmp_path, ace=Ace(challenge_seconds=3)) as broker:
        device = Device()
        client = await device.open(broker)
        challenge = await device.attempt(client, with_length(device.token()))
        await trio.sleep(3.1)
        await client.send(answer_to(challenge, device.key))
        await refused(client, await client.receive())


async def test_a_client_that_never_answers_is_closed(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    await device.attempt(client, with_length(device.token()))
    await trio.sleep(broker.config.limits.connect_timeout_seconds)
    await refused(client, await client.receive(), 0x82)
    assert not broker.connections
    assert not broker.session.sessions


@ace("ACE-2.2.4.1-3")
@pytest.mark.parametrize(
    "early",
    [Pingreq(), Publish("own/a", b"x"), Publish("own/a", b"x", 1, packet_identifier=1)],
    ids=lambda p: type(p).__name__,
)
async def test_nothing_but_auth_is_taken_before_connack(broker: Broker, early: Any) -> None:
    watcher = await Device(name="watcher").connect(broker)
    await watcher.subscribe("own/#")
    device = Device(name="other")
    client = await device.open(broker)
    challenge = await device.attempt(client, with_length(device.token()))
    await client.send(early, answer_to(challenge, device.key))
    await refused(client, await client.receive(), 0x82)
    await watcher.expect_silence()


@ace("ACE-2.2.4.1-3")
async def test_disconnect_in_the_middle_of_it(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    await device.attempt(client, with_length(device.token()), will=make_will("own/will"))
    await client.send(Disconnect(0))
    await client.expect_closed()
    assert not broker.session.sessions


@pytest.mark.parametrize(
    ("code", "method", "refusal"), [(0x19, "ace", 0x82), (0x18, "other", 0x82), (0x00, "ace", 0x82)]
)
async def test_auth_of_another_kind_in_the_middle_of_it(broker: Broker, code: int, method: str, refusal: int) -> None:
    device = Device()
    client = await device.open(broker)
    challenge = await device.attempt(client, with_length(device.token()))
    answer = answer_to(challenge, device.key).properties.authentication_data
    await client.send(auth(code, answer, method))
    await refused(client, await client.receive(), refusal)


# ---- the stored token ----


@ace("ACE-2.2.4.2.2-2", "ACE-2.4.2-3", "ACE-2.2.4.1-16", "ACE-2.2.4.1-17", "ACE-5-4")
@pytest.mark.parametrize("data", [None, b"\0\0"])
async def test_a_client_may_leave_the_token_out_when_it_comes_again(broker: Broker, data: bytes | None) -> None:
    device = Device()
    client = await device.connect(broker)
    await client.disconnect()
    again = await device.open(broker)
    challenge = await device.attempt(again, data)
    await again.send(answer_to(challenge, device.key))
    await again.expect(Connack, reason_code=0)
    thief = await device.open(broker)
    challenge = await device.attempt(thief, data)
    await thief.send(answer_to(challenge, Ed25519PrivateKey.from_private_bytes(bytes(32))))
    await refused(thief, await thief.receive())


@ace("ACE-2.4.1-1", "ACE-4-1")
async def test_a_stored_token_that_has_expired_is_none(broker: Broker) -> None:
    device = Device()
    client = await device.connect(broker, device.token(exp=WALL + 10))
    await client.disconnect()
    await trio.sleep(10)
    again = await device.open(broker)
    await refused(again, await device.attempt(again, None))


@ace("ACE-2.2.1-5", "ACE-2.4.1-3", "ACE-2.4.1-4", "ACE-2.4.1-5", "ADJ-9200-19")
async def test_no_token_asks_for_the_authorization_server(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    connack = await refused(client, await device.attempt(client, None))
    ((name, value),) = connack.properties.user_properties
    assert name == "ace_as_hint"
    assert json.loads(value) == {"AS": "https://as.example/token", "audience": AUDIENCE}


@ace("ACE-2.4.1-5", "ADJ-9200-22")
async def test_hints_say_what_is_configured(tmp_path: Path) -> None:
    config = Ace(client_nonces=True, hint_scope="W10", hint_kid="k1")
    async with broker_with_ace(tmp_path, ace=config) as broker:
        device = Device()
        client = await device.open(broker)
        connack = await refused(client, await device.attempt(client, with_length(device.token()) + device.proof()))
        hints = json.loads(connack.properties.user_properties[0][1])
        assert (hints["scope"], hints["kid"]) == ("W10", "k1")
        client = await device.connect(broker, device.token(cnonce=hints["cnonce"]))
        await client.expect_alive()


async def test_hints_that_a_client_has_no_room_for_are_left_out(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    connack = await refused(client, await device.attempt(client, None, maximum_packet_size=60))
    assert connack.properties.user_properties == ()


# ---- what is refused ----


@ace("ACE-2.2.5-2", "ACE-2.2.5-4", "ACE-2.2.5-9", "ACE-2.4.1-1", "ACE-2.4.1-2", "ADJ-9200-31", "ADJ-9200-33")
@pytest.mark.parametrize(
    "token",
    [
        pytest.param(lambda d: b"no token", id="not parseable"),
        pytest.param(lambda d: d.token()[:-1], id="truncated"),
        pytest.param(lambda d: d.token() + b"A", id="trailing octets"),
        pytest.param(lambda d: d.token(by=Ed25519PrivateKey.from_private_bytes(bytes(32))), id="of a stranger"),
        pytest.param(lambda d: d.token(iss="https://other.example"), id="another issuer"),
        pytest.param(lambda d: d.token(aud="mqtts://other"), id="another audience"),
        pytest.param(lambda d: d.token(exp=WALL), id="expired"),
        pytest.param(lambda d: d.token(nbf=WALL + 60), id="too early"),
        pytest.param(lambda d: d.token(scope=[["own/#", ["read"]]]), id="unknown scope"),
        pytest.param(lambda d: d.token(cnf={}), id="no key"),
        pytest.param(lambda d: d.token(by=b"k" * 32), id="algorithm of no key"),
        pytest.param(lambda d: d.token(allowed_connection_types=["MQTT_WS"]), id="another type of connection"),
        pytest.param(lambda d: b"x" * 16_385, id="too long"),
        pytest.param(lambda d: b"eyJhbGciOiJub25lIn0.e30.", id="unprotected"),
        pytest.param(lambda d: b"\x9f" * 1_000, id="depth bomb"),
    ],
)
@pytest.mark.parametrize("proof", ["exporter", "challenge"])
async def test_a_bad_token(broker: Broker, token: Callable[[Device], bytes], proof: str) -> None:
    owner = await Device(name="owner").connect(broker, session_expiry_interval=100)
    device = Device(name="owner")
    client = await device.open(broker)
    data = with_length(token(device))
    answer = await device.attempt(client, data + (device.proof() if proof == "exporter" else b""), clean_start=True)
    if proof == "challenge":
        await client.send(answer_to(answer, device.key))
        answer = await client.receive()
    await refused(client, answer)
    await owner.expect_alive()  # nothing of the session moved
    assert len(broker.session.sessions) == 1


@ace("ACE-2.4.1-1", "ACE-2.4.1-2")
@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\x05toke", b"\xff\xff" + b"t" * 100, b"\0\0proof", b"\0\x01"],
    ids=["empty", "half a length", "token too short", "token far too short", "proof of no token", "length alone"],
)
async def test_authentication_data_that_is_malformed(broker: Broker, data: bytes) -> None:
    device = Device()
    client = await device.open(broker)
    await refused(client, await device.attempt(client, data))


@pytest.mark.parametrize("credentials", [{"username": "user"}, {"username": "u", "password": b"p"}, {"password": b"p"}])
async def test_method_ace_with_user_name_or_password(broker: Broker, credentials: dict[str, Any]) -> None:
    """D-10."""
    device = Device()
    client = await device.open(broker)
    await refused(client, await device.attempt(client, with_length(device.token()) + device.proof(), **credentials))


@ace("ACE-2.2.4.2-2")
async def test_another_method(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    await refused(client, await device.attempt(client, b"x", authentication_method="ACE"), 0x8C)


async def test_an_ace_user_name_in_mqtt_5_is_no_token(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    user_name = "ace" + b64(device.token())
    connack = await client.attempt_connect("c", username=user_name, password=device.proof())
    await refused(client, connack)


# ---- the Will ----


@ace("ACE-2.2.4.1-8", "ACE-2.3-2", "ACE-2.2.4.1-9", "ACE-2.4.1-1", "ACE-5-8")
@pytest.mark.parametrize("proof", ["exporter", "challenge"])
@pytest.mark.parametrize(
    ("topic", "allowed"), [("own/will", True), ("in/will", True), ("out/will", False), ("x", False)]
)
async def test_the_will_needs_the_right_to_publish(broker: Broker, proof: str, topic: str, allowed: bool) -> None:
    device = Device()
    client = await device.open(broker)
    data = with_length(device.token()) + (device.proof() if proof == "exporter" else b"")
    answer = await device.attempt(client, data, will=make_will(topic, b"gone"))
    if proof == "challenge":
        await client.send(answer_to(answer, device.key))
        answer = await client.receive()
    if allowed:
        assert isinstance(answer, Connack) and answer.reason_code == 0
        await client.expect_alive()
    else:
        await refused(client, answer)
        assert not broker.session.sessions


# ---- whose session it is ----


@ace("ACE-2.2.4.1-15", "ACE-2.2.4.1-17", "ACE-2.4.2-2", "ACE-2.2.4.1-22", "ACE-6.1-8")
async def test_a_session_is_resumed_and_taken_over_by_its_owner(broker: Broker) -> None:
    device = Device()
    first = await device.connect(broker, session_expiry_interval=100)
    await first.subscribe("own/a", qos=1)
    second = await device.open(broker)
    data = with_length(device.token(iat=WALL)) + device.proof()
    connack = await device.attempt(second, data, clean_start=False, session_expiry_interval=100)
    assert isinstance(connack, Connack) and connack.session_present
    await first.expect_closed(0x8E)
    await second.send(Publish("own/a", b"still subscribed"))
    await second.expect(Publish, payload=b"still subscribed")


@ace("ACE-2.2.4.1-21")
@pytest.mark.parametrize("connected_still", [True, False])
async def test_nobody_else_gets_it(broker: Broker, connected_still: bool) -> None:
    owner = await Device().connect(broker, session_expiry_interval=100)
    if not connected_still:
        await owner.disconnect()
    other = Device(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    for changes in ({"sub": "device2"}, {"sub": None}):
        client = await other.open(broker)
        data = with_length(other.token(**changes)) + other.proof()
        await refused(client, await other.attempt(client, data, clean_start=True))
    anonymous = await WireClient.open(broker)
    assert (await anonymous.attempt_connect("device1")).reason_code == NOT_AUTHORIZED
    if connected_still:
        await owner.expect_alive()
    assert "device1" in broker.session.sessions


@ace("ACE-2.2.4.1-22")
async def test_nothing_is_taken_over_before_the_proof(broker: Broker) -> None:
    """D-12."""
    device = Device()
    owner = await device.connect(broker)
    client = await device.open(broker)
    challenge = await device.attempt(client, with_length(device.token()), clean_start=True)
    await owner.expect_alive()
    await client.send(answer_to(challenge, device.key))
    await client.expect(Connack, reason_code=0)
    await owner.expect_closed(0x8E)


async def test_without_a_subject_the_key_is_the_owner(broker: Broker) -> None:
    device, other = Device(), Device(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    await device.connect(broker, device.token(sub=None), session_expiry_interval=100)
    again = await device.open(broker)
    data = with_length(device.token(sub=None)) + device.proof()
    connack = await device.attempt(again, data, clean_start=False)
    assert isinstance(connack, Connack) and connack.session_present
    client = await other.open(broker)
    await refused(client, await other.attempt(client, with_length(other.token(sub=None)) + other.proof()))


# ---- MQTT 3.1.1 ----


@ace("ACE-6-1", "ACE-6.1-5", "ACE-6.1-12", "ACE-6.1-13", "ACE-6.1-14", "ACE-6.1-15", "ACE-6.1-9", "ACE-2.2.4.1-6")
@pytest.mark.parametrize("version", [3, 4])
async def test_user_name_and_password_of_mqtt_3(broker: Broker, version: int) -> None:
    device = Device()
    client = await device.open(broker, version)
    await client.connect("device1", username="ace" + b64(device.token()), password=device.proof())
    await client.subscribe("own/a")
    await client.send(Publish("own/a", b"hello"))
    await client.expect(Publish, payload=b"hello")
    await client.disconnect()
    again = await device.open(broker, version, FakeTls("another session"))
    connack = await again.attempt_connect("device1", username="ace" + b64(device.token()), password=device.proof())
    assert connack.reason_code == 5


@ace("ACE-6.2-1", "ACE-6-1")
@pytest.mark.parametrize(
    ("user_name", "password", "code"),
    [
        (lambda d: "ace" + b64(d.token()), lambda d: bytes(64), 5),
        (lambda d: "ace" + b64(d.token(exp=WALL)), lambda d: d.proof(), 5),
        (lambda d: "ace" + b64(d.token()), lambda d: None, 5),
        (lambda d: "ace" + b64(d.token()), lambda d: b"", 5),
        (lambda d: "ace", lambda d: d.proof(), 5),
        (lambda d: "ace" + d.token().decode(), lambda d: d.proof(), 4),
        (lambda d: "ace" + b64(d.token()) + "=", lambda d: d.proof(), 4),
        (lambda d: "ace" + b64(b"no token"), lambda d: d.proof(), 4),
        (lambda d: "acebook", lambda d: b"secret", 4),
    ],
)
async def test_what_mqtt_3_is_refused_for(
    broker: Broker, user_name: Callable[[Device], str], password: Callable[[Device], bytes | None], code: int
) -> None:
    device = Device()
    client = await device.open(broker, 4)
    connack = await client.attempt_connect("device1", username=user_name(device), password=password(device))
    assert connack.reason_code == code
    await client.expect_closed()


@ace("ACE-6.1-15", "ACE-6.2-1")
async def test_mqtt_3_has_no_challenge(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker, 4, plain=True)
    connack = await client.attempt_connect("device1", username="ace" + b64(device.token()), password=bytes(64))
    assert connack.reason_code == 5


@pytest.mark.trio  # on the real clock: passwords are checked in a thread
async def test_a_user_of_the_password_file_may_be_called_acebook(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("acebook:" + _pbkdf2(b"pw") + "\n")
    authentication = Authentication(password_file=str(tmp_path / "users"))
    async with broker_with_ace(tmp_path, authentication=authentication) as broker:
        for version in (4, 5):
            user = await WireClient.open(broker, version)
            await user.connect("c", username="acebook", password=b"pw")
        device = Device()
        client = await device.open(broker, 4)
        await client.connect("device1", username="ace" + b64(device.token()), password=device.proof())
        stranger = await device.open(broker, 4)
        assert (await stranger.attempt_connect("d", username="aceboot", password=b"pw")).reason_code == 4


def _pbkdf2(password: bytes) -> str:
    salt = b"saltsalt"
    digest = hashlib.pbkdf2_hmac("sha512", password, salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


# ---- who has no token ----


@ace("ACE-2.2.1-3", "ACE-2.2.1-13")
async def test_without_a_token_there_are_public_topics_only(broker: Broker) -> None:
    client = await connected(broker, "anybody")
    await client.subscribe("news/#")
    suback = await client.subscribe("own/#", "#", accepted=False)
    assert suback.reason_codes == (NOT_AUTHORIZED, NOT_AUTHORIZED)
    assert await client.publish("news/1", qos=1) is not None
    puback = await client.publish("news/1", qos=1)
    assert puback is not None and puback.reason_code == NOT_AUTHORIZED


async def test_credentials_that_nobody_can_check_let_nobody_in(broker: Broker) -> None:
    client = await WireClient.open(broker)
    assert (await client.attempt_connect("c", username="user", password=b"x")).reason_code == NOT_AUTHORIZED


async def test_a_failed_dialogue_leaves_nothing(broker: Broker) -> None:
    for _ in range(5):
        client = await Device().open(broker)
        await Device().attempt(client, with_length(Device().token()))
        await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert not broker.connections
    assert broker.ace is not None and len(broker.ace.tokens) == 0
