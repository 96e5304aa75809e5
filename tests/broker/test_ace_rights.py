"""What a token permits, until it ends or another takes its place: PUBLISH, SUBSCRIBE, delivery, session, Will."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from acebroker_codec.packets import (
    Auth,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
)
from tests.ace.devices import CLIENT_NONCE, WALL, Device, FakeTls, answer_to, auth, broker_with_ace, with_length
from tests.ace.issuer import b64, raw_signature
from tests.conformance.statements import ace
from tests.harness import WireClient, connected, make_will, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.config import Ace, Limits

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

NOT_AUTHORIZED = 0x87
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with broker_with_ace(tmp_path, anonymous=True, ace=Ace(public_publish=("#",))) as running:
        yield running


async def watching(broker: Broker) -> WireClient:
    """Somebody who sees everything that is published."""
    watcher = await Device(OTHER_KEY, "watcher").connect(
        broker, Device(OTHER_KEY).token(sub="watcher", scope=[["#", ["sub"]]], exp=None)
    )
    await watcher.subscribe("#", qos=2)
    return watcher


# ---- PUBLISH ----


@ace("ACE-3-1", "ACE-3.1-1", "ACE-3.1-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("topic", ["own/a", "own", "in/a"])
async def test_publish_within_the_scope(broker: Broker, qos: int, topic: str) -> None:
    watcher = await watching(broker)
    client = await Device().connect(broker)
    for payload in (b"1", b"2"):  # the second one meets the flow cache
        await client.publish(topic, payload, qos=qos)
        await watcher.expect_message(topic, payload, qos=qos)


@ace("ACE-3.1-3", "ACE-3-1")
@pytest.mark.parametrize("topic", ["out/a", "in", "in/a/b", "x", "OWN/a"])
async def test_publish_beyond_it_is_refused_and_the_connection_stays(broker: Broker, topic: str) -> None:
    watcher = await watching(broker)
    client = await Device().connect(broker)
    for qos, kind in ((1, Puback), (2, Pubrec), (1, Puback)):
        answer = await client.publish(topic, b"x", qos=qos)
        assert isinstance(answer, kind) and answer.reason_code == NOT_AUTHORIZED
    await client.publish("own/a", b"allowed", qos=1)
    await watcher.expect_message("own/a", b"allowed")
    await watcher.expect_silence()
    assert broker.counters.denials["scope: no pub"] == 3


@ace("ACE-3.1-5")
@pytest.mark.parametrize("before", [0, 3])
async def test_publish_beyond_it_at_qos_0_ends_the_connection(broker: Broker, before: int) -> None:
    watcher = await watching(broker)
    client = await Device().connect(broker)
    await client.send(*[Publish("own/a", b"%d" % number) for number in range(before)], Publish("out/a", b"x"))
    await client.expect_closed(NOT_AUTHORIZED)
    for number in range(before):
        await watcher.expect_message("own/a", b"%d" % number)
    await watcher.expect_silence()


@ace("ACE-6.2-3", "ACE-6.2-4")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_mqtt_3_has_no_answer_so_the_connection_is_dropped(broker: Broker, qos: int) -> None:
    watcher = await watching(broker)
    device = Device()
    client = await device.open(broker, 4)
    await client.connect("device1", username="ace" + b64(device.token()), password=device.proof())
    suback = await client.subscribe("own/#", "in/a", accepted=False)
    assert suback.reason_codes == (0, 0x80)
    await client.send(Publish("out/a", b"x", qos, packet_identifier=7 if qos else 0))
    await client.expect_closed()
    await watcher.expect_silence()


async def test_public_clients_are_held_to_the_same_rules(tmp_path: Path) -> None:
    async with broker_with_ace(tmp_path, anonymous=True, ace=Ace(public_publish=("open",))) as broker:
        client = await connected(broker, "anybody")
        await client.publish("open", b"x", qos=1)
        await client.send(Publish("closed"))
        await client.expect_closed(NOT_AUTHORIZED)


# ---- SUBSCRIBE ----


@ace("ACE-3.3-1", "ACE-3.3-2", "ACE-3.3-3", "ACE-3.3-4", "ACE-2.3-10", "ACE-2.3-8")
async def test_every_filter_is_judged_by_itself(broker: Broker) -> None:
    client = await Device().connect(broker)
    filters = ["own/#", "own/+/x", "#", "in/a", "out/a", "$share/g/out/a", "$share/g/in/a", "+/a", "own/a"]
    requests = tuple(SubscriptionRequest(topic_filter, qos=1) for topic_filter in filters)
    await client.send(Subscribe(1, requests))
    suback = await client.expect(Suback)
    bad = NOT_AUTHORIZED
    assert suback.reason_codes == (1, 1, bad, bad, 1, 1, bad, bad, 1)


@ace("ACE-2.3-9")
@pytest.mark.parametrize("scope", [None, []])
async def test_an_empty_scope_permits_nothing_but_the_connection(broker: Broker, scope: Any) -> None:
    client = await Device().connect(broker, Device().token(scope=scope))
    await client.expect_alive()
    suback = await client.subscribe("own/a", accepted=False)
    assert suback.reason_codes == (NOT_AUTHORIZED,)
    answer = await client.publish("own/a", qos=1)
    assert answer is not None and answer.reason_code == NOT_AUTHORIZED


# ---- the end of the token ----


@ace("ACE-4-1", "ACE-4-3", "ACE-4-4", "ACE-4-5", "ACE-9202-4", "ADJ-9200-37")
@pytest.mark.parametrize("version", [4, 5])
async def test_an_idle_connection_is_cut_when_its_token_ends(broker: Broker, version: int) -> None:
    device = Device()
    token = device.token(exp=WALL + 100)
    client = await device.open(broker, version)
    if version == 5:
        await device.attempt(client, with_length(token) + device.proof(), keep_alive=0)
    else:
        await client.connect("device1", username="ace" + b64(token), password=device.proof(), keep_alive=0)
    other = await Device(OTHER_KEY, "other").connect(broker, Device(OTHER_KEY).token(sub="o", exp=WALL + 200))
    await trio.sleep(99.9)
    assert "device1" in broker.session.sessions
    await trio.sleep(0.2)
    await client.expect_closed(NOT_AUTHORIZED)
    assert "device1" not in broker.session.sessions
    await other.expect_alive()


async def test_a_token_without_an_end_is_not_cut(broker: Broker) -> None:
    client = await Device().connect(broker, Device().token(exp=None), keep_alive=0)
    await trio.sleep(80_000)
    await client.expect_alive()


@ace("ACE-4-1", "ACE-4-2", "ACE-4-5")
@pytest.mark.parametrize(
    "packet",
    [
        Publish("own/a", b"late"),
        Publish("own/a", b"late", 1, packet_identifier=3),
        Publish("own/a", b"late", 2, packet_identifier=3),
        Subscribe(3, (SubscriptionRequest("own/b"),)),
        Pingreq(),
    ],
    ids=lambda packet: f"{type(packet).__name__} {getattr(packet, 'qos', '')}",
)
async def test_nothing_comes_in_once_the_token_has_ended(broker: Broker, packet: Any) -> None:
    watcher = await watching(broker)
    client = await Device().connect(broker)
    await client.publish("own/a", b"in time", qos=1)  # its flow is known
    await watcher.expect_message("own/a", b"in time")
    ten_minutes_pass(broker)
    await client.send(packet)
    await client.expect_closed(NOT_AUTHORIZED)
    await watcher.expect_silence()


@ace("ACE-4-1", "ACE-3.2-1", "ACE-3.2-2", "ACE-3.2-3", "ACE-3.2-4")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_nothing_goes_out_once_the_token_has_ended(broker: Broker, qos: int) -> None:
    device = Device()
    client = await device.connect(broker, session_expiry_interval=1000)
    await client.subscribe("own/#", qos=2)
    publisher = await connected(broker, "anybody")
    await publisher.publish("own/a", b"in time", qos=qos)
    await client.expect_message("own/a", b"in time")
    ten_minutes_pass(broker)
    await publisher.publish("own/a", b"late", qos=qos)
    await client.expect_closed(NOT_AUTHORIZED)
    again = await device.open(broker)
    token = device.token(exp=WALL + 1_000)
    await device.attempt(again, with_length(token) + device.proof(), clean_start=False, session_expiry_interval=1000)
    if qos:
        await again.expect_message("own/a", b"late")
    await again.expect_silence()


@ace("ACE-6.2-5")
async def test_nothing_goes_out_to_mqtt_3_either(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker, 4)
    await client.connect("device1", username="ace" + b64(device.token()), password=device.proof())
    await client.subscribe("own/#")
    ten_minutes_pass(broker)
    publisher = await connected(broker, "anybody")
    await publisher.publish("own/a", b"late", qos=1)
    await client.expect_closed()


async def test_unsubscribe_and_disconnect_need_no_rights(broker: Broker) -> None:
    """D-22; and a client that leaves in order is not told that it had to."""
    watcher = await watching(broker)
    client = await Device().connect(broker, will=make_will("own/will", b"gone"))
    await client.subscribe("own/a")
    ten_minutes_pass(broker)
    await client.send(Disconnect(0))
    await client.expect_closed()
    await watcher.expect_silence()


@ace("ACE-5-9", "ACE-5-7")
async def test_the_will_is_published_when_the_token_ends(broker: Broker) -> None:
    watcher = await watching(broker)
    client = await Device().connect(broker, Device().token(exp=WALL + 10), will=make_will("own/will", b"gone", qos=1))
    await trio.sleep(11)
    await client.expect_closed(NOT_AUTHORIZED)
    await watcher.expect_message("own/will", b"gone")


@ace("ACE-5-9")
async def test_a_will_that_waits_is_published_after_the_end_of_the_token(broker: Broker) -> None:
    watcher = await watching(broker)
    will = make_will("own/will", b"gone", will_delay_interval=60)
    client = await Device().connect(broker, Device().token(exp=WALL + 10), will=will, session_expiry_interval=100)
    await client.aclose()
    await trio.sleep(30)
    await watcher.expect_silence()
    await trio.sleep(31)
    await watcher.expect_message("own/will", b"gone")


async def test_many_that_end_in_the_same_second_do_not_stop_others(broker: Broker) -> None:
    clients = [await Device(name=f"d{number}").connect(broker, Device().token(exp=WALL + 50)) for number in range(100)]
    bystander = await Device(OTHER_KEY, "bystander").connect(broker, Device(OTHER_KEY).token(sub="b"))
    await trio.sleep(51)
    await bystander.expect_alive()
    for client in clients:
        await client.expect_closed(NOT_AUTHORIZED)
    assert broker.counters.denials["rights ended"] == 100


def ten_minutes_pass(broker: Broker) -> None:
    """It is later by as much as tokens last, and no timer has noticed yet."""
    wall = broker.clock._wall
    broker.clock._wall = lambda: wall() + 600
    for task in broker.connections:
        task.conn.rights_end -= 600
        if task.conn.expiry_timer is not None:
            task.conn.expiry_timer.cancel()


# ---- re-authentication ----


@ace("ACE-4-7", "ACE-4-8", "ACE-4-11", "ACE-4-12", "ACE-4-6", "ACE-3.1-4")
async def test_a_new_token_takes_the_place_of_the_old_one(broker: Broker) -> None:
    device = Device()
    client = await device.connect(broker, device.token(exp=WALL + 10))
    answer = await client.publish("more/a", qos=1)
    assert answer is not None and answer.reason_code == NOT_AUTHORIZED
    token = device.token(iat=WALL, exp=WALL + 100, scope=[["more/#", ["pub", "sub"]]])
    answer = await device.renew(client, token)
    assert answer == auth(0x00)
    await client.subscribe("more/#")
    await client.publish("more/a", b"x")
    await client.expect_message("more/a", b"x")
    answer = await client.publish("own/a", qos=1)
    assert answer is not None and answer.reason_code == NOT_AUTHORIZED
    await trio.sleep(90)
    await client.expect_alive()
    await trio.sleep(11)
    await client.expect_closed(NOT_AUTHORIZED)


async def test_a_connection_that_was_challenged_may_renew_again_and_again(broker: Broker) -> None:
    device = Device()
    client = await device.open(broker)
    await client.send(answer_to(await device.attempt(client, with_length(device.token())), device.key))
    await client.receive()
    for number in range(5):
        assert await device.renew(client, device.token(iat=WALL + number)) == auth(0x00)
    await client.expect_alive()


@ace("ACE-4-12")
async def test_key_and_scope_may_change_the_subject_may_not(broker: Broker) -> None:
    device, other = Device(), Device(OTHER_KEY)
    client = await device.connect(broker)
    assert await device.renew(client, other.token(), other.key) == auth(0x00)
    answer = await device.renew(client, other.token(sub="device2"), other.key)
    assert isinstance(answer, Disconnect) and answer.reason_code == NOT_AUTHORIZED


async def test_without_a_subject_the_session_stays_with_the_first_key(broker: Broker) -> None:
    device, other = Device(), Device(OTHER_KEY)
    client = await device.connect(broker, device.token(sub=None), session_expiry_interval=100)
    assert await device.renew(client, other.token(sub=None), other.key) == auth(0x00)
    await client.disconnect()
    again = await device.open(broker)
    connack = await device.attempt(again, with_length(device.token(sub=None)) + device.proof(), clean_start=False)
    assert getattr(connack, "session_present", False)
    answer = await device.renew(again, device.token(sub="device1"))
    assert isinstance(answer, Disconnect)


@ace("ACE-4-13")
@pytest.mark.parametrize("failure", ["token", "expired", "proof", "nonce order", "other challenge"])
async def test_a_failed_re_authentication_ends_the_connection(broker: Broker, failure: str) -> None:
    device = Device()
    watcher = await watching(broker)
    client = await device.connect(broker, will=make_will("own/will", b"gone"))
    token = {"token": b"none", "expired": device.token(exp=WALL)}.get(failure, device.token())
    await client.send(auth(0x19, with_length(token)))
    challenge = await client.receive()
    assert isinstance(challenge, Auth) and challenge.properties.authentication_data is not None
    nonce = challenge.properties.authentication_data
    data = {
        "proof": CLIENT_NONCE + bytes(64),
        "nonce order": CLIENT_NONCE + raw_signature(device.key, CLIENT_NONCE + nonce),
        "other challenge": CLIENT_NONCE + raw_signature(device.key, bytes(8) + CLIENT_NONCE),
    }.get(failure, CLIENT_NONCE + raw_signature(device.key, nonce + CLIENT_NONCE))
    await client.send(auth(0x18, data))
    await client.expect_closed(NOT_AUTHORIZED)
    await watcher.expect_message("own/will", b"gone")


@ace("ACE-4-9", "ACE-4-11", "ACE-4-13")
async def test_the_exporter_proves_nothing_a_second_time(broker: Broker) -> None:
    device = Device()
    client = await device.connect(broker)
    await client.send(auth(0x19, with_length(device.token()) + device.proof()))
    await client.expect_closed(NOT_AUTHORIZED)


@ace("ACE-4-13")
@pytest.mark.parametrize(
    ("packets", "code"),
    [
        ([auth(0x19, None)], {NOT_AUTHORIZED}),
        ([auth(0x19, b"\0\0")], {NOT_AUTHORIZED}),
        ([auth(0x19, b"\0\x05tok")], {NOT_AUTHORIZED}),
        ([auth(0x18, bytes(8) + bytes(64))], {0x82}),
        ([auth(0x19, b"\0\x03tok", "other")], {0x82}),
        ([auth(0x00)], {0x82}),
    ],
    ids=["no data", "no token", "token too short", "no challenge", "other method", "code of a server"],
)
async def test_re_authentication_that_breaks_the_rules(broker: Broker, packets: list[Auth], code: set[int]) -> None:
    client = await Device().connect(broker)
    await client.send(*packets)
    await client.expect_closed(code)


async def test_two_re_authentications_at_once(broker: Broker) -> None:
    """D-24: the order of packets in MQTT refuses the second one."""
    device = Device()
    client = await device.connect(broker)
    await client.send(auth(0x19, with_length(device.token())), auth(0x19, with_length(device.token())))
    await client.expect(Auth, reason_code=0x18)
    await client.expect_closed({0x82, NOT_AUTHORIZED})


@ace("ACE-4-12")
async def test_who_never_proved_anything_cannot_begin(broker: Broker) -> None:
    client = await connected(broker, "anybody")
    await client.send(auth(0x19, with_length(Device().token())))
    await client.expect_closed(0x82)


async def test_other_packets_go_on_meanwhile_under_the_old_rights(broker: Broker) -> None:
    device = Device()
    client = await device.connect(broker)
    token = device.token(iat=WALL, scope=[["more/#", ["pub", "sub"]]])
    await client.subscribe("own/#")
    await client.send(auth(0x19, with_length(token)))
    challenge = await client.receive()
    await client.publish("own/a", b"x")
    await client.expect_message("own/a", b"x")
    answer = await client.publish("more/a", qos=1)
    assert answer is not None and answer.reason_code == NOT_AUTHORIZED
    # what stands before the answer in the same octets is judged by the old rights, what stands behind it by the new
    await client.send(
        Publish("own/b", b"old"),
        Publish("own/c", b"old", 1, packet_identifier=9),
        answer_to(challenge, device.key),
        Publish("more/a", b"new", 1, packet_identifier=10),
        Publish("own/c", b"new", 1, packet_identifier=11),
    )
    assert [type(await client.receive()).__name__ for _ in range(3)].count("Publish") == 2
    await client.expect(Auth, reason_code=0)
    await client.expect(Puback, packet_identifier=10, reason_code=0x10)
    await client.expect(Puback, packet_identifier=11, reason_code=NOT_AUTHORIZED)


# ---- the end comes while a re-authentication runs ----


async def renewing_beyond_the_end(broker: Broker, device: Device) -> tuple[WireClient, Any]:
    """A client that was challenged for a new token; then its old one ended."""
    client = await device.connect(broker, device.token(exp=WALL + 10), session_expiry_interval=100)
    await client.subscribe("own/#", qos=1)
    await trio.sleep(9)
    await client.send(auth(0x19, with_length(device.token(iat=WALL + 9, exp=WALL + 600))))
    challenge = await client.receive()
    await trio.sleep(2)
    return client, challenge


@ace("ACE-4-2", "ACE-4-5")
async def test_a_re_authentication_that_runs_puts_off_the_end_by_thirty_seconds(broker: Broker) -> None:
    device = Device()
    client, challenge = await renewing_beyond_the_end(broker, device)
    await client.expect_alive()  # PINGREQ (D-22)
    await trio.sleep(28)
    await client.expect_alive()
    await trio.sleep(1.2)
    await client.expect_closed(NOT_AUTHORIZED)
    assert isinstance(challenge, Auth)


@ace("ACE-4-6", "ACE-4-12")
async def test_in_that_time_the_new_token_may_be_proven(broker: Broker) -> None:
    device = Device()
    client, challenge = await renewing_beyond_the_end(broker, device)
    await client.send(answer_to(challenge, device.key))
    assert await client.receive() == auth(0x00)
    await client.publish("own/a", b"again")
    await client.expect_message("own/a", b"again")
    await trio.sleep(100)
    await client.expect_alive()


@ace("ACE-4-1", "ACE-4-5")
async def test_in_that_time_nothing_comes_in(broker: Broker) -> None:
    watcher = await watching(broker)
    client, _ = await renewing_beyond_the_end(broker, Device())
    for qos in (1, 2):
        answer = await client.publish("own/a", b"late", qos=qos)
        assert answer is not None and answer.reason_code == NOT_AUTHORIZED
    suback = await client.subscribe("own/b", accepted=False)
    assert suback.reason_codes == (NOT_AUTHORIZED,)
    assert isinstance(await client.unsubscribe("own/b"), Unsuback)
    await client.send(Publish("own/a", b"late"))
    await client.expect_closed(NOT_AUTHORIZED)
    await watcher.expect_silence()


@ace("ACE-3.2-2", "ACE-3.2-3", "ACE-4-1")
@pytest.mark.parametrize("qos", [0, 1])
async def test_in_that_time_nothing_goes_out(broker: Broker, qos: int) -> None:
    client, _ = await renewing_beyond_the_end(broker, Device())
    publisher = await connected(broker, "anybody")
    await publisher.publish("own/a", b"late", qos=qos)
    await client.expect_closed(NOT_AUTHORIZED)


async def test_a_re_authentication_that_begins_too_late_puts_off_nothing(tmp_path: Path) -> None:
    async with broker_with_ace(tmp_path, ace=Ace(reauthentication_seconds=0)) as broker:
        device = Device()
        client = await device.connect(broker, device.token(exp=WALL + 10))
        await client.send(auth(0x19, with_length(device.token())))
        await client.expect(Auth)
        await trio.sleep(11)
        await client.expect_closed(NOT_AUTHORIZED)


# ---- rights that are lost ----


@ace("ACE-3.2-1", "ACE-3.2-2", "ACE-3.2-3", "ACE-3.2-4")
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_subscriber_that_lost_a_right_is_disconnected_by_the_first_message(broker: Broker, qos: int) -> None:
    device = Device()
    client = await device.connect(broker)
    await client.subscribe("own/#", "out/a", qos=qos)
    publisher = await connected(broker, "anybody")
    for _ in range(2):
        await publisher.publish("own/a", b"before", qos=qos)
        await client.expect_message("own/a", b"before")
    assert await device.renew(client, device.token(iat=WALL, scope=[["out/#", ["sub"]]])) == auth(0x00)
    await publisher.publish("out/a", b"still", qos=qos)
    await client.expect_message("out/a", b"still")
    await publisher.publish("own/a", b"after", qos=qos)
    await client.expect_closed(NOT_AUTHORIZED)
    await publisher.expect_alive()


async def test_a_member_of_a_group_that_lost_the_right_is_passed_over(broker: Broker) -> None:
    """Nothing is lost: another member gets it."""
    device, other = Device(), Device(OTHER_KEY, "other")
    first, second = await device.connect(broker), await other.connect(broker, other.token(sub="o"))
    for client in (first, second):
        await client.subscribe("$share/g/own/#", qos=1)
    assert await device.renew(first, device.token(iat=WALL, scope=[["out/#", ["sub"]]])) == auth(0x00)
    publisher = await connected(broker, "anybody")
    for number in range(4):
        await publisher.publish("own/a", b"%d" % number, qos=1)
        await second.expect_message("own/a", b"%d" % number)
    await first.expect_alive()


@ace("ACE-2.2.4.1-19", "ACE-3.2-3")
@pytest.mark.parametrize("sent_before", [False, True], ids=["queued", "unacknowledged"])
async def test_pending_messages_of_a_resumed_session_are_checked(broker: Broker, sent_before: bool) -> None:
    """D-11: the first that is not covered ends the connection, and stays; a wider token gets them all."""
    device = Device()
    client = await device.connect(broker, session_expiry_interval=1000)
    await client.subscribe("own/#", "out/#", qos=1)
    publisher = await connected(broker, "anybody")
    if not sent_before:
        await client.disconnect()
    for topic in ("out/1", "own/2", "out/3"):
        await publisher.publish(topic, b"x", qos=1)
    if sent_before:
        for topic in ("out/1", "own/2", "out/3"):
            await client.expect(Publish, topic=topic)
        await client.disconnect()
    narrow = device.token(iat=WALL, scope=[["out/#", ["sub"]]])
    for _ in range(2):
        again = await device.open(broker)
        data = with_length(narrow) + device.proof()
        await device.attempt(again, data, clean_start=False, session_expiry_interval=1000)
        await again.expect(Publish, topic="out/1")
        await again.expect_closed(NOT_AUTHORIZED)
    wide = await device.open(broker)
    data = with_length(device.token(iat=WALL)) + device.proof()
    await device.attempt(wide, data, clean_start=False, session_expiry_interval=1000)
    for topic in ("out/1", "own/2", "out/3"):
        await wide.expect_message(topic, b"x")


async def test_what_was_received_before_the_rights_changed_is_released(broker: Broker) -> None:
    """D-11: rights count at first receipt."""
    watcher = await watching(broker)
    device = Device()
    client = await device.connect(broker)
    await client.send(Publish("own/a", b"x", 2, packet_identifier=5))
    await client.expect(Pubrec, reason_code=0)
    assert await device.renew(client, device.token(iat=WALL, scope=[])) == auth(0x00)
    await client.send(Publish("own/a", b"x", 2, packet_identifier=5, dup=True))
    await client.expect(Pubrec, reason_code=0)
    await client.send(Pubrel(5))
    await watcher.expect_message("own/a", b"x")


async def test_retained_messages_of_a_filter_that_is_not_covered_any_more(broker: Broker) -> None:
    device = Device()
    publisher = await connected(broker, "anybody")
    for number in range(3):
        await publisher.publish(f"own/{number}", b"x", retain=True)
    client = await device.connect(broker, session_expiry_interval=1000)
    await client.subscribe("own/#")
    assert len(await client.drain()) == 3
    suback = await client.subscribe("own/#", "out/#")
    assert suback.reason_codes == (0, 0)


# ---- no secret anywhere ----


async def test_nothing_secret_is_logged(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    device = Device()
    token = device.token()
    client = await device.connect(broker, token)
    await client.send(auth(0x19, with_length(token) + device.proof()))
    await client.expect_closed(NOT_AUTHORIZED)
    client = await device.open(broker)
    await device.attempt(client, with_length(token[:-1]) + device.proof())
    v3 = await device.open(broker, 4, FakeTls("x"))
    await v3.attempt_connect("d", username="ace" + b64(token), password=device.proof())
    text = caplog.text + repr([record.__dict__ for record in caplog.records])
    assert "'client_id': 'device1'" in text
    for part in token.decode().split("."):
        assert part not in text
    assert b64(token)[:40] not in text
    assert device.proof().hex() not in text and repr(device.proof())[:20] not in text


async def test_a_limit_of_one_token(tmp_path: Path) -> None:
    """A connection needs no place for its token; who comes without one then has to show it."""
    async with broker_with_ace(tmp_path, ace=Ace(tokens_max=1), limits=Limits()) as broker:
        first, second = Device(), Device(OTHER_KEY, "other")
        held = await first.connect(broker)
        client = await second.connect(broker, second.token(sub="o"))
        await client.expect_alive()
        await held.expect_alive()
        assert broker.ace is not None and len(broker.ace.tokens) == 1
        assert await second.renew(client, second.token(sub="o", iat=WALL)) == auth(0x00)
        await held.disconnect()
        await trio.testing.wait_all_tasks_blocked()
        assert await second.renew(client, second.token(sub="o", iat=WALL)) == auth(0x00)
        kept = broker.ace.tokens.of_client("other")
        assert kept is not None and len(kept.holders) == 1
        await client.send(Pingreq())
        await client.expect(Pingresp)
