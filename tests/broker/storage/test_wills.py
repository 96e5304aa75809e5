"""Wills and a store that waits: nobody is left to await their being durable, and they go out all the same."""

from __future__ import annotations

import logging

import pytest
import trio

from acebroker_middleware.state.ports import Unavailable
from tests.broker.storage.waiting import WaitingStore
from tests.harness import WireClient, broker_running, connected, make_will, run_in_virtual_time
from trio_acebroker import Broker

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


async def subscribed(broker: Broker) -> WireClient:
    """A client whose session is kept in the store, and who hears of Wills."""
    client = await connected(broker, "subscriber", session_expiry_interval=100)
    await client.subscribe("w", qos=1)
    return client


@pytest.mark.parametrize("delay", [0, 5])
async def test_a_will_reaches_a_session_in_a_store_that_waits(delay: int) -> None:
    async with broker_running(store=WaitingStore()) as broker:
        client = await subscribed(broker)
        will = make_will("w", b"gone", qos=1, will_delay_interval=delay or None)
        other = await connected(broker, "other", will=will, session_expiry_interval=100)
        await other.aclose()
        await trio.sleep(delay)
        await client.expect_message("w", b"gone", qos=1)
        await client.disconnect()
        other = await connected(broker, "other", will=make_will("w", b"again", qos=1))
        await other.aclose()
        client = await connected(broker, "subscriber", clean_start=False)
        await client.expect_message("w", b"again", qos=1)


async def test_a_will_that_cannot_be_stored_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    store = WaitingStore()
    async with broker_running(store=store) as broker:
        client = await subscribed(broker)
        other = await connected(broker, "other", will=make_will("w", b"gone", qos=1))
        store.fail("enqueue", Unavailable())
        with caplog.at_level(logging.ERROR, "trio_acebroker"):
            await other.aclose()
            await client.expect_silence()
    assert [record.getMessage() for record in caplog.records] == ["the store failed: Unavailable()"]
    await client.expect_closed(0x8B)


async def test_a_will_at_the_end_of_the_broker_is_in_the_store() -> None:
    store = WaitingStore()
    async with broker_running(store=store) as broker:
        await subscribed(broker)
        await connected(broker, "other", will=make_will("w", b"gone", qos=1))
    (row,) = store.inner._rows["subscriber"].queue.values()
    assert row.message.payload == b"gone"
