"""The property table, exhaustively: every identifier in every place, once, twice, with wrong values, cut short."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.errors import MalformedPacket, MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.properties import (
    CONTEXTS,
    IN_CONNECT,
    IN_PUBLISH,
    PROPERTIES,
    Property,
    PropertyContext,
    PropertyType,
    decode_properties,
    encode_properties,
    forwarded_properties_end,
)
from acebroker_codec.wire import encode_string, encode_variable_byte_integer
from tests.codec import naive_decoder
from tests.strategies import ROLES, properties

#: an octet form and its value for each type, fitting every property of that type but those below
SAMPLES: dict[PropertyType, tuple[str, Any]] = {
    PropertyType.BYTE: ("01", 1),
    PropertyType.TWO_BYTE_INTEGER: ("1234", 0x1234),
    PropertyType.FOUR_BYTE_INTEGER: ("12345678", 0x12345678),
    PropertyType.VARIABLE_BYTE_INTEGER: ("80808001", 2_097_152),
    PropertyType.UTF_8_STRING: ("0004c3a92f78", "\u00e9/x"),
    PropertyType.UTF_8_STRING_PAIR: ("00016b00027677", ("k", "vw")),
    PropertyType.BINARY_DATA: ("000300ff7f", b"\x00\xff\x7f"),
}

ALLOWED = [(context, row) for context in CONTEXTS for row in context.properties.values()]

#: where naive_decoder says a property may stand -> our context
NAMES_OF_PLACES = {
    "publish": "PUBLISH",
    "will": "Will",
    "connect": "CONNECT",
    "connack": "CONNACK",
    "subscribe": "SUBSCRIBE",
    "unsubscribe": "UNSUBSCRIBE",
    "disconnect": "DISCONNECT",
    "auth": "AUTH",
    **dict.fromkeys(("puback", "pubrec", "pubrel", "pubcomp", "suback", "unsuback"), "acknowledgement"),
}


def place_id(value: object) -> str:
    assert isinstance(value, PropertyContext | Property)
    return value.name


def section(*entries: bytes) -> bytes:
    joined = b"".join(entries)
    return encode_variable_byte_integer(len(joined)) + joined


def entry(row: Property) -> bytes:
    return bytes([row.identifier]) + bytes.fromhex(SAMPLES[row.type][0])


def decode(octets: bytes, context: PropertyContext[Any]) -> Any:
    """Read with octets around that must not be looked at."""
    values, pos = decode_properties(b"\xaa" + octets + b"\xbb\xbb", 1, 1 + len(octets), context)
    assert pos == 1 + len(octets)
    return values


def test_the_table_is_that_of_the_standard() -> None:
    ours = {(row.identifier, row.name, row.type.value, context.name) for row in PROPERTIES for context in row.contexts}
    types = {
        "byte": "Byte",
        "two": "Two Byte Integer",
        "four": "Four Byte Integer",
        "varint": "Variable Byte Integer",
        "string": "UTF-8 Encoded String",
        "pair": "UTF-8 String Pair",
        "binary": "Binary Data",
    }
    theirs = set()
    for identifier, (name, kind, places) in naive_decoder.PROPERTY_TABLE.items():
        for place in places.split():
            attribute = {"user_property": "user_properties"}.get(name, name)
            if (name, place) == ("subscription_identifier", "publish"):
                attribute = "subscription_identifiers"
            theirs.add((identifier, attribute, types[kind], NAMES_OF_PLACES[place]))
    assert ours == theirs
    assert len({row.identifier for row in PROPERTIES}) == 27


def test_every_row_is_an_attribute_of_its_structs_and_the_other_way_round() -> None:
    for context in CONTEXTS:
        assert {row.name for row in context.properties.values()} == set(context.struct.__struct_fields__)
        for row in context.properties.values():
            assert getattr(context.empty, row.name) == (() if row.repeatable else None)


@pytest.mark.parametrize("context", CONTEXTS, ids=place_id)
def test_none(context: PropertyContext[Any]) -> None:
    assert decode(b"\0", context) is context.empty
    assert encode_properties(context.empty) == b"\0"
    assert encode_properties(context.struct()) == b"\0"


@pytest.mark.parametrize(("context", "row"), ALLOWED, ids=place_id)
def test_once(context: PropertyContext[Any], row: Property) -> None:
    value = SAMPLES[row.type][1]
    values = decode(section(entry(row)), context)
    assert values == context.struct(**{row.name: (value,) if row.repeatable else value})
    assert encode_properties(values) == section(entry(row))


@pytest.mark.parametrize(("context", "row"), ALLOWED, ids=place_id)
def test_twice(context: PropertyContext[Any], row: Property) -> None:
    octets = section(entry(row), entry(row))
    if row.repeatable:
        values = decode(octets, context)
        assert getattr(values, row.name) == (SAMPLES[row.type][1],) * 2
        assert encode_properties(values) == octets
        return
    with pytest.raises(ProtocolViolation) as caught:
        decode(octets, context)
    assert caught.value.reason_code == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize(("context", "row"), ALLOWED, ids=place_id)
def test_twice_with_others_between(context: PropertyContext[Any], row: Property) -> None:
    others = [entry(other) for other in context.properties.values() if other is not row]
    octets = section(entry(row), *others, entry(row))
    if row.repeatable:
        assert getattr(decode(octets, context), row.name) == (SAMPLES[row.type][1],) * 2
    else:
        with pytest.raises(ProtocolViolation):
            decode(octets, context)


@pytest.mark.parametrize("context", CONTEXTS, ids=place_id)
def test_not_allowed_here(context: PropertyContext[Any]) -> None:
    for identifier in set(range(256)) - set(context.properties):
        for value in ("00", "01", "0001", "000161", "00000001", "00016b000176"):
            with pytest.raises(MalformedPacket) as caught:
                decode(section(bytes([identifier]) + bytes.fromhex(value)), context)
            assert caught.value.reason_code == ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize(("context", "row"), ALLOWED, ids=place_id)
def test_an_identifier_in_a_longer_form(context: PropertyContext[Any], row: Property) -> None:
    with pytest.raises(MalformedPacket):
        decode(section(bytes([row.identifier | 0x80, 0]) + entry(row)[1:]), context)


@pytest.mark.parametrize(("context", "row"), ALLOWED, ids=place_id)
def test_cut_short(context: PropertyContext[Any], row: Property) -> None:
    whole = entry(row)
    for size in range(1, len(whole)):
        with pytest.raises(MalformedPacket):  # the Property Length ends inside the value
            decode(section(whole[:size]), context)
        with pytest.raises(MalformedPacket):  # and the value must not be taken from behind it
            decode_properties(section(whole[:size]) + whole[size:], 0, 1 + len(whole), context)
        with pytest.raises(MalformedPacket):  # the packet ends inside the properties
            decode(section(whole)[: 1 + size], context)


@pytest.mark.parametrize("octets", ["", "80", "8000", "808080", "80808080", "ff", "02", "0200"])
@pytest.mark.parametrize("context", CONTEXTS, ids=place_id)
def test_a_bad_property_length(context: PropertyContext[Any], octets: str) -> None:
    with pytest.raises(MalformedPacket):
        decode(bytes.fromhex(octets), context)


#: what the sections of the single properties say beside table 2-4
WRONG_VALUES = [
    *(
        (name, range(2, 256), "{:02x}", ReasonCode.PROTOCOL_ERROR)
        for name in (
            "payload_format_indicator",
            "request_problem_information",
            "request_response_information",
            "maximum_qos",
            "retain_available",
            "wildcard_subscription_available",
            "subscription_identifier_available",
            "shared_subscription_available",
        )
    ),
    ("receive_maximum", [0], "{:04x}", ReasonCode.PROTOCOL_ERROR),
    ("maximum_packet_size", [0], "{:08x}", ReasonCode.PROTOCOL_ERROR),
    ("topic_alias", [0], "{:04x}", ReasonCode.TOPIC_ALIAS_INVALID),
    ("subscription_identifier", [0], "{:02x}", ReasonCode.PROTOCOL_ERROR),
    ("subscription_identifiers", [0], "{:02x}", ReasonCode.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("name", "wrong", "form", "reason_code"), WRONG_VALUES, ids=[row[0] for row in WRONG_VALUES])
def test_wrong_values(name: str, wrong: Any, form: str, reason_code: ReasonCode) -> None:
    places = [(context, row) for context, row in ALLOWED if row.name == name]
    assert places
    for context, row in places:
        for value in wrong:
            with pytest.raises(ProtocolViolation) as caught:
                decode(section(bytes([row.identifier]) + bytes.fromhex(form.format(value))), context)
            assert caught.value.reason_code == reason_code
            with pytest.raises(ValueError):
                encode_properties(context.struct(**{name: (value,) if row.repeatable else value}))


def test_all_other_values_are_taken() -> None:
    narrowed = {row[0] for row in WRONG_VALUES}
    assert {row.name for row in PROPERTIES if row.values is not None} == narrowed
    for context, row in ALLOWED:
        octets = len(SAMPLES[row.type][0]) // 2
        if row.type in (PropertyType.TWO_BYTE_INTEGER, PropertyType.FOUR_BYTE_INTEGER):
            for value in ([] if row.name in narrowed else [0]) + [1, 256**octets - 1]:
                found = decode(section(bytes([row.identifier]) + value.to_bytes(octets, "big")), context)
                assert getattr(found, row.name) == value


@pytest.mark.parametrize("text", ["+", "a/#", "a+", "#", "", "/+/"])
def test_a_response_topic_is_a_topic_name(text: str) -> None:
    places = [(context, row) for context, row in ALLOWED if row.name == "response_topic"]
    assert len(places) == 2
    for context, _row in places:
        with pytest.raises(ProtocolViolation) as caught:
            decode(section(b"\x08" + encode_string(text)), context)
        assert caught.value.reason_code == ReasonCode.TOPIC_NAME_INVALID
        with pytest.raises(ValueError):
            encode_properties(context.struct(response_topic=text))


@pytest.mark.parametrize("octets", [b"\xed\xa0\x80", b"\0", b"\xff", b"\xc0\x80"], ids=bytes.hex)
def test_strings_obey_the_rules_of_strings(octets: bytes) -> None:
    bad = len(octets).to_bytes(2, "big") + octets
    good = b"\0\1x"
    for context, row in ALLOWED:
        if row.type is PropertyType.UTF_8_STRING:
            wrong = [bad]
        elif row.type is PropertyType.UTF_8_STRING_PAIR:
            wrong = [bad + good, good + bad]
        else:
            continue
        for value in wrong:
            with pytest.raises(MalformedPacket):
                decode(section(bytes([row.identifier]) + value), context)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("context", CONTEXTS, ids=place_id)
@given(data=st.data())
def test_round_trip(context: PropertyContext[Any], role: Any, data: st.DataObject) -> None:
    values = data.draw(properties(context, role))
    octets = encode_properties(values)
    again = decode(octets, context)
    assert again == values
    assert encode_properties(again) == octets
    for size in range(len(octets)):
        with pytest.raises(MalformedPacket):
            decode(octets[:size], context)


@pytest.mark.parametrize("context", CONTEXTS, ids=place_id)
@given(octets=st.binary(max_size=30))
def test_arbitrary_octets(context: PropertyContext[Any], octets: bytes) -> None:
    try:
        values = decode(section(octets), context)
    except MqttError:
        return
    assert decode(encode_properties(values), context) == values


def test_many_repeated_ones_take_time_in_proportion() -> None:
    # each may cost something, but not all those before it: that would take minutes
    octets = section(b"\x26\0\0\0\0" * 500_000)
    values = decode(octets, IN_PUBLISH)
    assert len(values.user_properties) == 500_000


def test_authentication_data_may_be_empty_and_is_then_there() -> None:
    values = decode(section(b"\x15\0\1m", b"\x16\0\0"), IN_CONNECT)
    assert values.authentication_data == b""


# ---- forwarded as they are ----


def forwarded(octets: bytes) -> int:
    """`forwarded_properties_end`, by decoding and encoding again."""
    try:
        values, end = decode_properties(octets, 0, len(octets), IN_PUBLISH)
    except MqttError:
        return 0
    if (
        values.message_expiry_interval is not None
        or values.topic_alias is not None
        or values.subscription_identifiers
        or encode_properties(values) != octets[:end]
    ):
        return 0
    return end


@pytest.mark.parametrize("role", ROLES)
@given(data=st.data())
def test_what_is_forwarded_as_it_is(role: Any, data: st.DataObject) -> None:
    octets = encode_properties(data.draw(properties(IN_PUBLISH, role)))
    assert forwarded_properties_end(octets + b"payload", 0, len(octets) + 7) == forwarded(octets)
    assert forwarded_properties_end(b"ab" + octets, 2, 2 + len(octets)) == (forwarded(octets) or -2) + 2
    for size in range(len(octets)):
        assert forwarded_properties_end(octets, 0, size) == 0, "cut short"


@given(st.lists(st.sampled_from([entry(row) for row in IN_PUBLISH.properties.values()]), max_size=4))
def test_only_in_the_order_that_we_would_write(entries: list[bytes]) -> None:
    octets = section(*entries)
    assert forwarded_properties_end(octets, 0, len(octets)) == forwarded(octets)


def test_user_properties_repeat_and_keep_their_order() -> None:
    octets = section(b"\x26\0\1b\0\0", b"\x26\0\1a\0\0", b"\x26\0\1b\0\0")
    assert forwarded_properties_end(octets, 0, len(octets)) == len(octets)


@given(octets=st.binary(max_size=30))
def test_arbitrary_octets_are_forwarded_only_where_they_are_right(octets: bytes) -> None:
    for data in (octets, section(octets), section(b"\x01" + octets[:1], b"\x08" + octets[1:])):
        assert forwarded_properties_end(data, 0, len(data)) == forwarded(data)
