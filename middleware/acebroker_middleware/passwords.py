"""A password file: user names, and what their passwords are checked against.

    alice:$argon2id$v=19$m=65536,t=3,p=4$<salt>$<tag>     what we write (RFC 9106), also mosquitto 2.1
    bob:$7$<iterations>$<salt>$<digest>                   mosquitto 1.6 to 2.0: PBKDF2-HMAC-SHA512
    carol:$6$<salt>$<digest>                              mosquitto before: one SHA-512 of password and salt

Empty lines and lines that start with `#` are passed over. A line that is not understood, a second line for a
user and parameters beyond the bounds below refuse the whole file: no file can make a check arbitrarily long.

Checking is slow by design (tens of milliseconds): `verify` is synchronous, and its caller gives it a thread.
A user that does not exist costs as much as most of those that do. Digests are compared in constant time, and
neither `repr` nor any error shows one.

Not here: reading and writing the file, randomness (a salt is an argument), and limiting how often somebody may try.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal

from argon2.exceptions import VerificationError
from argon2.low_level import Type, hash_secret, verify_secret
from msgspec import Struct

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Connect
from acebroker_middleware.authn import Grant
from acebroker_middleware.connection import Connection
from acebroker_middleware.errors import ConnectionRefused
from acebroker_middleware.hand_offs import then
from acebroker_middleware.state.ports import Authority, Identity

__all__ = ["SALT_BYTES", "PasswordFile", "PasswordFileError", "Passwords", "hash_password"]

#: octets of salt that `hash_password` wants
SALT_BYTES: Final = 16

# argon2id as RFC 9106 (4) recommends where memory is scarce: 64 MiB, three passes, four lanes
_MEMORY_KIB: Final = 65_536
_PASSES: Final = 3
_LANES: Final = 4
_TAG_BYTES: Final = 32

# what a file may ask for at most
_MEMORY_KIB_MAX: Final = 1_048_576
_PASSES_MAX: Final = 64
_LANES_MAX: Final = 64
_ITERATIONS_MAX: Final = 10_000_000
#: of salt, digest or tag
_OCTETS_MAX: Final = 1_024

_SHA512_BYTES: Final = 64
_ARGON2ID: Final = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,10})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)
_PBKDF2: Final = re.compile(r"\$7\$([0-9]{1,10})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_SHA512: Final = re.compile(r"\$6\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")


class PasswordFileError(ValueError):
    """A line of a password file that is not understood. Says `source:line`, never what stands there."""


class _Hash(Struct, frozen=True):
    """What one password is checked against. `cost`: memory in KiB, passes and lanes; or iterations; or nothing."""

    kind: Literal["argon2id", "pbkdf2", "sha512"]
    cost: tuple[int, ...]
    salt: bytes
    digest: bytes

    def __repr__(self) -> str:
        return f"<{self.kind} hash>"

    @property
    def effort(self) -> tuple[object, ...]:
        """Equal for hashes that take the same time to check."""
        return self.kind, self.cost, len(self.salt), len(self.digest)

    def decoy(self) -> _Hash:
        """A hash of the same effort, for users that do not exist."""
        return _Hash(self.kind, self.cost, bytes(len(self.salt)), bytes(len(self.digest)))

    def verify(self, password: bytes) -> bool:
        if self.kind == "argon2id":
            try:
                return verify_secret(_argon2id_text(self.cost, self.salt, self.digest), password, Type.ID)
            except VerificationError:
                return False
        if self.kind == "pbkdf2":
            digest = hashlib.pbkdf2_hmac("sha512", password, self.salt, self.cost[0])
        else:
            digest = hashlib.sha512(password + self.salt).digest()
        return hmac.compare_digest(digest, self.digest)


_OURS: Final = _Hash("argon2id", (_MEMORY_KIB, _PASSES, _LANES), bytes(SALT_BYTES), bytes(_TAG_BYTES))


class PasswordFile:
    """The users of one password file. Immutable; safe to use from several threads at once."""

    __slots__ = ("_decoy", "_hashes", "_source")

    def __init__(self, hashes: dict[str, _Hash], source: str) -> None:
        self._hashes = hashes
        self._source = source
        usual = Counter(known.effort for known in hashes.values()).most_common(1)
        self._decoy = next((known.decoy() for known in hashes.values() if known.effort == usual[0][0]), _OURS)

    @classmethod
    def parse(cls, text: str, source: str) -> PasswordFile:
        """Parse the whole text of a file; `source` is its name in messages.

        Raises `PasswordFileError` for the first line that is not understood: nothing of such a file counts.
        """
        hashes: dict[str, _Hash] = {}
        for number, line in enumerate(text.split("\n"), 1):
            username, colon, encoded = _fields(line)
            if not username and not colon:
                continue
            try:
                if not colon:
                    raise ValueError("no `:` between user name and hash")
                if not username:
                    raise ValueError("no user name")
                if username in hashes:
                    raise ValueError(f"a second line for {username!r}")
                hashes[username] = _parse_hash(encoded)
            except ValueError as error:
                raise PasswordFileError(f"{source}:{number}: {error}") from None
        return cls(hashes, source)

    def __len__(self) -> int:
        return len(self._hashes)

    def __repr__(self) -> str:
        return f"<PasswordFile {self._source!r}, {len(self._hashes)} users>"

    def __contains__(self, username: object) -> bool:
        return username in self._hashes

    def verify(self, username: str, password: bytes) -> bool:
        """Whether this is the password of this user. Slow, and as slow if there is no such user."""
        known = self._hashes.get(username)
        passed = (self._decoy if known is None else known).verify(password)
        return passed and known is not None

    def needs_rehash(self, username: str) -> bool:
        """Whether the user's hash is of a kind or cost that `hash_password` would no longer make."""
        known = self._hashes.get(username)
        return known is not None and known.effort != _OURS.effort

    @staticmethod
    def replace_line(text: str, username: str, encoded: str) -> str:
        """The text of a file with the hash of one user replaced, or appended if there was none; all else stays.

        Raises `ValueError` for a name that cannot stand in a file: an empty one, one with `:`, a line
        end or U+0000, or one that starts with `#`.
        """
        line = f"{username}:{encoded}"
        if _fields(line) != (username, ":", encoded) or not username or re.search("[\n\r\0]", line):
            raise ValueError(f"{username!r} cannot stand in a password file")
        lines = text.split("\n")
        for index, present in enumerate(lines):
            if _fields(present)[:2] == (username, ":"):
                lines[index] = line
                return "\n".join(lines)
        if lines[-1]:
            lines.append("")
        lines.insert(-1, line)
        return "\n".join(lines)


