"""What the broker holds inside, beside what the model says: no more, no less, and in the end nothing at all."""

from __future__ import annotations

from typing import Any

import trio

from tests.simulation.model import Model
from tests.simulation.terms import Violation
from trio_acebroker import Broker
from trio_acebroker.storage.memory import MemoryStore

__all__ = ["check_holdings", "check_nothing_is_left", "check_retained", "check_store"]


def check_holdings(broker: Broker, model: Model) -> None:
    """Sessions and subscriptions."""
    sessions = set(broker.session.sessions)
    if sessions != set(model.sessions):
        raise Violation(f"sessions are {sorted(sessions)}, and should be {sorted(model.sessions)}")
    held = len(broker.router.tree)
    expected = sum(len(session.subscriptions) for session in model.sessions.values())
    if held != expected:
        raise Violation(f"the tree holds {held} subscriptions, and should hold {expected}")


def check_store(broker: Broker) -> None:
    """The store has of each session that outlives its connection what a broker after us would need, and no more."""
    rows = dict(_memory(broker)._rows)
    for state in broker.session.sessions.values():
        row = rows.pop(state.client_identifier, None)
        if (row is not None) != state.durable:
            raise Violation(f"{state.client_identifier}: stored is {row}, durable is {state.durable}")
        if row is None:
            continue
        unsettled = [*state.window.published.values(), *state.queue]
        pairs = {
            "subscriptions": (row.subscriptions, state.subscriptions),
            "messages": (sorted(row.queue), sorted(d.sequence for d in unsettled if d is not None and d.sequence)),
            "received": (row.inbound, state.inbound),
        }
        for name, (stored, held) in pairs.items():
            if stored != held:
                raise Violation(f"{state.client_identifier}: {name} in the store {stored}, here {held}")
        if not set(row.releases) <= set(state.window.released):
            raise Violation(f"{state.client_identifier}: released {row.releases}, here {state.window.released}")
    if rows:
        raise Violation(f"stored without a session: {rows}")


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
    stored = {m.topic: m.payload for m in _memory(broker).retained() if m.expires_at is None or m.expires_at > now}
    if stored != expected:
        raise Violation(f"retained in the store are {stored}, and should be {expected}")


def check_nothing_is_left(broker: Broker) -> None:
    """All sessions have ended: nothing of them stays anywhere."""
    tree = broker.router.tree
    timers = [timer for bucket in broker.timers._buckets.values() for timer in bucket if timer.callback is not None]
    left = {
        "sessions": broker.session.sessions,
        "connections": broker.connections,
        "subscriptions": len(tree),
        "filters": tree.filter_count,
        "nodes": tree.node_count,
        "stored sessions": _memory(broker)._rows,
        "timers": timers,
    }
    found = {name: what for name, what in left.items() if what}
    if found:
        raise Violation(f"left over: {found}")


def _memory(broker: Broker) -> MemoryStore:
    store: Any = broker.store
    memory: MemoryStore = getattr(store, "inner", store)
    return memory
