"""What the kernel says about a process and everything it started: CPU time, memory, whether it lives.

Linux only: everything is read from /proc.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample", "alive", "cpu_between", "descendants", "marked", "peak_resident_bytes", "sample"]

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """A process tree and the machine at one moment. Times in seconds since boot or start."""

    at: float
    #: user + system time, children included, in clock ticks of 10 ms
    cpu: float
    #: the kernel's share of `cpu`
    system: float
    #: run time of all living threads, to the nanosecond
    cpu_exact: float
    threads: frozenset[int]
    resident_bytes: int
    machine_busy: float
    machine_steal: float


def _stat(pid: int) -> list[bytes]:
    # the command name, second field, may hold spaces and parentheses
    return (PROC / str(pid) / "stat").read_bytes().rsplit(b")", 1)[1].split()


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def alive(pid: int) -> bool:
    """Does this process run (a zombie does not)?"""
    try:
        return _stat(pid)[0] != b"Z"
    except OSError:
        return False


def descendants(root: int) -> list[int]:
    """`root`, its descendants, and everything in its session."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for pid in _all_pids():
        try:
            fields = _stat(pid)
        except OSError:
            continue
        parents[pid], sessions[pid] = int(fields[1]), int(fields[3])
    kept = {pid for pid in parents if pid == root or sessions[pid] == root}
    while more := {pid for pid in parents if parents[pid] in kept} - kept:
        kept |= more
    return sorted(kept)


def marked(variable: str, value: str) -> list[int]:
    """Processes with this environment variable: daemons that left the tree of their parent."""
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in _all_pids():
        try:
            if wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def sample(root: int) -> Sample:
    """Add up the tree of `root`; processes that end meanwhile are left out."""
    ticks = system = nanoseconds = resident = 0
    threads: set[int] = set()
    for pid in descendants(root):
        try:
            fields = _stat(pid)
            ticks += sum(int(field) for field in fields[11:15])  # utime stime cutime cstime
            system += int(fields[12]) + int(fields[14])
            for thread in (PROC / str(pid) / "task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
                threads.add(int(thread.name))
            resident += int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE_BYTES
        except OSError:
            continue
    columns = [int(field) for field in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    idle, wait, steal = columns[3], columns[4], columns[7]
    return Sample(
        at=time.monotonic(),
        cpu=ticks / TICKS_PER_SECOND,
        system=system / TICKS_PER_SECOND,
        cpu_exact=nanoseconds / 1e9,
        threads=frozenset(threads),
        resident_bytes=resident,
        machine_busy=(sum(columns) - idle - wait - steal) / TICKS_PER_SECOND,
        machine_steal=steal / TICKS_PER_SECOND,
    )


def cpu_between(first: Sample, last: Sample) -> float:
    """CPU seconds spent between two samples."""
    # thread clocks are finer, but lose a thread that ended in between
    if first.threads <= last.threads:
        return last.cpu_exact - first.cpu_exact
    return last.cpu - first.cpu


def peak_resident_bytes(root: int) -> int:
    """The most memory that the processes of the tree ever had, added up."""
    total = 0
    for pid in descendants(root):
        try:
            status = (PROC / str(pid) / "status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return total
