"""AS Request Creation Hints: which authorization server to ask, told in a refusing CONNACK.

RFC 9431, 2.4.1; RFC 9200, 5.3. One User Property `ace_as_hint` with a JSON object. Hints are not
authenticated: a client checks server and audience against what it was told otherwise before it uses them
(ADJ-9200-23, ACE-2.2.1-6).

Statements: ACE-2.4.1-3 to ACE-2.4.1-5, ADJ-9200-19, D-19. Keeping a `cnonce` fresh is the broker's part.
"""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct

from acebroker_ace.errors import HandshakeViolation
from acebroker_ace.notation import NotationError, base64url_decode, base64url_encode, json_loads
from acebroker_codec.packets import UserProperties

__all__ = ["HINT_PROPERTY", "CreationHints", "hints_among"]

#: name of the User Property
HINT_PROPERTY: Final = "ace_as_hint"


class CreationHints(Struct, frozen=True, kw_only=True):
    """What to ask for, and where."""

    #: `AS`: absolute URI of the token endpoint
    server: str
    audience: str | None = None
    kid: str | None = None
    scope: str | None = None
    client_nonce: bytes | None = None

    def user_property(self) -> tuple[str, str]:
        """The User Property of a CONNACK."""
        nonce = None if self.client_nonce is None else base64url_encode(self.client_nonce)
        members = {"AS": self.server, "audience": self.audience, "kid": self.kid, "cnonce": nonce, "scope": self.scope}
        present = {name: value for name, value in members.items() if value is not None}
        return HINT_PROPERTY, json.dumps(present, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CreationHints:
        """Read the value of the User Property; unknown members are ignored. Raises `HandshakeViolation`."""
        try:
            members = json_loads(text)
            if not isinstance(members, dict) or not all(isinstance(members.get(name, ""), str) for name in _MEMBERS):
                raise HandshakeViolation("hints that are no object of texts")
            if "AS" not in members:
                raise HandshakeViolation("hints without an authorization server")
            nonce = base64url_decode(members["cnonce"]) if "cnonce" in members else None
        except NotationError as error:
            raise HandshakeViolation(f"hints that cannot be read: {error}") from None
        return cls(
            server=members["AS"],
            audience=members.get("audience"),
            kid=members.get("kid"),
            scope=members.get("scope"),
            client_nonce=nonce,
        )


_MEMBERS: Final = ("AS", "audience", "kid", "cnonce", "scope")


def hints_among(properties: UserProperties) -> CreationHints | None:
    """The hints in the User Properties of a CONNACK, None without any. Raises `HandshakeViolation`."""
    found = [value for name, value in properties if name == HINT_PROPERTY]
    return CreationHints.from_json(found[0]) if found else None
