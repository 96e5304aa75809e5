"""Keys: read from JWK, COSE_Key and SubjectPublicKeyInfo; the raw operations; what restricts them; what they show."""

from __future__ import annotations

import base64
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.algorithms import ALGORITHMS, HMAC_KEY_BYTES_MIN, Algorithm, KeyType, Operation, Protection
from acebroker_ace.errors import InvalidKey
from acebroker_ace.keys import InvalidSignature, InvalidTag, Key
from tests.conformance.statements import ace

EDDSA, ES256, ES384, ES512, HS256 = (ALGORITHMS[name] for name in ("EdDSA", "ES256", "ES384", "ES512", "HS256"))
SIGNATURES = (EDDSA, ES256, ES384, ES512)
MACS = tuple(a for a in ALGORITHMS.values() if a.protection is Protection.MAC)
AEADS = tuple(a for a in ALGORITHMS.values() if a.protection is Protection.ENCRYPTION)

#: RFC 8032, 7.1, tests 1 to 3: secret key, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


def b64(octets: bytes) -> str:
    """base64url, by the standard library."""
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def private_key(algorithm: Algorithm) -> Key:
    """A private key for a signature algorithm."""
    if algorithm is EDDSA:
        return Key(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    curve: ec.EllipticCurve = {ES256: ec.SECP256R1(), ES384: ec.SECP384R1(), ES512: ec.SECP521R1()}[algorithm]
    return Key(ec.derive_private_key(123_456_789, curve))


def public_key(key: Key) -> Key:
    """Its public half."""
    return Key.from_jwk(key.jwk())


# ---- reading ----


@pytest.mark.parametrize("algorithm", SIGNATURES, ids=lambda a: a.name)
@ace("ADJ-7517-1", "ADJ-9053-1")
def test_a_jwk_comes_back_public_and_private(algorithm: Algorithm) -> None:
    key = private_key(algorithm)
    assert key.is_private
    for read in (public_key(key), Key.from_jwk(key.jwk(private=True))):
        assert (read.thumbprint, read.key_type, read.curve) == (key.thumbprint, key.key_type, key.curve)
        read.verify(algorithm, b"data", key.sign(algorithm, b"data"))
    assert not public_key(key).is_private
    assert Key.from_jwk(key.jwk(private=True)).is_private


def cose_key(key: Key, *, compressed: bool = False) -> dict[int, Any]:
    """A COSE_Key, by hand."""
    jwk = {
        name: base64.urlsafe_b64decode(value + "==") for name, value in key.jwk(private=True).items() if len(name) == 1
    }
    assert key.curve is not None
    if key.key_type is KeyType.OKP:
        return {1: 1, -1: 6, -2: jwk["x"]}
    return {1: 2, -1: key.curve.value, -2: jwk["x"], -3: bool(jwk["y"][-1] & 1) if compressed else jwk["y"]}


@pytest.mark.parametrize("algorithm", SIGNATURES, ids=lambda a: a.name)
def test_a_cose_key_is_the_same_key(algorithm: Algorithm) -> None:
    key = private_key(algorithm)
    assert Key.from_cose_key(cose_key(key)).thumbprint == key.thumbprint
    assert Key.from_cose_key(cose_key(key, compressed=True)).thumbprint == key.thumbprint
    private = cose_key(key) | {-4: base64.urlsafe_b64decode(key.jwk(private=True)["d"] + "==")}
    assert Key.from_cose_key(private).is_private


def test_a_symmetric_key_is_the_same_in_both_notations() -> None:
    octets = bytes(range(32))
    jwk = Key.from_jwk({"kty": "oct", "k": b64(octets), "kid": "k1"})
    cose = Key.from_cose_key({1: 4, -1: octets, 2: b"k1"})
    assert jwk.thumbprint == cose.thumbprint == Key(octets).thumbprint
    assert jwk.kid == cose.kid == b"k1"
    assert jwk.key_type is KeyType.SYMMETRIC
    assert jwk.jwk() == {"kty": "oct", "kid": "k1"}
    assert jwk.jwk(private=True)["k"] == b64(octets)


@pytest.mark.parametrize("algorithm", SIGNATURES, ids=lambda a: a.name)
def test_a_raw_public_key_is_the_same_key(algorithm: Algorithm) -> None:
    key = private_key(algorithm)
    assert key._public is not None
    der = key._public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert Key.from_public_key_info(der).thumbprint == key.thumbprint


def test_raw_public_keys_that_are_refused() -> None:
    rsa_der = (
        rsa.generate_private_key(65_537, 2048)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    k1_der = (
        ec.generate_private_key(ec.SECP256K1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    for der in (rsa_der, k1_der, b"", rsa_der[:-1], b"\x30\x00"):
        with pytest.raises(InvalidKey):
            Key.from_public_key_info(der)


def test_thumbprint_of_rfc_8037() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert b64(Key.from_jwk(jwk).thumbprint) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


P256 = private_key(ES256).jwk()
ED25519 = private_key(EDDSA).jwk()
NOT_JWK: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no type": {"k": b64(bytes(32))},
    "RSA": {"kty": "RSA", "n": b64(bytes(256)), "e": "AQAB"},
    "an unknown curve": P256 | {"crv": "secp256k1"},
    "another curve": P256 | {"crv": "P-384"},
    "Ed25519 as EC": ED25519 | {"kty": "EC"},
    "P-256 as OKP": P256 | {"kty": "OKP"},
    "X25519": ED25519 | {"crv": "X25519"},
    "no x": {name: value for name, value in P256.items() if name != "x"},
    "no y": {name: value for name, value in P256.items() if name != "y"},
    "x and y exchanged": P256 | {"x": P256["y"], "y": P256["x"]},
    "x with a leading zero": P256 | {"x": b64(b"\0" + base64.urlsafe_b64decode(P256["x"] + "="))},
    "x too short": ED25519 | {"x": b64(bytes(31))},
    "padding": ED25519 | {"x": ED25519["x"] + "="},
    "another private part": P256 | {"d": b64(bytes(31) + b"\5")},
    "private part without its leading zeros": P256 | {"d": b64((123_456_789).to_bytes(4, "big"))},
    "private part zero": P256 | {"d": b64(bytes(32))},
    "an empty secret": {"kty": "oct", "k": ""},
    "a secret that is no text": {"kty": "oct", "k": 1},
    "kid no text": ED25519 | {"kid": 1},
    "alg no text": ED25519 | {"alg": 1},
    "use no text": ED25519 | {"use": ["sig"]},
    "key_ops no list": ED25519 | {"key_ops": "verify"},
    "key_ops of numbers": ED25519 | {"key_ops": [2]},
}


@pytest.mark.parametrize("jwk", NOT_JWK.values(), ids=NOT_JWK)
@ace("ADJ-9053-1", "ADJ-7517-1")
def test_a_jwk_that_is_refused(jwk: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        Key.from_jwk(jwk)


COSE_P256 = cose_key(private_key(ES256))
COSE_ED25519 = cose_key(private_key(EDDSA))
NOT_COSE_KEY: dict[str, dict[Any, Any]] = {
    "nothing": {},
    "RSA": {1: 3, -1: bytes(256), -2: b"\1\0\1"},
    "type and curve do not fit": COSE_P256 | {1: 1},
    "curve and type do not fit": COSE_ED25519 | {1: 2},
    "X25519": COSE_ED25519 | {-1: 4},
    "another curve": COSE_P256 | {-1: 2},
    "a curve that is a boolean": COSE_P256 | {-1: True},
    "x as text": COSE_ED25519 | {-2: "x"},
    "x too long": COSE_P256 | {-2: b"\0" + COSE_P256[-2]},
    "compressed, not on the curve": COSE_P256 | {-2: bytes(31) + b"\1", -3: True},
    "no y": {label: value for label, value in COSE_P256.items() if label != -3},
    "an empty secret": {1: 4, -1: b""},
    "no secret": {1: 4},
    "kid as text": COSE_ED25519 | {2: "kid"},
    "alg as octets": COSE_ED25519 | {3: b"EdDSA"},
    "alg as boolean": COSE_ED25519 | {3: True},
    "key_ops no list": COSE_ED25519 | {4: 2},
    "key_ops empty": COSE_ED25519 | {4: []},
    "type as list": {1: [4], -1: bytes(32)},
}


@pytest.mark.parametrize("key", NOT_COSE_KEY.values(), ids=NOT_COSE_KEY)
@ace("ADJ-9053-1")
def test_a_cose_key_that_is_refused(key: dict[Any, Any]) -> None:
    with pytest.raises(InvalidKey):
        Key.from_cose_key(key)


# ---- using ----


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_ed25519_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key = Key(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert base64.urlsafe_b64decode(key.jwk()["x"] + "=").hex() == public
    assert key.sign(EDDSA, bytes.fromhex(message)).hex() == signature
    public_key(key).verify(EDDSA, bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("algorithm", [EDDSA, ES256, ES384, ES512, HS256], ids=lambda a: a.name)
def test_an_independent_implementation_agrees(algorithm: Algorithm) -> None:
    theirs = jwt.get_algorithm_by_name(algorithm.jose[0])
    key = Key(bytes(range(32))) if algorithm is HS256 else private_key(algorithm)
    material = theirs.prepare_key(key._secret or key._private)
    assert theirs.verify(b"data", theirs.prepare_key(key._secret or key._public), key.sign(algorithm, b"data"))
    signature = theirs.sign(b"data", material)
    key.verify(algorithm, b"data", signature)
    with pytest.raises(InvalidSignature):
        key.verify(algorithm, b"date", signature)


@pytest.mark.parametrize("algorithm", (*SIGNATURES, *MACS), ids=lambda a: a.name)
@given(st.data())
def test_no_changed_octet_is_accepted(algorithm: Algorithm, data: st.DataObject) -> None:
    key = private_key(algorithm) if algorithm in SIGNATURES else Key(bytes(range(64)))
    value = key.sign(algorithm, b"data")
    assert len(value) == (algorithm.tag_bytes or 2 * algorithm.key_bytes)
    index = data.draw(st.integers(0, len(value) - 1))
    changed = bytearray(value)
    changed[index] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(changed), value[:index], value + b"\0", b""):
        with pytest.raises(InvalidSignature):
            key.verify(algorithm, b"data", wrong)


@pytest.mark.parametrize("algorithm", [ES256, ES384, ES512], ids=lambda a: a.name)
@ace("ADJ-7515-1")
def test_a_signature_has_one_spelling(algorithm: Algorithm) -> None:
    key = private_key(algorithm)
    value = key.sign(algorithm, b"data")
    r, s = value[: algorithm.key_bytes], value[algorithm.key_bytes :]
    for wrong in (r + b"\0" + s, b"\0" + r + b"\0" + s, encode_dss_signature(int.from_bytes(r), int.from_bytes(s))):
        with pytest.raises(InvalidSignature):
            key.verify(algorithm, b"data", wrong)


@pytest.mark.parametrize("algorithm", AEADS, ids=lambda a: a.name)
def test_encryption_is_authenticated(algorithm: Algorithm) -> None:
    key = Key(bytes(algorithm.key_bytes))
    nonce = bytes(range(algorithm.nonce_bytes))
    ciphertext = key.encrypt(algorithm, nonce, b"text", b"aad")
    assert len(ciphertext) == 4 + algorithm.tag_bytes
    assert key.decrypt(algorithm, nonce, ciphertext, b"aad") == b"text"
    other = bytes([nonce[0] ^ 1]) + nonce[1:]
    for wrong in (
        (nonce, ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]), b"aad"),
        (nonce, ciphertext[:-1], b"aad"),
        (nonce, b"", b"aad"),
        (nonce, ciphertext, b"other"),
        (other, ciphertext, b"aad"),
        (nonce[:-1], ciphertext, b"aad"),
        (nonce + b"\0", ciphertext, b"aad"),
        (b"", ciphertext, b"aad"),
    ):
        with pytest.raises(InvalidTag):
            key.decrypt(algorithm, *wrong)
    for length in (algorithm.key_bytes - 1, algorithm.key_bytes + 1):
        with pytest.raises(InvalidKey):
            Key(bytes(length)).decrypt(algorithm, nonce, ciphertext, b"aad")


@pytest.mark.parametrize("key_of", [*SIGNATURES, HS256], ids=lambda a: a.name)
@pytest.mark.parametrize("used_for", ALGORITHMS.values(), ids=lambda a: a.name)
@ace("ADJ-9052-5")
def test_a_key_serves_its_own_algorithm_only(key_of: Algorithm, used_for: Algorithm) -> None:
    key = Key(bytes(33)) if key_of is HS256 else private_key(key_of)
    fitting = used_for is key_of or (key_of is HS256 and used_for.name == "HS256/64")
    assert key.fits(used_for, _OPERATION[used_for.protection]) is fitting
    if not fitting:
        with pytest.raises(InvalidKey):
            if used_for.protection is Protection.ENCRYPTION:
                key.decrypt(used_for, bytes(used_for.nonce_bytes), bytes(40), b"")
            else:
                key.verify(used_for, b"data", bytes(64))


_OPERATION = {
    Protection.SIGNATURE: Operation.VERIFY,
    Protection.MAC: Operation.MAC_VERIFY,
    Protection.ENCRYPTION: Operation.DECRYPT,
}


@ace("ADJ-7518-1")
def test_short_symmetric_keys_make_no_mac() -> None:
    short, enough = Key(bytes(HMAC_KEY_BYTES_MIN - 1)), Key(bytes(HMAC_KEY_BYTES_MIN))
    value = enough.sign(HS256, b"data")
    enough.verify(HS256, b"data", value)
    with pytest.raises(InvalidKey):
        short.sign(HS256, b"data")
    with pytest.raises(InvalidKey):
        short.verify(HS256, b"data", value)
    assert not enough.fits(ALGORITHMS["HS512"], Operation.MAC_VERIFY)


def test_a_public_key_signs_nothing() -> None:
    for algorithm in SIGNATURES:
        with pytest.raises(InvalidKey):
            public_key(private_key(algorithm)).sign(algorithm, b"data")


RESTRICTED: list[tuple[dict[str, Any], Algorithm, bool]] = [
    (ED25519, EDDSA, True),
    (ED25519 | {"alg": "EdDSA"}, EDDSA, True),
    (ED25519 | {"alg": "Ed25519"}, EDDSA, True),
    (ED25519 | {"alg": "ES256"}, EDDSA, False),
    (ED25519 | {"alg": "none"}, EDDSA, False),
    (ED25519 | {"use": "sig"}, EDDSA, True),
    (ED25519 | {"use": "enc"}, EDDSA, False),
    (ED25519 | {"use": "?"}, EDDSA, False),
    (ED25519 | {"key_ops": ["verify"]}, EDDSA, True),
    (ED25519 | {"key_ops": ["sign"]}, EDDSA, False),
    (ED25519 | {"key_ops": []}, EDDSA, False),
    (ED25519 | {"key_ops": ["?", "verify"]}, EDDSA, True),
    (ED25519 | {"key_ops": ["verify"], "use": "enc"}, EDDSA, False),
    ({"kty": "oct", "k": b64(bytes(32)), "key_ops": ["verify"]}, HS256, True),
    ({"kty": "oct", "k": b64(bytes(32)), "key_ops": ["encrypt"]}, HS256, False),
    ({"kty": "oct", "k": b64(bytes(32)), "alg": "HS384"}, HS256, False),
]


@pytest.mark.parametrize(("jwk", "algorithm", "allowed"), RESTRICTED)
@ace("ADJ-9201-7", "ADJ-9052-5")
def test_restrictions_of_a_jwk_are_honoured(jwk: dict[str, Any], algorithm: Algorithm, allowed: bool) -> None:
    assert Key.from_jwk(jwk).fits(algorithm, _OPERATION[algorithm.protection]) is allowed


@pytest.mark.parametrize(
    ("restriction", "allowed"),
    [
        ({}, True),
        ({3: -8}, True),
        ({3: -19}, True),
        ({3: -7}, False),
        ({4: [2]}, True),
        ({4: [1]}, False),
        ({4: [1, 2]}, True),
    ],
)
@ace("ADJ-9201-7", "ADJ-9052-5")
def test_restrictions_of_a_cose_key_are_honoured(restriction: dict[int, Any], allowed: bool) -> None:
    assert Key.from_cose_key(COSE_ED25519 | restriction).fits(EDDSA, Operation.VERIFY) is allowed


def test_no_secret_is_shown() -> None:
    secret = bytes(range(100, 132))
    for key in (Key(secret, kid=b"k1"), Key(Ed25519PrivateKey.from_private_bytes(secret))):
        for shown in (repr(key), str(key), f"{key}"):
            assert b64(secret) not in shown
            assert secret.hex() not in shown
            assert repr(secret) not in shown
    assert repr(Key(secret, kid=b"k1")) == "Key(symmetric, kid=b'k1')"
