"""Stage 5: match, retain, share, fan out (3.3.4, 3.8.4, 3.10.4, 4.8.2).

The router takes PUBLISH, SUBSCRIBE and UNSUBSCRIBE of connected clients, after the session stage has
seen to identifiers and exactly-once. It keeps the subscription tree, the retained messages and the
Routes; `publish` is the one way in for every message, `deliver.Deliver` the one way out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Set
from functools import partial
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
from acebroker_codec.topics import SharedSubscription
from acebroker_middleware.commits import Commit, Commits, acknowledge
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.errors import SessionTakenOver
from acebroker_middleware.flows import LocalSubscriber, Route, Verdict
from acebroker_middleware.hand_offs import then
from acebroker_middleware.routes import Routes
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Delivery, Frames, Message, message_of
from acebroker_middleware.state.ports import Maybe, Store
from acebroker_middleware.state.retained import RetainedMessages
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
        self._commits = Commits(round_, store, self)

    # ---- as a stage ----

    def plan(self, conn: Connection, flow: object) -> Verdict:
        """Nothing against any flow: rights are `authz`, and where it goes is the Route."""
        return Verdict.PASS

    def on_batch(self, conn: Connection, batch: Batch) -> Maybe[Batch]:
        """Take what is left; only an error can go on."""
        return self._go_on(conn, batch, 0)

    def _go_on(self, conn: Connection, batch: Batch, first: int) -> Maybe[Batch]:
        """Take the packets from the one with index `first`, in order: what the store has to have first, waits for it.

        Publications in a row that need the store are committed together.
        """
        commit: Commit | None = None
        rest: Batch = [batch[-1]] if isinstance(batch[-1], MqttError) else []
        for index in range(first, len(batch)):
            packet = batch[index]
            kind = type(packet)
            if kind is Publish:
                route = self.routes.get(packet.topic)  # type: ignore[union-attr]
                if self._commits.needed(conn, packet, route):  # type: ignore[arg-type]
                    if commit is not None and not self._commits.has_room(commit, packet):  # type: ignore[arg-type]
                        pending = self._commits.make(commit)
                        commit = None
                        if pending is not None:
                            return then(pending, partial(self._after, conn, batch, index))
                    if commit is None:
                        commit = Commit(conn)
                    try:
                        self._commits.join(commit, packet, self._message_of(conn, packet), route)  # type: ignore[arg-type]
                    except MqttError as error:
                        rest = [error]
                        break
                    continue
            if commit is not None:
                pending = self._commits.make(commit)
                commit = None
                if pending is not None:
                    return then(pending, partial(self._after, conn, batch, index))
            waiting: Awaitable[object] | None = None
            if kind is Publish:
                self._forward(conn, packet, route)  # type: ignore[arg-type]
            elif kind is Subscribe:
                waiting = self._subscribe(conn, packet)  # type: ignore[arg-type]
            elif kind is Unsubscribe:
                waiting = self._unsubscribe(conn, packet)  # type: ignore[arg-type]
            if waiting is not None:
                return then(waiting, partial(self._after, conn, batch, index + 1))
        pending = None if commit is None else self._commits.make(commit)
        return rest if pending is None else then(pending, lambda _: rest)

    def _after(self, conn: Connection, batch: Batch, first: int, done: object) -> Maybe[Batch]:
        if conn.session is None:  # what it released belongs to the next connection
            raise SessionTakenOver("the session was taken over")
        return self._go_on(conn, batch, first)

    def _message_of(self, conn: Connection, packet: Publish) -> Message | None:
        """The message of a PUBLISH; None when it expired here, waiting for its PUBREL."""
        self._counters.publish_received += 1
        now = self._round.clock.now
        since = now
        if packet.qos == 2 and packet.properties is not NO_PUBLISH_PROPERTIES and conn.session is not None:
            since = conn.session.inbound_since.pop(packet.packet_identifier, now)
        message = message_of(packet, conn.client_identifier, since)
        if message.expires_at is not None and message.expires_at < now:
            self._counters.dropped_expired += 1  # [MQTT-3.3.2-5]
            return None
        return message

    def _forward(self, conn: Connection, packet: Publish, route: Route) -> None:
        """A PUBLISH that leaves nothing in the store."""
        message = self._message_of(conn, packet)
        matched = 0
        if message is not None:
            matched = self.fan_out(route, message, Frames(message, self._round.clock.now))
        if packet.qos:
            acknowledge(conn, conn.session, packet, matched)

    # ---- messages ----

    def publish(self, message: Message, *, retain: bool = False) -> Maybe[int]:
        """Fan a message out, and `retain` it; gives how many subscribers were found, once it is durable.

        Raises RetainedFull. An awaitable may be dropped: the message goes its way.
        """
        route = self.routes.get(message.topic)
        if retain or (message.qos and route.durable):
            return self._commits.publish(message, route, retain=retain)
        return self.fan_out(route, message, Frames(message, self._round.clock.now))

    def fan_out(self, route: Route, message: Message, frames: Frames, had: Set[SessionState] | None = None) -> int:
        """Offer a message to everybody on its route; gives how many they are.

        With `had`, who has it already, none of those and no other durable session: it came after the message.
        """
        deliver = self.deliver
        matched = 0
        shared: Delivery | None = None
        for target in route.targets:
            state = target.session
            if target.no_local and state.client_identifier == message.publisher:
                if target.own is None:
                    continue  # [MQTT-3.8.3-3]
                target = target.own
            qos = message.qos if message.qos < target.qos else target.qos
            if had is not None and (state in had or (qos and state.durable)):
                continue
            matched += 1
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
        for message in self.retained.match(topic_filter, self._round.clock.now, self._round.clock.wall):
            subscriber.take(message)

    def unsubscribe_locally(self, subscriber: LocalSubscriber, topic_filter: str) -> None:
        """Remove an in-process subscriber."""
        self.local.remove(subscriber, topic_filter)
        self.invalidate(topic_filter)

    def _subscribe(self, conn: Connection, packet: Subscribe) -> Awaitable[object] | None:
        state = conn.session
        if state is None:
            raise SessionTakenOver("the session was taken over")
        # those of the whole batch: a second SUBSCRIBE may have the identifier of the first
        refusals = conn.subscribe_refusals.get(packet.packet_identifier, {})
        identifier = packet.properties.subscription_identifier or 0
        codes: list[int] = []
        retained: list[Subscription] = []
        added: list[Subscription] = []
        for index, request in enumerate(packet.filters):
            code = refusals.get(index)
            if code is None:
                code = self._subscribe_one(state, request, identifier, retained, added)
            codes.append(code if code < 0x80 or conn.v5 else 0x80)
        pending = None
        if state.durable and added:
            pending = self._store.subscribe(state.client_identifier, state.epoch, added, ())
        suback = Suback(packet.packet_identifier, tuple(codes))
        if pending is not None:
            return then(pending, lambda _: self._subscribed(conn, state, suback, retained))
        self._subscribed(conn, state, suback, retained)
        return None

    def _subscribed(self, conn: Connection, state: SessionState, suback: Suback, retained: list[Subscription]) -> None:
        conn.send(suback)
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
        replay = self.retained.replay(subscription)
        if replay is None:
            return
        waiting = state.retained_waiting
        if waiting is None:
            waiting = state.retained_waiting = deque()
        if len(waiting) >= self._limits.subscriptions_per_client_max:
            self._counters.dropped_queue_full += 1
            return
        waiting.append(replay)

    def _unsubscribe(self, conn: Connection, packet: Unsubscribe) -> Awaitable[object] | None:
        state = conn.session
        if state is None:
            raise SessionTakenOver("the session was taken over")
        codes = tuple(self._unsubscribe_one(state, topic_filter) for topic_filter in packet.filters)
        unsuback = Unsuback(packet.packet_identifier, codes if conn.v5 else ())
        pending = None
        if state.durable:
            pending = self._store.subscribe(state.client_identifier, state.epoch, (), packet.filters)
        if pending is not None:
            return then(pending, lambda _: conn.send(unsuback))
        conn.send(unsuback)
        return None

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
