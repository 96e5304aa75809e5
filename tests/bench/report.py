"""The table, and the header that says on what it was measured."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.brokers import ROOT, PeerSpec
from tests.bench.measurement import Load, Record

__all__ = ["header", "number", "table"]

COLUMNS = (
    f"{'scenario':9}{'v':>2} {'broker':12}{'rate/s':>10} {'CPU us/op':>10} {'(min-max)':>16} {'ratio':>7} "
    f"{'(min-max)':>14}{'lost':>7}{'peak MB':>8}{'sys':>6}{'util':>6}{'gen':>6}{'other':>6}  more"
)
#: fields of a record that are shares of something, in the order of the columns
SHARES = ("sys_share", "util", "gen_util", "other")


def header(specs: Sequence[PeerSpec], load: Load, rounds: int, broker_cpu: str | None) -> str:
    """Date, machine, versions and settings of a measurement, one per line."""
    pinning = "not pinned" if broker_cpu is None else f"broker on CPU {broker_cpu}, load on CPU {load.cpu}"
    lines = [
        f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine   {_processor()}, {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB, {platform.platform()}",
        f"python    {platform.python_implementation()} {platform.python_version()}",
        f"revision  {_revision()}",
        *(f"broker    {spec.name}: {spec.version_text()}" for spec in specs),
        f"settings  MQTT {'5.0' if load.version == 5 else '3.1.1'}, payload {load.payload_bytes} bytes, "
        f"{load.seconds:g} s a run, {rounds} rounds in turn, {pinning}",
        f"command   python -m tests.bench {' '.join(sys.argv[1:])}".rstrip(),
    ]
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "not a git checkout"


def number(value: float | None) -> str:
    """Three significant places at most; a dash where there is nothing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _median(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def _spread(values: Sequence[float]) -> str:
    return f"{number(min(values))}-{number(max(values))}" if values else ""


def _extras(scenario: str, runs: Sequence[Record]) -> str:
    def medians(name: str) -> str:
        return number(_median(run.get(name) for run in runs))

    more = []
    latencies = [run["lat_us"] for run in runs if run.get("lat_us")]
    if latencies:
        quantiles = (number(_median(latency[name] for latency in latencies)) for name in ("p50", "p99", "p999"))
        more.append("p50/p99/p99.9 us " + "/".join(quantiles))
    if scenario == "idle":
        more.append(f"KiB/connection {medians('kib_per_connection')}")
    if scenario == "retained":
        more.append(f"set {medians('set_rate')}/s {medians('set_cpu_us')} us")
    if scenario == "wild":
        more.append(f"setup s {medians('setup_s')}")
    if bad := sorted({run["status"] for run in runs} - {"ok"}):
        more.append("! " + ",".join(bad))
    return "; ".join(more)


def table(records: Sequence[Record], brokers: Sequence[str]) -> str:
    """One line per scenario and broker; `ratio` is to the first broker, as the median over the rounds."""
    lines = [COLUMNS]
    for key in dict.fromkeys((run["scenario"], run["version"], run["payload"], run["pinned"]) for run in records):
        of_key = [run for run in records if (run["scenario"], run["version"], run["payload"], run["pinned"]) == key]
        baseline = {
            (run["sitting"], run["round"]): run["cpu_us"]
            for run in of_key
            if run["broker"] == brokers[0] and run["cpu_us"]
        }
        for broker in brokers:
            runs = [run for run in of_key if run["broker"] == broker]
            if not runs:
                continue
            costs = [run["cpu_us"] for run in runs if run["cpu_us"]]
            ratios = [
                run["cpu_us"] / baseline[run["sitting"], run["round"]]
                for run in runs
                if broker != brokers[0] and run["cpu_us"] and (run["sitting"], run["round"]) in baseline
            ]
            columns = [
                f"{key[0]:9}{key[1]:>2} {broker:12}{number(_median(run['rate'] for run in runs)):>10} ",
                f"{number(_median(costs)):>10} {_spread(costs):>16} {number(_median(ratios)):>7} {_spread(ratios):>14}",
                f"{sum(run['lost'] or 0 for run in runs):>7}{number(_median(run['peak_mb'] for run in runs)):>8}",
                *(f"{number(_median(run.get(name) for run in runs)):>6}" for name in SHARES),
            ]
            lines.append(f"{''.join(columns)}  {_extras(key[0], runs)}".rstrip())
    return "\n".join(lines)
