"""The algorithms we hold: what each is called in JOSE and COSE, and the key it takes (RFC 7518, 8037, 9053, 9864).

An algorithm is used only if it stands in `ALGORITHMS` and in the list of the caller; nothing that a token
says adds one. What is not here does not exist: `none`, RSA, truncated HMAC in a proof, Ed448, PBES2.

Values only; `keys` uses them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

__all__ = [
    "ALGORITHMS",
    "BY_COSE",
    "BY_JOSE",
    "HMAC_KEY_BYTES_MIN",
    "TOKEN_ALGORITHMS",
    "Algorithm",
    "Curve",
    "KeyType",
    "Operation",
    "Protection",
]

#: shorter symmetric keys prove nothing (ADJ-7518-1)
HMAC_KEY_BYTES_MIN: Final = 32


class KeyType(enum.Enum):
    """Key types by their COSE number."""

    OKP = 1
    EC2 = 2
    SYMMETRIC = 4


class Curve(enum.Enum):
    """Curves by their COSE number."""

    P_256 = 1
    P_384 = 2
    P_521 = 3
    ED25519 = 6


class Operation(enum.IntEnum):
    """What a key may be restricted to: `key_ops` by their COSE number."""

    SIGN = 1
    VERIFY = 2
    ENCRYPT = 3
    DECRYPT = 4
    WRAP = 5
    UNWRAP = 6
    DERIVE_KEY = 7
    DERIVE_BITS = 8
    MAC_CREATE = 9
    MAC_VERIFY = 10


class Protection(enum.Enum):
    """What an algorithm does for a message."""

    SIGNATURE = "signature"
    MAC = "MAC"
    ENCRYPTION = "authenticated encryption"


class Algorithm(Struct, frozen=True):
    """One algorithm.

    `jose` is empty where JOSE has none of this kind; `cose` are all its numbers, the first is written.
    `key_bytes`: the least (HMAC) or the only (AEAD) length; for signatures the size of a coordinate.
    """

    name: str
    protection: Protection
    cose: tuple[int, ...]
    jose: tuple[str, ...]
    key_type: KeyType
    key_bytes: int
    curve: Curve | None = None
    hash_name: str = ""
    nonce_bytes: int = 0
    tag_bytes: int = 0

    @property
    def names(self) -> frozenset[int | str]:
        """Everything that `alg` of a key or a header may call it."""
        return frozenset((self.name, *self.cose, *self.jose))


def _signature(name: str, numbers: tuple[int, ...], names: tuple[str, ...], curve: Curve, octets: int) -> Algorithm:
    key_type = KeyType.OKP if curve is Curve.ED25519 else KeyType.EC2
    hash_name = {Curve.P_256: "sha256", Curve.P_384: "sha384", Curve.P_521: "sha512"}.get(curve, "")
    return Algorithm(name, Protection.SIGNATURE, numbers, names, key_type, octets, curve, hash_name)


def _mac(name: str, number: int, names: tuple[str, ...], hash_name: str, hash_bytes: int, tag: int) -> Algorithm:
    key_bytes = max(HMAC_KEY_BYTES_MIN, hash_bytes)
    return Algorithm(
        name, Protection.MAC, (number,), names, KeyType.SYMMETRIC, key_bytes, hash_name=hash_name, tag_bytes=tag
    )


def _aead(name: str, number: int, key_bytes: int, nonce: int, tag: int) -> Algorithm:
    return Algorithm(
        name, Protection.ENCRYPTION, (number,), (), KeyType.SYMMETRIC, key_bytes, nonce_bytes=nonce, tag_bytes=tag
    )


#: every algorithm that is implemented, by name
ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        _signature("EdDSA", (-8, -19), ("EdDSA", "Ed25519"), Curve.ED25519, 32),
        _signature("ES256", (-7, -9), ("ES256",), Curve.P_256, 32),
        _signature("ES384", (-35, -51), ("ES384",), Curve.P_384, 48),
        _signature("ES512", (-36, -52), ("ES512",), Curve.P_521, 66),
        _mac("HS256", 5, ("HS256",), "sha256", 32, 32),
        _mac("HS256/64", 4, (), "sha256", 32, 8),
        _mac("HS384", 6, ("HS384",), "sha384", 48, 48),
        _mac("HS512", 7, ("HS512",), "sha512", 64, 64),
        _aead("A128GCM", 1, 16, 12, 16),
        _aead("A192GCM", 2, 24, 12, 16),
        _aead("A256GCM", 3, 32, 12, 16),
        _aead("AES-CCM-16-64-128", 10, 16, 13, 8),
        _aead("AES-CCM-16-64-256", 11, 32, 13, 8),
        _aead("AES-CCM-64-64-128", 12, 16, 7, 8),
        _aead("AES-CCM-64-64-256", 13, 32, 7, 8),
        _aead("ChaCha20/Poly1305", 24, 32, 12, 16),
        _aead("AES-CCM-16-128-128", 30, 16, 13, 16),
        _aead("AES-CCM-16-128-256", 31, 32, 13, 16),
        _aead("AES-CCM-64-128-128", 32, 16, 7, 16),
        _aead("AES-CCM-64-128-256", 33, 32, 7, 16),
    )
}

#: number in COSE -> algorithm
BY_COSE: Final[Mapping[int, Algorithm]] = {
    number: algorithm for algorithm in ALGORITHMS.values() for number in algorithm.cose
}
#: name in JOSE -> algorithm
BY_JOSE: Final[Mapping[str, Algorithm]] = {
    name: algorithm for algorithm in ALGORITHMS.values() for name in algorithm.jose
}

#: names of what a token may be protected with unless the caller says otherwise: the two mandatory ones
#: (ACE-2.2.5-6), ES256, and authenticated encryption
TOKEN_ALGORITHMS: Final[frozenset[str]] = frozenset({"EdDSA", "ES256", "HS256"}) | {
    algorithm.name for algorithm in ALGORITHMS.values() if algorithm.protection is Protection.ENCRYPTION
}
