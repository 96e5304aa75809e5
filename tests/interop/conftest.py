"""Foreign clients over TCP, against `trio-acebroker serve` as users start it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Served"]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 10


@dataclass(frozen=True)
class Served:
    """Where a broker listens."""

    host: str
    port: int


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.interop)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_open(process: subprocess.Popen[str], port: int) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, "the broker ended while starting"
        assert time.monotonic() < end, "the broker does not listen"
        time.sleep(0.02)  # waiting for another process to open its port, nothing to be told by


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`serve` without configuration on a free port; it has to end cleanly on SIGTERM, without a complaint."""
    port = _free_port()
    log = tmp_path_factory.mktemp("served") / "stderr.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACEBROKER_")}
    environment["PYTHONWARNINGS"] = "default"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "trio_acebroker", "serve", "--listen", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        try:
            _wait_until_open(process, port)
            yield Served("127.0.0.1", port)
            process.send_signal(signal.SIGTERM)
            status = process.wait(STOP_SECONDS_MAX)
        finally:
            process.kill()
            process.wait()
    said = log.read_text()
    assert status in (0, -signal.SIGTERM), said
    assert "Traceback" not in said, said
    assert "Warning" not in said, said
