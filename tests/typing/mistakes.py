"""Mistakes that a type checker has to see. Each line names the error that it must get."""

from __future__ import annotations

from trio_acebroker import BrokerConfig, Connection, FlowKey, FlowStage, PacketType, Stage
from trio_acebroker.config import Limits, Listener


class WithoutName:
    wants = frozenset({PacketType.PUBLISH})

    def on_batch(self, conn: Connection, batch: list[int]) -> list[int]:
        return batch


class WrongPlan:
    name = "wrong-plan"
    wants = frozenset({PacketType.PUBLISH})

    def on_batch(self, conn: Connection, batch: str) -> str:
        return batch

    def plan(self, conn: Connection, flow: FlowKey) -> bool:
        return True


nameless: Stage = WithoutName()  # error: assignment
planless: FlowStage = WrongPlan()  # error: assignment
Listener(port="1883")  # error: arg-type
Listener(prt=1883)  # error: call-arg
Limits(packet_bytes_max=None)  # error: arg-type
BrokerConfig.from_toml(3)  # error: arg-type
BrokerConfig().limits.packet_bytes_max = 3  # error: misc
