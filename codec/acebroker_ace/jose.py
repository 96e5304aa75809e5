"""JWS and JWE in compact serialization, as JWTs are (RFC 7515, 7516, 7519), by joserfc with algorithms from our list.

Two steps, as in `cose`: `JoseMessage.parse` looks at the header and believes nothing, `open` checks the
protection with one key. The header's `alg` and `enc` only choose within the lists below: no `none`, no
RSA1_5, no PBES2; no compression (`zip`), no embedded keys or addresses of keys (`jwk`, `jku`, `x5u` are
not looked at), and no critical extension, as none is understood (ADJ-7515-1).

Who encrypts to a public key may be anybody: such a JWE hides its content and proves nothing, which
`JoseMessage.authenticates` tells.

Not here: the JSON serializations, what stands in the content, which keys to try: `token`.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from joserfc import jwe, jws
from joserfc.jwk import ECKey, OctKey, OKPKey
from msgspec import Struct

from acebroker_ace.algorithms import BY_JOSE, TOKEN_ALGORITHMS, Algorithm, KeyType, Operation, Protection
from acebroker_ace.errors import MalformedToken, UnauthenticToken, UnprotectedToken
from acebroker_ace.keys import Key
from acebroker_ace.notation import NotationError, base64url_decode, json_loads

__all__ = ["CONTENT_ENCRYPTION", "KEY_MANAGEMENT", "JoseMessage"]

_JoseKey: TypeAlias = OctKey | OKPKey | ECKey

_PARTS_OF_JWS: Final = 3
_PARTS_OF_JWE: Final = 5

#: `alg` of a JWE that is accepted -> the type of key, what the key does, and how long a symmetric one is
#: (0: as `enc` needs it)
KEY_MANAGEMENT: Final[Mapping[str, tuple[KeyType, Operation, int]]] = {
    "dir": (KeyType.SYMMETRIC, Operation.DECRYPT, 0),
    "A128KW": (KeyType.SYMMETRIC, Operation.UNWRAP, 16),
    "A256KW": (KeyType.SYMMETRIC, Operation.UNWRAP, 32),
    "ECDH-ES": (KeyType.EC2, Operation.DERIVE_KEY, 0),
    "ECDH-ES+A128KW": (KeyType.EC2, Operation.DERIVE_KEY, 0),
    "ECDH-ES+A256KW": (KeyType.EC2, Operation.DERIVE_KEY, 0),
}
#: `enc` of a JWE that is accepted -> octets of its key
CONTENT_ENCRYPTION: Final[Mapping[str, int]] = {
    "A128GCM": 16,
    "A256GCM": 32,
    "A128CBC-HS256": 32,
    "A256CBC-HS512": 64,
}
#: header parameters that change how the rest is read, and that nobody needs
_REFUSED: Final = frozenset({"b64", "crit", "zip"})


class JoseMessage(Struct, frozen=True):
    """A JWS or JWE that was read and not yet checked; `open` does that."""

    text: str
    #: None: a JWE
    algorithm_unverified: Algorithm | None
    header_unverified: dict[str, Any]
    #: a hint at the key
    kid_unverified: bytes | None

    @classmethod
    def parse(cls, octets: bytes) -> JoseMessage:
        """Read a compact serialization.

        Raises `MalformedToken` for anything that is not laid out as one, `UnprotectedToken` for an algorithm or
        a header parameter that is not accepted.
        """
        try:
            text = octets.decode("ascii")
            segments = text.split(".")
            if len(segments) not in (_PARTS_OF_JWS, _PARTS_OF_JWE):
                raise MalformedToken("not a JWT: neither three nor five parts")
            header, *_ = (base64url_decode(segment) for segment in segments)
            parameters = json_loads(header)
        except (NotationError, UnicodeDecodeError):
            raise MalformedToken("not a JWT: its parts are not base64url, or its header is not JSON") from None
        if not isinstance(parameters, dict):
            raise MalformedToken("not a JWT: its header is no object")
        name, kid = parameters.get("alg"), parameters.get("kid")
        if not isinstance(name, str) or not isinstance(kid, str | None):
            raise MalformedToken("not a JWT: alg or kid of its header is no text")
        if _REFUSED & parameters.keys():
            raise UnprotectedToken("a header parameter that is not accepted")
        encoded = None if kid is None else kid.encode()
        if len(segments) == _PARTS_OF_JWS:
            if name not in BY_JOSE:
                raise UnprotectedToken("an algorithm that is not accepted")
            return cls(text, BY_JOSE[name], parameters, encoded)
        encryption = parameters.get("enc")
        if not isinstance(encryption, str):
            raise MalformedToken("not a JWT: enc of its header is no text")
        if name not in KEY_MANAGEMENT or encryption not in CONTENT_ENCRYPTION:
            raise UnprotectedToken("an encryption that is not accepted")
        return cls(text, None, parameters, encoded)

    def __repr__(self) -> str:
        return f"JoseMessage({self.header_unverified['alg']})"

    @property
    def encrypts(self) -> bool:
        """Whether its content is hidden."""
        return self.algorithm_unverified is None

    @property
    def authenticates(self) -> bool:
        """Whether opening it proves who made it: a holder of the signing key, or of the shared key."""
        return (
            self.algorithm_unverified is not None
            or KEY_MANAGEMENT[self.header_unverified["alg"]][0] is KeyType.SYMMETRIC
        )

    @property
    def nested(self) -> bool:
        """Whether the content says to be a JWT again (RFC 7519, 5.2)."""
        content_type = self.header_unverified.get("cty")
        return isinstance(content_type, str) and content_type.upper() == "JWT"

    def fits(self, key: Key) -> bool:
        """Whether the key may be what opens it."""
        if self.algorithm_unverified is not None:
            verified_by_mac = self.algorithm_unverified.protection is Protection.MAC
            return key.fits(self.algorithm_unverified, Operation.MAC_VERIFY if verified_by_mac else Operation.VERIFY)
        name, encryption = self.header_unverified["alg"], self.header_unverified["enc"]
        key_type, operation, octets = KEY_MANAGEMENT[name]
        return (
            key.key_type is key_type
            and key.algorithm in (None, name, encryption)
            and (key.operations is None or operation in key.operations)
            and (
                key.is_private if key_type is KeyType.EC2 else key.octets == (octets or CONTENT_ENCRYPTION[encryption])
            )
        )

    def open(self, key: Key, *, algorithms: Collection[str] = TOKEN_ALGORITHMS) -> bytes:
        """The payload, or the plaintext, once the protection holds under `key`.

        `algorithms`: names of the signatures and MACs that are accepted; encryption is as listed here. Raises
        `UnprotectedToken` for any other one, `UnauthenticToken` when key and message do not fit.
        """
        algorithm = self.algorithm_unverified
        if algorithm is not None and algorithm.name not in algorithms:
            raise UnprotectedToken(f"{algorithm.name} is not accepted")
        name: str = self.header_unverified["alg"]
        if not self.fits(key):
            raise UnauthenticToken(f"{name}: the key does not open it")
        try:
            if algorithm is not None:
                return jws.deserialize_compact(self.text, _converted(key), registry=_signatures(name)).payload
            encryption: str = self.header_unverified["enc"]
            plaintext = jwe.decrypt_compact(
                self.text, _converted(key), registry=_encryption(name, encryption)
            ).plaintext
        except Exception:  # whatever a library makes of a stranger's octets: they were not opened
            raise UnauthenticToken(f"{name}: the key does not open it") from None
        if plaintext is None:
            raise UnauthenticToken(f"{name}: the key does not open it")
        return plaintext


class _Signatures(jws.JWSRegistry):
    """Knows exactly the algorithms it is given; joserfc's own warns of the name EdDSA at every use."""

    def get_alg(self, name: str) -> Any:
        assert self.allowed is not None
        if name not in self.allowed:
            raise ValueError(name)
        return self.algorithms[name]


@cache
def _signatures(name: str) -> _Signatures:
    return _Signatures(algorithms=[name], strict_check_header=False)


@cache
def _encryption(name: str, encryption: str) -> jwe.JWERegistry:
    return jwe.JWERegistry(algorithms=[name, encryption], strict_check_header=False)


#: joserfc's form of the keys that are in use: making it costs more than a verification
_CONVERTED: Final[weakref.WeakKeyDictionary[Key, _JoseKey]] = weakref.WeakKeyDictionary()


def _converted(key: Key) -> _JoseKey:
    converted = _CONVERTED.get(key)
    if converted is None:
        members: Any = {name: value for name, value in key.jwk(private=True).items() if name != "kid"}
        if key.key_type is KeyType.SYMMETRIC:
            converted = OctKey.import_key(members)
        elif key.key_type is KeyType.OKP:
            converted = OKPKey.import_key(members)
        else:
            converted = ECKey.import_key(members)
        _CONVERTED[key] = converted
    return converted
