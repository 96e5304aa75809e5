"""Reason codes and the errors that carry them.

    MqttError
    ├── MalformedPacket              0x81  the octets are not a packet (MQTT 5, 1.2 and 4.13.1)
    ├── ProtocolViolation            0x82  a packet that parses, at a moment or with values that the protocol forbids
    ├── UnsupportedProtocolVersion   0x84  CONNECT names a protocol that is not spoken here
    └── PacketTooLarge               0x95  longer than the Maximum Packet Size of the receiver

Every wing derives its own errors from `MqttError`, so that one place can answer them all: the
connection is ended with the `reason_code` that the error carries. Nothing here is caused by us; a
wrong argument of our own is a `ValueError` or `TypeError`.
"""

from __future__ import annotations

import enum
from typing import ClassVar

__all__ = [
    "CONNECT_RETURN_CODES",
    "MalformedPacket",
    "MqttError",
    "PacketTooLarge",
    "ProtocolViolation",
    "ReasonCode",
    "UnsupportedProtocolVersion",
    "connect_return_code",
]


class ReasonCode(enum.IntEnum):
    """The reason codes of MQTT 5 (2.4). Names that share a value are aliases of the first one."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL_MESSAGE = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


#: MQTT 5 reason code of a CONNACK -> Connect Return code of MQTT 3.1 and 3.1.1 (3.1.1, table 3.1).
CONNECT_RETURN_CODES: dict[int, int] = {
    ReasonCode.SUCCESS: 0,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: 2,
    ReasonCode.SERVER_UNAVAILABLE: 3,
    ReasonCode.SERVER_BUSY: 3,
    ReasonCode.QUOTA_EXCEEDED: 3,
    ReasonCode.CONNECTION_RATE_EXCEEDED: 3,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: 4,
    ReasonCode.NOT_AUTHORIZED: 5,
    ReasonCode.BANNED: 5,
    ReasonCode.BAD_AUTHENTICATION_METHOD: 5,
}


def connect_return_code(reason_code: int) -> int | None:
    """The MQTT 3 Connect Return code for a reason code, or None where MQTT 3 only closes."""
    return CONNECT_RETURN_CODES.get(reason_code)


class MqttError(Exception):
    """An error of the peer that ends its connection.

    Arguments: `detail`, one sentence for the log, never a secret and never sent by default;
    `reason_code`, where it differs from the class's own.
    """

    default_reason_code: ClassVar[ReasonCode] = ReasonCode.UNSPECIFIED_ERROR
    reason_code: ReasonCode
    detail: str

    def __init__(self, detail: str = "", reason_code: ReasonCode | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason_code = self.default_reason_code if reason_code is None else reason_code


class MalformedPacket(MqttError):
    """Octets that cannot be parsed as this specification demands (MQTT 5, 1.2: Malformed Packet)."""

    default_reason_code = ReasonCode.MALFORMED_PACKET


class ProtocolViolation(MqttError):
    """Data that parses but breaks the protocol (MQTT 5, 1.2: Protocol Error)."""

    default_reason_code = ReasonCode.PROTOCOL_ERROR


class UnsupportedProtocolVersion(MqttError):
    """Protocol Name or Version of a CONNECT that is not spoken here [MQTT-3.1.2-1], [MQTT-3.1.2-2].

    `name_known`: it is MQTT, of another level; who speaks another protocol is not answered in ours.
    """

    default_reason_code = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION

    def __init__(self, detail: str = "", *, name_known: bool = True) -> None:
        super().__init__(detail)
        self.name_known = name_known


class PacketTooLarge(MqttError):
    """A packet longer than the receiver's Maximum Packet Size [MQTT-3.1.2-24], [MQTT-3.2.2-15]."""

    default_reason_code = ReasonCode.PACKET_TOO_LARGE
