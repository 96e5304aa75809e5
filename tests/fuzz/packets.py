"""Packets for fuzzed clients: a few ready ones, and strategies of related ones; `damage` is what spoils them.

Packets of `tests.strategies` are valid and have nothing to do with each other. Those here share a few
topics, Packet Identifiers and Client Identifiers, so that one changes what the next one meets.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from acebroker_codec import packets as p
from acebroker_codec.encoder import encode
from tests.strategies import VERSIONS, packets

__all__ = ["READY", "TOPICS", "octets_to_send", "related_packets", "valid_octets", "vectors"]

V3, V4, V5 = VERSIONS
#: what fuzzed clients talk about; messages on these come from others too
TOPICS = ("a", "a/b", "a/b/c", "deny/x", "deny/y")
_FILTERS = ("a", "a/b", "#", "+/b", "a/#", "$share/g/a", "$share/g/#", "$share/h/+/b", "deny/#", "$SYS/#", "b")
_CLIENT_IDENTIFIERS = ("x", "y", "")
_VECTOR_BYTES_MAX = 4_096
_IDENTIFIERS = (1, 2, 3, 4, 5, 6, 65_535)


def _ready() -> list[bytes]:
    def subscribe(identifier: int, *filters: str, qos: int = 2, **options: Any) -> p.Subscribe:
        return p.Subscribe(identifier, tuple(p.SubscriptionRequest(each, qos, **options) for each in filters))

    lasting = p.ConnectProperties(session_expiry_interval=100)
    narrow = p.ConnectProperties(session_expiry_interval=100, receive_maximum=1, maximum_packet_size=60)
    will = p.Will("a/b", b"will", 1, True)
    late_will = p.Will("a", b"late", 2, False, p.WillProperties(will_delay_interval=20))
    return [
        encode(p.Connect("x", V5, True, 20), V5),
        encode(p.Connect("x", V5, False, 0, properties=lasting), V5),
        encode(p.Connect("y", V5, False, 0, will=late_will, properties=narrow), V5),
        encode(p.Connect("y", V4, False, 30, will=will), V4),
        encode(p.Connect("x", V3, True, 0), V3),
        encode(subscribe(1, "a"), V4),
        encode(subscribe(2, "a/#", "+/b"), V5),
        encode(subscribe(3, "$share/g/#", qos=1), V5),
        encode(subscribe(3, "#", qos=1, no_local=True, retain_as_published=True, retain_handling=1), V5),
        encode(p.Unsubscribe(4, ("a", "a/#", "$share/g/#")), V5),
        encode(p.Publish("a", b"0"), V4),
        encode(p.Publish("a", b"0"), V5),
        encode(p.Publish("a", b"1", 1, packet_identifier=1), V5),
        encode(p.Publish("a", b"1", 1, packet_identifier=1), V4),
        encode(p.Publish("a/b", b"2", 2, packet_identifier=2), V5),
        encode(p.Publish("a/b", b"2", 2, packet_identifier=2), V4),
        encode(p.Publish("a/b", b"2", 2, dup=True, packet_identifier=2), V5),
        encode(p.Publish("a/b", b"retained", 1, True, packet_identifier=3), V5),
        encode(p.Publish("a/b", b"", 0, True), V5),
        b"".join(encode(p.Publish("deny/x", b"", 2, packet_identifier=each), V5) for each in range(10, 15)),
        encode(p.Publish("a", b"alias", properties=p.PublishProperties(topic_alias=1)), V5),
        encode(p.Publish("", b"alias", 1, packet_identifier=5, properties=p.PublishProperties(topic_alias=1)), V5),
        encode(p.Pubrel(2), V5),
        encode(p.Pubrel(4), V5),
        encode(p.Puback(1), V5),
        encode(p.Pubrec(1), V5),
        encode(p.Pubrec(2, 0x80), V5),
        encode(p.Pubcomp(1), V5),
        encode(p.Pingreq(), V5),
        encode(p.Disconnect(), V5),
        encode(p.Disconnect(4, p.DisconnectProperties(session_expiry_interval=0)), V5),
        encode(p.Auth(0x19, p.AuthProperties(authentication_method="m")), V5),
    ]


#: octets that a script names by number: whole packets, one or a few
READY: tuple[bytes, ...] = tuple(_ready())


@cache
def vectors(version: int, sender: str) -> list[bytes]:
    """The octets of the single packets in `tests/vectors` of that version and sender, without the largest ones."""
    folder = Path(__file__).resolve().parents[1] / "vectors"
    rows = [row for file in sorted(folder.glob("mqtt_packets_*.json")) for row in json.loads(file.read_text("utf-8"))]
    octets = (bytes.fromhex(row["hex"]) for row in rows if (row["version"], row["sender"]) == (version, sender))
    return [each for each in octets if len(each) <= _VECTOR_BYTES_MAX]


# ---- related packets ----

_identifiers = st.sampled_from(_IDENTIFIERS)
_topics = st.sampled_from(TOPICS)
_qos = st.integers(0, 2)
_payloads = st.sampled_from((b"", b"x", bytes(50), bytes(1_500)))
_seconds = st.sampled_from((None, 0, 1, 20, 100, 0xFFFF_FFFF))


@st.composite
def _connects(draw: st.DrawFn, version: p.ProtocolVersion) -> p.Connect:
    v5 = version == V5
    will = None
    if draw(st.integers(0, 2)) == 0:
        will_properties = p.WillProperties(
            will_delay_interval=draw(_seconds) if v5 else None, message_expiry_interval=draw(_seconds) if v5 else None
        )
        will = p.Will(draw(_topics), draw(_payloads), draw(_qos), draw(st.booleans()), will_properties)
    properties = p.ConnectProperties()
    if v5:
        properties = p.ConnectProperties(
            session_expiry_interval=draw(_seconds),
            receive_maximum=draw(st.sampled_from((None, 1, 2, 65_535))),
            maximum_packet_size=draw(st.sampled_from((None, None, None, 1, 3, 30, 1_000))),
            topic_alias_maximum=draw(st.sampled_from((None, 0, 1, 10))),
            request_problem_information=draw(st.sampled_from((None, 0, 1))),
        )
    return p.Connect(
        draw(st.sampled_from(_CLIENT_IDENTIFIERS)),
        version,
        draw(st.booleans()),
        draw(st.sampled_from((0, 1, 20, 65_535))),
        draw(st.sampled_from((None, "ann"))),
        None,
        will,
        properties,
    )


@st.composite
def _publishes(draw: st.DrawFn, version: p.ProtocolVersion) -> p.Publish:
    qos = draw(_qos)
    topic = draw(_topics)
    properties = p.PublishProperties()
    if version == V5 and draw(st.booleans()):
        alias = draw(st.sampled_from((None, None, 1, 4, 5)))
        properties = p.PublishProperties(topic_alias=alias, message_expiry_interval=draw(_seconds))
        if alias is not None and draw(st.booleans()):
            topic = ""
    dup = bool(qos) and draw(st.booleans())
    identifier = draw(_identifiers) if qos else 0
    return p.Publish(topic, draw(_payloads), qos, draw(st.booleans()), dup, identifier, properties)


@cache
def related_packets(version: p.ProtocolVersion) -> st.SearchStrategy[p.Packet]:
    """Packets of a client that share topics and identifiers; none of them need fit the moment."""
    v5 = version == V5

    def acks(kind: Any, codes: tuple[int, ...]) -> st.SearchStrategy[Any]:
        return st.builds(kind, _identifiers, st.sampled_from(codes if v5 else (0,)))

    requests = st.builds(
        p.SubscriptionRequest,
        st.sampled_from(_FILTERS),
        _qos,
        *((st.just(False), st.booleans(), _qos) if v5 else ()),
    )
    subscribes = st.builds(p.Subscribe, _identifiers, st.lists(requests, min_size=1, max_size=3).map(tuple))
    filters = st.lists(st.sampled_from(_FILTERS), min_size=1, max_size=3).map(tuple)
    disconnects: st.SearchStrategy[p.Packet] = st.just(p.Disconnect())
    if v5:
        expiry = st.builds(p.DisconnectProperties, session_expiry_interval=_seconds)
        disconnects = st.builds(p.Disconnect, st.sampled_from((0, 4, 0x80)), expiry)
    return st.one_of(
        _publishes(version),
        _publishes(version),
        _publishes(version),
        subscribes,
        subscribes,
        st.builds(p.Unsubscribe, _identifiers, filters),
        acks(p.Puback, (0, 0x10, 0x80)),
        acks(p.Pubrec, (0, 0x10, 0x80)),
        acks(p.Pubrel, (0, 0x92)),
        acks(p.Pubrel, (0,)),
        acks(p.Pubcomp, (0, 0x92)),
        st.just(p.Pingreq()),
        _connects(version),
        disconnects,
    )


@cache
def valid_octets(version: p.ProtocolVersion) -> st.SearchStrategy[bytes]:
    """The octets of one packet of a client: related to others, or any, or one of the vectors."""

    def octets(packet: p.Packet) -> bytes:
        return encode(packet, version)

    related = related_packets(version).map(octets)
    return st.one_of(
        related,
        related,
        related,
        packets(version, "client").map(octets),
        st.sampled_from(vectors(int(version), "client")),
        st.sampled_from(READY),
    )


@cache
def octets_to_send(version: p.ProtocolVersion) -> st.SearchStrategy[bytes]:
    """A few packets in a row."""
    return st.lists(valid_octets(version), min_size=1, max_size=4).map(b"".join)
