"""What programs that embed a broker write: all of this is right."""

from __future__ import annotations

from typing import assert_type

import trio

from trio_acebroker import Broker, BrokerConfig, ProtocolVersion
from trio_acebroker.config import Authentication, Limits, Listener, StageConfig

config = BrokerConfig(
    listeners=(Listener(port=0), Listener(host="::1", port=0, name="six", protocol_versions=(ProtocolVersion.MQTT_5,))),
    authentication=Authentication(anonymous=True),
    limits=Limits(packet_bytes_max=65_536),
    stages=(StageConfig(use="rate-limit", options={"messages_per_second": 10}),),
)
assert_type(BrokerConfig.load(None, {}), BrokerConfig)
assert_type(BrokerConfig.from_toml(""), BrokerConfig)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Broker(config).serve)
        nursery.cancel_scope.cancel()
