"""Stage 5: match, retain, share, fan out (3.3.4, 3.8.4, 3.10.4, 4.8.2).

The router takes PUBLISH, SUBSCRIBE and UNSUBSCRIBE of connected clients, after the session stage has
seen to identifiers and exactly-once. It keeps the subscription tree, the retained messages and the
Routes; `publish` is the one way in for every message, `deliver.Deliver` the one way out.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable
from typing import Final

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import (
    NO_PUBLISH_PROPERTIES,
    PacketType,
    Publish,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from acebroker_codec.topics import SharedSubscription, has_wildcard
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.errors import SessionTakenOver
from acebroker_middleware.flows import LocalSubscriber, Route, Verdict
from acebroker_middleware.hand_offs import then
from acebroker_middleware.routes import Routes
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Delivery, Frames, Message, message_of
from acebroker_middleware.state.ports import Enqueue, Maybe, Store
from acebroker_middleware.state.retained import RetainedFull, RetainedMessages
from acebroker_middleware.state.session_state import SessionState
from acebroker_middleware.state.subscriptions import SharedGroup, Subscription, SubscriptionTree

__all__ = ["Router"]

#: how a retained message is announced to a new subscription (3.8.3.1)
_SEND_IF_NEW: Final = 1
_DO_NOT_SEND: Final = 2


class Router:
    """The last stage. `tree`, `retained` and `epoch` may be read by others; only this changes them."""

    name = "router"
    wants = frozenset({PacketType.PUBLISH, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE})

    def __init__(self, round_: Round, store: Store, retained: RetainedMessages, deliver: Deliver) -> None:
        self._round = round_
        self._limits = round_.limits
        self._counters = round_.counters
        self._store = store
        self.deliver = deliver
        self.tree: SubscriptionTree[SessionState] = SubscriptionTree()
        self.local: SubscriptionTree[LocalSubscriber] = SubscriptionTree()
        self.retained = retained
        self.routes = Routes(round_, self.tree, self.local, deliver)
        self.epoch = self.routes.epoch

    # ---- as a stage ----

    def plan(self, conn: Connection, flow: object) -> Verdict:
        """Nothing against any flow: rights are `authz`, and where it goes is the Route."""
        return Verdict.PASS

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Take what is left; only an error can go on."""
        waiting: list[tuple[Publish, Awaitable[int]]] = []
        for packet in batch:
            kind = type(packet)
            if kind is Publish:
                assert isinstance(packet, Publish)
                matched = self._received(conn, packet)
                if matched is None:
                    continue
                if isinstance(matched, int):
                    if packet.qos:
                        self._acknowledge(conn, packet, matched)
                else:
                    waiting.append((packet, matched))
            elif kind is Subscribe:
                self._subscribe(conn, packet)  # type: ignore[arg-type]
            elif kind is Unsubscribe:
                self._unsubscribe(conn, packet)  # type: ignore[arg-type]
        rest: Batch = [batch[-1]] if isinstance(batch[-1], MqttError) else []
        return self._durable(conn, waiting, rest)

    def _durable(self, conn: Connection, waiting: list[tuple[Publish, Awaitable[int]]], rest: Batch) -> Maybe[Batch]:
        """Acknowledge, one after the other, what had to become durable first."""
        if not waiting:
            return rest
        packet, pending = waiting.pop(0)

        def stored(matched: int) -> Maybe[Batch]:
            if packet.qos:
                self._acknowledge(conn, packet, matched)
            return self._durable(conn, waiting, rest)

        return then(pending, stored)

    @staticmethod
    def _acknowledge(conn: Connection, packet: Publish, matched: int) -> None:
        reason_code = 0 if matched else ReasonCode.NO_MATCHING_SUBSCRIBERS
        if packet.qos == 1:
            conn.ack_queue.puback.fill(packet.packet_identifier, reason_code)
        else:
            conn.ack_queue.pubcomp.fill(packet.packet_identifier)

    def _received(self, conn: Connection, packet: Publish) -> Maybe[int] | None:
        self._counters.publish_received += 1
        now = self._round.clock.now
        since = now
        if packet.qos == 2 and packet.properties is not NO_PUBLISH_PROPERTIES and conn.session is not None:
            since = conn.session.inbound_since.pop(packet.packet_identifier, now)  # it waited here for PUBREL
        message = message_of(packet, conn.client_identifier, since)
        if message.expires_at is not None and message.expires_at < now:
            self._counters.dropped_expired += 1  # [MQTT-3.3.2-5]
            return 0
        if packet.retain:
            try:
                kept = self.keep(message)
            except RetainedFull as error:
                self._counters.retained_refused += 1
                conn.refuse(packet, error.reason_code, "limit: retained messages")
                return None
            matched = self.publish(message)
            return then(kept, lambda _: matched) if inspect.isawaitable(kept) else matched
        return self.publish(message)

    # ---- messages ----

    def keep(self, message: Message) -> Maybe[None]:
        """Retain a message of RETAIN 1, here and in the store, or forget its topic where the payload is empty.

        Raises RetainedFull. An awaitable tells when it is durable.
        """
        if message.payload:
            self.retained.put(message)
            return self._store.retain((message,), ())
        if self.retained.remove(message.topic):  # [MQTT-3.3.1-6], [MQTT-3.3.1-7]
            return self._store.retain((), (message.topic,))
        return None

    def publish(self, message: Message) -> Maybe[int]:
        """Fan a message out; gives how many subscribers were found, once it is durable where it has to be."""
        route = self.routes.get(message.topic)
        frames = Frames(message, self._round.clock.now)
        if not route.durable:
            return self.fan_out(route, message, frames)
        durable: list[tuple[SessionState, Delivery]] = []
        matched = self.fan_out(route, message, frames, durable)
        return self._publish_durably(durable, frames, matched) if durable else matched

    def fan_out(
        self,
        route: Route,
        message: Message,
        frames: Frames,
        durable: list[tuple[SessionState, Delivery]] | None = None,
    ) -> int:
        """Offer a message to everybody on its route; what has to be stored first is added to `durable` instead."""
        deliver = self.deliver
        matched = 0
        shared: Delivery | None = None
        for target in route.targets:
            state = target.session
            if target.no_local and state.client_identifier == message.publisher:
                if target.own is None:
                    continue  # [MQTT-3.8.3-3]
                target = target.own
            matched += 1
            qos = message.qos if message.qos < target.qos else target.qos
            retain = message.retain and target.retain_as_published
            if qos == 0:
                conn = state.connection
                if conn is not None:
                    deliver.qos_0(conn, frames, retain, target.identifiers, target.inspect)
                continue
            if shared is None or shared.qos != qos or shared.retain != retain or target.identifiers:
                delivery = Delivery(message, qos, retain, target.identifiers)
                if not target.identifiers:
                    shared = delivery
            else:
                delivery = shared
            if durable is not None and state.durable:
                durable.append((state, delivery))
            else:
                deliver.offer(state, delivery, frames, checked=not target.inspect)
        for group in route.groups:
            matched += 1
            self._share(group, message, frames)
        for subscriber in route.local:
            matched += 1
            subscriber.take(message)
        return matched

    def _share(self, group: SharedGroup[SessionState], message: Message, frames: Frames) -> None:
        deliver = self.deliver
        member = deliver.choose(group, message.topic)
        if member is None:
            if message.qos:
                deliver.queue_for_group(group, message)
            return
        subscription = group.members[member]
        qos = min(message.qos, subscription.qos)
        retain = message.retain and subscription.retain_as_published
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        if qos == 0:
            assert member.connection is not None
            deliver.qos_0(member.connection, frames, retain, identifiers, inspect=True)
        else:
            deliver.offer(member, Delivery(message, qos, retain, identifiers, group), frames, checked=False)

    def _publish_durably(
        self, durable: list[tuple[SessionState, Delivery]], frames: Frames, matched: int
    ) -> Maybe[int]:
        rows = [Enqueue(state.client_identifier, delivery) for state, delivery in durable]
        sequences = self._store.enqueue(rows)
        if inspect.isawaitable(sequences):
            return then(sequences, lambda later: self._offer_stored(later, durable, frames, matched))
        return self._offer_stored(sequences, durable, frames, matched)

    def _offer_stored(
        self, sequences: list[int], durable: list[tuple[SessionState, Delivery]], frames: Frames, matched: int
    ) -> int:
        for (state, delivery), sequence in zip(durable, sequences, strict=True):
            stored = Delivery(
                delivery.message, delivery.qos, delivery.retain, delivery.subscription_identifiers, None, sequence
            )
            self.deliver.offer(state, stored, frames, checked=False)
        return matched

    # ---- routes ----

    def route(self, topic: str) -> Route:
        """The Route of a Topic Name."""
        return self.routes.get(topic)

    def invalidate(self, topic_filter: str) -> None:
        """A subscription to this filter (without `$share`) came, went or changed its connection."""
        self.routes.invalidate(topic_filter)

    def invalidate_session(self, state: SessionState) -> None:
        """A session was attached, detached or lost rights: every Route that names it is stale."""
        for subscription in state.subscriptions.values():
            self.invalidate(subscription.filter)

    # ---- subscriptions ----

    def subscribe_locally(self, subscriber: LocalSubscriber, topic_filter: str) -> None:
        """Add an in-process subscriber; give it the retained messages that match, then all that come."""
        self.local.add(subscriber, Subscription(topic_filter))
        self.invalidate(topic_filter)
        for message in self.retained.match(topic_filter, self._round.clock.now):
            subscriber.take(message)

    def unsubscribe_locally(self, subscriber: LocalSubscriber, topic_filter: str) -> None:
        """Remove an in-process subscriber."""
        self.local.remove(subscriber, topic_filter)
        self.invalidate(topic_filter)

    def _subscribe(self, conn: Connection, packet: Subscribe) -> None:
        state = conn.session
        if state is None:
            raise SessionTakenOver("the session was taken over")
        refusals = conn.subscribe_refusals.pop(packet.packet_identifier, {})
        identifier = packet.properties.subscription_identifier or 0
        codes: list[int] = []
        retained: list[Subscription] = []
        added: list[Subscription] = []
        for index, request in enumerate(packet.filters):
            code = refusals.get(index)
            if code is None:
                code = self._subscribe_one(state, request, identifier, retained, added)
            codes.append(code if code < 0x80 or conn.v5 else 0x80)
        if state.durable and added:
            self._store.subscribe(state.client_identifier, state.epoch, added, ())
        conn.send(Suback(packet.packet_identifier, tuple(codes)))
        for subscription in retained:
            self._send_retained(state, subscription)
        if state.groups or retained:
            self.deliver.pump(state)

    def _subscribe_one(
        self,
        state: SessionState,
        request: SubscriptionRequest,
        identifier: int,
        retained: list[Subscription],
        added: list[Subscription],
    ) -> int:
        limits = self._limits
        if (
            request.filter not in state.subscriptions
            and len(state.subscriptions) >= limits.subscriptions_per_client_max
        ):
            self._counters.denials["limit: subscriptions per client"] += 1
            return ReasonCode.QUOTA_EXCEEDED
        octets = len(request.filter.encode())
        if octets > limits.topic_bytes_max or request.filter.count("/") >= limits.topic_levels_max:
            self._counters.denials["limit: topic filter"] += 1
            return ReasonCode.TOPIC_FILTER_INVALID
        shared = SharedSubscription.parse(request.filter)
        subscription = Subscription(
            request.filter if shared is None else shared.topic_filter,
            request.qos,
            request.no_local,
            request.retain_as_published,
            request.retain_handling,
            identifier,
            "" if shared is None else shared.share_name,
        )
        new = self.tree.add(state, subscription)
        state.subscriptions[request.filter] = subscription
        added.append(subscription)
        self.invalidate(subscription.filter)
        if shared is not None:
            group = self.tree.group(request.filter)
            assert group is not None
            state.groups[request.filter] = group
        elif request.retain_handling != _DO_NOT_SEND and (new or request.retain_handling != _SEND_IF_NEW):
            retained.append(subscription)  # [MQTT-3.3.1-9 .. -11]; never for a shared one
        return request.qos

    def _send_retained(self, state: SessionState, subscription: Subscription) -> None:
        """Begin to send what is retained, behind what earlier subscriptions have to get, to the same filter too."""
        topic_filter = subscription.filter
        if not len(self.retained) or not (has_wildcard(topic_filter) or self.retained.get(topic_filter)):
            return
        waiting = state.retained_waiting
        if waiting is None:
            waiting = state.retained_waiting = deque()
        if len(waiting) >= self._limits.subscriptions_per_client_max:
            self._counters.dropped_queue_full += 1
            return
        waiting.append(self.retained.replay(subscription))

    def _unsubscribe(self, conn: Connection, packet: Unsubscribe) -> None:
        state = conn.session
        if state is None:
            raise SessionTakenOver("the session was taken over")
        codes = tuple(self._unsubscribe_one(state, topic_filter) for topic_filter in packet.filters)
        if state.durable:
            self._store.subscribe(state.client_identifier, state.epoch, (), packet.filters)
        conn.send(Unsuback(packet.packet_identifier, codes if conn.v5 else ()))

    def _unsubscribe_one(self, state: SessionState, topic_filter: str) -> int:
        subscription = state.subscriptions.pop(topic_filter, None)
        if subscription is None:
            return ReasonCode.NO_SUBSCRIPTION_EXISTED
        self.tree.remove(state, topic_filter)
        state.groups.pop(topic_filter, None)
        self.invalidate(subscription.filter)
        return ReasonCode.SUCCESS

    def restore(self, state: SessionState, subscriptions: tuple[Subscription, ...]) -> None:
        """Put the subscriptions of a session that comes from the store into the tree."""
        for subscription in subscriptions:
            self.tree.add(state, subscription)
            state.subscriptions[subscription.topic_filter] = subscription
            self.invalidate(subscription.filter)
            group = self.tree.group(subscription.topic_filter) if subscription.share_name else None
            if group is not None:
                state.groups[subscription.topic_filter] = group

    def forget(self, state: SessionState) -> None:
        """A session ended: its subscriptions go, and what it held for groups goes back to them."""
        for topic_filter, subscription in state.subscriptions.items():
            self.tree.remove(state, topic_filter)
            self.invalidate(subscription.filter)
        state.subscriptions.clear()
        state.groups.clear()
        self.deliver.give_back(state)
