"""Tokens of an independent issuer: in every protection, in the order of validation, and all that is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from acebroker_ace.algorithms import ALGORITHMS
from acebroker_ace.connection_types import ConnectionType
from acebroker_ace.errors import (
    ExpiredToken,
    InvalidToken,
    MalformedToken,
    Occasion,
    PrematureToken,
    StaleNonce,
    UnauthenticToken,
    UnknownIssuer,
    UnprotectedToken,
    UnreadableClaims,
    UnrecognizedScope,
    UnusableConfirmation,
    WrongAudience,
)
from acebroker_ace.expires_in import ExpiresIn
from acebroker_ace.keys import Key
from acebroker_ace.token import KEYS_TRIED_MAX, AccessToken, AuthorizationServer, TokenVerifier
from acebroker_codec.errors import ReasonCode
from tests.ace.issuer import b64, compact_jwe, compact_jws, cose_encrypt0, cose_key, cose_mac0, cose_sign1, jwk
from tests.conformance.statements import ace

NOW = 1_800_000_000.0
ISSUER = "https://as.example"
BROKER = "mqtts://broker.example"

#: keys of the authorization server
AS_ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AS_P256 = ec.derive_private_key(123_456_789, ec.SECP256R1())
AS_SECRET = bytes(range(1, 33))
AS_SECRET_16 = bytes(range(2, 18))
#: keys of the broker, of the client, and of somebody else
BROKER_P256 = ec.derive_private_key(555, ec.SECP256R1())
CLIENT_ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(3, 35)))
CLIENT_SECRET = bytes(range(4, 36))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))

SERVER = AuthorizationServer(
    ISSUER,
    (
        Key.from_jwk(jwk(AS_ED25519, kid="ed")),
        Key.from_jwk(jwk(AS_P256, kid="p256")),
        Key(AS_SECRET, kid=b"shared"),
        Key(AS_SECRET_16, kid=b"short"),
    ),
)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
OTHER_SECRET = bytes([8]) * 32
OTHER_SERVER = AuthorizationServer("https://other.example", (Key.from_jwk(jwk(OTHER_KEY)), Key(OTHER_SECRET)))
VERIFIER = TokenVerifier(
    [SERVER, OTHER_SERVER], [BROKER, "rs1"], own_keys=[Key.from_jwk(jwk(BROKER_P256, private=True))]
)

SCOPE = [["topic1", ["pub", "sub"]], ["topic2/#", ["pub"]]]
CBOR_KEYS = {
    "iss": 1,
    "sub": 2,
    "aud": 3,
    "exp": 4,
    "nbf": 5,
    "iat": 6,
    "cti": 7,
    "cnf": 8,
    "scope": 9,
    "cnonce": 39,
    "exi": 40,
}

Claims = dict[str, Any]


def claims(**changes: Any) -> Claims:
    """The claims of a good token; None leaves one out."""
    good = {
        "iss": ISSUER,
        "sub": "device1",
        "aud": BROKER,
        "exp": NOW + 60,
        "iat": NOW - 60,
        "scope": SCOPE,
        "cnf": CLIENT_ED25519,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def in_json(content: Claims) -> bytes:
    """As a JWT has them: keys become `jwk`, a scope base64url of JSON."""
    out = dict(content)
    if isinstance(out.get("scope"), list):
        out["scope"] = b64(json.dumps(out["scope"]).encode())
    if isinstance(out.get("cnf"), bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        out["cnf"] = {"jwk": jwk(out["cnf"])}
    if isinstance(out.get("cnonce"), bytes):
        out["cnonce"] = b64(out["cnonce"])
    return json.dumps(out).encode()


def in_cbor(content: Claims) -> bytes:
    """As a CWT has them: keys become COSE_Key, a scope octets of CBOR."""
    out = dict(content)
    if isinstance(out.get("scope"), list):
        out["scope"] = cbor2.dumps(out["scope"])
    if isinstance(out.get("cnf"), bytes | Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        out["cnf"] = {1: cose_key(out["cnf"])}
    return cbor2.dumps({CBOR_KEYS.get(name, name): value for name, value in out.items()})


def jwt_of(content: Claims, key: Any = AS_ED25519, algorithm: str = "EdDSA", **header: Any) -> bytes:
    """A signed JWT."""
    return compact_jws(in_json(content), key, algorithm, {"typ": "JWT", **header})


def nested_jwt(content: Claims) -> bytes:
    """A JWT that is signed, then encrypted with a shared key."""
    return compact_jwe(jwt_of(content), AS_SECRET, "dir", "A256GCM", cty="JWT")


def cwt_of(content: Claims) -> bytes:
    """A signed CWT."""
    return cose_sign1(in_cbor(content), AS_ED25519)


def encrypted_cwt(content: Claims) -> bytes:
    """A CWT encrypted with a shared key."""
    return cose_encrypt0(in_cbor(content), AS_SECRET)


Issue = Callable[[Claims], bytes]

#: every way in which a token is protected; whether its content is hidden
PROTECTIONS: dict[str, tuple[Issue, bool]] = {
    "JWS EdDSA": (jwt_of, False),
    "JWS ES256": (lambda c: jwt_of(c, AS_P256, "ES256"), False),
    "JWS HS256": (lambda c: jwt_of(c, AS_SECRET, "HS256"), False),
    "JWS with kid": (lambda c: jwt_of(c, kid="ed"), False),
    "JWE dir": (lambda c: compact_jwe(in_json(c), AS_SECRET, "dir", "A256GCM"), True),
    "JWE A256KW": (lambda c: compact_jwe(in_json(c), AS_SECRET, "A256KW", "A128CBC-HS256", kid="shared"), True),
    "JWS in JWE": (nested_jwt, True),
    "JWS in JWE to our public key": (
        lambda c: compact_jwe(jwt_of(c), BROKER_P256, "ECDH-ES+A128KW", "A256GCM", cty="jwt"),
        True,
    ),
    "JWE in JWS": (
        lambda c: compact_jws(
            compact_jwe(in_json(c), AS_SECRET, "dir", "A256GCM"), AS_ED25519, "EdDSA", {"cty": "JWT"}
        ),
        True,
    ),
    "COSE_Sign1 EdDSA": (cwt_of, False),
    "COSE_Sign1 ES256": (lambda c: cose_sign1(in_cbor(c), AS_P256, kid=b"p256"), False),
    "COSE_Sign1 untagged": (lambda c: cose_sign1(in_cbor(c), AS_ED25519, tags=b""), False),
    "COSE_Sign1 as CWT": (lambda c: cose_sign1(in_cbor(c), AS_ED25519, tags=b"\xd8\x3d\xd2"), False),
    "COSE_Mac0": (lambda c: cose_mac0(in_cbor(c), AS_SECRET), False),
    "COSE_Mac0 untagged": (lambda c: cose_mac0(in_cbor(c), AS_SECRET, tags=b""), False),
    "COSE_Encrypt0 CCM": (lambda c: cose_encrypt0(in_cbor(c), AS_SECRET_16, kid=b"short"), True),
    "COSE_Encrypt0 GCM": (encrypted_cwt, True),
    "COSE_Encrypt0 untagged": (lambda c: cose_encrypt0(in_cbor(c), AS_SECRET, tags=b""), True),
    "COSE_Sign1 in COSE_Encrypt0": (lambda c: cose_encrypt0(cwt_of(c), AS_SECRET), True),
    "COSE_Sign1 in COSE_Encrypt0 as CWT": (lambda c: cose_encrypt0(cwt_of(c), AS_SECRET, tags=b"\xd8\x3d\xd0"), True),
    "COSE_Encrypt0 in COSE_Sign1": (lambda c: cose_sign1(encrypted_cwt(c), AS_ED25519), True),
}
each_protection = pytest.mark.parametrize(("issue", "hidden"), PROTECTIONS.values(), ids=PROTECTIONS)


def verify(token: bytes, now: float = NOW, **arguments: Any) -> AccessToken:
    """The token, verified by the broker's verifier."""
    return VERIFIER.verify(token, now, **arguments)


