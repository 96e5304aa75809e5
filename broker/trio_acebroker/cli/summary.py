"""What a broker is going to do, in lines for people: `check` prints them, `serve` logs them at its start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from acebroker_codec.packets import ProtocolVersion
from acebroker_middleware.stage import Stage, plan_kind
from acebroker_middleware.state.bounds import Limits
from trio_acebroker.config import Listener

__all__ = ["changed_limits", "pipeline", "versions"]

VERSION_NAMES = {ProtocolVersion.MQTT_3_1: "3.1", ProtocolVersion.MQTT_3_1_1: "3.1.1", ProtocolVersion.MQTT_5: "5.0"}


def versions(listener: Listener) -> str:
    """The MQTT versions that a listener speaks."""
    return ", ".join(VERSION_NAMES[version] for version in sorted(set(listener.protocol_versions)))


def pipeline(stages: Iterable[Stage]) -> Iterator[tuple[str, str]]:
    """Each stage in order: its name, and how it treats flows."""
    for stage in stages:
        yield stage.name, plan_kind(stage)


def changed_limits(limits: Limits) -> Iterator[tuple[str, float, float]]:
    """Each limit that differs from its default: name, value, default."""
    defaults = Limits()
    for name in limits.__struct_fields__:
        value, default = getattr(limits, name), getattr(defaults, name)
        if value != default:
            yield name, value, default
