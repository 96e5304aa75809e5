"""RateLimiter: a plugin that bounds how much each connection may publish, in messages and octets per second.

    [[stage]]
    use = "rate-limit"
    options = { messages_per_second = 100, burst_messages = 500, octets_per_second = 65536 }

One token bucket a connection: it holds at most the burst, fills at the rate, and a PUBLISH takes one
message and its octets out of it. A message passes while a whole message and at least one octet are left; the
last one may overdraw the octets, so that a message larger than the burst passes in the end. Over the
rate QoS 0 is dropped and counted (`dropped_rate`); QoS 1 and 2 are refused with 0x97 on MQTT 5 and as
`Connection.refuse` says on MQTT 3. What was received before (a QoS 2 PUBLISH sent again, 4.4) passes.

Messages of cached flows are counted in runs, without becoming packets (`on_run`). The octets of a
message are those of its Topic Name and payload and a few for the header; of a run, those of its frames.

Not here: fairness between connections, limits on what a client receives, on its connections, or on its Will.
The stage stands before `session`, which takes QoS 2 messages over.
"""

from __future__ import annotations

import math
from typing import Final

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import PacketType, Publish
from acebroker_middleware.connection import Connection
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch

__all__ = ["RateLimiter", "TokenBucket"]

#: fixed header and the length of the Topic Name
_HEADER_OCTETS: Final = 4
#: a token that misses this much to be whole, by the rounding of sums, is whole
_ROUNDING: Final = 1e-6


class TokenBucket:
    """What one client may still publish at `updated`, in messages and in octets (below 0: overdrawn)."""

    __slots__ = ("messages", "octets", "updated")

    def __init__(self, messages: float, octets: float, now: float) -> None:
        self.messages = messages
        self.octets = octets
        self.updated = now


class RateLimiter:
    """A FlowStage. Rates are per second and connection; None leaves messages or octets unbounded.

    `burst_messages` and `burst_octets` default to what comes in one second, and to one message at
    least. Raises `ValueError` for a rate or a burst that is not positive, a burst without its rate, or neither rate.
    """

    name = "rate-limit"
    wants = frozenset({PacketType.PUBLISH})

    def __init__(
        self,
        *,
        messages_per_second: float | None = None,
        octets_per_second: float | None = None,
        burst_messages: float | None = None,
        burst_octets: float | None = None,
    ) -> None:
        if messages_per_second is None and octets_per_second is None:
            raise ValueError("neither messages_per_second nor octets_per_second is given")
        self._message_rate, self._message_burst = _bound("messages", messages_per_second, burst_messages)
        self._octet_rate, self._octet_burst = _bound("octets", octets_per_second, burst_octets)

    def __repr__(self) -> str:
        return (
            f"RateLimiter(messages_per_second={self._message_rate:g}, burst_messages={self._message_burst:g}, "
            f"octets_per_second={self._octet_rate:g}, burst_octets={self._octet_burst:g})"
        )

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        """Nothing against any topic: runs are counted by `on_run`."""
        return Verdict.PASS

    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> int:
        """How many of `count` cached frames of QoS 0, with `octets` in all, may pass; counts the others as dropped."""
        passed = self._take(conn, count, octets)
        conn.round.counters.dropped_rate += count - passed
        return passed

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        """Pass what the bucket allows, drop QoS 0 beyond it, refuse QoS 1 and 2 beyond it."""
        out: Batch = []
        for packet in batch:
            if not isinstance(packet, Publish):
                out.append(packet)
                continue
            octets = _HEADER_OCTETS + len(packet.topic.encode()) + len(packet.payload)
            if conn.received_before(packet) or self._take(conn, 1, octets):
                out.append(packet)
            elif packet.qos == 0:
                conn.round.counters.dropped_rate += 1
            else:
                try:
                    conn.refuse(packet, ReasonCode.QUOTA_EXCEEDED, self.name)
                except MqttError as error:
                    out.append(error)
                    return out
        return out

    def _take(self, conn: Connection, count: int, octets: int) -> int:
        """Take up to `count` messages of equal size, `octets` in all, out of the bucket; gives how many."""
        now = conn.round.clock.now
        bucket: TokenBucket | None = conn.attributes.get(self.name)
        if bucket is None:
            bucket = conn.attributes[self.name] = TokenBucket(self._message_burst, self._octet_burst, now)
        elif bucket.updated != now:
            elapsed = now - bucket.updated
            bucket.messages = min(self._message_burst, bucket.messages + elapsed * self._message_rate)
            bucket.octets = min(self._octet_burst, bucket.octets + elapsed * self._octet_rate)
            bucket.updated = now
        each = octets / count
        passed = count
        if bucket.messages < passed:
            passed = math.floor(bucket.messages + _ROUNDING)
        if bucket.octets < passed * each:
            passed = max(0, math.ceil(bucket.octets / each - _ROUNDING))
        bucket.messages -= passed
        bucket.octets -= passed * each
        return passed


def _bound(what: str, rate: float | None, burst: float | None) -> tuple[float, float]:
    """(rate, burst), both without end where there is no rate."""
    if rate is None:
        if burst is not None:
            raise ValueError(f"burst_{what} without {what}_per_second")
        return math.inf, math.inf
    if burst is None:
        burst = max(rate, 1.0)
    if not 0 < rate < math.inf or not 1 <= burst < math.inf:
        raise ValueError(f"{what}_per_second must be above 0, burst_{what} at least 1")
    return rate, burst
