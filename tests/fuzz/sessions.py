"""Door `sessions`: a whole broker in memory, in virtual time, with clients that do anything at any moment.

Bystanders exchange messages all the while, and receive everything that is published. Whatever the fuzzed clients do:

- nothing is logged as an error, and nothing but the fuzzed clients' connections ends;
- each of them is told why on MQTT 5, and everything that is sent to it is well formed;
- who sent what the standard forbids is cut off;
- every message of the bystanders arrives, once and in order, and what they receive is well formed;
- queues stay within their bounds; afterwards no connection, session, subscription, timer or task is left.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable

import trio
import trio.testing
from hypothesis import strategies as st
from trio._core import _run
from trio.testing import wait_all_tasks_blocked

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import PacketType, ProtocolVersion, Publish, Subscribe
from acebroker_middleware.connection import Connection
from acebroker_middleware.stage import Batch
from acebroker_middleware.state.bounds import Limits
from tests.broker.storage.waiting import WaitingStore
from tests.fuzz.bystanders import Bystanders
from tests.fuzz.damage import damaged
from tests.fuzz.door import Door
from tests.fuzz.fuzzed_client import FuzzedClient
from tests.fuzz.packets import READY, TOPICS, octets_to_send, vectors
from tests.fuzz.script import Do, Setting, Step, read_script, write_script
from tests.fuzz.wires import MemoryWire, TcpWire, Wire
from tests.strategies import VERSIONS
from trio_acebroker import Broker, BrokerConfig
from trio_acebroker.config import Authentication, Listener, SysTopics
from trio_acebroker.runtime.shells.base import READ_BYTES_MAX
from trio_acebroker.storage.memory import MemoryStore

__all__ = ["LIMITS", "SESSIONS"]

#: small, so that a few packets reach them
LIMITS = Limits(
    connect_timeout_seconds=10,
    packet_bytes_max=2_000,
    topic_bytes_max=100,
    topic_levels_max=8,
    client_identifier_bytes_max=64,
    topic_alias_max=4,
    topic_alias_out_max=2,
    topic_alias_out_bytes_min=1,
    sessions_max=8,
    session_expiry_seconds_max=300,
    subscriptions_per_client_max=5,
    in_flight_max=4,
    receive_max=5,
    queued_messages_max=5,
    queued_bytes_max=5_000,
    group_messages_max=5,
    group_bytes_max=5_000,
    out_queue_bytes_max=10_000,
    retained_messages_max=3,
    retained_bytes_max=5_000,
    flows_per_connection_max=3,
    flow_bytes_per_connection_max=200,
    routes_max=4,
)
V3, V4, V5 = VERSIONS
#: seconds, by argument of WAIT
WAITS = (0.1, 1.0, 9.0, 11.0, 31.0, 95.0, 130.0, 400.0)
#: connections that the fuzzed clients hold at one time
CLIENTS_MAX = 3


class _Refusing:
    """A plugin that sees everything, and refuses what is below `deny/`."""

    name = "refusing"
    wants = frozenset(PacketType)

    def on_batch(self, conn: Connection, batch: Batch) -> Batch:
        out: Batch = []
        for packet in batch:
            if isinstance(packet, Publish) and packet.topic.startswith("deny/"):
                conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, "below deny/")
                continue
            if isinstance(packet, Subscribe):
                for index, request in enumerate(packet.filters):
                    if request.filter.startswith("deny/"):
                        conn.refuse(packet, ReasonCode.NOT_AUTHORIZED, "below deny/", index)
            out.append(packet)
        return out


class _Errors(logging.Handler):
    """Collects what should never be logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def check(self) -> None:
        for record in self.records:
            cause = record.exc_info[1] if record.exc_info else None
            raise AssertionError(f"logged: {record.getMessage()}") from cause


