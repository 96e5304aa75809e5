"""COSE messages of our own making: what is read, what is believed, what is refused."""

from __future__ import annotations

import base64
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.algorithms import ALGORITHMS, TOKEN_ALGORITHMS, Algorithm
from acebroker_ace.cose import CoseMessage, begins_with_cose_tag, seal
from acebroker_ace.errors import InvalidKey, InvalidToken, MalformedToken, UnauthenticToken, UnprotectedToken
from acebroker_ace.keys import Key
from tests.ace.test_keys import SIGNATURES, private_key
from tests.conformance.statements import ace

EDDSA, HS256, A128GCM = ALGORITHMS["EdDSA"], ALGORITHMS["HS256"], ALGORITHMS["A128GCM"]
SIGNER = Key(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = Key(bytes(range(32)))
NONCE = bytes(12)
#: the external_aad of every CWT
NO_AAD = b""


def key_for(algorithm: Algorithm) -> Key:
    """A key that fits."""
    return private_key(algorithm) if algorithm in SIGNATURES else Key(bytes(range(algorithm.key_bytes)))


def message(*elements: Any, tag: int | None = 18) -> bytes:
    """An array of a message, by hand."""
    array = list(elements)
    return cbor2.dumps(array if tag is None else cbor2.CBORTag(tag, array))


def signed(protected: bytes, unprotected: dict[Any, Any], payload: bytes = b"payload") -> bytes:
    """A COSE_Sign1 with any header, signed by the book (RFC 9052, 4.4)."""
    to_be_signed = cbor2.dumps(["Signature1", protected, NO_AAD, payload])
    return message(protected, unprotected, payload, SIGNER.sign(EDDSA, to_be_signed))


def header(*parameters: tuple[Any, Any]) -> bytes:
    """A protected header."""
    return cbor2.dumps(dict(parameters))


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("tagged", [True, False])
@ace("ADJ-8392-2", "ADJ-8392-3")
def test_what_is_sealed_opens(algorithm: Algorithm, tagged: bool) -> None:
    key = key_for(algorithm)
    octets = seal(algorithm, key, b"content", nonce=bytes(algorithm.nonce_bytes), kid=b"k1", tagged=tagged)
    parsed = CoseMessage.parse(octets)
    assert (parsed.algorithm_unverified, parsed.kid_unverified) == (algorithm, b"k1")
    assert parsed.open(key, algorithms=[algorithm.name]) == b"content"
    assert begins_with_cose_tag(octets) is tagged
    if tagged:
        assert CoseMessage.parse(b"\xd8\x3d" + octets).open(key, algorithms=[algorithm.name]) == b"content"


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda a: a.name)
def test_only_listed_algorithms_open(algorithm: Algorithm) -> None:
    key = key_for(algorithm)
    parsed = CoseMessage.parse(seal(algorithm, key, b"content", nonce=bytes(algorithm.nonce_bytes)))
    others = ALGORITHMS.keys() - {algorithm.name}
    with pytest.raises(UnprotectedToken):
        parsed.open(key, algorithms=others)
    if algorithm.name in TOKEN_ALGORITHMS:
        assert parsed.open(key) == b"content"
    else:
        with pytest.raises(UnprotectedToken):
            parsed.open(key)


@given(st.data())
@ace("ADJ-9052-4")
def test_no_octet_can_be_changed(data: st.DataObject) -> None:
    algorithm = data.draw(st.sampled_from([EDDSA, HS256, A128GCM, ALGORITHMS["ES256"]]))
    key = key_for(algorithm)
    octets = bytearray(seal(algorithm, key, b"content", nonce=bytes(algorithm.nonce_bytes), tagged=False))
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidToken):
        CoseMessage.parse(bytes(octets)).open(key)


@given(st.binary(max_size=80))
def test_arbitrary_octets_are_no_message(octets: bytes) -> None:
    for tag in (b"", b"\xd2", b"\xd8\x3d\xd0"):
        with pytest.raises(InvalidToken):
            CoseMessage.parse(tag + octets).open(SECRET)


