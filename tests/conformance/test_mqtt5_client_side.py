"""MQTT 5.0, what the receiver of a broker's packets refuses: the decoder in the role of a client."""

from __future__ import annotations

import pytest

from acebroker_codec.decoder import Decoder
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import ProtocolVersion
from tests.conformance import octets
from tests.conformance.statements import mqtt5

PROTOCOL_ERROR = 0x82


def refusal(received: bytes) -> MqttError:
    """The error that a client ends the connection with."""
    (found,) = Decoder(1_000, ProtocolVersion.MQTT_5, "client").feed(received)
    assert isinstance(found, MqttError)
    return found


def taken(received: bytes) -> None:
    (found,) = Decoder(1_000, ProtocolVersion.MQTT_5, "client").feed(received)
    assert not isinstance(found, MqttError), found


IN_CONNACK = {
    "Session Expiry Interval": b"\x11" + octets.uint32(1),
    "Receive Maximum": b"\x21" + octets.uint16(1),
    "Maximum QoS": b"\x24\x01",
    "Retain Available": b"\x25\x01",
    "Maximum Packet Size": b"\x27" + octets.uint32(100),
    "Assigned Client Identifier": b"\x12" + octets.string("id"),
    "Topic Alias Maximum": b"\x22" + octets.uint16(1),
    "Reason String": b"\x1f" + octets.string("r"),
    "Wildcard Subscription Available": b"\x28\x01",
    "Subscription Identifiers Available": b"\x29\x01",
    "Shared Subscription Available": b"\x2a\x01",
    "Server Keep Alive": b"\x13" + octets.uint16(1),
    "Response Information": b"\x1a" + octets.string("r"),
    "Server Reference": b"\x1c" + octets.string("s"),
    "Authentication Method": b"\x15" + octets.string("m"),
}


@mqtt5(
    *("MQTT5-U-3.2.2.3.2-1", "MQTT5-U-3.2.2.3.3-1", "MQTT5-U-3.2.2.3.4-1", "MQTT5-U-3.2.2.3.5-1"),
    *("MQTT5-U-3.2.2.3.6-1", "MQTT5-U-3.2.2.3.7-1", "MQTT5-U-3.2.2.3.8-1", "MQTT5-U-3.2.2.3.9-1"),
    *("MQTT5-U-3.2.2.3.11-1", "MQTT5-U-3.2.2.3.12-1", "MQTT5-U-3.2.2.3.13-1", "MQTT5-U-3.2.2.3.14-1"),
    *("MQTT5-U-3.2.2.3.15-1", "MQTT5-U-3.2.2.3.16-1", "MQTT5-U-3.2.2.3.17-1"),
)
@pytest.mark.parametrize("name", IN_CONNACK)
def test_a_property_twice_in_connack(name: str) -> None:
    taken(octets.frame(0x20, b"\0\0" + octets.properties(IN_CONNACK[name])))
    assert (
        refusal(octets.frame(0x20, b"\0\0" + octets.properties(*[IN_CONNACK[name]] * 2))).reason_code == PROTOCOL_ERROR
    )


@mqtt5("MQTT5-U-3.2.2.3.18-1")
def test_authentication_data_twice_in_connack() -> None:
    method, data = b"\x15" + octets.string("m"), b"\x16" + octets.binary(b"d")
    taken(octets.frame(0x20, b"\0\0" + octets.properties(method, data)))
    assert refusal(octets.frame(0x20, b"\0\0" + octets.properties(method, data, data))).reason_code == PROTOCOL_ERROR


@mqtt5(
    *("MQTT5-U-3.2.2.3.3-1", "MQTT5-U-3.2.2.3.4-1", "MQTT5-U-3.2.2.3.5-1", "MQTT5-U-3.2.2.3.6-1"),
    *("MQTT5-U-3.2.2.3.11-1", "MQTT5-U-3.2.2.3.12-1", "MQTT5-U-3.2.2.3.13-1"),
)
@pytest.mark.parametrize(
    "entry",
    [b"\x21\0\0", b"\x24\x02", b"\x25\x02", b"\x27\0\0\0\0", b"\x28\x02", b"\x29\x02", b"\x2a\x02"],
    ids=bytes.hex,
)
def test_values_that_do_not_exist_in_connack(entry: bytes) -> None:
    assert refusal(octets.frame(0x20, b"\0\0" + octets.properties(entry))).reason_code == PROTOCOL_ERROR


@mqtt5("MQTT5-U-3.9.2.1.2-1", "MQTT5-U-3.11.2.1.2-1")
@pytest.mark.parametrize("first", [0x90, 0xB0], ids=["SUBACK", "UNSUBACK"])
def test_a_reason_string_twice(first: int) -> None:
    reason = b"\x1f" + octets.string("r")
    taken(octets.frame(first, b"\0\x01" + octets.properties(reason) + b"\0"))
    twice = octets.frame(first, b"\0\x01" + octets.properties(reason, reason) + b"\0")
    assert refusal(twice).reason_code == PROTOCOL_ERROR


@mqtt5("MQTT-3.14.2-2", "MQTT-3.14.2-1")
@pytest.mark.parametrize("body", [b"\0" + octets.properties(b"\x11" + octets.uint32(1)), b"\x04", b"\x84"])
def test_what_a_broker_never_puts_in_disconnect(body: bytes) -> None:
    assert refusal(octets.frame(0xE0, body)).reason_code in (0x81, PROTOCOL_ERROR)


@mqtt5("MQTT-3.3.2-8", "MQTT-3.3.1-4", "MQTT-3.3.1-2", "MQTT-3.3.2-2", "MQTT-4.7.0-1")
@pytest.mark.parametrize(
    "received",
    [
        octets.publish(b"t", properties_=b"\x03\x23\0\0"),
        octets.publish(b"t", first=0x36, packet_identifier=1),
        octets.publish(b"t", first=0x38),
        octets.publish(b"t/#"),
    ],
    ids=["Topic Alias 0", "QoS 3", "DUP at QoS 0", "wildcard"],
)
def test_publications_that_no_client_accepts(received: bytes) -> None:
    assert refusal(received).reason_code >= 0x80