def key_of(token: AccessToken) -> bytes:
    """The thumbprint of its key."""
    assert token.key is not None
    return token.key.thumbprint


# ---- good tokens ----


@each_protection
@ace(
    "ACE-1-7",
    "ACE-2.2.5-2",
    "ACE-2.2.5-4",
    "ACE-2.2.5-6",
    "ACE-2.2.5-9",
    "ACE-2.3-4",
    "ACE-2.3-5",
    "ADJ-7519-1",
    "ADJ-8392-2",
    "ADJ-8392-3",
    "ADJ-9200-31",
)
def test_a_good_token_in_every_protection(issue: Issue, hidden: bool) -> None:
    token = issue(claims())
    verified = verify(token)
    assert (verified.issuer, verified.subject) == (ISSUER, "device1")
    assert (verified.expires_at, verified.issued_at) == (NOW + 60, NOW - 60)
    assert verified.scope.permits_publish("topic2/a")
    assert not verified.scope.permits_subscribe("topic2/a")
    assert key_of(verified) == verified.confirmed_by == Key.from_jwk(jwk(CLIENT_ED25519)).thumbprint
    assert verified.thumbprint == hashlib.sha256(token).digest()
    assert verified.connection_types == frozenset()


@each_protection
@ace("ACE-2.1-12", "ACE-2.1-13", "ADJ-7800-4", "ADJ-8747-2")
def test_a_symmetric_key_only_where_nobody_else_can_read_it(issue: Issue, hidden: bool) -> None:
    token = issue(claims(cnf=CLIENT_SECRET))
    if hidden:
        assert key_of(verify(token)) == Key(CLIENT_SECRET).thumbprint
    else:
        with pytest.raises(UnusableConfirmation):
            verify(token)


