"""The simulation can fail: each fault put into the broker shows within a few programs.

A fault replaces one function of the product by one that does what the standards forbid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from acebroker_codec.errors import ReasonCode
from acebroker_codec.flow import InflightWindow, ReceivingAliases, SendingAliases
from acebroker_middleware import routes, session
from acebroker_middleware.decode import Decode
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.router import Router
from acebroker_middleware.session import Session
from acebroker_middleware.state import message
from acebroker_middleware.state.retained import RetainedMessages
from acebroker_middleware.state.session_state import NEVER_EXPIRES
from acebroker_middleware.state.subscriptions import SubscriptionTree
from tests.simulation.program import Failure, program_of, run
from trio_acebroker.runtime.connection import ConnectionTask
from trio_acebroker.storage.memory import MemoryStore

#: programs that a fault gets to show itself
PROGRAMS = 24
STEPS = 150

Function = Callable[..., Any]


def _twice_at_qos_2(fan_out: Function) -> Function:
    def fault(self: Any, route: Any, message: Any, *rest: Any) -> Any:
        if message.qos == 2:
            fan_out(self, route, message, *rest)
        return fan_out(self, route, message, *rest)

    return fault


def _without_delay(pending_will: Function) -> Function:
    def fault(*arguments: Any) -> Any:
        pending = pending_will(*arguments)
        pending.delay_seconds = 0
        return pending

    return fault


def _as_published(remaining_properties: Function) -> Function:
    return lambda message, now: message.properties


def _silent_takeover(answer: Function) -> Function:
    def fault(self: Any, error: Any) -> None:
        if error is None or error.reason_code != ReasonCode.SESSION_TAKEN_OVER:
            answer(self, error)

    return fault


def _to_two_members(share: Function) -> Function:
    def fault(self: Any, group: Any, *rest: Any) -> None:
        share(self, group, *rest)
        if len(group.members) > 1:
            share(self, group, *rest)

    return fault


def _first_alias_wins(resolve: Function) -> Function:
    def fault(self: Any, topic: str, alias: int) -> str:
        if topic and alias in self._topics:
            return topic
        resolved: str = resolve(self, topic, alias)
        return resolved

    return fault


def _one_alias_for_all(use: Function) -> Function:
    def fault(self: Any, topic: str) -> tuple[int, bool]:
        alias, known = use(self, topic)
        return min(alias, 1), known

    return fault


def _more_than_receive_maximum(length: Function) -> Function:
    return lambda self: length(self) - 1


def _keeps_the_first(put: Function) -> Function:
    def fault(self: Any, message: Any) -> None:
        if self.get(message.topic) is None:
            put(self, message)

    return fault


def _no_local_for_nobody(target: Function) -> Function:
    return lambda *arguments: replace(target(*arguments), no_local=False)


def _retain_never_as_published(target: Function) -> Function:
    return lambda *arguments: replace(target(*arguments), retain_as_published=False)


def _one_identifier_only(target: Function) -> Function:
    def fault(*arguments: Any) -> Any:
        made = target(*arguments)
        return replace(made, identifiers=made.identifiers[:1])

    return fault


def _lowest_qos(target: Function) -> Function:
    def fault(state: Any, subscriptions: Any, *rest: Any) -> Any:
        return replace(target(state, subscriptions, *rest), qos=min(s.qos for s in subscriptions))

    return fault


def _nothing(function: Function) -> Function:
    return lambda *arguments, **named: None


def _never_twice(resend: Function) -> Function:
    return lambda self, conn, state, identifier: state.window.forget(identifier)


def _without_dup(write: Function) -> Function:
    return lambda self, conn, frames, delivery, identifier, dup: write(self, conn, frames, delivery, identifier, 0)


def _newest_first(next_: Function) -> Function:
    def fault(self: Any, conn: Any, state: Any) -> Any:
        state.queue.rotate(1)
        return next_(self, conn, state)

    return fault


def _will_at_every_disconnect(disconnected: Function) -> Function:
    return lambda self, conn, packet: disconnected(self, conn, replace(packet, reason_code=4))


def _for_ever(session_expiry: Function) -> Function:
    return lambda connect, longest: NEVER_EXPIRES if session_expiry(connect, longest) else 0


def _unsubscribed_only_in_name(remove: Function) -> Function:
    return lambda self, subscriber, topic_filter: None


def _dollar_is_a_letter(match: Function) -> Function:
    def fault(self: Any, topic: str) -> Any:
        plain, groups = match(self, topic)
        return plain + match(self, "x" + topic[1:])[0] if topic.startswith("$") else plain, groups

    return fault


FAULTS: dict[str, tuple[Any, str, Callable[[Function], Function]]] = {
    "QoS 2 is fanned out twice": (Router, "fan_out", _twice_at_qos_2),
    "Will Delay Interval is ignored": (session, "_pending_will", _without_delay),
    "a Will is sent at DISCONNECT 0": (Session, "_disconnected", _will_at_every_disconnect),
    "Message Expiry Interval is not lowered": (message, "remaining_properties", _as_published),
    "a session never expires": (session, "_session_expiry", _for_ever),
    "take-over without 0x8E": (ConnectionTask, "_answer", _silent_takeover),
    "a group gives to two members": (Router, "_share", _to_two_members),
    "a group forgets what nobody could take": (Deliver, "queue_for_group", _nothing),
    "what a member had is not given back": (Deliver, "give_back", _nothing),
    "a Topic Alias is not set anew": (ReceivingAliases, "resolve", _first_alias_wins),
    "one Topic Alias for all topics": (SendingAliases, "use", _one_alias_for_all),
    "one more than Receive Maximum": (InflightWindow, "__len__", _more_than_receive_maximum),
    "a client's excess is not seen": (Decode, "_check_receive_maximum", _nothing),
    "a retained message is not replaced": (RetainedMessages, "put", _keeps_the_first),
    "an empty payload deletes nothing": (RetainedMessages, "remove", _nothing),
    "No Local is ignored": (routes, "_target", _no_local_for_nobody),
    "Retain As Published is ignored": (routes, "_target", _retain_never_as_published),
    "one Subscription Identifier of several": (routes, "_target", _one_identifier_only),
    "the lowest QoS of overlapping subscriptions": (routes, "_target", _lowest_qos),
    "nothing is sent again": (Deliver, "_resend", _never_twice),
    "sent again without DUP": (Deliver, "_write", _without_dup),
    "the newest first": (Deliver, "_next", _newest_first),
    "UNSUBSCRIBE changes nothing": (SubscriptionTree, "remove", _unsubscribed_only_in_name),
    "wildcards select $ topics": (SubscriptionTree, "match", _dollar_is_a_letter),
    "the store keeps what was settled": (Deliver, "_settle", _nothing),
    "the store is not told of retained messages": (MemoryStore, "retain", _nothing),
    "routes are not told of subscriptions": (Router, "invalidate", _nothing),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, function, fault = FAULTS[name]
    monkeypatch.setattr(owner, function, fault(getattr(owner, function)))
    with pytest.raises(Failure):
        for seed in range(PROGRAMS):
            run(program_of(seed, STEPS))
