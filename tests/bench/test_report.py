"""What the tables say of given runs: medians of ratios within a round, bars, and pages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as program
from tests.bench import pages
from tests.bench.bars import Bar, between
from tests.bench.brokers import PeerSpec
from tests.bench.measurement import Load, Record
from tests.bench.processes import Sample, cpu_between
from tests.bench.report import blocks, disturbed, header, lines, number, table


def run(broker: str, round_: int, cpu_us: float | None, **more: Any) -> Record:
    """One run, as `measure` gives it."""
    return {
        "broker": broker,
        "scenario": "pairs",
        "version": "4",
        "payload": 64,
        "pinned": True,
        "sitting": 1,
        "round": round_,
        "cpu_us": cpu_us,
        "rate": 1000.0,
        "lost": 0,
        "peak_mb": 10.0,
        "status": "ok",
        "note": "",
        **more,
    }


#: the machine is twice as slow in the second round, for both
DRIFT = [
    run("mosquitto", 0, 10.0),
    run("ours", 0, 1.0),
    run("mosquitto", 1, 20.0),
    run("ours", 1, 2.0),
    run("mosquitto", 2, 10.0),
    run("ours", 2, 1.5),
]


def test_ratios_are_taken_within_a_round() -> None:
    assert between(DRIFT, "ours", "mosquitto") == [0.1, 0.1, 0.15]
    (first, second) = lines(DRIFT, ["mosquitto", "ours"])
    assert (first.cost, first.ratio, first.bars) == ("10.0", "-", "")
    assert (second.cost, second.cost_spread, second.ratio, second.ratio_spread) == (
        "1.50",
        "1.00-2.00",
        "0.10",
        "0.10-0.15",
    )


def test_a_round_without_both_gives_no_ratio() -> None:
    records = [run("mosquitto", 0, None), run("ours", 0, 1.0), run("ours", 1, 1.0), run("mosquitto", 2, 10.0)]
    assert between(records, "ours", "mosquitto") == []
    assert Bar("pairs", "ours", 0.1).verdict(records) == ""


def test_rounds_of_two_sittings_are_kept_apart() -> None:
    records = [run(name, 0, cost, sitting=n) for n, cost in ((1, 10.0), (2, 20.0)) for name in ("mosquitto", "ours")]
    records += [run("ours", 0, 5.0, sitting=3)]
    assert between(records, "ours", "mosquitto") == [1.0, 1.0]


@pytest.mark.parametrize(("cost", "verdict"), [(1.0, "<= 0.1 ok"), (1.01, "> 0.1 MISSED")])
def test_a_bar_is_kept_or_missed(cost: float, verdict: str) -> None:
    records = [run("mosquitto", 0, 10.0), run("ours", 0, cost)]
    assert Bar("pairs", "ours", 0.1).verdict(records) == verdict
    assert [line.bars for line in lines(records, ["mosquitto", "ours"])] == ["", verdict]


@pytest.mark.parametrize("other", [{"payload": 65}, {"version": "5"}, {"pinned": False}])
def test_a_bar_holds_for_what_it_was_set_for(other: dict[str, Any]) -> None:
    assert Bar("pairs", "ours", 0.1).verdict([run("mosquitto", 0, 10.0, **other), run("ours", 0, 1.0, **other)]) == ""


def test_bars_of_other_measures_name_them() -> None:
    records = [
        run("mosquitto", 0, 10.0, lat_us={"p50": 40.0, "p99": 900.0, "p999": 1000.0}, growth_mb=0.5),
        run("ours", 0, 20.0, lat_us={"p50": 70.0, "p99": 900.0, "p999": 1000.0}, growth_mb=4.0, kib_per_connection=9.0),
    ]
    assert Bar("pairs", "ours", 1.5, "p50", name="p50").verdict(records) == "p50 1.75 > 1.5 MISSED"
    assert Bar("pairs", "ours", 10, "growth_mb", difference=True, name="MB").verdict(records) == "MB 3.5 <= 10 ok"
    assert Bar("pairs", "ours", 8, "kib_per_connection", None, name="KiB").verdict(records) == "KiB 9 > 8 MISSED"


def test_cases_stand_under_their_broker() -> None:
    records = [run(name, 0, cost) for name, cost in (("ours", 1.0), ("ours+acl", 1.1), ("mosquitto", 10.0))]
    shown = [(line.broker, line.ratio, line.more) for line in lines(records, ["mosquitto", "ours", "ours-raw"])]
    assert shown == [("mosquitto", "-", ""), ("ours", "0.10", ""), ("ours+acl", "0.11", "1.10 of ours")]


def test_what_went_wrong_stands_in_the_table() -> None:
    records = [run("mosquitto", 0, 10.0), run("mosquitto", 1, 10.0, status="lossy", lost=3)]
    (line,) = lines(records, ["mosquitto"])
    assert (line.lost, line.more) == ("3", "! lossy")
    assert "! lossy" in table(records, ["mosquitto"])


def test_the_blocks_have_their_rows() -> None:
    parts = blocks("date then", [*DRIFT, run("ours", 0, 1.0, scenario="lat1k")], ["mosquitto", "ours"])
    assert parts["bars"].splitlines()[2:] == ["| pairs | CPU us/op | mosquitto 10.0 | 1.50 | 0.10 | 0.10 ok |"]
    assert parts["table"].startswith("```text\ndate then\n```\n")
    assert "| lat1k |" in parts["table"]
    assert parts["costs"].splitlines()[2:] == ["| pairs | 10.0 | 1.50 | 0.10 |"]
    assert set(parts) | {"profile"} == set(pages.NAMES)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.126, "0.13"), (12.34, "12.3"), (123.4, "123"), (1234567, "1,234,567")]
)
def test_numbers_have_three_places(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    other = "<!-- bench: profile -->\n\nkept\n\n<!-- bench: end -->\n"
    page.write_text(f"# Title\n\n<!-- bench: table -->\nold\n<!-- bench: end -->\n\nExplained.\n{other}")
    pages.write(page, {"table": "new", "bars": "short"})
    once = page.read_text()
    assert once == f"# Title\n\n<!-- bench: table -->\n\nnew\n\n<!-- bench: end -->\n\nExplained.\n{other}"
    pages.write(page, {"table": "new", "bars": "short"})
    assert page.read_text() == once


def test_a_page_without_markers_is_written_anew(tmp_path: Path) -> None:
    pages.write(tmp_path / "new.md", {"table": "rows", "bars": "short"})
    text = (tmp_path / "new.md").read_text()
    assert "rows" in text
    assert text.count("<!-- bench: end -->") == 2


def test_a_marker_of_nothing_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: chart -->\n<!-- bench: end -->\n")
    with pytest.raises(ValueError, match="no block 'chart'; there are table, bars, costs, profile"):
        pages.write(page, {"table": "rows"})


def test_the_header_says_what_was_measured_and_not_where_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "-s", "all", "--json", "a.jsonl", "--out=b.md", "-r", "3"])
    text = header([PeerSpec("sad", {}, version="echo sad 1.0; exit 1")], Load(), 3, None)
    assert text.endswith("\ncommand   python -m tests.bench -s all -r 3")
    assert "\nbroker    sad: sad 1.0\n" in text
    assert "64 bytes, 2 s a run, 3 rounds in turn, not pinned\n" in text


def test_others_on_the_machine_are_told() -> None:
    quiet = [run("ours", 0, 1.0, other=0.02), run("ours", 1, None)]
    assert disturbed(quiet).startswith("Nothing else ran: in all 2 runs")
    assert disturbed([*quiet, run("ours", 2, 1.0, other=0.5)]).startswith("Something else ran: in 1 of 3 runs")


def test_kept_runs_are_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    kept.write_text("".join(json.dumps(line) + "\n" for line in [{"header": "date then"}, *DRIFT]))
    monkeypatch.setattr(sys, "argv", ["bench", "--show", str(kept), "--out", str(page)])
    assert program.main() == 0
    shown = capsys.readouterr().out
    assert shown.startswith("date then\n")
    assert "<= 0.1 ok" in shown
    assert "| pairs | 4 | ours |" in page.read_text()


def sample(cpu: float, exact: float, *threads: int) -> Sample:
    """A process at one moment."""
    return Sample(0.0, cpu, 0.0, exact, frozenset(threads), 0, 0.0, 0.0)


def test_the_finer_clock_counts_while_no_thread_ended() -> None:
    assert cpu_between(sample(1.0, 1.01, 1), sample(2.0, 2.03, 1, 2)) == pytest.approx(1.02)
    assert cpu_between(sample(1.0, 1.01, 1, 2), sample(2.0, 1.5, 1)) == 1.0