def hash_password(password: bytes, salt: bytes) -> str:
    """What goes after `user:` for a new password. `salt`: `SALT_BYTES` octets, random and never used before."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"the salt has {len(salt)} octets instead of {SALT_BYTES}")
    return hash_secret(password, salt, _PASSES, _MEMORY_KIB, _LANES, _TAG_BYTES, Type.ID).decode("ascii")


def _fields(line: str) -> tuple[str, str, str]:
    """User name, `:`, hash; three empty texts for a line without content. A blank in a name is part of it."""
    line = line.rstrip(" \t\r")
    return ("", "", "") if line.startswith("#") else line.partition(":")


def _parse_hash(encoded: str) -> _Hash:
    """Raises `ValueError` without a part of the hash in it."""
    if found := _ARGON2ID.fullmatch(encoded):
        memory_kib, passes, lanes = cost = tuple(int(number) for number in found.groups()[:3])
        if (
            not 1 <= passes <= _PASSES_MAX
            or not 1 <= lanes <= _LANES_MAX
            or not 8 * lanes <= memory_kib <= _MEMORY_KIB_MAX
        ):
            raise ValueError(f"argon2id beyond m={_MEMORY_KIB_MAX}, t={_PASSES_MAX}, p={_LANES_MAX}, or of no effort")
        parsed = _Hash("argon2id", cost, _octets(found[4], padded=False), _octets(found[5], padded=False))
        if len(parsed.salt) < 8 or len(parsed.digest) < 16:
            raise ValueError("argon2id with less than 8 octets of salt or 16 of tag")
    elif found := _PBKDF2.fullmatch(encoded):
        iterations = int(found[1])
        if not 1 <= iterations <= _ITERATIONS_MAX:
            raise ValueError(f"iterations are not in 1..{_ITERATIONS_MAX}")
        parsed = _Hash("pbkdf2", (iterations,), _octets(found[2]), _octets(found[3]))
    elif found := _SHA512.fullmatch(encoded):
        parsed = _Hash("sha512", (), _octets(found[1]), _octets(found[2]))
    else:
        raise ValueError("what follows the user name is no hash of a known form ($argon2id$, $7$, $6$)")
    if parsed.kind != "argon2id" and len(parsed.digest) != _SHA512_BYTES:
        raise ValueError(f"a digest of {len(parsed.digest)} octets instead of {_SHA512_BYTES}")
    return parsed


def _octets(text: str, *, padded: bool = True) -> bytes:
    """Base64, in the one spelling that its encoder gives."""
    if not padded:
        text += "=" * (-len(text) % 4)
    try:
        octets = base64.b64decode(text, validate=True)
    except binascii.Error:
        octets = b""
    if not octets or len(octets) > _OCTETS_MAX or base64.b64encode(octets) != text.encode("ascii"):
        raise ValueError("salt or digest is not base64, or not of a usual length")
    return octets


def _argon2id_text(cost: tuple[int, ...], salt: bytes, tag: bytes) -> bytes:
    memory_kib, passes, lanes = cost
    bare_salt, bare_tag = (base64.b64encode(octets).rstrip(b"=").decode("ascii") for octets in (salt, tag))
    return f"$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${bare_salt}${bare_tag}".encode("ascii")


class Passwords:
    """The authenticator for user name and password (authn asks it).

    `check(username, password)` tells whether they belong together, without blocking: the runtime gives
    it a thread. `authority_for(username, client_identifier)` gives the rights of a user.
    """

    name = "password"

    def __init__(
        self, check: Callable[[str, bytes], Awaitable[bool]], authority_for: Callable[[str, str], Authority]
    ) -> None:
        self._check = check
        self._authority_for = authority_for

    def authenticate(self, conn: Connection, connect: Connect) -> Awaitable[Grant | None] | None:
        """Check a CONNECT that has a user name. Raises ConnectionRefused 0x86 when they do not match."""
        username = connect.username
        if username is None or connect.properties.authentication_method is not None:
            return None
        return then(self._check(username, connect.password or b""), partial(self._checked, conn, username))

    def _checked(self, conn: Connection, username: str, correct: bool) -> Grant:
        if not correct:
            conn.round.counters.denials["password"] += 1
            raise ConnectionRefused(ReasonCode.BAD_USER_NAME_OR_PASSWORD, "password")
        return Grant(Identity("user", username), self._authority_for(username, conn.client_identifier))
