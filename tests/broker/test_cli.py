"""The command as its users run it: a process, its exit status, what it prints, and that it leaves in order."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from acebroker_codec import packets as p
from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import ReasonCode
from tests.broker.serving import serving
from trio_acebroker.cli import main
from trio_acebroker.cli.logs import show_log

SAMPLE = Path(__file__).resolve().parents[1] / "sample_plugin"
OPEN = "[authentication]\nanonymous = true\n"
V5 = p.ProtocolVersion.MQTT_5


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


class Client:
    """A client on a plain socket, to see that somebody serves."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self._decoder = Decoder(version=V5, role="client")
        self._packets: list[p.Packet] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, packet: p.Packet) -> None:
        self.socket.sendall(encode(packet, V5))

    def receive(self) -> p.Packet | None:
        """The next packet, or None at the end of the stream."""
        while not self._packets:
            octets = self.socket.recv(4096)
            if not octets:
                return None
            for found in self._decoder.feed(octets):
                assert isinstance(found, p.Packet)
                self._packets.append(found)
        return self._packets.pop(0)

    def connect(self, **fields: object) -> p.Connack:
        self.send(p.Connect(**fields))  # type: ignore[arg-type]
        connack = self.receive()
        assert isinstance(connack, p.Connack)
        return connack


def test_serve_says_what_it_does_and_leaves_in_order() -> None:
    with serving("--listen", "127.0.0.1:0") as broker:
        line = broker.until("listener 127.0.0.1:0")
        assert "open_to='anybody without credentials (loopback, and no authentication is configured)'" in line
        pipeline = broker.until("pipeline")
        assert re.search(r"decode.* authn.* authz.* session.* router", pipeline)
        with Client(broker.ports[0]) as client:
            assert client.connect(client_identifier="c").reason_code == 0
            rest = broker.stop()
            goodbye = client.receive()
            assert isinstance(goodbye, p.Disconnect)
            assert goodbye.reason_code == ReasonCode.SERVER_SHUTTING_DOWN
            assert client.receive() is None
    assert "stopping: SIGTERM" in rest
    assert "stopped" in rest
    assert "warning" not in rest.lower()
    assert "Traceback" not in rest


def test_serve_ends_on_sigint_too() -> None:
    with serving("--listen", "127.0.0.1:0") as broker:
        broker.until("listening on")
        assert "stopping: SIGINT" in broker.stop(signal.SIGINT)


def test_every_line_is_json_where_that_is_asked_for() -> None:
    with serving(
        "--listen", "127.0.0.1:0", "--log-format", "json", ACEBROKER_LIMITS__PACKET_BYTES_MAX="5000"
    ) as broker:
        broker.until("pipeline")
        broker.lines += broker.stop().splitlines()
    events = [json.loads(line) for line in broker.lines]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", event["timestamp"]) for event in events)
    (listener,) = [event for event in events if event["event"] == "listener 127.0.0.1:0"]
    assert listener["level"] == "info"
    assert listener["open_to"].startswith("anybody without credentials")
    (limit,) = [event for event in events if "packet_bytes_max" in event["event"]]
    assert (limit["value"], limit["default"]) == (5000, 1_048_576)


def test_several_listeners_with_settings_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        "[authentication]\nanonymous = true\n"
        "[[listener]]\nport = 0\nname = 'all'\n"
        "[[listener]]\nport = 0\nname = 'five'\nprotocol_versions = [5]\n"
    )
    with serving("--config", str(file)) as broker:
        broker.until("pipeline")
        assert re.findall(r"listener (\w+) .* versions='?([^'\n]+)", "".join(broker.lines)) == [
            ("all", "3.1, 3.1.1, 5.0"),
            ("five", "5.0"),
        ]
        everything, five = broker.ports
        for port, expected in ((everything, 0), (five, 1)):
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                client.sendall(bytes.fromhex("100c00044d515454040200000000"))
                assert client.recv(4) == bytes([0x20, 2, 0, expected])
        broker.stop()


