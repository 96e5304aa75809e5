"""Stage 2: who is this client, proven. CONNECT goes on only with an Identity and its Authority.

Authenticators are asked in order; the first that answers decides. One that does not apply to a CONNECT
gives None. When nobody answers, the connection is refused: not authorized. Also here, since it has to be
settled before anybody is identified: the Client Identifier and the Keep Alive.

Statements: [MQTT-3.1.3-3 .. 3.1.3-9] (5.0: 3.1.3-5, -6, -7), [MQTT-3.1.4-2], [MQTT-3.2.2-21], 4.12.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import Auth, Connect, PacketType, ProtocolVersion
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import ConnectionRefused
from acebroker_middleware.hand_offs import or_error, then
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.ports import Authority, Identity, Maybe

__all__ = ["Authenticator", "Authn", "Grant"]


class Grant(Struct, frozen=True):
    """A proven identity and the one authority that belongs to it."""

    identity: Identity
    authority: Authority


class Authenticator(Protocol):
    """One way to prove an identity."""

    name: str

    def authenticate(self, conn: Connection, connect: Connect) -> Maybe[Grant | None]:
        """The grant; None when this way does not apply. Raises ConnectionRefused when the proof fails."""
        ...


class Authn:
    """Stage 2. `new_client_identifier` gives an unused Client Identifier for clients without one."""

    name = "authn"
    wants = frozenset({PacketType.CONNECT, PacketType.AUTH})

    def __init__(
        self, round_: Round, authenticators: Sequence[Authenticator], new_client_identifier: Callable[[], str]
    ) -> None:
        self._round = round_
        self.authenticators = tuple(authenticators)
        self._new_client_identifier = new_client_identifier

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Authenticate a CONNECT, alone in its batch; everything else passes."""
        for index, packet in enumerate(batch):
            if type(packet) is Connect:
                self._identify(conn, packet)
                pending = self._authenticate(conn, packet, 0)
                return or_error(pending, batch) if inspect.isawaitable(pending) else batch
            if type(packet) is Auth:  # no method was agreed on in CONNECT [MQTT-4.12.0-7]
                return [*batch[:index], ProtocolViolation("AUTH without an Authentication Method")]
        return batch

    def _identify(self, conn: Connection, connect: Connect) -> None:
        identifier = connect.client_identifier
        limits = self._round.limits
        if len(identifier.encode()) > limits.client_identifier_bytes_max:
            raise ConnectionRefused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "limit: client identifier")
        if not identifier:
            if conn.version is ProtocolVersion.MQTT_3_1 or (not conn.v5 and not connect.clean_start):
                raise ConnectionRefused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "an empty client identifier")
            identifier = self._new_client_identifier()
        conn.client_identifier = identifier
        conn.keep_alive = connect.keep_alive
        longest = limits.keep_alive_seconds_max
        if conn.v5 and longest < 65_535 and not 0 < connect.keep_alive <= longest:
            conn.keep_alive = longest  # told by Server Keep Alive [MQTT-3.1.2-21]

    def _authenticate(self, conn: Connection, connect: Connect, first: int) -> Maybe[None]:
        for index in range(first, len(self.authenticators)):
            grant = self.authenticators[index].authenticate(conn, connect)
            if inspect.isawaitable(grant):
                return then(grant, partial(self._answered, conn, connect, index + 1))
            if grant is not None:
                self._granted(conn, grant)
                return None
        if connect.properties.authentication_method is not None:
            raise self._refused(ReasonCode.BAD_AUTHENTICATION_METHOD, "unknown authentication method")
        raise self._refused(ReasonCode.NOT_AUTHORIZED, "no accepted credentials")

    def _answered(self, conn: Connection, connect: Connect, following: int, grant: Grant | None) -> Maybe[None]:
        if grant is None:
            return self._authenticate(conn, connect, following)
        self._granted(conn, grant)
        return None

    def _granted(self, conn: Connection, grant: Grant) -> None:
        conn.identity = grant.identity
        conn.authority = grant.authority

    def _refused(self, reason_code: ReasonCode, rule: str) -> ConnectionRefused:
        self._round.counters.denials[rule] += 1
        return ConnectionRefused(reason_code, rule)
