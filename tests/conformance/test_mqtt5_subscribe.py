"""MQTT 5.0, 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK."""

from __future__ import annotations

import pytest

from acebroker_codec.packets import Publish, Suback, SubscriptionRequest, Unsuback
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import connected
from trio_acebroker import Broker

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
SUBACK_CODES = {0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}
UNSUBACK_CODES = {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}


@mqtt5("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1", "MQTT-3.9.3-2")
async def test_one_suback_with_a_code_for_each_filter_in_order(broker: Broker) -> None:
    client = await connected(broker, "client")
    requests = [SubscriptionRequest(f"t/{i}", qos=qos) for i, qos in enumerate((2, 0, 1, 1, 0, 2, 2))]
    suback = await client.subscribe(*requests, packet_identifier=300)
    assert suback.reason_codes == (2, 0, 1, 1, 0, 2, 2)
    await client.expect_silence()
    publisher = await connected(broker, "publisher")
    for request in requests:
        await publisher.publish(request.filter, b"x", qos=2)
        await client.expect_message(request.filter, b"x", qos=request.qos)


@mqtt5("MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.9.3-1", "MQTT-3.9.3-2", "MQTT-3.8.4-7")
async def test_a_refused_filter_does_not_refuse_the_others(broker: Broker) -> None:
    """A filter longer than the broker takes stands between two good ones."""
    client = await connected(broker, "client")
    suback = await client.subscribe("a", "x/" * 2_500, "b", qos=1, accepted=False)
    assert suback.reason_codes[0] == 1
    assert suback.reason_codes[1] >= 0x80
    assert suback.reason_codes[2] == 1
    assert set(suback.reason_codes) <= SUBACK_CODES
    publisher = await connected(broker, "publisher")
    for topic in ("a", "b"):
        await publisher.publish(topic, b"x", qos=1)
        await client.expect_message(topic, b"x")


@mqtt5("MQTT-3.8.4-5", "MQTT-3.8.4-3")
async def test_filters_are_processed_in_order(broker: Broker) -> None:
    client = await connected(broker, "client")
    suback = await client.subscribe(SubscriptionRequest("t", qos=2), SubscriptionRequest("t", qos=0))
    assert suback.reason_codes == (2, 0)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=2)
    await client.expect_message("t", b"x", qos=0)
    await client.expect_silence()


