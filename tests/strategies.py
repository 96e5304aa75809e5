"""Hypothesis strategies for what goes over the wire: strings, topics, properties and all control packets.

Everything drawn here is valid. `packets(version, sender)` draws what that side may send in that
version; properties are drawn from the table that the codec itself reads, so that each of them is
met in each place.
"""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

from acebroker_codec.directions import PACKETS_FROM, REASON_CODES, REASON_CODES_ONLY_FROM
from acebroker_codec.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Role,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from acebroker_codec.properties import (
    IN_ACK,
    IN_AUTH,
    IN_CONNACK,
    IN_CONNECT,
    IN_DISCONNECT,
    IN_PUBLISH,
    IN_SUBSCRIBE,
    IN_UNSUBSCRIBE,
    IN_WILL,
    Property,
    PropertyContext,
    PropertyType,
)

__all__ = [
    "ROLES",
    "VERSIONS",
    "packet_identifiers",
    "packet_types",
    "packets",
    "packets_of_type",
    "properties",
    "property_values",
    "streams",
    "topic_filters",
    "topic_names",
    "utf_8_strings",
]

VERSIONS = tuple(ProtocolVersion)
ROLES: tuple[Role, ...] = ("client", "server")

_FOUR_BYTES_MAX = 0xFFFF_FFFF
_STRING_CHARACTERS_MAX = 12
_OCTETS_MAX = 40
_LIST_MAX = 4

#: any code point that a UTF-8 Encoded String may hold; some that are easily got wrong come more often
_CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    st.sampled_from("/$ \x01\x7f\x80\u00e9\u07ff\u0800\ud7ff\ue000\ufeff\uffff\U00010000\U0010ffff"),
)

packet_identifiers = st.integers(1, 0xFFFF)
_octets = st.binary(max_size=_OCTETS_MAX)


@functools.cache
def utf_8_strings(max_size: int = _STRING_CHARACTERS_MAX) -> st.SearchStrategy[str]:
    """UTF-8 Encoded Strings (1.5.4), the empty one included."""
    return st.text(_CHARACTERS, max_size=max_size)


@functools.cache
def topic_names() -> st.SearchStrategy[str]:
    """Topic Names (4.7): no wildcard, at least one character; many with several levels."""
    level = utf_8_strings(4).filter(lambda text: not set(text) & set("+#"))
    return st.lists(level, min_size=1, max_size=_LIST_MAX).map("/".join).filter(bool)


@functools.cache
def topic_filters() -> st.SearchStrategy[str]:
    """Topic Filters with and without wildcards, and Shared Subscriptions (4.7, 4.8.2)."""
    level = st.one_of(st.just("+"), utf_8_strings(4).filter(lambda text: not set(text) & set("+#")))
    levels = st.lists(level, max_size=_LIST_MAX)
    plain = st.one_of(levels, levels.map(lambda items: [*items, "#"])).map("/".join)
    plain = plain.filter(lambda text: bool(text) and not text.startswith("$share/"))
    share_name = utf_8_strings(4).filter(lambda text: bool(text) and not set(text) & set("/+#"))
    shared = st.tuples(share_name, plain).map(lambda parts: f"$share/{parts[0]}/{parts[1]}")
    return st.one_of(plain, plain, shared)


_TYPE_VALUES: dict[PropertyType, st.SearchStrategy[Any]] = {
    PropertyType.BYTE: st.integers(0, 0xFF),
    PropertyType.TWO_BYTE_INTEGER: st.integers(0, 0xFFFF),
    PropertyType.FOUR_BYTE_INTEGER: st.one_of(st.integers(0, _FOUR_BYTES_MAX), st.just(_FOUR_BYTES_MAX)),
    PropertyType.VARIABLE_BYTE_INTEGER: st.one_of(
        st.integers(0, 268_435_455), st.sampled_from((127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455))
    ),
    PropertyType.UTF_8_STRING: utf_8_strings(),
    PropertyType.UTF_8_STRING_PAIR: st.tuples(utf_8_strings(), utf_8_strings()),
    PropertyType.BINARY_DATA: _octets,
}


