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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.brokers import Broker, BrokerDidNotStart, PeerSpec, ours, peers
from tests.bench.measurement import CannotCompile, Load, Record, compile_tools, measure
from tests.bench.report import header, number, table
from tests.bench.scenarios import SCENARIOS, SCENARIOS_DEFAULT

__all__ = ["main"]


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
        help=f"comma-separated, the first is the baseline (default mosquitto,ours): ours, {', '.join(peers())}",
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
    parser.add_argument("--out", type=Path, help="write header and table to this file too")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the table of such a JSON file")
    arguments = parser.parse_args()
    arguments.scenarios = list(SCENARIOS) if arguments.scenarios == "all" else arguments.scenarios.split(",")
    for name in arguments.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    known = {**peers(), "ours": ours(arguments.cmd)}
    if arguments.brokers is None:
        arguments.brokers = "mosquitto,ours"
        if (missing := known["mosquitto"].missing()) and not arguments.show:
            print(f"{missing}. Only our own broker runs, so there are no ratios.", file=sys.stderr)
            arguments.brokers = "ours"
    arguments.brokers = arguments.brokers.split(",")
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


def _run(spec: PeerSpec, scenario: str, load: Load, build: Path, arguments: argparse.Namespace) -> Record | None:
    try:
        broker = Broker(spec, build, arguments.broker_cpu if arguments.pin else None, arguments.start_timeout)
    except BrokerDidNotStart as error:
        print(error, file=sys.stderr)
        return None
    try:
        return measure(broker, scenario, load, build)
    finally:
        broker.stop()


def _rounds(arguments: argparse.Namespace, load: Load, build: Path) -> list[Record]:
    records: list[Record] = []
    sitting = round(time.time())
    for scenario in arguments.scenarios:
        able = [s for s in arguments.specs if scenario not in s.skip and not (load.version == 5 and "v5" in s.skip)]
        for number_of_round in range(arguments.rounds):
            with _turn():
                for spec in able:
                    record = _run(spec, scenario, load, build, arguments)
                    if record is None:
                        continue
                    record |= {"round": number_of_round, "sitting": sitting}
                    records.append(record)
                    if arguments.json:
                        with arguments.json.open("a") as file:
                            file.write(json.dumps(record) + "\n")
                    print(
                        f"{scenario} v{load.version} #{number_of_round} {spec.name}: {number(record['rate'])}/s "
                        f"{number(record['cpu_us'])} us/op lost {record['lost']} {record['status']} {record['note']}",
                        file=sys.stderr,
                    )
    return records


def main() -> int:
    """Returns 0 when every broker ran every scenario without a loss or an error."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that finally clauses stop the brokers
    if arguments.show:
        records = [json.loads(line) for line in arguments.show.read_text().splitlines()]
        there = list(dict.fromkeys(record["broker"] for record in records))
        first = [name for name in arguments.brokers if name in there]
        print(table(records, first + [name for name in there if name not in first]))
        return 0
    for spec in arguments.specs:
        if missing := spec.missing():
            print(missing, file=sys.stderr)
            return 2
    build = Path(
        os.environ.get("ACEBROKER_BENCH_BUILD", Path(tempfile.gettempdir()) / f"acebroker-bench-{os.getuid()}")
    )
    try:
        compile_tools(build, arguments.cc)
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
    records = _rounds(arguments, load, build)
    lines = table(records, arguments.brokers)
    print(lines)
    if arguments.out:
        arguments.out.write_text(f"{head}\n\n{lines}\n")
    complete = {(record["broker"], record["scenario"]) for record in records if record["status"] == "ok"}
    wanted = {(s.name, c) for s in arguments.specs for c in arguments.scenarios if c not in s.skip}
    return 0 if wanted <= complete and all(record["status"] == "ok" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
