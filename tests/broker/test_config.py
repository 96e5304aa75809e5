"""Configuration: what is refused and how it is said, what stands where nothing is said, who may connect."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from acebroker_codec.packets import ProtocolVersion
from acebroker_middleware.state.bounds import Limits
from trio_acebroker.config import (
    LIMIT_CEILINGS,
    LIMITS_TO_ZERO,
    Authentication,
    Authorization,
    BrokerConfig,
    ConfigError,
    Listener,
    StageConfig,
    loopback_listeners,
)

#: enough to let somebody in, for texts that are about something else
OPEN = "[authentication]\nanonymous = true\n"


def refusal(text: str, environ: dict[str, str] | None = None, source: str = "conf/broker.toml") -> str:
    """The sentence by which `text` is refused."""
    with pytest.raises(ConfigError) as caught:
        BrokerConfig.from_toml(text, source, environ)
    message = str(caught.value)
    assert "\n" not in message
    assert "`" not in message
    return message


def test_every_key_can_be_said_in_toml() -> None:
    config = BrokerConfig.from_toml(
        """
        [[listener]]
        host = "::"
        port = 0
        name = "field"
        protocol_versions = [4, 5]
        connections_max = 10
        anonymous = false
        shell = "raw"
        [authentication]
        anonymous = true
        password_file = "users"
        [authorization]
        acl_file = "/etc/acl"
        denied_publish_v3 = "disconnect"
        [limits]
        packet_bytes_max = 1000
        hand_off_seconds_max = 2
        [[stage]]
        use = "rate-limit"
        after = "authn"
        options = { messages = 5 }
        [log]
        level = "debug"
        format = "json"
        [sys_topics]
        interval_seconds = 0
        """,
        "conf/broker.toml",
    )
    assert config.listeners == (
        Listener(
            host="::",
            port=0,
            name="field",
            protocol_versions=(ProtocolVersion.MQTT_3_1_1, ProtocolVersion.MQTT_5),
            connections_max=10,
            anonymous=False,
            shell="raw",
        ),
    )
    assert config.authentication == Authentication(anonymous=True, password_file="conf/users")
    assert config.authorization == Authorization(acl_file="/etc/acl", denied_publish_v3="disconnect")
    assert config.limits == Limits(packet_bytes_max=1000, hand_off_seconds_max=2.0)
    assert config.stages == (StageConfig(use="rate-limit", after="authn", options={"messages": 5}),)
    assert (config.log.level, config.log.format, config.sys_topics.interval_seconds) == ("debug", "json", 0.0)


def test_without_configuration_only_loopback_is_open() -> None:
    config = BrokerConfig.load(None, {})
    assert config == BrokerConfig()
    assert config.listeners[0].address == "127.0.0.1:1883"
    assert {listener.address for listener in config.listeners} <= {"127.0.0.1:1883", "[::1]:1883"}
    assert all(config.anonymous_allowed(listener) for listener in config.listeners)
    assert config.open_to(config.listeners[0]) == (
        "anybody without credentials (loopback, and no authentication is configured)"
    )


def test_a_machine_without_ipv6_gets_one_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ipv6(*_: object) -> None:
        raise OSError("Address family not supported")

    monkeypatch.setattr("trio_acebroker.config.socket.socket", no_ipv6)
    assert [listener.address for listener in loopback_listeners(7)] == ["127.0.0.1:7"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[limits]\npacket_byte_max = 1",
            "conf/broker.toml: limits.packet_byte_max: unknown key; did you mean packet_bytes_max?",
        ),
        ("[listeners]\nport = 1", "conf/broker.toml: listeners: unknown key; did you mean listener?"),
        ("[[listener]]\n[[listener]]\nprt = 1", "conf/broker.toml: listener[1].prt: unknown key; did you mean port?"),
        (
            "zzz = 1",
            "conf/broker.toml: zzz: unknown key; known here: ace, authentication, authorization, authorization_server, "
            "limits, listener, log, stage, sys_topics",
        ),
        ("[[stage]]\nafter = 'authz'", "conf/broker.toml: stage[0]: missing required field use"),
        ("[limits]\npacket_bytes_max = '1'", "conf/broker.toml: limits.packet_bytes_max: expected int, got str"),
        ("[limits]\npacket_bytes_max = 1.5", "conf/broker.toml: limits.packet_bytes_max: expected int, got float"),
        ("[[listener]]\nport = true", "conf/broker.toml: listener[0].port: expected int, got bool"),
        ("[[listener]]\nport = 65536", "conf/broker.toml: listener[0].port: expected int <= 65535"),
        ("[[listener]]\nport = -1", "conf/broker.toml: listener[0].port: expected int >= 0"),
        ("[[listener]]\nconnections_max = 0", "conf/broker.toml: listener[0].connections_max: expected int >= 1"),
        ("[[listener]]\nshell = 'x'", "conf/broker.toml: listener[0].shell: Invalid enum value 'x'"),
        (
            "[[listener]]\nprotocol_versions = [4, 6]",
            "conf/broker.toml: listener[0].protocol_versions[1]: Invalid enum value 6",
        ),
        (
            "[[listener]]\nprotocol_versions = []",
            "conf/broker.toml: listener[0]: protocol_versions is empty: no client could connect",
        ),
        ("[listener]\nport = 1", "conf/broker.toml: listener: this is a list of tables: write [[listener]]"),
        (
            "[[listener]]\nhost = '[::1]'",
            "conf/broker.toml: listener[0]: host '[::1]' is no address; every interface is 0.0.0.0 (IPv4) or :: (IPv6)",
        ),
        ("authentication = 3", "conf/broker.toml: authentication: expected object, got int"),
        ("[limits]\nreceive_max = 0", "conf/broker.toml: limits.receive_max is 0, and must be at least 1"),
        (
            "[limits]\nreceive_max = 65536",
            "conf/broker.toml: limits.receive_max is 65536; MQTT can express 65535 at most",
        ),
        (
            "[limits]\nhand_off_seconds_max = 0",
            "conf/broker.toml: limits.hand_off_seconds_max is 0.0, and must be above 0",
        ),
        (
            "[limits]\nconnect_timeout_seconds = inf",
            "conf/broker.toml: limits.connect_timeout_seconds is inf, and must be above 0",
        ),
        (
            "[limits]\nconnect_timeout_seconds = nan",
            "conf/broker.toml: limits.connect_timeout_seconds is nan, and must be above 0",
        ),
        (
            "[sys_topics]\ninterval_seconds = -1",
            "conf/broker.toml: sys_topics: interval_seconds must be 0 or a number of seconds",
        ),
        (
            OPEN + "[[listener]]\n[[listener]]\nname = 'b'",
            "conf/broker.toml: two listeners are on 127.0.0.1:1883",
        ),
        (
            OPEN + "[[listener]]\nname='b'\nport = 1\n[[listener]]\nname = 'b'\nport = 2",
            "conf/broker.toml: two listeners have the name 'b'",
        ),
    ],
)
def test_refusals_name_file_place_and_remedy(text: str, expected: str) -> None:
    assert refusal(text) == expected


def test_a_syntax_error_names_the_line() -> None:
    message = refusal("[limits]\npacket_bytes_max = = 3")
    assert message.startswith("conf/broker.toml: not TOML: ")
    assert "line 2" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"x = {'[' * 3_000}", "conf/broker.toml: not TOML that can be used: nested too deeply"),
        (f"x = {'{y=' * 3_000}", "conf/broker.toml: not TOML that can be used: nested too deeply"),
        (f"x = {'9' * 5_000}", "conf/broker.toml: not TOML: Exceeds the limit"),
        (f"[limits]\nreceive_max = 1{'0' * 400}", "conf/broker.toml: limits.receive_max is no number of this world"),
        (
            f"[limits]\nsessions_max = 0x{'f' * 9_000}",
            "conf/broker.toml: limits.sessions_max is no number of this world",
        ),
    ],
)
def test_what_no_machine_can_read_is_one_sentence_too(text: str, expected: str) -> None:
    assert refusal(text).startswith(expected)


def test_names_of_variables_that_no_machine_can_read() -> None:
    assert "9__PORT: " in refusal("", {f"ACEBROKER_LISTENER__{'9' * 5_000}__PORT": "1"})
    assert "expected int, got str" in refusal("", {"ACEBROKER_LIMITS__RECEIVE_MAX": "9" * 5_000})
    assert "expected int, got str" in refusal("", {"ACEBROKER_LIMITS__RECEIVE_MAX": "[" * 5_000})


def test_a_free_port_may_be_taken_twice() -> None:
    config = BrokerConfig(listeners=(Listener(port=0), Listener(port=0)))
    assert len(config.listeners) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "broker.example", "::ffff:127.0.0.1"])
def test_a_reachable_listener_needs_authentication(host: str) -> None:
    expected = f"{Listener(host=host).address} can be reached from other machines, and no authentication is configured"
    assert expected in refusal(f"[[listener]]\nhost = '{host}'")
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        BrokerConfig(listeners=(Listener(host=host),))
    BrokerConfig(listeners=(Listener(host=host, anonymous=True),))
    BrokerConfig(listeners=(Listener(host=host),), authentication=Authentication(password_file="users"))
    BrokerConfig(listeners=(Listener(host=host),), authentication=Authentication(anonymous=True))
    with pytest.raises(ConfigError):
        BrokerConfig(listeners=(Listener(host=host, anonymous=False),), authentication=Authentication(anonymous=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "::1", "localhost"])
def test_a_file_that_says_nothing_lets_nobody_in(host: str) -> None:
    text = f"[[listener]]\nhost = '{host}'"
    assert "nobody may connect to listener" in refusal(text)
    assert "nobody may connect to listener" in refusal("")
    config = BrokerConfig.from_toml(text, environ={"ACEBROKER_AUTHENTICATION__ANONYMOUS": "true"})
    assert config.anonymous_allowed(config.listeners[0])


def test_a_password_file_ends_anonymous_access_on_loopback() -> None:
    config = BrokerConfig(authentication=Authentication(password_file="users"))
    assert not config.anonymous_allowed(config.listeners[0])
    assert config.open_to(config.listeners[0]) == "users in users"
    both = BrokerConfig(authentication=Authentication(password_file="users", anonymous=True))
    assert both.open_to(both.listeners[0]) == (
        "users in users, anybody without credentials (authentication.anonymous = true)"
    )


def test_a_listener_overrides_the_rule_for_all() -> None:
    config = BrokerConfig.from_toml(
        "[[listener]]\n[[listener]]\nport = 1884\nanonymous = true\n[authentication]\npassword_file = 'users'"
    )
    inner, outer = config.listeners
    assert not config.anonymous_allowed(inner)
    assert config.anonymous_allowed(outer)
    assert config.open_to(outer).endswith("anybody without credentials (its anonymous = true)")


def test_file_names_are_relative_to_their_file(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text("[authentication]\npassword_file = 'a/users'\n[authorization]\nacl_file = '/etc/acl'\n")
    config = BrokerConfig.load(path, {})
    assert config.authentication.password_file == str(tmp_path / "a/users")
    assert config.authorization.acl_file == "/etc/acl"
    config = BrokerConfig.load(path, {"ACEBROKER_AUTHENTICATION__PASSWORD_FILE": "other"})
    assert config.authentication.password_file == "other"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        BrokerConfig.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        BrokerConfig.load(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8 at octet 5"):
        BrokerConfig.load(tmp_path / "latin.toml", {})


def test_environment_overrides_the_file() -> None:
    config = BrokerConfig.from_toml(
        OPEN + "[limits]\npacket_bytes_max = 5\n[[listener]]\nport = 1\n",
        environ={
            "ACEBROKER_LIMITS__PACKET_BYTES_MAX": "1000",
            "ACEBROKER_LIMITS__CONNECT_TIMEOUT_SECONDS": "2.5",
            "ACEBROKER_LISTENER__0__PORT": "7",
            "ACEBROKER_LISTENER__0__NAME": "1884",
            "ACEBROKER_LISTENER__1__HOST": "::1",
            "ACEBROKER_LISTENER__1__PROTOCOL_VERSIONS": "[5]",
            "ACEBROKER_LISTENER__1__CONNECTIONS_MAX": "12",
            "ACEBROKER_LOG__FORMAT": "json",
            "ACEBROKER_STAGE__0__USE": "rate-limit",
            "ACEBROKER_STAGE__0__OPTIONS__MESSAGES": "20",
            "ACEBROKER_STAGE__0__OPTIONS__UNIT": "per second",
            "ACEBROKER_REQUIRE_ALL": "1",
            "OTHER__THING": "1",
        },
    )
    assert config.limits == Limits(packet_bytes_max=1000, connect_timeout_seconds=2.5)
    first, second = config.listeners
    assert (first.port, first.name) == (7, "1884")
    assert (second.host, second.port, second.protocol_versions, second.connections_max) == ("::1", 1883, (5,), 12)
    assert config.log.format == "json"
    assert config.stages == (StageConfig(use="rate-limit", options={"messages": 20, "unit": "per second"}),)


def test_eleven_listeners_by_environment_keep_their_order() -> None:
    config = BrokerConfig.load(None, {f"ACEBROKER_LISTENER__{index}__PORT": str(100 + index) for index in range(11)})
    assert [listener.port for listener in config.listeners] == list(range(100, 111))


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        (
            "ACEBROKER_LIMITS__PACKET_BYTE_MAX",
            "1",
            "environment variable ACEBROKER_LIMITS__PACKET_BYTE_MAX: limits.packet_byte_max: unknown key;"
            " did you mean packet_bytes_max?",
        ),
        (
            "ACEBROKER_LIMITS__PACKET_BYTES_MAX",
            "many",
            "environment variable ACEBROKER_LIMITS__PACKET_BYTES_MAX: limits.packet_bytes_max: expected int, got str",
        ),
        (
            "ACEBROKER_LIMITS_PACKET_BYTES_MAX",
            "1",
            "environment variable ACEBROKER_LIMITS_PACKET_BYTES_MAX: two underscores stand between table and key:"
            " ACEBROKER_LIMITS__PACKET_BYTES_MAX",
        ),
        (
            "ACEBROKER_LISTENER__3__PORT",
            "1",
            "environment variable ACEBROKER_LISTENER__3__PORT: there is no index 3; the next free one is 0",
        ),
        (
            "ACEBROKER_LIMITS__0__PORT",
            "1",
            "environment variable ACEBROKER_LIMITS__0__PORT: limits: expected object, got array",
        ),
        (
            "ACEBROKER_AUTHENTICATION__0",
            "1",
            "environment variable ACEBROKER_AUTHENTICATION__0: 0 cannot stand there",
        ),
    ],
)
def test_refusals_name_the_variable(variable: str, value: str, expected: str) -> None:
    assert refusal(OPEN, {variable: value}) == expected


def test_options_of_stages_are_not_shown() -> None:
    assert "hunter2" not in repr(BrokerConfig(stages=(StageConfig(use="a:b", options={"key": "hunter2"}),)))


def test_tables_of_limits_name_limits() -> None:
    assert set(LIMIT_CEILINGS) | LIMITS_TO_ZERO <= set(Limits.__struct_fields__)


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_every_limit_has_a_floor(name: str) -> None:
    with pytest.raises(ConfigError, match=f"limits.{name} is -1"):
        BrokerConfig(limits=msgspec.structs.replace(Limits(), **{name: -1}))
    at_zero = msgspec.structs.replace(Limits(), **{name: 0})
    if name in LIMITS_TO_ZERO:
        BrokerConfig(limits=at_zero)
    else:
        with pytest.raises(ConfigError, match=f"limits.{name} is 0"):
            BrokerConfig(limits=at_zero)
