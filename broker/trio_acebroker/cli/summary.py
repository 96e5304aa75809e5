"""What a broker is going to do, in lines for people: `check` prints them, `serve` logs them at its start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from acebroker_codec.packets import ProtocolVersion
from acebroker_middleware.stage import Stage, plan_kind
from acebroker_middleware.state.bounds import Limits
from trio_acebroker.config import BrokerConfig, Listener

__all__ = ["changed_limits", "pipeline", "versions", "ways_to_connect"]

VERSION_NAMES = {ProtocolVersion.MQTT_3_1: "3.1", ProtocolVersion.MQTT_3_1_1: "3.1.1", ProtocolVersion.MQTT_5: "5.0"}


def versions(listener: Listener) -> str:
    """The MQTT versions that a listener speaks."""
    return ", ".join(VERSION_NAMES[version] for version in sorted(set(listener.protocol_versions)))


def ways_to_connect(config: BrokerConfig, listener: Listener) -> Iterator[str]:
    """How clients may show who they are on a listener, in the order in which it is tried, where tokens are taken."""
    if not config.authorization_servers:
        return
    if not config.takes_tokens(listener):
        yield "no tokens: they are taken over TLS, or on loopback with insecure = true"
        return
    over = "a challenge or the TLS exporter" if listener.tls is not None else "a challenge"
    if ProtocolVersion.MQTT_5 in listener.protocol_versions:
        yield f"MQTT 5 method `ace`: a token, and possession proven over {over}"
    if set(listener.protocol_versions) - {ProtocolVersion.MQTT_5} and listener.tls is not None:
        yield "MQTT 3.1 and 3.1.1: user name `ace` and the token, password: possession proven over the TLS exporter"
    if config.authentication.password_file is not None:
        yield "user name and password"
    if listener.tls is not None and listener.tls.client_ca is not None:
        yield f"a client certificate of {listener.tls.client_ca} to which a stored token is bound"
    if listener.tls is not None and listener.tls.pre_shared_keys:
        yield "a pre-shared key of a stored token, or of one that is the identity"
    if config.anonymous_allowed(listener):
        yield "nothing: public topics, and uploads to `authz-info`"


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
