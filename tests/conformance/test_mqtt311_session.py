"""MQTT 3.1.1, 3.1.2.4, 3.1.2.5, 3.8 to 3.11, 4.1 (and MQTT 3.1): sessions, subscriptions, the Will."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import Publish, SubscriptionRequest
from tests.conformance import octets
from tests.conformance.statements import mqtt311
from tests.harness import WireClient, connected, make_will
from trio_acebroker import Broker

both_versions = pytest.mark.parametrize("version", [4, 3], ids=["3.1.1", "3.1"])


# ---- sessions ----


@mqtt311("MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-4.1.0-1", "MQTT-3.1.3-2", "MQTT-3.1.4-3")
@pytest.mark.parametrize("ending", ["DISCONNECT", "cut"])
@both_versions
async def test_a_session_without_clean_session_is_kept(broker: Broker, ending: str, version: int) -> None:
    client = await connected(broker, "client", version, clean_start=False)
    await client.subscribe("t", qos=2)
    await (client.disconnect() if ending == "DISCONNECT" else client.aclose())
    publisher = await connected(broker, "publisher", version)
    for qos in (1, 2):
        await publisher.publish("t", b"%d" % qos, qos=qos)
    await trio.sleep(3_600)
    other = await connected(broker, "Client", version, clean_start=False)
    await other.expect_silence()
    client = await connected(broker, "client", version, clean_start=False)
    for qos in (1, 2):
        await client.expect_message("t", b"%d" % qos, qos=qos)
    await publisher.publish("t", b"now", qos=1)
    await client.expect_message("t", b"now", qos=1)


@mqtt311("MQTT-3.1.2-6", "MQTT-3.1.4-3", "MQTT-3.2.2-1")
@both_versions
async def test_clean_session_discards_before_and_leaves_nothing_behind(broker: Broker, version: int) -> None:
    publisher = await connected(broker, "publisher", version)
    client = await connected(broker, "client", version, clean_start=False)
    await client.subscribe("t", qos=1)
    await client.disconnect()
    await publisher.publish("t", b"for the old session", qos=1)
    client = await connected(broker, "client", version, clean_start=True)
    await publisher.publish("t", b"nobody subscribed", qos=1)
    await client.expect_silence()
    await client.subscribe("t", qos=1)
    await client.disconnect()
    await publisher.publish("t", b"for nobody", qos=1)
    client = await WireClient.open(broker, version)
    connack = await client.connect("client", clean_start=False)
    assert not connack.session_present
    await client.expect_silence()


@mqtt311("MQTT-4.1.0-1", "MQTT-4.1.0-2")
@both_versions
async def test_a_session_lasts_while_connected(broker: Broker, version: int) -> None:
    client = await connected(broker, "client", version, clean_start=True)
    await client.subscribe("t", qos=1)
    await trio.sleep(10_000)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x", qos=1)
    await client.expect_message("t", b"x")


@mqtt311("MQTT-3.1.2-4", "MQTT-3.2.2-2")
@pytest.mark.parametrize(("first", "second"), [(4, 5), (5, 4), (3, 4), (4, 3)])
async def test_a_session_is_resumed_by_another_version(broker: Broker, first: int, second: int) -> None:
    fields = {5: {"session_expiry_interval": 1_000}}
    client = await connected(broker, "client", first, clean_start=False, **fields.get(first, {}))
    await client.subscribe("t", qos=1)
    await client.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1)
    client = await connected(broker, "client", second, clean_start=False, **fields.get(second, {}))
    await client.expect_message("t", b"x", qos=1)


# ---- SUBSCRIBE and UNSUBSCRIBE ----


@mqtt311("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1", "MQTT-3.9.3-2")
@both_versions
async def test_one_suback_with_a_code_for_each_filter_in_order(broker: Broker, version: int) -> None:
    client = await connected(broker, "client", version)
    requests = [SubscriptionRequest(f"t/{i}", qos=qos) for i, qos in enumerate((2, 0, 1, 1, 0, 2))]
    client.octets_received.clear()
    await client.subscribe(*requests, packet_identifier=300)
    assert client.octets_received == b"\x90\x08" + octets.uint16(300) + bytes((2, 0, 1, 1, 0, 2))
    await client.expect_silence()


@mqtt311("MQTT-3.8.4-5", "MQTT-3.9.3-1", "MQTT-3.9.3-2", "MQTT-3.8.4-4")
@both_versions
async def test_a_refused_filter_does_not_refuse_the_others(broker: Broker, version: int) -> None:
    client = await connected(broker, "client", version)
    suback = await client.subscribe("a", "x/" * 2_500, "b", qos=1, accepted=False)
    assert suback.reason_codes == (1, 0x80, 1)
    await client.publish("b", b"x", qos=1)
    await client.expect_message("b", b"x")


@mqtt311("MQTT-3.8.3-3", "MQTT-3.10.3-2", "MQTT-4.8.0-1")
@pytest.mark.parametrize("first", [0x82, 0xA2], ids=["SUBSCRIBE", "UNSUBSCRIBE"])
@both_versions
async def test_a_request_without_filters_closes(broker: Broker, first: int, version: int) -> None:
    client = await connected(broker, "client", version)
    await client.send_raw(octets.frame(first, octets.uint16(1)))
    await client.expect_closed()


@mqtt311("MQTT-4.8.0-1")
@pytest.mark.parametrize("options", [3, 4, 0x80, 0xFF], ids=hex)
@both_versions
async def test_a_requested_qos_that_does_not_exist_closes(broker: Broker, options: int, version: int) -> None:
    client = await connected(broker, "client", version)
    await client.send_raw(octets.subscribe(b"t", options, properties_=None))
    await client.expect_closed()


@mqtt311("MQTT-3.8.4-3", "MQTT-3.3.1-6")
@both_versions
async def test_an_identical_filter_replaces_the_subscription(broker: Broker, version: int) -> None:
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"kept", qos=1, retain=True)
    client = await connected(broker, "client", version)
    for qos in (2, 0, 1):
        await client.subscribe("t", qos=qos)
        await client.expect_message("t", b"kept", retain=True)
        await publisher.publish("t", b"live", qos=2)
        await client.expect_message("t", b"live", qos=qos)
        await client.expect_silence()


@mqtt311("MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6")
@both_versions
async def test_unsubscribe_compares_literally_and_is_always_answered(broker: Broker, version: int) -> None:
    client = await connected(broker, "client", version)
    await client.subscribe("a/+", "b/#", "c")
    client.octets_received.clear()
    await client.unsubscribe("a/b", "#", "b/+", packet_identifier=300)
    assert client.octets_received == b"\xb0\x02" + octets.uint16(300)
    await client.expect_silence()
    publisher = await connected(broker, "publisher", version)
    for topic in ("a/b", "b/c", "c"):
        await publisher.publish(topic, b"x")
        await client.expect_message(topic, b"x")
    await client.unsubscribe("a/+", "c")
    for topic in ("a/b", "b/c", "c"):
        await publisher.publish(topic, b"x")
    await client.expect_message("b/c", b"x")
    await client.expect_silence()


@mqtt311("MQTT-3.10.4-2", "MQTT-3.10.4-3")
@pytest.mark.parametrize("qos", [1, 2])
@both_versions
async def test_unsubscribe_finishes_what_was_started(broker: Broker, qos: int, version: int) -> None:
    client = await connected(broker, "client", version, clean_start=False)
    await client.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"started", qos=qos)
    publish = await client.expect(Publish)
    await client.unsubscribe("t")
    await publisher.publish("t", b"too late", qos=qos)
    await client.expect_silence()
    await client.aclose()
    client = await connected(broker, "client", version, clean_start=False)
    await client.expect_message("t", b"started", dup=True, packet_identifier=publish.packet_identifier)
    await client.expect_alive()


# ---- the Will ----


async def watching(broker: Broker, version: int) -> WireClient:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("will", qos=2)
    return watcher


@mqtt311("MQTT-3.1.2-8", "MQTT-3.1.2-10")
@pytest.mark.parametrize("ending", ["cut", "protocol violation", "malformed", "taken over"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_the_will_is_published_once_at_the_end_of_the_connection(
    broker: Broker, ending: str, qos: int, version: int
) -> None:
    watcher = await watching(broker, version)
    client = await connected(broker, "client", version, will=make_will("will", b"gone", qos), clean_start=False)
    await watcher.expect_silence()
    if ending == "cut":
        await client.aclose()
    elif ending == "taken over":
        taker = await connected(broker, "client", version, clean_start=False)
        await client.expect_closed()
        await taker.disconnect()
    else:
        await client.send_raw(b"\xb0\x02\0\x01" if ending == "protocol violation" else b"\xc1\0")
        await client.expect_closed()
    await watcher.expect_message("will", b"gone", qos=qos, retain=False)
    await watcher.expect_silence(100)


@mqtt311("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
@both_versions
async def test_disconnect_drops_the_will(broker: Broker, version: int) -> None:
    watcher = await watching(broker, version)
    client = await connected(broker, "client", version, will=make_will("will", b"gone"))
    await client.disconnect()
    await watcher.expect_silence(100)


@mqtt311("MQTT-3.1.2-12")
@both_versions
async def test_without_will_flag_nothing_is_published(broker: Broker, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("#", qos=2)
    client = await connected(broker, "client", version, clean_start=False)
    await client.aclose()
    # a Will belongs to its connection: the next one has none
    client = await connected(broker, "client", version, will=make_will("will", b"gone"), clean_start=False)
    await client.disconnect()
    client = await connected(broker, "client", version, clean_start=False)
    await client.aclose()
    await watcher.expect_silence(100)


@mqtt311("MQTT-3.1.2-16", "MQTT-3.1.2-17")
@pytest.mark.parametrize("retain", [False, True])
@both_versions
async def test_will_retain(broker: Broker, retain: bool, version: int) -> None:
    watcher = await watching(broker, version)
    client = await connected(broker, "client", version, will=make_will("will", b"gone", 1, retain))
    await client.aclose()
    await watcher.expect_message("will", b"gone", retain=False)
    late = await connected(broker, "late", version)
    await late.subscribe("will")
    if retain:
        await late.expect_message("will", b"gone", retain=True)
    await late.expect_silence()
