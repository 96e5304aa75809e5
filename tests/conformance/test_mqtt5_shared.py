"""MQTT 5.0, 4.8.2: Shared Subscriptions."""

from __future__ import annotations

import pytest
import trio

from acebroker_codec.packets import Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback
from tests.conformance import octets
from tests.conformance.statements import mqtt5
from tests.harness import WireClient, connected
from trio_acebroker import Broker

SHARED = "$share/group/t"


async def members(broker: Broker, count: int, qos: int = 2, **fields: object) -> list[WireClient]:
    """Clients that hold the same shared subscription."""
    clients = []
    for index in range(count):
        client = await connected(broker, f"member {index}", **{"session_expiry_interval": 1_000, **fields})
        await client.subscribe(SHARED, qos=qos)
        clients.append(client)
    return clients


async def chosen(clients: list[WireClient]) -> tuple[WireClient, Publish]:
    """The one that gets the PUBLISH that is on its way, and the PUBLISH; the others get nothing."""
    found = []
    for client in clients:
        found += [(client, packet) for packet in await client.drain() if isinstance(packet, Publish)]
    assert len(found) == 1, f"{len(found)} members received the message"
    return found[0]


@mqtt5("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    "topic_filter",
    [
        "$share/",
        "$share//t",
        "$share/group",
        "$share/group/",
        "$share/gr+up/t",
        "$share/+/t",
        "$share/#/t",
        "$share/g#/t",
    ],
)
async def test_shared_filters_of_a_wrong_form_are_refused(broker: Broker, topic_filter: str) -> None:
    client = await connected(broker, "client")
    await client.send_raw(octets.subscribe(topic_filter.encode()))
    packet = await client.receive()
    if isinstance(packet, Suback):
        assert packet.reason_codes == (0x8F,)
    else:
        assert isinstance(packet, Disconnect)
        assert packet.reason_code in (0x81, 0x82, 0x8F)


@mqtt5("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("$share/g/t", "t"),
        ("$share/g//t", "/t"),
        ("$share/g/a/+/c", "a/b/c"),
        ("$share/g/#", "x"),
        ("$share/$g/t", "t"),
    ],
)
async def test_shared_filters_of_the_right_form(broker: Broker, topic_filter: str, topic: str) -> None:
    client = await connected(broker, "client")
    await client.subscribe(topic_filter)
    await client.publish(topic, b"x")
    await client.expect_message(topic, b"x")
    assert (await client.unsubscribe(topic_filter)).reason_codes == (0,)
    await client.publish(topic, b"x")
    await client.expect_silence()


@mqtt5("MQTT-4.8.2-3")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
async def test_the_qos_granted_to_the_chosen_client_counts(broker: Broker, qos: int, granted: int) -> None:
    clients = await members(broker, 2, qos=granted)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    _, publish = await chosen(clients)
    assert publish.qos == min(qos, granted)


@mqtt5("MQTT-4.8.2-3")
async def test_every_message_goes_to_one_member_of_each_group(broker: Broker) -> None:
    first = await members(broker, 3)
    second = [await connected(broker, f"second {i}") for i in range(2)]
    for client in second:
        await client.subscribe("$share/another/+", qos=1)
    alone = await connected(broker, "alone")
    await alone.subscribe("t")
    publisher = await connected(broker, "publisher")
    payloads = [b"%d" % number for number in range(30)]
    for payload in payloads:
        await publisher.publish("t", payload, qos=1)
    for group in (first, second, [alone]):
        received = [
            [packet.payload for packet in await client.drain() if isinstance(packet, Publish)] for client in group
        ]
        assert sorted(payload for of_one in received for payload in of_one) == sorted(payloads)
        assert all(received), "a member of the group got nothing"


@mqtt5("MQTT-4.8.2-4", "MQTT-4.4.0-1")
@pytest.mark.parametrize("after", ["PUBLISH", "PUBREC"])
async def test_a_started_qos_2_delivery_waits_for_its_client(broker: Broker, after: str) -> None:
    clients = await members(broker, 2)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=2)
    client, publish = await chosen(clients)
    other = next(member for member in clients if member is not client)
    if after == "PUBREC":
        await client.send(Pubrec(publish.packet_identifier))
        await client.expect(Pubrel)
    await client.aclose()
    await other.expect_silence(100)
    client = await connected(
        broker, f"member {clients.index(client)}", clean_start=False, session_expiry_interval=1_000
    )
    if after == "PUBREC":
        await client.expect(Pubrel, packet_identifier=publish.packet_identifier)
        await client.send(Pubcomp(publish.packet_identifier))
    else:
        await client.expect_message("t", b"x", dup=True, packet_identifier=publish.packet_identifier)
    await client.expect_alive()
    await other.expect_silence()


