"""A broker as its users run it: `trio-acebroker serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Serving", "serving"]


class Serving:
    """A `serve` process that has said that it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        #: what it logged until it listened
        self.lines: list[str] = []
        self.ports: list[int] = []

    def until(self, text: str) -> str:
        """Read its log up to the line that has `text`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening on \S+:(\d+)", line):
                self.ports.append(int(found[1]))
            if text in line:
                return line
        raise AssertionError(f"ended with {self.process.wait()}: {''.join(self.lines)}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Ask it to stop; returns the rest of its log. Its status must be 0."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, rest
        return rest


@contextmanager
def serving(*arguments: str, **environ: str) -> Iterator[Serving]:
    """`trio-acebroker serve` with warnings as errors; killed at the end if the block has not stopped it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "trio_acebroker", "serve", *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
    with process:
        try:
            yield Serving(process)
        finally:
            process.kill()
