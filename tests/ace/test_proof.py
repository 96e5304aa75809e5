"""Proofs of possession: the exact octets that are signed, known values, and every proof that does not hold."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.algorithms import Operation
from acebroker_ace.errors import InvalidKey, InvalidProof
from acebroker_ace.keys import Key
from acebroker_ace.proof import (
    EXPORTER_LABEL,
    EXPORTER_OCTETS,
    NONCE_OCTETS,
    can_verify,
    check_challenge,
    check_exporter,
    prove_challenge,
    prove_exporter,
)
from tests.ace.issuer import jwk, raw_signature
from tests.conformance.statements import ace

SECRET = bytes(range(32))
#: RFC 8032, test 1
ED25519 = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
P256 = ec.derive_private_key(123_456_789, ec.SECP256R1())
BROKER_NONCE = bytes.fromhex("0102030405060708")
CLIENT_NONCE = bytes.fromhex("a1a2a3a4a5a6a7a8")
EXPORTER = bytes(range(0x40, 0x60))

VECTORS = {
    "HS256, challenge": (
        Key(SECRET),
        BROKER_NONCE + CLIENT_NONCE,
        "885805b4f80fbc88eebd4d01a0fd96cdab1a7ad69d8e377b8a25b2919794f192",
    ),
    "HS256, exporter": (Key(SECRET), EXPORTER, "fc92e8d72d18e727716e91c09f407eed3785c05215b7f8ec6404df192275dd9c"),
    "Ed25519, challenge": (
        Key(ED25519),
        BROKER_NONCE + CLIENT_NONCE,
        "b326e5cce22726e58a2c8ed5ee16f4400497e1ee06fd6be17f3f610a89d36c3e"
        "c4a55464211018ab47240330f5bfa1f359ea4f4385f8e2e29b416e5b63b0cf03",
    ),
    "Ed25519, exporter": (
        Key(ED25519),
        EXPORTER,
        "8d045132780df42b3668531bd8daa511c9d9d5652c2b8e3c95abd81897431de6"
        "ae616f90b96efc8cc57c195c37a3287dcce80d81d0abae580bb5917b4c979900",
    ),
}
KEYS = {"HS256": SECRET, "EdDSA": ED25519, "ES256": P256}
each_key = pytest.mark.parametrize("material", KEYS.values(), ids=KEYS)


def public(material: bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> Key:
    """What the broker has of a key."""
    return Key.from_jwk(jwk(material))


@pytest.mark.parametrize(("key", "data", "value"), VECTORS.values(), ids=VECTORS)
@ace("ACE-2.2.4.2.1-2", "ACE-2.2.4.2.2-6", "ACE-2.2.5-6")
def test_known_values(key: Key, data: bytes, value: str) -> None:
    if data == EXPORTER:
        assert prove_exporter(key, EXPORTER).hex() == value
        check_exporter(key, EXPORTER, bytes.fromhex(value))
    else:
        assert prove_challenge(key, BROKER_NONCE, CLIENT_NONCE).hex() == value
        check_challenge(key, BROKER_NONCE, CLIENT_NONCE, bytes.fromhex(value))


@ace("ACE-7-1", "ACE-2.2.4.2.1-3")
def test_constants_of_the_standard() -> None:
    assert EXPORTER_LABEL == b"EXPORTER-ACE-MQTT-Sign-Challenge"
    assert len(EXPORTER_LABEL) == 32
    assert (EXPORTER_OCTETS, NONCE_OCTETS) == (32, 8)


@each_key
@ace("ACE-2.2.4.2.1-2", "ACE-2.2.4.2.2-6", "ACE-2.2.5-3")
def test_an_independent_client_is_believed(material: bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    check_exporter(public(material), EXPORTER, raw_signature(material, EXPORTER))
    check_challenge(public(material), BROKER_NONCE, CLIENT_NONCE, raw_signature(material, BROKER_NONCE + CLIENT_NONCE))


@each_key
@ace("ACE-2.2.4.2.2-6", "ACE-2.2.5-8")
def test_a_proof_is_of_one_key_over_one_text(material: bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    key = public(material)
    for wrong in (
        raw_signature(material, CLIENT_NONCE + BROKER_NONCE),
        raw_signature(material, BROKER_NONCE),
        raw_signature(material, BROKER_NONCE + CLIENT_NONCE + b"\0"),
        raw_signature(material, EXPORTER),
        raw_signature(bytes(32), BROKER_NONCE + CLIENT_NONCE),
        raw_signature(Ed25519PrivateKey.from_private_bytes(bytes(32)), BROKER_NONCE + CLIENT_NONCE),
        b"",
        bytes(32),
        bytes(64),
    ):
        with pytest.raises(InvalidProof):
            check_challenge(key, BROKER_NONCE, CLIENT_NONCE, wrong)
    for wrong in (raw_signature(material, EXPORTER[::-1]), raw_signature(material, EXPORTER)[:-1], b""):
        with pytest.raises(InvalidProof):
            check_exporter(key, EXPORTER, wrong)


@each_key
@given(st.data())
def test_no_bit_can_be_changed(
    material: bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey, data: st.DataObject
) -> None:
    value = bytearray(raw_signature(material, EXPORTER))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidProof):
        check_exporter(public(material), EXPORTER, bytes(value))


@ace("ACE-2.2.5-8", "ADJ-9201-7", "ADJ-7518-1")
def test_keys_that_prove_nothing() -> None:
    for key in (
        Key(SECRET[:31]),
        Key(SECRET, algorithm=4),
        Key(SECRET, algorithm="HS512"),
        Key(SECRET, operations=[Operation.ENCRYPT]),
        Key.from_jwk(jwk(ec.derive_private_key(5, ec.SECP384R1()))),
        Key.from_jwk(jwk(ED25519, use="enc")),
        Key.from_jwk(jwk(P256, alg="ES512")),
    ):
        assert not can_verify(key)
        with pytest.raises(InvalidProof):
            check_exporter(key, EXPORTER, raw_signature(SECRET, EXPORTER))
        with pytest.raises(InvalidKey):
            prove_exporter(key, EXPORTER)
    for material in KEYS.values():
        assert can_verify(public(material))


def test_other_lengths_are_our_own_mistake() -> None:
    for exporter in (b"", EXPORTER[:-1], EXPORTER + b"\0"):
        with pytest.raises(ValueError, match="32"):
            prove_exporter(Key(SECRET), exporter)
        with pytest.raises(ValueError, match="32"):
            check_exporter(Key(SECRET), exporter, bytes(32))
    for nonces in ((b"", CLIENT_NONCE), (BROKER_NONCE, b""), (BROKER_NONCE + b"\0", CLIENT_NONCE[:-1])):
        with pytest.raises(ValueError, match="8"):
            check_challenge(Key(SECRET), *nonces, bytes(32))
