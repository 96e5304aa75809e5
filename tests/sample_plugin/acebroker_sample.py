"""Stamp: a plugin that appends a text to what is published."""

from __future__ import annotations

import msgspec

from trio_acebroker import Batch, Connection, PacketType, Publish

__all__ = ["Stamp"]


class Stamp:
    """Appends `text` to each payload, in UTF-8."""

    name = "stamp"
    wants = frozenset({PacketType.PUBLISH})

    def __init__(self, *, text: str) -> None:
        self._octets = text.encode()

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        """The batch with stamped messages."""
        return [
            msgspec.structs.replace(packet, payload=packet.payload + self._octets)
            if isinstance(packet, Publish)
            else packet
            for packet in batch
        ]