@ace("ACE-2.1-12", "ACE-2.1-13", "ADJ-7800-4", "ADJ-8747-2")
@pytest.mark.parametrize("issue", [jwt_of, cwt_of])
def test_a_symmetric_key_that_is_encrypted_by_itself(issue: Issue) -> None:
    if issue is jwt_of:
        plaintext = json.dumps(jwk(CLIENT_SECRET)).encode()
        keys: list[Any] = [
            {"jwe": compact_jwe(plaintext, AS_SECRET, "A256KW", "A256GCM").decode()},
            {"jwe": compact_jwe(plaintext, BROKER_P256, "ECDH-ES", "A256GCM").decode(), "kid": "k1"},
        ]
    else:
        plaintext = cbor2.dumps(cose_key(CLIENT_SECRET))
        keys = [{2: cbor2.loads(cose_encrypt0(plaintext, AS_SECRET_16, tags=b""))}]
    for cnf in keys:
        assert key_of(verify(issue(claims(cnf=cnf)))) == Key(CLIENT_SECRET).thumbprint


@ace("ADJ-8747-2")
def test_the_encrypted_key_of_rfc_8747() -> None:
    shared = bytes.fromhex("6162630405060708090a0b0c0d0e0f10")
    encrypted = [
        bytes.fromhex("a1010a"),
        {5: bytes.fromhex("636898994ff0ec7bfcf6d3f95b")},
        bytes.fromhex(
            "0573318a3573eb983e55a7c2f06cadd0796c9e584f1d0e3ea8c5b052592a8b2694be9654f0431f38d5bbc8049fa7f13f"
        ),
    ]
    content = {
        1: "coaps://server.example.com",
        2: "24400320",
        3: "s6BhdRkqt3",
        4: 1_311_281_970,
        6: 1_311_280_970,
        8: {2: encrypted},
    }
    server = AuthorizationServer("coaps://server.example.com", (Key.from_jwk(jwk(AS_ED25519)), Key(shared)))
    verifier = TokenVerifier([server], ["s6BhdRkqt3"])
    verified = verifier.verify(cose_sign1(cbor2.dumps(content), AS_ED25519), 1_311_281_000)
    key = bytes.fromhex("6684523ab17337f173500e5728c628547cb37dfe68449c65f885d1b73b49eae1")
    assert key_of(verified) == Key(key).thumbprint


def test_other_confirmations() -> None:
    thumbprint = bytes(range(32))
    by_certificate = verify(jwt_of(claims(cnf={"x5t#S256": b64(thumbprint)})))
    assert by_certificate.key is None
    assert by_certificate.certificate_thumbprint == by_certificate.confirmed_by == thumbprint
    known = {(ISSUER, b"k1"): Key(CLIENT_SECRET)}
    for token in (jwt_of(claims(cnf={"kid": "k1"})), cwt_of(claims(cnf={3: b"k1"}))):
        assert key_of(verify(token, known_keys=known)) == Key(CLIENT_SECRET).thumbprint
        for unknown in ({}, {("https://other.example", b"k1"): Key(CLIENT_SECRET)}):
            with pytest.raises(UnusableConfirmation):
                verify(token, known_keys=unknown)


def test_connection_types_come_along() -> None:
    for issue in (jwt_of, cwt_of):
        verified = verify(issue(claims(allowed_connection_types=["MQTT", "later"])))
        assert verified.connection_types == {ConnectionType.MQTT}


def test_a_token_of_another_server() -> None:
    token = jwt_of(claims(iss="https://other.example"), OTHER_KEY)
    assert verify(token).issuer == "https://other.example"
    assert verify(jwt_of(claims(iss=None), OTHER_KEY)).issuer == "https://other.example"


# ---- the order of validation ----

BAD_SCOPE = "not base64url!"
#: failure -> (what makes a token fail so, arguments of `verify`), in the order in which they are looked for
FAILURES: dict[type[InvalidToken], tuple[Claims, dict[str, Any]]] = {
    UnreadableClaims: ({"sub": 1}, {}),
    UnknownIssuer: ({"iss": "https://other.example"}, {}),
    ExpiredToken: ({"exp": NOW}, {}),
    PrematureToken: ({"nbf": NOW + 1}, {}),
    WrongAudience: ({"aud": "mqtts://elsewhere.example"}, {}),
    UnrecognizedScope: ({"scope": BAD_SCOPE}, {}),
    StaleNonce: ({}, {"client_nonces": [b"fresh"]}),
    UnusableConfirmation: ({"cnf": {}}, {}),
}


@pytest.mark.parametrize("issue", [jwt_of, nested_jwt, cwt_of, encrypted_cwt])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
@ace("ACE-2.2.5-2", "ADJ-9200-33", "ADJ-9200-22", "ADJ-9200-32")
def test_each_failure_has_its_error(failure: type[InvalidToken], issue: Issue) -> None:
    changes, arguments = FAILURES[failure]
    with pytest.raises(InvalidToken) as caught:
        verify(issue(claims(**changes)), **arguments)
    assert type(caught.value) is failure


