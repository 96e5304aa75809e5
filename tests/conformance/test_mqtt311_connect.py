"""MQTT 3.1.1, 3.1, 3.2 and 3.14 (and MQTT 3.1 where it says the same): CONNECT, CONNACK, DISCONNECT."""

from __future__ import annotations

import pytest

from acebroker_codec.packets import Connack, Connect, Pingreq, Pingresp, Publish, Suback, Subscribe, SubscriptionRequest
from tests.conformance import octets
from tests.conformance.statements import mqtt311
from tests.harness import WireClient, connected, make_will
from trio_acebroker import Broker

both_versions = pytest.mark.parametrize("version", [4, 3], ids=["3.1.1", "3.1"])
NAMES = {3: b"MQIsdp", 4: b"MQTT"}


def connect(version: int, **parts: object) -> bytes:
    """CONNECT with every part open."""
    return octets.connect(**{"name": NAMES[version], "version": version, **parts})  # type: ignore[arg-type]


@mqtt311("MQTT-3.1.0-1", "MQTT-3.2.0-1")
@pytest.mark.parametrize(
    "stimulus",
    [
        octets.publish(b"t", properties_=None),
        octets.subscribe(b"t", properties_=None),
        b"\xc0\0",
        b"\xe0\0",
        b"\x20\x02\0\0",
    ],
    ids=["PUBLISH", "SUBSCRIBE", "PINGREQ", "DISCONNECT", "CONNACK"],
)
@both_versions
async def test_anything_before_connect_closes(broker: Broker, stimulus: bytes, version: int) -> None:
    client = await WireClient.open(broker, version)
    await client.send_raw(stimulus + connect(version))
    await client.expect_closed()


@mqtt311("MQTT-3.1.0-2", "MQTT-4.8.0-1")
@both_versions
async def test_a_second_connect_closes(broker: Broker, version: int) -> None:
    client = await connected(broker, "once", version)
    await client.send_raw(connect(version, payload=octets.string("once")))
    await client.expect_closed()


@mqtt311("MQTT-3.1.2-1")
@pytest.mark.parametrize(("name", "version"), [(b"MQTX", 4), (b"mqtt", 4), (b"MQTT", 3), (b"MQIsdp", 4), (b"", 4)])
async def test_another_protocol_name_is_refused(broker: Broker, name: bytes, version: int) -> None:
    client = await WireClient.open(broker, 4)
    await client.send_raw(octets.connect(name=name, version=version))
    assert await client.receive_raw_to_end() in (b"", b"\x20\x02\0\x01", b"\x20\x03\0\x84\0")


@mqtt311("MQTT-3.1.2-2", "MQTT-3.2.2-4", "MQTT-3.2.2-5")
@pytest.mark.parametrize("level", [0, 1, 2, 6, 0x84])
async def test_an_unsupported_level_is_answered_with_code_1(broker: Broker, level: int) -> None:
    client = await WireClient.open(broker, 4)
    await client.send_raw(octets.connect(version=level))
    assert await client.receive_raw_to_end() == b"\x20\x02\0\x01"


WILL = octets.string("w") + octets.binary(b"gone")
ID = octets.string("id")

#: flags and payload of CONNECT packets whose parts do not fit together
BAD_LAYOUTS: dict[str, tuple[int, bytes]] = {
    "Will QoS 1 without a Will": (0x0A, ID),
    "Will Retain without a Will": (0x22, ID),
    "Will QoS 3": (0x1E, ID + WILL),
    "Will missing": (0x06, ID),
    "Will Message missing": (0x06, ID + octets.string("w")),
    "a Will without its flag": (0x02, ID + WILL),
    "User Name without its flag": (0x02, ID + octets.string("user")),
    "Password without its flag": (0x82, ID + octets.string("user") + octets.string("password")),
    "Password without a User Name": (0x42, ID + octets.string("password")),
    "no Client Identifier": (0x02, b""),
    "Client Identifier cut short": (0x02, b"\0\x05abc"),
    "octets behind the last field": (0x02, ID + b"\0"),
    "Client Identifier not UTF-8": (0x02, octets.binary(b"\xff")),
    "Client Identifier with U+0000": (0x02, octets.string("a\0")),
    "Client Identifier with a surrogate": (0x02, octets.string("\ud800")),
    "Will Topic not UTF-8": (0x06, ID + octets.binary(b"\xff") + octets.binary(b"")),
    "User Name not UTF-8": (0x82, ID + octets.binary(b"\xff")),
    "Will Topic with a wildcard": (0x06, ID + octets.string("w/#") + octets.binary(b"")),
}


