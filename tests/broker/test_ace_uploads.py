"""Uploads to `authz-info`, and clients that TLS knows by what was uploaded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from acebroker_codec.packets import (
    Connack,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    SubscriptionRequest,
)
from tests.ace.devices import AUDIENCE, WALL, Device, FakeTls, auth, broker_with_ace, issue_cwt, with_length
from tests.ace.issuer import b64
from tests.conformance.statements import ace
from tests.harness import WireClient, connected, make_will, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.config import Ace, Authorization

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

NOT_AUTHORIZED, NO_TOKEN, QUOTA = 0x87, 0x99, 0x97
SECRET = bytes(range(32))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with broker_with_ace(tmp_path, anonymous=True, ace=Ace(public_subscribe=("#",))) as running:
        yield running


def kept(broker: Broker) -> int:
    """How many tokens the broker keeps."""
    assert broker.ace is not None
    return len(broker.ace.tokens)


async def known(broker: Broker, tls: FakeTls, client_identifier: str = "device1", **fields: Any) -> WireClient:
    """A client that TLS knows, connected without any method."""
    client = await Device().open(broker, tls=tls)
    await client.connect(client_identifier, **fields)
    return client


async def upload(broker: Broker, token: bytes) -> None:
    """Upload a token, and leave."""
    client = await connected(broker, "uploader")
    assert await client.publish("authz-info", token, qos=1) == Puback(1, 0)
    await client.disconnect()


def spki(device: Device) -> FakeTls:
    """A TLS session with the raw public key of a device."""
    return FakeTls(public_key=device.public_key)


# ---- the table of 2.2.2 ----


@ace("ACE-2.2.2-3", "ACE-2.2.2-5", "ACE-2.2.2-6", "ADJ-9200-30")
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_token_is_stored(broker: Broker, qos: int, version: int) -> None:
    client = await connected(broker, "uploader", version)
    answer = await client.publish("authz-info", Device().token(), qos=qos)
    assert answer == [None, Puback(1, 0), Pubcomp(1, 0)][qos]
    await client.expect_alive()
    assert kept(broker) == 1


BAD = {
    "expired": lambda: Device().token(exp=WALL),
    "audience": lambda: Device().token(aud="mqtts://other"),
    "issuer": lambda: Device().token(iss="https://other.example"),
    "stranger": lambda: Device().token(by=OTHER_KEY),
    "scope": lambda: Device().token(scope=[["own/#", []]]),
    "no key": lambda: Device().token(cnf={}),
    "unprotected": lambda: b"eyJhbGciOiJub25lIn0.e30.",
    "damaged": lambda: Device().token()[:-40] + b"A" * 40,
}
NONE = {
    "nothing": lambda: b"",
    "text": lambda: b"no token",
    "JSON": lambda: json.dumps({"aud": AUDIENCE}).encode(),
    "CBOR": lambda: b"\xa1\x01\x02",
    "too long": lambda: b"x" * 16_385,
    "depth bomb": lambda: b"\x81" * 1_000,
}


@ace("ACE-2.2.2-6", "ACE-2.2.2-7", "ACE-2.2.2-8", "ACE-2.2.2-9", "ACE-2.2.2-10", "ACE-2.2.2-11", "ACE-8-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        *(pytest.param(make, NOT_AUTHORIZED, id=name) for name, make in BAD.items()),
        *(pytest.param(make, NO_TOKEN, id=name) for name, make in NONE.items()),
    ],
)
async def test_what_is_refused(broker: Broker, payload: Callable[[], bytes], code: int, qos: int) -> None:
    client = await connected(broker, "uploader")
    await client.send(Publish("authz-info", payload(), qos, packet_identifier=7 if qos else 0))
    if qos:
        answer = await client.receive()
        assert answer == (Puback(7, code) if qos == 1 else Pubrec(7, code))
        await client.expect_alive()
    else:
        await client.expect_closed(code)
    assert kept(broker) == 0


@ace("ACE-6.1-4")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("payload", [b"no token", Device().token(exp=WALL)], ids=["no token", "expired"])
async def test_mqtt_3_is_told_nothing(broker: Broker, payload: bytes, qos: int) -> None:
    """D-6."""
    client = await connected(broker, "uploader", 4)
    await client.publish("authz-info", payload, qos=qos)
    await client.expect_alive()
    assert kept(broker) == 0


async def test_or_it_is_closed_where_the_configuration_says_so(tmp_path: Path) -> None:
    strict = Authorization(denied_publish_v3="disconnect")
    async with broker_with_ace(tmp_path, anonymous=True, authorization=strict) as broker:
        client = await connected(broker, "uploader", 4)
        await client.send(Publish("authz-info", b"no token", 1, packet_identifier=1))
        await client.expect_closed()


# ---- nobody gets it ----


@ace("ACE-2.2.2-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("valid", [True, False])
async def test_an_upload_is_neither_forwarded_nor_retained(broker: Broker, qos: int, valid: bool) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#", "+", qos=2)
    async with broker.subscribe("#") as inside:
        client = await connected(broker, "uploader")
        token = Device().token() if valid else Device().token(exp=WALL)
        for _ in range(3):
            packet = Publish("authz-info", token, qos, retain=True, packet_identifier=9 if qos else 0)
            await client.send(packet)
            if qos == 2 and valid:
                await client.expect(Pubrec)
                await client.send(Pubrel(9))
            if qos:
                assert isinstance(await client.receive(), Puback | Pubrec | Pubcomp)
            elif not valid:
                break
        await watcher.expect_silence()
        late = await connected(broker, "late")
        await late.subscribe("#", qos=2)
        await late.expect_silence()
        assert broker.router.retained.get("authz-info") is None
        assert inside.dropped == 0


async def test_many_uploads_in_one_read(broker: Broker) -> None:
    """Frames of one topic in a row: what the flow cache is made for, and must not take."""
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#", qos=2)
    client = await connected(broker, "uploader")
    tokens = [Device(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)).token() for n in range(1, 8)]
    await client.send(*(Publish("authz-info", token) for token in tokens))
    await client.send(*(Publish("authz-info", tokens[0], 1, packet_identifier=n + 1) for n in range(5)))
    await client.send(*(Publish("authz-info", tokens[0], 2, packet_identifier=n + 1) for n in range(5)))
    await client.send(*(Pubrel(n + 1) for n in range(5)))
    kinds = [type(await client.receive()) for _ in range(15)]
    assert kinds == [Puback] * 5 + [Pubrec] * 5 + [Pubcomp] * 5
    await watcher.expect_silence()
    assert kept(broker) == 7


async def test_an_upload_at_qos_2_is_taken_once(broker: Broker) -> None:
    client = await connected(broker, "uploader")
    for _ in range(3):
        await client.send(Publish("authz-info", Device().token(), 2, packet_identifier=5, dup=True))
        await client.expect(Pubrec, reason_code=0)
    await client.send(Pubrel(5), Pubrel(5))
    await client.expect(Pubcomp, reason_code=0)
    await client.expect(Pubcomp, reason_code=0x92)


async def test_identifiers_of_uploads_and_of_messages_do_not_mix(broker: Broker) -> None:
    device = Device()
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("own/#", qos=2)
    client = await device.connect(broker)
    await client.send(Publish("own/a", b"message", 2, packet_identifier=5, retain=True))
    await client.expect(Pubrec)
    # released, used again for an upload, and released again, in one read
    await client.send(Pubrel(5), Publish("authz-info", device.token(iat=WALL), 2, packet_identifier=5), Pubrel(5))
    answers = [await client.receive() for _ in range(3)]
    assert Pubcomp(5, 0) in answers and Pubrec(5, 0x91) in answers
    await watcher.expect_message("own/a", b"message")
    await client.send(Publish("authz-info", device.token(iat=WALL), 2, packet_identifier=6), Pubrel(6))
    await client.send(Publish("own/a", b"again", 2, packet_identifier=6), Pubrel(6))
    await watcher.expect_message("own/a", b"again")
    await watcher.expect_silence()


@ace("ACE-2.2.2-2")
@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, NOT_AUTHORIZED)])
async def test_nobody_subscribes_to_it(tmp_path: Path, version: int, code: int) -> None:
    """D-5."""
    config = Ace(public_subscribe=("#", "authz-info"), public_publish=("#",))
    async with broker_with_ace(tmp_path, anonymous=True, ace=config) as broker:
        client = await connected(broker, "anybody", version)
        requests = [SubscriptionRequest(f) for f in ("authz-info", "$share/g/authz-info", "authz-info/#", "+", "#")]
        suback = await client.subscribe(*requests, accepted=False)
        assert suback.reason_codes == (code, code, 0, 0, 0)
        will = await WireClient.open(broker, version)
        connack = await will.attempt_connect("will", will=make_will("authz-info", Device().token()))
        assert connack.reason_code == (5 if version == 4 else NOT_AUTHORIZED)


# ---- bounds ----


@ace("ACE-8-6", "ACE-8-5", "ADJ-9200-38")
async def test_uploads_are_counted_by_the_minute(tmp_path: Path) -> None:
    async with broker_with_ace(tmp_path, anonymous=True, ace=Ace(uploads_per_minute_max=3)) as broker:
        client = await connected(broker, "uploader")
        codes = [await client.publish("authz-info", b"no token", qos=1) for _ in range(5)]
        assert [puback.reason_code for puback in codes if puback is not None] == [NO_TOKEN] * 3 + [QUOTA] * 2
        await trio.sleep(60)
        assert await client.publish("authz-info", Device().token(), qos=1) is not None
        assert kept(broker) == 1


@ace("ACE-8-6")
async def test_a_full_store_says_so_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    async with broker_with_ace(tmp_path, anonymous=True, ace=Ace(tokens_max=2)) as broker:
        devices = [Device(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32), f"d{n}") for n in range(1, 5)]
        await upload(broker, devices[0].token(sub="0"))
        first = await known(broker, spki(devices[0]), "d1")
        await upload(broker, devices[1].token(sub="1"))
        await upload(broker, devices[2].token(sub="2"))  # takes the place of the second
        third = await known(broker, spki(devices[2]), "d3")
        uploader = await connected(broker, "uploader")
        answer = await uploader.publish("authz-info", devices[3].token(sub="3"), qos=1)
        assert answer == Puback(1, QUOTA)
        for client in (first, third):
            await client.expect_alive()


# ---- clients that TLS knows ----


@ace("ACE-2.2.2-5", "ACE-2.2.3-1", "ACE-9202-9", "ACE-2.2.5-10", "ACE-2.2.1-13")
async def test_raw_public_key(broker: Broker) -> None:
    device = Device()
    assert broker.ace is not None
    assert not broker.ace.keys.knows(device.public_key)
    await upload(broker, device.token())
    assert broker.ace.keys.knows(device.public_key)
    client = await known(broker, spki(device))
    await client.subscribe("own/a")
    await client.publish("own/a", b"x")
    await client.expect_message("own/a", b"x")
    await client.send(Publish("x"))
    await client.expect_closed(NOT_AUTHORIZED)
    stranger = await Device().open(broker, tls=spki(Device(OTHER_KEY)))
    assert (await stranger.attempt_connect("device1")).reason_code == NOT_AUTHORIZED


@ace("ACE-2.2.1-8", "ACE-2.2.3.2-4", "ACE-2.2.3.2-5", "ACE-9202-7", "ACE-2.2.3-1")
@pytest.mark.parametrize(
    "identity",
    [
        bytes.fromhex("a108a101a2010402483d0278") + bytes.fromhex("33fc6267ce"),
        b'{"cnf":{"jwk":{"kty":"oct","kid":"=\\u0002x3"}}}',
    ],
    ids=["CBOR", "JSON"],
)
async def test_pre_shared_key_of_an_uploaded_token(broker: Broker, identity: bytes) -> None:
    kid = bytes.fromhex("3d027833fc6267ce") if identity[0] == 0xA1 else b"=\x02x3"
    assert broker.ace is not None
    assert broker.ace.keys.find(identity) is None
    await upload(broker, issue_cwt(SECRET, kid=kid))
    assert broker.ace.keys.find(identity) == SECRET
    assert broker.ace.keys.prepare([identity, b"other"]) == {identity: SECRET}
    client = await known(broker, FakeTls(psk_identity=identity))
    await client.publish("own/a", b"x")
    await client.expect_alive()


@ace("ACE-2.2.1-8", "ACE-2.2.3.2-6", "ACE-9202-7")
async def test_a_token_that_is_the_identity_is_verified_and_stored(broker: Broker) -> None:
    assert broker.ace is not None
    token = issue_cwt(SECRET)
    assert broker.ace.keys.find(issue_cwt(SECRET, exp=WALL)) is None
    assert broker.ace.keys.find(token[:-1]) is None
    assert broker.ace.keys.find(Device().token()) is None  # nothing shared in it
    assert broker.ace.keys.find(token) == SECRET
    client = await known(broker, FakeTls(psk_identity=token))
    await client.publish("own/a", b"x")
    await client.expect_alive()


@ace("ACE-9202-7")
@pytest.mark.parametrize("identity", [b"", b"\xa1\x08\xa1\x01\xa2\x01\x04", b"{}", b"\xff" * 20_000, b"x"])
async def test_identities_that_are_none(broker: Broker, identity: bytes) -> None:
    assert broker.ace is not None
    assert broker.ace.keys.find(identity) is None
    client = await Device().open(broker, tls=FakeTls(psk_identity=identity))
    assert (await client.attempt_connect("device1")).reason_code == NOT_AUTHORIZED


@pytest.mark.parametrize("bound_to", ["certificate", "key of the certificate"])
async def test_a_client_certificate(broker: Broker, bound_to: str) -> None:
    device = Device()
    tls = FakeTls(certificate=b"certificate", public_key=device.public_key)
    before = await known(broker, tls)  # no token yet: like anybody
    suback = await before.subscribe("own/a", accepted=False)
    assert suback.reason_codes == (0,)
    await before.disconnect()
    assert tls.peer_certificate_sha256 is not None
    cnf = {"x5t#S256": b64(tls.peer_certificate_sha256)} if bound_to == "certificate" else None
    await upload(broker, device.token(cnf=cnf) if cnf else device.token())
    client = await known(broker, tls, "device2")
    answer = await client.publish("own/a", qos=1)
    assert answer is not None and answer.reason_code in (0, 0x10)


async def test_a_token_bound_to_a_certificate_proves_nothing_in_connect(broker: Broker) -> None:
    device = Device()
    token = device.token(cnf={"x5t#S256": b64(bytes(32))})
    client = await device.open(broker)
    connack = await device.attempt(client, with_length(token) + device.proof())
    assert isinstance(connack, Connack) and connack.reason_code == NOT_AUTHORIZED


@ace("ACE-2.2.1-9")
async def test_a_token_in_connect_replaces_the_rights_from_tls(broker: Broker) -> None:
    device, other = Device(), Device(OTHER_KEY)
    await upload(broker, device.token())
    tls = spki(device)
    token = other.token(sub="other", scope=[["other/#", ["pub"]]])
    client = await other.connect(broker, token, tls=tls)
    answers = [await client.publish(topic, qos=1) for topic in ("other/a", "own/a")]
    assert [answer.reason_code for answer in answers if answer is not None] == [0x10, NOT_AUTHORIZED]


@ace("ACE-4-1", "ACE-9202-4")
async def test_its_connection_ends_with_the_token(broker: Broker) -> None:
    device = Device()
    await upload(broker, device.token(exp=WALL + 100))
    client = await known(broker, spki(device), keep_alive=0)
    await trio.sleep(101)
    await client.expect_closed(NOT_AUTHORIZED)
    again = await device.open(broker, tls=spki(device))
    assert (await again.attempt_connect("device1")).reason_code == NOT_AUTHORIZED


@ace("ACE-9202-5", "ACE-2.2.2-5")
async def test_a_newer_token_of_the_same_key_replaces_the_rights_of_a_live_connection(broker: Broker) -> None:
    device = Device()
    await upload(broker, device.token(exp=WALL + 100))
    client = await known(broker, spki(device), keep_alive=0)
    await client.subscribe("own/#")
    # of another key, an older one, and the same again: nothing changes
    for token in (
        Device(OTHER_KEY).token(sub="x"),
        device.token(iat=WALL - 100, scope=[]),
        device.token(exp=WALL + 100),
    ):
        await upload(broker, token)
    await client.publish("own/a", b"1")
    await client.expect_message("own/a", b"1")
    newer = device.token(iat=WALL, exp=WALL + 500, scope=[["own/a", ["pub", "sub"]], ["more/#", ["pub"]]])
    answer = await client.publish("authz-info", newer, qos=1)
    assert answer is not None and answer.reason_code == 0
    await client.publish("more/a", b"2", qos=1)
    await client.publish("own/a", b"2")
    await client.expect_message("own/a", b"2")
    answer = await client.publish("own/b", b"3", qos=1)
    assert answer is not None and answer.reason_code == NOT_AUTHORIZED
    await trio.sleep(150)
    await client.expect_alive()
    await upload(broker, device.token(iat=WALL + 1, sub="somebody else"))
    await client.expect_closed(NOT_AUTHORIZED)


async def test_there_is_no_auth_without_a_method(broker: Broker) -> None:
    device = Device()
    await upload(broker, device.token())
    client = await known(broker, spki(device))
    await client.send(auth(0x19, with_length(device.token())))
    await client.expect_closed(0x82)


@ace("ACE-2.2.2-2", "ACE-9202-3")
async def test_room_for_the_token_of_every_key(broker: Broker) -> None:
    devices = [Device(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(1, 20)]
    for number, device in enumerate(devices):
        await upload(broker, device.token(sub=f"device{number}"))
    for number, device in enumerate(devices):
        client = await known(broker, spki(device), f"d{number}")
        await client.expect_alive()
    assert kept(broker) == 19
