"""The scenarios: what load each row of the table stands for.

A scenario is one or two cases of `mqload` arguments. Their numbers (clients, windows, paces) are the
definition of the row: results of different versions are comparable only as long as nobody touches them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["DEAF", "SCENARIOS", "SCENARIOS_DEFAULT", "Case", "Scenario", "any_over_tls"]

#: subscribers of the row `slow` that never read
DEAF = 10


@dataclass(frozen=True)
class Case:
    """One load against one setup of every broker."""

    #: mqload arguments
    load: str
    #: what the table puts behind the broker's name; empty for the case that others are compared with
    name: str = ""
    #: how the broker is set up (`PeerSpec.setups`); empty is its usual configuration
    setup: str = ""

    @property
    def tls(self) -> bool:
        """Whether the load is over TLS."""
        return "-S" in self.load.split()


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    meaning: str
    #: run one after the other in each round; a broker without the setup of a case leaves it out
    cases: tuple[Case, ...]
    #: the only protocol version this row is about, as the table shows it; None = as asked for
    version: str | None = None


def _plain(load: str, meaning: str, version: str | None = None) -> Scenario:
    return Scenario(meaning, (Case(load),), version)


SCENARIOS: dict[str, Scenario] = {
    "one": _plain("flow -n 1 -m 1 -w 5000", "QoS 0, 1 publisher -> 1 subscriber, pipelined"),
    "fanin": _plain("flow -t fanin -n 50 -m 1 -w 100", "QoS 0, 50 publishers -> 1 subscriber on +"),
    "fan100": _plain("flow -t fanout -n 1 -m 100 -w 50", "QoS 0, 1 publisher -> 100 subscribers"),
    "fan1000": _plain("flow -t fanout -n 1 -m 1000 -w 10", "QoS 0, 1 publisher -> 1000 subscribers"),
    "pairs": _plain("flow -n 100 -m 100 -w 50", "QoS 0, 100 publishers -> 100 subscribers, own topics, pipelined"),
    "pairs1": _plain("flow -n 100 -m 100 -w 1", "the same, one open message a pair (no batching)"),
    "qos1": _plain("flow -n 100 -m 100 -q 1 -w 20", "QoS 1 pairs, 20 unacknowledged a publisher"),
    "qos2": _plain("flow -n 100 -m 100 -q 2 -w 20", "QoS 2 pairs, 20 open a publisher"),
    "storm": _plain("storm -n 100", "CONNECT/CONNACK/DISCONNECT cycles, 100 at once"),
    "idle": _plain("idle -n 5000", "5000 idle connections"),
    "lat1k": _plain("flow -n 100 -m 100 -r 1000 -s", "QoS 0 pairs paced at 1,000 messages/s, latency"),
    "lat10k": _plain("flow -n 100 -m 100 -r 10000 -s", "QoS 0 pairs paced at 10,000 messages/s, latency"),
    "wild": _plain("flow -t wild -n 10 -m 100 -f 1000 -w 500", "100k filters with + and #, one match a message"),
    "retained": _plain("retained -c 100000 -w 20", "100k retained set (QoS 1), then drained by #"),
    "var": _plain("flow -n 100 -m 100 -w 50 -T 10 -L 16-115", "pairs, 10 topics a publisher, 16 to 115 bytes mixed"),
    "props": _plain("flow -n 100 -m 100 -w 50 -u 3", "pairs, three user properties in every message", "5"),
    "mix": _plain("flow -n 100 -m 100 -w 50 -M", "pairs, half 3.1.1 -> 5.0 and half 5.0 -> 3.1.1", "4/5"),
    "acl": Scenario(
        "pairs, without and with an ACL file (and our rate limiter, never reached)",
        (Case("flow -n 100 -m 100 -w 50"), Case("flow -n 100 -m 100 -w 50", "+acl", "acl")),
    ),
    "tls": Scenario("pairs over TLS 1.3, AES-128-GCM", (Case("flow -n 100 -m 100 -w 50 -S", setup="tls"),)),
    "tls1": Scenario("pairs1 over TLS 1.3", (Case("flow -n 100 -m 100 -w 1 -S", setup="tls"),)),
    "tlsstorm": Scenario(
        "storm over TLS 1.3: a full handshake for each connection, P-256 certificate",
        (Case("storm -n 100 -S", setup="tls"),),
    ),
    "growth": Scenario(
        "1,000 topics among 1k filters with + and #, then among 1M of the same kinds",
        (
            Case("flow -t wild -n 10 -m 100 -f 10 -x 1000 -w 500 -C 10"),
            Case("flow -t wild -n 10 -m 100 -f 10000 -x 1000 -w 500 -C 10", "+1M"),
        ),
    ),
    "slow": Scenario(
        f"lat10k beside a flood of 2,000 messages/s of 4 KiB, without and with {DEAF} subscribers that never read it",
        (
            Case("flow -n 100 -m 100 -r 10000 -s -Z 2000 -Y 4096"),
            Case(f"flow -n 100 -m 100 -r 10000 -s -Z 2000 -Y 4096 -z {DEAF}", "+deaf"),
        ),
    ),
}

#: what `make bench` runs
SCENARIOS_DEFAULT = ("one", "pairs", "pairs1", "qos1")


def any_over_tls(names: Iterable[str]) -> bool:
    """Whether one of these rows needs the load generator with TLS."""
    return any(case.tls for name in names for case in SCENARIOS[name].cases)
