"""The tables, and the header that says on what they were measured."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.bars import BARS, Bar, between, spread, value
from tests.bench.brokers import ROOT, PeerSpec
from tests.bench.measurement import Load, Record

__all__ = ["Line", "blocks", "disturbed", "header", "lines", "number", "revision", "table"]

#: cores: more than this used by others, and a run was not alone on the machine
OTHER_CORES_MAX = 0.1
#: fields of a record that are shares of something, in the order of the columns
SHARES = ("sys_share", "util", "gen_util", "other")
QUANTILES = ("p50", "p99", "p999")


@dataclass(frozen=True)
class Line:
    """One broker in one row: what the runs of all rounds come to, as text."""

    scenario: str
    version: str
    broker: str
    rate: str
    cost: str
    cost_spread: str
    #: to the first broker of the table
    ratio: str
    ratio_spread: str
    lost: str
    peak_mb: str
    shares: tuple[str, ...]
    #: p50, p99, p99.9 in microseconds; empty where nothing was timed
    latency: str
    bars: str
    more: str


def header(specs: Sequence[PeerSpec], load: Load, rounds: int, broker_cpu: str | None) -> str:
    """Date, machine, versions and settings of a measurement, one per line."""
    pinning = "not pinned" if broker_cpu is None else f"broker on CPU {broker_cpu}, load on CPU {load.cpu}"
    lines = [
        f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine   {_processor()}, {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB, {platform.platform()}",
        f"python    {platform.python_implementation()} {platform.python_version()}",
        f"revision  {revision()}",
        *(
            f"broker    {', '.join(filter(None, (f'{spec.name}: {spec.version_text()}', spec.remark)))}"
            for spec in specs
        ),
        f"settings  MQTT {'5.0' if load.version == 5 else '3.1.1'}, payload {load.payload_bytes} bytes, "
        f"{load.seconds:g} s a run, {rounds} rounds in turn, {pinning}",
        f"command   python -m tests.bench {' '.join(_measuring(sys.argv[1:]))}".rstrip(),
    ]
    return "\n".join(lines)


def _measuring(words: Sequence[str]) -> Iterator[str]:
    """The words of a command without the options that say where its figures go."""
    there = iter(words)
    for word in there:
        if word in ("--json", "--out"):
            next(there, None)
        elif not word.startswith(("--json=", "--out=")):
            yield word


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def revision() -> str:
    """The commit of this tree, as git calls it."""
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


def _range(figures: Sequence[float]) -> str:
    found = spread(figures)
    return f"{number(found[1])}-{number(found[2])}" if found else ""


def _more(scenario: str, runs: Sequence[Record]) -> str:
    def medians(name: str) -> str:
        return number(_median(run.get(name) for run in runs))

    more = []
    if scenario == "idle":
        more.append(f"KiB/connection {medians('kib_per_connection')}")
    if scenario == "retained":
        more.append(f"set {medians('set_rate')}/s {medians('set_cpu_us')} us")
    if scenario == "wild":
        more.append(f"setup s {medians('setup_s')}")
    if scenario == "growth":
        more.append(f"a filter {medians('filter_cpu_us')} us, {medians('filter_bytes')} bytes")
    if scenario == "slow":
        more.append(f"MB grown {medians('growth_mb')}")
        if held := _median(run.get("flood_held") for run in runs):
            more.append(f"held back {number(held)}")
    if bad := sorted({run["status"] for run in runs} - {"ok"}):
        more.append("! " + ",".join(bad))
    return "; ".join(more)


def _own(broker: str, runs: Sequence[Record]) -> str:
    """What a case costs beside the plain one of the same broker."""
    plain, case, _ = broker.partition("+")
    return f"{number(_median(between(runs, broker, plain)))} of {plain}" if case else ""


def _latency(runs: Sequence[Record]) -> str:
    quantiles = [_median(value(run, name) for run in runs) for name in QUANTILES]
    return "/".join(number(quantile) for quantile in quantiles) if quantiles[0] is not None else ""


def lines(records: Sequence[Record], brokers: Sequence[str]) -> Iterator[Line]:
    """One line per scenario and broker; `ratio` is to the first broker, as the median over the rounds."""
    for key in dict.fromkeys((run["scenario"], run["version"], run["payload"], run["pinned"]) for run in records):
        of_key = [run for run in records if (run["scenario"], run["version"], run["payload"], run["pinned"]) == key]
        there = dict.fromkeys(run["broker"] for run in of_key)
        ordered = [name for first in brokers for name in there if name.partition("+")[0] == first]
        for broker in ordered:
            runs = [run for run in of_key if run["broker"] == broker]
            costs = [run["cpu_us"] for run in runs if run["cpu_us"]]
            ratios = between(of_key, broker, brokers[0]) if broker != brokers[0] else []
            verdicts = [bar.verdict(of_key) for bar in BARS if (bar.scenario, bar.broker) == (key[0], broker)]
            yield Line(
                scenario=key[0],
                version=key[1],
                broker=broker,
                rate=number(_median(run["rate"] for run in runs)),
                cost=number(_median(costs)),
                cost_spread=_range(costs),
                ratio=number(_median(ratios)),
                ratio_spread=_range(ratios),
                lost=str(sum(run["lost"] or 0 for run in runs)),
                peak_mb=number(_median(run["peak_mb"] for run in runs)),
                shares=tuple(number(_median(run.get(name) for run in runs)) for name in SHARES),
                latency=_latency(runs),
                bars=", ".join(verdict for verdict in verdicts if verdict),
                more="; ".join(filter(None, (_own(broker, of_key), _more(key[0], runs)))),
            )


def table(records: Sequence[Record], brokers: Sequence[str]) -> str:
    """The lines for a terminal."""
    shown = list(lines(records, brokers))
    bars = max([3, *(len(line.bars) for line in shown)])
    latency = max([16, *(len(line.latency) for line in shown)])
    rows = [
        f"{'scenario':9}{'v':>3} {'broker':16}{'rate/s':>10} {'CPU us/op':>10} {'(min-max)':>16} {'ratio':>7} "
        f"{'(min-max)':>14}{'lost':>6}{'peak MB':>8}{'sys':>6}{'util':>6}{'gen':>6}{'other':>6}  "
        f"{'bar':{bars}} {'p50/p99/p99.9 us':{latency}} more"
    ]
    for line in shown:
        rows.append(
            f"{line.scenario:9}{line.version:>3} {line.broker:16}{line.rate:>10} {line.cost:>10} "
            f"{line.cost_spread:>16} {line.ratio:>7} {line.ratio_spread:>14}{line.lost:>6}{line.peak_mb:>8}"
            f"{''.join(f'{share:>6}' for share in line.shares)}  "
            f"{line.bars:{bars}} {line.latency:{latency}} {line.more}".rstrip()
        )
    return "\n".join(rows)


def disturbed(records: Sequence[Record]) -> str:
    """How quiet the machine was, as one sentence."""
    busy = sum(run.get("other", 0) > OTHER_CORES_MAX for run in records)
    if not busy:
        return f"Nothing else ran: in all {len(records)} runs it used less than {OTHER_CORES_MAX} cores."
    return f"Something else ran: in {busy} of {len(records)} runs it used more than {OTHER_CORES_MAX} cores."


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows))


def _kept(bar: Bar, records: Sequence[Record]) -> Sequence[str] | None:
    """A bar and what was measured against it, for people; None where nothing was."""
    figures = bar.measured(records)
    if not figures:
        return None
    mine = [run for run in records if run["scenario"] == bar.scenario and bar.holds_for(run)]

    def figure(broker: str) -> str:
        return number(_median(value(run, bar.measure) for run in mine if run["broker"] == broker))

    return (
        bar.scenario if bar.broker == "ours" else f"{bar.scenario} ({bar.broker})",
        bar.name or "CPU us/op",
        f"{bar.unit} {figure(bar.unit)}" if bar.unit else "",
        figure(bar.broker),
        number(statistics.median(figures)),
        f"{number(bar.limit)} {'ok' if bar.keeps(figures) else '**missed**'}",
    )


def _costs(records: Sequence[Record], brokers: Sequence[str]) -> str:
    """What a message costs each broker, in the rows whose bar is about that."""
    shown = {(line.scenario, line.broker): line for line in lines(records, brokers)}
    rows = [bar.scenario for bar in BARS if bar.broker == "ours" and not bar.name and (bar.scenario, "ours") in shown]
    return _markdown(
        ("row", *brokers, "ours / " + brokers[0]),
        (
            (
                row,
                *(shown[row, name].cost if (row, name) in shown else "" for name in brokers),
                shown[row, "ours"].ratio,
            )
            for row in rows
        ),
    )


def blocks(head: str, records: Sequence[Record], brokers: Sequence[str]) -> dict[str, str]:
    """Markdown for pages: `table`, everything with its header; `bars`, what has one; `costs`, the short one."""
    columns = ("row", "v", "broker", "CPU us/op", "min-max", "ratio", "min-max", "bar", "rate/s", "lost", "peak MB")
    whole = _markdown(
        (*columns, "kernel", "p50/p99/p99.9 us", "more"),
        (
            (
                *(line.scenario, line.version, line.broker, line.cost, line.cost_spread, line.ratio),
                *(line.ratio_spread, line.bars, line.rate, line.lost, line.peak_mb, line.shares[0]),
                *(line.latency, line.more),
            )
            for line in lines(records, brokers)
        ),
    )
    bars = _markdown(
        ("row", "measure", "beside", "ours", "ratio", "bar"),
        (kept for bar in BARS if (kept := _kept(bar, records))),
    )
    return {
        "table": f"```text\n{head}\n```\n\n{disturbed(records)}\n\n{whole}",
        "bars": bars,
        "costs": _costs(records, brokers),
    }
