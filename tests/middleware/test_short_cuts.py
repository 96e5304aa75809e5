"""The short cuts of the pipeline against the long way: random traffic, the same packets to everybody.

Two brokers get the same reads; one has the flow cache, the other sends every packet through the stages.
After every read each client must have got the same packets, kind by kind in the same order (4.6 orders
nothing between kinds, nor between QoS), and must still be connected, or have lost its connection for the same reason.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from acebroker_codec.encoder import encode
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import (
    PacketType,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrel,
    Subscribe,
    SubscribeProperties,
    SubscriptionRequest,
    Unsubscribe,
    Will,
)
from acebroker_middleware.connection import Connection
from acebroker_middleware.flows import FlowKey, Verdict
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.message import Message
from tests.middleware.world import Peer, World

TOPICS = ("t/0", "t/1", "t/2", "a/topic/name/that/is/worth/an/alias")
MORE_TOPICS = tuple(f"another/topic/for/an/alias/{number}" for number in range(20))
FILTERS = ("t/0", "t/1", "t/2", TOPICS[3], "t/+", "#")
SHARED = ("$share/g/t/1", "$share/g/#")
NAMES = ("a", "b", "c", "d")
#: where clients have roles
PUBLISHERS = ("a", "b")
ODDITIES = 13
#: fewer than the Receive Maximum, so that the order of checks within a read cannot matter
UNRELEASED_MAX = 500
SEEDS = 150
STEPS = 60

# ---- what may happen ----


class Censor:
    """A plugin that refuses what is published on one topic, chooses on another, and some of what is delivered."""

    name = "censor"
    wants = frozenset({PacketType.PUBLISH})

    def plan(self, conn: Connection, flow: FlowKey) -> Verdict:
        return {"t/0": Verdict.DENY, "t/1": Verdict.INSPECT}.get(flow.topic, Verdict.PASS)

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        out: Batch = []
        for packet in batch:
            if not isinstance(packet, Publish) or conn.received_before(packet):
                out.append(packet)
            elif packet.topic == "t/0":
                conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, "censor: t/0")
            elif packet.properties.content_type:
                conn.refuse(packet, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "censor: content type")
            elif packet.topic == "t/1" and packet.payload[:1] in b"13579":
                conn.refuse(packet, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "censor: odd")
            else:
                out.append(packet)
        return out

    def on_run(self, conn: Connection, flow: FlowKey, count: int, octets: int) -> int:
        return count

    def plan_deliver(self, conn: Connection, flow: FlowKey) -> Verdict:
        return Verdict.INSPECT if flow.topic == "t/2" else Verdict.PASS

    def on_deliver(self, conn: Connection, messages: list[Message]) -> list[Message]:
        return [message for message in messages if message.payload[:1] not in b"24"]


class Dice:
    """Everything that is drawn for one script. The first draws say how wild it gets."""

    def __init__(self, seed: int, *, wild: bool = False) -> None:
        self.random = random.Random(seed)
        self.one_of = self.random.choice
        self.topics = self.random.sample(TOPICS, self.random.randint(1, 3))
        # who of a group is chosen, and when an out-queue is full, depends on what stands earlier in the same read:
        # then some clients publish, the others subscribe
        self.topics_now = self.topics
        self.roles = self.often(0.4)
        self.filters = FILTERS + SHARED if self.roles and self.often(0.7) else FILTERS
        self.full = self.roles and self.often(0.5)
        # runs of QoS 0 are dropped whole: no QoS 0 where anything is
        self.qos_min = 1 if self.full else 0
        self.wild = wild
        if wild:  # whatever cannot be compared
            self.roles, self.full, self.qos_min = False, True, 0
            self.filters = FILTERS + SHARED if self.often(0.3) else FILTERS
            self.topics += MORE_TOPICS
        self.plugins = (Censor,) if self.often(0.3) else ()
        self.limits = {"out_queue_bytes_max": self.one_of((500, 3000))} if self.full else {}
        self.plain = self.often(0.5)
        self.oddness = self.one_of((0.0, 0.0, 0.05, 0.1))
        self.versions = self.one_of(((4,), (5,), (3, 4, 5), (4, 5)))

    def often(self, share: float) -> bool:
        return self.random.random() < share

    def profile(self) -> dict[str, Any]:
        profile: dict[str, Any] = {
            "version": self.one_of(self.versions),
            "clean": True,
            "session_expiry_interval": None,
            "receive_maximum": None,
            "maximum_packet_size": None,
            "topic_alias_maximum": None,
            "subscriptions": [(self.one_of(FILTERS), self.random.randint(self.qos_min, 2)) for _ in range(2)],
        }
        if self.wild:
            profile["subscriptions"].append(("#", self.random.randint(0, 2)))
        if not self.plain:
            profile["clean"] = self.often(0.7)
            profile["session_expiry_interval"] = self.one_of((None, None, 100))
            profile["receive_maximum"] = self.one_of((None, 1, 2, 3, 20, 50))
            profile["maximum_packet_size"] = self.one_of((None, 60))
            profile["topic_alias_maximum"] = self.one_of((None, None, 2, 20))
        return profile

    def count(self) -> int:
        return self.one_of((1, 1, 2, 3, 4, 5, 6, 20, 40, 70))

    def part(self, name: str) -> tuple[Any, ...]:
        """One thing that a client sends."""
        not_its_role = ("subscribe", "acknowledge", "odd") if name in PUBLISHERS else ("publish", "release", "again")
        part = self.part_of_anybody()
        while self.roles and part[0] in not_its_role:
            part = self.part_of_anybody()
        return part

    def part_of_anybody(self) -> tuple[Any, ...]:
        if self.often(self.oddness):
            return ("odd", self.random.randrange(ODDITIES))
        match self.random.randrange(20):
            case 0:
                special = self.one_of(("", "", "no_local", "retain_as_published", "identifier"))
                return ("subscribe", self.one_of(self.filters), self.random.randint(self.qos_min, 2), special)
            case 1:
                return ("unsubscribe", self.one_of(self.filters))
            case 2:
                return ("ping",)
            case 3:
                return ("again", self.often(0.5))
            case 4 | 5 | 6 | 7 | 8:
                special = "" if self.often(0.8) else self.one_of(("late", "twice", "long", "error"))
                special = "confused" if self.often(self.oddness) else special
                return ("acknowledge", self.count(), special)
            case 9 | 10 | 11:
                special = "" if self.often(0.7) else self.one_of(("late", "twice", "long", "reuse", "reuse"))
                return ("release", self.count(), special, self.one_of(TOPICS))
            case _:
                special = (
                    "" if self.often(0.8) else self.one_of(("retain", "expiring", "properties", "properties", "dup"))
                )
                # the last are about what fits into the Maximum Packet Size of some
                size = self.one_of((0, 3, 30, 150, 52, 53, 53))
                qos = self.random.randint(self.qos_min, 2)
                return ("publish", self.one_of(self.topics_now), qos, self.count(), size, special)

    def burst(self) -> list[Any]:
        """Enough to fill an out-queue, then more on a topic that was perhaps not met before, of every QoS."""
        first, second = self.random.sample(self.topics, 2)
        return [
            ("publish", first, 1, self.one_of((3, 4, 5, 19, 20, 21)), 150, ""),
            *(("publish", second, qos, 3, 3, "") for qos in (1, 0, 2)),
        ]

    def step(self) -> tuple[Any, ...]:
        name = self.one_of(NAMES)
        self.topics_now = self.random.sample(self.topics, self.random.randint(1, min(2, len(self.topics))))
        match self.random.randrange(40):
            case 0:
                return ("lose", name)
            case 1:
                return ("connect", name, self.often(0.5))
            case 2:
                return ("stall", name)
            case 3 | 4:
                return ("unblock", name)
            case 5:
                return ("rights", name, self.one_of(("publish", "receive")), self.one_of(self.topics))
            case 6:
                if self.often(0.4):
                    return ("expire", name, self.one_of((5, 20)))
                return ("wait", self.one_of((1, 30, 200)))
            case 8 if self.wild:
                return ("feed", name, self.burst(), [])
            case _:
                cuts = [self.random.random() for _ in range(self.random.randrange(4))]
                return ("feed", name, [self.part(name) for _ in range(self.random.randint(1, 4))], cuts)


# ---- what each client sends ----


def publications(peer: Peer, serial: Iterator[int], part: Any) -> bytes:
    _, topic, qos, count, size, special = part
    if qos and (peer.conn is None or len(peer.unreleased) + count > UNRELEASED_MAX):
        return b""
    properties = PublishProperties()
    if peer.version == 5 and special == "expiring":
        properties = PublishProperties(message_expiry_interval=50, user_properties=(("k", "v"),))
    elif peer.version == 5 and special == "properties":
        properties = PublishProperties(content_type="c" * size, user_properties=(("k", "v"), ("k", "w")))
    frames = []
    for _ in range(count):
        payload = f"{next(serial):x}".encode().ljust(size, b".")
        identifier = peer.next_identifier() if qos else 0
        dup = special == "dup" and qos > 0
        publish = Publish(topic, payload, qos, special == "retain", dup, identifier, properties)
        frames.append(encode(publish, peer.version))
        if qos == 2:
            peer.unreleased[identifier] = publish
    return b"".join(frames)


def acknowledgements(peer: Peer, part: Any) -> bytes:
    _, count, special = part
    out = []
    for kind, waiting in peer.to_acknowledge.items():
        if special == "late":
            waiting.rotate(-1)
        for _ in range(min(count, len(waiting))):
            reason_code = 0x83 if special == "error" and peer.version == 5 and kind is not Pubcomp else 0
            frame = encode(kind(peer.answer(kind, reason_code), reason_code), peer.version)
            if special == "confused":
                frame = (b"\x50" if kind is Puback else b"\x40") + frame[1:]
            if special == "long" and peer.version == 5:
                frame = frame[:1] + b"\x03" + frame[2:] + b"\0"
            out += [frame, frame] if special == "twice" else [frame]
    return b"".join(out)


def releases(peer: Peer, part: Any) -> bytes:
    _, count, special, topic = part
    waiting = peer.to_release
    if special == "late":
        waiting.rotate(-1)
    out = []
    for _ in range(min(count, len(waiting))):
        identifier = waiting.popleft()
        peer.unreleased.pop(identifier, None)
        frame = encode(Pubrel(identifier), peer.version)
        if special == "long" and peer.version == 5:
            frame = frame[:1] + b"\x03" + frame[2:] + b"\0"
        # in one read with the first, the stages answer an MQTT 5 client's second PUBREL before it: 0x92, then 0x00
        out += [frame, frame] if special == "twice" and peer.version != 5 else [frame]
        if special == "reuse":  # at once, for what it may not publish, if there is anything
            topic = min(peer.rights.no_publish, default=topic)
            peer.unreleased[identifier] = Publish(topic, b"reused", 2, packet_identifier=identifier)
            out.append(encode(peer.unreleased[identifier], peer.version))
    return b"".join(out)


def sent_again(peer: Peer, part: Any) -> bytes:
    """QoS 2 publications that were not released, once more; an impolite client forgets DUP, and what it sent."""
    frames = []
    for publish in list(peer.unreleased.values())[:5]:
        frame = encode(publish, peer.version)
        frames.append(bytes([frame[0] | 8]) + frame[1:] if part[1] else frame[:-1] + b"?")
    return b"".join(frames)


def odd(peer: Peer, part: Any) -> bytes:
    """What a client should not send, or what is refused; some of it ends the connection."""
    empty = b"\0" if peer.version == 5 else b""
    identifier = peer.next_identifier().to_bytes(2, "big")
    row = encode(Publish("t/1", b"row"), peer.version) * 3
    forged = encode(Publish("t/2", b"forged"), peer.version) * 3
    if part[1] == 5:
        peer.receiver.settled(1)
        peer.receiver.settled(2)
    return (
        b"\x40\x02\xff\xf0",  # nothing has this identifier
        b"\x50\x02\xff\xf0\x50\x02\xff\xf1",
        b"\x62\x02\xff\xf0\x62\x02\xff\xf1",
        b"".join(  # the last of a run has Packet Identifier 0
            bytes([0x32, 8 + len(empty)]) + b"\0\x03t/1" + number.to_bytes(2, "big") + empty + b"z"
            for number in (60_001, 60_002, 60_003, 60_004, 60_005, 0)
        ),
        bytes([0x32, 7 + len(empty)]) + b"\0\x03t/+" + identifier + empty,
        b"\x40\x02\0\x01\x40\x02\0\x02",  # perhaps of QoS 2
        # behind a row of good frames: what is none, and what would be some, were it looked at, or passed on
        row + b"\x30\xff\xff\xff\xff\x01" + forged,
        row + b"\x30\x80\0" + forged,
        row + b"\x30\xff\xff\xff\x7f" + forged,
        row + b"\x36" + forged[1:],
        row + b"\x30\x05\0\x20t/1" + forged,
        row + bytes([0x30, 8]) + b"\0\3t/\xff" + b"\x26\0\1" + forged,
        row + bytes([0x30, 5 + len(empty)]) + b"\0\3t\0\1" + empty + forged,
    )[part[1]]


def octets(peer: Peer, serial: Iterator[int], part: Any) -> bytes:
    match part[0]:
        case "publish":
            return publications(peer, serial, part)
        case "acknowledge":
            return acknowledgements(peer, part)
        case "release":
            return releases(peer, part)
        case "again":
            return sent_again(peer, part)
        case "subscribe":
            _, topic_filter, qos, special = part
            five = peer.version == 5
            request = SubscriptionRequest(
                topic_filter,
                qos,
                no_local=five and special == "no_local" and not topic_filter.startswith("$share"),
                retain_as_published=five and special == "retain_as_published",
            )
            properties = SubscribeProperties(subscription_identifier=7 if five and special == "identifier" else None)
            return encode(Subscribe(peer.next_identifier(), (request,), properties), peer.version)
        case "unsubscribe":
            return encode(Unsubscribe(peer.next_identifier(), (part[1],)), peer.version)
        case "ping":
            return encode(Pingreq(), peer.version)
        case _:
            return odd(peer, part)


def play(world: World, clients: dict[str, dict[str, Any]], script: list[Any], roles: bool) -> Iterator[Any]:
    """Do each step in one world."""
    serial = iter(range(1_000_000))
    for name, profile in clients.items():
        peer = world.peer(name, profile["version"])
        connect(world, peer, profile)
        if roles and name in PUBLISHERS:
            continue
        requests = tuple(SubscriptionRequest(topic_filter, qos) for topic_filter, qos in profile["subscriptions"])
        world.send(peer, Subscribe(peer.next_identifier(), requests))
    yield None
    for step in script:
        match step:
            case ("feed", name, wanted, cuts):
                peer = world.peers[name]
                if peer.conn is None:
                    connect(world, peer, clients[name])
                data = b"".join(octets(peer, serial, part) for part in wanted)
                places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
                for begin, end in itertools.pairwise(places):
                    world.feed(peer, data[begin:end])
            case ("connect", name, to_the_end):
                # the session may end with this connection, whatever it was before
                expiry = None if to_the_end else clients[name]["session_expiry_interval"]
                connect(world, world.peers[name], {**clients[name], "session_expiry_interval": expiry})
            case ("lose", name):
                world.lose(world.peers[name])
            case ("stall", name):
                world.peers[name].takes = False
            case ("unblock", name):
                world.unblock(world.peers[name])
            case ("rights", name, which, topic):
                peer = world.peers[name]
                taken = peer.rights.no_publish if which == "publish" else peer.rights.no_receive
                taken ^= {topic}
                world.rights_changed(peer)
            case ("expire", name, seconds):
                world.rights_end_in(world.peers[name], seconds)
            case ("wait", seconds):
                world.advance(seconds)
        yield step


def connect(world: World, peer: Peer, profile: dict[str, Any]) -> None:
    will = Will("will/of/nobody/in/particular", b"gone", 1, False)
    properties = {}
    if peer.version == 5:
        wanted = ("session_expiry_interval", "receive_maximum", "maximum_packet_size", "topic_alias_maximum")
        properties = {name: profile[name] for name in wanted}
    world.connect(peer, clean=profile["clean"], will=will, **properties)


def got(peer: Peer) -> list[Any]:
    """What a client got since the last look, ordered by kind, PUBLISH by QoS."""
    seen, peer.seen = peer.seen, []
    return sorted(seen, key=lambda packet: (type(packet).__name__, getattr(packet, "qos", 0)))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_client_gets_the_same_packets(seed: int) -> None:
    dice = Dice(seed)
    clients = {name: dice.profile() for name in NAMES}
    script = [dice.step() for _ in range(STEPS)]
    short, long = (
        World(flow_cache=flow_cache, stages=[plugin() for plugin in dice.plugins], **dice.limits)
        for flow_cache in (True, False)
    )
    plays = (play(world, clients, script, dice.roles) for world in (short, long))
    for step, _ in zip(*plays, strict=True):
        for name in NAMES:
            assert got(short.peers[name]) == got(long.peers[name]), (step, name)
    compare_sessions(short, long)
    if (
        not dice.oddness
    ):  # else packets behind one that ends the connection are refused by the stages before that is found
        assert short.counters.denials == long.counters.denials
    unreleased = {name: list(peer.unreleased) for name, peer in short.peers.items()}
    # what the stores have is what a broker would begin with after a crash
    short, long = World(flow_cache=True, store=short.store), World(flow_cache=False, store=long.store)
    for world in (short, long):
        for name, profile in clients.items():
            peer = world.peer(name, profile["version"])
            connect(world, peer, {**profile, "clean": False})
            world.send(peer, *(Pubrel(identifier) for identifier in unreleased[name]))
    for name in NAMES:
        assert got(short.peers[name]) == got(long.peers[name]), name


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_client_gets_what_it_cannot_take(seed: int) -> None:
    """The same traffic without a second broker beside it, so with everything at once; see StrictReceiver."""
    dice = Dice(seed, wild=True)
    clients = {name: dice.profile() for name in NAMES}
    script = [dice.step() for _ in range(STEPS)]
    world = World(flow_cache=bool(seed % 4), stages=[plugin() for plugin in dice.plugins], **dice.limits)
    for _ in play(world, clients, script, dice.roles):
        for peer in world.peers.values():
            for packet in got(peer):
                assert not isinstance(packet, Publish) or b"forged" not in packet.payload


def compare_sessions(short: World, long: World) -> None:
    """Both worlds know the same of their clients, and have counted the same."""
    assert list(short.session.sessions) == list(long.session.sessions)
    for name, state in short.session.sessions.items():
        other = long.session.sessions[name]
        assert len(state.window) == len(other.window)
        assert state.window.qos_2 == other.window.qos_2
        assert list(state.inbound) == list(other.inbound)
        assert len(state.queue) == len(other.queue)
    for counter in ("publish_received", "publish_sent", "dropped_queue_full", "dropped_too_large", "dropped_expired"):
        assert getattr(short.counters, counter) == getattr(long.counters, counter), counter
