"""Counters and events that logs, `$SYS` and monitoring read. The core counts; nobody waits for a reader."""

from __future__ import annotations

import logging
from collections import Counter

__all__ = ["Counters", "logger"]

logger = logging.getLogger("trio_acebroker")


class Counters:
    """Totals since the start of a broker. Plain integers, written by the core only."""

    __slots__ = (
        "connections_accepted",
        "connections_refused",
        "denials",
        "dropped_expired",
        "dropped_out_queue",
        "dropped_queue_full",
        "dropped_rate",
        "dropped_too_large",
        "octets_received",
        "octets_sent",
        "packets_received",
        "packets_sent",
        "pauses",
        "publish_received",
        "publish_sent",
        "retained_refused",
        "shed",
        "takeovers",
    )

    def __init__(self) -> None:
        self.connections_accepted = 0
        self.connections_refused = 0
        self.octets_received = 0
        self.octets_sent = 0
        self.packets_received = 0
        self.packets_sent = 0
        self.publish_received = 0
        self.publish_sent = 0
        self.dropped_out_queue = 0
        self.dropped_queue_full = 0
        self.dropped_expired = 0
        self.dropped_too_large = 0
        self.dropped_rate = 0
        self.retained_refused = 0
        self.takeovers = 0
        #: times that publishers were not read, and clients that were cut, for the sum of all out-queues
        self.pauses = 0
        self.shed = 0
        #: rule -> how often it denied
        self.denials: Counter[str] = Counter()

    @property
    def publish_dropped(self) -> int:
        """Messages that reached no further, for whatever reason."""
        return (
            self.dropped_out_queue
            + self.dropped_queue_full
            + self.dropped_expired
            + self.dropped_too_large
            + self.dropped_rate
        )
