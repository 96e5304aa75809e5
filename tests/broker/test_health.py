"""`trio-acebroker health` against peers that answer well, badly, slowly or not at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from trio_acebroker.cli import main
from trio_acebroker.cli.health import NotAlive, ask

CONNECT = bytes.fromhex("100c00044d515454040200000000")
ACCEPTED = bytes.fromhex("20020000")
PINGREQ = bytes.fromhex("c000")
PINGRESP = bytes.fromhex("d000")
DISCONNECT = bytes.fromhex("e000")


@contextmanager
def peer(*answers: bytes, silent: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A listener that answers the first octets it gets by the first answer, and so on; then closes, or is silent."""
    got: list[bytes] = []
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for answer in answers:
                    got.append(connection.recv(1024))
                    connection.sendall(answer)
                if silent:
                    done.wait(10)
                connection.shutdown(socket.SHUT_WR)
                while octets := connection.recv(1024):
                    got.append(octets)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], got
        finally:
            done.set()
            thread.join(10)
            assert not thread.is_alive()


def test_a_broker_that_accepts() -> None:
    with peer(ACCEPTED, PINGRESP) as (port, got):
        assert ask("127.0.0.1", port, 5) == "accepts clients, answers PINGREQ"
    assert got == [CONNECT, PINGREQ, DISCONNECT]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_broker_that_refuses_is_alive(code: int) -> None:
    with peer(bytes([0x20, 2, 0, code])) as (port, _):
        assert ask("127.0.0.1", port, 5) == f"refuses clients without credentials (Connect Return code {code})"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([PINGRESP], "answered CONNECT by PINGRESP"),
        ([ACCEPTED, ACCEPTED], "answered PINGREQ by CONNACK"),
        ([bytes.fromhex("15030100020228")], "does not speak MQTT"),
        ([b"\x20\x02\x00"], "closed the connection without an answer"),
        ([ACCEPTED, b""], "closed the connection without an answer"),
    ],
)
def test_what_is_no_broker(answers: list[bytes], expected: str) -> None:
    with peer(*answers) as (port, _), pytest.raises(NotAlive, match=expected):
        ask("127.0.0.1", port, 5)


def test_a_peer_that_closes_at_once() -> None:
    with peer() as (port, _), pytest.raises(NotAlive, match=r"closed the connection|reset|Broken pipe"):
        ask("127.0.0.1", port, 5)


def test_a_peer_that_is_silent() -> None:
    with peer(b"", silent=True) as (port, _), pytest.raises(NotAlive, match=r"no answer within 0\.2 s"):
        ask("127.0.0.1", port, 0.2)


def test_the_time_is_for_the_whole_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that drips octets gets what remains of it, not all of it for each octet."""
    began = time.monotonic()
    readings = iter([0.0, 0.0, 59.8])
    monkeypatch.setattr("trio_acebroker.cli.health.time", SimpleNamespace(monotonic=lambda: next(readings, 60.1)))
    with peer(b"\x20", silent=True) as (port, _), pytest.raises(NotAlive, match="no answer within 60 s"):
        ask("127.0.0.1", port, 60)
    assert time.monotonic() - began < 30


def test_the_command() -> None:
    with peer(ACCEPTED, PINGRESP) as (port, _):
        result = CliRunner().invoke(main, ["health", "--address", f"127.0.0.1:{port}"])
    assert (result.exit_code, result.output) == (0, f"alive: 127.0.0.1:{port}: accepts clients, answers PINGREQ\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    result = CliRunner().invoke(main, ["health", "--address", f"127.0.0.1:{free}"])
    assert (result.exit_code, result.output) == (1, f"not alive: 127.0.0.1:{free}: Connection refused\n")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1:1883", "[::1]", "host:65536", "host:-1", ":1883", "[a:1883", ""])
def test_what_is_no_address(address: str) -> None:
    result = CliRunner().invoke(main, ["health", "--address", address])
    assert result.exit_code == 2
    assert "is not HOST:PORT" in result.output
