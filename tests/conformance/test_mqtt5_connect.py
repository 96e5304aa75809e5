"""MQTT 5.0, 3.1: CONNECT, which ones are taken, and what is done with the others."""

from __future__ import annotations

from typing import Any

import pytest

from acebroker_codec.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    SubscriptionRequest,
)
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, connected, make, make_will
from trio_acebroker import Broker

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82


@mqtt5("MQTT-3.1.0-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        octets.publish(b"t"),
        octets.subscribe(b"t"),
        b"\xc0\x00",
        b"\xe0\x00",
        octets.frame(0xF0, b"\x18" + octets.properties(b"\x15" + octets.string("m"))),
    ],
    ids=["PUBLISH", "SUBSCRIBE", "PINGREQ", "DISCONNECT", "AUTH"],
)
async def test_anything_before_connect_closes(broker: Broker, stimulus: bytes) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(stimulus + octets.connect())
    await client.expect_closed()


@mqtt5("MQTT-3.1.0-2")
async def test_a_second_connect_is_a_protocol_error(broker: Broker) -> None:
    client = await connected(broker, "once")
    await client.send(Connect("once"))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.1.2-1")
@pytest.mark.parametrize("name", [b"MQTX", b"mqtt", b"", b"MQIsdp", b"MQTT\0", b"HTTP/1.1"])
async def test_another_protocol_name_is_refused(broker: Broker, name: bytes) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(name=name))
    await client.expect_refused(0x84)


@mqtt5("MQTT-3.1.2-2")
@pytest.mark.parametrize("version", [0, 1, 2, 3, 6, 127, 255])
async def test_another_protocol_version_is_refused(broker: Broker, version: int) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(version=version))
    # in the form of any version, or not at all
    received = await client.receive_raw_to_end()
    assert received in (b"", b"\x20\x02\0\x01", b"\x20\x03\0\x84\0")


@mqtt5("MQTT-3.1.2-3", "MQTT5-U-3.1.2.3-1")
async def test_the_reserved_connect_flag(broker: Broker) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(flags=0x03))
    await client.expect_refused(MALFORMED)


WILL_PAYLOAD = octets.string("id") + b"\0" + octets.string("w") + octets.binary(b"gone")

#: CONNECT packets whose parts do not fit together
BAD_LAYOUTS = {
    "Will Flag 0 with Will QoS 1": octets.connect(flags=0x0A),
    "Will Flag 0 with Will QoS 2": octets.connect(flags=0x12),
    "Will Flag 0 with Will Retain": octets.connect(flags=0x22),
    "Will QoS 3": octets.connect(flags=0x1E, payload=WILL_PAYLOAD),
    "Will Flag 1 without a Will": octets.connect(flags=0x06),
    "Will without a payload": octets.connect(flags=0x06, payload=octets.string("id") + b"\0" + octets.string("w")),
    "Will without properties": octets.connect(
        flags=0x06, payload=octets.string("id") + octets.string("w") + octets.string("")
    ),
    "a Will without its flag": octets.connect(payload=WILL_PAYLOAD),
    "User Name without its flag": octets.connect(payload=octets.string("id") + octets.string("user")),
    "User Name missing": octets.connect(flags=0x82, payload=octets.string("id")),
    "Password missing": octets.connect(flags=0xC2, payload=octets.string("id") + octets.string("user")),
    "Password without its flag": octets.connect(
        flags=0x82, payload=octets.string("id") + octets.string("user") + octets.string("password")
    ),
    "no Client Identifier": octets.connect(payload=b""),
    "Client Identifier cut short": octets.connect(payload=b"\0\x05abc"),
    "octets behind the last field": octets.connect(payload=octets.string("id") + b"\0"),
    "no Keep Alive": octets.frame(0x10, octets.string("MQTT") + b"\x05\x02"),
    "no properties": octets.frame(0x10, octets.string("MQTT") + b"\x05\x02\0\0"),
    "empty": octets.frame(0x10),
    "unknown property": octets.connect(properties_=octets.properties(b"\x7f\0")),
    "property of another packet": octets.connect(properties_=octets.properties(b"\x23\0\x01")),
    "properties longer than said": octets.connect(properties_=b"\x01\x11\0\0\0\0"),
    "Will property in CONNECT": octets.connect(properties_=octets.properties(b"\x18" + octets.uint32(1))),
}