def test_every_prefix_is_malformed() -> None:
    octets = seal(EDDSA, SIGNER, b"content", kid=b"k")
    for cut in range(len(octets)):
        with pytest.raises(MalformedToken):
            CoseMessage.parse(octets[:cut])
    with pytest.raises(MalformedToken):
        CoseMessage.parse(octets + b"\0")


EDDSA_HEADER = header((1, -8))
MALFORMED = {
    "no array": cbor2.dumps(cbor2.CBORTag(18, {})),
    "a number": b"\x01",
    "two elements": message(EDDSA_HEADER, {}),
    "five elements": message(EDDSA_HEADER, {}, b"", bytes(64), b""),
    "three elements with a signature algorithm": message(EDDSA_HEADER, {}, b""),
    "four elements with an encryption algorithm": message(header((1, 1)), {5: NONCE}, b"", b"", tag=16),
    "protected is a map": message({1: -8}, {}, b"", bytes(64)),
    "protected is no CBOR": message(b"\xff", {}, b"", bytes(64)),
    "protected holds a list": message(b"\x80", {}, b"", bytes(64)),
    "protected has an algorithm twice": message(b"\xa2\x01\x27\x01\x27", {}, b"", bytes(64)),
    "unprotected is no map": message(EDDSA_HEADER, [], b"", bytes(64)),
    "the algorithm in both headers": message(EDDSA_HEADER, {1: -8}, b"", bytes(64)),
    "the kid in both headers": message(header((1, -8), (4, b"a")), {4: b"b"}, b"", bytes(64)),
    "no payload": message(EDDSA_HEADER, {}, None, bytes(64)),
    "payload is text": message(EDDSA_HEADER, {}, "", bytes(64)),
    "signature is text": message(EDDSA_HEADER, {}, b"", "x" * 64),
    "kid is text": message(EDDSA_HEADER, {4: "k"}, b"", bytes(64)),
    "IV is text": message(EDDSA_HEADER, {5: "k"}, b"", bytes(64)),
    "crit is unprotected": message(EDDSA_HEADER, {2: [1]}, b"", bytes(64)),
    "crit is empty": message(header((1, -8), (2, [])), {}, b"", bytes(64)),
    "crit is no list": message(header((1, -8), (2, 1)), {}, b"", bytes(64)),
    "another tag": message(EDDSA_HEADER, {}, b"", bytes(64), tag=99),
    "tag 61 alone": message(EDDSA_HEADER, {}, b"", bytes(64), tag=61),
    "tag 61 twice": b"\xd8\x3d" * 2 + message(EDDSA_HEADER, {}, b"", bytes(64)),
    "two COSE tags": b"\xd2" + message(EDDSA_HEADER, {}, b"", bytes(64)),
    "tag 61 inside": b"\xd2\xd8\x3d" + message(EDDSA_HEADER, {}, b"", bytes(64), tag=None),
}
UNPROTECTED = {
    "no algorithm": message(b"", {}, b"", bytes(64)),
    "the algorithm is unprotected": message(b"", {1: -8}, b"", bytes(64)),
    "algorithm 0": message(header((1, 0)), {}, b"", bytes(64)),
    "an unknown algorithm": message(header((1, -999)), {}, b"", bytes(64)),
    "an algorithm as text": message(header((1, "EdDSA")), {}, b"", bytes(64)),
    "an algorithm as boolean": message(header((1, True)), {5: NONCE}, b"", tag=16),
    "a MAC in COSE_Sign1": message(header((1, 5)), {}, b"", bytes(32)),
    "a signature in COSE_Mac0": message(EDDSA_HEADER, {}, b"", bytes(64), tag=17),
    "a signature in COSE_Encrypt0": message(EDDSA_HEADER, {}, b"", bytes(64), tag=16),
    "COSE_Sign": message(EDDSA_HEADER, {}, b"", [], tag=98),
    "COSE_Mac": message(EDDSA_HEADER, {}, b"", b"", [], tag=97),
    "COSE_Encrypt in tag 61": b"\xd8\x3d" + message(EDDSA_HEADER, {}, b"", [], tag=96),
    "crit names what is not there": message(header((1, -8), (2, [4])), {}, b"", bytes(64)),
    "crit names what is not understood": message(header((1, -8), (2, [99]), (99, 1)), {}, b"", bytes(64)),
    "crit names what is not understood, as text": message(header((1, -8), (2, ["x"]), ("x", 1)), {}, b"", bytes(64)),
    "crit names a list": message(header((1, -8), (2, [[]])), {}, b"", bytes(64)),
    "a Partial IV": message(header((1, 1)), {6: b"\1"}, bytes(20), tag=16),
    "a protected Partial IV": message(header((1, 1), (6, b"\1")), {}, bytes(20), tag=16),
    "IV and Partial IV": message(header((1, 1)), {5: NONCE, 6: b"\1"}, bytes(20), tag=16),
}