@pytest.mark.parametrize("issue", [jwt_of, cwt_of])
@pytest.mark.parametrize(
    ("first", "second"), list(itertools.combinations(FAILURES, 2)), ids=lambda failure: failure.__name__
)
@ace("ADJ-9200-33", "ACE-2.2.5-2")
def test_the_first_failure_is_told(first: type[InvalidToken], second: type[InvalidToken], issue: Issue) -> None:
    changes = FAILURES[second][0] | FAILURES[first][0]
    arguments = FAILURES[second][1] | FAILURES[first][1]
    with pytest.raises(InvalidToken) as caught:
        verify(issue(claims(**changes)), **arguments)
    assert type(caught.value) is first


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
@ace("ACE-2.2.5-4", "ADJ-9200-31")
def test_protection_is_looked_at_before_everything_else(failure: type[InvalidToken]) -> None:
    changes, arguments = FAILURES[failure]
    for token in (jwt_of(claims(**changes), STRANGER), cose_sign1(in_cbor(claims(**changes)), STRANGER)):
        with pytest.raises(UnauthenticToken):
            verify(token, **arguments)


def test_exi_is_looked_at_after_the_nonce_and_before_cnf() -> None:
    both = claims(exi=60, jti=f"{BROKER}1", cnf={})
    with pytest.raises(StaleNonce):
        verify(jwt_of(both), client_nonces=[b"fresh"])
    with pytest.raises(ExpiredToken):
        verify(jwt_of(both))


# ---- time ----


@pytest.mark.parametrize("issue", [jwt_of, cwt_of])
@ace("ADJ-7519-3", "ACE-2.2.5-9", "ACE-4-4")
def test_a_token_begins_at_nbf_and_is_over_at_exp(issue: Issue) -> None:
    token = issue(claims(nbf=NOW, exp=NOW + 10.5))
    assert verify(token, NOW).expires_at == NOW + 10.5
    assert verify(token, NOW + 10.4).is_valid_at(NOW + 10.4)
    assert not verify(token, NOW + 10.4).is_valid_at(NOW + 10.5)
    with pytest.raises(ExpiredToken):
        verify(token, NOW + 10.5)
    with pytest.raises(PrematureToken):
        verify(token, NOW - 0.1)


def test_a_token_without_end() -> None:
    token = verify(jwt_of(claims(exp=None)))
    assert token.expires_at is None
    assert token.is_valid_at(NOW * 10)


@ace("ADJ-7519-3")
def test_leeway_moves_both_ends() -> None:
    verifier = TokenVerifier([SERVER], [BROKER], leeway_seconds=5)
    token = jwt_of(claims(nbf=NOW, exp=NOW + 10))
    assert verifier.verify(token, NOW - 5).expires_at == NOW + 15
    verifier.verify(token, NOW + 14.9)
    with pytest.raises(PrematureToken):
        verifier.verify(token, NOW - 5.1)
    with pytest.raises(ExpiredToken):
        verifier.verify(token, NOW + 15)


@ace("ADJ-9200-34")
@pytest.mark.parametrize(
    ("issue", "numbered"),
    [
        (jwt_of, lambda number: {"jti": f"rs1{number}"}),
        (cwt_of, lambda number: {"cti": b"rs1" + bytes([number])}),
    ],
)
def test_exi_counts_from_the_first_verification(issue: Issue, numbered: Callable[[int], Claims]) -> None:
    running = {ISSUER: ExpiresIn()}
    token = issue(claims(exp=None, exi=60, **numbered(9)))
    assert verify(token, NOW, expires_in=running).expires_at == NOW + 60
    assert verify(token, NOW + 59, expires_in=running).expires_at == NOW + 60
    with pytest.raises(ExpiredToken):
        verify(token, NOW + 60, expires_in=running)
    with pytest.raises(ExpiredToken):  # a lower number is an older token
        verify(issue(claims(exp=None, exi=60, **numbered(8))), NOW + 60, expires_in=running)
    assert verify(issue(claims(exp=None, exi=60, **numbered(10))), NOW + 60, expires_in=running).expires_at == NOW + 120


def test_the_earlier_of_exp_and_exi() -> None:
    running = {ISSUER: ExpiresIn()}
    assert verify(jwt_of(claims(exp=NOW + 30, exi=60, jti="rs11")), expires_in=running).expires_at == NOW + 30
    assert verify(jwt_of(claims(exp=NOW + 90, exi=60, jti="rs12")), expires_in=running).expires_at == NOW + 60


def test_exi_needs_a_number_and_a_counter() -> None:
    for jti in (None, "", "1", "rs1", "rs1x", "rs1-1", "rs1" + "9" * 21, "rs2" + "1", "rs1²"):
        with pytest.raises(UnreadableClaims):
            verify(jwt_of(claims(exi=60, jti=jti)), expires_in={ISSUER: ExpiresIn()})
    for running in ({}, {"https://other.example": ExpiresIn()}):
        with pytest.raises(ExpiredToken):
            verify(jwt_of(claims(exi=60, jti="rs11")), expires_in=running)


