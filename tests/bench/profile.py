"""`python -m tests.bench.profile`: where the CPU of our broker goes, row by row.

Samples a broker by py-spy between the marks of a run, and adds up whose own time it was: by groups of
modules, and by function. A call into the kernel counts for itself, not for the function that made it.
Sampling stops the broker for a moment each time, so costs and rates of such a run are void.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.bench import pages
from tests.bench.brokers import Broker, BrokerDidNotStart, ours
from tests.bench.measurement import CannotCompile, Load, build_folder, compile_tools, measure
from tests.bench.report import revision
from tests.bench.scenarios import SCENARIOS, SCENARIOS_DEFAULT, Case, any_over_tls

__all__ = ["GROUPS", "fold", "group_of", "main"]

#: samples a second
RATE = 500
#: functions of libc that are little else than a call of the kernel
SYSTEM_CALLS = {
    "send",
    "recv",
    "epoll_wait",
    "epoll_ctl",
    "accept4",
    "close",
    "shutdown",
    "setsockopt",
    "write",
    "read",
}
#: what a frame looks like, innermost last: `name (file:line)` or `name (library)`
FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*?)(?::\d+)?\)$")
#: group -> what the file of its functions begins with; the first one counts
GROUPS: dict[str, tuple[str, ...]] = {
    "codec": ("acebroker_codec/",),
    "flows": tuple(f"acebroker_middleware/{name}.py" for name in ("pipeline", "flows", "runs", "handshakes")),
    "router": tuple(
        f"acebroker_middleware/{name}.py" for name in ("router", "routes", "state/subscriptions", "state/topic_tree")
    ),
    "deliver": ("acebroker_middleware/deliver.py",),
    "session": tuple(f"acebroker_middleware/{name}" for name in ("session.py", "acks.py", "replays.py", "state/")),
    "stages": ("acebroker_middleware/",),
    "runtime": ("trio_acebroker/",),
    "Trio": ("trio/", "outcome/", "<attrs generated"),
}
KERNEL, COLLECTOR, OTHER = "kernel", "collector", "other"
COLUMNS = (KERNEL, *GROUPS, COLLECTOR, OTHER)


def group_of(stack: Iterable[str]) -> tuple[str, str]:
    """(group, function) whose own time a sample with this stack, outermost first, was."""
    name, file = "?", ""
    native: list[str] = []
    for frame in stack:
        found = FRAME.match(frame)
        if found is None:
            continue
        if found["file"].endswith(".py") or found["file"].startswith("<"):
            name, file, native = found["name"], found["file"], []
        else:
            native.append(found["name"])
    where = f"{name} ({file})"
    if called := [function.lstrip("_").removeprefix("libc_") for function in native if function]:
        for function in reversed(called):
            if function in SYSTEM_CALLS:
                return KERNEL, f"{function}, by {where}"
        if any("gc_collect" in function for function in called):
            return COLLECTOR, "garbage collection"
    for group, prefixes in GROUPS.items():
        if file.startswith(prefixes):
            return group, where
    return OTHER, where


def fold(raw: str) -> Counter[tuple[str, str]]:
    """Samples by (group, function), out of what `py-spy record --format raw` wrote: `frame;frame count` a line."""
    found: Counter[tuple[str, str]] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        found[group_of(stack.split(";"))] += int(count)
    return found


class _Sampler:
    """py-spy beside a broker, from one mark of its load to the last one."""

    def __init__(self, pid: int, first_mark: str, cpu: str | None, native: bool) -> None:
        self._first_mark = first_mark
        self._file = Path(tempfile.mkstemp(suffix=".stacks")[1])
        self._command = [
            *(["taskset", "-c", cpu] if cpu is not None else []),
            *("py-spy", "record", "--format", "raw", "--rate", str(RATE), "--duration", "3600", "--pid", str(pid)),
            *("--output", str(self._file), *(["--native"] if native else [])),
        ]
        self._process: subprocess.Popen[str] | None = None

    def at_mark(self, mark: str) -> None:
        """Begin at the first mark; at the last one, end and write."""
        if mark == self._first_mark:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
            )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if "Sampling process" in line:
                    return
                print(line, end="", file=sys.stderr)
        elif mark == "end" and self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=60)

    def result(self) -> Counter[tuple[str, str]]:
        """What was sampled, once."""
        try:
            return fold(self._file.read_text())
        finally:
            self._file.unlink()


def _profile(name: str, scenario: str, case: Case, load: Load, native: bool) -> Counter[tuple[str, str]]:
    spec = ours(name, "raw" if name == "ours-raw" else "auto")
    cpu = None if load.cpu is None else "0"
    broker = Broker(spec, case.setup, build_folder(), cpu, 30)
    try:
        first_mark = "set" if scenario == "retained" else "start"  # of retained, the drain is what is measured
        sampler = _Sampler(broker.pid, first_mark, load.cpu, native)
        record = measure(broker, scenario, case, load, build_folder(), sampler.at_mark)
        print(f"{scenario} {record['broker']}: {record['status']} {record['note']}", file=sys.stderr)
        return sampler.result()
    finally:
        broker.stop()


def _shares(samples: Mapping[tuple[str, str], int]) -> dict[str, float]:
    total = sum(samples.values()) or 1
    return {group: sum(n for (of, _), n in samples.items() if of == group) / total for group in COLUMNS}


def _text(row: str, samples: Counter[tuple[str, str]], top: int) -> str:
    total = sum(samples.values()) or 1
    groups = sorted(_shares(samples).items(), key=lambda item: -item[1])
    lines = [f"{row}: {total} samples; " + ", ".join(f"{name} {share:.0%}" for name, share in groups if share >= 0.005)]
    lines += [f"  {count / total:6.1%}  {group:9} {where}" for (group, where), count in samples.most_common(top)]
    return "\n".join(lines)


def _markdown(rows: Mapping[str, Counter[tuple[str, str]]]) -> str:
    head = ["row", *COLUMNS, "most of it"]
    lines = [head, ["---", *["---:"] * len(COLUMNS), "---"]]
    for row, samples in rows.items():
        total = sum(samples.values()) or 1
        most = ", ".join(
            f"{where.partition(' (')[0]} {count / total:.0%}" for (_, where), count in samples.most_common(3)
        )
        lines.append([row, *(f"{share:.0%}" for share in _shares(samples).values()), most])
    caption = f"{sum(rows[row].total() for row in rows):,} samples, revision {revision()}."
    return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in lines)])


def main() -> int:
    """Returns 0 when every row was profiled."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description="Where our CPU time goes.")
    parser.add_argument("-s", "--scenarios", default=",".join(SCENARIOS_DEFAULT), help="comma-separated, or all")
    parser.add_argument("-b", "--broker", choices=("ours", "ours-raw"), default="ours")
    parser.add_argument("-v", "--version", type=int, choices=(4, 5), default=4)
    parser.add_argument("-d", "--seconds", type=float, default=4)
    parser.add_argument("--top", type=int, default=15, help="functions of each row")
    parser.add_argument("--no-native", dest="native", action="store_false", help="where py-spy cannot unwind C frames")
    parser.add_argument("--out", type=Path, action="append", default=[], help="put the table into this Markdown page")
    arguments = parser.parse_args()
    scenarios = list(SCENARIOS) if arguments.scenarios == "all" else arguments.scenarios.split(",")
    if unknown := set(scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {min(unknown)!r}; there are {', '.join(SCENARIOS)}")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if shutil.which("py-spy") is None:
        print("no py-spy here: `make profile` installs it into .venv/", file=sys.stderr)
        return 2
    load = Load(version=arguments.version, seconds=arguments.seconds, cpu="1" if (os.cpu_count() or 1) > 1 else None)
    rows: dict[str, Counter[tuple[str, str]]] = {}
    try:
        compile_tools(build_folder(), os.environ.get("CC", "cc"), tls=any_over_tls(scenarios))
        for scenario in scenarios:
            for case in SCENARIOS[scenario].cases:
                row = scenario + case.name
                rows[row] = _profile(arguments.broker, scenario, case, load, arguments.native)
                print(_text(row, rows[row], arguments.top), end="\n\n", flush=True)
    except (BrokerDidNotStart, CannotCompile) as error:
        print(error, file=sys.stderr)
        return 2
    for page in arguments.out:
        pages.write(page, {"profile": _markdown(rows)})
    return 0 if all(rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