@mqtt311(
    *("MQTT-3.1.2-3", "MQTT-3.1.4-1", "MQTT-3.2.2-6", "MQTT-4.8.0-1", "MQTT-1.5.3-1", "MQTT-1.5.3-2"),
    *("MQTT-3.1.2-9", "MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-14", "MQTT-3.1.2-15", "MQTT-3.1.2-18"),
    *("MQTT-3.1.2-20", "MQTT-3.1.2-22", "MQTT-3.1.3-1", "MQTT-3.1.3-3", "MQTT-3.1.3-4", "MQTT-3.1.3-10"),
    "MQTT-3.1.3-11",
)
@pytest.mark.parametrize("name", BAD_LAYOUTS)
@both_versions
async def test_a_connect_of_bad_layout_closes_without_connack(broker: Broker, name: str, version: int) -> None:
    flags, payload = BAD_LAYOUTS[name]
    client = await WireClient.open(broker, version)
    await client.send_raw(connect(version, flags=flags, payload=payload))
    await client.expect_closed()


@mqtt311("MQTT-3.1.2-3", "MQTT-3.1.4-1")
async def test_the_reserved_connect_flag_closes(broker: Broker) -> None:
    """MQTT 3.1 does not use this bit, and does not say what it must be."""
    client = await WireClient.open(broker, 4)
    await client.send_raw(connect(4, flags=0x03))
    await client.expect_closed()


@mqtt311("MQTT-3.1.2-19", "MQTT-3.1.2-21", "MQTT-3.1.4-1")
@pytest.mark.parametrize(("flags", "payload"), [(0x82, ID), (0xC2, ID), (0xC2, ID + octets.string("user"))])
async def test_announced_credentials_that_are_missing_close(broker: Broker, flags: int, payload: bytes) -> None:
    """MQTT 3.1 lets the Remaining Length decide here, 3.1.1 does not."""
    client = await WireClient.open(broker, 4)
    await client.send_raw(connect(4, flags=flags, payload=payload))
    await client.expect_closed()


@mqtt311("MQTT-3.1.3-5", "MQTT-3.1.4-4", "MQTT-3.2.2-3", "MQTT-3.2.2-1")
@pytest.mark.parametrize(
    "client_identifier", ["a", "0", "Z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHI", "JKLMNOPQRSTUVWXYZ012345"]
)
@both_versions
async def test_plain_client_identifiers_of_1_to_23_octets(broker: Broker, client_identifier: str, version: int) -> None:
    for clean_start in (True, False):
        client = await WireClient.open(broker, version)
        await client.connect(client_identifier, clean_start=clean_start)
        assert client.octets_received == b"\x20\x02\0\0"
        await client.disconnect()


@mqtt311("MQTT-3.1.3-6", "MQTT-3.1.3-7")
async def test_an_empty_client_identifier_with_clean_session_is_assigned_one(broker: Broker) -> None:
    clients = [await connected(broker, "", 4) for _ in range(3)]
    for client in clients:
        await client.subscribe("t")
    await clients[0].publish("t", b"x")
    for client in clients:
        await client.expect_message("t", b"x")


@mqtt311("MQTT-3.1.3-8", "MQTT-3.2.2-4", "MQTT-3.2.2-5", "MQTT-3.1.3-7")
async def test_an_empty_client_identifier_without_clean_session_is_refused(broker: Broker) -> None:
    client = await WireClient.open(broker, 4)
    await client.send_raw(connect(4, flags=0, payload=octets.string("")))
    assert await client.receive_raw_to_end() == b"\x20\x02\0\x02"


@mqtt311("MQTT-3.1.3-9", "MQTT-3.2.2-4", "MQTT-3.2.2-5", "MQTT-3.1.4-5")
@both_versions
async def test_a_refused_client_identifier(broker: Broker, version: int) -> None:
    """Longer than the broker takes; what stands behind the CONNECT is ignored."""
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("#")
    client = await WireClient.open(broker, version)
    await client.send_raw(
        connect(version, payload=octets.string("x" * 1_025))
        + octets.publish(b"t", b"x", properties_=None)
        + octets.subscribe(b"t", properties_=None)
    )
    assert await client.receive_raw_to_end() == b"\x20\x02\0\x02"
    await watcher.expect_silence()


