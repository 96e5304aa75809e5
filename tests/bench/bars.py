"""The bars: what each row of our broker may cost at most, and whether it does.

Most are in units of mosquitto in the same round of the same run: ratios carry over from one machine
and day to another, microseconds do not. Bars hold for what they were set for: 64 bytes of payload, the
protocol version of the row, broker and load pinned to a core each.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.measurement import Record
from tests.bench.scenarios import DEAF, SCENARIOS
from trio_acebroker.config import Limits

__all__ = ["BARS", "Bar", "between", "spread", "value"]


@dataclass(frozen=True)
class Bar:
    """What is measured in one row of one broker, and the most that it may be."""

    scenario: str
    #: as the table shows it, with the name of the case
    broker: str
    limit: float
    #: a field of a record, or a quantile of its latencies
    measure: str = "cpu_us"
    #: the broker whose measure of the same round is the unit; None = the figure itself
    unit: str | None = "mosquitto"
    #: take the other's figure off instead of dividing by it
    difference: bool = False
    #: what the table calls the measure; the cost has a column of its own
    name: str = ""

    def holds_for(self, record: Record) -> bool:
        """Whether this run is of the kind that the bar was set for."""
        as_set = record["payload"] == 64 and record["pinned"]
        return bool(as_set) and record["version"] == (SCENARIOS[self.scenario].version or "4")

    def measured(self, records: Sequence[Record]) -> list[float]:
        """Its figure in each round that has one, out of all records."""
        mine = [r for r in records if r["scenario"] == self.scenario and self.holds_for(r)]
        if self.unit is None:
            found = [value(r, self.measure) for r in mine if r["broker"] == self.broker]
            return [figure for figure in found if figure is not None]
        return between(mine, self.broker, self.unit, self.measure, self.difference)

    def keeps(self, figures: Sequence[float]) -> bool:
        """Whether their median is within the limit."""
        return statistics.median(figures) <= self.limit

    def verdict(self, records: Sequence[Record]) -> str:
        """`0.10 ok`, `p50 1.7 > 1.5 MISSED`; empty where the run does not tell."""
        figures = self.measured(records)
        if not figures:
            return ""
        kept = self.keeps(figures)
        shown = f"{self.name} {statistics.median(figures):.3g} " if self.name else ""
        return f"{shown}{'<=' if kept else '>'} {self.limit:.3g} {'ok' if kept else 'MISSED'}"


def value(record: Record, measure: str) -> float | None:
    """A figure of a run; None where it has none, as after a timeout."""
    latencies: Mapping[str, float] = record.get("lat_us") or {}
    figure: float | None = latencies.get(measure, record.get(measure))
    return figure


def between(
    records: Sequence[Record], broker: str, unit: str, measure: str = "cpu_us", difference: bool = False
) -> list[float]:
    """The figure of `broker` over (or less) that of `unit`, for each round that has both."""
    units = {(r["sitting"], r["round"]): value(r, measure) for r in records if r["broker"] == unit}
    found = []
    for record in records:
        figure, one = value(record, measure), units.get((record["sitting"], record["round"]))
        if record["broker"] != broker or figure is None or one is None:
            continue
        if difference:
            found.append(figure - one)
        elif one > 0:
            found.append(figure / one)
    return found


def spread(figures: Sequence[float]) -> tuple[float, float, float] | None:
    """Median, least and most; None of nothing."""
    return (statistics.median(figures), min(figures), max(figures)) if figures else None


BARS = (
    Bar("one", "ours", 0.10),
    Bar("fanin", "ours", 0.12),
    Bar("fan100", "ours", 0.06),
    Bar("fan1000", "ours", 0.18),
    Bar("pairs", "ours", 0.10),
    Bar("pairs1", "ours", 1.0),
    Bar("pairs1", "ours-raw", 2.0),
    Bar("qos1", "ours", 0.18),
    Bar("qos2", "ours", 0.25),
    Bar("storm", "ours", 2.5),
    Bar("idle", "ours", 10, "kib_per_connection", None, name="KiB/connection"),
    Bar("lat10k", "ours", 2.0),
    Bar("lat10k", "ours", 1.5, "p50", name="p50"),
    Bar("wild", "ours", 0.30),
    Bar("retained", "ours", 0.30),
    Bar("var", "ours", 0.20),
    Bar("props", "ours", 0.5),
    Bar("tls", "ours", 0.3),
    Bar("acl", "ours+acl", 1.2, unit="ours", name="of ours"),
    Bar("slow", "ours+deaf", 2.0, "p99", "ours", name="p99 of ours"),
    Bar("slow", "ours+deaf", DEAF * Limits().out_queue_bytes_max / 1e6, "growth_mb", "ours", True, "MB grown"),
)
