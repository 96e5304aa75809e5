"""Where a frame ends: Remaining Length and the bound on a packet's size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.errors import MalformedPacket, PacketTooLarge, ReasonCode
from acebroker_codec.frames import PACKET_BYTES_MAX, frame_end, frame_extent
from acebroker_codec.wire import encode_variable_byte_integer


@given(st.integers(0, 300), st.binary(max_size=3), st.binary(max_size=3))
def test_a_whole_frame_between_others(length: int, before: bytes, after: bytes) -> None:
    prefix = encode_variable_byte_integer(length)
    data = before + b"\x30" + prefix + bytes(length) + after
    start = len(before) + 1 + len(prefix)
    assert frame_end(data, len(before), PACKET_BYTES_MAX) == (start, start + length)
    assert frame_extent(data, len(before), PACKET_BYTES_MAX) == (start, start + length)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384])
def test_every_prefix_needs_more(length: int) -> None:
    head = b"\x30" + encode_variable_byte_integer(length)
    data = head + bytes(length)
    for size in range(len(data)):
        if size >= len(head) + 3 and size % 997:
            continue
        assert frame_end(data[:size], 0, PACKET_BYTES_MAX) is None
        extent = None if size < len(head) else (len(head), len(data))
        assert frame_extent(data[:size], 0, PACKET_BYTES_MAX) == extent


def test_the_largest_packet_of_the_standard() -> None:
    head = b"\x30\xff\xff\xff\x7f"
    assert frame_extent(head, 0, PACKET_BYTES_MAX) == (5, PACKET_BYTES_MAX)
    with pytest.raises(PacketTooLarge):
        frame_extent(head, 0, PACKET_BYTES_MAX - 1)


@pytest.mark.parametrize("length", [0, 5, 127, 128, 20_000])
def test_too_large_is_known_before_the_body_is_there(length: int) -> None:
    head = b"\x30" + encode_variable_byte_integer(length)
    size = len(head) + length  # the Fixed Header counts
    assert frame_end(head, 0, size) == ((len(head), size) if not length else None)
    with pytest.raises(PacketTooLarge) as caught:
        frame_end(head, 0, size - 1)
    assert caught.value.reason_code == ReasonCode.PACKET_TOO_LARGE


@pytest.mark.parametrize("octets", ["8000", "808000", "80808000", "ff00", "80808080", "ffffffff", "ffffffff7f"])
def test_a_bad_remaining_length(octets: str) -> None:
    for frame in (frame_end, frame_extent):
        with pytest.raises(MalformedPacket):
            frame(b"\xc0" + bytes.fromhex(octets), 0, PACKET_BYTES_MAX)
