"""trio-acebroker: an MQTT 3.1, 3.1.1 and 5.0 broker on Trio. Everything public starts here.

    from trio_acebroker import Broker, BrokerConfig

Plugin authors find the stage contract here too, and `trio_acebroker.testing`.
"""

from __future__ import annotations

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import PacketType, ProtocolVersion, Publish, PublishProperties, Subscribe
from acebroker_middleware.connection import CloseReason, Connection, ConnectionType
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch, DeliverStage, FlowStage, Lifecycle, Stage, per_packet
from acebroker_middleware.state.bounds import Limits
from acebroker_middleware.state.message import Message
from trio_acebroker.config import BrokerConfig, ConfigError
from trio_acebroker.runtime.broker import Broker, MessageStream
from trio_acebroker.storage.memory import MemoryStore

__all__ = [
    "Batch",
    "Broker",
    "BrokerConfig",
    "CloseReason",
    "ConfigError",
    "Connection",
    "ConnectionType",
    "DeliverStage",
    "FlowKey",
    "FlowStage",
    "Lifecycle",
    "Limits",
    "MemoryStore",
    "Message",
    "MessageStream",
    "MqttError",
    "PacketType",
    "ProtocolVersion",
    "Publish",
    "PublishProperties",
    "ReasonCode",
    "Stage",
    "Subscribe",
    "Verdict",
    "per_packet",
]
