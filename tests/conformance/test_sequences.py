"""Raw exchanges with a broker, as other brokers are tested with them: `tests/vectors/mqtt_sequences.json`.

What a row expects is compared by meaning: the broker's own choices (properties of CONNACK, Packet
Identifiers of deliveries, which of several fitting reason codes) are its own. An expected DISCONNECT
or refusing CONNACK may be a bare close, which MQTT 5 allows and MQTT 3 demands.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import (
    Ack,
    Connack,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Publish,
    Suback,
    Unsuback,
)
from acebroker_middleware.state.bounds import Limits
from tests.harness import WireClient, broker_running, connected
from trio_acebroker import Broker
from trio_acebroker.config import Authorization

ROWS: list[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "mqtt_sequences.json").read_text(encoding="utf-8")
)


def group_of(row: dict[str, Any]) -> str:
    """Source, packet and version, the first three parts of the id."""
    return "/".join(row["id"].split("/")[:3])


#: Rows that demand what the standard leaves open: refusing control characters other than U+0000, the form in which an
#: unknown protocol version is refused, closing before the length of a packet is complete, and closing at the third
#: repetition of a QoS 2 PUBLISH (which [MQTT-4.3.3-10] answers again). Played all the same; the answer is free.
FREE = re.compile(r"U\+00[019][1F]|U\+007F|0x00[019][1F]|proto ver 6|illegal length|Dup flow\*3")


#: packets and versions; rows of a group share topics and sessions, so they run in order against one broker
GROUPS = list(dict.fromkeys(group_of(row) for row in ROWS))


def meaning(packet: Packet) -> Packet:
    """The packet without what a broker chooses itself."""
    match packet:
        case Connack():
            refused = packet.reason_code >= 0x80
            return Connack(packet.session_present, 0x80 if refused else packet.reason_code)
        case Disconnect():
            return Disconnect(0x80 if packet.reason_code >= 0x80 else packet.reason_code)
        case Publish():
            return msgspec.structs.replace(packet, packet_identifier=0)
        case Ack():
            # "no matching subscribers" and "packet identifier not found" need not be said
            spoken = packet.reason_code not in (0x10, 0x92)
            return type(packet)(packet.packet_identifier, packet.reason_code if spoken else 0)
        case Suback() | Unsuback():
            return type(packet)(packet.packet_identifier, packet.reason_codes)
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


async def differences(broker: Broker, group: str) -> list[str]:
    """What the broker answers otherwise."""
    wrong = []
    for row in ROWS:
        if group_of(row) == group:
            try:
                await play(broker, row)
            except AssertionError as error:
                if not FREE.search(row["id"]):
                    wrong.append(f"{row['id']}: {error}")
    return wrong


@pytest.mark.parametrize("group", GROUPS)
async def test_exchanges(tmp_path: Path, group: str) -> None:
    """All rows of a group, with the rights and the Topic Alias Maximum of the broker that the rows come from."""
    acl_file = tmp_path / "acl"
    acl_file.write_text("topic readwrite #\ntopic read $SYS/#\ntopic write $SYS/broker/connection/+/state\n")
    authorization = Authorization(acl_file=str(acl_file))
    async with broker_running(authorization=authorization, limits=Limits(topic_alias_max=10)) as broker:
        wrong = await differences(broker, group)
    assert not wrong, "\n".join(wrong)
