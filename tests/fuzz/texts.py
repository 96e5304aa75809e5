"""Door `texts`: what people write - configuration, environment, access control list, password file.

    octet 0     which of them
    the rest    the text, as UTF-8

Each is taken or refused in one sentence by its own error. What an access control list grants holds together:
whoever may subscribe to a filter may receive whatever it selects.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from hypothesis import strategies as st

from acebroker_codec.topics import matches
from acebroker_middleware.acl import AclAuthority, AclError, AclRules
from acebroker_middleware.passwords import PasswordFile, PasswordFileError
from tests.fuzz.damage import damaged
from tests.fuzz.door import Door
from trio_acebroker.config import BrokerConfig, ConfigError

__all__ = ["TEXTS"]

_NAMES = (None, "ann", "a/b", "$SYS", "+")
_FILTERS = ("a", "a/b", "a/+", "#", "+/b", "a/#", "own/ann/#", "$SYS/#", "+")
_TOPICS = ("a", "a/b", "a/c", "b", "own/ann/x", "own/a/b", "$SYS/x", "+", "ann")
#: a line that `trio-acebroker passwd` could write
_HASH = "$argon2id$v=19$m=65536,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY"


def _sentence(error: Exception) -> None:
    assert str(error), "an error that says nothing"


def _configuration(text: str) -> None:
    try:
        BrokerConfig.from_toml(text, "broker.toml")
    except ConfigError as error:
        _sentence(error)


def _environment(text: str) -> None:
    variables = dict(line.partition("=")[::2] for line in text.split("\n"))
    try:
        BrokerConfig.from_toml("", "broker.toml", {f"ACEBROKER_{name}": value for name, value in variables.items()})
    except ConfigError as error:
        _sentence(error)


def _access_control_list(text: str) -> None:
    try:
        rules = AclRules.parse(text, "acl")
    except AclError as error:
        _sentence(error)
        assert str(error).startswith("acl:"), "the line is not told"
        return
    for username in _NAMES:
        for client_identifier in ("ann", "x/y", "#"):
            authority = AclAuthority(rules, username, client_identifier)
            readable = {topic for topic in _TOPICS if authority.permits_receive(topic).allowed}
            for topic in _TOPICS:
                authority.permits_publish(topic)
            for topic_filter in _FILTERS:
                if authority.permits_subscribe(topic_filter).allowed:
                    selected = {topic for topic in _TOPICS if matches(topic_filter, topic)}
                    assert selected <= readable, f"{topic_filter} is granted, and not {selected - readable}"


def _password_file(text: str) -> None:
    try:
        users = PasswordFile.parse(text, "users")
    except PasswordFileError as error:
        _sentence(error)
        assert str(error).startswith("users:"), "the line is not told"
        return
    changed = PasswordFile.parse(PasswordFile.replace_line(text, "ann", _HASH), "users")
    assert len(changed) - len(users) in (0, 1), "other users came or went"


_KINDS: tuple[Callable[[str], None], ...] = (_configuration, _environment, _access_control_list, _password_file)


def _execute(data: bytes) -> None:
    if data:
        _KINDS[data[0] % len(_KINDS)](data[1:].decode("utf-8", "ignore"))


# ---- inputs ----

_LINES = (
    (
        "[limits]",
        "[[listener]]",
        "[authentication]",
        "[authorization]",
        "[[stage]]",
        "[log]",
        "[sys_topics]",
        "anonymous = true",
        "password_file = 'users'",
        "acl_file = 'acl'",
        "packet_bytes_max = 65_536",
        "connect_timeout_seconds = 1e3",
        "drain_seconds_max = inf",
        "hand_off_seconds_max = nan",
        "host = '0.0.0.0'",
        "host = '::'",
        "port = 0",
        "name = 'x'",
        "protocol_versions = [3, 4, 5]",
        "connections_max = 9",
        "use = 'rate-limit'",
        "after = 'authz'",
        "options = { messages_per_second = 5, a = [[{}]], 'ä' = 1979-05-27T07:32:00Z }",
        "level = 'debug'",
        "interval_seconds = 0",
        'x = """\n\\u0000"""',
        "limits.in_flight_max = 0x10",
        f"deep = {'[' * 1_500}{']' * 1_500}",
        f"receive_max = {'9' * 5_000}",
        f"sessions_max = 0x{'f' * 400}",
    ),
    (
        "LIMITS__PACKET_BYTES_MAX=5000",
        "LISTENER__0__PORT=0",
        "LISTENER__1__HOST=::1",
        "LISTENER__0__PROTOCOL_VERSIONS=[4, 5]",
        "LISTENER__00__PORT=x",
        "STAGE__0__USE=rate-limit",
        "STAGE__0__OPTIONS__A__0__B=1",
        "AUTHENTICATION__ANONYMOUS=true",
        "AUTHORIZATION__DENIED_PUBLISH_V3=ignore",
        "LIMITS=5",
        "LIMITS_PACKET_BYTES_MAX=5",
        f"LIMITS__RECEIVE_MAX={'9' * 5_000}",
        f"LISTENER__{'9' * 5_000}__PORT=1",
        "LIMITS__=",
        "__=1",
        'LOG__LEVEL="info"',
        "SYS_TOPICS__INTERVAL_SECONDS=nan",
    ),
    (
        "user ann",
        "user a b",
        "topic read a/#",
        "topic a/b",
        "topic write $SYS/#",
        "topic readwrite #",
        "topic deny a/c",
        "topic deny +/c",
        "pattern read own/%u/#",
        "pattern %c",
        "pattern write %u%c/+",
        "pattern deny own/%c/+",
        "topic read +/b",
        "topic read a/+",
        "topic read +/+/#",
        "# nothing",
        "",
        *(f"topic read many/{number}" for number in range(9)),
    ),
    (
        f"ann:{_HASH}",
        f"bob:{_HASH}",
        "carol:$6$MDEyMzQ1Njc4OWFi$" + "QUJD" * 21 + "QQ==",
        "dave:$7$101$MDEyMzQ1Njc4OWFi$" + "QUJD" * 21 + "QQ==",
        "# nothing",
        "",
        "ann:",
        ":x",
    ),
)


@st.composite
def _inputs(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, len(_KINDS) - 1))
    lines = draw(st.lists(st.sampled_from(_LINES[kind]), max_size=12))
    return bytes([kind]) + "\n".join(lines).encode()


def _spoiled(data: bytes, chance: random.Random) -> bytes:
    return data[:1] + damaged(data[1:], chance)


def _seeds() -> Iterable[bytes]:
    for kind, lines in enumerate(_LINES):
        for line in lines:
            yield bytes([kind]) + line.encode()
        yield bytes([kind]) + "\n".join(lines).encode()


TEXTS = Door("texts", 1, _execute, _inputs(), _spoiled, 20, _seeds)
