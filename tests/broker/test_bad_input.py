"""What a client must not send, in places where it once cost more than that client: found by `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import Connack, Connect, PacketType, Publish
from acebroker_middleware.authn import Authn
from acebroker_middleware.stage import per_packet
from tests.conformance import octets
from tests.harness import WireClient, broker_running, connected, make, make_will, run_in_virtual_time, under_test
from trio_acebroker import Broker

pytestmark = pytest.mark.trio(run=run_in_virtual_time)


async def asking(broker: Broker, **properties: Any) -> WireClient:
    """A client that has sent CONNECT, and waits."""
    client = await WireClient.open(broker)
    await client.send(make(Connect, client_identifier="client", will=make_will("will", b"gone"), **properties))
    return client


@pytest.fixture(params=["raw", "pump"], autouse=True)
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    """`raw` in memory, `pump` over TCP: what `broker_running` uses."""
    under_test.choose(request.param)
    yield
    under_test.choose("raw")


each_version = pytest.mark.parametrize("version", [3, 4, 5])


@each_version
@pytest.mark.parametrize(
    "second",
    [
        octets.connect(version=0),
        octets.connect(version=6),
        octets.connect(name=b"HTTP"),
        octets.connect(version=4),
        octets.connect(flags=0xFF),
        b"\x10\x00",
    ],
)
async def test_a_second_connect_is_a_protocol_error_whatever_it_says(
    caplog: pytest.LogCaptureFixture, version: int, second: bytes
) -> None:
    """One of an unknown protocol version once ended the broker: no DISCONNECT can say 0x84."""
    async with broker_running() as broker:
        other = await connected(broker, "other", version)
        client = await connected(broker, "client", version)
        await client.send_raw(second)
        await client.expect_closed(ReasonCode.PROTOCOL_ERROR)
        await other.expect_alive()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("reason_code", [0, *ReasonCode])
async def test_an_error_that_no_disconnect_can_carry_ends_its_client_alone(reason_code: ReasonCode) -> None:
    @per_packet(PacketType.PUBLISH)
    def refusing(conn: object, packet: object) -> None:
        raise MqttError("this is not for a DISCONNECT", ReasonCode(reason_code))

    async with broker_running(stages=[refusing]) as broker:
        other = await connected(broker, "other")
        client = await connected(broker, "client")
        await client.send(Publish("t", b""))
        await client.expect_closed({reason_code, ReasonCode.UNSPECIFIED_ERROR} - set(range(0x80)))
        await other.expect_alive()


async def test_a_broker_that_stops_while_somebody_is_authenticated() -> None:
    """No CONNACK can say 0x8B; the nearest is 0x88 Server unavailable."""

    class Never:
        name = "never"

        async def authenticate(self, conn: object, connect: object) -> None:
            await trio.sleep_forever()

    async with broker_running() as broker:
        (authn,) = (stage for stage in broker.pipeline.stages if isinstance(stage, Authn))
        authn.authenticators = (Never(),)
        client = await asking(broker)
        await wait_all_tasks_blocked()
    assert (await client.expect(Connack)).reason_code == ReasonCode.SERVER_UNAVAILABLE
    await client.expect_closed()


async def test_a_client_that_takes_not_even_a_connack_is_no_client() -> None:
    """Its Maximum Packet Size is that small: it leaves no session, and no Will."""
    async with broker_running() as broker:
        other = await connected(broker, "other")
        await other.subscribe("will")
        client = await asking(broker, maximum_packet_size=3, session_expiry_interval=100)
        assert await client.receive_or_end() is None
        await trio.sleep(200)
        await other.expect_alive()
        assert list(broker.session.sessions) == ["other"]


async def test_an_error_in_delivery_ends_that_subscriber_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Delivery is called from others' rounds: an exception there once left everybody's octets lying."""
    async with broker_running() as broker:
        fragile = await connected(broker, "fragile")
        await fragile.subscribe("t")
        sound = await connected(broker, "sound")
        await sound.subscribe("t")
        publisher = await connected(broker, "publisher")
        (task,) = (task for task in broker.connections if task.conn.client_identifier == "fragile")

        def broken(data: bytes) -> int:
            task.conn.transmit = transmit
            raise RuntimeError("this cannot happen")

        transmit, task.conn.transmit = task.conn.transmit, broken
        await publisher.publish("t", b"x")
        await sound.expect_message("t", b"x")
        await publisher.expect_alive()
        await fragile.expect_message("t", b"x")
        await fragile.expect_closed(0x83)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["delivery failed"]
