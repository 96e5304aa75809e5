"""What can be wrong with a key, a token, a proof or a handshake, and what each of them is answered with.

    AceError                            0x87
    ├── InvalidKey                      a key that cannot be read, or that this algorithm may not use
    ├── InvalidToken
    │   ├── MalformedToken              not a token at all                                  upload: 0x99
    │   ├── UnprotectedToken            its protection is missing, unknown or not accepted
    │   ├── UnauthenticToken            no key of ours opens it: forged, damaged, or of a stranger
    │   ├── UnreadableClaims            authentic, but a claim is not of its type
    │   ├── UnknownIssuer               `iss` is not the one whose key opened it
    │   ├── ExpiredToken                `exp` or `exi` is over
    │   ├── PrematureToken              `nbf` is to come
    │   ├── WrongAudience               `aud` does not name this broker
    │   ├── UnrecognizedScope           `scope` is not AIF-MQTT
    │   ├── StaleNonce                  `cnonce` is missing, or not one that was given out lately
    │   ├── UnusableConfirmation        `cnf` names no key, several, or one that proves nothing
    │   └── NoToken                     none was shown, and none is stored
    ├── InvalidProof                    possession of the key was not proven
    │   └── StaleChallenge              ... in time, or with a nonce of its own
    ├── HandshakeViolation              a step of the handshake out of order, or of another shape
    └── HandshakeRefused                (client) the broker said no

Whatever fails in CONNECT or in a re-authentication is answered with 0x87 (ACE-2.4.1-2, ACE-4-13); only the
`authz-info` topic and MQTT 3.1.1 tell a thing that is no token from a bad one (ACE-2.2.2-8 .. -11, D-28).
`answer(occasion)` has the code for each. No text here ever holds a token, a key or a proof.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from acebroker_codec.errors import MqttError, ReasonCode

if TYPE_CHECKING:
    from acebroker_ace.hints import CreationHints

__all__ = [
    "AceError",
    "ExpiredToken",
    "HandshakeRefused",
    "HandshakeViolation",
    "InvalidKey",
    "InvalidProof",
    "InvalidToken",
    "MalformedToken",
    "NoToken",
    "Occasion",
    "PrematureToken",
    "StaleChallenge",
    "StaleNonce",
    "UnauthenticToken",
    "UnknownIssuer",
    "UnprotectedToken",
    "UnreadableClaims",
    "UnrecognizedScope",
    "UnusableConfirmation",
    "WrongAudience",
]


class Occasion(enum.Enum):
    """Where a token or a proof was shown: the same failure has different answers."""

    CONNECT = "CONNECT of MQTT 5"
    CONNECT_V3 = "CONNECT of MQTT 3.1.1"
    UPLOAD = "PUBLISH to authz-info"
    RE_AUTHENTICATION = "AUTH 0x19"


_NOTHING_SPECIAL: Final[Mapping[Occasion, ReasonCode]] = {}


class AceError(MqttError):
    """Anything of ACE that fails; `detail` as in `MqttError`."""

    default_reason_code = ReasonCode.NOT_AUTHORIZED
    #: where the answer is another than `reason_code`
    answers: ClassVar[Mapping[Occasion, ReasonCode]] = _NOTHING_SPECIAL

    def answer(self, occasion: Occasion) -> ReasonCode:
        """The reason code to answer with; for MQTT 3.1.1 `connect_return_code` turns it into a return code."""
        return self.answers.get(occasion, self.reason_code)


class InvalidKey(AceError):
    """A key that cannot be read, is too short, or does not fit the algorithm or the operation."""


class InvalidToken(AceError):
    """A token that gives no rights."""


class MalformedToken(InvalidToken):
    """Octets that are neither a JWT nor a CWT."""

    answers: ClassVar[Mapping[Occasion, ReasonCode]] = {
        Occasion.UPLOAD: ReasonCode.PAYLOAD_FORMAT_INVALID,
        Occasion.CONNECT_V3: ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    }


class UnprotectedToken(InvalidToken):
    """No protection, or by an algorithm or header parameter that is not accepted here."""


class UnauthenticToken(InvalidToken):
    """No key of an authorization server that we trust verifies or decrypts it."""


class UnreadableClaims(InvalidToken):
    """The claims cannot be obtained: not a map, or a claim of another type."""


class UnknownIssuer(InvalidToken):
    """The issuer named is not the authorization server that protected the token."""


class ExpiredToken(InvalidToken):
    """The token is not valid any more."""


class PrematureToken(InvalidToken):
    """The token is not valid yet."""


class WrongAudience(InvalidToken):
    """The token is for somebody else."""


class UnrecognizedScope(InvalidToken):
    """The scope is not AIF-MQTT."""


class StaleNonce(InvalidToken):
    """The token does not carry a client nonce that we gave out lately."""


class UnusableConfirmation(InvalidToken):
    """No key for a proof of possession comes out of `cnf`."""


class NoToken(InvalidToken):
    """No token was shown, and none is stored: the client asks for its authorization server."""


class InvalidProof(AceError):
    """Possession of the token's key was not proven."""


class StaleChallenge(InvalidProof):
    """The challenge is too old, or was used before."""


class HandshakeViolation(AceError):
    """A packet of the handshake that may not come now, or whose data is not laid out as it has to be."""


class HandshakeRefused(AceError):
    """The broker refused; `reason_code` is the one that it gave, `hints` what it told of its authorization server."""

    def __init__(self, detail: str, reason_code: ReasonCode, hints: CreationHints | None = None) -> None:
        super().__init__(detail, reason_code)
        self.hints = hints
