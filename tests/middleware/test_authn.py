"""Who is this client: authenticators in their order, and what is settled before them."""

from __future__ import annotations

from typing import Any

import pytest

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Auth, Connect, ProtocolVersion
from acebroker_middleware.acl import OpenAuthority
from acebroker_middleware.anonymous import Anonymous
from acebroker_middleware.authn import Authn, Grant
from acebroker_middleware.connection import Connection
from acebroker_middleware.errors import ConnectionRefused
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.ports import Identity
from acebroker_middleware.testing import Fed, RecordingConnection
from tests.harness import make

OPEN = OpenAuthority()


class Answers:
    """An authenticator that knows some user names; `later` gives an awaitable of its answer."""

    name = "answers"

    def __init__(self, *names: str, later: bool = False, refuses: str = "") -> None:
        self.names = names
        self.later = later
        self.refuses = refuses
        self.asked = 0

    def authenticate(self, conn: Connection, connect: Connect) -> Any:
        self.asked += 1
        return self._answer_later(connect) if self.later else self._answer(connect)

    def _answer(self, connect: Connect) -> Grant | None:
        if connect.username is not None and connect.username == self.refuses:
            raise ConnectionRefused(ReasonCode.BAD_USER_NAME_OR_PASSWORD, "wrong password")
        return Grant(Identity("user", connect.username or ""), OPEN) if connect.username in self.names else None

    async def _answer_later(self, connect: Connect) -> Grant | None:
        return self._answer(connect)


def asked(*authenticators: Any, limits: Limits | None = None, **fields: Any) -> tuple[RecordingConnection, Fed]:
    """A connection whose CONNECT went through the stage."""
    conn = RecordingConnection(connected=False, limits=limits)
    version = ProtocolVersion(fields.pop("version", 5))
    conn.version = version
    conn.v5 = version is ProtocolVersion.MQTT_5
    stage = Authn(conn.round, authenticators, lambda: "chosen")
    return conn, conn.feed(stage, make(Connect, version=version, **fields))


def reason(fed: Fed) -> int:
    assert fed.passed == []
    assert isinstance(fed.error, MqttError)
    return fed.error.reason_code


@pytest.mark.parametrize("later", [(False, False), (True, False), (False, True), (True, True)])
def test_the_first_that_answers_decides(later: tuple[bool, bool]) -> None:
    first, second, third = Answers("ann", later=later[0]), Answers("bob", later=later[1]), Answers("bob")
    conn, fed = asked(first, second, third, client_identifier="c", username="bob")
    assert len(fed.passed) == 1
    assert (conn.identity, conn.authority) == (Identity("user", "bob"), OPEN)
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)


@pytest.mark.parametrize("later", [False, True])
def test_a_refusal_is_final(later: bool) -> None:
    second = Answers("ann")
    conn, fed = asked(Answers(later=later, refuses="ann"), second, client_identifier="c", username="ann")
    assert reason(fed) == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    assert second.asked == 0
    assert conn.identity is None


@pytest.mark.parametrize("later", [False, True])
def test_who_is_known_to_nobody_is_refused(later: bool) -> None:
    conn, fed = asked(Answers("ann", later=later), client_identifier="c", username="eve")
    assert reason(fed) == ReasonCode.NOT_AUTHORIZED
    assert conn.round.counters.denials == {"no accepted credentials": 1}
    conn, fed = asked(Answers("ann", later=later), client_identifier="c", authentication_method="unknown")
    assert reason(fed) == ReasonCode.BAD_AUTHENTICATION_METHOD
    assert conn.authority is None


def test_auth_without_a_method_ends_the_connection() -> None:
    """[MQTT-4.12.0-7]; what came before it passes."""
    conn = RecordingConnection()
    fed = conn.feed(Authn(conn.round, (), lambda: ""), Auth(0x19))
    assert reason(fed) == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("allowed", "ignore_credentials", "fields", "granted"),
    [
        (True, False, {}, True),
        (False, False, {}, False),
        (True, False, {"username": "ann"}, False),
        (True, True, {"username": "ann"}, True),
        (False, True, {"username": "ann"}, False),
        (True, True, {"authentication_method": "m"}, False),
    ],
)
def test_anonymous_clients(allowed: bool, ignore_credentials: bool, fields: dict[str, Any], granted: bool) -> None:
    conn = RecordingConnection(connected=False, anonymous_allowed=allowed)
    anonymous = Anonymous(lambda name: OPEN, ignore_credentials=ignore_credentials)
    fed = conn.feed(Authn(conn.round, [anonymous], lambda: "x"), make(Connect, client_identifier="c", **fields))
    assert (fed.error is None) == granted
    assert conn.identity == (Identity("anonymous", "c") if granted else None)


# ---- Client Identifier and Keep Alive ----


@pytest.mark.parametrize(
    ("version", "clean_start", "given"),
    [(5, True, True), (5, False, True), (4, True, True), (4, False, False), (3, True, False), (3, False, False)],
)
def test_an_empty_client_identifier(version: int, clean_start: bool, given: bool) -> None:
    """[MQTT-3.1.3-6]; MQTT 3.1.1 only with Clean Session [MQTT-3.1.3-8], MQTT 3.1 never."""
    conn, fed = asked(Answers("ann"), username="ann", version=version, clean_start=clean_start)
    if given:
        assert (fed.error, conn.client_identifier) == (None, "chosen")
    else:
        assert reason(fed) == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID


@pytest.mark.parametrize(
    ("identifier", "taken"), [("x" * 10, True), ("x" * 11, False), ("ä" * 5, True), ("ä" * 6, False)]
)
def test_the_client_identifier_is_limited_in_octets(identifier: str, taken: bool) -> None:
    limits = Limits(client_identifier_bytes_max=10)
    _, fed = asked(Answers("ann"), username="ann", client_identifier=identifier, limits=limits)
    assert (fed.error is None) == taken
    assert taken or reason(fed) == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID


@pytest.mark.parametrize(
    ("version", "longest", "asked_for", "counts"),
    [
        (5, 65_535, 0, 0),
        (5, 65_535, 65_535, 65_535),
        (5, 60, 0, 60),  # 0 would be no Keep Alive at all
        (5, 60, 61, 60),
        (5, 60, 60, 60),
        (5, 60, 5, 5),
        (4, 60, 0, 0),  # MQTT 3 has no way to be told
        (4, 60, 100, 100),
    ],
)
def test_keep_alive(version: int, longest: int, asked_for: int, counts: int) -> None:
    """[MQTT-3.1.2-21]."""
    limits = Limits(keep_alive_seconds_max=longest)
    conn, _ = asked(
        Answers("ann"), username="ann", client_identifier="c", version=version, keep_alive=asked_for, limits=limits
    )
    assert conn.keep_alive == counts
