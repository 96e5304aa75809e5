"""AckQueue: acknowledgements of what a client sent leave in the order in which it was sent.

Every inbound PUBLISH of QoS 1 or 2 and every PUBREL opens a slot when it is decoded; the router, the
store or a refusal fills it, in any order; filled slots leave from the head only, per kind
[MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.6.0-4].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from acebroker_codec.encoder import encode
from acebroker_codec.packets import Ack, ProtocolVersion, Puback, Pubcomp, Pubrec

__all__ = ["AckQueue", "AckSlots"]

_PUBACK: Final = 0x4002 << 16
_PUBREC: Final = 0x5002 << 16
_PUBCOMP: Final = 0x7002 << 16


class AckSlots:
    """The open slots of one kind, oldest first, by Packet Identifier."""

    __slots__ = ("_head", "_kind", "_ready", "_version", "_write", "open")

    def __init__(self, version: int, write: Callable[[bytes], None], kind: type[Ack], head: int) -> None:
        self._version = version
        self._write = write
        self._kind = kind
        self._head = head
        #: Packet Identifiers; append opens a slot. A list, as few are open at a time: a deque takes 600 octets empty
        self.open: list[int] = []
        #: answers to slots that are not at the head; a client may use an identifier twice in a row
        self._ready: dict[int, list[bytes]] = {}

    def waits(self, packet_identifier: int) -> bool:
        """Whether a slot of this identifier is open and nothing was filled in yet."""
        return packet_identifier in self.open and packet_identifier not in self._ready

    def withdraw(self, packet_identifier: int) -> None:
        """Close the youngest slot of an identifier that has more than one: the answer to the first is for both."""
        if self.open.count(packet_identifier) > 1:
            self.open.reverse()
            self.open.remove(packet_identifier)
            self.open.reverse()

    def fill(self, packet_identifier: int, reason_code: int = 0) -> None:
        """Answer one open slot; a reason code is sent by MQTT 5 only."""
        if reason_code and self._version == 5:
            frame = encode(self._kind(packet_identifier, reason_code), ProtocolVersion.MQTT_5)
        else:
            frame = (self._head | packet_identifier).to_bytes(4, "big")
        waiting = self.open
        if waiting[0] != packet_identifier:
            self._ready.setdefault(packet_identifier, []).append(frame)
            return
        del waiting[0]
        write = self._write
        write(frame)
        ready = self._ready
        while ready and waiting[0] in ready:
            following = waiting.pop(0)
            frames = ready[following]
            write(frames.pop(0))
            if not frames:
                del ready[following]


class AckQueue:
    """PUBACK, PUBREC and PUBCOMP slots of one connection. `write` queues a frame for it."""

    __slots__ = ("puback", "pubcomp", "pubrec")

    def __init__(self, version: int, write: Callable[[bytes], None]) -> None:
        self.puback = AckSlots(version, write, Puback, _PUBACK)
        self.pubrec = AckSlots(version, write, Pubrec, _PUBREC)
        self.pubcomp = AckSlots(version, write, Pubcomp, _PUBCOMP)
