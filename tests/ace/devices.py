"""Devices with keys, an authorization server that gives them tokens, and a broker in virtual time that takes them.

What a device sends is made by hand: by the layouts of RFC 9431, with PyJWT, cbor2 and bare cryptography.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cbor2
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from acebroker_codec import packets
from acebroker_codec.packets import Auth, AuthProperties
from tests.ace.issuer import b64, compact_jws, cose_encrypt0, cose_key, jwk, raw_signature
from tests.harness import WireClient, broker_running, make
from trio_acebroker import Broker
from trio_acebroker.config import Ace, Authentication, AuthorizationServer

__all__ = [
    "AUDIENCE",
    "CLIENT_NONCE",
    "ISSUER",
    "WALL",
    "Device",
    "FakeTls",
    "answer_to",
    "auth",
    "broker_with_ace",
    "issue",
    "issue_cwt",
    "with_length",
]

#: the time of day at the beginning of every test
WALL = 1_800_000_000.0
ISSUER = "https://as.example"
AUDIENCE = "mqtts://broker.example"
CLIENT_NONCE = bytes.fromhex("a1a2a3a4a5a6a7a8")
AS_KEY = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
#: of the authorization server and the broker alone
SHARED = bytes([4]) * 32
LABEL = b"EXPORTER-ACE-MQTT-Sign-Challenge"
CBOR_KEYS = {"iss": 1, "sub": 2, "aud": 3, "exp": 4, "nbf": 5, "iat": 6, "cti": 7, "cnf": 8, "scope": 9, "cnonce": 39}


class FakeTls:
    """A TLS session. Two of the same `name` export the same."""

    version = "TLSv1.3"

    def __init__(
        self,
        name: str = "session",
        *,
        certificate: bytes | None = None,
        public_key: bytes | None = None,
        psk_identity: bytes | None = None,
    ) -> None:
        self.name = name
        self.peer_certificate_sha256 = None if certificate is None else hashlib.sha256(certificate).digest()
        self.peer_public_key = public_key
        self.psk_identity = psk_identity
        self.exported = 0

    def export(self, label: bytes, length: int, context: bytes | None) -> bytes:
        assert context == b"", "an empty context, and not none (D-14)"
        self.exported += 1
        return hashlib.sha256(self.name.encode() + label).digest()[:length]


def _claims(changes: dict[str, Any]) -> dict[str, Any]:
    good = {
        "iss": ISSUER,
        "sub": "device1",
        "aud": AUDIENCE,
        "exp": WALL + 600,
        "iat": WALL - 60,
        "scope": [["own/#", ["pub", "sub"]], ["in/+", ["pub"]], ["out/#", ["sub"]]],
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def issue(key: Any, *, by: Any = AS_KEY, **changes: Any) -> bytes:
    """A signed JWT for the key of a device; claims may be changed, None leaves one out."""
    claims = _claims({"cnf": {"jwk": jwk(key)} if not isinstance(key, dict) else key} | changes)
    if isinstance(claims.get("scope"), list):
        claims["scope"] = b64(json.dumps(claims["scope"]).encode())
    if isinstance(claims.get("cnonce"), bytes):
        claims["cnonce"] = b64(claims["cnonce"])
    return compact_jws(json.dumps(claims).encode(), by, "HS256" if isinstance(by, bytes) else "EdDSA")


def issue_cwt(key: Any, *, kid: bytes | None = None, **changes: Any) -> bytes:
    """An encrypted CWT, in which a symmetric key may stand."""
    members = cose_key(key, {} if kid is None else {2: kid})
    claims = _claims({"cnf": {1: members}} | changes)
    claims["scope"] = cbor2.dumps(claims["scope"])
    return cose_encrypt0(cbor2.dumps({CBOR_KEYS[name]: value for name, value in claims.items()}), SHARED)


def with_length(token: bytes) -> bytes:
    """A token with its length in front."""
    return len(token).to_bytes(2, "big") + token


def auth(code: int, data: bytes | None = None, method: str | None = "ace") -> Auth:
    """An AUTH packet."""
    return Auth(code, AuthProperties(authentication_method=method, authentication_data=data))


def answer_to(challenge: packets.Packet, key: Any, client_nonce: bytes = CLIENT_NONCE) -> Auth:
    """The AUTH that answers the challenge of a broker: a proof over both nonces, the broker's first."""
    assert isinstance(challenge, Auth), f"expected a challenge, received {challenge!r}"
    nonce = challenge.properties.authentication_data
    assert challenge.reason_code == 0x18 and nonce is not None and len(nonce) == 8
    return auth(0x18, client_nonce + raw_signature(key, nonce + client_nonce))


class Device:
    """A key, and ways to connect with it."""

    def __init__(self, key: Any = None, name: str = "device1") -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32) if key is None else key
        self.name = name

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        public: bytes = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return public

    def token(self, **changes: Any) -> bytes:
        """A token for this key."""
        return issue(self.key, **changes)

    async def open(
        self, broker: Broker, version: int = 5, tls: FakeTls | None = None, *, plain: bool = False
    ) -> WireClient:
        """A connection over TLS, to which nothing was sent."""
        before = set(broker.connections)
        client = await WireClient.open(broker, version)
        (task,) = set(broker.connections) - before
        if not plain:
            task.conn.tls = FakeTls() if tls is None else tls
        return client

    def proof(self, tls: FakeTls | None = None) -> bytes:
        """The proof over what a TLS session exports."""
        return raw_signature(self.key, (tls or FakeTls()).export(LABEL, 32, b""))

    async def attempt(self, client: WireClient, data: bytes | None, **fields: Any) -> packets.Packet:
        """Send CONNECT with method `ace` and this data; the broker's answer."""
        fields = {"client_identifier": self.name, "authentication_method": "ace", "authentication_data": data} | fields
        await client.send(make(packets.Connect, version=5, **fields))
        return await client.receive()

    async def connect(
        self, broker: Broker, token: bytes | None = None, *, tls: FakeTls | None = None, **fields: Any
    ) -> WireClient:
        """A client that is connected by a token with a proof over the exporter."""
        token = self.token() if token is None else token
        client = await self.open(broker, tls=tls)
        connack = await self.attempt(client, with_length(token) + self.proof(tls), **fields)
        assert isinstance(connack, packets.Connack) and connack.reason_code == 0, f"refused: {connack!r}"
        return client

    async def renew(self, client: WireClient, token: bytes, key: Any = None) -> packets.Packet:
        """Re-authenticate to the end; the broker's last answer."""
        await client.send(auth(0x19, with_length(token)))
        challenge = await client.receive()
        await client.send(answer_to(challenge, self.key if key is None else key))
        return await client.receive()


@asynccontextmanager
async def broker_with_ace(
    folder: Path, *, anonymous: bool = False, ace: Ace | None = None, **overrides: Any
) -> AsyncIterator[Broker]:
    """A broker that takes tokens of one authorization server. Its wall clock goes as Trio's does."""
    public = AS_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "as.pem").write_bytes(public)
    (folder / "as.jwk").write_text(json.dumps(jwk(SHARED)))
    server = AuthorizationServer(
        issuer=ISSUER,
        audience=(AUDIENCE,),
        keys=(str(folder / "as.pem"), str(folder / "as.jwk")),
        token_endpoint="https://as.example/token",
    )
    began = trio.current_time()
    overrides = {"authentication": Authentication(anonymous=anonymous), "ace": ace or Ace(), **overrides}
    async with broker_running(authorization_servers=(server,), **overrides) as broker:
        broker.clock._wall = lambda: WALL + trio.current_time() - began
        yield broker
