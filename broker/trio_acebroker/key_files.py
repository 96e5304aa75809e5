"""Files with keys: PEM, JWK, JWK Set, COSE_Key and COSE_KeySet, told apart by what stands in them.

    -----BEGIN ...      PEM (RFC 7468): one or more public keys, certificates (their key counts) or private keys
    {                   a JWK (RFC 7517), or `{"keys": [...]}`
    CBOR                a COSE_Key (RFC 9052, 7), or an array of them

No text here ever holds what stands in such a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from acebroker_ace.algorithms import KeyType
from acebroker_ace.errors import InvalidKey
from acebroker_ace.keys import Key
from acebroker_ace.notation import NotationError, cbor_loads, json_loads
from trio_acebroker.config_text import ConfigError

__all__ = ["KEY_FILE_BYTES_MAX", "describe", "read_private_keys", "read_server_keys"]

#: larger files hold something else
KEY_FILE_BYTES_MAX: Final = 1_048_576

_PEM: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_BEGIN: Final = b"-----BEGIN"


def read_server_keys(path: str) -> tuple[Key, ...]:
    """Keys that show who made a token: public ones, and shared secrets. Raises ConfigError."""
    keys = _read(path)
    if any(key.is_private for key in keys):
        raise ConfigError(f"{path}: a private key; this broker needs the public one of the authorization server")
    return keys


def read_private_keys(path: str) -> tuple[Key, ...]:
    """Keys of this broker, which others encrypt to. Raises ConfigError."""
    keys = _read(path)
    if not all(key.is_private for key in keys):
        raise ConfigError(f"{path}: a key that is not private: nothing can be decrypted with it")
    return keys


def describe(keys: tuple[Key, ...]) -> str:
    """What keys these are, for people."""
    kinds = ["shared secret" if key.key_type is KeyType.SYMMETRIC else key.jwk()["crv"] for key in keys]
    return ", ".join(kind if kinds.count(kind) == 1 else f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _read(path: str) -> tuple[Key, ...]:
    try:
        with Path(path).open("rb") as file:
            octets = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(octets) > KEY_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: too large for a file of keys")
    try:
        keys = _keys(octets)
    except InvalidKey as error:
        raise ConfigError(f"{path}: {error.detail}") from None
    except (NotationError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: neither PEM, nor a JWK or JWK Set, nor a COSE_Key or COSE_KeySet") from None
    if not keys:
        raise ConfigError(f"{path}: no key in it")
    return keys


def _keys(octets: bytes) -> tuple[Key, ...]:
    if _BEGIN in octets:
        return tuple(_pem(found[1], found[0]) for found in _PEM.finditer(octets))
    text = octets.strip()
    if text[:1] == b"{":
        members: Any = json_loads(text)
        found = members.get("keys", [members])
    else:
        decoded: Any = cbor_loads(octets)
        found = decoded if isinstance(decoded, list) else [decoded]
    read: Callable[[dict[Any, Any]], Key] = Key.from_jwk if text[:1] == b"{" else Key.from_cose_key
    if not isinstance(found, list) or not all(isinstance(members, dict) for members in found):
        raise InvalidKey("a set of keys that is none")
    return tuple(read(members) for members in found)


def _pem(label: bytes, block: bytes) -> Key:
    found: object
    if label == b"CERTIFICATE":
        found = x509.load_pem_x509_certificate(block).public_key()
    elif label.endswith(b"PRIVATE KEY"):
        found = serialization.load_pem_private_key(block, None)
    else:
        found = serialization.load_pem_public_key(block)
    if isinstance(found, Ed25519PublicKey | Ed25519PrivateKey | ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return Key(found)
    raise InvalidKey("a key of a type that is not accepted")
