"""Stage 2: who is this client, proven. CONNECT goes on only with an Identity and its Authority.

Authenticators are asked in order; the first that answers decides. One that does not apply to a CONNECT
gives None. When nobody answers, the connection is refused: not authorized. Also here, since it has to be
settled before anybody is identified: the Client Identifier and the Keep Alive.

One that needs more than CONNECT gives a Dialogue, which takes the AUTH packets of the connection. CONNECT waits
for its end, and then goes on in the place of the last AUTH. A Dialogue may stay for the life of the connection: then
it takes re-authentications, each of which may end in a new Grant, for the same identity.

Statements: [MQTT-3.1.3-3 .. 3.1.3-9] (5.0: 3.1.3-5, -6, -7), [MQTT-3.1.4-2], [MQTT-3.2.2-21], [MQTT-4.12.0-1 .. -7],
[MQTT-4.12.1-1], [MQTT-4.12.1-2], ACE-2.2.4.1-3, ACE-4-12.
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
from acebroker_middleware.errors import ConnectionRefused, NotAuthorized
from acebroker_middleware.hand_offs import or_error, then
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.leases import Lease
from acebroker_middleware.state.ports import Authority, Identity, Maybe

__all__ = ["Authenticator", "Authn", "Dialogue", "Grant"]


class Dialogue(Protocol):
    """Authentication that goes on after CONNECT, on one connection."""

    def auth(self, conn: Connection, packet: Auth) -> Maybe[Grant | None]:
        """Take an AUTH. The grant; None when the client was asked for more.

        Raises an MqttError when the proof fails: ConnectionRefused before CONNACK.
        """
        ...

    def ended(self) -> None:
        """The connection is over."""
        ...


class Grant(Struct, frozen=True):
    """A proven identity and the one authority that belongs to it.

    `strict`: what the authority denies ends the connection, where MQTT has no answer for it. `dialogue` takes the AUTH
    packets that come from now on, and hears of the end. What the client retains lasts by `lease`.
    """

    identity: Identity
    authority: Authority
    strict: bool = False
    dialogue: Dialogue | None = None
    lease: Lease | None = None


class Authenticator(Protocol):
    """One way to prove an identity."""

    name: str

    def authenticate(self, conn: Connection, connect: Connect) -> Maybe[Grant | Dialogue | None]:
        """The grant, or what leads to it; None when this way does not apply.

        Raises ConnectionRefused when the proof fails.
        """
        ...


class Authn:
    """Stage 2. `new_client_identifier` gives an unused Client Identifier for clients without one.

    `granted(conn)` is called when a connection has got rights, also in the place of others.
    """

    name = "authn"
    wants = frozenset({PacketType.CONNECT, PacketType.AUTH})

    def __init__(
        self,
        round_: Round,
        authenticators: Sequence[Authenticator],
        new_client_identifier: Callable[[], str],
        granted: Callable[[Connection], None] | None = None,
    ) -> None:
        self._round = round_
        self.authenticators = tuple(authenticators)
        self._new_client_identifier = new_client_identifier
        self._tell = granted

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Take a CONNECT or an AUTH, each alone in its batch; everything else passes."""
        for index, packet in enumerate(batch):
            if type(packet) is Connect:
                self._identify(conn, packet)
                return _or_error(self._authenticate(conn, packet, 0))
            if type(packet) is Auth:
                dialogue = conn.dialogue
                if dialogue is None:  # no method was agreed on in CONNECT [MQTT-4.12.0-7]
                    return [*batch[:index], ProtocolViolation("AUTH without an Authentication Method")]
                grant = dialogue.auth(conn, packet)
                if inspect.isawaitable(grant):
                    return _or_error(then(grant, partial(self._continued, conn)))
                return self._continued(conn, grant)
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

    def _authenticate(self, conn: Connection, connect: Connect, first: int) -> Maybe[Batch]:
        for index in range(first, len(self.authenticators)):
            found = self.authenticators[index].authenticate(conn, connect)
            if inspect.isawaitable(found):
                return then(found, partial(self._answered, conn, connect, index + 1))
            if found is not None:
                return self._found(conn, connect, found)
        if connect.properties.authentication_method is not None:
            raise self._refused(ReasonCode.BAD_AUTHENTICATION_METHOD, "unknown authentication method")
        raise self._refused(ReasonCode.NOT_AUTHORIZED, "no accepted credentials")

    def _answered(
        self, conn: Connection, connect: Connect, following: int, found: Grant | Dialogue | None
    ) -> Maybe[Batch]:
        if found is None:
            return self._authenticate(conn, connect, following)
        return self._found(conn, connect, found)

    def _found(self, conn: Connection, connect: Connect, found: Grant | Dialogue) -> Batch:
        if isinstance(found, Grant):
            self._granted(conn, found)
            return [connect]
        conn.dialogue = found
        conn.waiting_connect = connect
        return []

    def _continued(self, conn: Connection, grant: Grant | None) -> Batch:
        if grant is None:
            return []
        if conn.identity is not None and conn.identity != grant.identity:
            self._round.counters.denials["another identity"] += 1
            raise NotAuthorized("re-authenticated as somebody else")
        self._granted(conn, grant)
        connect, conn.waiting_connect = conn.waiting_connect, None
        return [] if connect is None else [connect]

    def _granted(self, conn: Connection, grant: Grant) -> None:
        conn.identity = grant.identity
        conn.authority = grant.authority
        conn.strict = grant.strict
        conn.dialogue = grant.dialogue
        conn.lease = grant.lease
        if self._tell is not None:
            self._tell(conn)

    def _refused(self, reason_code: ReasonCode, rule: str) -> ConnectionRefused:
        self._round.counters.denials[rule] += 1
        return ConnectionRefused(reason_code, rule)


def _or_error(result: Maybe[Batch]) -> Maybe[Batch]:
    return or_error(result) if inspect.isawaitable(result) else result
