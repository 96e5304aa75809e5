"""`python -m tests.bench.growth`: what subscriptions cost as they grow in number, and while they come and go.

Two tables, measured inside this process and without a broker, so that nothing but our own data structures is in them:

    growth   the tree with 1,000 to 1,000,000 filters: time to add and remove one, resident octets of one, time to match
             a topic that one filter of each kind selects, or none
    churn    publishing to topics that are known, while other clients subscribe and unsubscribe between the messages

Times are CPU time of this thread in microseconds, the least of the repetitions.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from acebroker_codec.encoder import encode
from acebroker_codec.packets import Publish, Subscribe, SubscriptionRequest, Unsubscribe
from acebroker_middleware.state.subscriptions import Subscription, SubscriptionTree
from tests.bench.processes import sample
from tests.middleware.assembly import Assembly

__all__ = ["CHURNS", "KINDS", "churn", "grow", "main"]

#: kind of filter -> the filter of a number, and a topic that it selects and no other one does
KINDS: Final[dict[str, tuple[Callable[[int], str], Callable[[int], str]]]] = {
    "exact": (lambda i: f"device/{i}/state", lambda i: f"device/{i}/state"),
    "a/+/b": (lambda i: f"device/{i}/+/value", lambda i: f"device/{i}/x/value"),
    "a/#": (lambda i: f"site/{i % 997}/device/{i}/#", lambda i: f"site/{i % 997}/device/{i}/a/b"),
    "+/a": (lambda i: f"+/{i}/alarm", lambda i: f"x/{i}/alarm"),
}
#: filters of one subscriber
_FILTERS_EACH: Final = 100
_MATCHES: Final = 4_000
_REPETITIONS: Final = 5

#: what comes and goes -> the filter of a turn, None for nothing
CHURNS: Final[dict[str, Callable[[int], str] | None]] = {
    "nothing": None,
    "exact, elsewhere": lambda turn: f"elsewhere/{turn}",
    "own/N/#": lambda turn: f"own/{turn}/#",
    "device/N/#, one known topic": lambda turn: f"device/{turn % 2_000}/#",
    "device/+/N, too much to walk": lambda turn: f"device/+/{turn}",
}


def _cpu(run: Callable[[], object], operations: int, repetitions: int = _REPETITIONS) -> float:
    """Microseconds of an operation."""
    least = float("inf")
    for _ in range(repetitions):
        begun = time.thread_time()
        run()
        least = min(least, time.thread_time() - begun)
    return least / operations * 1e6


def grow(number: int, seed: int = 1) -> dict[str, float]:
    """Add, match and remove `number` filters of all kinds in turn; gives column -> figure."""
    kinds = list(KINDS.values())
    filters = [kinds[i % len(kinds)][0](i) for i in range(number)]
    subscribers = [object() for _ in range(number // _FILTERS_EACH + 1)]
    tree: SubscriptionTree[object] = SubscriptionTree()
    before = sample(os.getpid()).resident_bytes

    def add() -> None:
        for i, topic_filter in enumerate(filters):
            tree.add(subscribers[i // _FILTERS_EACH], Subscription(topic_filter))

    def remove() -> None:
        for i, topic_filter in enumerate(filters):
            tree.remove(subscribers[i // _FILTERS_EACH], topic_filter)

    figures = {"add": _cpu(add, number, 1), "octets": (sample(os.getpid()).resident_bytes - before) / number}
    source = random.Random(seed)
    for index, (kind, (_, topic_of)) in enumerate(KINDS.items()):
        numbers = [source.randrange(number // len(kinds)) * len(kinds) + index for _ in range(_MATCHES)]
        topics = [topic_of(i) for i in numbers]
        if [len(tree.match(topic)[0]) for topic in topics] != [1] * _MATCHES:
            raise RuntimeError(f"a topic of {kind} is not selected by its filter alone")
        figures[kind] = _cpu(lambda topics=topics: [tree.match(topic) for topic in topics], _MATCHES)  # type: ignore[misc]
    nothing = [f"nothing/{i}/x" for i in range(_MATCHES)]
    figures["none"] = _cpu(lambda: [tree.match(topic) for topic in nothing], _MATCHES)
    figures["remove"] = _cpu(remove, number, 1)
    if tree.node_count or tree.filter_count or len(tree):
        raise RuntimeError("something is left of what was removed")
    return figures


def churn(topic_filter: Callable[[int], str] | None, topics: int, messages_a_turn: int, turns: int = 200) -> float:
    """CPU of a published message of QoS 0, in microseconds, of `topics` known ones to a subscriber each.

    Between `messages_a_turn` messages another client subscribes to a filter, and drops the one of the turn before;
    what that takes by itself is not counted, what it does to publishing is.
    """
    assembly = Assembly()
    reader, writer, other = (assembly.client(name) for name in ("reader", "writer", "other"))
    names = [f"device/{i}/state" for i in range(topics)]
    for start in range(0, topics, 50):
        reader.send(Subscribe(1, tuple(SubscriptionRequest(name) for name in names[start : start + 50])))
    frames = [encode(Publish(name, b"x" * 64), writer.version) for name in names]
    bursts = [
        b"".join(frames[(turn * messages_a_turn + i) % topics] for i in range(messages_a_turn)) for turn in range(turns)
    ]
    writer.feed(b"".join(frames))
    reader.got()
    spent = 0.0
    for turn, burst in enumerate(bursts):
        if topic_filter is not None:
            other.send(Subscribe(1, (SubscriptionRequest(topic_filter(turn)),)))
            if turn:
                other.send(Unsubscribe(2, (topic_filter(turn - 1),)))
            other.got()
        begun = time.thread_time()
        writer.feed(burst)
        spent += time.thread_time() - begun
        for conn in (reader.conn, other.conn):
            conn.out.clear()
            conn.out_octets = 0
    return spent / turns / messages_a_turn * 1e6


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("-n", "--filters", default="1000,10000,100000,1000000", help="sizes of the tree")
    parser.add_argument("-t", "--topics", type=int, default=2_000, help="known topics of `churn`")
    parser.add_argument("-m", "--messages", default="1000,100,10", help="messages between two subscriptions")
    arguments = parser.parse_args()
    columns = ["add", "remove", "octets", *KINDS, "none"]
    print(_row(["filters", *columns]))
    print(_row(["---:"] * (len(columns) + 1)))
    for number in (int(text) for text in arguments.filters.split(",")):
        figures = grow(number)
        print(_row([f"{number:,}", *(f"{figures[c]:.0f}" if c == "octets" else f"{figures[c]:.2f}" for c in columns)]))
    between = [int(text) for text in arguments.messages.split(",")]
    print()
    print(_row(["comes and goes", *(f"every {number} messages" for number in between)]))
    print(_row(["---", *["---:"] * len(between)]))
    for name, topic_filter in CHURNS.items():
        costs = (min(churn(topic_filter, arguments.topics, number) for _ in range(_REPETITIONS)) for number in between)
        print(_row([name, *(f"{cost:.2f}" for cost in costs)]), flush=True)


if __name__ == "__main__":
    main()
