"""What plugin authors write, as their type checker sees it: all of this is right."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import assert_type

import trio

from trio_acebroker import (
    Batch,
    CloseReason,
    Connection,
    DeliverStage,
    FlowKey,
    FlowStage,
    Lifecycle,
    Message,
    PacketType,
    Publish,
    Stage,
    Verdict,
    per_packet,
)


class Quiet:
    """The least that a stage is."""

    name = "quiet"
    wants = frozenset({PacketType.PUBLISH})

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        return batch


class Full:
    """All that a stage can be."""

    name = "full"
    wants = frozenset({PacketType.PUBLISH, PacketType.SUBSCRIBE})

    def on_batch(self, conn: Connection, batch: Batch) -> Batch | Awaitable[Batch]:
        return self.later(batch) if conn.client_identifier else batch

    async def later(self, batch: Batch) -> Batch:
        await trio.lowlevel.checkpoint()
        return batch

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.PASS

    def on_deliver(self, conn: Connection, batch: list[Message]) -> list[Message]:
        return [message for message in batch if message.payload]

    async def opened(self, conn: Connection, nursery: trio.Nursery) -> None:
        nursery.start_soon(trio.sleep_forever)

    async def closed(self, conn: Connection, reason: CloseReason) -> None:
        assert_type(reason, CloseReason)


@per_packet(PacketType.PUBLISH)
async def stamp(conn: Connection, packet: Publish) -> Publish | None:
    return packet if packet.topic else None


plain: Stage = Quiet()
flowing: FlowStage = Full()
delivering: DeliverStage = Full()
living: Lifecycle = Full()
single: Stage = stamp
