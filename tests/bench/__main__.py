"""`python -m tests.bench`: run brokers in turn (A B A B) through the scenarios and print the table."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench import pages
from tests.bench.brokers import Broker, BrokerDidNotStart, PeerSpec, ours, peers
from tests.bench.measurement import CannotCompile, Load, Record, build_folder, compile_tools, measure
from tests.bench.report import blocks, disturbed, header, number, table
from tests.bench.scenarios import SCENARIOS, SCENARIOS_DEFAULT, Case, any_over_tls

__all__ = ["main"]


def _known(command: str | None) -> dict[str, PeerSpec]:
    """All brokers by name; `command` starts the one called ours."""
    own = (ours(command=command), ours("ours-raw", "raw"))
    return peers() | {spec.name: spec for spec in own}


def _brokers_default(known: dict[str, PeerSpec]) -> list[str]:
    """Mosquitto where it is, every peer whose variable names it, and our own."""
    named = [name for name, spec in known.items() if spec.variable and spec.variable in os.environ]
    found = [name for name in dict.fromkeys(["mosquitto", *named]) if not known[name].missing()]
    if "mosquitto" not in found:
        print(f"{known['mosquitto'].missing()}. Without it there are no bars.", file=sys.stderr)
    return [*found, "ours", "ours-raw"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Compare the CPU cost of MQTT brokers on this machine."
    )
    parser.add_argument(
        *("-s", "--scenarios"),
        default=",".join(SCENARIOS_DEFAULT),
        help="comma-separated, or all: " + ", ".join(SCENARIOS),
    )
    parser.add_argument(
        *("-b", "--brokers"),
        help="comma-separated, the first is the baseline (default: mosquitto, peers whose variable is set, ours, "
        f"ours-raw): {', '.join(_known(None))}",
    )
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-v", "--version", type=int, choices=(4, 5), default=4, help="4 is MQTT 3.1.1 (default)")
    parser.add_argument("-P", "--payload", type=int, default=64, help="payload octets")
    parser.add_argument("-d", "--seconds", type=float, default=2, help="length of a run")
    parser.add_argument("--cmd", help="shell template of the broker called ours; {port} {dir} {build} are filled in")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let broker and load use every core")
    parser.add_argument("--broker-cpu", default="0")
    parser.add_argument("--load-cpu", default="1")
    parser.add_argument("--stall", type=float, default=5, help="end a run after so many seconds without progress")
    parser.add_argument("--limit", type=float, default=90, help="kill a run after so many seconds")
    parser.add_argument("--start-timeout", type=float, default=30)
    parser.add_argument("--mqload", default="", help="more mqload options")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="the C compiler")
    parser.add_argument("--json", type=Path, help="append one JSON record a run to this file")
    parser.add_argument(
        "--out", type=Path, action="append", default=[], help="put the tables into this Markdown page (several times)"
    )
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the table of such a JSON file")
    arguments = parser.parse_args()
    arguments.scenarios = list(SCENARIOS) if arguments.scenarios == "all" else arguments.scenarios.split(",")
    for name in arguments.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    known = _known(arguments.cmd)
    if arguments.brokers:
        arguments.brokers = arguments.brokers.split(",")
    else:
        arguments.brokers = [] if arguments.show else _brokers_default(known)
    for name in arguments.brokers:
        if name not in known:
            parser.error(f"no broker {name!r}; there are {', '.join(known)}")
    arguments.specs = [known[name] for name in arguments.brokers]
    if arguments.pin and (os.cpu_count() or 1) < 2:
        parser.error("pinning needs two CPUs; use --no-pin")
    return arguments


@contextmanager
def _turn() -> Iterator[None]:
    """Only one measurement at a time on this machine: what is compared must not overlap."""
    with (Path(tempfile.gettempdir()) / "bench.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(
    spec: PeerSpec, scenario: str, case: Case, load: Load, build: Path, arguments: argparse.Namespace
) -> Record | None:
    try:
        broker = Broker(
            spec, case.setup, build, arguments.broker_cpu if arguments.pin else None, arguments.start_timeout
        )
    except BrokerDidNotStart as error:
        print(error, file=sys.stderr)
        return None
    try:
        return measure(broker, scenario, case, load, build)
    finally:
        broker.stop()


def _rounds(arguments: argparse.Namespace, load: Load, build: Path) -> list[Record]:
    records: list[Record] = []
    sitting = round(time.time())
    for scenario in arguments.scenarios:
        for number_of_round in range(arguments.rounds):
            with _turn():
                for spec, case in _turns(scenario, arguments.specs, load):
                    record = _run(spec, scenario, case, load, build, arguments)
                    if record is None:
                        continue
                    record |= {"round": number_of_round, "sitting": sitting}
                    records.append(record)
                    _keep(arguments.json, record)
                    print(
                        f"{scenario} v{record['version']} #{number_of_round} {record['broker']}: "
                        f"{number(record['rate'])}/s {number(record['cpu_us'])} us/op lost {record['lost']} "
                        f"{record['status']} {record['note']}",
                        file=sys.stderr,
                    )
    return records


def _turns(scenario: str, specs: Sequence[PeerSpec], load: Load) -> list[tuple[PeerSpec, Case]]:
    """Who runs what in one round of a scenario: each broker the cases that it can do, one after the other."""
    row = SCENARIOS[scenario]
    five = (row.version or str(load.version)) != "4"
    able = [spec for spec in specs if scenario not in spec.skip and not (five and "v5" in spec.skip)]
    return [(spec, case) for spec in able for case in row.cases if case.setup in spec.setups]


def _keep(path: Path | None, line: Record) -> None:
    """Append one line to the JSON file."""
    if path:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _show(arguments: argparse.Namespace, head: str, records: Sequence[Record]) -> None:
    print(table(records, arguments.brokers), disturbed(records), sep="\n\n")
    for page in arguments.out:
        pages.write(page, blocks(head, records, arguments.brokers))


def main() -> int:
    """Returns 0 when every broker ran every scenario without a loss or an error."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that finally clauses stop the brokers
    if arguments.show:
        kept = [json.loads(line) for line in arguments.show.read_text().splitlines()]
        head = "\n\n".join(line["header"] for line in kept if "header" in line)
        records = [line for line in kept if "header" not in line]
        there = list(dict.fromkeys(record["broker"].partition("+")[0] for record in records))
        arguments.brokers = list(dict.fromkeys([name for name in arguments.brokers if name in there] + there))
        print(head, end="\n\n")
        _show(arguments, head, records)
        return 0
    for spec in arguments.specs:
        if missing := spec.missing():
            print(missing, file=sys.stderr)
            return 2
    build = build_folder()
    try:
        compile_tools(build, arguments.cc, tls=any_over_tls(arguments.scenarios))
    except CannotCompile as error:
        print(error, file=sys.stderr)
        return 2
    load = Load(
        version=arguments.version,
        payload_bytes=arguments.payload,
        seconds=arguments.seconds,
        stall_seconds=arguments.stall,
        limit_seconds=arguments.limit,
        cpu=arguments.load_cpu if arguments.pin else None,
        options=arguments.mqload,
    )
    head = header(arguments.specs, load, arguments.rounds, arguments.broker_cpu if arguments.pin else None)
    print(head, end="\n\n", flush=True)
    _keep(arguments.json, {"header": head})
    records = _rounds(arguments, load, build)
    _show(arguments, head, records)
    complete = {(record["broker"], record["scenario"]) for record in records if record["status"] == "ok"}
    wanted = {
        (spec.name + case.name, scenario)
        for scenario in arguments.scenarios
        for spec, case in _turns(scenario, arguments.specs, load)
    }
    return 0 if wanted <= complete and all(record["status"] == "ok" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
