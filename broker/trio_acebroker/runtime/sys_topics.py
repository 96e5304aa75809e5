"""`$SYS/broker/...`: the broker's counters as retained messages, under the names that mosquitto users know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from acebroker_middleware.state.message import Message

if TYPE_CHECKING:
    from trio_acebroker.runtime.broker import Broker

__all__ = ["publish_sys_topics", "sys_topics"]


def sys_topics(broker: Broker, version: str) -> dict[str, str]:
    """Topic -> value, now."""
    counters = broker.counters
    sessions = broker.session.sessions
    connected = sum(1 for state in sessions.values() if state.connection is not None)
    values: dict[str, object] = {
        "version": f"trio-acebroker version {version}",
        "uptime": f"{int(broker.clock.now - broker.started)} seconds",
        "clients/connected": connected,
        "clients/disconnected": len(sessions) - connected,
        "clients/total": len(sessions),
        "messages/received": counters.packets_received,
        "messages/sent": counters.packets_sent + counters.publish_sent,
        "publish/messages/received": counters.publish_received,
        "publish/messages/sent": counters.publish_sent,
        "publish/messages/dropped": counters.publish_dropped,
        "bytes/received": counters.octets_received,
        "bytes/sent": counters.octets_sent,
        "subscriptions/count": len(broker.router.tree),
        "retained messages/count": len(broker.router.retained),
        "store/messages/count": sum(len(state.queue) for state in sessions.values()) + len(broker.router.retained),
    }
    return {f"$SYS/broker/{name}": str(value) for name, value in values.items()}


async def publish_sys_topics(broker: Broker, version: str, interval_seconds: float) -> None:
    """Publish what changed, every `interval_seconds`, for ever."""
    last: dict[str, str] = {}
    while True:
        broker.clock.stamp()
        for topic, value in sys_topics(broker, version).items():
            if last.get(topic) != value:
                last[topic] = value
                message = Message(topic, value.encode(), 0, True)
                broker.router.retained.put_own(message)
                broker.router.publish(message)
        broker.delivery.flush()
        await trio.sleep(interval_seconds)