@mqtt5("MQTT-4.8.2-5")
async def test_a_started_qos_2_delivery_ends_with_its_clients_session(broker: Broker) -> None:
    clients = await members(broker, 2, session_expiry_interval=10)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=2)
    client, _ = await chosen(clients)
    other = next(member for member in clients if member is not client)
    await client.aclose()
    await trio.sleep(20)
    await other.expect_silence()
    # the group lives on
    await publisher.publish("t", b"next", qos=2)
    await other.expect_message("t", b"next")


@mqtt5("MQTT-4.8.2-6", "MQTT-4.4.0-2")
@pytest.mark.parametrize("qos", [1, 2])
async def test_an_error_acknowledgement_discards_for_the_whole_group(broker: Broker, qos: int) -> None:
    clients = await members(broker, 2, qos=qos)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=qos)
    client, publish = await chosen(clients)
    await client.send((Puback if qos == 1 else Pubrec)(publish.packet_identifier, 0x83))
    for member in clients:
        await member.expect_silence()
    await client.aclose()
    for member in clients:
        if member is not client:
            await member.expect_silence(5_000)


@mqtt5("MQTT-4.8.2-3", "MQTT-4.5.0-1")
async def test_a_qos_1_message_may_move_when_its_client_leaves(broker: Broker) -> None:
    """It is delivered to the other member, or to the same client when it is back: never lost."""
    clients = await members(broker, 2, qos=1)
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1)
    client, _ = await chosen(clients)
    index = clients.index(client)
    await client.aclose()
    back = await connected(broker, f"member {index}", clean_start=False, session_expiry_interval=1_000)
    received = [packet for member in (back, clients[1 - index]) for packet in await member.drain()]
    assert [packet.payload for packet in received if isinstance(packet, Publish)] == [b"x"]


@mqtt5("MQTT-4.5.0-1")
async def test_with_nobody_online_the_message_waits_for_the_group(broker: Broker) -> None:
    clients = await members(broker, 2, qos=1)
    for client in clients:
        await client.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"x", qos=1)
    back = await connected(broker, "member 1", clean_start=False)
    await back.expect_message("t", b"x")
    other = await connected(broker, "member 0", clean_start=False)
    await other.expect_silence()


@mqtt5("MQTT-3.3.2-5")
@pytest.mark.parametrize("granted", [0, 1])
async def test_what_expired_while_it_waited_for_the_group_is_not_delivered(broker: Broker, granted: int) -> None:
    (client,) = await members(broker, 1, qos=granted)
    await client.disconnect()
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"short", qos=1, message_expiry_interval=10)
    await publisher.publish("t", b"long", qos=1, message_expiry_interval=100)
    await trio.sleep(11)
    client = await connected(broker, "member 0", clean_start=False)
    await client.expect_message("t", b"long", qos=granted)
    await client.expect_silence()


@mqtt5("MQTT-3.3.1-9", "MQTT-4.8.2-1")
async def test_retained_messages_are_not_sent_to_shared_subscriptions(broker: Broker) -> None:
    publisher = await connected(broker, "publisher")
    await publisher.publish("t", b"kept", qos=1, retain=True)
    client = await connected(broker, "client")
    await client.subscribe(SHARED)
    await client.expect_silence()


@mqtt5("MQTT-3.3.4-3", "MQTT-4.8.2-3")
async def test_a_shared_and_an_own_subscription_of_one_client(broker: Broker) -> None:
    client = await connected(broker, "client")
    await client.subscribe(SHARED, qos=1, subscription_identifier=1)
    await client.subscribe("t", qos=1, subscription_identifier=2)
    await client.publish("t", b"x", qos=1)
    received = [packet for packet in await client.drain() if isinstance(packet, Publish)]
    identifiers = sorted(i for publish in received for i in publish.properties.subscription_identifiers)
    assert identifiers == [1, 2]


@mqtt5("MQTT-3.10.4-2", "MQTT-4.8.2-2")
async def test_leaving_a_group_leaves_the_others_in_it(broker: Broker) -> None:
    clients = await members(broker, 2)
    await clients[0].unsubscribe(SHARED)
    publisher = await connected(broker, "publisher")
    for number in range(4):
        await publisher.publish("t", b"%d" % number, qos=2)
        await clients[1].expect_message("t", b"%d" % number)
    await clients[0].expect_silence()
