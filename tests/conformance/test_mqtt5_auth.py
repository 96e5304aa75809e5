"""MQTT 5.0, 3.15 and 4.12: enhanced authentication, at a broker that has no method for it."""

from __future__ import annotations

import pytest

from acebroker_codec.packets import Connack
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, connected, make_will
from trio_acebroker import Broker

PROTOCOL_ERROR = 0x82
METHOD = b"\x15" + octets.string("SCRAM-SHA-256")


def auth(code: int, *properties: bytes) -> bytes:
    return octets.frame(0xF0, bytes([code]) + octets.properties(*properties))


@mqtt5("MQTT-4.12.0-1", "MQTT-4.12.0-4", "MQTT-3.1.4-2")
@pytest.mark.parametrize("data", [None, b"", b"n,,n=user,r=nonce"])
async def test_a_method_that_is_not_supported_is_refused(broker: Broker, data: bytes | None) -> None:
    client = await WireClient.open(broker)
    connack = await client.attempt_connect("client", authentication_method="SCRAM-SHA-256", authentication_data=data)
    assert connack.reason_code in (0x8C, 0x87)
    assert not connack.session_present
    await client.expect_closed()


@mqtt5("MQTT-4.12.0-1", "MQTT-3.1.4-6", "MQTT-3.1.2-30")
async def test_a_refused_method_moves_no_session_and_no_will(broker: Broker) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("#")
    owner = await connected(broker, "client", session_expiry_interval=100)
    client = await WireClient.open(broker)
    connack = await client.attempt_connect(
        "client", authentication_method="unknown", will=make_will("will", b"gone"), clean_start=True
    )
    assert connack.reason_code == 0x8C
    await client.expect_closed()
    await owner.expect_alive()
    await watcher.expect_silence()


@mqtt5("MQTT-4.12.0-1", "MQTT-3.1.4-6")
async def test_auth_behind_a_refused_connect_changes_nothing(broker: Broker) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(properties_=octets.properties(METHOD)) + auth(0x18, METHOD))
    await client.expect_refused(0x8C)


@mqtt5("MQTT-4.12.0-6", "MQTT-3.2.0-1")
async def test_without_a_method_there_is_no_auth_and_no_method_in_connack(broker: Broker) -> None:
    client = await WireClient.open(broker)
    connack = await client.connect("client", username="user", password=None)
    assert connack.properties.authentication_method is None
    assert connack.properties.authentication_data is None
    await client.expect_silence()


@mqtt5("MQTT-4.12.0-7", "MQTT-4.12.1-1", "MQTT-3.15.2-1", "MQTT5-U-3.15-1")
@pytest.mark.parametrize("code", [0x18, 0x19], ids=hex)
async def test_auth_without_a_method_in_connect_is_a_protocol_error(broker: Broker, code: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(auth(code, METHOD))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-4.12.1-2", "MQTT-4.13.2-1")
async def test_re_authentication_that_cannot_succeed_disconnects(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.send_raw(auth(0x19, METHOD, b"\x16" + octets.binary(b"data")))
    await client.expect_closed({PROTOCOL_ERROR, 0x87})


@mqtt5("MQTT-3.15.2-1", "MQTT5-U-3.15.2.2.2-1", "MQTT5-U-3.15.2.2.3-1", "MQTT5-U-3.15.2.2.4-1", "MQTT5-U-3.15.2.1-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        pytest.param(auth(0x00, METHOD), id="code of a server"),
        pytest.param(auth(0x17, METHOD), id="unknown code"),
        pytest.param(auth(0x18), id="no method"),
        pytest.param(auth(0x18, METHOD, METHOD), id="method twice"),
        pytest.param(auth(0x18, METHOD, *[b"\x16" + octets.binary(b"d")] * 2), id="data twice"),
        pytest.param(auth(0x18, METHOD, *[b"\x1f" + octets.string("r")] * 2), id="Reason String twice"),
        pytest.param(b"\xf0\0", id="empty"),
    ],
)
async def test_auth_packets_that_break_a_rule(broker: Broker, stimulus: bytes) -> None:
    client = await connected(broker, "client")
    await client.send_raw(stimulus)
    await client.expect_closed({0x81, PROTOCOL_ERROR})


@mqtt5("MQTT-3.15.1-1")
@pytest.mark.parametrize("flags", [1, 2, 4, 8, 15])
async def test_reserved_flags_of_auth(broker: Broker, flags: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(bytes([0xF0 | flags]) + auth(0x18, METHOD)[1:])
    await client.expect_closed(0x81)


@mqtt5("MQTT-3.2.0-2", "MQTT-4.12.0-1")
async def test_a_refusal_is_one_connack(broker: Broker) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(properties_=octets.properties(METHOD)) * 2)
    await client.expect(Connack, reason_code=0x8C)
    await client.expect_closed()
