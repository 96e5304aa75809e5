"""Start one broker for a run, wait until it answers MQTT, and leave nothing of it behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.bench import processes
from tests.pki import Pki
from trio_acebroker.config import Listener

__all__ = ["Broker", "BrokerDidNotStart", "PeerSpec", "Setup", "ours", "peers"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: environment variable that every process of a run inherits, so that strays are found
MARK = "ACEBROKER_BENCH_RUN"
CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05ready"
DISCONNECT = b"\xe0\x00"
#: rules of the setup `acl`, in mosquitto's format: the load's own topics, and others to look past
ACL_RULES = """\
topic read news/#
topic write plant/+/alarm
topic deny plant/secret
topic readwrite bench/pair/+
user ann
topic readwrite plant/#
pattern readwrite own/%u/#
pattern read clients/%c/#
"""
#: our stages of the setup `acl`: they look at every message, and refuse none
ACL_TOML = """\
[authorization]
acl_file = "acl"
[[stage]]
use = "rate-limit"
options = { messages_per_second = 10_000_000, octets_per_second = 10_000_000_000 }
"""

#: our part of the setup `tls`; the files are made for each run
TLS_TOML = 'tls = { certificate = "localhost.pem", key = "localhost.key" }\n'


class BrokerDidNotStart(Exception):
    """The broker's process ended, or did not answer a CONNECT in time; holds what it printed."""


@dataclass(frozen=True)
class Setup:
    """One configuration. `{executable}`, `{port}`, `{dir}` and `{build}` are filled into command and files."""

    #: shell template; must stay in the foreground
    command: str
    #: name -> text, written into `{dir}`
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PeerSpec:
    """How to run one broker."""

    name: str
    #: by name; the empty name is the usual one
    setups: dict[str, Setup]
    #: scenario (or `v5`) -> why this broker cannot do it
    skip: dict[str, str] = field(default_factory=dict)
    #: shell template that prints the version; None = it has none of its own
    version: str | None = None
    #: environment variable that may name the executable
    variable: str | None = None
    #: the executable to look for when the variable is not set; None = the variable must be set
    default: str | None = None
    #: what else the header says of it
    remark: str = ""

    @property
    def executable(self) -> str:
        """Path or name of the executable; empty when there is nothing to look for."""
        named = os.environ.get(self.variable) if self.variable else None
        return named or self.default or ""

    def missing(self) -> str | None:
        """What is missing to run this broker, as one sentence; None when it can run."""
        if self.variable is None:
            return None
        if not self.executable:
            return f"{self.name} is not there: set ${self.variable} to its executable"
        if shutil.which(self.executable) is not None:
            return None
        return f"{self.name} is not there: no executable {self.executable!r}; install it or set ${self.variable}"

    def version_text(self) -> str:
        """First line of what the broker says about its version."""
        if self.version is None:
            return self.name
        command = self.version.replace("{executable}", shlex.quote(self.executable))
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines else "version unknown"


def peers() -> dict[str, PeerSpec]:
    """The brokers of peers.json."""
    rows = json.loads((HERE / "peers.json").read_text())
    return {
        name: PeerSpec(
            name=name,
            setups={setup: _peer_setup(row, setup) for setup in ("", *row.get("setups", {}))},
            skip=row.get("skip", {}),
            version=row.get("version"),
            variable=row.get("executable", {}).get("variable"),
            default=row.get("executable", {}).get("default"),
        )
        for name, row in rows.items()
    }


def _peer_setup(row: dict[str, Any], name: str) -> Setup:
    """The usual configuration with the lines that a setup adds to its files."""
    more = row.get("setups", {}).get(name, {})
    files = {file: [*lines, *more.get(file, ())] for file, lines in row.get("files", {}).items()}
    texts = {file: "\n".join(lines) + "\n" for file, lines in files.items()}
    return Setup(row["command"], texts | ({"acl": ACL_RULES} if name == "acl" else {}))


