"""Proof of possession: a signature or MAC with the token's key, over the TLS exporter or over two nonces.

    exporter     the 32 octets that TLS exports under `EXPORTER_LABEL` with an empty context
    challenge    the broker's nonce, then the client's: 16 octets

The value is bare (D-16): no JWS, no COSE structure. The type of the key says which algorithm, the key itself
may forbid it, and nothing else has a say: HS256 for a symmetric key of 32 octets at least, EdDSA for Ed25519,
ES256 for P-256.

Statements: ACE-2.2.4.2.1-2, ACE-2.2.4.2.1-3, ACE-2.2.4.2.2-6, ACE-2.2.5-3, ACE-2.2.5-6, ACE-2.2.5-8, ACE-7-1.

Not here: where exporter and nonces come from, how old they may be, and when which proof is allowed: `handshake`.
"""

from __future__ import annotations

from typing import Final

from acebroker_ace.algorithms import ALGORITHMS, Algorithm, Curve, KeyType, Operation
from acebroker_ace.errors import InvalidKey, InvalidProof
from acebroker_ace.keys import InvalidSignature, Key

__all__ = [
    "EXPORTER_LABEL",
    "EXPORTER_OCTETS",
    "NONCE_OCTETS",
    "can_verify",
    "check_challenge",
    "check_exporter",
    "prove_challenge",
    "prove_exporter",
]

#: label of the TLS exporter (RFC 9431, 7.1); its context is empty, of zero length on TLS 1.2 (D-14)
EXPORTER_LABEL: Final = b"EXPORTER-ACE-MQTT-Sign-Challenge"
#: what TLS has to export
EXPORTER_OCTETS: Final = 32
#: length of either nonce
NONCE_OCTETS: Final = 8

_ALGORITHMS: Final = {
    (KeyType.SYMMETRIC, None): ALGORITHMS["HS256"],
    (KeyType.OKP, Curve.ED25519): ALGORITHMS["EdDSA"],
    (KeyType.EC2, Curve.P_256): ALGORITHMS["ES256"],
}


def _algorithm(key: Key) -> Algorithm:
    algorithm = _ALGORITHMS.get((key.key_type, key.curve))
    if algorithm is None:
        raise InvalidKey("a proof of possession is not made with this type of key")
    return algorithm


def can_verify(key: Key) -> bool:
    """Whether proofs of this key can be checked: its type, its length and its own restrictions allow it."""
    algorithm = _ALGORITHMS.get((key.key_type, key.curve))
    operation = Operation.MAC_VERIFY if key.key_type is KeyType.SYMMETRIC else Operation.VERIFY
    return algorithm is not None and key.fits(algorithm, operation)


def prove_exporter(key: Key, exporter: bytes) -> bytes:
    """The proof for this TLS session (ACE-2.2.4.2.1-2). Raises `InvalidKey`."""
    return key.sign(_algorithm(key), _exporter(exporter))


def check_exporter(key: Key, exporter: bytes, value: bytes) -> None:
    """Raise `InvalidProof` unless `value` proves possession of `key` in this TLS session."""
    _check(key, _exporter(exporter), value)


def prove_challenge(key: Key, broker_nonce: bytes, client_nonce: bytes) -> bytes:
    """The answer to a challenge (ACE-2.2.4.2.2-6). Raises `InvalidKey`."""
    return key.sign(_algorithm(key), _challenge(broker_nonce, client_nonce))


def check_challenge(key: Key, broker_nonce: bytes, client_nonce: bytes, value: bytes) -> None:
    """Raise `InvalidProof` unless `value` answers the challenge."""
    _check(key, _challenge(broker_nonce, client_nonce), value)


def _exporter(exporter: bytes) -> bytes:
    if len(exporter) != EXPORTER_OCTETS:
        raise ValueError(f"TLS has to export {EXPORTER_OCTETS} octets")
    return exporter


def _challenge(broker_nonce: bytes, client_nonce: bytes) -> bytes:
    if len(broker_nonce) != NONCE_OCTETS or len(client_nonce) != NONCE_OCTETS:
        raise ValueError(f"nonces have {NONCE_OCTETS} octets")
    return broker_nonce + client_nonce


def _check(key: Key, data: bytes, value: bytes) -> None:
    try:
        key.verify(_algorithm(key), data, value)
    except (InvalidKey, InvalidSignature):
        raise InvalidProof("the proof of possession does not hold") from None
