"""Raw exchanges with a broker, as other brokers are tested with them: `tests/vectors/mqtt_sequences.json`.

What a row expects is compared by meaning: the broker's own choices (properties of CONNACK, Packet
Identifiers of deliveries, which of several fitting reason codes) are its own. An expected DISCONNECT
or refusing CONNACK may be a bare close, which MQTT 5 allows and MQTT 3 demands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import (
    NO_CONNACK_PROPERTIES,
    Ack,
    Connack,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Publish,
)
from tests.harness import WireClient, connected
from trio_acebroker import Broker

ROWS: list[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "mqtt_sequences.json").read_text(encoding="utf-8")
)


def group_of(row: dict[str, Any]) -> str:
    """Source, packet and version, the first three parts of the id."""
    return "/".join(row["id"].split("/")[:3])


#: packets and versions; rows of a group share topics and sessions, so they run in order against one broker
GROUPS = list(dict.fromkeys(group_of(row) for row in ROWS))


def meaning(packet: Packet) -> Packet:
    """The packet without what a broker chooses itself."""
    match packet:
        case Connack() | Disconnect():
            refused = packet.reason_code >= 0x80
            packet = msgspec.structs.replace(packet, reason_code=0x80 if refused else packet.reason_code)
            if isinstance(packet, Connack):
                packet = msgspec.structs.replace(packet, properties=NO_CONNACK_PROPERTIES)
        case Publish():
            packet = msgspec.structs.replace(packet, packet_identifier=0)
        case Ack():
            # no matching subscribers (0x10) need not be said
            packet = msgspec.structs.replace(packet, reason_code=packet.reason_code & ~0x10)
    return packet


def expected_packets(row: dict[str, Any], octets: bytes) -> list[Packet]:
    found = Decoder(268_435_460, ProtocolVersion(row["version"]), "client").feed(octets)
    assert found
    assert not any(isinstance(packet, MqttError) for packet in found), f"the vector itself: {found}"
    return found  # type: ignore[return-value]


async def play(broker: Broker, row: dict[str, Any]) -> None:
    """One row; raises AssertionError where the broker answers otherwise."""
    client = await WireClient.open(broker, row["version"])
    try:
        if row["connect_first"]:
            await client.connect("sequence", keep_alive=60)
        for step in row["steps"]:
            match step["do"]:
                case "send":
                    await client.send_raw(bytes.fromhex(step["hex"]))
                case "recv":
                    for expected in expected_packets(row, bytes.fromhex(step["hex"])):
                        packet = await client.receive_or_end()
                        refusal = isinstance(expected, Connack | Disconnect) and expected.reason_code != 0
                        if packet is None and refusal and row["ends_disconnected"]:
                            return
                        assert packet is not None, f"closed; expected {expected!r}"
                        assert meaning(packet) == meaning(expected), f"received {packet!r}, expected {expected!r}"
                case "external_publish":
                    publisher = await connected(broker, "external")
                    await publisher.publish(step["topic"], step["payload"].encode(), qos=step["qos"])
                    await publisher.disconnect()
        if row["ends_disconnected"]:
            packet = await client.receive_or_end()
            if isinstance(packet, Disconnect) and packet.reason_code >= 0x80:
                packet = await client.receive_or_end()
            assert packet is None, f"expected the close, received {packet!r}"
        else:
            await client.send(Pingreq())
            packet = await client.receive_or_end()
            assert packet == Pingresp(), f"expected PINGRESP, received {packet!r}"
    finally:
        await client.aclose()


@pytest.mark.parametrize("group", GROUPS)
async def test_exchanges(broker: Broker, group: str) -> None:
    wrong = []
    for row in ROWS:
        if group_of(row) == group:
            try:
                await play(broker, row)
            except AssertionError as error:
                wrong.append(f"{row['id']}: {error}")
    assert not wrong, "\n".join(wrong)
