"""Door `decoder`: the Decoder of the codec, both roles, all versions, any octets in any pieces.

    octet 0     version, role, and the largest packet that is taken
    octet 1     how the rest is cut into pieces
    the rest    what is decoded

Whatever comes: nothing but our errors, as the last thing; the same packets however it was cut; no more kept
than the largest packet; what was taken can be sent again and means the same; and a decoder that was written
from the text of the standards agrees.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolViolation,
    ReasonCode,
    UnsupportedProtocolVersion,
)
from acebroker_codec.packets import Connect, ProtocolVersion, Role
from tests.codec import naive_decoder
from tests.codec.fields import fields_of
from tests.fuzz.damage import damaged
from tests.fuzz.door import Door
from tests.fuzz.packets import octets_to_send, vectors
from tests.strategies import ROLES, VERSIONS, streams

__all__ = ["DECODER"]

#: largest packets taken
_LIMITS = (10_000, 1, 100, 268_435_460)
_ERRORS = (MalformedPacket, ProtocolViolation, UnsupportedProtocolVersion, PacketTooLarge)
_REASONS = {
    ReasonCode.MALFORMED_PACKET,
    ReasonCode.PROTOCOL_ERROR,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ReasonCode.TOPIC_ALIAS_INVALID,
    ReasonCode.TOPIC_NAME_INVALID,
    ReasonCode.TOPIC_FILTER_INVALID,
    ReasonCode.PACKET_TOO_LARGE,
}
#: first octet and Remaining Length: what is kept before the size of a packet is known
_HEADER_BYTES_MAX = 5
#: the model takes time that grows with the square of what it reads
_MODEL_BYTES_MAX = 4_096


def _cut(octets: bytes, how: int) -> list[bytes]:
    """Pieces: all single octets, or of sizes that follow from `how`."""
    if how == 0:
        return [octets[at : at + 1] for at in range(len(octets))]
    pieces, at, size = [], 0, how
    while at < len(octets):
        size = size * 7 % 61 + 1
        pieces.append(octets[at : at + size])
        at += size
    return pieces


def _outcome(version: ProtocolVersion | None, role: Role, limit: int, pieces: list[bytes]) -> list[Any]:
    """What comes out of the pieces together; an error as its type and reason code."""
    decoder = Decoder(limit, version, role)
    found: list[Any] = []
    for piece in pieces:
        assert not found or not isinstance(found[-1], MqttError) or not decoder.feed(piece), "decoded after an error"
        found += decoder.feed(piece)
        assert len(decoder._pending) <= max(limit, _HEADER_BYTES_MAX), "more is kept than the largest packet has"
    assert not any(isinstance(each, MqttError) for each in found[:-1]), "an error is not the last thing"
    if found and isinstance(found[-1], MqttError):
        error = found[-1]
        assert type(error) in _ERRORS, f"not one of the codec's errors: {error!r}"
        assert error.reason_code in _REASONS, f"reason code {error.reason_code!r}"
        found[-1] = (type(error), error.reason_code)
    return found


def _execute(data: bytes) -> None:
    if len(data) < 2:
        return
    version = (*VERSIONS, None)[data[0] & 3]
    role = ROLES[data[0] >> 2 & 1]
    limit = _LIMITS[data[0] >> 3 & 3]
    octets = data[2:]
    if version is None:
        role = "server"  # a client knows its version
    whole = _outcome(version, role, limit, [octets])
    assert whole == _outcome(version, role, limit, _cut(octets, data[1])), "the result depends on how it was cut"
    refused = bool(whole) and isinstance(whole[-1], tuple)
    packets = whole[:-1] if refused else whole
    spoken = version
    for packet in packets:
        if spoken is None:
            assert isinstance(packet, Connect), "the first packet is not CONNECT"
            spoken = packet.version
        elif isinstance(packet, Connect):
            continue  # has a version of its own
        assert Decoder(version=spoken, role=role).feed(encode(packet, spoken)) == [packet], "it cannot be sent again"
    if version is not None and limit > len(octets) <= _MODEL_BYTES_MAX:
        sender = "server" if role == "client" else "client"
        theirs, verdict = naive_decoder.decode_stream(octets, int(version), sender)
        assert [fields_of(packet, version) for packet in packets] == theirs, "the model reads something else"
        # a packet that claims to be longer than what is taken is refused before it is complete
        too_large = refused and whole[-1][0] is PacketTooLarge
        assert refused == (verdict == "refused") or too_large, f"the model says {verdict}, the decoder {whole[-1:]}"


@st.composite
def _inputs(draw: st.DrawFn) -> bytes:
    version_index = draw(st.sampled_from((0, 1, 2, 2, 3)))
    version = VERSIONS[min(version_index, 2)]
    role_index = draw(st.integers(0, 1))
    if ROLES[role_index] == "server":
        octets = draw(octets_to_send(version))
    else:
        octets = b"".join(encode(packet, version) for packet in draw(streams(version, "server")))
    header = version_index | role_index << 2 | draw(st.sampled_from((0, 0, 1, 2, 3))) << 3
    return bytes([header, draw(st.integers(0, 255))]) + octets


def _spoiled(data: bytes, chance: random.Random) -> bytes:
    return data[:2] + damaged(data[2:], chance)


def _seeds() -> Iterable[bytes]:
    for index, version in enumerate(VERSIONS):
        for role_index, sender in enumerate(("server", "client")):
            for octets in vectors(int(version), sender):
                yield bytes([index | role_index << 2, 0]) + octets


DECODER = Door("decoder", 2, _execute, _inputs(), _spoiled, 40, _seeds)
