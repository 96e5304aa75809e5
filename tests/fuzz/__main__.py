"""`make fuzz`: octets for every door, from both engines, until the time is over; the first failure ends it.

Each door has its part of the time. Where atheris can be imported, it works in a process of its own while Hypothesis
works in this one; where it cannot, Hypothesis is alone. Status 1, the input in hex, and a file with it for a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.by_coverage import AVAILABLE, guided
from tests.fuzz.by_hypothesis import explore
from tests.fuzz.door import Door
from tests.fuzz.doors import DOORS
from tests.fuzz.finding import CORPUS, Finding, minimised, report, run

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run the command; gives its status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all doors together")
    parser.add_argument("--door", choices=sorted(DOORS), action="append", help="this one only; may be given again")
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], help="this one only")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="execute one input through the door, and no more")
    options = parser.parse_args(arguments)
    doors = [DOORS[name] for name in options.door or DOORS]
    found: Finding | None = None
    try:
        if options.replay is not None:
            for door in doors:
                run(door, options.replay.read_bytes())
            print("nothing failed")
        else:
            _fuzz(doors, options.seconds, options.engine)
    except Finding as finding:
        found = finding
    if found is None:
        return 0
    print(report(minimised(found)), flush=True)
    return 1


def _fuzz(doors: list[Door], seconds: float, engine: str | None) -> None:
    if engine != "hypothesis" and not AVAILABLE:
        print("atheris cannot be imported here (pip install atheris): Hypothesis only", flush=True)
        if engine == "atheris":
            raise SystemExit(1)
    for door in doors:
        part = seconds * door.share / sum(each.share for each in doors)
        for path in sorted((CORPUS / door.name).glob("*")):
            run(door, path.read_bytes())
        began = time.monotonic()
        executed: dict[str, int] = {}
        if engine == "hypothesis" or not AVAILABLE:
            for data in door.seeds():
                run(door, data)
            executed["hypothesis"] = explore(door, part)
        else:
            with guided(door, part) as process:
                if engine is None:
                    executed["hypothesis"] = explore(door, part)
                executed["atheris"] = process.finish()
        took = time.monotonic() - began
        for name, count in executed.items():
            print(f"{door.name:10} {name:11} {count:9,} executions in {took:5.1f} s", flush=True)
    print("fuzz: nothing failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