@mqtt5("MQTT-3.8.4-3", "MQTT-3.8.4-4")
async def test_an_identical_filter_replaces_the_subscription(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", retain=True)
    await publisher.expect_alive()
    client = await connected(broker, "client")
    for qos, identifier in ((2, 1), (0, 2), (1, None)):
        await client.subscribe("t", qos=qos, subscription_identifier=identifier)
        identifiers = () if identifier is None else (identifier,)
        await client.expect_message("t", b"kept", retain=True, subscription_identifiers=identifiers)
        await publisher.publish("t", b"live", qos=2)
        await client.expect_message("t", b"live", qos=qos, subscription_identifiers=identifiers)
        await client.expect_silence()
    await client.unsubscribe("t")
    await publisher.publish("t", b"live", qos=2)
    await client.expect_silence()


@mqtt5("MQTT-3.8.4-4")
@pytest.mark.parametrize("qos", [0, 1])
async def test_replacing_loses_no_message(broker: Broker, qos: int) -> None:
    client = await connected(broker, "client")
    await client.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    for number in range(30):
        await publisher.publish("t", b"%d" % number, qos=qos)
        if number % 3 == 0:
            await client.subscribe("t", qos=qos)
    received = [packet.payload for packet in await client.drain() if isinstance(packet, Publish)]
    assert received == [b"%d" % number for number in range(30)]


@mqtt5("MQTT-3.8.3-3")
async def test_no_local(broker: Broker) -> None:
    client = await connected(broker, "client")
    other = await connected(broker, "other")
    await client.subscribe("quiet", no_local=True, qos=1)
    await client.subscribe("loud", no_local=False, qos=1)
    await other.subscribe("quiet", no_local=True, qos=1)
    await client.publish("quiet", b"own", qos=1)
    await client.publish("loud", b"own", qos=1)
    await client.expect_message("loud", b"own")
    await client.expect_silence()
    await other.expect_message("quiet", b"own")
    await other.publish("quiet", b"foreign", qos=1)
    await client.expect_message("quiet", b"foreign")
    await other.expect_silence()


@mqtt5("MQTT-3.8.3-3")
async def test_no_local_of_one_subscription_does_not_silence_another(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.subscribe("a/#", no_local=True, subscription_identifier=1)
    await client.subscribe("a/+", no_local=False, subscription_identifier=2)
    await client.publish("a/b", b"own")
    await client.expect_message("a/b", b"own", subscription_identifiers=(2,))
    await client.expect_silence()


@mqtt5("MQTT-3.8.3-3")
async def test_no_local_holds_for_retained_messages(broker: Broker) -> None:
    client, other = await connected(broker, "client"), await connected(broker, "other")
    await client.publish("a/own", b"own", retain=True)
    await other.publish("a/other", b"other", retain=True)
    await client.subscribe("a/#", no_local=True)
    await client.expect_message("a/other", b"other")
    await client.expect_silence()


@mqtt5("MQTT-3.8.3-4", "MQTT5-U-3.8.3.1-1")
async def test_no_local_on_a_shared_subscription_is_a_protocol_error(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.subscribe(b"$share/group/t", 0x04))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.8.3-5")
@pytest.mark.parametrize("options", [0x40, 0x80, 0xC0], ids=hex)
async def test_reserved_option_bits_are_malformed(broker: Broker, options: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.subscribe(b"t", options))
    await client.expect_closed(MALFORMED)


@mqtt5("MQTT5-U-3.8.3.1-1")
@pytest.mark.parametrize("options", [0x03, 0x30], ids=["QoS 3", "Retain Handling 3"])
async def test_option_values_that_do_not_exist(broker: Broker, options: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.subscribe(b"t", options))
    await client.expect_closed({MALFORMED, PROTOCOL_ERROR})


@mqtt5("MQTT5-U-3.8.2.1.2-1")
@pytest.mark.parametrize("entries", [[b"\x0b\0"], [b"\x0b\x01"] * 2], ids=["0", "twice"])
async def test_a_wrong_subscription_identifier_is_a_protocol_error(broker: Broker, entries: list[bytes]) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.subscribe(b"t", properties_=octets.properties(*entries)))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.8.3-2", "MQTT-3.10.3-2", "MQTT5-U-3.8.3-1", "MQTT5-U-3.10.3-1")
@pytest.mark.parametrize("first", [0x82, 0xA2], ids=["SUBSCRIBE", "UNSUBSCRIBE"])
async def test_a_request_without_filters_is_a_protocol_error(broker: Broker, first: int) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.frame(first, octets.uint16(1) + b"\0"))
    await client.expect_closed(PROTOCOL_ERROR)


@mqtt5("MQTT-3.8.3-1", "MQTT-3.10.3-1")
@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"a\0"], ids=bytes.hex)
async def test_filters_follow_the_string_rules(broker: Broker, text: bytes) -> None:
    for stimulus in (octets.subscribe(text), octets.frame(0xA2, octets.uint16(1) + b"\0" + octets.binary(text))):
        client = await connected(broker, "client")
        await client.send_raw(stimulus)
        await client.expect_closed(MALFORMED)


