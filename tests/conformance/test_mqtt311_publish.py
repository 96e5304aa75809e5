"""MQTT 3.1.1, 3.3 to 3.7, 4.3 to 4.6 (and MQTT 3.1): PUBLISH, QoS handshakes, retained messages, order."""

from __future__ import annotations

from pathlib import Path

import pytest

from acebroker_codec.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from tests.conformance import octets
from tests.conformance.statements import mqtt311
from tests.harness import broker_running, connected, make
from trio_acebroker import Broker
from trio_acebroker.config import Authorization

both_versions = pytest.mark.parametrize("version", [4, 3], ids=["3.1.1", "3.1"])
both_qos = pytest.mark.parametrize("qos", [1, 2])


def publication(payload: bytes, qos: int, identifier: int, **fields: object) -> Publish:
    return make(Publish, topic="t", payload=payload, qos=qos, packet_identifier=identifier, **fields)


@mqtt311("MQTT-3.3.1-4", "MQTT-4.8.0-1")
@pytest.mark.parametrize("first", [0x36, 0x37, 0x3E], ids=hex)
@both_versions
async def test_qos_3_closes(broker: Broker, first: int, version: int) -> None:
    client = await connected(broker, "sender", version)
    await client.send_raw(octets.publish(b"t", first=first, packet_identifier=1, properties_=None))
    await client.expect_closed()


