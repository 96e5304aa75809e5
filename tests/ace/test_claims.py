"""Claims of JWT and CWT, each of its type, and `cnf`, which names one key."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.claims import Claims, Confirmation
from acebroker_ace.connection_types import ConnectionType
from acebroker_ace.errors import UnreadableClaims, UnusableConfirmation
from acebroker_ace.keys import Key
from tests.ace.issuer import b64, cose_key, jwk
from tests.conformance.statements import ace

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET = bytes(range(32))

#: RFC 8392, A.1
RFC_8392_CLAIMS = (
    "a70175636f61703a2f2f61732e6578616d706c652e636f6d02656572696b77037818636f61703a2f2f6c696768742e6578616d706c652e636f6d"
    "041a5612aeb0051a5610d9f0061a5610d9f007420b71"
)
JSON_CLAIMS: dict[str, Any] = {
    "iss": "https://as.example",
    "sub": "device 1",
    "aud": "mqtts://broker.example",
    "exp": 1_900_000_000,
    "nbf": 1_700_000_000.5,
    "iat": 1_700_000_000,
    "jti": "é1",
    "scope": "W10",
    "exi": 60,
    "cnonce": "4KFWuz8",
    "cnf": {"kid": "k1"},
    "unknown": [{}],
}
CBOR_CLAIMS: dict[Any, Any] = {
    1: "https://as.example",
    2: "device 1",
    3: "mqtts://broker.example",
    4: 1_900_000_000,
    5: 1_700_000_000.5,
    6: 1_700_000_000,
    7: "é1".encode(),
    9: b"\x80",
    40: 60,
    39: bytes.fromhex("e0a156bb3f"),
    8: {3: b"k1"},
    9_999: [{}],
    "unknown": {1: 2},
}


def of_json(claims: Any) -> Claims:
    """The claims of a JWT with this content."""
    return Claims.from_json(json.dumps(claims).encode())


def of_cbor(claims: Any) -> Claims:
    """The claims of a CWT with this content."""
    return Claims.from_cbor(cbor2.dumps(claims))


@ace("ADJ-7519-4", "ADJ-8392-4")
def test_both_notations_say_the_same() -> None:
    for claims in (of_json(JSON_CLAIMS), of_cbor(CBOR_CLAIMS)):
        assert claims.issuer == "https://as.example"
        assert claims.subject == "device 1"
        assert claims.audience == ("mqtts://broker.example",)
        assert (claims.not_before, claims.issued_at, claims.expires_at) == (
            1_700_000_000.5,
            1_700_000_000,
            1_900_000_000,
        )
        assert claims.identifier == "é1".encode()
        assert claims.expires_in == 60
        assert claims.client_nonce == bytes.fromhex("e0a156bb3f")
        assert claims.confirmation() == Confirmation(kid=b"k1")
    assert of_json(JSON_CLAIMS).scope == "W10"
    assert of_cbor(CBOR_CLAIMS).scope == b"\x80"


def test_the_claims_of_rfc_8392() -> None:
    claims = Claims.from_cbor(bytes.fromhex(RFC_8392_CLAIMS))
    assert (claims.issuer, claims.subject) == ("coap://as.example.com", "erikw")
    assert claims.audience == ("coap://light.example.com",)
    assert (claims.expires_at, claims.not_before, claims.issued_at) == (1_444_064_944, 1_443_944_944, 1_443_944_944)
    assert claims.identifier == bytes.fromhex("0b71")
    assert claims.confirmation() is None


def test_nothing_is_required() -> None:
    assert of_json({}) == Claims()
    assert of_cbor({}) == Claims(in_cbor=True)


@ace("ADJ-7519-2")
def test_an_audience_may_be_a_list() -> None:
    assert of_json({"aud": ["a", "b"]}).audience == of_cbor({3: ["a", "b"]}).audience == ("a", "b")
    assert of_json({"aud": []}).audience == ()


WRONG_JSON: list[dict[str, Any]] = [
    *({"iss": value} for value in (1, None, ["a"], True)),
    *({"sub": value} for value in (1, None, {})),
    *({"aud": value} for value in (1, None, [1], ["a", None], {"a": 1})),
    *(
        {name: value}
        for name in ("exp", "nbf", "iat", "exi")
        for value in ("1", None, True, [1], 10**30, -(10**400), 1e300)
    ),
    *({"jti": value} for value in (1, None)),
    *({"scope": value} for value in (1, None, {})),
    *({"cnonce": value} for value in (1, None, "A", "AA==")),
    *({"allowed_connection_types": value} for value in (None, "MQTT", ["?"])),
    {"nats": {"allowed_connection_types": "MQTT"}},
]
WRONG_CBOR: list[dict[Any, Any]] = [
    *({key: value} for key in (1, 2) for value in (1, None, b"a")),
    *({3: value} for value in (1, b"a", [1], {})),
    *(
        {key: value}
        for key in (4, 5, 6, 40)
        for value in ("1", b"1", None, True, [1], float("inf"), float("nan"), 2**64 - 1)
    ),
    *({7: value} for value in (1, "a", None)),
    *({9: value} for value in (1, None, [], {})),
    *({39: value} for value in (1, "a", None)),
    {"allowed_connection_types": ["?"]},
]


@pytest.mark.parametrize("claims", WRONG_JSON, ids=repr)
@ace("ADJ-7519-4", "ADJ-9200-32")
def test_a_claim_of_another_type_in_json(claims: dict[str, Any]) -> None:
    with pytest.raises(UnreadableClaims):
        of_json(claims)


@pytest.mark.parametrize("claims", WRONG_CBOR, ids=repr)
@ace("ADJ-7519-4", "ADJ-9200-32")
def test_a_claim_of_another_type_in_cbor(claims: dict[Any, Any]) -> None:
    with pytest.raises(UnreadableClaims):
        of_cbor(claims)


@ace("ADJ-8392-4", "ADJ-9200-32")
def test_what_holds_no_claims() -> None:
    for octets in (b"", b"[]", b'"a"', b"1", b"{", b'{"exp":1,"exp":2}', b"\xff"):
        with pytest.raises(UnreadableClaims):
            Claims.from_json(octets)
    for octets in (
        b"",
        b"\x80",
        b"\x01",
        b"\xa1",
        b"\xa2\x04\x01\x04\x02",
        cbor2.dumps({4: cbor2.CBORTag(1, 1)}),
        b"\xa0\x00",
    ):
        with pytest.raises(UnreadableClaims):
            Claims.from_cbor(octets)


@given(st.binary(max_size=80))
def test_arbitrary_octets_give_claims_or_the_one_error(octets: bytes) -> None:
    for read in (Claims.from_json, Claims.from_cbor):
        try:
            read(octets)
        except UnreadableClaims:
            pass


def test_connection_types_stand_at_the_top_or_under_nats() -> None:
    mqtt = frozenset({ConnectionType.MQTT})
    for claims in (
        {"allowed_connection_types": ["mqtt"]},
        {"nats": {"allowed_connection_types": ["MQTT"]}},
        {"allowed_connection_types": ["MQTT"], "nats": {"allowed_connection_types": ["STANDARD"]}},
    ):
        assert of_json(claims).connection_types == of_cbor(claims).connection_types == mqtt
    assert of_json({"nats": 1}).connection_types == of_json({"nats": {}}).connection_types == frozenset()


# ---- cnf ----


@ace("ADJ-7800-2", "ADJ-7800-3", "ADJ-8747-1", "ADJ-8747-3")
def test_a_public_key() -> None:
    for key in (ED25519, ec.derive_private_key(5, ec.SECP256R1())):
        expected = Key.from_jwk(jwk(key)).thumbprint
        of_jwt = Confirmation.from_json({"jwk": jwk(key, kid="k1"), "unknown": 1})
        of_cwt = Confirmation.from_cbor({1: cose_key(key, {2: b"k1"}), 99: 1, "unknown": 1})
        for confirmation in (of_jwt, of_cwt):
            assert confirmation.key is not None
            assert (confirmation.key.thumbprint, confirmation.key.kid) == (expected, b"k1")


def test_a_kid_beside_the_key_names_it() -> None:
    confirmation = Confirmation.from_json({"jwk": jwk(ED25519), "kid": "k1"})
    assert confirmation.key is not None
    assert confirmation.kid == b"k1"
    assert Confirmation.from_cbor({1: cose_key(ED25519), 3: b"k1"}).kid == b"k1"


@ace("ADJ-7800-4", "ADJ-7800-5", "ADJ-8747-2")
def test_other_ways_to_name_a_key() -> None:
    thumbprint = bytes(range(32))
    assert Confirmation.from_json({"jwe": "a.b.c.d.e"}).encrypted_key == b"a.b.c.d.e"
    assert Confirmation.from_json({"x5t#S256": b64(thumbprint)}).certificate_thumbprint == thumbprint
    assert Confirmation.from_json({"kid": "é"}).kid == "é".encode()
    assert Confirmation.from_cbor({2: [b"", {}, b""]}).encrypted_key == [b"", {}, b""]
    assert Confirmation.from_cbor({3: b"\xff"}).kid == b"\xff"


NOT_JSON_CNF: dict[str, Any] = {
    "nothing": {},
    "text": "k1",
    "a list": [],
    "only unknown members": {"x": 1},
    "jwk and jwe": {"jwk": jwk(ED25519), "jwe": "a.b.c.d.e"},
    "jwk and certificate": {"jwk": jwk(ED25519), "x5t#S256": b64(bytes(32))},
    "jwk and jku": {"jwk": jwk(ED25519), "jku": "https://example.com/keys"},
    "jku": {"jku": "https://example.com/keys"},
    "jku with kid": {"jku": "https://example.com/keys", "kid": "k1"},
    "jwk is text": {"jwk": "x"},
    "jwk is null, with kid": {"jwk": None, "kid": "k1"},
    "jwk is no key": {"jwk": {"kty": "oct"}},
    "jwk is RSA": {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
    "jwk is private": {"jwk": jwk(ED25519, private=True)},
    "jwe is an object": {"jwe": {}},
    "kid is a number": {"kid": 1},
    "kid is a number beside a key": {"jwk": jwk(ED25519), "kid": 1},
    "thumbprint of SHA-1": {"x5t#S256": b64(bytes(20))},
    "thumbprint with padding": {"x5t#S256": b64(bytes(32)) + "="},
    "thumbprint in hexadecimal": {"x5t#S256": "00" * 32},
    "thumbprint is null": {"x5t#S256": None},
}
NOT_CBOR_CNF: dict[str, Any] = {
    "nothing": {},
    "a list": [],
    "octets": b"",
    "only unknown members": {99: 1},
    "both keys": {1: cose_key(ED25519), 2: [b"", {}, b""]},
    "both keys and a kid": {1: cose_key(ED25519), 2: [b"", {}, b""], 3: b"k1"},
    "key is text": {1: "x"},
    "key is no key": {1: {1: 4}},
    "key is encoded": {1: cbor2.dumps(cose_key(ED25519))},
    "key is private": {1: cose_key(ED25519, {-4: bytes(range(32))})},
    "encrypted key is octets": {2: b""},
    "kid is text": {3: "k1"},
    "kid is text beside a key": {1: cose_key(ED25519), 3: "k1"},
}


@pytest.mark.parametrize("cnf", NOT_JSON_CNF.values(), ids=NOT_JSON_CNF)
@ace("ADJ-7800-2", "ADJ-7800-6")
def test_a_cnf_of_json_that_is_refused(cnf: Any) -> None:
    with pytest.raises(UnusableConfirmation):
        Confirmation.from_json(cnf)
    with pytest.raises(UnusableConfirmation):
        of_json({"cnf": cnf}).confirmation()


@pytest.mark.parametrize("cnf", NOT_CBOR_CNF.values(), ids=NOT_CBOR_CNF)
@ace("ADJ-8747-1")
def test_a_cnf_of_cbor_that_is_refused(cnf: Any) -> None:
    with pytest.raises(UnusableConfirmation):
        Confirmation.from_cbor(cnf)
    with pytest.raises(UnusableConfirmation):
        of_cbor({8: cnf}).confirmation()


def test_no_secret_is_shown() -> None:
    claims = of_json({"sub": "s", "cnf": {"jwk": jwk(SECRET)}, "cnonce": "c2VjcmV0"})
    confirmation = claims.confirmation()
    for shown in (repr(claims), repr(confirmation)):
        assert b64(SECRET) not in shown
        assert repr(SECRET) not in shown
        assert "secret" not in shown
    assert repr(claims) == "Claims(issuer=None, subject='s', expires_at=None)"
