"""Published and own byte vectors: the verdict, the fields, the kind of error and the octets encoded again."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import MalformedPacket, MqttError, ProtocolViolation, UnsupportedProtocolVersion
from acebroker_codec.packets import Packet, ProtocolVersion
from tests.codec import naive_decoder
from tests.codec.fields import fields_of, properties_of_vector

VECTORS = Path(__file__).resolve().parents[1] / "vectors"

KINDS: dict[str, type[MqttError]] = {
    "malformed": MalformedPacket,
    "protocol_error": ProtocolViolation,
    "unsupported_version": UnsupportedProtocolVersion,
}

#: rows whose kind and code we give differently, and why
OTHER_CODES = {
    # 3.8.3.1: "It is a Protocol Error if the Maximum QoS field has the value 3"
    "own/v5/bad subscribe qos 3": (ProtocolViolation, 0x82),
}

#: what we answer where source and table disagree: None is taken; and why
DISPUTED: dict[str, type[MqttError] | None] = {
    # [MQTT-3.3.1-2]: DUP is 0 for QoS 0
    "mochi/TPublishDup": MalformedPacket,
    # whether a client may publish to $SYS is for access control, not for the codec
    "mochi/TPublishSpecDenySysTopic": None,
    # 0x80 in the protocol level marks a bridge of mosquitto; no standard knows it
    "mqtt-packet/connect MQTT bridge 131": UnsupportedProtocolVersion,
    "mqtt-packet/connect MQTT bridge 132": UnsupportedProtocolVersion,
    # MQTT 5 demands a Property Length [MQTT-2.2.2-1], and has no reason code 1 for CONNACK
    "mqtt-packet/Version 4 CONACK in Version 5 mode": MalformedPacket,
    # CONNACK always has a reason code (3.2.2)
    "mqtt-packet/Version 5 CONNACK test 1": MalformedPacket,
    # 3.2.2.3.4: Maximum QoS is 0 or 1
    "mqtt-packet/connack MQTT 5 with properties": ProtocolViolation,
    "mqtt-packet/connack MQTT 5 with properties and doubled user properties": ProtocolViolation,
    # 3.14.2.2.5: Server Reference tells a client where to go; a client does not send it
    "mqtt-packet/disconnect MQTT 5": ProtocolViolation,
    # the Protocol Name is "hj"
    "mqtt_fuzz/mqtt.connect.140.raw": UnsupportedProtocolVersion,
}


@functools.cache
def rows(name: str) -> dict[str, dict[str, Any]]:
    content = json.loads((VECTORS / name).read_text(encoding="utf-8"))
    found = {row["id"]: row for row in content}
    assert len(found) == len(content)
    return found


OWN = rows("mqtt_packets_own.json")
THIRD_PARTY = rows("mqtt_packets_thirdparty.json")
ALL = OWN | THIRD_PARTY


def decode(row: dict[str, Any]) -> Packet | MqttError | None:
    """The one thing that comes out of a row, or None when more octets are needed."""
    decoder = Decoder(version=ProtocolVersion(row["version"]), role="server" if row["sender"] == "client" else "client")
    found = decoder.feed(bytes.fromhex(row["hex"]))
    assert len(found) <= 1
    return found[0] if found else None


def vector_fields(row: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = copy.deepcopy(row["fields"])
    for holder in (fields, fields.get("will", {})):
        if "properties" in holder:
            holder["properties"] = properties_of_vector(holder["properties"], fields["type"])
    return fields


def test_all_rows_are_there() -> None:
    assert (len(OWN), len(THIRD_PARTY)) == (949, 180)
    assert set(OTHER_CODES) <= set(ALL)
    assert set(DISPUTED) == {name for name, row in ALL.items() if row["expect"] == "disputed"}


@pytest.mark.parametrize("name", [name for name, row in ALL.items() if row["expect"] == "ok"])
def test_ok(name: str) -> None:
    row = ALL[name]
    packet = decode(row)
    assert isinstance(packet, Packet)
    expected = vector_fields(row)
    assert fields_of(packet, ProtocolVersion(row["version"])) == expected
    octets = encode(packet, getattr(packet, "version", ProtocolVersion(row["version"])))
    if is_canonical(row, expected):
        assert octets.hex() == row["hex"]
    again = decode({**row, "hex": octets.hex()})
    assert again == packet


def is_canonical(row: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Whether the octets are in the form that the encoder gives: properties by identifier, nothing to leave out."""
    for holder in (row.get("fields", {}), row.get("fields", {}).get("will", {})):
        order = [PLACES[name] for name, _value in holder.get("properties", [])]
        if order != sorted(order):
            return False
    octets = bytes.fromhex(row["hex"])
    if row["version"] == 5 and not fields.get("properties"):
        omitted = {"puback": 2, "pubrec": 2, "pubrel": 2, "pubcomp": 2, "disconnect": 0}.get(fields["type"])
        if omitted is not None:
            return octets[1] == omitted + (1 if fields["reason_code"] else 0)
    return True


PLACES = {name: identifier for identifier, (name, _type, _places) in naive_decoder.PROPERTY_TABLE.items()}


def test_most_rows_are_canonical() -> None:
    names = [name for name, row in ALL.items() if row["expect"] == "ok"]
    other = [name for name in names if not is_canonical(ALL[name], vector_fields(ALL[name]))]
    assert len(other) < 25
    assert len(names) > 500


@pytest.mark.parametrize("name", [name for name, row in ALL.items() if row["expect"] == "error"])
def test_error(name: str) -> None:
    row = ALL[name]
    error = decode(row)
    assert isinstance(error, MqttError)
    kind, reason = OTHER_CODES.get(name, (KINDS[row["kind"]], row["reason"]))
    assert type(error) is kind
    assert error.reason_code == reason


@pytest.mark.parametrize("name", [name for name, row in ALL.items() if row["expect"] == "incomplete"])
def test_incomplete(name: str) -> None:
    assert decode(ALL[name]) is None


@pytest.mark.parametrize("name", DISPUTED)
def test_disputed(name: str) -> None:
    found = decode(ALL[name])
    expected = DISPUTED[name]
    assert isinstance(found, Packet) if expected is None else type(found) is expected
    said = ALL[name]["kit_says"]  # which is the reading followed here as well
    assert said == "ok" if expected is None else said.startswith("error")


@pytest.mark.parametrize("name", ALL)
def test_the_naive_decoder_says_the_same(name: str) -> None:
    row = ALL[name]
    octets = bytes.fromhex(row["hex"])
    found, verdict = naive_decoder.decode_stream(octets, row["version"], row["sender"])
    ours = decode(row)
    if isinstance(ours, Packet):
        assert (found, verdict) == ([fields_of(ours, ProtocolVersion(row["version"]))], "done")
    else:
        assert (found, verdict) == ([], "incomplete" if ours is None else "refused")


@pytest.mark.parametrize("name", [name for name, row in ALL.items() if row["expect"] == "ok"])
def test_every_prefix_asks_for_more(name: str) -> None:
    row = ALL[name]
    octets = bytes.fromhex(row["hex"])
    for size in range(1, len(octets)):
        if size < 60 or size > len(octets) - 60:
            assert decode({**row, "hex": octets[:size].hex()}) is None
