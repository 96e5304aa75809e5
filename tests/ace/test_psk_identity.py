"""PSK identities: a `kid` in CBOR or JSON, or a whole token."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.errors import MalformedToken
from acebroker_ace.psk_identity import (
    IDENTITY_OCTETS_MAX,
    KeyIdentity,
    TokenIdentity,
    identity_of_key,
    parse_identity,
)
from tests.conformance.statements import ace

RFC_9202 = bytes.fromhex("a108a101a2010402483d027833fc6267ce")
KID = bytes.fromhex("3d027833fc6267ce")


@ace("ACE-2.2.3.2-4", "ACE-2.2.3.2-5")
def test_a_kid() -> None:
    assert identity_of_key(KID) == RFC_9202
    assert parse_identity(RFC_9202) == KeyIdentity(KID)
    assert parse_identity(b'{"cnf":{"jwk":{"kty":"oct","kid":"k1"}}}') == KeyIdentity(b"k1")
    assert parse_identity(b'{ "jwk": {"kid": "\xc3\xa9", "kty": "oct"} }') == KeyIdentity("é".encode())
    assert parse_identity(cbor2.dumps({1: {1: "Symmetric", 2: b"k"}})) == KeyIdentity(b"k")


@ace("ACE-2.2.3.2-6")
@pytest.mark.parametrize(
    "token", [b"eyJhbGciOiJIUzI1NiJ9.e30.AAAA", b"\xd8\x3d\xd0\x83", b"\x83\x40\xa0\x40", b"reference"]
)
def test_anything_else_is_a_token_as_it_stands(token: bytes) -> None:
    identity = parse_identity(token)
    assert identity == TokenIdentity(token)
    assert repr(identity) == f"TokenIdentity(<{len(token)} octets>)"


NOT_AN_IDENTITY: dict[str, Any] = {
    "an empty map": {},
    "another label": {9: {1: {1: 4, 2: KID}}},
    "cnf beside something": {8: {1: {1: 4, 2: KID}}, 9: 1},
    "two keys": {8: {1: {1: 4, 2: KID}, 2: []}},
    "an encrypted key": {8: {2: []}},
    "a kid alone": {8: {3: KID}},
    "cnf twice": {8: {8: {1: {1: 4, 2: KID}}}},
    "no map in cnf": {8: 1},
    "no key": {8: {1: 1}},
    "no kid": {8: {1: {1: 4}}},
    "no type": {8: {1: {2: KID}}},
    "another type": {8: {1: {1: 2, 2: KID}}},
    "a type that is a boolean": {8: {1: {1: True, 2: KID}}},
    "kid as text": {8: {1: {1: 4, 2: "k"}}},
    "an empty kid": {8: {1: {1: 4, 2: b""}}},
    "the key itself": {8: {1: {1: 4, 2: KID, -1: bytes(32)}}},
    "JSON: empty": "{}",
    "JSON: not ended": '{"cnf":',
    "JSON: something after": '{"jwk":{"kty":"oct","kid":"k"}}x',
    "JSON: kid alone": '{"cnf":{"kid":"k"}}',
    "JSON: the key itself": '{"cnf":{"jwk":{"kty":"oct","kid":"k","k":"AAAA"}}}',
    "JSON: another type": '{"cnf":{"jwk":{"kty":"EC","kid":"k"}}}',
    "JSON: kid is a number": '{"cnf":{"jwk":{"kty":"oct","kid":1}}}',
    "JSON: kid is empty": '{"cnf":{"jwk":{"kty":"oct","kid":""}}}',
    "JSON: kid twice": '{"cnf":{"jwk":{"kty":"oct","kid":"a","kid":"b"}}}',
    "JSON: too deep": '{"cnf":' * 40 + "1" + "}" * 40,
}


@pytest.mark.parametrize("identity", NOT_AN_IDENTITY.values(), ids=NOT_AN_IDENTITY)
def test_an_identity_that_is_refused(identity: Any) -> None:
    octets = identity.encode() if isinstance(identity, str) else cbor2.dumps(identity)
    with pytest.raises(MalformedToken):
        parse_identity(octets)


def test_length_is_bounded() -> None:
    assert parse_identity(b"x" * IDENTITY_OCTETS_MAX) == TokenIdentity(b"x" * IDENTITY_OCTETS_MAX)
    for octets in (b"", b"x" * (IDENTITY_OCTETS_MAX + 1), RFC_9202 + b"\0", RFC_9202[:-1]):
        with pytest.raises(MalformedToken):
            parse_identity(octets)


@given(st.binary(max_size=40), st.sampled_from([b"", b"{", b"\xa1", b"\xa1\x08"]))
def test_arbitrary_octets(octets: bytes, start: bytes) -> None:
    try:
        parse_identity(start + octets)
    except MalformedToken:
        pass


@given(st.binary(min_size=1, max_size=30))
def test_every_kid_comes_back(kid: bytes) -> None:
    assert parse_identity(identity_of_key(kid)) == KeyIdentity(kid)