@mqtt5(
    *("MQTT-3.1.4-1", "MQTT-4.13.1-1", "MQTT5-U-3.1.2.6-1", "MQTT5-U-4.13.1-2"),
    *("MQTT-3.1.2-9", "MQTT-3.1.2-11", "MQTT-3.1.2-12", "MQTT-3.1.2-13"),
    *("MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.1.2-18", "MQTT-3.1.2-19", "MQTT-3.1.3-1", "MQTT-3.1.3-3"),
)
@pytest.mark.parametrize("name", BAD_LAYOUTS)
async def test_a_connect_of_bad_layout_is_refused(broker: Broker, name: str) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(BAD_LAYOUTS[name])
    await client.expect_refused({MALFORMED, PROTOCOL_ERROR})


@mqtt5("MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12")
@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\0"], ids=bytes.hex)
async def test_strings_in_connect_follow_the_string_rules(broker: Broker, bad: bytes) -> None:
    for flags, payload in (
        (0x02, octets.binary(bad)),
        (0x06, octets.string("id") + b"\0" + octets.binary(bad) + octets.binary(b"")),
        (0x82, octets.string("id") + octets.binary(bad)),
    ):
        client = await WireClient.open(broker)
        await client.send_raw(octets.connect(flags=flags, payload=payload))
        await client.expect_refused({MALFORMED, 0x85, 0x90})


#: properties of CONNECT that break a rule: twice, or a value that is none of theirs
BAD_PROPERTIES = {
    "Session Expiry Interval twice": [b"\x11" + octets.uint32(1)] * 2,
    "Receive Maximum twice": [b"\x21" + octets.uint16(1)] * 2,
    "Receive Maximum 0": [b"\x21" + octets.uint16(0)],
    "Maximum Packet Size twice": [b"\x27" + octets.uint32(100)] * 2,
    "Maximum Packet Size 0": [b"\x27" + octets.uint32(0)],
    "Topic Alias Maximum twice": [b"\x22" + octets.uint16(1)] * 2,
    "Request Response Information twice": [b"\x19\x01"] * 2,
    "Request Response Information 2": [b"\x19\x02"],
    "Request Problem Information twice": [b"\x17\x01"] * 2,
    "Request Problem Information 2": [b"\x17\x02"],
    "Authentication Method twice": [b"\x15" + octets.string("m")] * 2,
    "Authentication Data twice": [b"\x15" + octets.string("m")] + [b"\x16" + octets.binary(b"d")] * 2,
    "Authentication Data alone": [b"\x16" + octets.binary(b"d")],
}


@mqtt5(
    *("MQTT5-U-3.1.2.11.2-1", "MQTT5-U-3.1.2.11.3-1", "MQTT5-U-3.1.2.11.4-1", "MQTT5-U-3.1.2.11.5-1"),
    *("MQTT5-U-3.1.2.11.6-1", "MQTT5-U-3.1.2.11.7-1", "MQTT5-U-3.1.2.11.9-1", "MQTT5-U-3.1.2.11.10-1"),
)
@pytest.mark.parametrize("name", BAD_PROPERTIES)
async def test_properties_of_connect_that_break_a_rule(broker: Broker, name: str) -> None:
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(properties_=octets.properties(*BAD_PROPERTIES[name])))
    await client.expect_refused(PROTOCOL_ERROR)


BAD_WILL_PROPERTIES = {
    "Will Delay Interval": b"\x18" + octets.uint32(1),
    "Payload Format Indicator": b"\x01\0",
    "Message Expiry Interval": b"\x02" + octets.uint32(1),
    "Content Type": b"\x03" + octets.string("c"),
    "Response Topic": b"\x08" + octets.string("r"),
    "Correlation Data": b"\x09" + octets.binary(b"c"),
}