# ---- audience, scope, nonces ----


@pytest.mark.parametrize("issue", [jwt_of, cwt_of])
@ace("ADJ-7519-2", "ACE-2.2.5-9")
def test_audience(issue: Issue) -> None:
    for audience in (BROKER, "rs1", ["x", BROKER], [BROKER]):
        verify(issue(claims(aud=audience)))
    for audience in ("", BROKER + "/", BROKER.upper(), [], ["x", "y"], None):
        with pytest.raises(WrongAudience):
            verify(issue(claims(aud=audience)))
    lenient = TokenVerifier([SERVER], [BROKER], audience_required=False)
    lenient.verify(issue(claims(aud=None)), NOW)
    with pytest.raises(WrongAudience):
        lenient.verify(issue(claims(aud="x")), NOW)


@ace("ACE-2.2.5-9")
def test_each_server_may_call_the_broker_by_names_of_its_own() -> None:
    near = AuthorizationServer(ISSUER, SERVER.keys, audience=frozenset({"rs9"}))
    verifier = TokenVerifier([near, OTHER_SERVER], [BROKER])
    verifier.verify(jwt_of(claims(aud="rs9")), NOW)
    verifier.verify(jwt_of(claims(aud=BROKER, iss=OTHER_SERVER.issuer), OTHER_KEY), NOW)
    for wrong in (claims(aud=BROKER), claims(aud="rs9", iss=OTHER_SERVER.issuer)):
        with pytest.raises(WrongAudience):
            verifier.verify(jwt_of(wrong, AS_ED25519 if wrong["iss"] == ISSUER else OTHER_KEY), NOW)
    numbered = jwt_of(claims(aud="rs9", exp=None, exi=60, jti="rs91"))
    assert verifier.verify(numbered, NOW, expires_in={ISSUER: ExpiresIn()}).expires_at == NOW + 60


@pytest.mark.parametrize("issue", [jwt_of, cwt_of])
@ace("ACE-2.3-9")
def test_no_scope_permits_nothing(issue: Issue) -> None:
    assert not verify(issue(claims(scope=None))).scope.permits_publish("topic1")


def test_a_scope_as_array_is_a_switch() -> None:
    token = compact_jws(json.dumps(json.loads(in_json(claims())) | {"scope": SCOPE}).encode(), AS_ED25519, "EdDSA")
    with pytest.raises(UnrecognizedScope):
        verify(token)
    assert TokenVerifier([SERVER], [BROKER], json_scopes=True).verify(token, NOW).scope.permits_publish("topic1")


@pytest.mark.parametrize("issue", [jwt_of, cwt_of])
@ace("ADJ-9200-22")
def test_a_client_nonce_has_to_be_fresh_where_nonces_are_used(issue: Issue) -> None:
    verify(issue(claims(cnonce=b"fresh")), client_nonces=[b"other", b"fresh"])
    verify(issue(claims(cnonce=b"stale")))
    for nonce in (b"stale", b"", None):
        with pytest.raises(StaleNonce):
            verify(issue(claims(cnonce=nonce)), client_nonces=[b"fresh"])


# ---- keys that prove nothing ----

