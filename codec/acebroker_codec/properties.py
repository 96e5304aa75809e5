"""The properties of MQTT 5 as one table, and reading and writing them by it (2.2.2, table 2-4).

A row says how a property is identified, which attribute of the structs of `packets` it is, its type
on the wire, where it may stand, who may send it there, whether it may repeat and which values it
may have. Decoder, encoder and tests read the same rows.

    defect                                               error
    unknown, or not allowed in this packet (2.2.2.2)     MalformedPacket
    value cut off, or not of its type                    MalformedPacket
    twice where it may stand once                        ProtocolViolation
    value outside the allowed ones                       ProtocolViolation; Topic Alias 0: with 0x94
    Response Topic that is no Topic Name                 as `topics.check_topic_name` says

Statements: [MQTT-2.2.2-1], [MQTT-1.5.7-1], [MQTT-3.3.2-8], [MQTT-3.3.2-13], [MQTT-3.3.2-14],
[MQTT-3.3.2-19], [MQTT-3.3.2-18].

Not here: rules between a property and other fields (`decoder`), or other packets (`protocol`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from acebroker_codec import wire
from acebroker_codec.errors import MalformedPacket, MqttError, ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    NO_ACK_PROPERTIES,
    NO_AUTH_PROPERTIES,
    NO_CONNACK_PROPERTIES,
    NO_CONNECT_PROPERTIES,
    NO_DISCONNECT_PROPERTIES,
    NO_PUBLISH_PROPERTIES,
    NO_SUBSCRIBE_PROPERTIES,
    NO_UNSUBSCRIBE_PROPERTIES,
    NO_WILL_PROPERTIES,
    AckProperties,
    AuthProperties,
    ConnackProperties,
    ConnectProperties,
    DisconnectProperties,
    PublishProperties,
    Role,
    SubscribeProperties,
    UnsubscribeProperties,
    WillProperties,
)
from acebroker_codec.topics import check_topic_name
from acebroker_codec.wire import read_variable_byte_integer

__all__ = [
    "CONTEXTS",
    "IN_ACK",
    "IN_AUTH",
    "IN_CONNACK",
    "IN_CONNECT",
    "IN_DISCONNECT",
    "IN_PUBLISH",
    "IN_SUBSCRIBE",
    "IN_UNSUBSCRIBE",
    "IN_WILL",
    "PROPERTIES",
    "Property",
    "PropertyContext",
    "PropertyType",
    "decode_properties",
    "encode_properties",
    "forwarded_properties_end",
]

P = TypeVar("P", bound=Struct)


class PropertyType(enum.Enum):
    """Data types of property values (table 2-4)."""

    BYTE = "Byte"
    TWO_BYTE_INTEGER = "Two Byte Integer"
    FOUR_BYTE_INTEGER = "Four Byte Integer"
    VARIABLE_BYTE_INTEGER = "Variable Byte Integer"
    UTF_8_STRING = "UTF-8 Encoded String"
    UTF_8_STRING_PAIR = "UTF-8 String Pair"
    BINARY_DATA = "Binary Data"


_Reader = Callable[[bytes, int, int], tuple[Any, int]]
_Writer = Callable[[Any], bytes]

_READERS: Final[dict[PropertyType, _Reader]] = {
    PropertyType.BYTE: wire.read_byte,
    PropertyType.TWO_BYTE_INTEGER: wire.read_two_byte_integer,
    PropertyType.FOUR_BYTE_INTEGER: wire.read_four_byte_integer,
    PropertyType.VARIABLE_BYTE_INTEGER: read_variable_byte_integer,
    PropertyType.UTF_8_STRING: wire.read_string,
    PropertyType.UTF_8_STRING_PAIR: wire.read_string_pair,
    PropertyType.BINARY_DATA: wire.read_binary_data,
}

_WRITERS: Final[dict[PropertyType, _Writer]] = {
    PropertyType.BYTE: wire.encode_byte,
    PropertyType.TWO_BYTE_INTEGER: wire.encode_two_byte_integer,
    PropertyType.FOUR_BYTE_INTEGER: wire.encode_four_byte_integer,
    PropertyType.VARIABLE_BYTE_INTEGER: wire.encode_variable_byte_integer,
    PropertyType.UTF_8_STRING: wire.encode_string,
    PropertyType.UTF_8_STRING_PAIR: wire.encode_string_pair,
    PropertyType.BINARY_DATA: wire.encode_binary_data,
}


class PropertyContext(Generic[P]):
    """A place where properties stand: a kind of packet, or the Will.

    `name` for messages; `struct`, the class that holds the values; `empty`, its shared instance
    without any; `properties`, the rows of the table that are allowed here, by identifier, with
    `readers`, how each is read, and `repeatable`, the names of those that may repeat.
    """

    __slots__ = ("empty", "name", "properties", "readers", "repeatable", "struct")

    def __init__(self, name: str, empty: P) -> None:
        self.name: Final = name
        self.empty: Final = empty
        self.struct: Final[type[P]] = type(empty)
        self.properties: dict[int, Property] = {}
        self.readers: dict[int, tuple[Property, _Reader]] = {}
        self.repeatable: list[str] = []

    def __repr__(self) -> str:
        return f"PropertyContext({self.name})"

    def allow(self, row: Property) -> None:
        """Take a row of the table in, once, when this module is loaded."""
        self.properties[row.identifier] = row
        self.readers[row.identifier] = (row, _READERS[row.type])
        if row.repeatable:
            self.repeatable.append(row.name)


IN_CONNECT: Final[PropertyContext[ConnectProperties]] = PropertyContext("CONNECT", NO_CONNECT_PROPERTIES)
IN_WILL: Final[PropertyContext[WillProperties]] = PropertyContext("Will", NO_WILL_PROPERTIES)
IN_CONNACK: Final[PropertyContext[ConnackProperties]] = PropertyContext("CONNACK", NO_CONNACK_PROPERTIES)
IN_PUBLISH: Final[PropertyContext[PublishProperties]] = PropertyContext("PUBLISH", NO_PUBLISH_PROPERTIES)
#: PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK allow the same properties
IN_ACK: Final[PropertyContext[AckProperties]] = PropertyContext("acknowledgement", NO_ACK_PROPERTIES)
IN_SUBSCRIBE: Final[PropertyContext[SubscribeProperties]] = PropertyContext("SUBSCRIBE", NO_SUBSCRIBE_PROPERTIES)
IN_UNSUBSCRIBE: Final[PropertyContext[UnsubscribeProperties]] = PropertyContext(
    "UNSUBSCRIBE", NO_UNSUBSCRIBE_PROPERTIES
)
IN_DISCONNECT: Final[PropertyContext[DisconnectProperties]] = PropertyContext("DISCONNECT", NO_DISCONNECT_PROPERTIES)
IN_AUTH: Final[PropertyContext[AuthProperties]] = PropertyContext("AUTH", NO_AUTH_PROPERTIES)

#: All places, in the order of the standard.
CONTEXTS: Final[tuple[PropertyContext[Any], ...]] = (
    IN_CONNECT,
    IN_WILL,
    IN_CONNACK,
    IN_PUBLISH,
    IN_ACK,
    IN_SUBSCRIBE,
    IN_UNSUBSCRIBE,
    IN_DISCONNECT,
    IN_AUTH,
)


class Property(Struct, frozen=True, kw_only=True):
    """One row: a property in the places where it means the same."""

    identifier: int
    name: str  # the attribute in the structs of `packets`
    type: PropertyType
    contexts: tuple[PropertyContext[Any], ...]
    repeatable: bool = False  # then the attribute is a tuple, in wire order
    values: range | None = None  # None: all that the type can hold
    value_reason_code: ReasonCode = ReasonCode.PROTOCOL_ERROR  # for a value outside `values`
    is_topic_name: bool = False
    sender: Role | None = None  # None: either side may send it


_0_OR_1: Final = range(2)
_NOT_0_OF_16_BITS: Final = range(1, 0x1_0000)
_NOT_0_OF_32_BITS: Final = range(1, 0x1_0000_0000)
_MESSAGE: Final = (IN_PUBLISH, IN_WILL)


def _row(identifier: int, name: str, type_: PropertyType, *contexts: PropertyContext[Any], **more: Any) -> Property:
    return Property(identifier=identifier, name=name, type=type_, contexts=contexts, **more)


_BYTE: Final = PropertyType.BYTE
_TWO: Final = PropertyType.TWO_BYTE_INTEGER
_FOUR: Final = PropertyType.FOUR_BYTE_INTEGER
_VARIABLE: Final = PropertyType.VARIABLE_BYTE_INTEGER
_STRING: Final = PropertyType.UTF_8_STRING
_PAIR: Final = PropertyType.UTF_8_STRING_PAIR
_BINARY: Final = PropertyType.BINARY_DATA

#: Table 2-4 with the rules of the sections it points to, by identifier.
PROPERTIES: Final[tuple[Property, ...]] = (
    _row(0x01, "payload_format_indicator", _BYTE, *_MESSAGE, values=_0_OR_1),
    _row(0x02, "message_expiry_interval", _FOUR, *_MESSAGE),
    _row(0x03, "content_type", _STRING, *_MESSAGE),
    _row(0x08, "response_topic", _STRING, *_MESSAGE, is_topic_name=True),
    _row(0x09, "correlation_data", _BINARY, *_MESSAGE),
    _row(
        0x0B,
        "subscription_identifiers",
        _VARIABLE,
        IN_PUBLISH,
        repeatable=True,
        values=range(1, wire.VARIABLE_BYTE_INTEGER_MAX + 1),
        sender="server",  # [MQTT-3.3.4-6]
    ),
    _row(
        0x0B,
        "subscription_identifier",
        _VARIABLE,
        IN_SUBSCRIBE,
        values=range(1, wire.VARIABLE_BYTE_INTEGER_MAX + 1),
    ),
    _row(0x11, "session_expiry_interval", _FOUR, IN_CONNECT, IN_CONNACK),
    _row(0x11, "session_expiry_interval", _FOUR, IN_DISCONNECT, sender="client"),  # [MQTT-3.14.2-2]
    _row(0x12, "assigned_client_identifier", _STRING, IN_CONNACK),
    _row(0x13, "server_keep_alive", _TWO, IN_CONNACK),
    _row(0x15, "authentication_method", _STRING, IN_CONNECT, IN_CONNACK, IN_AUTH),
    _row(0x16, "authentication_data", _BINARY, IN_CONNECT, IN_CONNACK, IN_AUTH),
    _row(0x17, "request_problem_information", _BYTE, IN_CONNECT, values=_0_OR_1),
    _row(0x18, "will_delay_interval", _FOUR, IN_WILL),
    _row(0x19, "request_response_information", _BYTE, IN_CONNECT, values=_0_OR_1),
    _row(0x1A, "response_information", _STRING, IN_CONNACK),
    _row(0x1C, "server_reference", _STRING, IN_CONNACK),
    _row(0x1C, "server_reference", _STRING, IN_DISCONNECT, sender="server"),
    _row(0x1F, "reason_string", _STRING, IN_CONNACK, IN_ACK, IN_DISCONNECT, IN_AUTH),
    _row(0x21, "receive_maximum", _TWO, IN_CONNECT, IN_CONNACK, values=_NOT_0_OF_16_BITS),
    _row(0x22, "topic_alias_maximum", _TWO, IN_CONNECT, IN_CONNACK),
    _row(
        0x23,
        "topic_alias",
        _TWO,
        IN_PUBLISH,
        values=_NOT_0_OF_16_BITS,
        value_reason_code=ReasonCode.TOPIC_ALIAS_INVALID,  # [MQTT-3.3.2-8]
    ),
    _row(0x24, "maximum_qos", _BYTE, IN_CONNACK, values=_0_OR_1),
    _row(0x25, "retain_available", _BYTE, IN_CONNACK, values=_0_OR_1),
    _row(0x26, "user_properties", _PAIR, *CONTEXTS, repeatable=True),
    _row(0x27, "maximum_packet_size", _FOUR, IN_CONNECT, IN_CONNACK, values=_NOT_0_OF_32_BITS),
    _row(0x28, "wildcard_subscription_available", _BYTE, IN_CONNACK, values=_0_OR_1),
    _row(0x29, "subscription_identifier_available", _BYTE, IN_CONNACK, values=_0_OR_1),
    _row(0x2A, "shared_subscription_available", _BYTE, IN_CONNACK, values=_0_OR_1),
)

for _property in PROPERTIES:
    for _context in _property.contexts:
        _context.allow(_property)

_CONTEXT_OF: Final[dict[type[Struct], PropertyContext[Any]]] = {context.struct: context for context in CONTEXTS}


def decode_properties(data: bytes, pos: int, end: int, context: PropertyContext[P]) -> tuple[P, int]:
    """Read Property Length and properties at `pos`, in a packet that ends at `end`.

    Returns the values and the position behind them; `context.empty` itself where there are none.
    Raises `MalformedPacket` or `ProtocolViolation`, see the table above.
    """
    length, pos = read_variable_byte_integer(data, pos, end)
    if not length:
        return context.empty, pos
    stop = pos + length
    if stop > end:
        raise MalformedPacket("the properties run past the end of the packet")
    readers = context.readers
    values: dict[str, Any] = {}
    while pos < stop:
        # every identifier is one octet long, so that a longer one is unknown
        found = readers.get(data[pos])
        if found is None:
            raise MalformedPacket(f"property {data[pos]:#04x} is unknown or not allowed in {context.name}")
        row, read = found
        value, pos = read(data, pos + 1, stop)
        if row.values is not None and value not in row.values:
            raise ProtocolViolation(f"{row.name} of {value}", row.value_reason_code)
        name = row.name
        if row.repeatable:
            values.setdefault(name, []).append(value)
            continue
        if name in values:
            raise ProtocolViolation(f"{name} twice")
        if row.is_topic_name:
            check_topic_name(value)
        values[name] = value
    for name in context.repeatable:
        if name in values:
            values[name] = tuple(values[name])
    return context.struct(**values), stop


#: what subscribers get as the publisher sent it [MQTT-3.3.2-4], [MQTT-3.3.2-15 .. -18], [MQTT-3.3.2-20]
_FORWARDED: Final[dict[int, tuple[Property, _Reader]]] = {
    identifier: found
    for identifier, found in IN_PUBLISH.readers.items()
    if found[0].name not in ("message_expiry_interval", "subscription_identifiers", "topic_alias")
}


def forwarded_properties_end(data: bytes, pos: int, end: int) -> int:
    """Where the properties of a PUBLISH at `pos` end, if subscribers get these very octets.

    0 where they are not what `encode_properties` makes of them (another order), where the broker has to act on one
    (Message Expiry Interval, Topic Alias), and where `decode_properties` raises.
    """
    try:
        length, pos = read_variable_byte_integer(data, pos, end)
        stop = pos + length
        if stop > end:
            return 0
        last = 0
        while pos < stop:
            identifier = data[pos]
            found = _FORWARDED.get(identifier)
            if found is None:
                return 0
            row, read = found
            if identifier < last or (identifier == last and not row.repeatable):
                return 0
            last = identifier
            value, pos = read(data, pos + 1, stop)
            if row.values is not None and value not in row.values:
                return 0
            if row.is_topic_name:
                check_topic_name(value)
    except MqttError:
        return 0
    return stop


def encode_properties(properties: Struct) -> bytes:
    """Property Length and properties, by identifier, repeated ones in their order [MQTT-3.3.2-18].

    `properties` is one of the `...Properties` of `packets`. Raises `ValueError` for a value that the
    table does not allow.
    """
    context = _CONTEXT_OF[type(properties)]
    if properties is context.empty:
        return b"\0"
    parts: list[bytes] = []
    for identifier, row in context.properties.items():
        value = getattr(properties, row.name)
        if value is None:
            continue
        for item in value if row.repeatable else (value,):
            parts.append(wire.encode_byte(identifier))
            parts.append(_encode_value(row, item))
    octets = b"".join(parts)
    return wire.encode_variable_byte_integer(len(octets)) + octets


def _encode_value(row: Property, value: Any) -> bytes:
    if row.values is not None and value not in row.values:
        raise ValueError(f"{row.name} cannot be {value}")
    if row.is_topic_name:
        try:
            check_topic_name(value)
        except MqttError as error:
            raise ValueError(error.detail) from None
    return _WRITERS[row.type](value)
