"""Keys: read from JWK, COSE_Key or SubjectPublicKeyInfo, and the raw operations with them.

A `Key` is Ed25519, an elliptic curve key of P-256, P-384 or P-521, or a symmetric key (ADJ-7517-1,
ADJ-9053-1). It may be restricted: `alg`, `use` and `key_ops` are honoured (ADJ-9201-7, ADJ-9052-5). A
signature is the bare value: 64 octets R and S of Ed25519, or r and s side by side (D-16), never DER.

Secrets never leave a `Key` but through `jwk(private=True)` and `secret`, and never stand in its `repr`. Comparison
of MACs takes the same time whatever differs. ECDSA draws its own k inside `cryptography`; nothing else here is random.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeAlias, final

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from acebroker_ace.algorithms import Algorithm, Curve, KeyType, Operation, Protection
from acebroker_ace.errors import InvalidKey
from acebroker_ace.notation import NotationError, base64url_decode, base64url_encode

__all__ = ["InvalidSignature", "InvalidTag", "Key"]

PublicKey: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

_JWK_CURVES: Final = {"P-256": Curve.P_256, "P-384": Curve.P_384, "P-521": Curve.P_521, "Ed25519": Curve.ED25519}
_CURVE_NAMES: Final = {curve: name for name, curve in _JWK_CURVES.items()}
_ELLIPTIC: Final[Mapping[Curve, ec.EllipticCurve]] = {
    Curve.P_256: ec.SECP256R1(),
    Curve.P_384: ec.SECP384R1(),
    Curve.P_521: ec.SECP521R1(),
}
_COORDINATE_BYTES: Final = {Curve.P_256: 32, Curve.P_384: 48, Curve.P_521: 66, Curve.ED25519: 32}
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

#: `key_ops` of a JWK (RFC 7517, 4.3), where MACs are signed and verified too
_JWK_OPERATIONS: Final[Mapping[str, frozenset[Operation]]] = {
    "sign": frozenset({Operation.SIGN, Operation.MAC_CREATE}),
    "verify": frozenset({Operation.VERIFY, Operation.MAC_VERIFY}),
    "encrypt": frozenset({Operation.ENCRYPT}),
    "decrypt": frozenset({Operation.DECRYPT}),
    "wrapKey": frozenset({Operation.WRAP}),
    "unwrapKey": frozenset({Operation.UNWRAP}),
    "deriveKey": frozenset({Operation.DERIVE_KEY}),
    "deriveBits": frozenset({Operation.DERIVE_BITS}),
}
#: `use` of a JWK (RFC 7517, 4.2)
_JWK_USES: Final[Mapping[str, frozenset[Operation]]] = {
    "sig": _JWK_OPERATIONS["sign"] | _JWK_OPERATIONS["verify"],
    "enc": frozenset(Operation) - _JWK_OPERATIONS["sign"] - _JWK_OPERATIONS["verify"],
}
#: COSE_Key labels (RFC 9052, 7.1)
_KTY, _KID, _ALG, _KEY_OPS = 1, 2, 3, 4
_CRV, _X, _Y, _D = -1, -2, -3, -4
_K: Final = -1


@final
class Key:
    """One key, public, private or symmetric. Two keys are the same when their `thumbprint` is.

    `kid` and `algorithm` as the key itself has them, None without; `operations`: all it may be used for, None
    for any.
    """

    __slots__ = (
        "__weakref__",
        "_private",
        "_public",
        "_secret",
        "algorithm",
        "curve",
        "key_type",
        "kid",
        "operations",
        "thumbprint",
    )

    key_type: KeyType
    curve: Curve | None
    kid: bytes | None
    algorithm: int | str | None
    operations: frozenset[Operation] | None
    #: SHA-256 over the JWK's required members (RFC 7638)
    thumbprint: bytes

    def __init__(
        self,
        material: PublicKey | PrivateKey | bytes,
        *,
        kid: bytes | None = None,
        algorithm: int | str | None = None,
        operations: Collection[Operation] | None = None,
    ) -> None:
        """`material`: a key object of `cryptography`, or the octets of a symmetric key. Raises `InvalidKey`."""
        self._private: PrivateKey | None = None
        self._public: PublicKey | None = None
        self._secret = b""
        self.kid = kid
        self.algorithm = algorithm
        self.operations = None if operations is None else frozenset(operations)
        if isinstance(material, bytes):
            if not material:
                raise InvalidKey("an empty symmetric key")
            self.key_type, self.curve = KeyType.SYMMETRIC, None
            self._secret = material
        else:
            if isinstance(material, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
                self._private = material
                material = material.public_key()
            self._public = material
            self.key_type, self.curve = _kind(material)
        required = {
            name: value for name, value in self.jwk(private=True).items() if name in ("crv", "k", "kty", "x", "y")
        }
        text = json.dumps(required, separators=(",", ":"), sort_keys=True)
        self.thumbprint = hashlib.sha256(text.encode()).digest()

    # ---- reading ----

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> Key:
        """A JWK (RFC 7517, 7518, 8037). Raises `InvalidKey`; members unknown to us are ignored."""
        kid = jwk.get("kid")
        algorithm = jwk.get("alg")
        if not isinstance(kid, str | None) or not isinstance(algorithm, str | None):
            raise InvalidKey("kid or alg of a JWK is no text")
        key_type = jwk.get("kty")
        material: PublicKey | PrivateKey | bytes
        if key_type == "oct":
            material = _jwk_octets(jwk, "k")
        elif key_type in ("EC", "OKP") and isinstance(jwk.get("crv"), str) and jwk["crv"] in _JWK_CURVES:
            curve = _JWK_CURVES[jwk["crv"]]
            if (curve is Curve.ED25519) != (key_type == "OKP"):
                raise InvalidKey("curve and key type do not fit")
            y = None if curve is Curve.ED25519 else _jwk_octets(jwk, "y")
            d = _jwk_octets(jwk, "d") if "d" in jwk else None
            material = _asymmetric(curve, _jwk_octets(jwk, "x"), y, d)
        else:
            raise InvalidKey("a JWK of a key type or curve that is not accepted")
        encoded = None if kid is None else kid.encode()
        return cls(material, kid=encoded, algorithm=algorithm, operations=_jwk_restrictions(jwk))

    @classmethod
    def from_cose_key(cls, cose_key: Mapping[Any, Any]) -> Key:
        """A decoded COSE_Key (RFC 9052, 7; RFC 9053, 7). Raises `InvalidKey`; labels unknown to us are ignored."""
        kid = cose_key.get(_KID)
        algorithm = cose_key.get(_ALG)
        if (
            not isinstance(kid, bytes | None)
            or isinstance(algorithm, bool)
            or not isinstance(algorithm, int | str | None)
        ):
            raise InvalidKey("kid or alg of a COSE_Key is of another type")
        key_type = cose_key.get(_KTY)
        material: PublicKey | PrivateKey | bytes
        if key_type in (KeyType.SYMMETRIC.value, "Symmetric"):
            material = _cose_octets(cose_key, _K)
        elif key_type in (KeyType.OKP.value, "OKP"):
            if cose_key.get(_CRV) not in (Curve.ED25519.value, "Ed25519"):
                raise InvalidKey("a COSE_Key of a curve that is not accepted")
            d = _cose_octets(cose_key, _D) if _D in cose_key else None
            material = _asymmetric(Curve.ED25519, _cose_octets(cose_key, _X), None, d)
        elif key_type in (KeyType.EC2.value, "EC2"):
            material = _cose_elliptic(cose_key)
        else:
            raise InvalidKey("a COSE_Key of a key type that is not accepted")
        return cls(material, kid=kid, algorithm=algorithm, operations=_cose_restrictions(cose_key))

    @classmethod
    def from_public_key_info(cls, der: bytes) -> Key:
        """A SubjectPublicKeyInfo in DER, as raw public keys of TLS have it (RFC 7250). Raises `InvalidKey`."""
        try:
            public = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidKey("no SubjectPublicKeyInfo") from None
        if not isinstance(public, Ed25519PublicKey | ec.EllipticCurvePublicKey):
            raise InvalidKey("a public key of a type that is not accepted")
        return cls(public)

    # ---- writing ----

    @property
    def is_private(self) -> bool:
        """Whether it holds a private key. Symmetric keys do not count."""
        return self._private is not None

    @property
    def octets(self) -> int:
        """Length of a symmetric key; 0 for any other."""
        return len(self._secret)

    @property
    def secret(self) -> bytes:
        """The octets of a symmetric key, for TLS; empty for any other. Never to be shown."""
        return self._secret

    def jwk(self, *, private: bool = False) -> dict[str, str]:
        """As a JWK. `private`: with the secret part; without it, a symmetric key has nothing to show but `kty`."""
        jwk: dict[str, str] = {}
        if self.kid is not None:
            jwk["kid"] = self.kid.decode("utf-8", "backslashreplace")
        if self._public is None:
            return jwk | {"kty": "oct"} | ({"k": base64url_encode(self._secret)} if private else {})
        assert self.curve is not None
        size = _COORDINATE_BYTES[self.curve]
        jwk["crv"] = _CURVE_NAMES[self.curve]
        if isinstance(self._public, Ed25519PublicKey):
            jwk |= {"kty": "OKP", "x": base64url_encode(self._public.public_bytes_raw())}
        else:
            point = self._public.public_numbers()
            x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
            jwk |= {"kty": "EC", "x": base64url_encode(x), "y": base64url_encode(y)}
        if private and self._private is not None:
            if isinstance(self._private, Ed25519PrivateKey):
                d = self._private.private_bytes_raw()
            else:
                d = self._private.private_numbers().private_value.to_bytes(size, "big")
            jwk["d"] = base64url_encode(d)
        return jwk

    def __repr__(self) -> str:
        what = "symmetric" if self.curve is None else _CURVE_NAMES[self.curve]
        return f"Key({what}{', private' if self.is_private else ''}, kid={self.kid!r})"

    # ---- using ----

    def fits(self, algorithm: Algorithm, operation: Operation) -> bool:
        """Whether the algorithm may be used with this key for the operation (ADJ-9052-5)."""
        if self.key_type is not algorithm.key_type or self.curve is not algorithm.curve:
            return False
        if self.algorithm is not None and self.algorithm not in algorithm.names:
            return False
        if self.operations is not None and operation not in self.operations:
            return False
        if algorithm.protection is Protection.MAC:
            return len(self._secret) >= algorithm.key_bytes
        return algorithm.protection is Protection.SIGNATURE or len(self._secret) == algorithm.key_bytes

    def sign(self, algorithm: Algorithm, data: bytes) -> bytes:
        """A signature, or a MAC. Raises `InvalidKey` where the key does not fit, or is not private."""
        if algorithm.protection is Protection.MAC:
            self._check(algorithm, Operation.MAC_CREATE)
            return hmac.digest(self._secret, data, algorithm.hash_name)[: algorithm.tag_bytes]
        self._check(algorithm, Operation.SIGN)
        if isinstance(self._private, Ed25519PrivateKey):
            return self._private.sign(data)
        if self._private is None:
            raise InvalidKey("a public key signs nothing")
        r, s = decode_dss_signature(self._private.sign(data, ec.ECDSA(_HASHES[algorithm.hash_name])))
        return r.to_bytes(algorithm.key_bytes, "big") + s.to_bytes(algorithm.key_bytes, "big")

    def verify(self, algorithm: Algorithm, data: bytes, value: bytes) -> None:
        """Check a signature or a MAC over `data`.

        Raises `InvalidSignature` when it does not match, `InvalidKey` where the key does not fit.
        """
        if algorithm.protection is Protection.MAC:
            self._check(algorithm, Operation.MAC_VERIFY)
            expected = hmac.digest(self._secret, data, algorithm.hash_name)[: algorithm.tag_bytes]
            if not hmac.compare_digest(expected, value):
                raise InvalidSignature
            return
        self._check(algorithm, Operation.VERIFY)
        if isinstance(self._public, Ed25519PublicKey):
            self._public.verify(value, data)
            return
        assert self._public is not None
        size = algorithm.key_bytes
        if len(value) != 2 * size:
            raise InvalidSignature
        der = encode_dss_signature(int.from_bytes(value[:size], "big"), int.from_bytes(value[size:], "big"))
        self._public.verify(der, data, ec.ECDSA(_HASHES[algorithm.hash_name]))

    def encrypt(self, algorithm: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Ciphertext and tag. `nonce` must never come twice with one key. Raises `InvalidKey`."""
        self._check(algorithm, Operation.ENCRYPT)
        return self._cipher(algorithm).encrypt(nonce, plaintext, aad)

    def decrypt(self, algorithm: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
        """The plaintext. Raises `InvalidTag` when anything was changed, `InvalidKey` where the key does not fit."""
        self._check(algorithm, Operation.DECRYPT)
        if len(nonce) != algorithm.nonce_bytes or len(ciphertext) < algorithm.tag_bytes:
            raise InvalidTag
        return self._cipher(algorithm).decrypt(nonce, ciphertext, aad)

    def _cipher(self, algorithm: Algorithm) -> AESCCM | AESGCM | ChaCha20Poly1305:
        if algorithm.name.startswith("AES-CCM"):
            return AESCCM(self._secret, algorithm.tag_bytes)
        return AESGCM(self._secret) if algorithm.name.endswith("GCM") else ChaCha20Poly1305(self._secret)

    def _check(self, algorithm: Algorithm, operation: Operation) -> None:
        if not self.fits(algorithm, operation):
            raise InvalidKey(f"the key is not for {algorithm.name}")


# ---- parts ----


def _kind(public: PublicKey) -> tuple[KeyType, Curve]:
    if isinstance(public, Ed25519PublicKey):
        return KeyType.OKP, Curve.ED25519
    for curve, elliptic in _ELLIPTIC.items():
        if public.curve.name == elliptic.name:
            return KeyType.EC2, curve
    raise InvalidKey("an elliptic curve that is not accepted")


def _asymmetric(curve: Curve, x: bytes, y: bytes | None, d: bytes | None) -> PublicKey | PrivateKey:
    """The key of its coordinates, each at its full length (ADJ-9053-1); a point that is not on the curve is refused."""
    size = _COORDINATE_BYTES[curve]
    if any(part is not None and len(part) != size for part in (x, y, d)):
        raise InvalidKey("a coordinate of another length than the curve has")
    public: PublicKey
    private: PrivateKey | None = None
    try:
        if y is None:
            public = Ed25519PublicKey.from_public_bytes(x)
            private = None if d is None else Ed25519PrivateKey.from_private_bytes(d)
        else:
            public = ec.EllipticCurvePublicKey.from_encoded_point(_ELLIPTIC[curve], b"\4" + x + y)
            private = None if d is None else ec.derive_private_key(int.from_bytes(d, "big"), _ELLIPTIC[curve])
    except ValueError:
        raise InvalidKey("no point of its curve") from None
    if private is None:
        return public
    if private.public_key() != public:
        raise InvalidKey("private and public part do not belong together")
    return private


def _jwk_octets(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise InvalidKey(f"a JWK without {name}")
    try:
        return base64url_decode(value)
    except NotationError:
        raise InvalidKey(f"{name} of a JWK is not base64url") from None


def _cose_octets(cose_key: Mapping[Any, Any], label: int) -> bytes:
    value = cose_key.get(label)
    if not isinstance(value, bytes):
        raise InvalidKey(f"a COSE_Key without octets at {label}")
    return value


def _cose_elliptic(cose_key: Mapping[Any, Any]) -> PublicKey | PrivateKey:
    name = cose_key.get(_CRV)
    curve = next((c for c in _ELLIPTIC if name in (c.value, _CURVE_NAMES[c])), None)
    if curve is None or isinstance(name, bool):
        raise InvalidKey("a COSE_Key of a curve that is not accepted")
    x = _cose_octets(cose_key, _X)
    sign = cose_key.get(_Y)
    if isinstance(sign, bool):  # a compressed point
        try:
            point = ec.EllipticCurvePublicKey.from_encoded_point(_ELLIPTIC[curve], (b"\3" if sign else b"\2") + x)
        except ValueError:
            raise InvalidKey("no point of its curve") from None
        y = point.public_numbers().y.to_bytes(_COORDINATE_BYTES[curve], "big")
    else:
        y = _cose_octets(cose_key, _Y)
    return _asymmetric(curve, x, y, _cose_octets(cose_key, _D) if _D in cose_key else None)


def _jwk_restrictions(jwk: Mapping[str, Any]) -> frozenset[Operation] | None:
    use, names = jwk.get("use"), jwk.get("key_ops")
    if not isinstance(use, str | None) or not (names is None or isinstance(names, list)):
        raise InvalidKey("use or key_ops of a JWK is of another type")
    allowed = None if use is None else _JWK_USES.get(use, frozenset())
    if names is None:
        return allowed
    operations: frozenset[Operation] = frozenset()
    for name in names:
        if not isinstance(name, str):
            raise InvalidKey("key_ops of a JWK is no list of text")
        operations |= _JWK_OPERATIONS.get(name, frozenset())
    return operations if allowed is None else operations & allowed


def _cose_restrictions(cose_key: Mapping[Any, Any]) -> frozenset[Operation] | None:
    numbers = cose_key.get(_KEY_OPS)
    if numbers is None:
        return None
    if not isinstance(numbers, list) or not numbers:
        raise InvalidKey("key_ops of a COSE_Key is no list")
    return frozenset(operation for operation in Operation if operation in numbers)
