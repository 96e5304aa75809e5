"""Ten thousand clients at once, over TCP, to a broker in a process of its own, whose memory is looked at.

As many as the limits on open files allow, in this process and in that one. All of them get their CONNACK, each costs
a bounded number of octets, and what they cost is there again for the next ten thousand.
"""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acebroker_codec.encoder import encode
from acebroker_codec.packets import Connect, ProtocolVersion
from tests.broker.serving import Serving, serving

CLIENTS = 10_000
#: fewer would prove little
CLIENTS_MIN = 2_000
#: files of a process that are no connections
FILES = 200
#: resident octets of the broker for each connected client
BYTES_PER_CLIENT_MAX = 25_000
#: beyond a first round, which fills caches and the allocator
GROWTH_MAX = 1.15
SECONDS_MAX = 60

CONNECT = encode(Connect("", ProtocolVersion.MQTT_3_1_1, True, 0), ProtocolVersion.MQTT_3_1_1)
CONNACK = b"\x20\x02\0\0"


@contextmanager
def open_files() -> Iterator[int]:
    """As many open files as this process may have; gives how many clients that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CLIENTS + FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))  # the broker inherits it
    try:
        yield allowed - FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(broker: Serving) -> int:
    """Resident octets."""
    status = Path(f"/proc/{broker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1_024


def files(broker: Serving) -> int:
    return len(list(Path(f"/proc/{broker.process.pid}/fd").iterdir()))


def connect_all(port: int, count: int) -> list[socket.socket]:
    """So many clients, all at the same time, each with its CONNACK. TimeoutError when that takes too long."""
    clients: dict[int, socket.socket] = {}
    answered = []
    deadline = time.monotonic() + SECONDS_MAX
    with select.epoll() as epoll:
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            clients[client.fileno()] = client
            epoll.register(client.fileno(), select.EPOLLOUT)
        while len(answered) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(answered)} of {count} clients were answered in {SECONDS_MAX} seconds")
            for fd, event in epoll.poll(1):
                client = clients[fd]
                if event & select.EPOLLOUT:
                    assert client.send(CONNECT) == len(CONNECT)
                    epoll.modify(fd, select.EPOLLIN)
                else:
                    assert client.recv(100) == CONNACK
                    epoll.unregister(fd)
                    answered.append(client)
    return answered


def close_all(clients: list[socket.socket], broker: Serving, files_before: int) -> None:
    """Close them, and wait until the broker has closed its ends."""
    for client in clients:
        client.close()
    deadline = time.monotonic() + SECONDS_MAX
    while files(broker) > files_before:
        assert time.monotonic() < deadline, f"{files(broker) - files_before} connections are left"
        select.select([], [], [], 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["raw", "pump"])
def test_ten_thousand_connect_at_once(tmp_path: Path, shell: str) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(f"[authentication]\nanonymous = true\n[[listener]]\nport = 0\nshell = '{shell}'\n")
    with open_files() as count, serving("--config", str(config)) as broker:
        if count < CLIENTS_MIN or not Path("/proc/self/fd").is_dir():
            pytest.skip("needs /proc, and enough open files for a process (ulimit -Hn)")
        broker.until("pipeline")
        (port,) = broker.ports
        files_before, memory_before = files(broker), memory(broker)
        peaks = []
        for _ in range(2):
            clients = connect_all(port, count)
            peaks.append(memory(broker))
            assert files(broker) >= files_before + count
            close_all(clients, broker, files_before)
        per_client = (peaks[0] - memory_before) / count
        print(f"{shell}: {count} clients, {per_client:,.0f} octets each; {[peak >> 20 for peak in peaks]} MiB")
        assert per_client <= BYTES_PER_CLIENT_MAX
        assert max(peaks) <= peaks[0] * GROWTH_MAX, "what the first ones cost was not there for the next ones"
        rest = broker.stop()
    assert "Traceback" not in rest
    assert "error" not in rest.lower()