@functools.cache
def property_values(row: Property) -> st.SearchStrategy[Any]:
    """One value that the property may have."""
    if row.is_topic_name:
        return topic_names()
    if row.values is not None:
        low, high = row.values[0], row.values[-1]
        return st.one_of(st.integers(low, high), st.sampled_from((low, high)))
    return _TYPE_VALUES[row.type]


@functools.cache
def properties(context: PropertyContext[Any], sender: Role) -> st.SearchStrategy[Any]:
    """The properties that `sender` may put there: none, few or many of them."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for row in context.properties.values():
        if row.sender not in (None, sender):
            continue
        values = property_values(row)
        if row.repeatable:
            fields[row.name] = st.lists(values, max_size=_LIST_MAX).map(tuple)
        else:
            fields[row.name] = values
    some = st.fixed_dictionaries({}, optional=fields).map(lambda values: context.struct(**values))
    return st.one_of(st.just(context.empty), some)


@functools.cache
def _of_version(version: ProtocolVersion, context: PropertyContext[Any], sender: Role) -> st.SearchStrategy[Any]:
    return properties(context, sender) if version == ProtocolVersion.MQTT_5 else st.just(context.empty)


def _sent_codes(packet_type: PacketType, sender: Role) -> list[int]:
    only = REASON_CODES_ONLY_FROM.get(packet_type, {})
    other: Role = "server" if sender == "client" else "client"
    return sorted(REASON_CODES[packet_type] - only.get(other, frozenset()))


@functools.cache
@st.composite
def _connects(draw: st.DrawFn, version: ProtocolVersion) -> Connect:
    v5 = version == ProtocolVersion.MQTT_5
    values = draw(_of_version(version, IN_CONNECT, "client"))
    if values.authentication_method is None and values.authentication_data is not None:
        values = IN_CONNECT.empty
    username = draw(st.none() | utf_8_strings())
    return Connect(
        draw(utf_8_strings()),
        version,
        draw(st.booleans()),
        draw(st.integers(0, 0xFFFF)),
        username,
        draw(st.none() | _octets) if v5 or username is not None else None,
        draw(st.none() | _wills(version)),
        values,
    )


@functools.cache
def _wills(version: ProtocolVersion) -> st.SearchStrategy[Will]:
    return st.builds(
        Will, topic_names(), _octets, st.integers(0, 2), st.booleans(), _of_version(version, IN_WILL, "client")
    )


@functools.cache
@st.composite
def _connacks(draw: st.DrawFn, version: ProtocolVersion) -> Connack:
    codes = REASON_CODES[PacketType.CONNACK] if version == ProtocolVersion.MQTT_5 else range(6)
    reason_code = draw(st.sampled_from(sorted(codes)))
    session_present = not reason_code and draw(st.booleans())
    return Connack(session_present, reason_code, draw(_of_version(version, IN_CONNACK, "server")))


@functools.cache
@st.composite
def _publishes(draw: st.DrawFn, version: ProtocolVersion, sender: Role) -> Publish:
    qos = draw(st.integers(0, 2))
    values = draw(_of_version(version, IN_PUBLISH, sender))
    topic = draw(topic_names())
    if values.topic_alias is not None and draw(st.booleans()):
        topic = ""
    return Publish(
        topic,
        draw(st.one_of(_octets, st.binary(min_size=100, max_size=300))),
        qos,
        draw(st.booleans()),
        bool(qos) and draw(st.booleans()),
        draw(packet_identifiers) if qos else 0,
        values,
    )


@functools.cache
def _acks(packet_class: Any, version: ProtocolVersion) -> st.SearchStrategy[Packet]:
    if version != ProtocolVersion.MQTT_5:
        return st.builds(packet_class, packet_identifiers)
    codes = sorted(REASON_CODES[packet_class.packet_type])
    return st.builds(packet_class, packet_identifiers, st.sampled_from(codes), properties(IN_ACK, "client"))


@functools.cache
@st.composite
def _subscription_requests(draw: st.DrawFn, version: ProtocolVersion) -> SubscriptionRequest:
    topic_filter, qos = draw(topic_filters()), draw(st.integers(0, 2))
    if version != ProtocolVersion.MQTT_5:
        return SubscriptionRequest(topic_filter, qos)
    no_local = not topic_filter.startswith("$share/") and draw(st.booleans())
    return SubscriptionRequest(topic_filter, qos, no_local, draw(st.booleans()), draw(st.integers(0, 2)))


def _tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=1, max_size=_LIST_MAX).map(tuple)


@functools.cache
def packets_of_type(packet_type: PacketType, version: ProtocolVersion, sender: Role) -> st.SearchStrategy[Any]:
    """Packets of one type that `sender` may send in `version` (without regard to what went before)."""
    v5 = version == ProtocolVersion.MQTT_5
    match packet_type:
        case PacketType.CONNECT:
            return _connects(version)
        case PacketType.CONNACK:
            return _connacks(version)
        case PacketType.PUBLISH:
            return _publishes(version, sender)
        case PacketType.PUBACK:
            return _acks(Puback, version)
        case PacketType.PUBREC:
            return _acks(Pubrec, version)
        case PacketType.PUBREL:
            return _acks(Pubrel, version)
        case PacketType.PUBCOMP:
            return _acks(Pubcomp, version)
        case PacketType.SUBSCRIBE:
            requests = _tuples(_subscription_requests(version))
            return st.builds(Subscribe, packet_identifiers, requests, _of_version(version, IN_SUBSCRIBE, sender))
        case PacketType.SUBACK:
            codes = sorted(REASON_CODES[packet_type]) if v5 else [0, 1, 2, 0x80]
            reasons = _tuples(st.sampled_from(codes))
            return st.builds(Suback, packet_identifiers, reasons, _of_version(version, IN_ACK, sender))
        case PacketType.UNSUBSCRIBE:
            filters = _tuples(topic_filters())
            return st.builds(Unsubscribe, packet_identifiers, filters, _of_version(version, IN_UNSUBSCRIBE, sender))
        case PacketType.UNSUBACK:
            if not v5:
                return st.builds(Unsuback, packet_identifiers)
            reasons = _tuples(st.sampled_from(sorted(REASON_CODES[packet_type])))
            return st.builds(Unsuback, packet_identifiers, reasons, properties(IN_ACK, sender))
        case PacketType.PINGREQ:
            return st.just(Pingreq())
        case PacketType.PINGRESP:
            return st.just(Pingresp())
        case PacketType.DISCONNECT:
            if not v5:
                return st.just(Disconnect())
            codes = _sent_codes(packet_type, sender)
            return st.builds(Disconnect, st.sampled_from(codes), properties(IN_DISCONNECT, sender))
        case PacketType.AUTH:
            with_method = st.builds(_with_method, properties(IN_AUTH, sender), utf_8_strings())
            return st.builds(Auth, st.sampled_from(_sent_codes(packet_type, sender)), with_method)


def _with_method(values: Struct, method: str) -> Any:
    fields = {name: getattr(values, name) for name in values.__struct_fields__}
    return type(values)(**{**fields, "authentication_method": method})


def packet_types(version: ProtocolVersion, sender: Role) -> list[PacketType]:
    """The types that `sender` may send in `version`, CONNECT first."""
    types = sorted(PACKETS_FROM[sender])
    if version != ProtocolVersion.MQTT_5:
        types.remove(PacketType.AUTH)
        if sender == "server":
            types.remove(PacketType.DISCONNECT)
    return types


@functools.cache
def packets(version: ProtocolVersion, sender: Role) -> st.SearchStrategy[Any]:
    """Any packet that `sender` may send in `version`, each type as often as any other."""
    return st.one_of([packets_of_type(each, version, sender) for each in packet_types(version, sender)])


@functools.cache
def streams(version: ProtocolVersion, sender: Role) -> st.SearchStrategy[list[Any]]:
    """A few packets in a row; the octets can be read, the order need not be that of the protocol."""
    return st.lists(packets(version, sender), max_size=5)
