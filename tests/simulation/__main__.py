"""Replay a program, look for failing ones, make one shorter: `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.simulation.program import Failure, minimised, program_of, run, step_of

__all__ = ["main"]


def main() -> int:
    """The command; 1 when a program failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("program", nargs="*", type=step_of, help="steps, as a failure prints them: name:number")
    parser.add_argument("--seed", type=int, help="make the program of a seed instead (default: a random one)")
    parser.add_argument("--steps", type=int, default=150, help="steps of each program that is made")
    parser.add_argument("--runs", type=int, default=1, help="programs, of one seed after the other")
    parser.add_argument("--seconds", type=float, default=0.0, help="run programs for so long instead")
    parser.add_argument("--without-flow-cache", action="store_true", help="send every packet through every stage")
    parser.add_argument("--minimise", action="store_true", help="leave out steps of the program that fails")
    parser.add_argument("--trace", action="store_true", help="print all that happened, not only its end")
    options = parser.parse_args()
    flow_cache = not options.without_flow_cache
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    began = time.monotonic()
    done = 0
    while done < options.runs or time.monotonic() - began < options.seconds:
        program = options.program or program_of(seed + done, options.steps)
        try:
            run(program, flow_cache=flow_cache)
        except Failure as failure:
            print("" if options.program else f"--seed {seed + done} --steps {options.steps} failed")
            _report(minimised(failure, flow_cache=flow_cache) if options.minimise else failure, options.trace)
            return 1
        done += 1
    print("nothing found in", "this program" if options.program else f"{done} programs from --seed {seed}")
    return 0


def _report(failure: Failure, everything: bool) -> None:
    print("\n".join(failure.trace) if everything else "", failure, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
