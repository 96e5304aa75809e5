"""The deliver direction: one message to one subscriber, in the order deliver stages, window, encoding.

QoS 0 goes straight to the connection's out-queue and is dropped, and counted, over its bound. QoS 1
and 2 go out while the client's Receive Maximum and the out-queue have room, and wait in the
session's queue otherwise, which has bounds of its own. Nothing here waits and nothing here blocks:
the runtime calls `pump` when octets have left.

Statements: [MQTT-3.3.1-2], [MQTT-3.3.2-5], [MQTT-3.3.4-7], [MQTT-4.3.1-1 .. 4.3.3-7],
[MQTT-4.4.0-1], [MQTT-4.9.0-1 .. 4.9.0-3].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from acebroker_codec.errors import ReasonCode
from acebroker_codec.flow import AckInput, Outcome
from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, Puback, Pubcomp, Pubrec, Pubrel
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.errors import NotAuthorized
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.hand_offs import stage_error, unwatched
from acebroker_middleware.replays import Replays
from acebroker_middleware.settling import store_failed
from acebroker_middleware.state.message import Delivery, Frames, Message
from acebroker_middleware.state.ports import Settle, Store
from acebroker_middleware.state.retained import RetainedMessages
from acebroker_middleware.state.session_state import SessionState
from acebroker_middleware.state.subscriptions import SharedGroup

__all__ = ["Deliver", "GroupQueue"]

_DUP: Final = 0x08
#: a message in flight is counted in octets when it has more than this
COUNTED_BYTES_MIN: Final = 4_096


class GroupQueue:
    """Messages for a shared subscription that no member can take now: queued once for the group."""

    __slots__ = ("messages", "octets")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.octets = 0


def _counted(message: Message) -> int:
    """What a message counts for `limits.in_flight_bytes_max`: short ones are bounded by their number alone."""
    if len(message.payload) <= COUNTED_BYTES_MIN and message.properties is NO_PUBLISH_PROPERTIES:
        return 0
    octets = message.octets
    return octets if octets > COUNTED_BYTES_MIN else 0


class Deliver:
    """The way out for all sessions of a broker. `stages` are those with `on_deliver`, in order."""

    def __init__(self, round_: Round, store: Store, retained: RetainedMessages, stages: Sequence[Any] = ()) -> None:
        self._round = round_
        self._store = store
        self._replays = Replays(round_, retained, self._covers, self.qos_0, self._send)
        self.stages = tuple(stages)
        self._in_flight_bytes_max = round_.limits.in_flight_bytes_max

    # ---- may it go out? ----

    def plan(self, conn: Connection, topic: str) -> Verdict:
        """What all deliver stages together say of a topic for this subscriber: the strictest verdict."""
        verdict = Verdict.PASS
        key = FlowKey(topic)
        for stage in self.stages:
            said = self._verdict(stage, conn, key)
            if said is Verdict.DENY:
                return Verdict.DENY
            if said is not Verdict.PASS:
                verdict = Verdict.INSPECT
        return verdict

    def _verdict(self, stage: Any, conn: Connection, key: FlowKey) -> Verdict | None:
        """What one stage says of a topic; None when it failed to say anything."""
        plan = getattr(stage, "plan_deliver", None)
        if plan is None:
            return Verdict.INSPECT
        try:
            verdict = plan(conn, key)
            return verdict if type(verdict) is Verdict else Verdict(verdict)
        except Exception as error:
            self._failed(stage, conn, error)
            return None

    @staticmethod
    def _failed(stage: Any, conn: Connection, error: Exception) -> None:
        """A stage raised on the way to a subscriber: that connection ends, and nobody else hears of it.

        The message it raised for is lost; what comes behind waits in the session.
        """
        conn.send_max = 0
        conn.end(stage_error(stage.name, error))

    @staticmethod
    def _cut(conn: Connection) -> None:
        """A subscriber has lost a right: it hears of that (ACE-3.2-3), and what it may not get stays in its session."""
        conn.cut = True
        conn.send_max = 0
        conn.end(NotAuthorized("the right to receive was lost"))

    def _covers(self, conn: Connection, topic_filter: str) -> bool:
        """Whether no deliver stage has anything against any topic of the filter, so that none need be asked."""
        for stage in self.stages:
            plan = getattr(stage, "plan_deliver_filter", None)
            if plan is None:
                return False
            try:
                verdict = plan(conn, topic_filter)
            except Exception as error:
                self._failed(stage, conn, error)
                return False
            if verdict is not Verdict.PASS:
                return False
        return True

    def _denied(self, conn: Connection, topic: str) -> bool:
        return bool(self.stages) and self.plan(conn, topic) is Verdict.DENY

    def _permitted(self, conn: Connection, message: Message) -> Message | None:
        """Ask every deliver stage about one message; None when one of them drops it."""
        key = FlowKey(message.topic)
        for stage in self.stages:
            verdict = self._verdict(stage, conn, key)
            if verdict is None:
                return None
            if verdict is Verdict.DENY:
                self._round.counters.denials[f"{stage.name}: delivery"] += 1
                if conn.strict:
                    self._cut(conn)
                return None
            if verdict is Verdict.INSPECT:
                try:
                    kept = stage.on_deliver(conn, [message])
                    if not kept:
                        return None
                    (message,) = kept
                    if not isinstance(message, Message):
                        raise TypeError(f"on_deliver gave {type(message).__name__} for a message")
                except Exception as error:
                    self._failed(stage, conn, error)
                    return None
        return message

    # ---- QoS 0 ----

    def qos_0(
        self,
        conn: Connection,
        frames: Frames,
        retain: bool,
        identifiers: tuple[int, ...] = (),
        inspect: bool = False,
        bounded: bool = True,
    ) -> None:
        """Queue one message of QoS 0 for a connection, or drop it over the bound of the out-queue.

        Without `bounded` the caller has seen that there is room for something.
        """
        counters = self._round.counters
        if inspect:
            message = self._permitted(conn, frames.message)
            if message is None:
                return
            if message is not frames.message:
                frames = Frames(message, self._round.clock.now)
        first_octet = 0x31 if retain else 0x30
        aliased = ""
        if conn.v5 and (identifiers or self._pays(conn, frames.message)):
            before, after, aliased = self._own(conn, frames, first_octet, identifiers)
            frame = before + after
        else:
            frame = frames.frame(conn.v5, first_octet)
        octets = len(frame)
        if conn.packet_bytes_max is not None and octets > conn.packet_bytes_max:
            conn.sending_aliases.forget(aliased)
            counters.dropped_too_large += 1  # [MQTT-3.1.2-25]
            return
        if bounded and conn.out_octets + octets > conn.out_octets_max:
            conn.sending_aliases.forget(aliased)
            conn.drain(conn)  # what waits in the session may leave, on the same topic
            if conn.out_octets + octets > conn.out_octets_max:
                conn.dropped += 1
                counters.dropped_out_queue += 1
                return
            if aliased:
                before, after, aliased = self._own(conn, frames, first_octet, identifiers)
                frame = before + after
        counters.publish_sent += 1
        conn.write(frame)

    # ---- QoS 1 and 2 ----

    def offer(self, state: SessionState, delivery: Delivery, frames: Frames | None, *, checked: bool) -> bool:
        """Send a message of QoS 1 or 2 now, or queue it. False when it was dropped: the queue is full.

        `checked`: the deliver stages have nothing against it, as the route says.
        """
        conn = state.connection
        window = state.window
        if (
            conn is not None
            and not state.queue
            and not state.resend
            and len(window.published) + len(window.released) < conn.send_max
            and window.octets < self._in_flight_bytes_max
            and conn.out_octets < conn.out_octets_max
        ):
            if checked and conn.plain and frames is not None and not delivery.subscription_identifiers:
                # the common case, without detours: nothing to check, one encoding for all
                before, after = frames.halves(conn.v5, 0x30 | delivery.qos << 1 | delivery.retain)
                identifier = window.open(delivery, delivery.qos, _counted(delivery.message))
                conn.write(before + identifier.to_bytes(2, "big") + after)
                self._round.counters.publish_sent += 1
            else:
                self._send(conn, state, delivery, frames, checked)
            return True
        limits = self._round.limits
        octets = delivery.message.octets
        if len(state.queue) >= limits.queued_messages_max or state.queued_octets + octets > limits.queued_bytes_max:
            state.dropped += 1
            self._round.counters.dropped_queue_full += 1
            self._settle(state, delivery)
            return False
        state.queue.append(delivery)
        state.queued_octets += octets
        return True

    def pump(self, state: SessionState) -> bool:
        """Send what waits, as far as the window and the out-queue allow: resends, the queue, groups, retained.

        Retained messages leave in slices. True when there is another one to send as soon as others had their turn:
        call again then. The connection is `dirty` until that is done.
        """
        state.pump_due = False
        if not (state.queue or state.resend or state.retained_waiting or state.groups):
            return False
        conn = state.connection
        if conn is None or conn.blocked:
            return False
        window = state.window
        while conn.out_octets < conn.out_octets_max:
            if state.resend:
                if len(window) - len(state.resend) >= conn.send_max:
                    return False
                self._resend(conn, state, state.resend.popleft())
                continue
            full = len(window) >= conn.send_max or window.octets >= self._in_flight_bytes_max
            delivery = None if full else self._next(conn, state)
            if delivery is None:
                return bool(state.retained_waiting) and self._replays.send(conn, state)
            if delivery.qos == 0:
                message = delivery.message
                now = self._round.clock.now
                if message.expires_at is not None and message.expires_at <= now:
                    self._round.counters.dropped_expired += 1  # [MQTT-3.3.2-5]
                    continue
                frames = Frames(message, now)
                identifiers = delivery.subscription_identifiers
                self.qos_0(conn, frames, delivery.retain, identifiers, inspect=True, bounded=False)
            else:
                self._send(conn, state, delivery, None, False)
        return True

    def _next(self, conn: Connection, state: SessionState) -> Delivery | None:
        if state.queue:
            delivery = state.queue.popleft()
            state.queued_octets -= delivery.message.octets
            return delivery
        return self._from_group(conn, state) if state.groups else None

    def _send(
        self, conn: Connection, state: SessionState, delivery: Delivery, frames: Frames | None, checked: bool
    ) -> None:
        message = delivery.message
        now = self._round.clock.now
        if message.expires_at is not None and message.expires_at <= now:
            self._round.counters.dropped_expired += 1  # [MQTT-3.3.2-5]
            self._settle(state, delivery)
            return
        if not checked and self.stages:
            permitted = self._permitted(conn, message)
            if permitted is None:
                if conn.cut:
                    state.queue.appendleft(delivery)
                    state.queued_octets += message.octets
                else:
                    self._settle(state, delivery)
                return
            if permitted is not message:
                frames = None
                message = permitted
        if frames is None:
            frames = Frames(message, now)
        identifier = state.window.open(delivery, delivery.qos, _counted(delivery.message))
        if not self._write(conn, frames, delivery, identifier, 0):
            state.window.forget(identifier)
            self._settle(state, delivery)

    def _resend(self, conn: Connection, state: SessionState, identifier: int) -> None:
        delivery = state.window.published.get(identifier)
        if delivery is None:
            return
        if conn.strict and self._denied(conn, delivery.message.topic):  # ACE-2.2.4.1-19
            state.resend.appendleft(identifier)
            self._cut(conn)
            return
        if not self._write(conn, Frames(delivery.message, self._round.clock.now), delivery, identifier, _DUP):
            state.window.forget(identifier)
            self._settle(state, delivery)

    def _write(self, conn: Connection, frames: Frames, delivery: Delivery, identifier: int, dup: int) -> bool:
        first_octet = 0x30 | delivery.qos << 1 | dup | delivery.retain
        aliased = ""
        if conn.v5 and (delivery.subscription_identifiers or self._pays(conn, frames.message)):
            before, after, aliased = self._own(conn, frames, first_octet, delivery.subscription_identifiers)
        else:
            before, after = frames.halves(conn.v5, first_octet)
        if conn.packet_bytes_max is not None and len(before) + 2 + len(after) > conn.packet_bytes_max:
            conn.sending_aliases.forget(aliased)
            self._round.counters.dropped_too_large += 1
            return False
        self._round.counters.publish_sent += 1
        conn.write(before + identifier.to_bytes(2, "big") + after)
        return True

    def _pays(self, conn: Connection, message: Message) -> bool:
        return conn.sending_aliases.maximum > 0 and len(message.topic) >= self._round.limits.topic_alias_out_bytes_min

    def _own(
        self, conn: Connection, frames: Frames, first_octet: int, identifiers: tuple[int, ...]
    ) -> tuple[bytes, bytes, str]:
        """An encoding for this client alone, and the topic whose alias it sets, if it does."""
        topic = frames.message.topic
        alias, known = conn.sending_aliases.use(topic) if self._pays(conn, frames.message) else (0, False)
        before, after = frames.with_properties(first_octet, "" if known else topic, identifiers, alias or None)
        if not alias or known:
            return before, after, ""
        if conn.packet_bytes_max is not None and len(before) + 2 + len(after) > conn.packet_bytes_max:
            conn.sending_aliases.forget(topic)  # without it there may be room
            return *frames.with_properties(first_octet, topic, identifiers, None), ""
        return before, after, topic

    # ---- acknowledgements ----

    def acknowledged(self, state: SessionState, ack: Puback | Pubrec | Pubcomp, steps: list[Settle]) -> Pubrel | None:
        """Take an acknowledgement of the client, and add what the store has to know of it to `steps`.

        Gives the PUBREL that follows once that is durable. Raises ProtocolViolation for what does not fit.
        """
        identifier = ack.packet_identifier
        if type(ack) is Puback:
            step = AckInput.PUBACK
        elif type(ack) is Pubcomp:
            step = AckInput.PUBCOMP
        else:
            step = AckInput.PUBREC_ERROR if ack.reason_code >= 0x80 else AckInput.PUBREC
        outcome, delivery = state.window.acknowledge(identifier, step)
        state.pump_due = True
        name, epoch = state.client_identifier, state.epoch
        sequence = delivery.sequence if delivery is not None and state.durable else 0
        if outcome is Outcome.DONE:
            if sequence:
                steps.append(Settle(name, epoch, "ack", sequence))
            elif delivery is None and state.durable:
                steps.append(Settle(name, epoch, "comp", identifier))
        elif outcome is Outcome.RELEASE:
            if sequence:
                steps.append(Settle(name, epoch, "rec", sequence, identifier))
            return Pubrel(identifier)
        elif outcome is Outcome.RELEASE_UNKNOWN:
            v5 = state.connection is not None and state.connection.v5
            return Pubrel(identifier, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if v5 else 0)
        return None

    def _settle(self, state: SessionState, delivery: Delivery) -> None:
        """A delivery that goes nowhere: the store need not keep it."""
        if delivery.sequence and state.durable:
            steps = [Settle(state.client_identifier, state.epoch, "ack", delivery.sequence)]
            unwatched(self._round, partial(self._store.settle, steps), partial(store_failed, state))

    # ---- shared subscriptions ----

    def choose(self, group: SharedGroup[SessionState], topic: str) -> SessionState | None:
        """The member that takes the next message: online, still allowed, the least loaded, in turn [MQTT-4.8.2-3]."""
        best: SessionState | None = None
        least = 0
        for state in group.members:
            conn = state.connection
            if conn is None or conn.blocked or len(state.window) >= conn.send_max or state.queue or state.resend:
                continue
            if conn.out_octets >= conn.out_octets_max or state.window.octets >= self._in_flight_bytes_max:
                continue
            load = len(state.window)
            if (best is None or load < least) and not self._denied(conn, topic):
                best, least = state, load
        if best is not None:
            group.members[best] = group.members.pop(best)  # to the end: equals take turns
        return best

    def queue_for_group(self, group: SharedGroup[SessionState], message: Message, *, first: bool = False) -> bool:
        """Keep a message of QoS 1 or 2 once for the group; False when the queue is full and it was dropped."""
        queue = group.waiting
        if not isinstance(queue, GroupQueue):
            queue = group.waiting = GroupQueue()
        limits = self._round.limits
        octets = message.octets
        if len(queue.messages) >= limits.group_messages_max or queue.octets + octets > limits.group_bytes_max:
            self._round.counters.dropped_queue_full += 1
            return False
        if first:
            queue.messages.appendleft(message)
        else:
            queue.messages.append(message)
        queue.octets += octets
        return True

    def give_back(self, state: SessionState) -> None:
        """A session ends: what it held of groups with QoS 1 goes to other members [MQTT-4.8.2-5]; QoS 2 never."""
        again = [d for d in state.window.published.values() if d is not None and d.group is not None and d.qos == 1]
        for delivery in reversed(again):
            if delivery.group.members:
                self.queue_for_group(delivery.group, delivery.message, first=True)
        for group in {id(d.group): d.group for d in again}.values():
            for member in list(group.members):
                self.pump(member)

    def _from_group(self, conn: Connection, state: SessionState) -> Delivery | None:
        for group in state.groups.values():
            queue = group.waiting
            if not isinstance(queue, GroupQueue) or not queue.messages:
                continue
            subscription = group.members.get(state)
            if subscription is None or self._denied(conn, queue.messages[0].topic):
                continue
            message = queue.messages.popleft()
            queue.octets -= message.octets
            identifiers = (subscription.identifier,) if subscription.identifier else ()
            retain = message.retain and subscription.retain_as_published
            return Delivery(message, min(message.qos, subscription.qos), retain, identifiers, group)
        return None
