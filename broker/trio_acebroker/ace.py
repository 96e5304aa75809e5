"""What `[[authorization_server]]` and `[ace]` mean: the parts of a broker that take access tokens.

Reads key files, and brings the randomness that the middleware does without.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from acebroker_ace.algorithms import TOKEN_ALGORITHMS
from acebroker_ace.hints import CreationHints
from acebroker_ace.proof import NONCE_OCTETS
from acebroker_ace.token import AuthorizationServer, TokenVerifier
from acebroker_middleware.ace import Ace
from acebroker_middleware.authz_info import AuthzInfo
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.known_by_tls import KnownByTls, TlsKeys
from acebroker_middleware.state.ports import Clock
from acebroker_middleware.tokens import TokenLimits, Tokens
from acebroker_middleware.verification import ClientNonces, Verification
from trio_acebroker.config import BrokerConfig
from trio_acebroker.key_files import read_private_keys, read_server_keys

__all__ = ["TokenAccess", "authorization_servers"]

_CLIENT_NONCE_KEY_OCTETS: Final = 32


def authorization_servers(config: BrokerConfig) -> tuple[AuthorizationServer, ...]:
    """The authorization servers of a configuration, with the keys that stand in their files. Raises ConfigError."""
    return tuple(
        AuthorizationServer(
            server.issuer,
            tuple(key for path in server.keys for key in read_server_keys(path)),
            TOKEN_ALGORITHMS.union(server.more_algorithms),
            frozenset(server.audience),
        )
        for server in config.authorization_servers
    )


class TokenAccess:
    """The parts that take tokens. Raises ConfigError where files cannot be used.

    `keys` is what TLS handshakes ask for pre-shared and raw public keys.
    """

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        ace = config.ace
        self._config = config
        self.tokens = Tokens(
            clock,
            TokenLimits(
                tokens_max=ace.tokens_max,
                per_issuer_max=ace.tokens_per_issuer_max,
                per_subject_max=ace.tokens_per_subject_max,
                per_source_max=ace.tokens_per_source_max,
            ),
        )
        servers = authorization_servers(config)
        verifier = TokenVerifier(
            servers,
            own_keys=[key for path in ace.private_keys for key in read_private_keys(path)],
            leeway_seconds=ace.leeway_seconds,
            audience_required=ace.audience_required,
            json_scopes=ace.json_scopes,
            token_octets_max=ace.token_bytes_max,
        )
        self._client_nonces: ClientNonces | None = None
        if ace.client_nonces:
            key = secrets.token_bytes(_CLIENT_NONCE_KEY_OCTETS)
            self._client_nonces = ClientNonces(key, clock, ace.client_nonce_seconds)
        issuers = [server.issuer for server in servers]
        self.verification = Verification(verifier, clock, self.tokens, issuers, self._client_nonces)
        self.keys = TlsKeys(self.verification, self.tokens)

    def by_token(self, is_user: Callable[[str], bool]) -> Ace:
        """The authenticator for tokens in CONNECT, asked first of all."""
        return Ace(
            self.verification,
            self.tokens,
            new_nonce=lambda: secrets.token_bytes(NONCE_OCTETS),
            hints=self.hints,
            is_user=is_user,
            challenge_seconds=self._config.ace.challenge_seconds,
        )

    def uploads(self, round_: Round) -> AuthzInfo:
        """The stage that takes uploads."""
        return AuthzInfo(round_, self.verification, self.tokens, self._config.ace.uploads_per_minute_max)

    def by_tls(self, granted: Callable[[Connection], None]) -> KnownByTls:
        """The authenticator for clients that TLS knows, asked before anonymous ones are let in."""
        return KnownByTls(self.keys, granted)

    def hints(self) -> CreationHints | None:
        """What clients without a token are told: the first server with an endpoint; None where there is none."""
        ace = self._config.ace
        for server in self._config.authorization_servers:
            if server.token_endpoint is not None:
                return CreationHints(
                    server=server.token_endpoint,
                    audience=server.audience[0],
                    kid=ace.hint_kid,
                    scope=ace.hint_scope,
                    client_nonce=None if self._client_nonces is None else self._client_nonces.give(),
                )
        return None
