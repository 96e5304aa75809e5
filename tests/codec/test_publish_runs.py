"""Runs of QoS 1 and 2 frames against the encoder: what column by column comes to, frame by frame."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.encoder import encode
from acebroker_codec.packets import (
    Ack,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
)
from acebroker_codec.publish_runs import (
    RUN_FRAMES_MAX,
    PublishRun,
    acknowledgements,
    run_of_acknowledgements,
    run_of_publications,
)

V311, V5 = ProtocolVersion.MQTT_3_1_1, ProtocolVersion.MQTT_5
identifiers = st.one_of(st.integers(1, 65_535), st.sampled_from((1, 255, 256, 257, 0xFF00, 0x0100)))


def frames(publications: list[Publish], version: ProtocolVersion) -> bytes:
    return b"".join(encode(publish, version) for publish in publications)


def numbered(publications: list[Publish], numbers: list[int], qos: int) -> list[Publish]:
    return [
        Publish(publish.topic, publish.payload, qos, packet_identifier=number)
        for publish, number in zip(publications, numbers, strict=True)
    ]


def run_in(data: bytes, topic: str, version: ProtocolVersion, pos: int = 0) -> PublishRun:
    """The run that begins with the frame at `pos`, of fewer than 128 octets or fewer than 16,384."""
    body = pos + (2 if data[pos + 1] < 0x80 else 3)
    length = data[pos + 1] if data[pos + 1] < 0x80 else data[pos + 1] & 0x7F | data[pos + 2] << 7
    return run_of_publications(data, pos, body + 2 + len(topic), body + length, version is V5)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Publish], ProtocolVersion]:
    version = draw(st.sampled_from((V311, V5)))
    size = draw(st.one_of(st.integers(0, 10), st.sampled_from((100, 120, 200))))
    qos = draw(st.sampled_from((1, 2)))
    payloads = st.binary(min_size=size, max_size=size)
    numbers = draw(st.lists(identifiers, min_size=1, max_size=8))
    return [Publish("a/b", draw(payloads), qos, packet_identifier=number) for number in numbers], version


@given(runs(), st.binary(max_size=5), identifiers)
def test_a_run_is_its_frames(made: tuple[list[Publish], ProtocolVersion], before: bytes, first: int) -> None:
    publications, version = made
    data = frames(publications, version)
    run = run_in(before + data, "a/b", version, len(before))
    assert run.frames == data
    assert run.count == len(publications)
    assert run.split() == [encode(publish, version) for publish in publications]
    assert run.payloads() == [publish.payload for publish in publications]
    numbers = [publish.packet_identifier for publish in publications]
    for first_octet, kind in ((0x40, Puback), (0x50, Pubrec)):
        answers = run.acknowledgements(first_octet)
        assert answers == b"".join(encode(kind(number), version) for number in numbers)
        assert list(run_of_acknowledgements(answers, 0)) == numbers
    first = min(first, 65_536 - run.count)
    for number in (first, 1, first):
        wanted = numbered(publications, list(range(number, number + run.count)), publications[0].qos)
        assert run.renumbered(number) == frames(wanted, version)


@given(runs(), identifiers)
def test_the_forms_of_a_run(made: tuple[list[Publish], ProtocolVersion], first: int) -> None:
    publications, version = made
    run = run_in(frames(publications, version), "a/b", version)
    first = min(first, 65_536 - run.count)
    numbers = list(range(first, first + run.count))
    for receiver, qos in itertools.product((V311, V5), (1, 2)):
        form = run.form(receiver is V5, qos)
        assert form.renumbered(first) == frames(numbered(publications, numbers, qos), receiver)
        assert form.each * form.count == len(form.frames)
        assert run.form(receiver is V5, qos) is form, "made once"
    for receiver in (V311, V5):
        wanted = numbered(publications, [0] * run.count, 0)
        assert run.form(receiver is V5, 0).frames == frames(wanted, receiver)


like = Publish("a/b", b"xyz", 1, packet_identifier=300)
#: what ends a run of `like`
OTHERS = {
    "another topic": encode(Publish("a/c", b"xyz", 1, packet_identifier=5), V5),
    "another length": encode(Publish("a/b", b"xy", 1, packet_identifier=5), V5),
    "another QoS": encode(Publish("a/b", b"xyz", 2, packet_identifier=5), V5),
    "RETAIN": encode(Publish("a/b", b"xyz", 1, retain=True, packet_identifier=5), V5),
    "properties": encode(
        Publish("a/b", b"", 1, packet_identifier=5, properties=PublishProperties(payload_format_indicator=1)), V5
    )[:-1]
    + b"\x00",
    "identifier 0": encode(like, V5).replace((300).to_bytes(2, "big"), b"\0\0"),
    "QoS 0": encode(Publish("a/b", b"vwxyz"), V5),
    "an acknowledgement": encode(Puback(5), V5),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_ends_a_run(count: int, other: bytes) -> None:
    alike = encode(like, V5) * count
    assert run_in(alike + other + alike, "a/b", V5).frames == alike


def test_what_begins_no_run() -> None:
    alike = encode(like, V5)
    for name in ("identifier 0", "properties"):
        assert run_in(OTHERS[name] + alike, "a/b", V5).count == 0, name
    for version, body in ((V311, b"\0\3a/b\1\2"), (V5, b"\0\3a/b\1\2\0")):
        for length in range(5, len(body)):
            short = bytes((0x32, length)) + body[:length]
            assert run_of_publications(short + alike, 0, 7, 2 + length, version is V5).count == 0
        assert run_in(bytes((0x32, len(body))) + body + alike, "a/b", version).count == 1


def test_a_run_is_bounded() -> None:
    alike = encode(like, V5)
    run = run_in(alike * (RUN_FRAMES_MAX + 5), "a/b", V5)
    assert run.count == RUN_FRAMES_MAX
    assert run.frames == alike * RUN_FRAMES_MAX
    acks = encode(Puback(9), V5) * (RUN_FRAMES_MAX + 5)
    assert run_of_acknowledgements(acks, 4) == (9,) * RUN_FRAMES_MAX


@given(runs())
def test_a_run_cut_anywhere(made: tuple[list[Publish], ProtocolVersion]) -> None:
    publications, version = made
    data = frames(publications, version)
    each = len(data) // len(publications)
    for size in range(each, len(data)):
        assert run_in(data[:size], "a/b", version).count == size // each


KINDS: tuple[type[Ack], ...] = (Puback, Pubrec, Pubrel, Pubcomp)
acks = st.builds(lambda kind, number: kind(number), st.sampled_from(KINDS), identifiers)
OCTETS = {Puback: 0x40, Pubrec: 0x50, Pubrel: 0x62, Pubcomp: 0x70}


@given(
    st.lists(acks, min_size=1, max_size=10),
    st.sampled_from((b"", b"\x40", b"\x40\x02\0", b"\x40\x03\0\1\0", b"\xc0\0")),
)
def test_runs_of_acknowledgements(packets: list[Ack], behind: bytes) -> None:
    data = b"".join(encode(packet, V5) for packet in packets) + behind
    pos = 0
    for kind, alike in itertools.groupby(packets, type):
        numbers = tuple(packet.packet_identifier for packet in alike)
        assert run_of_acknowledgements(data, pos) == numbers
        for size in range(4, 4 * len(numbers)):
            assert run_of_acknowledgements(data[: pos + size], pos) == numbers[: size // 4]
        run = data[pos : pos + 4 * len(numbers)]
        for answer in KINDS:
            answers = b"".join(encode(answer(number), V5) for number in numbers)
            assert acknowledgements(OCTETS[answer], run) == answers
        assert run[0] == OCTETS[kind]
        pos += 4 * len(numbers)
