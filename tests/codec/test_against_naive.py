"""The decoder and a naive one agree: what is taken, with which fields, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.decoder import Decoder
from acebroker_codec.encoder import encode
from acebroker_codec.errors import MqttError
from acebroker_codec.packets import PacketType, ProtocolVersion, Role
from tests.codec import naive_decoder
from tests.codec.fields import fields_of
from tests.strategies import ROLES, VERSIONS, packet_types, packets_of_type, streams

each_row = pytest.mark.parametrize(("version", "sender"), [(version, role) for version in VERSIONS for role in ROLES])
TYPES = [
    (version, sender, packet_type)
    for version in VERSIONS
    for sender in ROLES
    for packet_type in packet_types(version, sender)
]


def compare(octets: bytes, version: ProtocolVersion, sender: Role) -> str:
    """Ask both; returns the verdict that they share."""
    found = Decoder(version=version, role="server" if sender == "client" else "client").feed(octets)
    refused = bool(found) and isinstance(found[-1], MqttError)
    packets = found[:-1] if refused else found
    ours = [fields_of(packet, version) for packet in packets if not isinstance(packet, MqttError)]
    theirs, verdict = naive_decoder.decode_stream(octets, int(version), sender)
    assert ours == theirs
    assert refused == (verdict == "refused"), found[-1:]
    return verdict


@each_row
@given(data=st.data())
def test_valid_streams(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    octets = b"".join(encode(packet, version) for packet in data.draw(streams(version, sender)))
    assert compare(octets, version, sender) == "done"


@pytest.mark.parametrize(("version", "sender", "packet_type"), TYPES)
@settings(max_examples=80)
@given(data=st.data())
def test_a_damaged_body(version: ProtocolVersion, sender: Role, packet_type: PacketType, data: st.DataObject) -> None:
    """One to three edits of the body, under a Remaining Length that fits."""
    octets = encode(data.draw(packets_of_type(packet_type, version, sender)), version)
    body = bytearray(octets[2:] if octets[1] < 0x80 else octets[3:])
    first_octet = octets[0]
    if data.draw(st.integers(0, 9)) == 0:
        first_octet = data.draw(st.integers(0, 255))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        interesting = st.sampled_from((0, 1, 2, 3, 4, 0x11, 0x1F, 0x23, 0x26, 0x2B, 0x7F, 0x80, 0x90, 0xFF))
        octet = data.draw(interesting | st.integers(0, 255))
        match data.draw(st.sampled_from(("change", "flip", "insert", "delete", "cut"))):
            case "change" if at < len(body):
                body[at] = octet
            case "flip" if at < len(body):
                body[at] ^= 1 << octet % 8
            case "insert":
                body.insert(at, octet)
            case "delete" if at < len(body):
                del body[at]
            case "cut":
                del body[at:]
            case _:
                pass
    length = [len(body)] if len(body) < 0x80 else [len(body) & 0x7F | 0x80, len(body) >> 7]
    compare(bytes([first_octet, *length]) + body, version, sender)


@each_row
@settings(max_examples=80)
@given(data=st.data())
def test_a_damaged_stream(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    octets = bytearray(b"".join(encode(packet, version) for packet in data.draw(streams(version, sender))))
    for _ in range(data.draw(st.integers(1, 3)) if octets else 0):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    compare(bytes(octets), version, sender)


@each_row
@given(data=st.data())
def test_made_up_bodies(version: ProtocolVersion, sender: Role, data: st.DataObject) -> None:
    body = data.draw(st.binary(max_size=40))
    compare(bytes([data.draw(st.integers(0, 255)), len(body)]) + body, version, sender)


@each_row
def test_every_first_octet_with_every_short_body(version: ProtocolVersion, sender: Role) -> None:
    bodies = [
        bytes.fromhex(text)
        for text in (
            "", "00", "01", "18", "0000", "0001", "0100", "000100", "000110", "00010000", "00010080", "0001000000",
            "00010001", "000161", "00016100", "0001000161", "0001000100", "000100016100", "00010000016100",
            "0001000001610000", "000161000100", "00040000", "1806150001610000", "1804150001" "61", "00047f",
        )
    ]  # fmt: skip
    for first_octet in range(256):
        for body in bodies:
            compare(bytes([first_octet, len(body)]) + body, version, sender)
