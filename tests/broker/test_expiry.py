"""Rights that end, over the whole broker: what is queued does not leave, and the client is told. On both shells."""

from __future__ import annotations

import time

import pytest
import trio

import trio_acebroker.server
from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import Disconnect, Publish
from acebroker_middleware.acl import AclAuthority, AclRules
from tests.harness import broker_over_tcp, connected_over_tcp, run_in_virtual_time
from trio_acebroker import Limits
from trio_acebroker.config import Listener

pytestmark = [pytest.mark.parametrize("shell", ["raw", "pump"]), pytest.mark.trio(run=run_in_virtual_time)]

RULES = AclRules.parse("topic readwrite #\n", "test")


@pytest.fixture(autouse=True)
def ending_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client `ends` has rights for ten seconds; time of day goes as virtual time does."""
    base = time.time()

    def authorities(config: object) -> object:
        def authority_for(username: str | None, client_identifier: str) -> AclAuthority:
            authority = AclAuthority(RULES, username, client_identifier)
            if client_identifier == "ends":
                authority.authorized_until = base + trio.current_time() + 10
            return authority

        return authority_for

    monkeypatch.setattr(trio_acebroker.server, "_authorities", authorities)
    monkeypatch.setattr(
        "trio_acebroker.runtime.timers.CoarseClock.wall", property(lambda clock: base + trio.current_time())
    )


def listening(shell: str) -> tuple[Listener, ...]:
    return (Listener(port=0, shell=shell),)  # type: ignore[arg-type]


async def test_the_client_is_told_when_its_time_has_come(shell: str) -> None:
    async with broker_over_tcp(listeners=listening(shell)) as (broker, address):
        async with connected_over_tcp(address, "ends") as ends, connected_over_tcp(address, "stays") as stays:
            began = trio.current_time()
            await ends.subscribe("t")
            await ends.expect_silence(9)
            packet = await ends.receive()
            assert isinstance(packet, Disconnect) and packet.reason_code == ReasonCode.NOT_AUTHORIZED
            assert 10 <= trio.current_time() - began < 10.3
            await stays.expect_alive()
        assert broker.counters.denials["rights ended"] == 1


async def test_a_message_that_comes_in_the_same_round_does_not_leave(shell: str) -> None:
    """Another client's cached route names the subscriber until its flush is refused."""
    async with broker_over_tcp(listeners=listening(shell)) as (broker, address):
        async with connected_over_tcp(address, "ends") as ends, connected_over_tcp(address, "writes") as writes:
            await ends.subscribe("t")
            for payload in (b"1", b"2"):
                await writes.send(Publish("t", payload))
                await ends.expect(Publish, payload=payload)
            conn = broker.session.sessions["ends"].connection
            assert conn is not None and conn.expiry_timer is not None
            conn.expiry_timer.cancel()  # as if the wheel came late
            await trio.sleep(10)
            await writes.send(Publish("t", b"too late"))
            await ends.expect_closed(ReasonCode.NOT_AUTHORIZED)
            await writes.expect_alive()


async def test_what_waits_for_a_slow_client_does_not_leave_and_frames_stay_whole(shell: str) -> None:
    limits = Limits(out_queue_bytes_max=64_000_000)
    async with broker_over_tcp(listeners=listening(shell), limits=limits) as (broker, address):
        async with connected_over_tcp(address, "ends") as ends, connected_over_tcp(address, "writes") as writes:
            await ends.subscribe("t")
            for number in range(300):
                await writes.send(Publish("t", number.to_bytes(4, "big") * 16_000))
            await writes.expect_alive()
            conn = broker.session.sessions["ends"].connection
            assert conn is not None and conn.blocked
            conn.expiry_timer.cancel()  # type: ignore[union-attr]
            await trio.sleep(10)
            received = 0
            while isinstance(packet := await ends.receive_or_end(), Publish):
                assert packet.payload == received.to_bytes(4, "big") * 16_000
                received += 1
            assert received < 300
            assert packet is None or packet.reason_code == ReasonCode.NOT_AUTHORIZED  # type: ignore[attr-defined]