@mqtt311("MQTT-3.3.4-1", "MQTT-3.8.4-6", "MQTT-4.3.1-1", "MQTT-3.3.1-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
@both_versions
async def test_delivery_qos_is_the_lower_one(broker: Broker, qos: int, granted: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    assert (await subscriber.subscribe("t", qos=granted)).reason_codes == (granted,)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x", qos=qos)
    await publisher.expect_silence()
    await subscriber.expect_message("t", b"x", qos=min(qos, granted), dup=False)
    await subscriber.expect_silence()


@mqtt311("MQTT-3.3.1-3", "MQTT-3.3.1-1")
@both_qos
@both_versions
async def test_dup_of_the_publisher_is_not_passed_on(broker: Broker, qos: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x", qos=qos, dup=True)
    await subscriber.expect_message("t", b"x", qos=qos, dup=False)


@mqtt311("MQTT-3.3.5-1")
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_overlapping_subscriptions_honour_the_highest_qos(broker: Broker, qos: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("a/#", qos=0)
    await subscriber.subscribe("a/+", qos=2)
    await subscriber.subscribe("a/b", qos=1)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("a/b", b"x", qos=qos)
    copies = [packet for packet in await subscriber.drain() if isinstance(packet, Publish)]
    assert copies
    assert max(copy.qos for copy in copies) == qos


@mqtt311("MQTT-3.3.5-2")
@pytest.mark.parametrize("answer", ["ignore", "disconnect"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_a_publish_that_is_not_authorised(tmp_path: Path, answer: str, qos: int, version: int) -> None:
    """Acknowledged as if it were, or the close; delivered to nobody either way."""
    acl_file = tmp_path / "acl"
    acl_file.write_text("topic read #\ntopic write allowed\n")
    authorization = Authorization(acl_file=str(acl_file), denied_publish_v3=answer)  # type: ignore[arg-type]
    async with broker_running(authorization=authorization) as broker:
        watcher = await connected(broker, "watcher", version)
        await watcher.subscribe("#", qos=2)
        client = await connected(broker, "client", version)
        await client.publish("allowed", b"x", qos=qos)
        await watcher.expect_message("allowed", b"x")
        if answer == "ignore":
            await client.publish("secret", b"x", qos=qos)
            await client.expect_alive()
        else:
            await client.send(make(Publish, topic="secret", qos=qos, packet_identifier=9 if qos else 0))
            await client.expect_closed()
        await watcher.expect_silence()


# ---- the broker as receiver ----


@mqtt311("MQTT-4.3.2-2", "MQTT-3.3.4-1")
@pytest.mark.parametrize("dup", [False, True])
@both_versions
async def test_after_puback_the_identifier_means_a_new_message(broker: Broker, dup: bool, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("t", qos=1)
    publisher = await connected(broker, "publisher", version)
    for payload in (b"first", b"second"):
        await publisher.send(publication(payload, 1, 5, dup=dup))
        await publisher.expect(Puback(5))
        await subscriber.expect_message("t", payload)


@mqtt311("MQTT-4.3.3-2", "MQTT-3.3.4-1", "MQTT-2.3.1-6")
@both_versions
async def test_qos_2_is_passed_on_exactly_once(broker: Broker, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher", version)
    for payload in (b"once", b"new"):
        for dup in (False, True, True):
            await publisher.send(publication(payload, 2, 5, dup=dup))
            await publisher.expect(Pubrec(5))
        for _ in range(2):
            await publisher.send(Pubrel(5))
            await publisher.expect(Pubcomp(5))
        await subscriber.expect_message("t", payload, qos=2)
        await subscriber.expect_silence()


@mqtt311("MQTT-4.3.3-2", "MQTT-4.1.0-1", "MQTT-3.1.2-4")
@both_versions
async def test_qos_2_is_passed_on_exactly_once_across_a_reconnect(broker: Broker, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher", version, clean_start=False)
    await publisher.send(publication(b"once", 2, 5))
    await publisher.expect(Pubrec(5))
    await publisher.aclose()
    publisher = await connected(broker, "publisher", version, clean_start=False)
    await publisher.send(publication(b"once", 2, 5, dup=True))
    await publisher.expect(Pubrec(5))
    await publisher.send(Pubrel(5))
    await publisher.expect(Pubcomp(5))
    await subscriber.expect_message("t", b"once")
    await subscriber.expect_silence()


@mqtt311("MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-6")
@both_versions
async def test_acknowledgements_leave_in_the_order_of_the_publications(broker: Broker, version: int) -> None:
    publisher = await connected(broker, "publisher", version)
    identifiers = [9, 3, 65_535, 1, 500, 2]
    await publisher.send(*(publication(b"x", 1, identifier) for identifier in identifiers))
    assert [(await publisher.expect(Puback)).packet_identifier for _ in identifiers] == identifiers
    await publisher.send(*(publication(b"x", 2, identifier) for identifier in identifiers))
    assert [(await publisher.expect(Pubrec)).packet_identifier for _ in identifiers] == identifiers


# ---- the broker as sender ----


@mqtt311("MQTT-3.3.1-1", "MQTT-4.3.2-1", "MQTT-4.3.3-1", "MQTT-4.4.0-1", "MQTT-2.3.1-4", "MQTT-2.3.1-3")
@both_qos
@both_versions
async def test_an_unacknowledged_publish_is_resent_on_resume_only(broker: Broker, qos: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    await subscriber.subscribe("t", qos=qos)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x", qos=qos)
    first = await subscriber.expect(Publish, payload=b"x", qos=qos, dup=False)
    await subscriber.expect_silence(3_600)
    await subscriber.aclose()
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    again = await subscriber.expect(Publish, payload=b"x", dup=True, packet_identifier=first.packet_identifier)
    await subscriber.acknowledge(again)
    await subscriber.expect_alive()
    await subscriber.aclose()
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    await subscriber.expect_silence()


@mqtt311("MQTT-4.3.3-1", "MQTT-4.4.0-1", "MQTT-3.6.1-1")
@both_versions
async def test_an_unanswered_pubrel_is_resent_and_its_publish_is_not(broker: Broker, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x", qos=2)
    publish = await subscriber.expect(Publish)
    await subscriber.send(Pubrec(publish.packet_identifier))
    await subscriber.expect(Pubrel(publish.packet_identifier))
    await subscriber.aclose()
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    await subscriber.expect(Pubrel(publish.packet_identifier))
    await subscriber.expect_silence()
    assert subscriber.octets_received.endswith(b"\x62\x02" + publish.packet_identifier.to_bytes(2, "big"))
    await subscriber.send(Pubcomp(publish.packet_identifier))
    await subscriber.expect_alive()


@mqtt311("MQTT-4.6.0-1", "MQTT-4.6.0-4", "MQTT-4.6.0-6")
@both_versions
async def test_resends_and_pubrels_keep_their_order(broker: Broker, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    await subscriber.subscribe("t", qos=2)
    publisher = await connected(broker, "publisher", version)
    for number in range(6):
        await publisher.publish("t", b"%d" % number, qos=2)
    identifiers = [(await subscriber.expect(Publish)).packet_identifier for _ in range(6)]
    await subscriber.aclose()
    subscriber = await connected(broker, "subscriber", version, clean_start=False)
    again = [await subscriber.expect(Publish, payload=b"%d" % number, dup=True) for number in range(6)]
    assert [publish.packet_identifier for publish in again] == identifiers
    order = [identifiers[i] for i in (3, 0, 4, 1, 2, 5)]
    await subscriber.send(*(Pubrec(identifier) for identifier in order))
    assert [(await subscriber.expect(Pubrel)).packet_identifier for _ in order] == order


@mqtt311("MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_each_publishers_order_is_kept(broker: Broker, qos: int, version: int) -> None:
    subscriber = await connected(broker, "subscriber", version)
    await subscriber.subscribe("#", qos=qos)
    publishers = [await connected(broker, f"publisher {i}", version) for i in range(3)]
    for number in range(30):
        for i, publisher in enumerate(publishers):
            identifier = number + 1 if qos else 0
            packet = make(Publish, topic=f"t/{i}", payload=b"%d" % number, qos=qos, packet_identifier=identifier)
            await publisher.send(packet, *([Pubrel(identifier)] if qos == 2 else []))
    order: dict[str, list[int]] = {}
    for _ in range(90):
        publish = await subscriber.expect(Publish, qos=qos)
        order.setdefault(publish.topic, []).append(int(publish.payload))
    assert order == {f"t/{i}": list(range(30)) for i in range(3)}


@mqtt311("MQTT-4.5.0-1", "MQTT-3.1.2-5")
@both_qos
@both_versions
async def test_an_owned_message_reaches_every_session(broker: Broker, qos: int, version: int) -> None:
    here = await connected(broker, "here", version)
    await here.subscribe("t", qos=2)
    away = await connected(broker, "away", version, clean_start=False)
    await away.subscribe("+", qos=2)
    await away.disconnect()
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"x", qos=qos)
    await publisher.disconnect()
    await here.expect_message("t", b"x", qos=qos)
    away = await connected(broker, "away", version, clean_start=False)
    await away.expect_message("t", b"x", qos=qos, dup=False)


# ---- RETAIN ----


@mqtt311("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-8", "MQTT-3.3.1-9")
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_retained_messages(broker: Broker, qos: int, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("#", qos=2)
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"old", qos=2, retain=True)
    await publisher.publish("t", b"new", qos=qos, retain=True)
    await publisher.publish("u", b"other", qos=qos, retain=True)
    for topic, payload in (("t", b"old"), ("t", b"new"), ("u", b"other")):
        await watcher.expect_message(topic, payload, retain=False)
    for topic_filter, expected in (("t", {"t": b"new"}), ("+", {"t": b"new", "u": b"other"})):
        late = await connected(broker, "late", version)
        await late.subscribe(topic_filter, qos=2)
        received = [packet for packet in await late.drain() if isinstance(packet, Publish)]
        assert {publish.topic: publish.payload for publish in received} == expected
        assert all(publish.retain and publish.qos == qos for publish in received)
        assert len(received) == len(expected)


@mqtt311("MQTT-3.3.1-10", "MQTT-3.3.1-11")
@pytest.mark.parametrize("qos", [0, 1, 2])
@both_versions
async def test_an_empty_payload_clears_and_is_forwarded(broker: Broker, qos: int, version: int) -> None:
    watcher = await connected(broker, "watcher", version)
    await watcher.subscribe("t")
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"kept", qos=qos, retain=True)
    await publisher.publish("t", b"", qos=qos, retain=True)
    await watcher.expect_message("t", b"kept", retain=False)
    await watcher.expect_message("t", b"", retain=False)
    await publisher.publish("never", b"", qos=qos, retain=True)
    late = await connected(broker, "late", version)
    await late.subscribe("#")
    await late.expect_silence()


@mqtt311("MQTT-3.3.1-12")
@both_versions
async def test_a_message_without_retain_leaves_the_store_alone(broker: Broker, version: int) -> None:
    publisher = await connected(broker, "publisher", version)
    await publisher.publish("t", b"kept", qos=1, retain=True)
    await publisher.publish("t", b"passing", qos=1)
    await publisher.publish("t", b"", qos=1)
    await publisher.publish("u", b"passing", qos=1)
    late = await connected(broker, "late", version)
    await late.subscribe("#")
    await late.expect_message("t", b"kept", retain=True)
    await late.expect_silence()