@mqtt5(
    *("MQTT5-U-3.1.3.2.2-1", "MQTT5-U-3.1.3.2.3-1", "MQTT5-U-3.1.3.2.4-1", "MQTT5-U-3.1.3.2.5-1"),
    *("MQTT5-U-3.1.3.2.6-1", "MQTT5-U-3.1.3.2.7-1"),
)
@pytest.mark.parametrize("name", BAD_WILL_PROPERTIES)
async def test_a_will_property_twice(broker: Broker, name: str) -> None:
    will_properties = octets.properties(*[BAD_WILL_PROPERTIES[name]] * 2)
    payload = octets.string("id") + will_properties + octets.string("w") + octets.binary(b"gone")
    client = await WireClient.open(broker)
    await client.send_raw(octets.connect(flags=0x06, payload=payload))
    await client.expect_refused(PROTOCOL_ERROR)


@mqtt5("MQTT-3.1.3-5")
@pytest.mark.parametrize(
    "client_identifier", ["a", "0", "Z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHI", "JKLMNOPQRSTUVWXYZ012345"]
)
async def test_plain_client_identifiers_of_1_to_23_octets(broker: Broker, client_identifier: str) -> None:
    client = await connected(broker, client_identifier)
    await client.expect_alive()


@mqtt5("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
async def test_an_empty_client_identifier_is_replaced_by_a_unique_one(broker: Broker) -> None:
    assigned = []
    for _ in range(5):
        client = await WireClient.open(broker)
        connack = await client.connect("", session_expiry_interval=100)
        assert connack.properties.assigned_client_identifier
        assigned.append(connack.properties.assigned_client_identifier)
        assert not connack.session_present
    assert len(set(assigned)) == 5
    # it names the session from now on
    await client.subscribe("t", qos=1)
    await client.disconnect()
    again = await WireClient.open(broker)
    connack = await again.connect(assigned[-1], clean_start=False)
    assert connack.session_present
    assert connack.properties.assigned_client_identifier is None


@mqtt5("MQTT-3.1.3-8", "MQTT-3.2.2-7", "MQTT-3.2.2-8", "MQTT-3.1.4-2")
async def test_a_client_identifier_that_is_too_long_is_refused(broker: Broker) -> None:
    client = await WireClient.open(broker)
    connack = await client.attempt_connect("x" * 1_025)
    assert connack.reason_code == 0x85
    await client.expect_closed()
    await connected(broker, "x" * 1_024)


@mqtt5("MQTT-3.1.4-3")
async def test_a_second_connection_evicts_the_first(broker: Broker) -> None:
    first = await connected(broker, "twice")
    second = await connected(broker, "twice")
    await first.expect_closed(0x8E)
    await second.expect_alive()


@mqtt5("MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.0-2")
async def test_connack_comes_first_and_once(broker: Broker) -> None:
    client = await WireClient.open(broker)
    await client.send(
        Connect("eager"),
        Subscribe(1, (SubscriptionRequest("t"),)),
        Publish("t", b"to myself"),
        Pingreq(),
    )
    await client.expect(Connack, reason_code=0, session_present=False)
    rest = [type(packet) for packet in await client.drain()]
    assert sorted(rest, key=str) == sorted([Suback, Publish, Pingresp], key=str)


@mqtt5("MQTT-3.1.4-6")
@pytest.mark.parametrize("refused", ["method", "name", "identifier"])
async def test_what_follows_a_refused_connect_is_ignored(broker: Broker, refused: str) -> None:
    subscriber = await connected(broker, "subscriber")
    await subscriber.subscribe("#")
    first = {
        "method": octets.connect(properties_=octets.properties(b"\x15" + octets.string("unknown"))),
        "name": octets.connect(name=b"MQTX"),
        "identifier": octets.connect(payload=octets.string("x" * 1_025)),
    }[refused]
    client = await WireClient.open(broker)
    await client.send_raw(first + octets.publish(b"t", b"too late") + octets.connect() + octets.publish(b"t", b"no"))
    await client.expect_refused({0x8C, 0x87, 0x84, 0x85})
    await subscriber.expect_silence()


@mqtt5("MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-3")
async def test_acknowledge_flags_of_connack(broker: Broker) -> None:
    for clean_start, flags in ((True, 0), (False, 1), (True, 0), (False, 1)):
        client = await WireClient.open(broker)
        connack = await client.connect("id", clean_start=clean_start, session_expiry_interval=60)
        assert connack.session_present == bool(flags)
        # first octet, Remaining Length of one octet, Connect Acknowledge Flags, reason code
        assert client.octets_received[0] == 0x20
        assert client.octets_received[2:4] == bytes([flags, 0])
        await client.disconnect()


@mqtt5("MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-4.13.2-1")
async def test_a_refusal_never_says_session_present(broker: Broker) -> None:
    keeper = await connected(broker, "kept", session_expiry_interval=100)
    await keeper.disconnect()
    client = await WireClient.open(broker)
    connack = await client.attempt_connect("kept", clean_start=False, authentication_method="unknown")
    assert connack.reason_code == 0x8C
    assert not connack.session_present
    await client.expect_closed()


@mqtt5("MQTT-3.2.2-9", "MQTT-3.2.2-10")
async def test_everything_is_available(broker: Broker) -> None:
    client = await WireClient.open(broker)
    properties = (await client.connect("client")).properties
    for absent_or_one in (
        properties.retain_available,
        properties.wildcard_subscription_available,
        properties.subscription_identifier_available,
        properties.shared_subscription_available,
    ):
        assert absent_or_one in (None, 1)
    assert properties.maximum_qos is None
    for qos in (0, 1, 2):
        assert (await client.subscribe(f"t/{qos}", qos=qos)).reason_codes == (qos,)


@mqtt5("MQTT-3.1.2-28")
@pytest.mark.parametrize("request_response_information", [None, 0])
async def test_no_response_information_unless_asked_for(
    broker: Broker, request_response_information: int | None
) -> None:
    client = await WireClient.open(broker)
    connack = await client.connect("client", request_response_information=request_response_information)
    assert connack.properties.response_information is None


@mqtt5("MQTT-3.2.2-19", "MQTT-3.2.2-20", "MQTT-3.1.2-24")
@pytest.mark.parametrize("fields", [{}, {"authentication_method": "unknown"}, {"client_identifier": "x" * 1_025}])
async def test_connack_fits_the_maximum_packet_size(broker: Broker, fields: dict[str, str]) -> None:
    """Every limit from the size of a full CONNACK downwards: smaller, or none at all."""
    fields = {"client_identifier": "client", **fields}
    client = await WireClient.open(broker)
    await client.attempt_connect(**fields)
    for limit in range(len(client.octets_received), 0, -1):
        client = await WireClient.open(broker)
        await client.send(make(Connect, maximum_packet_size=limit, **fields))
        for packet in await client.drain():
            assert isinstance(packet, Connack | Disconnect)
        assert len(client.octets_received) <= limit


@mqtt5("MQTT-3.2.2-22", "MQTT-3.1.2-22")
@pytest.mark.parametrize("keep_alive", [1, 10, 600])
async def test_silence_beyond_keep_alive_closes(broker: Broker, keep_alive: int) -> None:
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("will")
    client = await WireClient.open(broker)
    connack = await client.connect("sleeper", keep_alive=keep_alive, will=make_will("will", b"gone"))
    keep_alive = connack.properties.server_keep_alive or keep_alive
    await client.expect_silence(keep_alive * 1.5 - 0.2)
    await client.expect_alive()
    await client.expect_silence(keep_alive * 1.5 - 0.2)
    await client.expect_closed(0x8D)
    await watcher.expect_message("will", b"gone")


@mqtt5("MQTT-3.1.2-22", "MQTT-3.2.2-22")
async def test_keep_alive_0_never_closes(broker: Broker) -> None:
    client = await connected(broker, "patient", keep_alive=0)
    await client.expect_silence(4_000)
    await client.expect_alive()


@mqtt5("MQTT-3.1.2-29")
async def test_no_problem_information_unless_asked_for(broker: Broker) -> None:
    client = await connected(broker, "client", request_problem_information=0)
    acknowledgements: list[Any] = [
        await client.subscribe("a"),
        await client.unsubscribe("a", "never held"),
        await client.publish("nobody/listens", qos=1),
        await client.publish("nobody/listens", qos=2),
    ]
    for acknowledgement in acknowledgements:
        assert acknowledgement.properties.reason_string is None
        assert acknowledgement.properties.user_properties == ()
