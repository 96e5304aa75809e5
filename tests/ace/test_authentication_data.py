"""Layouts of Authentication Data and of the credentials of MQTT 3.1.1, right and wrong, octet by octet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.authentication_data import (
    METHOD,
    decode_answer,
    decode_challenge,
    decode_connect,
    decode_renewal,
    decode_user_name,
    encode_answer,
    encode_connect,
    encode_user_name,
)
from acebroker_ace.errors import HandshakeViolation, MalformedToken
from tests.conformance.statements import ace

MAC = bytes.fromhex("885805b4f80fbc88eebd4d01a0fd96cdab1a7ad69d8e377b8a25b2919794f192")


@ace("ACE-2.2.4.2-1")
def test_the_method() -> None:
    assert METHOD.encode() == bytes.fromhex("616365")


@ace("ACE-2.2.4.2-3", "ACE-2.2.4.2.1-1", "ACE-2.2.4.2.2-1")
def test_connect_with_and_without_proof() -> None:
    assert encode_connect(b"tok", MAC).hex() == "0003746f6b" + MAC.hex()
    assert decode_connect(bytes.fromhex("0003746f6b") + MAC) == (b"tok", MAC)
    assert encode_connect(b"tok").hex() == "0003746f6b"
    assert decode_connect(bytes.fromhex("0003746f6b")) == (b"tok", b"")
    assert decode_connect(bytes.fromhex("0003746f6b00")) == (b"tok", b"\0")
    for nothing in (None, b"\0\0"):
        assert decode_connect(nothing) == (b"", b"")


MALFORMED_CONNECT = {
    "empty data": "",
    "half a length": "00",
    "token cut short": "0003746f",
    "length without token": "0001",
    "length beyond everything": "ffff00",
    "proof without token": "000000",
    "no length, as some had it": "746f6b",
}


@pytest.mark.parametrize("data", MALFORMED_CONNECT.values(), ids=MALFORMED_CONNECT)
@ace("ACE-2.2.4.2.1-1", "ACE-2.4.1-1")
def test_malformed_in_connect(data: str) -> None:
    with pytest.raises(HandshakeViolation):
        decode_connect(bytes.fromhex(data))
    with pytest.raises(HandshakeViolation):
        decode_renewal(bytes.fromhex(data))


@ace("ACE-4-8")
def test_renewal_is_a_token_and_nothing_else() -> None:
    assert decode_renewal(encode_connect(b"tok")) == b"tok"
    for data in (None, b"\0\0", encode_connect(b"tok", MAC), encode_connect(b"tok") + b"\0"):
        with pytest.raises(HandshakeViolation):
            decode_renewal(data)


@ace("ACE-2.2.4.2.2-4", "ACE-2.2.4.2.2-5")
def test_challenge_and_answer() -> None:
    broker_nonce, client_nonce = bytes(range(8)), bytes(range(8, 16))
    assert decode_challenge(broker_nonce) == broker_nonce
    assert encode_answer(client_nonce, MAC) == client_nonce + MAC
    assert decode_answer(client_nonce + MAC) == (client_nonce, MAC)
    assert decode_answer(client_nonce + b"x") == (client_nonce, b"x")
    for challenge in (None, b"", broker_nonce[:7], broker_nonce + b"\0", b"\0\x08" + broker_nonce):
        with pytest.raises(HandshakeViolation):
            decode_challenge(challenge)
    for answer in (None, b"", client_nonce[:7], client_nonce):
        with pytest.raises(HandshakeViolation):
            decode_answer(answer)


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=100))
def test_what_is_encoded_is_decoded(token: bytes, proof: bytes) -> None:
    assert decode_connect(encode_connect(token, proof)) == (token, proof)
    assert decode_user_name(encode_user_name(token)) == token


@given(st.binary(max_size=40))
def test_arbitrary_data_is_read_or_refused(data: bytes) -> None:
    for decode in (decode_connect, decode_renewal, decode_challenge, decode_answer):
        try:
            decode(data)
        except HandshakeViolation:
            pass


def test_what_does_not_fit_is_not_encoded() -> None:
    assert len(encode_connect(bytes(65_469), bytes(64))) == 65_535
    for token, proof in ((b"", b""), (b"", MAC), (bytes(65_470), bytes(64)), (bytes(70_000), b"")):
        with pytest.raises(ValueError, match="token"):
            encode_connect(token, proof)
    assert len(encode_user_name(bytes(49_149))) <= 65_535
    for token in (b"", bytes(49_152)):
        with pytest.raises(ValueError, match="token"):
            encode_user_name(token)


@ace("ACE-6.1-12", "ACE-6.1-13")
def test_user_name_of_mqtt_3() -> None:
    assert encode_user_name(b"a.b.c") == "aceYS5iLmM"
    assert decode_user_name("aceYS5iLmM") == b"a.b.c"
    assert decode_user_name("ace") == b""
    for user_name in ("aceYS5iLmM=", "acea.b.c", "aceYS5iLmM ", "aceA", "aceé", "aceAB"):
        with pytest.raises(MalformedToken):
            decode_user_name(user_name)