UNUSABLE: dict[str, bytes] = {
    "no cnf": jwt_of(claims(cnf=None)),
    "cnf null": jwt_of(claims() | {"cnf": None}),
    "no cnf in a CWT": cwt_of(claims(cnf=None)),
    "a short symmetric key": nested_jwt(claims(cnf=CLIENT_SECRET[:31])),
    "a short symmetric key in a CWT": encrypted_cwt(claims(cnf=CLIENT_SECRET[:31])),
    "P-384": jwt_of(claims(cnf=ec.derive_private_key(5, ec.SECP384R1()))),
    "for another algorithm": jwt_of(claims(cnf={"jwk": jwk(CLIENT_ED25519, alg="ES256")})),
    "truncated HMAC": encrypted_cwt(claims(cnf={1: cose_key(CLIENT_SECRET, {3: 4})})),
    "for encryption": jwt_of(claims(cnf={"jwk": jwk(CLIENT_ED25519, use="enc")})),
    "for signing only": cwt_of(claims(cnf={1: cose_key(CLIENT_ED25519, {4: [1]})})),
    "private": jwt_of(claims(cnf={"jwk": jwk(CLIENT_ED25519, private=True)})),
    "jku": jwt_of(claims(cnf={"jku": "https://attacker.example/keys"})),
    "jwe that is a JWS": jwt_of(claims(cnf={"jwe": compact_jws(b"{}", AS_ED25519, "EdDSA").decode()})),
    "jwe that is text": jwt_of(claims(cnf={"jwe": "é"})),
    "jwe to another key": jwt_of(claims(cnf={"jwe": compact_jwe(b"{}", bytes(32), "dir", "A256GCM").decode()})),
    "jwe of another server": jwt_of(
        claims(
            cnf={"jwe": compact_jwe(json.dumps(jwk(CLIENT_SECRET)).encode(), OTHER_SECRET, "dir", "A256GCM").decode()}
        )
    ),
    "jwe of no JSON": jwt_of(claims(cnf={"jwe": compact_jwe(b"{", AS_SECRET, "dir", "A256GCM").decode()})),
    "jwe of a list": jwt_of(claims(cnf={"jwe": compact_jwe(b"[]", AS_SECRET, "dir", "A256GCM").decode()})),
    "jwe of no key": jwt_of(claims(cnf={"jwe": compact_jwe(b"{}", AS_SECRET, "dir", "A256GCM").decode()})),
    "jwe of a private key": jwt_of(
        claims(
            cnf={
                "jwe": compact_jwe(
                    json.dumps(jwk(CLIENT_ED25519, private=True)).encode(), AS_SECRET, "dir", "A256GCM"
                ).decode()
            }
        )
    ),
    "jwe of a short key": jwt_of(
        claims(cnf={"jwe": compact_jwe(json.dumps(jwk(bytes(31))).encode(), AS_SECRET, "dir", "A256GCM").decode()})
    ),
    "Encrypted_COSE_Key that is signed": cwt_of(
        claims(cnf={2: cbor2.loads(cose_sign1(cbor2.dumps(cose_key(CLIENT_SECRET)), AS_ED25519, tags=b""))})
    ),
    "Encrypted_COSE_Key of a list": cwt_of(claims(cnf={2: cbor2.loads(cose_encrypt0(b"\x80", AS_SECRET, tags=b""))})),
    "Encrypted_COSE_Key of no CBOR": cwt_of(claims(cnf={2: cbor2.loads(cose_encrypt0(b"\xff", AS_SECRET, tags=b""))})),
    "Encrypted_COSE_Key of nothing": cwt_of(claims(cnf={2: []})),
}


@pytest.mark.parametrize("token", UNUSABLE.values(), ids=UNUSABLE)
@ace("ACE-2.2.5-8", "ADJ-7518-1", "ADJ-9201-7", "ADJ-7800-6")
def test_a_key_that_proves_nothing(token: bytes) -> None:
    with pytest.raises(UnusableConfirmation):
        verify(token)


# ---- forgeries and rubbish ----

UNPROTECTED: dict[str, bytes] = {
    "alg none": f"eyJhbGciOiJub25lIn0.{b64(in_json(claims()))}.".encode(),
    "claims in clear": b"\xd8\x3d\xd2" + cbor2.dumps([b"", {}, in_cbor(claims()), b""]),
    "encrypted to our public key by anybody": compact_jwe(in_json(claims()), BROKER_P256, "ECDH-ES", "A256GCM"),
    "three layers": compact_jwe(nested_jwt(claims()), AS_SECRET, "dir", "A256GCM", cty="JWT"),
    "three layers of COSE": cose_encrypt0(cose_encrypt0(cwt_of(claims()), AS_SECRET), AS_SECRET),
    "HS512": jwt_of(claims(), AS_SECRET * 2, "HS512"),
    "a signature this server does not use": jwt_of(claims(), ec.derive_private_key(9, ec.SECP384R1()), "ES384"),
}


@pytest.mark.parametrize("name", UNPROTECTED)
@ace("ACE-2.2.5-8", "ADJ-7515-1")
def test_a_token_without_protection_that_counts(name: str) -> None:
    strange = AuthorizationServer(
        ISSUER,
        (*SERVER.keys, Key(AS_SECRET * 2), Key.from_jwk(jwk(ec.derive_private_key(9, ec.SECP384R1())))),
    )
    verifier = TokenVerifier([strange], [BROKER], own_keys=[Key.from_jwk(jwk(BROKER_P256, private=True))])
    with pytest.raises(UnprotectedToken):
        verifier.verify(UNPROTECTED[name], NOW)


def test_our_own_private_key_among_those_of_a_server_proves_nothing() -> None:
    server = AuthorizationServer(ISSUER, (Key.from_jwk(jwk(BROKER_P256, private=True)),))
    with pytest.raises(UnprotectedToken):
        TokenVerifier([server], [BROKER]).verify(UNPROTECTED["encrypted to our public key by anybody"], NOW)


def test_a_server_may_be_given_other_algorithms() -> None:
    key = ec.derive_private_key(9, ec.SECP384R1())
    server = AuthorizationServer(ISSUER, (Key.from_jwk(jwk(key)), Key(AS_SECRET)), frozenset({"ES384"}))
    verifier = TokenVerifier([server], [BROKER])
    verifier.verify(jwt_of(claims(), key, "ES384"), NOW)
    verifier.verify(encrypted_cwt(claims()), NOW)
    with pytest.raises(UnprotectedToken):
        verifier.verify(jwt_of(claims(), AS_SECRET, "HS256"), NOW)