def test_a_password_file_made_by_passwd_is_what_serve_reads(tmp_path: Path) -> None:
    users = tmp_path / "users"
    CliRunner().invoke(main, ["passwd", str(users), "ann"], input="secret\n")
    (tmp_path / "broker.toml").write_text("[[listener]]\nport = 0\n[authentication]\npassword_file = 'users'\n")
    with serving("--config", str(tmp_path / "broker.toml")) as broker:
        assert f"open_to='users in {users}'" in broker.until("listener ")
        for username, password, expected in (
            ("ann", b"secret", ReasonCode.SUCCESS),
            ("ann", b"Secret", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
            ("bob", b"secret", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
            (None, None, ReasonCode.NOT_AUTHORIZED),
        ):
            with Client(broker.ports[0]) as client:
                connack = client.connect(client_identifier="c", username=username, password=password)
                assert connack.reason_code == expected, username
        result = invoke("health", "--address", f"127.0.0.1:{broker.ports[0]}")
        assert (result.exit_code, "refuses clients without credentials" in result.output) == (0, True)
        log = "".join(broker.lines) + broker.stop()
    assert "ecret" not in log


def test_an_address_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with serving("--listen", "127.0.0.1:0", "--listen", address) as broker:
            _, output = broker.process.communicate(timeout=20)
    assert broker.process.returncode == 1
    assert output == f"Error: cannot listen on {address}: Address already in use\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[limit]\npacket_bytes_max = 1", "broker.toml: limit: unknown key; did you mean limits?"),
        ("[[listener]]\nhost = '0.0.0.0'", "listener 0.0.0.0:1883 can be reached from other machines"),
        ("", "nobody may connect to listener 127.0.0.1:1883"),
        ("[authentication]\npassword_file = 'none'", "none: No such file or directory"),
        (OPEN + "[authorization]\nacl_file = 'none'", "none: No such file or directory"),
        (OPEN + "[authorization]\nacl_file = 'broker.toml'", "broker.toml:1"),
        (OPEN + "[[stage]]\nuse = 'ratelimit'", "did you mean rate-limit?"),
        (OPEN + "[[stage]]\nuse = 'rate-limit'", "neither messages_per_second nor octets_per_second is given"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_bad_configuration_is_one_sentence(tmp_path: Path, command: str, text: str, expected: str) -> None:
    (tmp_path / "broker.toml").write_text(text)
    result = invoke(command, "--config", str(tmp_path / "broker.toml"))
    assert result.exit_code == 2
    assert expected in result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_serve_is_as_strict_about_the_command_line() -> None:
    result = invoke("serve", "--listen", "0.0.0.0:0")
    assert result.exit_code == 2
    assert "Error: listener 0.0.0.0:0 can be reached from other machines" in result.output
    assert invoke("serve", "--listen", "everywhere").exit_code == 2
    assert invoke("serve", "--config", "no-such-file.toml").output == (
        "Error: no-such-file.toml: No such file or directory\n"
    )


def test_check_prints_what_a_configuration_comes_to(tmp_path: Path) -> None:
    (tmp_path / "users").touch()
    (tmp_path / "broker.toml").write_text(
        """
        [[listener]]
        host = "0.0.0.0"
        name = "field"
        protocol_versions = [4, 5]
        [authentication]
        password_file = "users"
        [limits]
        packet_bytes_max = 5000
        [[stage]]
        use = "rate-limit"
        options = { messages_per_second = 5 }
        [[stage]]
        use = "payload-validator"
        after = "authn"
        options = { rules = { "a/#" = "json" } }
        """
    )
    result = invoke("check", "--config", str(tmp_path / "broker.toml"))
    assert result.exit_code == 0, result.output
    assert f"field: 0.0.0.0:1883, MQTT 3.1.1, 5.0, open to users in {tmp_path / 'users'}\n" in result.output
    assert "packet_bytes_max = 5000 (default 1048576)" in result.output
    stages = re.findall(r"^  ([\w-]+): (.+)$", result.output.partition("\npipeline")[2].partition("\nlimits")[0], re.M)
    assert [name for name, _ in stages] == [
        "decode",
        "authn",
        "payload-validator",
        "authz",
        "rate-limit",
        "session",
        "router",
    ]
    assert dict(stages)["rate-limit"] == "plan + on_run"


def test_check_without_configuration() -> None:
    result = invoke("check")
    assert result.exit_code == 0
    assert result.output.startswith("no configuration file: valid\n")
    assert "127.0.0.1:1883, MQTT 3.1, 3.1.1, 5.0, open to anybody without credentials (loopback" in result.output
    assert result.output.endswith("limits that differ from their default\n  none\n")


def test_version() -> None:
    assert re.match(r"trio-acebroker \d+\.\d+\.\d+\nPython 3\.\d+\.\d+, trio \d", invoke("version").output)


def test_a_plugin_installed_as_a_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """Not enabled by being installed, but by the configuration; then it changes what subscribers get."""
    quietly = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quietly, "--target", target, SAMPLE], check=True, timeout=100
    )
    listening = f"{OPEN}[[listener]]\nport = 0\n"
    (tmp_path / "with.toml").write_text(f"{listening}[[stage]]\nuse = 'stamp'\noptions = {{ text = '!' }}\n")
    (tmp_path / "without.toml").write_text(listening)
    for file, payload in (("with.toml", b"hello!"), ("without.toml", b"hello")):
        with serving("--config", str(tmp_path / file), PYTHONPATH=str(target)) as broker:
            assert ("stamp" in broker.until("pipeline")) == (file == "with.toml")
            with Client(broker.ports[0]) as client:
                client.connect(client_identifier="c")
                client.send(p.Subscribe(packet_identifier=1, filters=(p.SubscriptionRequest("a"),)))
                assert isinstance(client.receive(), p.Suback)
                client.send(p.Publish("a", b"hello"))
                published = client.receive()
                assert isinstance(published, p.Publish)
                assert published.payload == payload
            broker.stop()


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_clients_choose_cannot_forge_lines(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    show_log("info", log_format)  # type: ignore[arg-type]
    logging.getLogger("trio_acebroker.test").info("client %s", "a\nforged \x1b[2J", extra={"topic": "b\r\nforged"})
    logging.getLogger("trio_acebroker.test").debug("not shown")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert "forged" in lines[0]


def test_errors_keep_their_traceback(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    show_log("info", "json")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("trio_acebroker.test").exception("failed")
    event = json.loads(capsys.readouterr().err)
    assert "RuntimeError: broken" in event["exception"]
