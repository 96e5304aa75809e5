"""`python -m tests.bench.relay PORT [FAULT]`: passes messages on, all but one of them rightly.

What the tests of the load generator run it against: an error that is put in must be reported. No broker:
QoS 0, exact topics and short frames only, and every client is let in.
"""

from __future__ import annotations

import selectors
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

__all__ = ["FAULTS", "main"]

#: which message, counted from 1, the fault befalls
FAULTY = 20
#: what goes out for the frame that is due and those held back so far; and what is held back from now on
Fault = Callable[[bytes, list[bytes]], tuple[list[bytes], list[bytes]]]

FAULTS: dict[str, Fault] = {
    "none": lambda frame, held: ([frame], []),
    "drop": lambda frame, held: ([], []),
    "double": lambda frame, held: ([frame, frame], []),
    "swap": lambda frame, held: ([], [frame]),
    "alter": lambda frame, held: ([frame.replace(b"celsius", b"kelvins")], []),
    "cut": lambda frame, held: ([_frame(frame[0], frame[2:-1])], []),
}


def _frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Whole frames of `data` (of less than 128 octets after the header), and where each ends."""
    at = 0
    while len(data) >= at + 2 and len(data) >= (end := at + 2 + data[at + 1]):
        yield data[at:end], end
        at = end


def _frame(first: int, body: bytes) -> bytes:
    return bytes([first, len(body)]) + body


def _string(data: bytes, at: int) -> bytes:
    return data[at + 2 : at + 2 + int.from_bytes(data[at : at + 2], "big")]


class Relay:
    """The clients of one port, and what they subscribed to."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._held: list[bytes] = []
        self._messages = 0
        self._subscribers: defaultdict[bytes, list[socket.socket]] = defaultdict(list)
        self._rest: dict[socket.socket, bytes] = {}
        self._five: set[socket.socket] = set()

    def received(self, client: socket.socket, data: bytes) -> None:
        """Answer and pass on what a client sent."""
        data, used = self._rest.pop(client, b"") + data, 0
        for frame, end in _frames(data):
            used = end
            kind = frame[0] >> 4
            if kind == 1 and frame[8] == 5:
                self._five.add(client)
            no_properties = b"\0" if client in self._five else b""
            if kind == 1:
                client.sendall(_frame(0x20, b"\0\0" + no_properties))
            elif kind == 8:
                self._subscribers[_string(frame, 4 + len(no_properties))].append(client)
                client.sendall(_frame(0x90, frame[2:4] + no_properties + b"\0"))
            elif kind == 3:
                self._pass_on(frame)
        self._rest[client] = data[used:]

    def _pass_on(self, frame: bytes) -> None:
        self._messages += 1
        if self._messages == FAULTY:
            going, self._held = self._fault(frame, self._held)
        else:
            going, self._held = [frame, *self._held], []
        for client in self._subscribers[_string(frame, 2)]:
            client.sendall(b"".join(going))


def main(port: int, fault: str = "none") -> None:
    """Serve until killed."""
    relay = Relay(FAULTS[fault])
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", port)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                client = key.fileobj
                assert isinstance(client, socket.socket)
                data = client.recv(65_536)
                if data:
                    relay.received(client, data)
                else:
                    selector.unregister(client)
                    client.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