UNAUTHENTIC: dict[str, bytes] = {
    "a stranger's JWT": jwt_of(claims(), STRANGER),
    "a stranger's JWT with our kid": jwt_of(claims(), STRANGER, kid="ed"),
    "a stranger's JWT with the key in it": jwt_of(claims(), STRANGER, jwk=jwk(STRANGER)),
    "a JWT that names another of our keys": jwt_of(claims(), kid="p256"),
    "a JWT that names no key of ours": jwt_of(claims(), kid="?"),
    "a stranger's CWT": cose_sign1(in_cbor(claims()), STRANGER, kid=b"ed"),
    "a CWT that names no key of ours": cose_sign1(in_cbor(claims()), AS_ED25519, kid=b"?"),
    "HS256 with the public key": compact_jws(in_json(claims()), AS_ED25519.public_key().public_bytes_raw(), "HS256"),
    "COSE_Mac0 with the public key": cose_mac0(in_cbor(claims()), AS_ED25519.public_key().public_bytes_raw()),
    "encrypted with a key of nobody": cose_encrypt0(in_cbor(claims()), bytes(32)),
    "signed by nobody within": compact_jwe(jwt_of(claims(), STRANGER), AS_SECRET, "dir", "A256GCM", cty="JWT"),
    "signed by nobody around": compact_jws(
        compact_jwe(in_json(claims()), AS_SECRET, "dir", "A256GCM"), STRANGER, "EdDSA", {"cty": "JWT"}
    ),
}


@pytest.mark.parametrize("token", UNAUTHENTIC.values(), ids=UNAUTHENTIC)
@ace("ADJ-9200-31", "ADJ-9052-6", "ACE-2.2.5-9")
def test_a_token_that_no_key_of_ours_opens(token: bytes) -> None:
    with pytest.raises(UnauthenticToken):
        verify(token)


@ace("ADJ-9200-33", "ADJ-9200-31")
def test_one_server_does_not_speak_for_another() -> None:
    for token in (
        jwt_of(claims(), OTHER_KEY),
        cose_sign1(in_cbor(claims()), OTHER_KEY),
        compact_jwe(jwt_of(claims()), OTHER_SECRET, "dir", "A256GCM", cty="JWT"),
        compact_jwe(jwt_of(claims(iss="https://other.example")), OTHER_SECRET, "dir", "A256GCM", cty="JWT"),
        compact_jwe(jwt_of(claims(), OTHER_KEY), AS_SECRET, "dir", "A256GCM", cty="JWT"),
    ):
        with pytest.raises(UnknownIssuer):
            verify(token)


@ace("ADJ-9052-6")
def test_all_keys_of_one_kid_are_tried_up_to_a_limit() -> None:
    strangers = [
        Key.from_jwk(jwk(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32), kid="k")) for n in range(1, 40)
    ]
    right = Key.from_jwk(jwk(AS_ED25519, kid="k"))
    token = jwt_of(claims(), kid="k")
    near = AuthorizationServer(ISSUER, (*strangers[: KEYS_TRIED_MAX - 1], right))
    TokenVerifier([near], [BROKER]).verify(token, NOW)
    far = AuthorizationServer(ISSUER, (*strangers[:KEYS_TRIED_MAX], right))
    with pytest.raises(UnauthenticToken):
        TokenVerifier([far], [BROKER]).verify(token, NOW)


@pytest.mark.filterwarnings("ignore:The HMAC key is 31 bytes long")
@ace("ADJ-7518-1")
def test_a_short_shared_key_is_not_used() -> None:
    server = AuthorizationServer(ISSUER, (Key(AS_SECRET[:31]),))
    for token in (jwt_of(claims(), AS_SECRET[:31], "HS256"), cose_mac0(in_cbor(claims()), AS_SECRET[:31])):
        with pytest.raises(UnauthenticToken):
            TokenVerifier([server], [BROKER]).verify(token, NOW)


NO_TOKENS = [
    b"",
    b"hello",
    b"{}",
    b"0",
    b"\xff",
    b"\x80",
    b"\xd2",
    b"\xd8\x3d",
    bytes(64),
    b"A" * 16_385,
    b"\x81" * 16_000,
    b"." * 2,
    b"e30.e30.e30",
]


@pytest.mark.parametrize("octets", NO_TOKENS, ids=lambda octets: repr(octets[:12]))
def test_what_is_no_token(octets: bytes) -> None:
    with pytest.raises(MalformedToken):
        verify(octets)


def test_a_token_beyond_the_limit_is_not_looked_at() -> None:
    token = jwt_of(claims(filler="x" * 15_000))
    assert len(token) > 16_384
    with pytest.raises(MalformedToken):
        verify(token)
    TokenVerifier([SERVER], [BROKER], token_octets_max=65_535).verify(token, NOW)


