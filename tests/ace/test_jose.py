"""JWS and JWE: examples of the standards, tokens of an independent issuer, and everything that is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.errors import InvalidToken, MalformedToken, UnauthenticToken, UnprotectedToken
from acebroker_ace.jose import CONTENT_ENCRYPTION, KEY_MANAGEMENT, JoseMessage
from acebroker_ace.keys import Key
from tests.ace.issuer import b64, compact_jwe, compact_jws, jwk, raw_signature, unb64
from tests.conformance.statements import ace

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(123_456_789, ec.SECP256R1())
SECRET = bytes(range(32))

#: key, compact serialization, payload
EXAMPLES = {
    "RFC 7515 A.1, HS256": (
        {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}',
    ),
    "RFC 7515 A.3, ES256": (
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
        "eyJhbGciOiJFUzI1NiJ9"
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}',
    ),
    "RFC 8037 A.4, EdDSA": (
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
        ".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        b"Example of Ed25519 signing",
    ),
    "RFC 7516 A.3, A128KW and A128CBC-HS256": (
        {"kty": "oct", "k": "GawgguFyGrWKav7AX4VKUg"},
        "eyJhbGciOiJBMTI4S1ciLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.6KB707dM9YTIgHtLvtgWQ8mKwboJW3of9locizkDTHzBC2IlrT1oOQ"
        ".AxY8DCtDaGlsbGljb3RoZQ.KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY.U0m_YmjN04DJvceFICbCVQ",
        b"Live long and prosper.",
    ),
}


def jws(header: dict[str, Any] | bytes, payload: bytes = b"{}", signature: bytes = bytes(64)) -> bytes:
    """A JWS of any header, signed with nothing."""
    octets = header if isinstance(header, bytes) else json.dumps(header).encode()
    return f"{b64(octets)}.{b64(payload)}.{b64(signature)}".encode()


def opened(octets: bytes, key: Any, **members: Any) -> bytes:
    """The content under a key of `cryptography`, or under octets."""
    return JoseMessage.parse(octets).open(Key.from_jwk(jwk(key, private=True, **members)))


@pytest.mark.parametrize(("key", "text", "payload"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_of_the_standards(key: dict[str, str], text: str, payload: bytes) -> None:
    assert JoseMessage.parse(text.encode()).open(Key.from_jwk(key)) == payload


@pytest.mark.parametrize(("algorithm", "key"), [("EdDSA", ED25519), ("ES256", P256), ("HS256", SECRET)])
@ace("ADJ-7519-1", "ADJ-7515-1")
def test_what_an_independent_issuer_signs(algorithm: str, key: Any) -> None:
    octets = compact_jws(b"payload", key, algorithm, {"kid": "k1", "typ": "JWT", "unknown": [1]})
    message = JoseMessage.parse(octets)
    assert (message.kid_unverified, message.authenticates, message.nested) == (b"k1", True, False)
    assert opened(octets, key) == b"payload"
    with pytest.raises(UnprotectedToken):
        message.open(Key.from_jwk(jwk(key)), algorithms=["ES384"])


def test_the_name_ed25519_is_eddsa() -> None:
    header = json.dumps({"alg": "Ed25519"}).encode()
    signing_input = f"{b64(header)}.{b64(b'payload')}".encode()
    octets = signing_input + b"." + b64(ED25519.sign(signing_input)).encode()
    assert opened(octets, ED25519) == b"payload"


@pytest.mark.parametrize("enc", CONTENT_ENCRYPTION)
@pytest.mark.parametrize("alg", KEY_MANAGEMENT)
def test_what_an_independent_issuer_encrypts(alg: str, enc: str) -> None:
    key: Any = (
        P256 if alg.startswith("ECDH") else bytes({"dir": CONTENT_ENCRYPTION[enc], "A128KW": 16, "A256KW": 32}[alg])
    )
    octets = compact_jwe(b"payload", key, alg, enc, cty="jwt", kid="k1")
    message = JoseMessage.parse(octets)
    assert (message.kid_unverified, message.nested) == (b"k1", True)
    assert message.authenticates is not alg.startswith("ECDH")
    assert opened(octets, key) == b"payload"


def test_encryption_to_a_public_key_proves_nothing() -> None:
    assert not JoseMessage.parse(compact_jwe(b"{}", P256, "ECDH-ES", "A128GCM")).authenticates


@given(st.data())
def test_no_part_can_be_changed(data: st.DataObject) -> None:
    octets, key = data.draw(
        st.sampled_from(
            [
                (compact_jws(b"payload", SECRET, "HS256"), SECRET),
                (compact_jws(b"payload", ED25519, "EdDSA"), ED25519),
                (compact_jwe(b"payload", SECRET, "dir", "A256GCM"), SECRET),
                (compact_jwe(b"payload", P256, "ECDH-ES", "A128CBC-HS256"), P256),
            ]
        )
    )
    index = data.draw(st.integers(0, len(octets) - 1))
    changed = bytearray(octets)
    changed[index] = data.draw(st.integers(0, 255).filter(lambda byte: byte != octets[index]))
    with pytest.raises(InvalidToken):
        opened(bytes(changed), key)


@given(st.binary(max_size=60) | st.text("AbQ_-.", max_size=60).map(str.encode))
def test_arbitrary_octets_are_no_message(octets: bytes) -> None:
    with pytest.raises(InvalidToken):
        opened(octets, SECRET)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "enc", "kid", "cty", "epk", "apu", "apv", "p2s", "iv", "tag", "x"]),
        st.sampled_from(
            ["HS256", "dir", "ECDH-ES", "A128KW", "A128GCM", "A256GCM", "", 1, None, {}, {"kty": "EC"}, [[]]]
        ),
    ),
    st.lists(st.binary(max_size=20), min_size=2, max_size=4),
)
def test_arbitrary_headers_open_nothing(header: dict[str, Any], segments: list[bytes]) -> None:
    octets = ".".join(map(b64, [json.dumps(header).encode(), *segments])).encode()
    for key in (SECRET, bytes(16), P256, ED25519):
        with pytest.raises(InvalidToken):
            opened(octets, key)


def test_every_prefix_is_refused() -> None:
    for octets, key in (
        (compact_jws(b"{}", SECRET, "HS256"), SECRET),
        (compact_jwe(b"{}", SECRET, "dir", "A256GCM"), SECRET),
    ):
        for cut in range(len(octets)):
            with pytest.raises(InvalidToken):
                opened(octets[:cut], key)
        for more in (b".", b"A", b"=", b" ", b"\n"):
            with pytest.raises(InvalidToken):
                opened(octets + more, key)


MALFORMED = {
    "nothing": b"",
    "one part": b"AAAA",
    "two parts": b"e30.e30",
    "four parts": b"e30.e30.e30.e30",
    "six parts": b"e30.e30.e30.e30.e30.e30",
    "not ASCII": "é.e30.e30".encode(),
    "padding": b"eyJhbGciOiJIUzI1NiJ9.e30=.AAAA",
    "a space": b"eyJhbGciOiJIUzI1NiJ9.e30 .AAAA",
    "header is no JSON": jws(b"x"),
    "header is a list": jws(b"[]"),
    "header names alg twice": jws(b'{"alg":"none","alg":"HS256"}'),
    "no alg": jws({}),
    "alg is a number": jws({"alg": 5}),
    "kid is a number": jws({"alg": "HS256", "kid": 1}),
    "no enc": b"eyJhbGciOiJkaXIifQ.AAAA.AAAA.AAAA.AAAA",
    "JSON serialization": b'{"payload":"","protected":"","signature":""}',
}
UNPROTECTED = {
    "none": jws({"alg": "none"}, signature=b""),
    "None": jws({"alg": "None"}),
    "RS256": jws({"alg": "RS256"}),
    "PS256": jws({"alg": "PS256"}),
    "a COSE number as text": jws({"alg": "5"}),
    "crit": jws({"alg": "HS256", "crit": ["x"], "x": 1}),
    "crit without entries": jws({"alg": "HS256", "crit": []}),
    "unencoded payload": jws({"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "unencoded payload, not critical": jws({"alg": "HS256", "b64": False}),
    "RSA1_5": compact_jwe(b"", SECRET, "dir", "A256GCM", alg="RSA1_5"),
    "RSA-OAEP": compact_jwe(b"", SECRET, "dir", "A256GCM", alg="RSA-OAEP"),
    "PBES2": compact_jwe(b"", SECRET, "dir", "A256GCM", alg="PBES2-HS256+A128KW", p2c=2**31, p2s="AAAA"),
    "a signature algorithm": compact_jwe(b"", SECRET, "dir", "A256GCM", alg="HS256"),
    "an encryption not listed": compact_jwe(b"", SECRET, "dir", "A256GCM", enc="A192GCM"),
    "compression": compact_jwe(b"", SECRET, "dir", "A256GCM", zip="DEF"),
    "crit in a JWE": compact_jwe(b"", SECRET, "dir", "A256GCM", crit=["exp"], exp=1),
}


@pytest.mark.parametrize("octets", MALFORMED.values(), ids=MALFORMED)
def test_malformed(octets: bytes) -> None:
    with pytest.raises(MalformedToken):
        JoseMessage.parse(octets)


@pytest.mark.parametrize("octets", UNPROTECTED.values(), ids=UNPROTECTED)
@ace("ADJ-7515-1", "ADJ-7519-1", "ACE-2.2.5-8")
def test_not_protected_as_we_accept_it(octets: bytes) -> None:
    with pytest.raises(UnprotectedToken):
        JoseMessage.parse(octets)


@ace("ADJ-7519-1")
def test_a_public_key_is_no_secret_for_a_mac() -> None:
    """Algorithm confusion: HS256 with the octets of the public key, in the forms that libraries have mistaken."""
    public = Key.from_jwk(jwk(ED25519))
    for secret in (unb64(jwk(ED25519)["x"]), json.dumps(jwk(ED25519)).encode()):
        signing_input = jws({"alg": "HS256"}).rpartition(b".")[0]
        forged = signing_input + b"." + b64(raw_signature(secret, signing_input)).encode()
        with pytest.raises(UnauthenticToken):
            JoseMessage.parse(forged).open(public)


def test_a_key_in_the_header_is_not_believed() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    header = {"jwk": jwk(stranger), "jku": "https://attacker.example/keys", "x5u": "https://attacker.example/cert"}
    with pytest.raises(UnauthenticToken):
        opened(compact_jws(b"{}", stranger, "EdDSA", header), ED25519)


@pytest.mark.parametrize(
    ("octets", "key"),
    [
        (compact_jws(b"{}", SECRET, "HS256"), Key(bytes(32))),
        (compact_jws(b"{}", SECRET, "HS256"), Key(SECRET[:31])),
        (compact_jws(b"{}", SECRET, "HS256"), Key(SECRET, algorithm="HS512")),
        (compact_jws(b"{}", SECRET, "HS256"), Key.from_jwk(jwk(SECRET, use="enc"))),
        (compact_jws(b"{}", P256, "ES256"), Key.from_jwk(jwk(ED25519))),
        (compact_jwe(b"{}", SECRET, "dir", "A256GCM"), Key(bytes(16))),
        (compact_jwe(b"{}", SECRET, "dir", "A256GCM"), Key.from_jwk(jwk(SECRET, use="sig"))),
        (compact_jwe(b"{}", SECRET, "dir", "A256GCM"), Key(SECRET, algorithm="A128GCM")),
        (compact_jwe(b"{}", SECRET, "A256KW", "A128GCM"), Key(SECRET, algorithm="dir")),
        (compact_jwe(b"{}", P256, "ECDH-ES", "A128GCM"), Key.from_jwk(jwk(P256))),
        (compact_jwe(b"{}", P256, "ECDH-ES", "A128GCM"), Key(ec.derive_private_key(5, ec.SECP256R1()))),
        (compact_jwe(b"{}", P256, "ECDH-ES", "A128GCM"), Key(ec.derive_private_key(5, ec.SECP384R1()))),
    ],
)
@ace("ADJ-7518-1", "ADJ-9201-7")
def test_another_key_opens_nothing(octets: bytes, key: Key) -> None:
    with pytest.raises(UnauthenticToken):
        JoseMessage.parse(octets).open(key)


def test_nothing_of_the_message_is_shown() -> None:
    octets = compact_jws(b"secret", SECRET, "HS256", {"kid": "secret"})
    message = JoseMessage.parse(octets)
    assert repr(message) == "JoseMessage(HS256)"
    with pytest.raises(UnauthenticToken) as caught:
        message.open(Key(bytes(32)))
    assert octets.decode() not in str(caught.value)
    assert caught.value.__cause__ is None
