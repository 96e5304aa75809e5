"""The engine that sees which lines an input reaches: atheris (libFuzzer), in a process for each door.

What reached something new is kept below `.run/fuzz` and is where the next run on this machine begins.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.door import Door
from tests.fuzz.finding import CORPUS, RUN, Finding, run

__all__ = ["AVAILABLE", "Guided", "guided"]

#: atheris can be imported here
AVAILABLE = importlib.util.find_spec("atheris") is not None
#: to import, to instrument, and to end, beyond the time for fuzzing
_EXTRA_SECONDS = 60


class Guided:
    """A process that fuzzes one door. `finish` waits for it."""

    def __init__(self, door: Door, process: subprocess.Popen[str], findings: Path, seconds: float) -> None:
        self._door = door
        self._process = process
        self._findings = findings
        self._seconds = seconds

    def finish(self) -> int:
        """Wait until its time is over; gives how many inputs it executed. Raises Finding, or RuntimeError."""
        try:
            log, _ = self._process.communicate(timeout=self._seconds + _EXTRA_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            log, _ = self._process.communicate()
        executed = re.search(r"stat::number_of_executed_units: +(\d+)", log)
        for path in sorted(self._findings.iterdir()):
            data = path.read_bytes()
            run(self._door, data)  # here again, where it can be made smaller
            raise Finding(self._door, data) from RuntimeError(
                f"failed under atheris only; the end of its log:\n{log[-3_000:]}"
            )
        if self._process.returncode or executed is None:
            raise RuntimeError(f"atheris ended with {self._process.returncode}:\n{log[-3_000:]}")
        return int(executed[1])


@contextmanager
def guided(door: Door, seconds: float) -> Iterator[Guided]:
    """Fuzz one door in a process beside this one; it is gone at the end of the block."""
    corpus = RUN / "corpus" / door.name
    findings = RUN / "atheris" / door.name
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for path in findings.iterdir():
        path.unlink()
    if not any(corpus.iterdir()):
        kept = [path.read_bytes() for path in sorted((CORPUS / door.name).glob("*"))]
        for data in [*kept, *door.seeds()]:
            (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    arguments = [door.name, str(max(1, round(seconds))), str(corpus), str(findings)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.guided", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        try:
            yield Guided(door, process, findings, seconds)
        finally:
            process.kill()
