"""One run: load from mqload against a running broker, and what the broker spent between the marks."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.brokers import HERE, Broker
from tests.bench.processes import Sample, cpu_between, peak_resident_bytes, sample
from tests.bench.scenarios import SCENARIOS, Case

__all__ = ["TOOLS", "AtMark", "CannotCompile", "Load", "Record", "build_folder", "compile_tools", "measure"]

#: one run as it goes into the JSON file
Record = dict[str, Any]
#: tool -> its source, and what its compiler is told beyond that; `mqload-tls` needs the headers of OpenSSL
TOOLS: dict[str, tuple[str, ...]] = {
    "mqload": ("mqload.c",),
    "floor": ("floor.c",),
    "mqload-tls": ("mqload.c", "-DMQ_TLS", "-lssl", "-lcrypto"),
}
#: called with the name of each mark, before the load goes on
AtMark = Callable[[str], None]


class CannotCompile(Exception):
    """There is no C compiler, or it refused a source."""


@dataclass(frozen=True)
class Load:
    """How the load is made; see `python -m tests.bench --help`."""

    version: int = 4
    payload_bytes: int = 64
    seconds: float = 2.0
    #: a run without progress ends after so long
    stall_seconds: float = 5.0
    #: a run is killed after so long
    limit_seconds: float = 90.0
    #: core of the generator; None = any
    cpu: str | None = "1"
    #: more mqload options
    options: str = ""


def build_folder() -> Path:
    """Where compiled tools are kept: `$ACEBROKER_BENCH_BUILD`, or a folder of this user's among temporary files."""
    own = Path(tempfile.gettempdir()) / f"acebroker-bench-{os.getuid()}"
    return Path(os.environ.get("ACEBROKER_BENCH_BUILD", own))


def compile_tools(folder: Path, compiler: str, *, tls: bool = False) -> None:
    """Compile TOOLS into `folder`, where they are older than their source; those for TLS only where it is wanted.

    Raises CannotCompile with what the compiler said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (file, *options) in TOOLS.items():
        source, target = HERE / file, folder / name
        if (name == "mqload-tls" and not tls) or (target.exists() and target.stat().st_mtime > source.stat().st_mtime):
            continue
        command = [compiler, "-O2", "-o", str(target), str(source), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CannotCompile(f"no C compiler {compiler!r}; install one (gcc) or set $CC") from error
        if done.returncode != 0:
            needed = "; it needs the headers of OpenSSL (Debian: libssl-dev)" if name == "mqload-tls" else ""
            raise CannotCompile(f"{compiler} cannot compile {name}{needed}:\n{done.stderr[-2000:]}")


def _no_interest(mark: str) -> None:
    """What most runs do at a mark."""


def measure(
    broker: Broker, scenario: str, case: Case, load: Load, build: Path, at_mark: AtMark = _no_interest
) -> Record:
    """Run one case of a scenario against `broker` and give its record; a run that does not end is killed."""
    mode, *arguments = case.load.split()
    version = SCENARIOS[scenario].version or str(load.version)
    command = [
        *(["taskset", "-c", load.cpu] if load.cpu is not None else []),
        *(
            str(build / ("mqload-tls" if case.tls else "mqload")),
            mode,
            "-p",
            str(broker.port),
            "-v",
            version[0],
            "-P",
            str(load.payload_bytes),
        ),
        *("-d", str(load.seconds), "-I", str(load.stall_seconds), "-i", *arguments, *load.options.split()),
    ]
    marks, said, note = _converse(command, broker.pid, time.monotonic() + load.limit_seconds, at_mark)
    record: Record = {
        "broker": broker.name + case.name,
        "scenario": scenario,
        "version": version,
        "payload": load.payload_bytes,
        "pinned": load.cpu is not None,
        "when": round(time.time()),
        "note": note[-300:],
        "peak_mb": peak_resident_bytes(broker.pid) / 1e6,
    }
    if said is None or "end" not in marks:
        return {**record, "status": "timeout", "cpu_us": None, "rate": None, "lost": None}
    last = marks["end"]
    # `retained` has three marks: the drain is the measured part, its set phase is reported apart
    first = marks.get("set") or marks.get("start") or last
    operations = said["cycles"] if mode == "storm" else said["live"] if scenario == "idle" else said["delivered"]
    cpu, wall = cpu_between(first, last), (last.at - first.at) or 1.0
    record |= said
    record |= {
        "operations": operations,
        "cpu": cpu,
        "rate": operations / said["secs"] if said["secs"] else 0,
        "cpu_us": cpu / operations * 1e6 if operations else None,
        "util": cpu / wall,
        "gen_util": said["gen_cpu"] / wall,
        "other": max(0.0, last.machine_busy - first.machine_busy - cpu - said["gen_cpu"]) / wall,
        "steal": (last.machine_steal - first.machine_steal) / wall,
    }
    if last.cpu > first.cpu:
        record["sys_share"] = (last.system - first.system) / (last.cpu - first.cpu)
    if scenario == "idle" and operations:
        record["kib_per_connection"] = (last.resident_bytes - first.resident_bytes) / operations / 1024
    if up := marks.get("up"):
        record["growth_mb"] = (last.resident_bytes - up.resident_bytes) / 1e6
        if opened := marks.get("open"):
            filters = _option(arguments, "-m") * _option(arguments, "-f")
            record["filter_cpu_us"] = cpu_between(opened, up) / filters * 1e6
            record["filter_bytes"] = (up.resident_bytes - opened.resident_bytes) / filters
    if scenario == "retained":
        record["set_cpu_us"] = cpu_between(marks["start"], marks["set"]) / max(1, said["acked"]) * 1e6
        record["set_rate"] = said["acked"] / said["setup_s"] if said["setup_s"] else 0
    return record


def _option(arguments: Sequence[str], name: str) -> int:
    return int(arguments[arguments.index(name) + 1])


def _converse(
    command: list[str], pid: int, kill_at: float, at_mark: AtMark
) -> tuple[dict[str, Sample], Record | None, str]:
    """Run mqload: sample the broker at each MARK line, let it go on, and take its JSON line."""
    marks: dict[str, Sample] = {}
    said: Record | None = None
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as generator:
        assert generator.stdin is not None
        assert generator.stdout is not None
        assert generator.stderr is not None
        os.set_blocking(generator.stderr.fileno(), False)
        try:
            while True:
                if not select.select([generator.stdout], [], [], max(0.0, kill_at - time.monotonic()))[0]:
                    break
                line = generator.stdout.readline()
                if not line:
                    break
                if line.startswith("MARK "):
                    mark = line.split()[1]
                    if mark == "end":
                        marks[mark] = sample(pid)
                        at_mark(mark)
                    else:
                        at_mark(mark)
                        marks[mark] = sample(pid)
                    generator.stdin.write("go\n")
                    generator.stdin.flush()
                else:
                    said = json.loads(line)
        finally:
            if generator.poll() is None and time.monotonic() >= kill_at:
                generator.kill()
            generator.wait(10)
        note = (generator.stderr.read() or "").strip()
    return marks, said, note
