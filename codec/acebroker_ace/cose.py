"""COSE_Sign1, COSE_Mac0 and COSE_Encrypt0, tagged and untagged (RFC 9052, 4.2, 6.2, 5.2).

Two steps: `CoseMessage.parse` looks at the octets and believes nothing, `open` checks the protection with
one key and gives the content. The algorithm comes from the protected header only (ADJ-9052-4), and counts
only if the caller's list has it. Without a COSE tag, the algorithm says which of the three it is: each has
one purpose (ADJ-8392-2). `seal` writes what `open` reads.

Statements: ADJ-9052-2 to ADJ-9052-5, ADJ-8392-2, ADJ-8392-3.

Not here: COSE_Sign, COSE_Mac and COSE_Encrypt with their lists of signers and recipients, detached
content, countersignatures, Partial IV; which keys to try, and what stands in the content: `token`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from msgspec import Struct

from acebroker_ace.algorithms import BY_COSE, TOKEN_ALGORITHMS, Algorithm, Operation, Protection
from acebroker_ace.errors import InvalidKey, MalformedToken, UnauthenticToken, UnprotectedToken
from acebroker_ace.keys import InvalidSignature, InvalidTag, Key
from acebroker_ace.notation import NotationError, cbor_dumps, cbor_loads, cbor_tags

__all__ = ["CWT_TAG", "CoseMessage", "begins_with_cose_tag", "seal"]

#: in front of a COSE tag: what is protected is a CWT (RFC 8392, 6)
CWT_TAG: Final = 61

_TAGS: Final = {Protection.ENCRYPTION: 16, Protection.MAC: 17, Protection.SIGNATURE: 18}
_BY_TAG: Final = {tag: protection for protection, tag in _TAGS.items()}
_CONTEXTS: Final = {Protection.ENCRYPTION: "Encrypt0", Protection.MAC: "MAC0", Protection.SIGNATURE: "Signature1"}
_OPENING: Final[Mapping[Protection, Operation]] = {
    Protection.SIGNATURE: Operation.VERIFY,
    Protection.MAC: Operation.MAC_VERIFY,
    Protection.ENCRYPTION: Operation.DECRYPT,
}
#: COSE_Encrypt, COSE_Mac, COSE_Sign
_TAGS_OF_MANY: Final = frozenset({96, 97, 98})

#: header parameters (RFC 9052, 3.1)
_ALG, _CRIT, _CONTENT_TYPE, _KID, _IV, _PARTIAL_IV = 1, 2, 3, 4, 5, 6
_UNDERSTOOD: Final = frozenset({_ALG, _CRIT, _CONTENT_TYPE, _KID, _IV})


def begins_with_cose_tag(content: bytes) -> bool:
    """Whether decrypted or verified content is COSE again: a nested token (RFC 8392, 7.2)."""
    try:
        tags, _ = cbor_tags(content)
    except NotationError:
        return False
    return bool(tags) and tags[-1] in _BY_TAG


class CoseMessage(Struct, frozen=True):
    """A message that was read and not yet checked; `open` does that."""

    algorithm_unverified: Algorithm
    #: a hint at the key, not unique and perhaps unprotected
    kid_unverified: bytes | None
    #: the protected header as it stood
    protected: bytes
    nonce: bytes
    #: payload or ciphertext
    content: bytes
    #: signature or MAC
    value: bytes

    @classmethod
    def parse(cls, data: bytes) -> CoseMessage:
        """Read a message.

        Raises `MalformedToken` for anything that is not laid out as one, `UnprotectedToken` for an algorithm or
        a critical header parameter that is not known here.
        """
        try:
            tags, body = cbor_tags(data)
            array = cbor_loads(body)
            protection = _protection_of(tags)
            if not isinstance(array, list) or len(array) not in (3, 4):
                raise MalformedToken("not a COSE message: no array of three or four")
            protected, unprotected, content, *rest = array
            if not isinstance(protected, bytes) or not isinstance(unprotected, dict):
                raise MalformedToken("not a COSE message: no header")
            header = cbor_loads(protected) if protected else {}
        except NotationError as error:
            raise MalformedToken(f"not a COSE message: {error}") from None
        if not isinstance(header, dict) or header.keys() & unprotected.keys():
            raise MalformedToken("not a COSE message: its header is no map, or is ambiguous")
        _check_critical(header, unprotected)
        algorithm = _algorithm_of(header)
        if protection not in (None, algorithm.protection):
            raise UnprotectedToken(f"{algorithm.name} in a COSE message of another kind")
        if len(rest) != (algorithm.protection is not Protection.ENCRYPTION):
            raise MalformedToken(f"not a COSE message: {3 + len(rest)} elements for {algorithm.name}")
        value = rest[0] if rest else b""
        if not isinstance(content, bytes) or not isinstance(value, bytes):
            raise MalformedToken("a COSE message without content")
        parameters = {**unprotected, **header}
        kid, nonce = parameters.get(_KID), parameters.get(_IV, b"")
        if not isinstance(kid, bytes | None) or not isinstance(nonce, bytes):
            raise MalformedToken("kid or IV of a COSE message is no octets")
        return cls(algorithm, kid, protected, nonce, content, value)

    def open(self, key: Key, *, external_aad: bytes = b"", algorithms: Collection[str] = TOKEN_ALGORITHMS) -> bytes:
        """The payload, or the plaintext, once the protection holds under `key`.

        `algorithms`: names of those that are accepted. Raises `UnprotectedToken` for any other one,
        `UnauthenticToken` when key and message do not fit.
        """
        algorithm = self.algorithm_unverified
        if algorithm.name not in algorithms:
            raise UnprotectedToken(f"{algorithm.name} is not accepted")
        try:
            if algorithm.protection is Protection.ENCRYPTION:
                aad = _structure(algorithm, self.protected, external_aad)
                return key.decrypt(algorithm, self.nonce, self.content, aad)
            key.verify(algorithm, _structure(algorithm, self.protected, external_aad, self.content), self.value)
        except (InvalidKey, InvalidSignature, InvalidTag):
            raise UnauthenticToken(f"{algorithm.name}: the key does not open it") from None
        return self.content

    @property
    def encrypts(self) -> bool:
        """Whether its content is hidden."""
        return self.algorithm_unverified.protection is Protection.ENCRYPTION

    @property
    def authenticates(self) -> bool:
        """Whether opening it proves who made it: always, as each has a key of its maker."""
        return True

    def __repr__(self) -> str:
        return f"CoseMessage({self.algorithm_unverified.name})"

    def fits(self, key: Key) -> bool:
        """Whether the key may be what opens it."""
        return key.fits(self.algorithm_unverified, _OPENING[self.algorithm_unverified.protection])


def seal(
    algorithm: Algorithm, key: Key, content: bytes, *, nonce: bytes = b"", kid: bytes | None = None, tagged: bool = True
) -> bytes:
    """A message that protects `content`.

    `nonce`: of the algorithm's length, never twice with one key; for encryption only. Raises `InvalidKey` where
    the key does not fit.
    """
    protected = cbor_dumps({_ALG: algorithm.cose[0]})
    unprotected: dict[int, Any] = {} if kid is None else {_KID: kid}
    if algorithm.protection is Protection.ENCRYPTION:
        unprotected[_IV] = nonce
        ciphertext = key.encrypt(algorithm, nonce, content, _structure(algorithm, protected, b""))
        array = [protected, unprotected, ciphertext]
    else:
        value = key.sign(algorithm, _structure(algorithm, protected, b"", content))
        array = [protected, unprotected, content, value]
    tag = bytes([0xC0 | _TAGS[algorithm.protection]]) if tagged else b""
    return tag + cbor_dumps(array)


def _structure(algorithm: Algorithm, protected: bytes, external_aad: bytes, *content: bytes) -> bytes:
    """Sig_structure, MAC_structure or Enc_structure. The header is never empty here: the algorithm stands in it."""
    return cbor_dumps([_CONTEXTS[algorithm.protection], protected, external_aad, *content])


def _protection_of(tags: tuple[int, ...]) -> Protection | None:
    """What the tags announce, None where there are none."""
    if not tags:
        return None
    if tags[0] == CWT_TAG:
        tags = tags[1:]
    if len(tags) != 1 or tags[0] not in _BY_TAG:
        if tags and tags[-1] in _TAGS_OF_MANY:
            raise UnprotectedToken("a COSE message with a list of signers or recipients")
        raise MalformedToken("not a COSE message: another CBOR tag")
    return _BY_TAG[tags[0]]


def _check_critical(header: Mapping[Any, Any], unprotected: Mapping[Any, Any]) -> None:
    if _CRIT in unprotected:
        raise MalformedToken("crit outside the protected header")
    if _PARTIAL_IV in header or _PARTIAL_IV in unprotected:
        raise UnprotectedToken("a Partial IV")
    if _CRIT not in header:
        return
    labels = header[_CRIT]
    if not isinstance(labels, list) or not labels:
        raise MalformedToken("crit is no list")
    for label in labels:
        if not isinstance(label, int | str) or label not in header or label not in _UNDERSTOOD:
            raise UnprotectedToken("a critical header parameter that is missing or not understood")


def _algorithm_of(header: Mapping[Any, Any]) -> Algorithm:
    number = header.get(_ALG)
    algorithm = BY_COSE.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
    if algorithm is None:
        raise UnprotectedToken("no algorithm that is known here in the protected header")
    return algorithm
