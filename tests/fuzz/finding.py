"""Finding: an input that fails, made small, written down and told."""

from __future__ import annotations

import hashlib
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.door import Door

__all__ = ["CORPUS", "RUN", "Finding", "minimised", "report", "run"]

#: what is kept in the repository and run by every `make test`
CORPUS = Path(__file__).parent / "corpus"
#: what a run leaves on this machine
RUN = Path(".run") / "fuzz"
#: an input that takes longer is a finding
SECONDS_MAX = 20
#: for making a finding smaller
MINIMISE_SECONDS = 15.0


class Finding(Exception):
    """An input that fails; the failure is its cause."""

    def __init__(self, door: Door, data: bytes) -> None:
        super().__init__(f"{door.name}: {data.hex()}")
        self.door = door
        self.data = data


def run(door: Door, data: bytes) -> None:
    """Execute one input. Raises Finding, also for one without end and for what nobody could catch."""
    with _watched() as lost:
        try:
            door.execute(data)
            if lost:
                raise AssertionError(f"nobody could catch {lost[0]!r}") from lost[0]
        except Exception as error:
            raise Finding(door, data) from error


@contextmanager
def _watched() -> Iterator[list[BaseException]]:
    lost: list[BaseException] = []

    def unraisable(args: Any) -> None:
        lost.append(args.exc_value)

    def endless(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end within {SECONDS_MAX} seconds")

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    handler = signal.signal(signal.SIGALRM, endless)
    before = signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield lost
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)
        sys.unraisablehook = hook


def _place(error: BaseException) -> tuple[str, ...]:
    """What makes two failures the same one: their type, and where they were raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__, *(f"{frame.filename}:{frame.lineno}" for frame in frames[-1:])


def minimised(finding: Finding, seconds: float = MINIMISE_SECONDS) -> Finding:
    """The same failure with fewer octets, as far as there is time; the finding itself where it does not repeat."""
    assert finding.__cause__ is not None
    place = _place(finding.__cause__)
    deadline = time.monotonic() + seconds
    best = finding
    size = max(1, len(finding.data) // 2)
    while size:
        at, smaller = 0, False
        while at < len(best.data) and time.monotonic() < deadline:
            data = best.data[:at] + best.data[at + size :]
            try:
                run(finding.door, data)
            except Finding as found:
                if found.__cause__ is not None and _place(found.__cause__) == place:
                    best, smaller = found, True
                    continue
            at += size
        if time.monotonic() >= deadline:
            break
        if not smaller or size > 1:
            size //= 2
    return best


def report(finding: Finding) -> str:
    """Write the input down below `.run/fuzz`; gives what a person needs to know."""
    folder = RUN / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.door.name}-{hashlib.sha256(finding.data).hexdigest()[:16]}"
    path.write_bytes(finding.data)
    cause = "".join(traceback.format_exception(finding.__cause__)) if finding.__cause__ else ""
    return (
        f"{cause}\n"
        f"door {finding.door.name}: {len(finding.data)} octets: {finding.data.hex()}\n"
        f"written to {path}; again: python -m tests.fuzz --door {finding.door.name} --replay {path}\n"
        f"once it is mended, keep it: cp {path} {CORPUS.relative_to(Path.cwd())}/{finding.door.name}/SOME-NAME"
    )
