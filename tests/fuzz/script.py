"""What fuzzed clients do, as octets: every byte string is a script, and a small change of it is a similar one.

    header      one octet: how the broker is made up (`Setting`)
    steps       an octet each, the lowest three bits say what is done, the others are its argument (0..31);
                SEND and PIECES are followed by two octets of length, and the octets

So both engines, one that knows strategies and one that knows nothing, can share a corpus.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

from msgspec import Struct

__all__ = ["STEPS_MAX", "Do", "Setting", "Step", "read_script", "write_script"]

#: steps of one script that are played; the rest is ignored
STEPS_MAX = 64


class Do(enum.IntEnum):
    """The kinds of steps. Who has read that the broker closed sends on a new connection."""

    #: send the octets in one piece
    SEND = 0
    #: send the octets in pieces of `argument` + 1
    PIECES = 1
    #: send packet number `argument` of `packets.READY`
    READY = 2
    #: let time pass: `WAITS[argument]` seconds
    WAIT = 3
    #: cut the connection and go on with a new one
    CUT = 4
    #: go on with another connection, the present one stays: with a new one (the oldest is cut where there are too
    #: many), or (argument odd) with one of those that are open
    ANOTHER = 5
    #: read what has come, and (argument odd) acknowledge it as one should
    READ = 6
    #: bystanders and the broker itself publish on topics that the fuzzed clients know
    OTHERS = 7


class Setting(Struct, frozen=True):
    """How the broker is made up."""

    #: short cuts for known flows
    flow_cache: bool = True
    #: a plugin that sees every packet and refuses some
    plugin: bool = False
    #: only a few octets wait for a client: the broker is blocked until it reads
    narrow: bool = False
    #: a store whose answers come later
    late_store: bool = False
    #: the `pump` shell, over TCP; else `raw`, in memory
    pump: bool = False
    #: in which order tasks have their turn, 0..7
    order: int = 0


class Step(Struct, frozen=True):
    """One step."""

    do: Do
    argument: int = 0
    octets: bytes = b""

    @property
    def at_once(self) -> bool:
        """Whether the next step follows at the same moment, before anybody has had a turn."""
        return self.do in (Do.SEND, Do.ANOTHER) and bool(self.argument & 2)


_WITH_OCTETS = (Do.SEND, Do.PIECES)


def read_script(data: bytes) -> tuple[Setting, list[Step]]:
    """The script that these octets are."""
    header = data[0] if data else 1
    setting = Setting(*(bool(header >> place & 1) for place in range(5)), header >> 5)
    return setting, list(_steps(data))[:STEPS_MAX]


def _steps(data: bytes) -> Iterator[Step]:
    at = 1
    while at < len(data):
        do, argument = Do(data[at] & 7), data[at] >> 3
        at += 1
        octets = b""
        if do in _WITH_OCTETS:
            length = int.from_bytes(data[at : at + 2], "big")
            octets = data[at + 2 : at + 2 + length]
            at += 2 + length
        yield Step(do, argument, octets)


def write_script(setting: Setting, steps: Iterable[Step]) -> bytes:
    """The octets of a script."""
    bits = (setting.flow_cache, setting.plugin, setting.narrow, setting.late_store, setting.pump)
    out = bytearray([sum(bit << place for place, bit in enumerate(bits)) | setting.order << 5])
    for step in steps:
        out.append(step.do | step.argument << 3)
        if step.do in _WITH_OCTETS:
            octets = step.octets[:0xFFFF]
            out += len(octets).to_bytes(2, "big") + octets
    return bytes(out)
