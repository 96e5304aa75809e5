"""AckQueue: whatever is known first, acknowledgements of one kind leave in the order of what they acknowledge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.decoder import Decoder
from acebroker_codec.packets import Packet, ProtocolVersion, Puback, Pubcomp, Pubrec
from acebroker_middleware.acks import AckQueue


class Acks:
    """An AckQueue, and what it wrote."""

    def __init__(self, version: int = 5) -> None:
        self._decoder = Decoder(version=ProtocolVersion(version), role="client")
        self.frames: list[bytes] = []
        self.queue = AckQueue(version, self.frames.append)

    def left(self) -> list[Packet]:
        """The packets that were written since the last call."""
        packets = self._decoder.feed(b"".join(self.frames))
        self.frames.clear()
        assert all(isinstance(packet, Packet) for packet in packets)
        return packets  # type: ignore[return-value]


def test_in_order_of_arrival_whatever_is_known_first() -> None:
    """[MQTT-4.6.0-2]: PUBACKs in the order of the PUBLISH packets."""
    acks = Acks()
    slots = acks.queue.puback
    slots.open.extend([3, 1, 2, 9])
    slots.fill(2, 0x10)
    slots.fill(1)
    assert acks.left() == []
    slots.fill(3)
    assert acks.left() == [Puback(3), Puback(1), Puback(2, 0x10)]
    slots.fill(9, 0x87)
    assert acks.left() == [Puback(9, 0x87)]
    assert not slots.open


def test_slots_of_one_identifier_become_one() -> None:
    acks = Acks()
    slots = acks.queue.pubcomp
    slots.open.extend([1, 2, 1, 3])
    slots.withdraw(3)
    slots.withdraw(7)
    slots.withdraw(1)
    assert slots.open == [1, 2, 3]
    for identifier in (3, 2, 1):
        slots.fill(identifier)
    assert acks.left() == [Pubcomp(1), Pubcomp(2), Pubcomp(3)]


def test_kinds_do_not_wait_for_each_other() -> None:
    """The order is one of each kind: 4.6 says nothing of PUBACK beside PUBREC."""
    acks = Acks()
    acks.queue.puback.open.append(1)
    acks.queue.pubrec.open.extend([1, 2])
    acks.queue.pubcomp.open.append(3)
    acks.queue.pubrec.fill(2)
    acks.queue.pubcomp.fill(3)
    assert acks.left() == [Pubcomp(3)]
    acks.queue.pubrec.fill(1)
    assert acks.left() == [Pubrec(1), Pubrec(2)]
    acks.queue.puback.fill(1)
    assert acks.left() == [Puback(1)]


def test_a_repeated_identifier_is_answered_twice() -> None:
    """A QoS 2 PUBLISH that is sent again has a slot of its own [MQTT-4.3.3-10]."""
    acks = Acks()
    acks.queue.pubrec.open.extend([7, 7])
    acks.queue.pubrec.fill(7)
    acks.queue.pubrec.fill(7)
    assert acks.left() == [Pubrec(7), Pubrec(7)]


@pytest.mark.parametrize("version", [3, 4])
def test_mqtt_3_has_no_reason_codes(version: int) -> None:
    acks = Acks(version)
    acks.queue.puback.open.append(1)
    acks.queue.puback.fill(1, 0x87)
    assert acks.left() == [Puback(1)]


@given(st.lists(st.integers(1, 65_535), unique=True, max_size=12), st.randoms())
def test_any_order_of_filling(identifiers: list[int], random: st.DataObject) -> None:
    acks = Acks()
    acks.queue.pubrec.open.extend(identifiers)
    shuffled = list(identifiers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    left: list[Packet] = []
    for count, identifier in enumerate(shuffled, 1):
        acks.queue.pubrec.fill(identifier)
        left += acks.left()
        known = set(shuffled[:count])
        # all that is known before the first that is not
        expected = next((at for at, each in enumerate(identifiers) if each not in known), len(identifiers))
        assert left == [Pubrec(each) for each in identifiers[:expected]]
