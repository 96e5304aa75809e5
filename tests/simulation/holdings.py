"""What the broker holds inside, beside what the model says: no more, no less, and in the end nothing at all."""

from __future__ import annotations

from typing import Any

import trio

from tests.simulation.model import Model
from tests.simulation.terms import Violation
from trio_acebroker import Broker

__all__ = ["check_holdings", "check_nothing_is_left", "check_retained"]


def check_holdings(broker: Broker, model: Model) -> None:
    """Sessions and subscriptions."""
    sessions = set(broker.session.sessions)
    if sessions != set(model.sessions):
        raise Violation(f"sessions are {sorted(sessions)}, and should be {sorted(model.sessions)}")
    held = len(broker.router.tree)
    expected = sum(len(session.subscriptions) for session in model.sessions.values())
    if held != expected:
        raise Violation(f"the tree holds {held} subscriptions, and should hold {expected}")


def check_retained(broker: Broker, model: Model) -> None:
    """Retained messages that are not over."""
    now = trio.current_time()
    held = {
        message.topic: message.payload
        for message in broker.router.retained
        if message.expires_at is None or message.expires_at > now
    }
    expected = {topic: message.payload for topic, message in model.retained.items()}
    if held != expected:
        raise Violation(f"retained are {held}, and should be {expected}")


def check_nothing_is_left(broker: Broker) -> None:
    """All sessions have ended: nothing of them stays anywhere."""
    tree = broker.router.tree
    store: Any = broker.store
    timers = [timer for bucket in broker.timers._buckets.values() for timer in bucket if timer.callback is not None]
    left = {
        "sessions": broker.session.sessions,
        "connections": broker.connections,
        "subscriptions": len(tree),
        "filters": tree.filter_count,
        "nodes": tree.node_count,
        "stored sessions": getattr(store, "inner", store)._rows,
        "timers": timers,
    }
    found = {name: what for name, what in left.items() if what}
    if found:
        raise Violation(f"left over: {found}")
