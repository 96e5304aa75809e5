"""QoS 1 and 2 handshakes at the edges: what clients send that polite clients do not."""

from __future__ import annotations

from acebroker_codec.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Subscribe, SubscriptionRequest
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
