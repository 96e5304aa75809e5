"""The flow cache changes nothing: the same program, with it and without, gives every client the same.

Clients answer in turn, so that both runs see the same input in the same order. Compared are, connection by connection:

    of one that publishes nothing    every octet that it received
    of others                        every PUBLISH, in order for each (publisher, topic, QoS, subscription), and every
                                     other packet, in order for each type: how a client's own acknowledgements
                                     and the messages to it fall between each other is left open
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from acebroker_codec import packets
from acebroker_middleware.connection import Connection
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Message
from tests.simulation.client import Link
from tests.simulation.program import program_of, run

SEEDS = range(100, 116)
STEPS = 120


class Watching:
    """A plugin that lets everything pass; it wants to see each message of some topics, and counts all."""

    name = "watching"
    wants = frozenset({packets.PacketType.PUBLISH})

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.delivered: Counter[tuple[str, str]] = Counter()

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.INSPECT if flow.topic.startswith("a/") else Verdict.PASS

    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> int:
        self.seen[conn.client_identifier, flow.topic] += count
        return count

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        self.seen.update(
            (conn.client_identifier, packet.topic) for packet in batch if isinstance(packet, packets.Publish)
        )
        return batch

    def plan_deliver(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.INSPECT if flow.topic == "a/b" else Verdict.PASS

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        self.delivered.update((conn.client_identifier, message.topic) for message in batch)
        return batch


def received(link: Link) -> Any:
    """What is compared of a connection."""
    if not link.published:
        return bytes(link.octets)
    rows: dict[object, list[object]] = {}
    for packet, due in link.packets:
        if due is None:
            rows.setdefault(type(packet), []).append(packet)
            continue
        assert isinstance(packet, packets.Publish)
        group = "" if due.group is None else due.group.topic_filter
        row = (due.message.publisher, due.message.topic, packet.qos, due.lane[0] == "retained", group)
        properties = replace(packet.properties, topic_alias=None)
        rows.setdefault(row, []).append((packet.payload, packet.retain, packet.dup, properties))
    return rows


@pytest.mark.parametrize("plugin", [False, True], ids=["", "plugin"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_client_receives_the_same_with_the_flow_cache_and_without(seed: int, plugin: bool) -> None:
    program = program_of(seed, STEPS)
    watching = Watching(), Watching()
    with_cache, without = (
        run(program, flow_cache=flow_cache, in_turn=True, stages=[stage] if plugin else [])
        for flow_cache, stage in zip((True, False), watching, strict=True)
    )
    assert len(with_cache.history) == len(without.history)
    for link, other in zip(with_cache.history, without.history, strict=True):
        assert received(link) == received(other), f"--seed {seed} --steps {STEPS}: {link.client.name}"
    assert watching[0].seen == watching[1].seen
    assert watching[0].delivered == watching[1].delivered
    assert bool(watching[0].seen) == plugin