@mqtt5("MQTT-3.10.4-1", "MQTT-3.10.4-2")
async def test_unsubscribe_compares_literally(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.subscribe("a/+", "b/#")
    unsuback = await client.unsubscribe("a/b", "#", "a/#", "A/+", "b/+", "b/")
    assert unsuback.reason_codes == (0x11,) * 6
    publisher = await connected(broker, "publisher")
    await publisher.publish("a/b", b"1")
    await client.expect_message("a/b", b"1")
    assert (await client.unsubscribe("a/+")).reason_codes == (0x00,)
    await publisher.publish("a/b", b"2")
    await publisher.publish("b/c", b"3")
    await client.expect_message("b/c", b"3")
    await client.expect_silence()


@mqtt5("MQTT-3.10.4-2", "MQTT-3.10.4-3")
@pytest.mark.parametrize("qos", [1, 2])
async def test_unsubscribe_finishes_what_was_started(broker: Broker, qos: int) -> None:
    client = await connected(broker, "client")
    await client.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"started", qos=qos)
    publish = await client.expect(Publish)
    await client.unsubscribe("t")
    await publisher.publish("t", b"too late", qos=qos)
    await client.expect_silence()
    await client.acknowledge(publish)  # with its PUBREL, at QoS 2
    await client.expect_alive()


@mqtt5("MQTT-3.10.4-3", "MQTT-4.4.0-1")
async def test_a_started_delivery_is_resent_even_after_unsubscribe(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=100)
    await client.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"started", qos=2)
    await client.expect(Publish)
    await client.unsubscribe("t")
    await client.aclose()
    client = await connected(broker, "client", session_expiry_interval=100, clean_start=False)
    publish = await client.expect(Publish, payload=b"started", dup=True)
    await client.acknowledge(publish)


@mqtt5("MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6", "MQTT-3.11.3-1", "MQTT-3.11.3-2")
async def test_one_unsuback_with_a_code_for_each_filter_in_order(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.subscribe("a", "b", "c")
    unsuback = await client.unsubscribe("a", "never", "b", "a", packet_identifier=700)
    assert unsuback.packet_identifier == 700
    assert unsuback.reason_codes == (0x00, 0x11, 0x00, 0x11)
    assert set(unsuback.reason_codes) <= UNSUBACK_CODES
    await client.expect_silence()
    publisher = await connected(broker, "publisher")
    for topic in "abc":
        await publisher.publish(topic, b"x")
    await client.expect_message("c", b"x")
    await client.expect_silence()


@mqtt5("MQTT-3.9.2-1", "MQTT-3.9.2-2", "MQTT-3.11.2-1", "MQTT-3.11.2-2", "MQTT-3.1.2-24")
async def test_suback_and_unsuback_fit_the_maximum_packet_size(broker: Broker) -> None:
    probe = await connected(broker, "client", maximum_packet_size=1_000)
    limit = len(probe.octets_received)
    client = await connected(broker, "client", maximum_packet_size=limit)
    for count in range(1, limit - 4):
        filters = [f"{'x/' * 2_500}{i}" for i in range(count)]
        client.octets_received.clear()
        for stimulus, answer in (
            (octets.frame(0x82, b"\0\x01\0" + b"".join(octets.string(f) + b"\0" for f in filters)), Suback),
            (octets.frame(0xA2, b"\0\x01\0" + b"".join(map(octets.string, filters))), Unsuback),
        ):
            client.octets_received.clear()
            await client.send_raw(stimulus)
            acknowledgement = await client.expect(answer, packet_identifier=1)
            assert len(acknowledgement.reason_codes) == count
            assert len(client.octets_received) <= limit


@mqtt5("MQTT-3.8.4-1", "MQTT-3.3.1-9")
async def test_a_subscription_identifier_stays_with_its_subscription(broker: Broker) -> None:
    client = await connected(broker, "client", session_expiry_interval=100)
    await client.subscribe("t", subscription_identifier=128)
    await client.disconnect()
    client = await connected(broker, "client", clean_start=False)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x")
    await client.expect_message("t", b"x", subscription_identifiers=(128,))
    await client.subscribe("t")
    await publisher.publish("t", b"x")
    await client.expect_message("t", b"x", subscription_identifiers=())
