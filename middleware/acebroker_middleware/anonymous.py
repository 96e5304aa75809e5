"""Anonymous clients: no credentials, no proof; allowed where the listener says so."""

from __future__ import annotations

from collections.abc import Callable

from acebroker_codec.packets import Connect
from acebroker_middleware.authn import Grant
from acebroker_middleware.connection import Connection
from acebroker_middleware.state.ports import Authority, Identity

__all__ = ["Anonymous"]


class Anonymous:
    """The authenticator that asks for nothing.

    `authority_for(client_identifier)` gives the rights of an anonymous client. With
    `ignore_credentials` (nothing is configured that could check them) a client that offers some is anonymous too.
    `strict` is that of the grants.
    """

    name = "anonymous"

    def __init__(
        self, authority_for: Callable[[str], Authority], *, ignore_credentials: bool, strict: bool = False
    ) -> None:
        self._authority_for = authority_for
        self._ignore_credentials = ignore_credentials
        self._strict = strict

    def authenticate(self, conn: Connection, connect: Connect) -> Grant | None:
        """A grant where anonymous clients are allowed and no other way was asked for."""
        if not conn.anonymous_allowed or connect.properties.authentication_method is not None:
            return None
        if connect.username is not None and not self._ignore_credentials:
            return None
        identity = Identity("anonymous", conn.client_identifier)
        return Grant(identity, self._authority_for(conn.client_identifier), self._strict)