@pytest.mark.parametrize("octets", MALFORMED.values(), ids=MALFORMED)
@ace("ADJ-8392-2", "ADJ-9052-3")
def test_malformed(octets: bytes) -> None:
    with pytest.raises(MalformedToken):
        CoseMessage.parse(octets)


@pytest.mark.parametrize("octets", UNPROTECTED.values(), ids=UNPROTECTED)
@ace("ADJ-8392-3", "ADJ-9052-4")
def test_not_protected_as_we_accept_it(octets: bytes) -> None:
    with pytest.raises(UnprotectedToken):
        CoseMessage.parse(octets)


@ace("ADJ-9052-1", "ADJ-9052-4")
def test_an_empty_protected_header_protects_no_algorithm() -> None:
    """However it is written: as a zero-length string, or with an empty map inside."""
    for protected in (b"", b"\xa0"):
        octets = signed(b"", {1: -8}).replace(cbor2.dumps(b""), cbor2.dumps(protected), 1)
        with pytest.raises(UnprotectedToken):
            CoseMessage.parse(octets)


@ace("ADJ-9052-4", "ADJ-8392-3")
def test_headers_that_are_understood_or_can_be_ignored() -> None:
    for octets in (
        signed(header((1, -8)), {}),
        signed(header((1, -8), (3, "application/cwt"), (4, b"k")), {}),
        signed(header((1, -8), (99, "ignored")), {"ignored": [1, {2: 3}]}),
        signed(header((1, -8), (2, [1, 4]), (4, b"k")), {}),
        signed(header((1, -19)), {}),
    ):
        assert CoseMessage.parse(octets).open(SIGNER) == b"payload"


def test_a_header_of_another_spelling_is_signed_as_it_stands() -> None:
    spelled = bytes.fromhex("a1013807")  # -8 in two octets
    assert CoseMessage.parse(signed(spelled, {})).open(SIGNER) == b"payload"


def test_a_public_key_is_no_secret_for_a_mac() -> None:
    """Algorithm confusion: HMAC with the octets of the public key."""
    public = Key.from_jwk(SIGNER.jwk())
    forged = seal(HS256, Key(base64.urlsafe_b64decode(SIGNER.jwk()["x"] + "=")), b"content")
    with pytest.raises(UnauthenticToken):
        CoseMessage.parse(forged).open(public)


def test_what_is_protected_for_one_purpose_is_not_for_another() -> None:
    structure = cbor2.dumps(["Encrypt0", header((1, 5)), NO_AAD, b"payload"])
    octets = message(header((1, 5)), {}, b"payload", SECRET.sign(HS256, structure), tag=17)
    with pytest.raises(UnauthenticToken):
        CoseMessage.parse(octets).open(SECRET)


def test_a_key_that_does_not_fit_seals_nothing() -> None:
    with pytest.raises(InvalidKey):
        seal(HS256, SIGNER, b"content")
    with pytest.raises(InvalidKey):
        seal(A128GCM, SECRET, b"content", nonce=NONCE)


def test_errors_show_nothing_of_the_message() -> None:
    octets = seal(HS256, SECRET, b"secret content", kid=b"secret kid")
    with pytest.raises(UnauthenticToken) as caught:
        CoseMessage.parse(octets).open(Key(bytes(32)))
    assert "secret" not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None
