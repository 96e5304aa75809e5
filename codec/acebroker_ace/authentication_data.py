"""What stands in Authentication Data, and in user name and password of MQTT 3.1.1 (RFC 9431, 2.2.4.2 and 6.1).

    CONNECT           token length (2), token, proof over the TLS exporter
    CONNECT           token length (2), token                    asks for a challenge
    CONNECT           nothing, or a token length of 0            the stored token, or which server to ask (D-13)
    AUTH 0x18         broker's nonce (8)                         the challenge
    AUTH 0x18         client's nonce (8), proof                  the answer
    AUTH 0x19         token length (2), token                    the new token
    CONNECT 3.1.1     user name: `ace` and the token in base64url; password: proof over the TLS exporter

Integers are big-endian. Only the token has its length in front. Whatever else is there, or is missing, is a
`HandshakeViolation`; a user name that is not base64url is no token.

Statements: ACE-2.2.4.2-1, ACE-2.2.4.2-3, ACE-2.2.4.2.1-1, ACE-2.2.4.2.2-1, ACE-2.2.4.2.2-4, ACE-2.2.4.2.2-5,
ACE-4-8, ACE-6.1-5, ACE-6.1-12 to ACE-6.1-14, D-13, D-15, D-27.
"""

from __future__ import annotations

from typing import Final

from acebroker_ace.errors import HandshakeViolation, MalformedToken
from acebroker_ace.notation import NotationError, base64url_decode, base64url_encode
from acebroker_ace.proof import NONCE_OCTETS

__all__ = [
    "METHOD",
    "USER_NAME_PREFIX",
    "decode_answer",
    "decode_challenge",
    "decode_connect",
    "decode_renewal",
    "decode_user_name",
    "encode_answer",
    "encode_connect",
    "encode_user_name",
]

#: the Authentication Method
METHOD: Final = "ace"
#: what a user name of MQTT 3.1.1 begins with
USER_NAME_PREFIX: Final = "ace"

_LENGTH_OCTETS: Final = 2
_TOKEN_OCTETS_MAX: Final = 65_533
_STRING_OCTETS_MAX: Final = 65_535


def encode_connect(token: bytes, proof: bytes = b"") -> bytes:
    """For CONNECT, or without proof for AUTH 0x19. Raises `ValueError` where Binary Data cannot hold it."""
    if not 0 < len(token) <= _TOKEN_OCTETS_MAX - len(proof):
        raise ValueError("no token, or one that is too long for Authentication Data")
    return len(token).to_bytes(_LENGTH_OCTETS, "big") + token + proof


def decode_connect(data: bytes | None) -> tuple[bytes, bytes]:
    """Token and proof, each empty where there is none. Raises `HandshakeViolation`."""
    if data is None:
        return b"", b""
    if len(data) < _LENGTH_OCTETS:
        raise HandshakeViolation("Authentication Data without a token length")
    length = int.from_bytes(data[:_LENGTH_OCTETS], "big")
    token, proof = data[_LENGTH_OCTETS : _LENGTH_OCTETS + length], data[_LENGTH_OCTETS + length :]
    if len(token) < length or (proof and not token):
        raise HandshakeViolation("Authentication Data that its token length does not fit")
    return token, proof


def decode_renewal(data: bytes | None) -> bytes:
    """The new token in AUTH 0x19. Raises `HandshakeViolation`."""
    token, proof = decode_connect(data)
    if not token or proof:
        raise HandshakeViolation("re-authentication takes a token, and nothing else")
    return token


def decode_challenge(data: bytes | None) -> bytes:
    """The broker's nonce. Raises `HandshakeViolation`."""
    if data is None or len(data) != NONCE_OCTETS:
        raise HandshakeViolation("a challenge that is no nonce")
    return data


def encode_answer(client_nonce: bytes, proof: bytes) -> bytes:
    """The answer to a challenge."""
    return client_nonce + proof


def decode_answer(data: bytes | None) -> tuple[bytes, bytes]:
    """Client's nonce and proof. Raises `HandshakeViolation`."""
    if data is None or len(data) <= NONCE_OCTETS:
        raise HandshakeViolation("an answer without nonce or proof")
    return data[:NONCE_OCTETS], data[NONCE_OCTETS:]


def encode_user_name(token: bytes) -> str:
    """The user name of MQTT 3.1.1. Raises `ValueError` where a UTF-8 string cannot hold it."""
    user_name = USER_NAME_PREFIX + base64url_encode(token)
    if not token or len(user_name) > _STRING_OCTETS_MAX:
        raise ValueError("no token, or one that is too long for a user name")
    return user_name


def decode_user_name(user_name: str) -> bytes:
    """The token in a user name that begins with `USER_NAME_PREFIX`, empty without one. Raises `MalformedToken`."""
    try:
        return base64url_decode(user_name.removeprefix(USER_NAME_PREFIX))
    except NotationError:
        raise MalformedToken("the user name holds no token in base64url") from None
