"""The configuration of ACE: what is refused and how it is said, key files of every kind, who can connect how."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cbor2
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from acebroker_ace.keys import Key
from acebroker_ace.token import TOKEN_OCTETS_MAX
from tests.ace.issuer import cose_key, jwk
from tests.pki import Pki
from trio_acebroker import Broker, BrokerConfig, ConfigError
from trio_acebroker.cli import main
from trio_acebroker.config import Ace, Authorization, AuthorizationServer, Listener, Tls
from trio_acebroker.key_files import KEY_FILE_BYTES_MAX, describe, read_private_keys, read_server_keys

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
P256 = ec.derive_private_key(123_456_789, ec.SECP256R1())
SECRET = bytes(range(32))
SERVER = '[[authorization_server]]\nissuer = "https://as"\naudience = ["rs"]\nkeys = ["as.pem"]\n'
INSECURE = "[[listener]]\ninsecure = true\n"


def server(**changes: object) -> AuthorizationServer:
    return AuthorizationServer(**{"issuer": "https://as", "audience": ("rs",), "keys": ("as.pem",), **changes})  # type: ignore[arg-type]


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, *, private: bool = False) -> bytes:
    encoding = serialization.Encoding.PEM
    if private:
        return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


# ---- texts ----


def test_every_key_can_be_said_in_toml() -> None:
    config = BrokerConfig.from_toml(
        """
        [[listener]]
        insecure = true
        [[authorization_server]]
        issuer = "https://as"
        audience = ["rs", "mqtts://rs"]
        keys = ["as.pem", "/etc/as.jwk"]
        more_algorithms = ["ES384"]
        token_endpoint = "https://as/token"
        [ace]
        public_publish = ["in/+"]
        public_subscribe = ["out/#"]
        private_keys = ["own.pem"]
        leeway_seconds = 5
        audience_required = false
        json_scopes = true
        client_nonces = true
        client_nonce_seconds = 60
        hint_scope = "abc"
        hint_kid = "k"
        challenge_seconds = 10
        reauthentication_seconds = 0
        token_bytes_max = 1000
        tokens_max = 10
        tokens_per_issuer_max = 9
        tokens_per_subject_max = 8
        tokens_per_source_max = 7
        uploads_per_minute_max = 6
        """,
        "conf/broker.toml",
    )
    assert config.authorization_servers == (
        server(
            audience=("rs", "mqtts://rs"),
            keys=("conf/as.pem", "/etc/as.jwk"),
            more_algorithms=("ES384",),
            token_endpoint="https://as/token",
        ),
    )
    assert config.ace.private_keys == ("conf/own.pem",)
    assert config.ace.uploads_per_minute_max == 6
    public = config.ace.public_scope
    assert public.permits_publish("in/1") and not public.permits_publish("out/1")
    assert public.permits_subscribe("out/#") and not public.permits_subscribe("in/1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SERVER + SERVER + INSECURE, "two authorization servers have the issuer https://as"),
        (SERVER.replace('"rs"', "") + INSECURE, "authorization server https://as: audience names nothing"),
        (SERVER.replace('"rs"', '""') + INSECURE, "authorization server https://as: audience names nothing"),
        (SERVER.replace('"as.pem"', "") + INSECURE, "authorization server https://as: without keys"),
        (SERVER.replace("https://as", "") + INSECURE, "an authorization server without issuer"),
        (SERVER + 'token_endpoint = "/token"\n' + INSECURE, "https://as: token_endpoint is no absolute URI"),
        (
            SERVER + 'more_algorithms = ["none"]\n' + INSECURE,
            "algorithm 'none' is none of ours; there are ES384, ES512",
        ),
        ("[[authorization_server]]\n" + INSECURE, "missing required field issuer"),
        ("[ace]\ntokens_max = 5\n[authentication]\nanonymous = true", "but there is no [[authorization_server]]"),
        (SERVER + INSECURE + "[ace]\ntokens_max = 0", "ace.tokens_max: expected int >= 1"),
        (SERVER + INSECURE + "[ace]\nleeway_seconds = -1", "ace.leeway_seconds is -1.0, and must be at least 0"),
        (SERVER + INSECURE + "[ace]\nchallenge_seconds = 0", "ace.challenge_seconds is 0.0, and must be above 0"),
        (SERVER + INSECURE + "[ace]\nchallenge_seconds = inf", "ace.challenge_seconds is inf"),
        (SERVER + INSECURE + "[ace]\nreauthentication_seconds = 31", "reauthentication_seconds is at most 30"),
        (SERVER + INSECURE + "[ace]\ntoken_bytes_max = 65534", "ace.token_bytes_max is 65534; MQTT can carry 65533"),
        (SERVER + INSECURE + "[ace]\npublic_publish = ['a#']", "ace.public_publish: 'a#' is no Topic Filter"),
        (SERVER + INSECURE + "[ace]\npublic_subscribe = ['$share/g/a']", "'$share/g/a' is no Topic Filter"),
        (
            SERVER + INSECURE + "[ace]\npublic_publish = ['a']\n[authorization]\nacl_file = 'acl'",
            "authorization.acl_file says what clients without a token may do",
        ),
        (
            SERVER + "[[listener]]\nname = 'plain'",
            "nobody may connect to listener plain: tokens are taken over TLS, or on loopback with insecure = true",
        ),
        (SERVER + "[[listener]]\nhost = '0.0.0.0'\ninsecure = true", "listener 0.0.0.0:1883: insecure is for loopback"),
    ],
)
def test_refusals(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerConfig.from_toml(text, "conf/broker.toml")
    assert expected in str(caught.value)


def test_tokens_are_enough_for_a_listener_with_tls_that_others_reach() -> None:
    tls = Tls(certificate="c", key="k")
    config = BrokerConfig(authorization_servers=(server(),), listeners=(Listener(host="0.0.0.0", tls=tls),))
    (listener,) = config.listeners
    assert config.takes_tokens(listener)
    assert config.open_to(listener) == "clients with a token of https://as"
    assert not config.anonymous_allowed(listener)


def test_loopback_is_not_open_to_anybody_once_tokens_are_taken() -> None:
    listener = Listener(insecure=True)
    config = BrokerConfig(authorization_servers=(server(),), listeners=(listener,))
    assert not config.anonymous_allowed(listener)
    assert config.takes_tokens(listener)
    assert not config.takes_tokens(Listener())


def test_the_default_size_of_a_token_is_that_of_the_verifier() -> None:
    assert Ace().token_bytes_max == TOKEN_OCTETS_MAX


# ---- files ----


@pytest.mark.parametrize("key", [ED25519, P256], ids=["Ed25519", "P-256"])
@pytest.mark.parametrize("form", ["pem", "jwk", "jwks", "cose", "cose set"])
def test_public_keys_of_every_form(
    tmp_path: Path, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, form: str
) -> None:
    file = tmp_path / "key"
    expected = Key(key.public_key()).thumbprint
    match form:
        case "pem":
            file.write_bytes(b"made by us\n" + pem(key))
        case "jwk":
            file.write_text("\n" + json.dumps(jwk(key, kid="1")))
        case "jwks":
            file.write_text(json.dumps({"keys": [jwk(key), jwk(SECRET)]}))
        case "cose":
            file.write_bytes(cbor2.dumps(cose_key(key, {2: b"1"})))
        case "cose set":
            file.write_bytes(cbor2.dumps([cose_key(key), cose_key(SECRET)]))
    keys = read_server_keys(str(file))
    assert len(keys) == (2 if form in ("jwks", "cose set") else 1)
    assert keys[0].thumbprint == expected
    assert keys[0].kid == (b"1" if form in ("jwk", "cose") else None)


def test_the_key_of_a_certificate(tmp_path: Path) -> None:
    certificate, _ = Pki(tmp_path).issue("as")
    assert describe(read_server_keys(str(certificate))) == "P-256"


def test_several_keys_in_one_pem_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(ED25519) + pem(P256))
    keys = read_server_keys(str(file))
    assert describe((*keys, Key(SECRET), Key(bytes(32)))) == "Ed25519, P-256, 2 shared secret"


def test_private_keys_of_ours_and_not_of_others(tmp_path: Path) -> None:
    for content in (pem(P256, private=True), json.dumps(jwk(P256, private=True)).encode()):
        file = tmp_path / "own"
        file.write_bytes(content)
        assert read_private_keys(str(file))[0].is_private
        with pytest.raises(ConfigError, match="own: a private key; this broker needs the public one"):
            read_server_keys(str(file))
    file.write_bytes(pem(P256))
    with pytest.raises(ConfigError, match="own: a key that is not private"):
        read_private_keys(str(file))


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(65_537, 2_048).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "neither PEM"),
        (b"hello", "neither PEM"),
        (b"{", "neither PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "neither PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA", "no key in it"),
        (b'{"keys": []}', "no key in it"),
        (b'{"keys": {}}', "a set of keys that is none"),
        (b'{"keys": [1]}', "a set of keys that is none"),
        (b'{"kty": "oct"}', "a JWK without k"),
        (b'{"kty": "RSA"}', "not accepted"),
        (b"\xa1\x01\x04", "without octets"),
        (b"\x81\x01", "a set of keys that is none"),
        (rsa_pem(), "not accepted"),
        (bytes(KEY_FILE_BYTES_MAX + 1), "too large"),
        (None, "No such file"),
    ],
)
def test_files_that_hold_no_keys(tmp_path: Path, content: bytes | None, expected: str) -> None:
    file = tmp_path / "as.keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_server_keys(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)


def test_what_is_wrong_with_a_file_never_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "as.jwk"
    file.write_text(json.dumps(jwk(b"very secret octets that nobody may see")).replace('"oct"', '"act"'))
    with pytest.raises(ConfigError) as caught:
        read_server_keys(str(file))
    assert "dmVyeSBzZWNyZXQ" not in str(caught.value) and "secret" not in str(caught.value)


# ---- a broker of it ----


def test_a_broker_reads_its_key_files(tmp_path: Path) -> None:
    config = BrokerConfig(authorization_servers=(server(keys=(str(tmp_path / "none"),)),), listeners=())
    with pytest.raises(ConfigError, match="none: No such file"):
        Broker(config)


def test_check_explains_who_can_connect_how(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    pki.issue("broker")
    (tmp_path / "users").touch()
    (tmp_path / "as.pem").write_bytes(pem(ED25519))
    (tmp_path / "as.jwk").write_text(json.dumps(jwk(SECRET)))
    text = SERVER.replace('"as.pem"', '"as.pem", "as.jwk"') + (
        "[[listener]]\nname = 'tls'\nport = 8883\nanonymous = true\n"
        "tls = { certificate = 'broker.pem', key = 'broker.key', client_ca = 'ca.pem', pre_shared_keys = true }\n"
        "[[listener]]\nname = 'local'\ninsecure = true\nprotocol_versions = [5]\n"
        "[[listener]]\nname = 'plain'\nport = 1884\n"
        "[authentication]\npassword_file = 'users'\n"
    )
    (tmp_path / "broker.toml").write_text(text)
    result = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "broker.toml")])
    assert result.exit_code == 0, result.output
    parts = result.output.partition("\nlisteners\n")[2].partition("\npipeline")[0]
    assert "open to clients with a token of https://as, users in" in parts
    assert "anybody without credentials, for public topics only (its anonymous = true)" in parts
    tls, local, plain = (section.splitlines()[1:] for section in re.split("^  (?:local|plain): ", parts, flags=re.M))
    assert [line.strip().partition(":")[0] for line in tls] == [
        "MQTT 5 method `ace`",
        "MQTT 3.1 and 3.1.1",
        "user name and password",
        f"a client certificate of {tmp_path / 'ca.pem'} to which a stored token is bound",
        "a pre-shared key of a stored token, or of one that is the identity",
        "nothing",
    ]
    assert [line.strip().partition(":")[0] for line in local] == ["MQTT 5 method `ace`", "user name and password"]
    assert plain[0].strip() == "no tokens: they are taken over TLS, or on loopback with insecure = true"
    assert "https://as: for rs; keys: Ed25519, shared secret\n" in result.output


def test_no_acl_file_and_public_topics_are_two_ways_to_say_the_same() -> None:
    with pytest.raises(ConfigError, match="acl_file"):
        BrokerConfig(
            authorization_servers=(server(),),
            ace=Ace(public_publish=("a",)),
            authorization=Authorization(acl_file="acl"),
            listeners=(),
        )
