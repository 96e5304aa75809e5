"""What every Store has to do, whatever it keeps things in; run over each implementation there is.

A store that is added joins `STORES`. Nothing here looks behind the port.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest

from acebroker_codec.packets import Publish
from acebroker_middleware.state.message import Delivery, Message
from acebroker_middleware.state.ports import Claim, Enqueue, Fenced, Identity, Maybe, Settle, Store, Stored
from acebroker_middleware.state.subscriptions import Subscription
from tests.broker.storage.waiting import WaitingStore
from tests.harness import run_in_virtual_time
from trio_acebroker import MemoryStore

pytestmark = pytest.mark.trio(run=run_in_virtual_time)

T = TypeVar("T")

STORES: dict[str, Callable[[], Any]] = {"memory": MemoryStore, "waiting": WaitingStore}

ANN = Identity("user", "ann")
BOB = Identity("user", "bob")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return cast(Store, STORES[request.param]())


async def done(pending: Maybe[T]) -> T:
    """The result, which every store may give at once or later."""
    return await pending if inspect.isawaitable(pending) else pending


def delivery(payload: bytes, qos: int = 1) -> Delivery:
    return Delivery(Message("t", payload, qos), qos)


def publication(identifier: int, payload: bytes = b"") -> Publish:
    return Publish("t", payload, 2, packet_identifier=identifier)


async def claimed(store: Store, client_identifier: str = "c", *, clean_start: bool = False) -> Claim:
    return await done(store.claim(client_identifier, ANN, clean_start=clean_start))


async def enqueued(store: Store, *payloads: bytes, client_identifier: str = "c") -> list[int]:
    return await done(store.enqueue([Enqueue(client_identifier, delivery(payload)) for payload in payloads]))


async def settled(
    store: Store, epoch: int, kind: Any, number: int, client_identifier: str = "c", **fields: Any
) -> None:
    await done(store.settle([Settle(client_identifier, epoch, kind, number, **fields)]))


async def payloads(store: Store, epoch: int, after: int = 0, limit: int = 100) -> list[bytes]:
    stored = await done(store.read("c", epoch, after, limit))
    return [row.delivery.message.payload for row in stored]


# --- claim -------------------------------------------------------------------------------------


async def test_a_first_claim_finds_nothing(store: Store) -> None:
    claim = await claimed(store)
    assert claim == Claim(claim.epoch, False)
    assert claim.epoch > 0
    assert await payloads(store, claim.epoch) == []


async def test_a_later_claim_finds_everything(store: Store) -> None:
    """Subscriptions, what was received and not released, what was sent and not completed, and whose it is."""
    first = await claimed(store)
    subscriptions = (Subscription("a/+", 1, identifier=7), Subscription("b", 2, share_name="g"))
    await done(store.subscribe("c", first.epoch, subscriptions, ()))
    await enqueued(store, b"0", b"1", b"2")
    await settled(store, first.epoch, "rec", 2, packet_identifier=9)
    await settled(store, first.epoch, "inbound", 5, publish=publication(5))
    second = await claimed(store)
    assert second == Claim(second.epoch, True, ANN, subscriptions, ((2, 9),), ((5, publication(5)),))
    assert second.epoch > first.epoch
    assert await payloads(store, second.epoch) == [b"0", b"2"]


async def test_clean_start_finds_nothing_and_leaves_nothing(store: Store) -> None:
    """[MQTT-3.1.2-4]; the new session counts its messages from 1."""
    first = await claimed(store)
    await done(store.subscribe("c", first.epoch, [Subscription("a")], ()))
    await enqueued(store, b"0")
    await settled(store, first.epoch, "inbound", 5, publish=publication(5))
    second = await claimed(store, clean_start=True)
    assert second == Claim(second.epoch, False)
    assert second.epoch > first.epoch
    assert await payloads(store, second.epoch) == []
    assert await enqueued(store, b"1") == [1]
    third = await claimed(store)
    assert third == Claim(third.epoch, True, ANN)


@pytest.mark.parametrize("clean_start", [True, False])
async def test_a_session_belongs_to_its_identity(store: Store, clean_start: bool) -> None:
    """Nobody else gets it or wipes it, and its owner does not hear of it; `by_anyone` lifts that."""
    mine = await filled(store)
    assert await done(store.claim("c", BOB, clean_start=clean_start)) == Claim(0, True, ANN)
    assert await payloads(store, mine.epoch) == [b"0"]
    theirs = await done(store.claim("c", BOB, clean_start=clean_start, by_anyone=True))
    assert theirs.epoch > mine.epoch
    assert (theirs.present, theirs.subscriptions) == ((False, ()) if clean_start else (True, (Subscription("a"),)))
    with pytest.raises(Fenced):
        await payloads(store, mine.epoch)
    removed = await done(store.remove("c", theirs.epoch))
    assert removed is None
    assert (await done(store.claim("c", BOB, clean_start=False))).epoch


async def test_sessions_have_nothing_in_common(store: Store) -> None:
    one, two = await claimed(store, "one"), await claimed(store, "two")
    await done(store.subscribe("one", one.epoch, [Subscription("a")], ()))
    assert await enqueued(store, b"0", b"1", client_identifier="one") == [1, 2]
    assert await enqueued(store, b"2", client_identifier="two") == [1]
    await done(store.remove("one", one.epoch))
    assert [row.sequence for row in await done(store.read("two", two.epoch, 0, 10))] == [1]
    assert (await claimed(store, "two")).subscriptions == ()


# --- fencing -----------------------------------------------------------------------------------

#: every call that an owner makes on its session, with an epoch
OWNED: dict[str, Callable[[Store, int], Maybe[Any]]] = {
    "release": lambda store, epoch: store.release("c", epoch, expires_at=0.0),
    "remove": lambda store, epoch: store.remove("c", epoch),
    "subscribe": lambda store, epoch: store.subscribe("c", epoch, [Subscription("new")], ["a"]),
    "subscribe nothing": lambda store, epoch: store.subscribe("c", epoch, (), ()),
    "read": lambda store, epoch: store.read("c", epoch, 0, 10),
    "ack": lambda store, epoch: store.settle([Settle("c", epoch, "ack", 1)]),
    "rec": lambda store, epoch: store.settle([Settle("c", epoch, "rec", 1, 9)]),
    "comp": lambda store, epoch: store.settle([Settle("c", epoch, "comp", 4)]),
    "inbound": lambda store, epoch: store.settle([Settle("c", epoch, "inbound", 6, publish=publication(6))]),
    "inbound_done": lambda store, epoch: store.settle([Settle("c", epoch, "inbound_done", 5)]),
}


async def filled(store: Store) -> Claim:
    """A session with something that each call of `OWNED` would change."""
    claim = await claimed(store)
    await done(store.subscribe("c", claim.epoch, [Subscription("a")], ()))
    await enqueued(store, b"0", b"1")
    await settled(store, claim.epoch, "rec", 2, packet_identifier=4)
    await settled(store, claim.epoch, "inbound", 5, publish=publication(5))
    return claim


@pytest.mark.parametrize("call", OWNED)
async def test_an_owner_is_let_through(store: Store, call: str) -> None:
    await done(OWNED[call](store, (await filled(store)).epoch))


@pytest.mark.parametrize("call", OWNED)
async def test_a_later_owner_fences_an_earlier_one(store: Store, call: str) -> None:
    """And what the earlier one tried did not happen."""
    stale = await filled(store)
    claim = await claimed(store)
    with pytest.raises(Fenced):
        await done(OWNED[call](store, stale.epoch))
    assert await done(store.sweep(1e9, 10)) == []
    assert await payloads(store, claim.epoch) == [b"0"]
    after = await claimed(store)
    assert (after.subscriptions, after.releases, after.inbound) == (claim.subscriptions, claim.releases, claim.inbound)


@pytest.mark.parametrize("call", OWNED)
async def test_an_owner_of_a_session_that_is_no_more_is_fenced(store: Store, call: str) -> None:
    claim = await filled(store)
    await done(store.remove("c", claim.epoch))
    with pytest.raises(Fenced):
        await done(OWNED[call](store, claim.epoch))
    assert not (await claimed(store)).present


@pytest.mark.parametrize("call", OWNED)
async def test_epochs_are_never_used_again(store: Store, call: str) -> None:
    """A session that was removed and made again does not meet its own past, nor one that was wiped."""
    removed = await filled(store)
    await done(store.remove("c", removed.epoch))
    wiped = await filled(store)
    claim = await claimed(store, clean_start=True)
    for stale in (removed, wiped):
        with pytest.raises(Fenced):
            await done(OWNED[call](store, stale.epoch))
    await done(store.release("c", claim.epoch, expires_at=None))
    assert (await claimed(store)).subscriptions == ()


@pytest.mark.parametrize("epoch", [0, 1, 99])
@pytest.mark.parametrize("call", OWNED)
async def test_nobody_owns_a_session_that_never_was(store: Store, call: str, epoch: int) -> None:
    with pytest.raises(Fenced):
        await done(OWNED[call](store, epoch))
    assert not (await claimed(store)).present


async def test_settle_takes_all_steps_or_none(store: Store) -> None:
    mine = await claimed(store)
    other = await claimed(store, "other")
    await enqueued(store, b"0", b"1")
    await claimed(store, "other")
    steps = [Settle("c", mine.epoch, "ack", 1), Settle("other", other.epoch, "ack", 1)]
    with pytest.raises(Fenced):
        await done(store.settle(steps))
    assert await payloads(store, mine.epoch) == [b"0", b"1"]
    await done(store.settle([steps[0], Settle("c", mine.epoch, "ack", 2)]))
    assert await payloads(store, mine.epoch) == []


async def test_enqueue_takes_the_steps_of_the_publisher_with_it(store: Store) -> None:
    """The release of a QoS 2 publication and its fan-out are one: all of it happens, or nothing."""
    publisher = await claimed(store, "publisher")
    subscriber = await claimed(store)
    await settled(store, publisher.epoch, "inbound", 5, "publisher", publish=publication(5))
    released = Settle("publisher", publisher.epoch, "inbound_done", 5)
    assert await done(store.enqueue([Enqueue("c", delivery(b"x", 2))], [released])) == [1]
    assert await payloads(store, subscriber.epoch) == [b"x"]
    again = await claimed(store, "publisher")
    assert again.inbound == ()
    with pytest.raises(Fenced):
        await done(store.enqueue([Enqueue("c", delivery(b"y", 2))], [released]))
    assert await payloads(store, subscriber.epoch) == [b"x"]
    assert await done(store.enqueue([], [Settle("publisher", again.epoch, "inbound_done", 5)])) == []


# --- the end of a session ----------------------------------------------------------------------


async def test_remove_leaves_nothing(store: Store) -> None:
    await done(store.remove("c", (await filled(store)).epoch))
    assert await enqueued(store, b"x") == [0]
    claim = await claimed(store)
    assert claim == Claim(claim.epoch, False)
    assert await payloads(store, claim.epoch) == []


async def test_sweep_removes_what_was_released_and_is_over(store: Store) -> None:
    """Each once; not what is owned, not what never ends, not before its time."""
    for name, expires_at in (("soon", 10.0), ("later", 20.0), ("never", None), ("again", 10.0)):
        await done(store.release(name, (await claimed(store, name)).epoch, expires_at=expires_at))
    await claimed(store, "owned")
    await claimed(store, "again")
    assert await done(store.sweep(9.9, 10)) == []
    assert await done(store.sweep(10.0, 10)) == ["soon"]
    assert await done(store.sweep(15.0, 10)) == []
    assert await done(store.sweep(1e12, 10)) == ["later"]
    assert [(await claimed(store, name)).present for name in ("soon", "later", "never", "again", "owned")] == [
        False,
        False,
        True,
        True,
        True,
    ]


async def test_sweep_takes_no_more_than_its_limit(store: Store) -> None:
    names = [f"c{i}" for i in range(5)]
    for name in names:
        await done(store.release(name, (await claimed(store, name)).epoch, expires_at=1.0))
    swept: list[str] = []
    for expected in (2, 2, 1, 0):
        some = await done(store.sweep(2.0, 2))
        assert len(some) == expected
        swept += some
    assert sorted(swept) == names


async def test_a_released_session_still_gets_messages(store: Store) -> None:
    claim = await claimed(store)
    await done(store.release("c", claim.epoch, expires_at=None))
    assert await enqueued(store, b"while away") == [1]
    assert await payloads(store, (await claimed(store)).epoch) == [b"while away"]


async def test_all_sessions_can_be_listed(store: Store) -> None:
    for name, identity, expires_at in (("a", ANN, 10.0), ("b", BOB, None)):
        claim = await done(store.claim(name, identity, clean_start=False))
        await done(store.release(name, claim.epoch, expires_at=expires_at))
    await done(store.claim("owned", BOB, clean_start=False))
    listed = {row.client_identifier: row for row in await done(store.sessions())}
    assert {name: row.identity for name, row in listed.items()} == {"a": ANN, "b": BOB, "owned": BOB}
    assert {name: row.released for name, row in listed.items()} == {"a": True, "b": True, "owned": False}
    assert (listed["a"].expires_at, listed["b"].expires_at) == (10.0, None)


# --- subscriptions -----------------------------------------------------------------------------


async def test_a_subscription_is_replaced_in_place(store: Store) -> None:
    """One Topic Filter, as the client spells it, is one subscription [MQTT-3.8.4-3]."""
    claim = await claimed(store)
    first, other, shared = Subscription("a", 0), Subscription("b", 1), Subscription("a", 1, share_name="g")
    await done(store.subscribe("c", claim.epoch, [first, other, shared], ()))
    second = Subscription("a", 2, no_local=True, identifier=3)
    await done(store.subscribe("c", claim.epoch, [second], ()))
    assert set((await claimed(store)).subscriptions) == {second, other, shared}


async def test_filters_are_dropped(store: Store) -> None:
    """By the whole filter, `$share` and all; one that is not there is no error."""
    claim = await claimed(store)
    plain, shared = Subscription("a"), Subscription("a", share_name="g")
    await done(store.subscribe("c", claim.epoch, [plain, shared], ()))
    await done(store.subscribe("c", claim.epoch, (), ["a", "unknown"]))
    claim = await claimed(store)
    assert claim.subscriptions == (shared,)
    await done(store.subscribe("c", claim.epoch, [plain], ["$share/g/a", "a"]))
    assert (await claimed(store)).subscriptions == (plain,)


# --- messages ----------------------------------------------------------------------------------


async def test_sequences_rise_for_ever(store: Store) -> None:
    """From 1, without regard to what was settled, or to who owns the session."""
    claim = await claimed(store)
    assert await enqueued(store, b"0", b"1") == [1, 2]
    for number in (1, 2):
        await settled(store, claim.epoch, "ack", number)
    assert await enqueued(store, b"2") == [3]
    await claimed(store)
    assert await enqueued(store, b"3", b"4") == [4, 5]


async def test_messages_for_nobody_are_skipped(store: Store) -> None:
    await claimed(store)
    rows = [Enqueue(name, delivery(b"x")) for name in ("nobody", "c", "nobody", "c")]
    assert await done(store.enqueue(rows)) == [0, 1, 0, 2]
    assert not (await claimed(store, "nobody")).present


async def test_enqueue_keeps_order_and_content(store: Store) -> None:
    claim = await claimed(store)
    deliveries = [Delivery(Message("t", b"%d" % i, 2, True), 1 + i % 2, i > 1, (i + 1,)) for i in range(4)]
    await done(store.enqueue([Enqueue("c", each) for each in deliveries]))
    assert await done(store.read("c", claim.epoch, 0, 10)) == [
        Stored(index + 1, each) for index, each in enumerate(deliveries)
    ]


async def test_read_goes_on_after_a_sequence(store: Store) -> None:
    claim = await claimed(store)
    await enqueued(store, *(b"%d" % i for i in range(1, 8)))
    for number in (2, 5):
        await settled(store, claim.epoch, "ack", number)
    assert await payloads(store, claim.epoch, 0, 3) == [b"1", b"3", b"4"]
    assert await payloads(store, claim.epoch, 4, 3) == [b"6", b"7"]
    assert await payloads(store, claim.epoch, 5, 1) == [b"6"]
    assert await payloads(store, claim.epoch, 7, 3) == []
    assert await payloads(store, claim.epoch, 0, 0) == []
    assert await payloads(store, claim.epoch, 0, 3) == [b"1", b"3", b"4"], "reading takes nothing away"


async def test_a_message_is_settled_once_and_for_all(store: Store) -> None:
    claim = await claimed(store)
    await enqueued(store, b"1", b"2", b"3")
    for _ in range(2):
        await settled(store, claim.epoch, "ack", 2)
    await settled(store, claim.epoch, "ack", 99)
    claim = await claimed(store)
    assert await payloads(store, claim.epoch) == [b"1", b"3"]
    assert claim.releases == ()


async def test_a_received_message_waits_for_its_completion(store: Store) -> None:
    """PUBREC: the body goes, the identifier stays until PUBCOMP, oldest first."""
    claim = await claimed(store)
    await enqueued(store, b"1", b"2", b"3")
    await settled(store, claim.epoch, "rec", 3, packet_identifier=8)
    await settled(store, claim.epoch, "rec", 1, packet_identifier=7)
    claim = await claimed(store)
    assert claim.releases == ((3, 8), (1, 7))
    assert await payloads(store, claim.epoch) == [b"2"]
    for _ in range(2):
        await settled(store, claim.epoch, "comp", 8)
    await settled(store, claim.epoch, "comp", 1)  # a sequence is no Packet Identifier
    assert (await claimed(store)).releases == ((1, 7),)


async def test_a_received_publication_waits_for_its_release(store: Store) -> None:
    """In the order of receipt; its identifier is free for another one afterwards."""
    claim = await claimed(store)
    for identifier in (9, 4, 6):
        await settled(store, claim.epoch, "inbound", identifier, publish=publication(identifier, b"first"))
    for _ in range(2):
        await settled(store, claim.epoch, "inbound_done", 4)
    await settled(store, claim.epoch, "inbound", 4, publish=publication(4, b"second"))
    assert (await claimed(store)).inbound == (
        (9, publication(9, b"first")),
        (6, publication(6, b"first")),
        (4, publication(4, b"second")),
    )


# --- retained messages -------------------------------------------------------------------------


async def test_retained_messages_are_one_for_each_topic(store: Store) -> None:
    a, b = Message("a", b"1", 1, True), Message("b", b"2", 0, True)
    assert await done(store.retained()) == []
    await done(store.retain([a, b], ()))
    newer = Message("a", b"3", 2, True)
    await done(store.retain([newer], ()))
    kept = await done(store.retained())
    assert sorted(kept, key=lambda message: message.topic) == [newer, b]


async def test_retained_messages_are_dropped_by_topic(store: Store) -> None:
    a, b = Message("a", b"1", 1, True), Message("b", b"2", 0, True)
    await done(store.retain([a, b], ()))
    await done(store.retain((), ["a", "unknown"]))
    assert await done(store.retained()) == [b]
    await done(store.retain([a], ["a", "b"]))
    assert await done(store.retained()) == [a]


async def test_retained_messages_have_no_owner(store: Store) -> None:
    """They outlive the session whose client published them."""
    claim = await claimed(store)
    message = Message("a", b"1", 0, True, publisher="c")
    await done(store.retain([message], ()))
    await done(store.remove("c", claim.epoch))
    assert await done(store.retained()) == [message]
