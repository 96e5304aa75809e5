"""The steps of a program: what some client does next, or that time passes.

A step takes everything that it chooses from a random generator of its own, and from the state of things
when the broker rests: two runs in which the broker does the same make the same choices.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from msgspec.structs import replace

from acebroker_codec import packets
from acebroker_codec.encoder import encode
from tests.simulation.client import SimulatedClient
from tests.simulation.terms import NEVER, Message, Will
from tests.simulation.world import PACKET_MAX, World

__all__ = ["WEIGHTS", "perform"]

TOPICS = ("a", "a/b", "a/b", "a/b/c", "b/x", "$d/a", "sensors/kitchen/temperature")
FILTERS = (
    *("a", "a/b", "a/b", "a/+", "a/#", "+/b", "+", "b/x"),
    *("#", "own/+", "$d/#", "$d/+", "w/#", "$no/#", "sensors/+/temperature"),
)
SHARED_FILTERS = ("$share/g/a/#", "$share/g/a/b", "$share/h/a/b", "$share/h/w/+")
#: Subscription Identifiers from here on name one of SHARED_FILTERS each
SHARED_IDENTIFIERS = 201


async def perform(world: World, name: str, seed: int) -> None:
    """One step, to the moment when the broker rests. Raises Violation."""
    world.model.now = trio.current_time()
    rng = random.Random(seed)
    if name == "wait":
        await world.wait(rng.choice((1, 2, 3, 6, 15, 40)) + rng.random())
    else:
        able = [client for client in world.clients if client.link is not None]
        if name == "connect":
            offline = [client for client in world.clients if client.link is None]
            able = offline if offline and rng.random() < 0.8 else world.clients
        elif name == "answer":
            able = [client for client in able if client.inbox]
        if able:
            await _STEPS[name](world, rng.choice(able), rng)
    world.check()


# ---- connections ----


async def _connect(world: World, client: SimulatedClient, rng: random.Random) -> None:
    version = rng.choice((3, 4, 4, 5, 5, 5, 5))
    if not _told_apart(version, _held(world, client)):
        version = 5
    fields: dict[str, Any] = {"clean": rng.random() < 0.2, "keep_alive": rng.choice((0, 0, 0, 20, 60))}
    if version == 5:
        fields["expiry"] = rng.choice((0, 0, 5, 30, 100, 100, 1_000, NEVER))
        fields["receive_max"] = rng.choice((None, None, 1, 2, 3))
        fields["packet_max"] = rng.choice((None, None, None, PACKET_MAX))
        fields["alias_max"] = rng.choice((0, 0, 1, 5))
    if rng.random() < 0.4:
        fields["will"] = _will(world, client, version, rng)
    client.auto = rng.random() < 0.5 or world.in_turn
    await world.connect(client, version, **fields)


def _will(world: World, client: SimulatedClient, version: int, rng: random.Random) -> Will:
    topic = rng.choice((f"w/{client.name}", f"w/{client.name}", "a/b"))
    # a topic that others publish to is never retained by a Will: two timers may be due at one moment
    retain = topic != "a/b" and rng.random() < 0.4
    will = Will(Message(client.name, topic, world.payload(rng), rng.randint(0, 2), retain))
    if version == 5:
        will.delay = rng.choice((0, 0, 4, 10, 40))
        will.expiry = rng.choice((None, None, 20))
    return will


async def _disconnect(world: World, client: SimulatedClient, rng: random.Random) -> None:
    await world.send(client, [_goodbye(client, rng)])


async def _publish_and_leave(world: World, client: SimulatedClient, rng: random.Random) -> None:
    await world.send(client, [*_burst(world, client, rng), _goodbye(client, rng)])


def _goodbye(client: SimulatedClient, rng: random.Random) -> packets.Disconnect:
    if client.version < 5:
        return packets.Disconnect()
    expiry = rng.choice((None, None, 0, 7, 50, NEVER)) if client.session_expiry else rng.choice((None, 0))
    properties = packets.DisconnectProperties(session_expiry_interval=expiry)
    return packets.Disconnect(rng.choice((0, 0, 0, 4, 0x80)), properties)


async def _cut(world: World, client: SimulatedClient, rng: random.Random) -> None:
    if rng.random() < 0.4:  # half a packet is on its way; the client takes it for sent
        half = client.answers(1) if client.inbox else [_publication(world, client, rng, rng.choice(TOPICS))]
        for packet in half:
            octets = encode(packet, packets.ProtocolVersion(client.version))
            assert client.link is not None
            await world.octets(client.link, octets[: rng.randrange(len(octets))])
        await world.cut(client, ())
    else:
        await world.cut(client, _burst(world, client, rng) if rng.random() < 0.4 else ())


# ---- messages ----


async def _crowd(world: World, _: SimulatedClient, rng: random.Random) -> None:
    """Everybody publishes at the same time, each to a topic of its own."""
    for client in world.clients:
        if client.link is not None:
            topics = (f"own/{client.name}",)
            await world.tell_and_send(client, _burst(world, client, rng, topics))
            if world.in_turn:
                await world.settle()
    await world.settle()


async def _publish(world: World, client: SimulatedClient, rng: random.Random) -> None:
    await world.send(client, _burst(world, client, rng))


def _burst(
    world: World, client: SimulatedClient, rng: random.Random, topics: tuple[str, ...] = TOPICS
) -> list[packets.Packet]:
    if rng.random() < 0.4:
        topics = (rng.choice(topics),)
    qos = rng.choice((0, 1, 2)) if rng.random() < 0.3 else None
    burst: list[packets.Packet] = []
    if rng.random() < 0.15 and world.model.all_delivered(b""):  # one look like another
        burst.append(_publication(world, client, rng, rng.choice(topics), empty=True))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        topic = "$no/x" if rng.random() < 0.03 else rng.choice(topics)
        burst.append(_publication(world, client, rng, topic, qos=qos))
    return burst


def _publication(
    world: World,
    client: SimulatedClient,
    rng: random.Random,
    topic: str,
    *,
    qos: int | None = None,
    empty: bool = False,
) -> packets.Publish:
    qos = rng.choice((0, 0, 1, 2)) if qos is None else qos
    qos = qos if client.has_quota else 0
    identifier = client.next_identifier() if qos else 0
    retain = rng.random() < (0.9 if empty else 0.2)
    payload = b"" if empty else world.payload(rng)
    publish = packets.Publish(topic, payload, qos, retain, False, identifier)
    if client.version == 5 and rng.random() < 0.25:
        properties = packets.PublishProperties(
            message_expiry_interval=rng.choice((None, 2, 8, 30)),
            user_properties=(("k", str(rng.randint(0, 9))),) * rng.randint(0, 2),
            content_type=rng.choice((None, "text")),
            response_topic=rng.choice((None, "r")),
            correlation_data=rng.choice((None, b"\0\1")),
        )
        publish = replace(publish, properties=properties)
    client.publishes(publish)
    return client.aliased(publish, rng) if client.version == 5 and rng.random() < 0.25 else publish


async def _answer(world: World, client: SimulatedClient, rng: random.Random) -> None:
    answers = client.answers(rng.randint(1, 4))
    if answers:
        await world.send(client, answers)


async def _ping(world: World, client: SimulatedClient, rng: random.Random) -> None:
    await world.send(client, [packets.Pingreq()])


# ---- subscriptions ----


def _held(world: World, client: SimulatedClient) -> dict[str, int]:
    session = world.model.sessions.get(client.name)
    return {} if session is None else {name: held.identifier for name, held in session.subscriptions.items()}


def _told_apart(version: int, held: dict[str, int]) -> bool:
    """Whether the client sees through which Shared Subscription a message came, or through none.

    With two of them, or one and others, only MQTT 5 says so, by their identifiers; the judge knows no more.
    """
    shared = [identifier for name, identifier in held.items() if name.startswith("$share/")]
    several = len(shared) + (len(held) > len(shared)) > 1
    return not several or (version == 5 and all(identifier >= SHARED_IDENTIFIERS for identifier in shared))


async def _subscribe(world: World, client: SimulatedClient, rng: random.Random) -> None:
    properties = packets.NO_SUBSCRIBE_PROPERTIES
    if rng.random() < 0.4:
        requests = [_request(client, rng, rng.choice(SHARED_FILTERS))]
        identifier = SHARED_IDENTIFIERS + SHARED_FILTERS.index(requests[0].filter)
    else:
        requests = [_request(client, rng, rng.choice(FILTERS)) for _ in range(rng.choice((1, 1, 2, 3)))]
        identifier = rng.choice((0, rng.randint(1, SHARED_IDENTIFIERS - 1)))
    identifier = identifier if client.version == 5 else 0
    if not _told_apart(client.version, _held(world, client) | {request.filter: identifier for request in requests}):
        return
    if identifier:
        properties = packets.SubscribeProperties(subscription_identifier=identifier)
    await world.send(client, [packets.Subscribe(client.next_identifier(), tuple(requests), properties)])


def _request(client: SimulatedClient, rng: random.Random, topic_filter: str) -> packets.SubscriptionRequest:
    request = packets.SubscriptionRequest(topic_filter, rng.randint(0, 2))
    if client.version < 5:
        return request
    return replace(
        request,
        no_local=rng.random() < 0.25 and not topic_filter.startswith("$share/"),
        retain_as_published=rng.random() < 0.4,
        retain_handling=rng.choice((0, 0, 1, 2)),
    )


async def _unsubscribe(world: World, client: SimulatedClient, rng: random.Random) -> None:
    held = tuple(world.model.sessions[client.name].subscriptions)
    known = held if held and rng.random() < 0.8 else FILTERS + SHARED_FILTERS
    filters = tuple(rng.choice(known) for _ in range(rng.randint(1, 2)))
    await world.send(client, [packets.Unsubscribe(client.next_identifier(), filters)])


# ---- offences ----


async def _offend(world: World, client: SimulatedClient, rng: random.Random) -> None:
    octets, reason_code = rng.choice(_OFFENCES_5 if client.version == 5 else _OFFENCES_3)
    if octets is None:
        version = packets.ProtocolVersion(client.version)
        octets = encode(packets.Connect(client.name, version), version)
    await world.offend(client, octets, reason_code)


async def _exceed(world: World, client: SimulatedClient, rng: random.Random) -> None:
    """One publication of QoS 2 more than the Receive Maximum of the broker allows [MQTT-3.3.4-9]."""
    if client.version < 5 or client.outgoing:
        return
    burst: list[packets.Packet] = []
    while client.has_quota:
        publish = packets.Publish("a/b", world.payload(rng), 2, False, False, client.next_identifier())
        client.publishes(publish)
        burst.append(publish)
    one_more = packets.Publish("a/b", b"too many", 2, False, False, client.next_identifier())
    await world.tell_and_send(client, burst)
    await world.offend(client, encode(one_more, packets.ProtocolVersion(5)), 0x93)


#: what no client may send, and the reason code for it; None is a second CONNECT
_OFFENCES_3: list[tuple[bytes | None, int]] = [
    (None, 0x82),
    (b"\x30\x05\x00\x03a/#", 0x90),
    (b"\x00\x00", 0x81),
    (b"\x36\x05\x00\x01a\x00\x01", 0x81),
    (b"\x30\xd1\x0f", 0x95),
    (b"\x82\x02\x00\x01", 0x82),
    (b"\x20\x02\x00\x00", 0x82),
]
_OFFENCES_5: list[tuple[bytes | None, int]] = [
    (None, 0x82),
    (b"\x30\x06\x00\x03a/#\x00", 0x90),
    (b"\x00\x00", 0x81),
    (b"\x36\x06\x00\x01a\x00\x01\x00", 0x81),
    (b"\x30\xd1\x0f", 0x95),
    (b"\x82\x03\x00\x01\x00", 0x82),
    (b"\x20\x03\x00\x00\x00", 0x82),
    (b"\x30\x07\x00\x01a\x03\x23\x00\x04", 0x94),
    (b"\x30\x07\x00\x01a\x03\x23\x00\x00", 0x94),
    (b"\xf0\x00", 0x82),
]

_STEPS: dict[str, Callable[[World, SimulatedClient, random.Random], Awaitable[None]]] = {
    "connect": _connect,
    "disconnect": _disconnect,
    "cut": _cut,
    "publish": _publish,
    "crowd": _crowd,
    "publish_and_leave": _publish_and_leave,
    "answer": _answer,
    "ping": _ping,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "offend": _offend,
    "exceed": _exceed,
}

#: how often each step is taken
WEIGHTS = {
    "connect": 16,
    "disconnect": 4,
    "cut": 7,
    "publish": 27,
    "crowd": 4,
    "publish_and_leave": 2,
    "answer": 14,
    "ping": 1,
    "subscribe": 22,
    "unsubscribe": 4,
    "wait": 9,
    "offend": 1,
    "exceed": 2,
}
