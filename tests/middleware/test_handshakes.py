"""QoS 1 and 2 handshakes at the edges: what clients send that polite clients do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from acebroker_codec.encoder import encode
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import (
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    SubscriptionRequest,
)
from tests.middleware.world import Peer, World


def connected(world: World, name: str, version: int = 5, **properties: int) -> Peer:
    peer = world.peer(name, version)
    world.connect(peer, **properties)
    peer.seen.clear()
    return peer


def test_a_pubrel_sent_twice_behind_one_that_waits_is_answered_twice() -> None:
    """Answers to the same identifier wait beside each other, and nothing behind them is held up."""
    for flow_cache in (True, False):
        world = World(flow_cache=flow_cache)
        peer = connected(world, "a", 4)
        world.send(peer, *(Publish("t", b"m", 2, packet_identifier=number) for number in (1, 2, 3)))
        world.send(peer, *(Pubrel(number) for number in (1, 7, 7, 2, 3)))
        assert peer.seen[3:] == [Pubcomp(number) for number in (1, 7, 7, 2, 3)], f"{flow_cache=}"


def test_an_acknowledgement_is_not_for_what_it_makes_room_for() -> None:
    """PUBACK of an identifier not yet in use is ignored, though one before it in the same read frees the window."""
    for flow_cache in (True, False):
        world = World(flow_cache=flow_cache)
        subscriber = connected(world, "s", receive_maximum=1)
        world.send(subscriber, Subscribe(1, (SubscriptionRequest("t", 1),)))
        publisher = connected(world, "p")
        world.send(publisher, *(Publish("t", b"m", 1, packet_identifier=number) for number in (1, 2, 3)))
        subscriber.receiver.settled(1)
        world.send(subscriber, Puback(1), Puback(2))
        assert [packet.packet_identifier for packet in subscriber.seen if isinstance(packet, Publish)] == [1, 2]
        assert len(world.session.sessions["s"].window) == 1, f"{flow_cache=}"


def test_every_publication_that_was_received_is_answered_as_the_first_was() -> None:
    """A QoS 2 PUBLISH whose identifier is known is not looked at again, even without DUP and with other content."""
    for flow_cache in (True, False):
        world = World(flow_cache=flow_cache)
        subscriber = connected(world, "s")
        world.send(subscriber, Subscribe(1, (SubscriptionRequest("t", 0),)))
        publisher = connected(world, "p")
        first, other = Publish("t", b"first", 2, packet_identifier=1), Publish("t", b"other", 2, packet_identifier=1)
        world.send(publisher, first, other, other)
        world.send(publisher, Pubrel(1))
        assert publisher.seen == [Pubrec(1), Pubrec(1), Pubrec(1), Pubcomp(1)], f"{flow_cache=}"
        assert [packet.payload for packet in subscriber.seen if isinstance(packet, Publish)] == [b"first"]


@pytest.mark.parametrize("flow_cache", [True, False])
def test_more_than_the_receive_maximum(flow_cache: bool) -> None:
    """What fits is received; what is too much ends the connection [MQTT-3.3.4-9]."""
    world = World(flow_cache=flow_cache, receive_max=5)
    peer = connected(world, "p")
    world.send(peer, *(Publish("t", b"m", 2, packet_identifier=number) for number in range(1, 4)))
    world.send(peer, *(Publish("t", b"m", 2, packet_identifier=number) for number in range(4, 9)))
    assert peer.seen[:5] == [Pubrec(number) for number in range(1, 6)]
    assert peer.seen[5:] == [f"ProtocolViolation {ReasonCode.RECEIVE_MAXIMUM_EXCEEDED}"]


# ---- runs, cut anywhere ----


def played(version: int, cut: Callable[[bytes], Iterable[bytes]]) -> dict[str, bytes]:
    """QoS 1 and 2 from `p` to subscribers of every version and QoS, each acknowledging; gives what each client got."""
    world = World()
    subscribers = {
        f"{number}-{qos}": connected(world, f"{number}-{qos}", number)
        for number, qos in itertools.product((4, 5), (0, 1, 2))
    }
    subscribers["narrow"] = connected(world, "narrow", 5, receive_maximum=3)
    subscribers["one by one"] = connected(world, "one by one", 5, maximum_packet_size=1_000)
    for name, peer in subscribers.items():
        world.send(peer, Subscribe(1, (SubscriptionRequest("t", int(name[-1]) if name[-1].isdigit() else 2),)))
    publisher = connected(world, "p", version)

    def send(peer: Peer, *packets: Packet) -> None:
        for octets in cut(b"".join(encode(packet, peer.version) for packet in packets)):
            world.feed(peer, octets)

    def acknowledge() -> None:
        for name, peer in subscribers.items():
            while any(peer.to_acknowledge.values()):
                for kind, waiting in peer.to_acknowledge.items():
                    acks = [kind(peer.answer(kind)) for _ in range(len(waiting))]
                    # what waits for a narrow window goes out at the end of a read: how it is cut would show
                    (world.send if name == "narrow" else send)(peer, *acks)

    send(publisher, *(Publish("t", bytes((65 + number,)) * 9, 1, packet_identifier=number) for number in range(1, 6)))
    acknowledge()
    send(publisher, *(Publish("t", bytes((75 + number,)) * 9, 2, packet_identifier=number) for number in range(1, 6)))
    send(publisher, *(Pubrel(number) for number in range(1, 6)))
    acknowledge()
    assert len(world.session.sessions["p"].inbound) == 0
    for state in world.session.sessions.values():
        assert len(state.window) == 0, state
    return {name: bytes(peer.received) for name, peer in world.peers.items()}


@pytest.mark.parametrize("version", [4, 5])
def test_a_run_cut_at_every_octet_gives_everybody_the_same_octets(version: int) -> None:
    """Frame by frame, as one run, and as any two runs: the same octets in the same order to every single client."""
    each = 16 if version == 4 else 17

    def one_by_one(data: bytes) -> Iterable[bytes]:
        step = 4 if len(data) % each else each
        return [data[pos : pos + step] for pos in range(0, len(data), step)]

    expected = played(version, one_by_one)
    assert all(len(octets) > 60 for octets in expected.values())
    for place in range(5 * each):
        cut = played(version, lambda data, place=place: (data[:place], data[place:]))
        assert cut == expected, f"cut at {place}"


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_that_gets_what_it_publishes(version: int, qos: int) -> None:
    """Its own messages stand before their acknowledgements, whether they came as a run or one by one."""
    received = []
    for step in (5, 1):
        world = World()
        peer = connected(world, "p", version)
        world.send(peer, Subscribe(1, (SubscriptionRequest("t", 2),)))
        publications = [Publish("t", b"m", qos, packet_identifier=number) for number in range(1, 6)]
        releases = [Pubrel(number) for number in range(1, 6)] if qos == 2 else []
        for packets in (publications, releases):
            for start in range(0, len(packets), step):
                world.send(peer, *packets[start : start + step])
        received.append(bytes(peer.received))
    assert received[0] == received[1]
