"""PayloadValidator: a plugin that refuses payloads which are not what their topic promises.

    [[stage]]
    use = "payload-validator"
    options = { rules = { "sensors/#" = "json", "names/+" = "utf-8", "small/#" = 1024 } }

A rule is a Topic Filter and `"utf-8"`, `"json"` (RFC 8259, in UTF-8) or the most octets a payload may
have; a message must satisfy every rule whose filter matches its topic. Whatever the topic, a payload
that MQTT 5's Payload Format Indicator declares to be text must be UTF-8 (3.3.2.3.2). A Will is held to
the same at CONNECT, as nobody sees it again before it is published.

Refused with 0x99 Payload format invalid, or 0x97 Quota exceeded where it is too long, in the way of
`Connection.refuse`; a Will ends the connection. An empty payload with RETAIN passes any format: it deletes a
retained message. What was received before (a QoS 2 PUBLISH sent again, 4.4) passes.

Topics without a rule stay on the cached path; those with one are seen packet by packet.

Not here: schemas, content types, and what the broker itself publishes. The stage stands before `session`, which
answers CONNECT and takes QoS 2 messages over.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Connect, Packet, PacketType, Publish
from acebroker_codec.topics import SharedSubscription, check_topic_filter
from acebroker_middleware.connection import Connection
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.subscriptions import Subscription, SubscriptionTree

__all__ = ["PayloadValidator"]


class PayloadValidator:
    """A FlowStage. `rules`: Topic Filter -> `"utf-8"`, `"json"` or a number of octets.

    Raises `ValueError` for a filter or a rule that is none.
    """

    name = "payload-validator"
    wants = frozenset({PacketType.CONNECT, PacketType.PUBLISH})

    def __init__(self, rules: Mapping[str, str | int]) -> None:
        self._rules: SubscriptionTree[str | int] = SubscriptionTree()
        for topic_filter, rule in rules.items():
            try:
                check_topic_filter(topic_filter)
                shared = SharedSubscription.parse(topic_filter)
            except MqttError as error:
                raise ValueError(f"{topic_filter!r} is no Topic Filter: {error.detail}") from None
            if shared is not None:
                raise ValueError(f"{topic_filter!r} is a Shared Subscription, not a Topic Filter")
            if not _is_rule(rule):
                raise ValueError(f"the rule of {topic_filter!r} must be 'utf-8', 'json' or a number of octets")
            self._rules.add(rule, Subscription(topic_filter))

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        """Packets of topics with a rule are inspected; those of others without properties have nothing to check."""
        return Verdict.INSPECT if self._rules.match(flow.topic)[0] else Verdict.PASS

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        """Pass what is as it should be, refuse a PUBLISH that is not, end a connection whose Will is not."""
        out: Batch = []
        for packet in batch:
            if isinstance(packet, MqttError) or (broken := self._examine(conn, packet)) is None:
                out.append(packet)
                continue
            reason_code, rule = broken
            try:
                conn.refuse(packet, reason_code, f"{self.name}: {rule}")
            except MqttError as error:
                out.append(error)
                return out
        return out

    def _examine(self, conn: Connection, packet: Packet) -> tuple[ReasonCode, str] | None:
        if isinstance(packet, Publish) and not conn.received_before(packet):
            indicator = packet.properties.payload_format_indicator
            return self._broken(packet.topic, packet.payload, indicator, packet.retain)
        if isinstance(packet, Connect) and packet.will is not None:
            will = packet.will
            return self._broken(will.topic, will.payload, will.properties.payload_format_indicator, will.retain)
        return None

    def _broken(
        self, topic: str, payload: bytes, format_indicator: int | None, retain: bool
    ) -> tuple[ReasonCode, str] | None:
        """The reason code and the words for the rule that a payload breaks, or None."""
        if format_indicator == 1 and not _is_utf_8(payload):
            return ReasonCode.PAYLOAD_FORMAT_INVALID, "declared as UTF-8, and is not"
        deletes = retain and not payload
        for rule, subscription in self._rules.match(topic)[0]:
            where = f"{subscription.filter} takes"
            if isinstance(rule, int):
                if len(payload) > rule:
                    return ReasonCode.QUOTA_EXCEEDED, f"{where} {rule} octets"
            elif not deletes and not (_is_utf_8(payload) if rule == "utf-8" else _is_json(payload)):
                return ReasonCode.PAYLOAD_FORMAT_INVALID, f"{where} {rule}"
        return None


def _is_rule(rule: object) -> bool:
    return rule in ("utf-8", "json") or (isinstance(rule, int) and not isinstance(rule, bool) and rule >= 0)


def _is_utf_8(payload: bytes) -> bool:
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_json(payload: bytes) -> bool:
    if not _is_utf_8(payload):
        return False
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)  # checks all of it, and builds nothing
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
