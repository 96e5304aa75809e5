"""The scenarios: what load each row of the table stands for.

A scenario is a list of `mqload` arguments. Their numbers (clients, windows, paces) are the definition
of the row: results of different versions are comparable only as long as nobody touches them.
"""

from __future__ import annotations

__all__ = ["SCENARIOS", "SCENARIOS_DEFAULT"]

#: name -> (mqload arguments, what the row means)
SCENARIOS: dict[str, tuple[str, str]] = {
    "one": ("flow -n 1 -m 1 -w 5000", "QoS 0, 1 publisher -> 1 subscriber, pipelined"),
    "fanin": ("flow -t fanin -n 50 -m 1 -w 100", "QoS 0, 50 publishers -> 1 subscriber on +"),
    "fan100": ("flow -t fanout -n 1 -m 100 -w 50", "QoS 0, 1 publisher -> 100 subscribers"),
    "fan1000": ("flow -t fanout -n 1 -m 1000 -w 10", "QoS 0, 1 publisher -> 1000 subscribers"),
    "pairs": ("flow -n 100 -m 100 -w 50", "QoS 0, 100 publishers -> 100 subscribers, own topics, pipelined"),
    "pairs1": ("flow -n 100 -m 100 -w 1", "the same, one open message a pair (no batching)"),
    "qos1": ("flow -n 100 -m 100 -q 1 -w 20", "QoS 1 pairs, 20 unacknowledged a publisher"),
    "qos2": ("flow -n 100 -m 100 -q 2 -w 20", "QoS 2 pairs, 20 open a publisher"),
    "storm": ("storm -n 100", "CONNECT/CONNACK/DISCONNECT cycles, 100 at once"),
    "idle": ("idle -n 5000", "5000 idle connections"),
    "lat1k": ("flow -n 100 -m 100 -r 1000 -s", "QoS 0 pairs paced at 1,000 messages/s, latency"),
    "lat10k": ("flow -n 100 -m 100 -r 10000 -s", "QoS 0 pairs paced at 10,000 messages/s, latency"),
    "wild": ("flow -t wild -n 10 -m 100 -f 1000 -w 500", "100k filters with + and #, one match a message"),
    "retained": ("retained -c 100000 -w 20", "100k retained set (QoS 1), then drained by #"),
}

#: what `make bench` runs
SCENARIOS_DEFAULT = ("one", "pairs", "pairs1", "qos1")