@each_protection
@given(st.data())
def test_no_octet_of_a_token_can_be_changed(issue: Issue, hidden: bool, data: st.DataObject) -> None:
    token = bytearray(issue(claims()))
    token[data.draw(st.integers(0, len(token) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidToken):
        verify(bytes(token))


@pytest.mark.parametrize("issue", [jwt_of, encrypted_cwt])
def test_no_prefix_and_no_extension_of_a_token_is_one(issue: Issue) -> None:
    token = issue(claims())
    for cut in range(len(token)):
        with pytest.raises(InvalidToken):
            verify(token[:cut])
    for more in (b"\0", b".", b" ", b"A", token):
        with pytest.raises(InvalidToken):
            verify(token + more)


@given(st.binary(max_size=100))
def test_arbitrary_octets_are_no_token(octets: bytes) -> None:
    with pytest.raises(InvalidToken):
        verify(octets)


@given(
    st.dictionaries(
        st.sampled_from(sorted(CBOR_KEYS)),
        st.none() | st.integers() | st.text() | st.lists(st.text()) | st.just({}),
        max_size=5,
    )
)
def test_arbitrary_claims_give_a_token_or_an_error(changes: Claims) -> None:
    try:
        verify(compact_jws(json.dumps(json.loads(in_json(claims())) | changes).encode(), AS_ED25519, "EdDSA"))
    except InvalidToken:
        pass


# ---- examples of RFC 8392 ----

RFC_8392_SIGNED = (
    "d28443a10126a104524173796d6d657472696345434453413235365850a70175636f61703a2f2f61732e6578616d706c652e636f6d02656572696b"
    "77037818636f61703a2f2f6c696768742e6578616d706c652e636f6d041a5612aeb0051a5610d9f0061a5610d9f007420b7158405427c1ff28d23f"
    "bad1f29c4c7c6a555e601d6fa29f9179bc3d7438bacaca5acd08c8d4d4f96131680c429a01f85951ecee743a52b9b63632c57209120e1c9e30"
)
RFC_8392_KEY = {
    1: 2,
    2: b"AsymmetricECDSA256",
    3: -7,
    -1: 1,
    -2: bytes.fromhex("143329cce7868e416927599cf65a34f3ce2ffda55a7eca69ed8919a394d42f0f"),
    -3: bytes.fromhex("60f7f1a780d8a783bfb7a2dd6b2796e8128dbbcef9d3d168db9529971a36e7b9"),
}


@ace("ADJ-8392-3", "ADJ-8392-4")
def test_the_signed_example_of_rfc_8392() -> None:
    """It has no `cnf`: that this is all that is wrong with it shows that the rest was taken."""
    server = AuthorizationServer("coap://as.example.com", (Key.from_cose_key(RFC_8392_KEY),))
    verifier = TokenVerifier([server], ["coap://light.example.com"])
    token = bytes.fromhex(RFC_8392_SIGNED)
    with pytest.raises(UnusableConfirmation, match="bound to no key"):
        verifier.verify(token, 1_444_064_943)
    with pytest.raises(ExpiredToken):
        verifier.verify(token, 1_444_064_944)
    with pytest.raises(PrematureToken):
        verifier.verify(token, 1_443_944_943)
    with pytest.raises(WrongAudience):
        TokenVerifier([server], [BROKER]).verify(token, 1_444_000_000)


# ---- what is answered, what is shown ----


def test_every_failure_carries_its_answers() -> None:
    kinds: list[type[InvalidToken]] = [MalformedToken, UnprotectedToken, UnauthenticToken, *FAILURES]
    for kind in kinds:
        error = kind("detail")
        assert error.answer(Occasion.CONNECT) == error.reason_code == ReasonCode.NOT_AUTHORIZED
        assert error.answer(Occasion.RE_AUTHENTICATION) == ReasonCode.NOT_AUTHORIZED
        malformed = kind is MalformedToken
        assert error.answer(Occasion.UPLOAD) == (
            ReasonCode.PAYLOAD_FORMAT_INVALID if malformed else ReasonCode.NOT_AUTHORIZED
        )
        assert error.answer(Occasion.CONNECT_V3) == (
            ReasonCode.BAD_USER_NAME_OR_PASSWORD if malformed else ReasonCode.NOT_AUTHORIZED
        )


def test_nothing_secret_is_shown() -> None:
    verified = verify(nested_jwt(claims(cnf=CLIENT_SECRET)))
    shown = repr(verified) + repr(VERIFIER) + repr(SERVER) + repr(verified.key)
    for secret in (CLIENT_SECRET, AS_SECRET):
        assert b64(secret) not in shown
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert verified.thumbprint.hex()[:16] in repr(verified)
    for failure, (changes, arguments) in FAILURES.items():
        token = nested_jwt(claims(**changes))
        with pytest.raises(failure) as caught:
            verify(token, **arguments)
        assert token.decode() not in str(caught.value)
        assert b64(CLIENT_SECRET) not in str(caught.value)
    assert set(ALGORITHMS) >= SERVER.algorithms