@mqtt311("MQTT-3.1.4-5")
async def test_what_follows_an_unsupported_level_is_ignored(broker: Broker) -> None:
    watcher = await connected(broker, "watcher", 4)
    await watcher.subscribe("#")
    client = await WireClient.open(broker, 4)
    await client.send_raw(octets.connect(version=9) + octets.publish(b"t", b"x", properties_=None))
    assert await client.receive_raw_to_end() == b"\x20\x02\0\x01"
    await watcher.expect_silence()


@mqtt311("MQTT-3.1.4-2")
@pytest.mark.parametrize("second_version", [3, 4, 5])
@both_versions
async def test_a_second_connection_evicts_the_first(broker: Broker, version: int, second_version: int) -> None:
    first = await connected(broker, "twice", version)
    second = await connected(broker, "twice", second_version)
    await first.expect_closed()
    await second.expect_alive()


@mqtt311("MQTT-3.2.0-1", "MQTT-3.1.4-4")
@both_versions
async def test_connack_comes_first_and_once(broker: Broker, version: int) -> None:
    client = await WireClient.open(broker, version)
    await client.send(
        Connect("eager", version=client.version),
        Subscribe(1, (SubscriptionRequest("t"),)),
        Publish("t", b"to myself"),
        Pingreq(),
    )
    await client.expect(Connack, reason_code=0)
    rest = [type(packet) for packet in await client.drain()]
    assert sorted(rest, key=str) == sorted([Suback, Publish, Pingresp], key=str)


@mqtt311("MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-3", "MQTT-3.1.4-3")
async def test_session_present(broker: Broker) -> None:
    for clean_session, present in ((True, False), (False, False), (False, True), (True, False), (False, False)):
        client = await WireClient.open(broker, 4)
        await client.connect("client", clean_start=clean_session)
        assert client.octets_received == bytes([0x20, 2, present, 0])
        await client.disconnect()


@mqtt311("MQTT-3.1.2-24")
@pytest.mark.parametrize("keep_alive", [1, 10, 600])
@both_versions
async def test_silence_beyond_keep_alive_closes(broker: Broker, keep_alive: int, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("will")
    client = await connected(broker, "sleeper", version, keep_alive=keep_alive, will=make_will("will", b"gone"))
    await client.expect_silence(keep_alive * 1.5 - 0.2)
    await client.expect_alive()
    await client.expect_silence(keep_alive * 1.5 - 0.2)
    await client.expect_closed()
    await watcher.expect_message("will", b"gone")


@mqtt311("MQTT-3.1.2-24")
@both_versions
async def test_keep_alive_0_never_closes(broker: Broker, version: int) -> None:
    client = await connected(broker, "patient", version, keep_alive=0)
    await client.expect_silence(4_000)
    await client.expect_alive()


@mqtt311("MQTT-3.12.4-1")
@both_versions
async def test_pingreq_is_answered(broker: Broker, version: int) -> None:
    client = await connected(broker, "client", version)
    await client.send(Pingreq(), Pingreq())
    await client.expect(Pingresp)
    await client.expect(Pingresp)
    assert client.octets_received.endswith(b"\xd0\0" * 2)


@mqtt311("MQTT-3.14.1-1", "MQTT-2.2.2-2")
@pytest.mark.parametrize("stimulus", [b"\xe1\0", b"\xe2\0", b"\xe8\0", b"\xe0\x01\0"], ids=bytes.hex)
@both_versions
async def test_reserved_bits_of_disconnect_close_as_an_error(broker: Broker, stimulus: bytes, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("will")
    client = await connected(broker, "client", version, will=make_will("will", b"gone"))
    await client.send_raw(stimulus)
    await client.expect_closed()
    # it was no DISCONNECT: the Will is published
    await watcher.expect_message("will", b"gone")


@mqtt311("MQTT-3.14.4-1", "MQTT-3.14.4-2")
@both_versions
async def test_what_follows_disconnect_is_ignored(broker: Broker, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("#")
    client = await connected(broker, "client", version)
    await client.send_raw(b"\xe0\0" + octets.publish(b"after", b"x", properties_=None) + b"\xc0\0")
    await client.expect_closed()
    await watcher.expect_silence()
