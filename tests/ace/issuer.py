"""An authorization server of other parts than the product: PyJWT, cbor2 and bare cryptography, by the book.

What it issues is what the product has to read. Randomness is not needed here: nonces are zero.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import cbor2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.padding import PKCS7

__all__ = [
    "b64",
    "compact_jwe",
    "compact_jws",
    "cose_encrypt0",
    "cose_key",
    "cose_mac0",
    "cose_sign1",
    "jwk",
    "raw_signature",
    "unb64",
]

Private = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

CCM_16_64_128 = 10
A256GCM = 3
HS256 = 5


def b64(octets: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def unb64(text: str) -> bytes:
    """Octets of base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# ---- keys ----


def jwk(key: Private | bytes, *, private: bool = False, **members: Any) -> dict[str, Any]:
    """A JWK; of a symmetric key with its secret."""
    if isinstance(key, bytes):
        return {"kty": "oct", "k": b64(key), **members}
    if isinstance(key, Ed25519PrivateKey):
        secret = {"d": b64(key.private_bytes_raw())} if private else {}
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().public_bytes_raw()), **secret, **members}
    numbers = key.private_numbers()
    size = (key.key_size + 7) // 8
    x, y, d = (n.to_bytes(size) for n in (numbers.public_numbers.x, numbers.public_numbers.y, numbers.private_value))
    secret = {"d": b64(d)} if private else {}
    return {"kty": "EC", "crv": f"P-{key.key_size}", "x": b64(x), "y": b64(y), **secret, **members}


def cose_key(key: Private | bytes, members: dict[int, Any] | None = None) -> dict[int, Any]:
    """A COSE_Key as a map; of a symmetric key with its secret."""
    if isinstance(key, bytes):
        return {1: 4, -1: key, **(members or {})}
    parts = jwk(key)
    if isinstance(key, Ed25519PrivateKey):
        return {1: 1, -1: 6, -2: unb64(parts["x"]), **(members or {})}
    return {
        1: 2,
        -1: {256: 1, 384: 2, 521: 3}[key.key_size],
        -2: unb64(parts["x"]),
        -3: unb64(parts["y"]),
        **(members or {}),
    }


def raw_signature(key: Private | bytes, data: bytes) -> bytes:
    """Signature or MAC: Ed25519, ES256 (r and s side by side) or HS256."""
    if isinstance(key, bytes):
        return hmac.new(key, data, hashlib.sha256).digest()
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(data)
    return bytes(jwt.get_algorithm_by_name("ES256").sign(data, key))


# ---- JOSE ----


def compact_jws(payload: bytes, key: Private | bytes, algorithm: str, header: dict[str, Any] | None = None) -> bytes:
    """A JWS by PyJWT."""
    return jwt.PyJWS().encode(payload, key, algorithm, headers=header).encode()


def compact_jwe(
    plaintext: bytes, key: bytes | ec.EllipticCurvePrivateKey, alg: str, enc: str, /, **header: Any
) -> bytes:
    """A JWE (RFC 7516, 5.1), to a shared key or to the public half of `key`; `header` may overwrite alg and enc."""
    size = {"A128GCM": 16, "A256GCM": 32, "A128CBC-HS256": 32, "A256CBC-HS512": 64}[enc]
    parameters: dict[str, Any] = {"alg": alg, "enc": enc, **header}
    cek = bytes(range(size))
    wrapped = b""
    if isinstance(key, bytes):
        if alg == "dir":
            cek = key
        else:
            wrapped = aes_key_wrap(key, cek)
    else:
        ephemeral = ec.derive_private_key(987_654_321, key.curve)
        parameters["epk"] = jwk(ephemeral)
        shared = ephemeral.exchange(ec.ECDH(), key.public_key())
        if alg == "ECDH-ES":
            cek = _concat_kdf(shared, enc, size)
        else:
            wrapped = aes_key_wrap(_concat_kdf(shared, alg, {"A128KW": 16, "A256KW": 32}[alg.partition("+")[2]]), cek)
    protected = b64(json.dumps(parameters).encode())
    if enc.endswith("GCM"):
        iv = bytes(12)
        sealed = AESGCM(cek).encrypt(iv, plaintext, protected.encode())
        ciphertext, tag = sealed[:-16], sealed[-16:]
    else:
        iv = bytes(16)
        padder = PKCS7(128).padder()
        encryptor = Cipher(algorithms.AES(cek[size // 2 :]), modes.CBC(iv)).encryptor()
        ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
        al = (8 * len(protected)).to_bytes(8)
        digest = hashlib.sha256 if size == 32 else hashlib.sha512
        tag = hmac.new(cek[: size // 2], protected.encode() + iv + ciphertext + al, digest).digest()[: size // 2]
    return ".".join([protected, b64(wrapped), b64(iv), b64(ciphertext), b64(tag)]).encode()


def _concat_kdf(shared: bytes, name: str, octets: int) -> bytes:
    """RFC 7518, 4.6.2, without apu and apv."""
    info = len(name).to_bytes(4) + name.encode() + bytes(8) + (8 * octets).to_bytes(4)
    out = b"".join(hashlib.sha256(count.to_bytes(4) + shared + info).digest() for count in (1, 2))
    return out[:octets]


# ---- COSE (RFC 9052) ----


def cose_sign1(
    payload: bytes, key: Private, *, algorithm: int | None = None, tags: bytes = b"\xd2", kid: bytes = b""
) -> bytes:
    """COSE_Sign1."""
    number = algorithm if algorithm is not None else (-8 if isinstance(key, Ed25519PrivateKey) else -7)
    protected = cbor2.dumps({1: number})
    signature = raw_signature(key, cbor2.dumps(["Signature1", protected, b"", payload]))
    return tags + cbor2.dumps([protected, {4: kid} if kid else {}, payload, signature])


def cose_mac0(payload: bytes, key: bytes, *, tags: bytes = b"\xd1", kid: bytes = b"") -> bytes:
    """COSE_Mac0 with HMAC 256/256."""
    protected = cbor2.dumps({1: HS256})
    mac = raw_signature(key, cbor2.dumps(["MAC0", protected, b"", payload]))
    return tags + cbor2.dumps([protected, {4: kid} if kid else {}, payload, mac])


def cose_encrypt0(plaintext: bytes, key: bytes, *, tags: bytes = b"\xd0", kid: bytes = b"") -> bytes:
    """COSE_Encrypt0: AES-CCM-16-64-128 with a key of 16 octets, A256GCM with one of 32."""
    algorithm, nonce = (CCM_16_64_128, bytes(13)) if len(key) == 16 else (A256GCM, bytes(12))
    protected = cbor2.dumps({1: algorithm})
    aad = cbor2.dumps(["Encrypt0", protected, b""])
    cipher = AESCCM(key, 8) if len(key) == 16 else AESGCM(key)
    unprotected: dict[int, bytes] = {5: nonce} | ({4: kid} if kid else {})
    return tags + cbor2.dumps([protected, unprotected, cipher.encrypt(nonce, plaintext, aad)])