def _execute(data: bytes) -> None:
    setting, steps = read_script(data)
    errors = _Errors()
    logger = logging.getLogger("trio_acebroker")
    logger.addHandler(errors)
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(setting.order)
    try:
        trio.run(_play, setting, steps, errors, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logger.removeHandler(errors)


def _broker(setting: Setting) -> Broker:
    config = BrokerConfig(
        listeners=(Listener(port=0, shell="pump"),) if setting.pump else (),
        authentication=Authentication(anonymous=True),
        limits=LIMITS,
        sys_topics=SysTopics(interval_seconds=0),
    )
    stages = [_Refusing()] if setting.plugin else []
    store = WaitingStore() if setting.late_store else None
    return Broker(config, stages=stages, store=store, flow_cache=setting.flow_cache)


async def _play(setting: Setting, steps: list[Step], errors: _Errors) -> None:
    broker = _broker(setting)
    clients = _Clients(broker, setting)
    try:
        async with trio.open_nursery() as nursery:
            clients.addresses = await nursery.start(broker.serve)
            bystanders = Bystanders(broker)
            await bystanders.start(nursery)
            before = _held(broker)
            await clients.open()
            for step in steps:
                await _do(broker, bystanders, clients, step)
                if step.at_once:
                    continue
                await bystanders.exchange()
                clients.had_their_turn()
                _check_bounds(broker)
                errors.check()
            await wait_all_tasks_blocked()
            clients.had_their_turn()
            for client in clients.all:
                await client.end()
            await trio.sleep(LIMITS.session_expiry_seconds_max + 1)
            await bystanders.exchange()
            assert _held(broker) == before, "something is left"
            bystanders.check()
            nursery.cancel_scope.cancel()
    finally:
        for client in clients.all:
            client.cut()
        errors.check()


class _Clients:
    """The fuzzed clients. Those in `open_ones` are connected, the last of them is the present one."""

    def __init__(self, broker: Broker, setting: Setting) -> None:
        self._broker = broker
        self._setting = setting
        self.addresses: list[tuple[str, int]] = []
        self.open_ones: list[FuzzedClient] = []
        self.all: list[FuzzedClient] = []

    @property
    def present(self) -> FuzzedClient:
        return self.open_ones[-1]

    async def open(self) -> None:
        """One more; the oldest is cut where there are too many."""
        if len(self.open_ones) >= CLIENTS_MAX:
            self.cut(0)
        wire: Wire
        if self._setting.pump:
            wire = TcpWire(self.addresses[0])
        else:
            wire = MemoryWire(await self._broker.connect(), narrow=self._setting.narrow)
        client = FuzzedClient(wire, told=self._setting.pump or not self._setting.narrow)
        self.open_ones.append(client)
        self.all.append(client)

    def cut(self, index: int) -> None:
        self.open_ones.pop(index).cut()

    def had_their_turn(self) -> None:
        for client in self.open_ones:
            client.had_its_turn()


async def _do(broker: Broker, bystanders: Bystanders, clients: _Clients, step: Step) -> None:
    client = clients.present
    if client.ended and step.do in (Do.SEND, Do.PIECES, Do.READY):
        clients.cut(-1)
        await clients.open()
        client = clients.present
    match step.do:
        case Do.SEND:
            client.send(step.octets)
        case Do.PIECES:
            size = step.argument + 1
            for at in range(0, len(step.octets), size):
                client.send(step.octets[at : at + size])
                await wait_all_tasks_blocked()
        case Do.READY:
            client.send(READY[step.argument])
        case Do.WAIT:
            await trio.sleep(WAITS[step.argument % len(WAITS)])
        case Do.CUT:
            clients.cut(-1)
            await clients.open()
        case Do.ANOTHER if step.argument & 1:
            clients.open_ones.insert(0, clients.open_ones.pop())
        case Do.ANOTHER:
            await clients.open()
        case Do.READ if step.argument & 1:
            client.acknowledge()
        case Do.READ:
            client.read()
        case Do.OTHERS:
            topic = TOPICS[step.argument % len(TOPICS)]
            qos = step.argument // len(TOPICS) % 3
            if step.argument < 16:
                await bystanders.publish(topic, b"from a bystander", qos, retain=step.argument % 4 == 3)
            else:
                await broker.publish(topic, b"from the program", qos=qos)


def _check_bounds(broker: Broker) -> None:
    """What limits bound is bounded, whoever has it."""
    for task in broker.connections:
        conn = task.conn
        assert len(conn.tail) <= LIMITS.packet_bytes_max + READ_BYTES_MAX, "octets of an unfinished packet"
        assert conn.out_octets <= LIMITS.out_queue_bytes_max + LIMITS.packet_bytes_max + READ_BYTES_MAX, "out-queue"
        assert conn.out_octets == sum(map(len, conn.out)), "octets of the out-queue are miscounted"
        assert len(conn.flows) <= LIMITS.flows_per_connection_max, "flows"
        assert len(conn.decisions) <= LIMITS.flows_per_connection_max, "decisions"
        assert len(conn.receiving_aliases._topics) <= LIMITS.topic_alias_max, "topic aliases"
    assert len(broker.session.sessions) <= LIMITS.sessions_max, "sessions"
    for state in broker.session.sessions.values():
        assert len(state.subscriptions) <= LIMITS.subscriptions_per_client_max, "subscriptions"
        assert len(state.window) <= LIMITS.in_flight_max, "window"
        assert len(state.inbound) <= LIMITS.receive_max, "QoS 2 publications that are not released"
        assert len(state.queue) <= LIMITS.queued_messages_max, "queue"
        assert state.queued_octets <= LIMITS.queued_bytes_max, "octets of the queue"
        counted = sum(each.message.octets for each in state.queue)
        assert state.queued_octets == counted, "octets of the queue are miscounted"
    assert len(broker.router.retained) <= LIMITS.retained_messages_max, "retained messages"


def _held(broker: Broker) -> dict[str, object]:
    """What a broker holds for its clients; retained messages and counters apart, which stay."""
    assert broker._nursery is not None
    store = broker.store.inner if isinstance(broker.store, WaitingStore) else broker.store
    assert isinstance(store, MemoryStore)
    return {
        "connections": sorted(task.conn.client_identifier for task in broker.connections),
        "unauthenticated": len(broker._unauthenticated),
        "per listener": dict(broker._per_listener),
        "tasks": len(broker._nursery.child_tasks),
        "lingering": broker.lingering,
        "sessions": sorted(broker.session.sessions),
        "subscriptions": sorted(broker.router.tree.filters()),
        "nodes of the tree": broker.router.tree.node_count,
        "rows of the store": sorted(store._rows),
        "timers": sum(timer.callback is not None for bucket in broker.timers._buckets.values() for timer in bucket),
        "waiting": [
            (name, len(state.queue), len(state.window), len(state.inbound), bool(state.retained_waiting))
            for name, state in sorted(broker.session.sessions.items())
        ],
    }


# ---- inputs ----


def _ready(*arguments: int) -> list[Step]:
    return [Step(Do.READY, argument) for argument in arguments]


#: READY: the CONNECTs of each version
_CONNECTS = {V3: (4,), V4: (3,), V5: (0, 1, 2)}
#: READY: subscriptions in the form of each version
_SUBSCRIBES = {V3: (5,), V4: (5,), V5: (6, 7, 8)}
_OTHERS_QOS_1, _OTHERS_QOS_2 = 5, 11


@st.composite
def _beginning(draw: st.DrawFn, version: ProtocolVersion) -> list[Step]:
    """How it comes to something: connected, mostly subscribed, mostly with messages that wait for an answer."""
    connect = draw(st.sampled_from(_CONNECTS[version]))
    steps = _ready(connect)
    if draw(st.integers(0, 3)):
        steps += _ready(draw(st.sampled_from(_SUBSCRIBES[version])))
        others = st.sampled_from((_OTHERS_QOS_1, _OTHERS_QOS_2, 0, 17, 22, 27))
        steps += [Step(Do.OTHERS, argument) for argument in draw(st.lists(others, max_size=3))]
    if draw(st.integers(0, 3)) == 0:  # away, while something comes, and back
        away = [Step(Do.CUT), Step(Do.OTHERS, draw(st.sampled_from((_OTHERS_QOS_1, _OTHERS_QOS_2))))]
        steps += [*away, *_ready(connect)]
    return steps


@st.composite
def _inputs(draw: st.DrawFn) -> bytes:
    setting = draw(st.builds(Setting, *[st.booleans()] * 5, st.integers(0, 7)))
    version = draw(st.sampled_from((V3, V4, V5, V5)))
    steps = draw(_beginning(version)) if draw(st.integers(0, 9)) else []
    arguments = st.integers(0, 31)
    octets = octets_to_send(version)
    connects = st.sampled_from([READY[argument] for argument in _CONNECTS[version]])
    one = st.one_of(
        st.builds(Step, st.just(Do.SEND), st.integers(0, 3), octets),
        st.builds(Step, st.just(Do.SEND), st.integers(0, 3), octets),
        st.builds(Step, st.just(Do.SEND), st.integers(0, 3), connects),
        st.builds(Step, st.just(Do.PIECES), arguments, octets),
        st.builds(Step, st.sampled_from((Do.READY, Do.READ, Do.OTHERS, Do.OTHERS)), arguments),
        st.builds(Step, st.sampled_from((Do.WAIT, Do.CUT, Do.ANOTHER)), arguments),
    )
    steps += draw(st.lists(one, max_size=12))
    return write_script(setting, steps)


def _spoiled(data: bytes, chance: random.Random) -> bytes:
    """Mostly the octets of a step; else a step is lost, doubled or moved, or the script itself is damaged."""
    setting, steps = read_script(data)
    kind = chance.random()
    if kind < 0.1 or not steps:
        return damaged(data, chance)
    at = chance.randrange(len(steps))
    if kind < 0.2:
        del steps[at]
    elif kind < 0.3:
        steps.insert(chance.randrange(len(steps)), steps[at])
    elif kind < 0.4:
        steps.insert(at, Step(Do.READY, chance.randrange(32)))
    else:
        carrying = [index for index, step in enumerate(steps) if step.octets or step.do is Do.READY]
        if carrying:
            at = chance.choice(carrying)
            octets = steps[at].octets or READY[steps[at].argument]
            steps[at] = Step(Do.SEND, 0, damaged(octets, chance))
    return write_script(setting, steps)


def _seeds() -> Iterable[bytes]:
    for argument in range(5):
        for ready in range(5, 32):
            yield write_script(Setting(), [Step(Do.READY, argument), Step(Do.READY, ready), Step(Do.OTHERS, ready)])
    for version in VERSIONS:
        for octets in vectors(int(version), "client")[::3]:
            connect = Step(Do.READY, {3: 4, 4: 3, 5: 0}[int(version)])
            yield write_script(Setting(), [connect, Step(Do.SEND, 0, octets)])


SESSIONS = Door("sessions", 6, _execute, _inputs(), _spoiled, 4, _seeds)
