"""Retained messages and tokens: the earlier end counts, a new token prolongs, a revoked one removes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from acebroker_codec.packets import Connack
from tests.ace.devices import WALL, Device, broker_with_ace, with_length
from tests.conformance.statements import ace
from tests.harness import connected, make_will, run_in_virtual_time
from trio_acebroker import Broker
from trio_acebroker.config import Ace

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    public = Ace(public_subscribe=("#",), public_publish=("open/#",))
    async with broker_with_ace(tmp_path, anonymous=True, ace=public) as running:
        yield running


async def retained(broker: Broker, topic_filter: str = "own/#", way: str = "wire") -> list[str]:
    """The topics that somebody gets who comes now."""
    if way == "in process":
        found = broker.router.retained.match(topic_filter, broker.clock.now, broker.clock.wall)
        return sorted(message.topic for message in found)
    client = await connected(broker, "reader")
    await client.subscribe(topic_filter, qos=1)
    topics = sorted(packet.topic for packet in await client.drain())  # type: ignore[attr-defined]
    await client.disconnect()
    return topics


@ace("ACE-5-5", "ACE-5-6")
@pytest.mark.parametrize("way", ["wire", "in process"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_retained_message_ends_with_its_publishers_token(broker: Broker, qos: int, way: str) -> None:
    """D-25: whatever its QoS; the publisher may have left."""
    client = await Device().connect(broker, Device().token(exp=WALL + 100))
    await client.publish("own/a", b"x", qos=qos, retain=True)
    await client.publish("own/b", b"x", qos=qos, retain=True, message_expiry_interval=20)
    await client.publish("own/c", b"x", qos=qos, retain=True, message_expiry_interval=2_000)
    await client.disconnect()
    assert await retained(broker, way=way) == ["own/a", "own/b", "own/c"]
    await trio.sleep(30)
    assert await retained(broker, way=way) == ["own/a", "own/c"]
    await trio.sleep(70)
    assert await retained(broker, way=way) == []


@ace("ACE-5-1", "ACE-5-5")
async def test_messages_of_tokens_without_an_end_and_of_public_clients_stay(broker: Broker) -> None:
    device = Device()
    client = await device.connect(broker, device.token(exp=None))
    await client.publish("own/a", b"x", retain=True)
    anybody = await connected(broker, "anybody")
    await anybody.publish("open/a", b"x", retain=True)
    for each in (client, anybody):
        await each.disconnect()
    await trio.sleep(80_000)
    assert await retained(broker, "+/a") == ["open/a", "own/a"]


@ace("ACE-5-6")
async def test_who_publishes_again_gives_a_message_another_end(broker: Broker) -> None:
    first = await Device().connect(broker, Device().token(exp=WALL + 10))
    await first.publish("own/a", b"1", retain=True)
    other = Device(OTHER_KEY, "other")
    second = await other.connect(broker, other.token(sub="other", exp=WALL + 100))
    await second.publish("own/a", b"2", qos=1, retain=True)
    await trio.sleep(20)
    assert await retained(broker) == ["own/a"]
    await second.publish("own/a", b"", qos=1, retain=True)
    assert await retained(broker) == []
    assert not broker.router.retained._leases


@pytest.mark.parametrize("again", ["re-authentication", "connection"])
@pytest.mark.parametrize(
    ("scope", "stay"),
    [
        (None, ["own/a", "own/b"]),
        ([["own/a", ["pub"]]], ["own/a"]),
        ([["own/#", ["sub"]]], []),
        ([["#", ["pub"]]], ["own/a", "own/b"]),
    ],
    ids=["same scope", "narrower", "only sub", "wider"],
)
async def test_a_new_token_prolongs_what_it_covers(broker: Broker, again: str, scope: Any, stay: list[str]) -> None:
    """D-25."""
    device = Device()
    client = await device.connect(broker, device.token(exp=WALL + 100))
    for topic in ("own/a", "own/b"):
        await client.publish(topic, b"x", qos=1, retain=True)
    token = device.token(iat=WALL, exp=WALL + 500, **({} if scope is None else {"scope": scope}))
    if again == "connection":
        await client.disconnect()
        client = await device.connect(broker, token)
    else:
        await device.renew(client, token)
    await trio.sleep(200)
    assert await retained(broker) == stay
    await trio.sleep(301)
    assert await retained(broker) == []
    assert not broker.router.retained._leases


async def test_a_shorter_token_shortens_nothing(broker: Broker) -> None:
    """D-25: the limit is that of the token at publication, extended."""
    device = Device()
    client = await device.connect(broker, device.token(exp=WALL + 100))
    await client.publish("own/a", b"x", qos=1, retain=True)
    await device.renew(client, device.token(iat=WALL, exp=WALL + 20))
    await trio.sleep(50)
    assert await retained(broker) == ["own/a"]


async def test_what_has_ended_is_not_called_back(broker: Broker) -> None:
    device = Device()
    client = await device.connect(broker, device.token(exp=WALL + 10))
    await client.publish("own/a", b"x", qos=1, retain=True)
    await trio.sleep(20)
    await device.connect(broker, device.token(exp=WALL + 500))
    assert await retained(broker) == []


async def test_somebody_elses_token_prolongs_nothing(broker: Broker) -> None:
    client = await Device().connect(broker, Device().token(exp=WALL + 10))
    await client.publish("own/a", b"x", qos=1, retain=True)
    other = Device(OTHER_KEY, "other")
    await other.connect(broker, other.token(sub="other", exp=WALL + 500))
    await trio.sleep(20)
    assert await retained(broker) == []


# ---- the Will ----


@ace("ACE-5-6", "ACE-2.2.4.1-10")
async def test_a_retained_will_ends_with_the_token_too(broker: Broker) -> None:
    will = make_will("own/will", b"gone", retain=True)
    client = await Device().connect(broker, Device().token(exp=WALL + 100), will=will)
    await client.aclose()
    await trio.sleep(1)
    assert await retained(broker) == ["own/will"]
    await trio.sleep(100)
    assert await retained(broker) == []


@ace("ACE-5-9")
async def test_a_will_after_the_end_of_the_token_goes_out_and_is_not_retained(broker: Broker) -> None:
    """D-25."""
    watcher = await connected(broker, "watcher")
    await watcher.subscribe("own/#")
    will = make_will("own/will", b"gone", retain=True)
    await Device().connect(broker, Device().token(exp=WALL + 100), will=will)
    await trio.sleep(101)
    await watcher.expect_message("own/will", b"gone")
    assert await retained(broker) == []


async def test_a_will_lasts_by_the_token_that_was_there_last(broker: Broker) -> None:
    device = Device()
    will = make_will("own/will", b"gone", retain=True)
    client = await device.connect(broker, device.token(exp=WALL + 100), will=will)
    await device.renew(client, device.token(iat=WALL, exp=WALL + 300))
    await trio.sleep(200)
    await device.connect(broker, device.token(iat=WALL + 1, exp=WALL + 250))  # takes over
    assert await retained(broker) == ["own/will"]
    await trio.sleep(101)
    assert await retained(broker) == []


# ---- revocation ----


async def test_a_revoked_token_is_worth_nothing(broker: Broker) -> None:
    device = Device()
    token, other_token = device.token(), device.token(iat=WALL)
    client = await device.connect(broker, token)
    other = await Device(name="second").connect(broker, other_token)
    await client.publish("own/a", b"x", qos=1, retain=True)
    await other.publish("own/b", b"x", qos=1, retain=True)
    assert broker.revoke(hashlib.sha256(token).digest()) == 1
    await client.expect_closed(0x87)
    await other.expect_alive()
    assert await retained(broker) == ["own/b"]
    again = await device.open(broker)
    connack = await device.attempt(again, with_length(token) + device.proof())
    assert isinstance(connack, Connack) and connack.reason_code == 0x87
    uploader = await connected(broker, "uploader")
    answer = await uploader.publish("authz-info", token, qos=1)
    assert answer is not None and answer.reason_code == 0x87
    assert broker.revoke(bytes(32)) == 0
    await device.connect(broker, device.token(iat=WALL + 1))


async def test_without_tokens_there_is_nothing_to_revoke() -> None:
    with pytest.raises(RuntimeError):
        Broker().revoke(bytes(32))
