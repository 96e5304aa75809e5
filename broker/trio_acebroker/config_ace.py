"""The configuration of ACE: authorization servers, and how their tokens are taken (RFC 9431).

Values and what contradicts itself, as in `config`, which holds these Structs. Reading the files that they name is
`key_files`.
"""

from __future__ import annotations

import math
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from acebroker_ace.algorithms import ALGORITHMS, TOKEN_ALGORITHMS
from acebroker_ace.errors import UnrecognizedScope
from acebroker_ace.scope import Scope
from trio_acebroker.config_text import ConfigError

__all__ = ["Ace", "AuthorizationServer"]

#: beyond this, a re-authentication that is begun does not put off the end of a token
REAUTHENTICATION_SECONDS_MAX: Final = 30.0
#: more than Binary Data can hold makes no sense
TOKEN_BYTES_CEILING: Final = 65_533

Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class AuthorizationServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One authorization server whose tokens are taken, and the keys by which they are known."""

    #: `iss` of its tokens
    issuer: str
    #: what it calls this broker: one of these stands in `aud`
    audience: tuple[str, ...]
    #: files with its public keys, and with keys that only it and this broker have
    keys: tuple[str, ...]
    #: what it may sign and encrypt tokens with, beside EdDSA, ES256, HS256 and authenticated encryption
    more_algorithms: tuple[str, ...] = ()
    #: where clients get tokens: told to those that have none
    token_endpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.issuer:
            raise ConfigError("an authorization server without issuer")
        if not self.audience or "" in self.audience:
            raise ConfigError(f"authorization server {self.issuer}: audience names nothing that its tokens are for")
        if not self.keys:
            raise ConfigError(f"authorization server {self.issuer}: without keys, no token of it can be verified")
        unknown = [name for name in self.more_algorithms if name not in ALGORITHMS]
        if unknown:
            more = ", ".join(sorted(ALGORITHMS.keys() - TOKEN_ALGORITHMS - {"HS256/64"}))
            raise ConfigError(
                f"authorization server {self.issuer}: algorithm {unknown[0]!r} is none of ours; there are {more}"
            )
        if self.token_endpoint is not None:
            parts = urlsplit(self.token_endpoint)
            if not parts.scheme or not parts.netloc:
                raise ConfigError(f"authorization server {self.issuer}: token_endpoint is no absolute URI")


class Ace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for the tokens of all authorization servers."""

    #: Topic Filters that clients without a token may publish and subscribe to
    public_publish: tuple[str, ...] = ()
    public_subscribe: tuple[str, ...] = ()
    #: files with private keys to which authorization servers encrypt tokens
    private_keys: tuple[str, ...] = ()
    #: how far the clocks of servers may be off
    leeway_seconds: float = 0.0
    #: refuse tokens without `aud`?
    audience_required: bool = True
    #: take a scope that is a JSON array, and not text?
    json_scopes: bool = False
    #: give clients a `cnonce` in hints, and take no token without a fresh one?
    client_nonces: bool = False
    #: how long one of them is fresh
    client_nonce_seconds: float = 300.0
    #: told to clients without a token, beside server and audience
    hint_scope: str | None = None
    hint_kid: str | None = None
    #: time for the answer to a challenge
    challenge_seconds: float = 30.0
    #: by how much a re-authentication that runs puts off the end of a connection whose token ends
    reauthentication_seconds: float = REAUTHENTICATION_SECONDS_MAX
    #: octets of a token
    token_bytes_max: Count = 16_384
    #: tokens kept: all, of one server, of one subject, uploaded from one address
    tokens_max: Count = 100_000
    tokens_per_issuer_max: Count = 100_000
    tokens_per_subject_max: Count = 100
    tokens_per_source_max: Count = 10_000
    #: tokens that one address may upload in a minute
    uploads_per_minute_max: Count = 600

    def __post_init__(self) -> None:
        for name, least in (
            ("leeway_seconds", 0.0),
            ("client_nonce_seconds", None),
            ("challenge_seconds", None),
            ("reauthentication_seconds", 0.0),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (least is None and value == 0):
                raise ConfigError(f"ace.{name} is {value}, and must be {'above' if least is None else 'at least'} 0")
        if self.reauthentication_seconds > REAUTHENTICATION_SECONDS_MAX:
            raise ConfigError(f"ace.reauthentication_seconds is at most {REAUTHENTICATION_SECONDS_MAX:g}")
        if self.token_bytes_max > TOKEN_BYTES_CEILING:
            raise ConfigError(f"ace.token_bytes_max is {self.token_bytes_max}; MQTT can carry {TOKEN_BYTES_CEILING}")
        for name in ("public_publish", "public_subscribe"):
            for topic_filter in getattr(self, name):
                try:
                    Scope([[topic_filter, ["pub"]]])
                except UnrecognizedScope:
                    raise ConfigError(f"ace.{name}: {topic_filter!r} is no Topic Filter") from None

    @property
    def public_scope(self) -> Scope:
        """What clients without a token may do."""
        return Scope(
            [
                *([topic_filter, ["pub"]] for topic_filter in self.public_publish),
                *([topic_filter, ["sub"]] for topic_filter in self.public_subscribe),
            ]
        )