def ours(name: str = "ours", shell: Literal["auto", "raw", "pump"] = "auto", command: str | None = None) -> PeerSpec:
    """This project's broker with its default configuration, or what the shell template `command` starts.

    `shell` is that setting of its listener; `auto` is as shipped.
    """
    python = shlex.quote(sys.executable)
    serve = f"{python} -m trio_acebroker serve"
    listener = "[[listener]]\nport = {port}\n" + (f'shell = "{shell}"\n' if shell != "auto" else "")
    base = f"{listener}[authentication]\nanonymous = true\n"
    by_file = f"{serve} --config {{dir}}/broker.toml"
    if command:
        setups = {"": Setup(command)}
    else:
        usual = (
            Setup(by_file, {"broker.toml": base}) if shell != "auto" else Setup(f"{serve} --listen 127.0.0.1:{{port}}")
        )
        setups = {"": usual, "acl": Setup(by_file, {"broker.toml": base + ACL_TOML, "acl": ACL_RULES})}
        if shell == "auto":  # over TLS every shell is the raw one
            setups["tls"] = Setup(by_file, {"broker.toml": f"{listener}{TLS_TOML}{base.removeprefix(listener)}"})
    return PeerSpec(
        name=name,
        setups=setups,
        version=None if command else f"{python} -m trio_acebroker version",
        remark=command or f"shell {Listener(shell=shell).shell_name}",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers_mqtt(port: int, over_tls: bool) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as plain, _tls(plain) if over_tls else plain as probe:
            probe.settimeout(2)
            probe.sendall(CONNECT)
            accepted = probe.recv(4)[:1] == b"\x20"
            probe.sendall(DISCONNECT)
            return accepted
    except OSError:
        return False


def _tls(sock: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


class Broker:
    """A running broker process in a fresh folder; `stop` it.

    Arguments: `setup`, the name of one of its setups; `cpu`, the core to pin it to (None = any); `build`,
    the folder of compiled tools; `start_seconds_max`, how long it may take to answer.
    """

    def __init__(self, spec: PeerSpec, setup: str, build: Path, cpu: str | None, start_seconds_max: float) -> None:
        self.name = spec.name
        self._folder = tempfile.TemporaryDirectory(prefix="acebroker-bench-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self.port = _free_port()
        values = {
            "{executable}": shlex.quote(spec.executable),
            "{port}": str(self.port),
            "{dir}": str(folder),
            "{build}": str(build),
        }

        def fill(text: str) -> str:
            for name, value in values.items():
                text = text.replace(name, value)
            return text

        if setup == "tls":
            Pki(folder).issue("localhost")
        for file, text in spec.setups[setup].files.items():
            (folder / file).write_text(fill(text))
        pinned = ["taskset", "-c", cpu] if cpu is not None else []
        log_path = folder / "stdout.log"
        self._log = log_path.open("wb")
        self._process = subprocess.Popen(
            [*pinned, "sh", "-c", "exec " + fill(spec.setups[setup].command)],
            env={**os.environ, MARK: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=ROOT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        end = time.monotonic() + start_seconds_max
        while not _answers_mqtt(self.port, setup == "tls"):
            if self._process.poll() is not None or time.monotonic() > end:
                said = log_path.read_text(errors="replace")[-800:]
                self.stop()
                raise BrokerDidNotStart(f"{spec.name} did not start: {said}")
            time.sleep(0.05)
        time.sleep(0.2)  # what a broker does once after its start is not part of the measurement

    def stop(self) -> None:
        """End the process and everything it started; kills what does not go within five seconds."""
        pids = sorted({*processes.descendants(self.pid), *processes.marked(MARK, self._folder.name)})
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, signal_number)
                except ProcessLookupError:
                    continue
            end = time.monotonic() + 5
            while pids and time.monotonic() < end:
                self._process.poll()
                pids = [pid for pid in pids if processes.alive(pid)]
                time.sleep(0.05)
            if not pids:
                break
        self._process.wait()
        self._log.close()
        self._folder.cleanup()
