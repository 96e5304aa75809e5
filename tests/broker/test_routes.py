"""Routes that make room for others: what still uses one learns of later subscriptions all the same."""

from __future__ import annotations

import pytest

from acebroker_middleware.state.bounds import Limits
from tests.harness import broker_running, connected, run_in_virtual_time

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("routes_max", [1, 4])
async def test_a_publisher_finds_who_subscribed_after_its_route_made_room(routes_max: int, qos: int) -> None:
    async with broker_running(limits=Limits(routes_max=routes_max)) as broker:
        publisher = await connected(broker, "publisher")
        await publisher.publish("t", b"nobody", qos=qos)
        for number in range(5):
            await publisher.publish(f"other/{number}", b"nobody")
        await publisher.expect_alive()
        assert len(broker.router.routes) <= routes_max
        subscriber = await connected(broker, "subscriber")
        await subscriber.subscribe("t", qos=qos)
        await publisher.publish("t", b"somebody", qos=qos)
        await subscriber.expect_message("t", b"somebody", qos=qos)
