"""The 15 control packets of MQTT 3.1, 3.1.1 and 5.0 as immutable values.

One class serves all versions: what an older version does not have on the wire stands at its default
there. Integers are as in the standard (seconds, octets, identifiers 1..65535; 0 = no identifier).
Properties are a value of their own per kind of packet; `NO_..._PROPERTIES` are the shared empty ones.

`repr` is fit for logs: octet strings (payloads, correlation and authentication data) are shown by
their length alone, user names and passwords not at all.

Nothing here checks anything: `decoder` and `encoder` know the rules of the wire.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final, Literal

from msgspec import Struct

__all__ = [
    "NO_ACK_PROPERTIES",
    "NO_AUTH_PROPERTIES",
    "NO_CONNACK_PROPERTIES",
    "NO_CONNECT_PROPERTIES",
    "NO_DISCONNECT_PROPERTIES",
    "NO_PUBLISH_PROPERTIES",
    "NO_SUBSCRIBE_PROPERTIES",
    "NO_UNSUBSCRIBE_PROPERTIES",
    "NO_WILL_PROPERTIES",
    "Ack",
    "AckProperties",
    "Auth",
    "AuthProperties",
    "Connack",
    "ConnackProperties",
    "Connect",
    "ConnectProperties",
    "Disconnect",
    "DisconnectProperties",
    "Packet",
    "PacketType",
    "Pingreq",
    "Pingresp",
    "ProtocolVersion",
    "Puback",
    "Pubcomp",
    "Publish",
    "PublishProperties",
    "Pubrec",
    "Pubrel",
    "QoS",
    "Role",
    "Suback",
    "Subscribe",
    "SubscribeProperties",
    "SubscriptionRequest",
    "Unsuback",
    "Unsubscribe",
    "UnsubscribeProperties",
    "UserProperties",
    "Will",
    "WillProperties",
]


#: Which end of a connection.
Role = Literal["client", "server"]


class ProtocolVersion(enum.IntEnum):
    """Protocol Version octet of CONNECT (3.1.2.2)."""

    MQTT_3_1 = 3
    MQTT_3_1_1 = 4
    MQTT_5 = 5


class PacketType(enum.IntEnum):
    """MQTT Control Packet type, the high nibble of the first octet (2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class QoS(enum.IntEnum):
    """Quality of Service (4.3). Packets carry it as a plain int."""

    AT_MOST_ONCE = 0
    AT_LEAST_ONCE = 1
    EXACTLY_ONCE = 2


#: User Properties (0x26) in the order in which they stood [MQTT-3.3.2-18].
UserProperties = tuple[tuple[str, str], ...]


class _Value(Struct, frozen=True, gc=False):
    """Shows its fields, except those that are absent or empty, and no octets."""

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (
            f"{name}=<{len(value)} octets>" if isinstance(value, bytes) else f"{name}={value!r}"
            for name, value in fields
            if value is not None and value != ()
        )
        return f"{type(self).__name__}({', '.join(shown)})"


# ---- properties, one value per kind of packet (2.2.2.2); None = absent ----


class ConnectProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of CONNECT (3.1.2.11)."""

    session_expiry_interval: int | None = None  # seconds; 0xFFFFFFFF = never
    receive_maximum: int | None = None
    maximum_packet_size: int | None = None  # octets
    topic_alias_maximum: int | None = None
    request_response_information: int | None = None
    request_problem_information: int | None = None
    user_properties: UserProperties = ()
    authentication_method: str | None = None
    authentication_data: bytes | None = None


class WillProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of the Will (3.1.3.2)."""

    will_delay_interval: int | None = None  # seconds
    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None  # seconds
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: UserProperties = ()


class ConnackProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of CONNACK (3.2.2.3)."""

    session_expiry_interval: int | None = None
    receive_maximum: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    maximum_packet_size: int | None = None
    assigned_client_identifier: str | None = None
    topic_alias_maximum: int | None = None
    reason_string: str | None = None
    user_properties: UserProperties = ()
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None
    server_keep_alive: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None


class PublishProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of PUBLISH (3.3.2.3)."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    topic_alias: int | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: UserProperties = ()
    subscription_identifiers: tuple[int, ...] = ()
    content_type: str | None = None


class AckProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK."""

    reason_string: str | None = None
    user_properties: UserProperties = ()


class SubscribeProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of SUBSCRIBE (3.8.2.1)."""

    subscription_identifier: int | None = None
    user_properties: UserProperties = ()


class UnsubscribeProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of UNSUBSCRIBE (3.10.2.1)."""

    user_properties: UserProperties = ()


class DisconnectProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of DISCONNECT (3.14.2.2)."""

    session_expiry_interval: int | None = None
    reason_string: str | None = None
    user_properties: UserProperties = ()
    server_reference: str | None = None


class AuthProperties(_Value, frozen=True, gc=False, kw_only=True):
    """Properties of AUTH (3.15.2.2)."""

    authentication_method: str | None = None
    authentication_data: bytes | None = None
    reason_string: str | None = None
    user_properties: UserProperties = ()


NO_CONNECT_PROPERTIES: Final = ConnectProperties()
NO_WILL_PROPERTIES: Final = WillProperties()
NO_CONNACK_PROPERTIES: Final = ConnackProperties()
NO_PUBLISH_PROPERTIES: Final = PublishProperties()
NO_ACK_PROPERTIES: Final = AckProperties()
NO_SUBSCRIBE_PROPERTIES: Final = SubscribeProperties()
NO_UNSUBSCRIBE_PROPERTIES: Final = UnsubscribeProperties()
NO_DISCONNECT_PROPERTIES: Final = DisconnectProperties()
NO_AUTH_PROPERTIES: Final = AuthProperties()


# ---- packets ----


class Packet(_Value, frozen=True, gc=False):
    """What all control packets have in common: their type."""

    packet_type: ClassVar[PacketType]


class Will(_Value, frozen=True, gc=False):
    """The Will Message of a CONNECT (3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: WillProperties = NO_WILL_PROPERTIES


class Connect(Packet, frozen=True, gc=False):
    """CONNECT (3.1). `repr` hides user name, password and authentication data."""

    packet_type: ClassVar[PacketType] = PacketType.CONNECT
    client_identifier: str = ""
    version: ProtocolVersion = ProtocolVersion.MQTT_5
    clean_start: bool = True
    keep_alive: int = 0  # seconds; 0 = off
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: ConnectProperties = NO_CONNECT_PROPERTIES

    def __repr__(self) -> str:
        return (
            f"Connect(client_identifier={self.client_identifier!r}, version={int(self.version)}, "
            f"clean_start={self.clean_start}, keep_alive={self.keep_alive}, will={self.will is not None})"
        )


class Connack(Packet, frozen=True, gc=False):
    """CONNACK (3.2). For MQTT 3 `reason_code` is the Connect Return code."""

    packet_type: ClassVar[PacketType] = PacketType.CONNACK
    session_present: bool = False
    reason_code: int = 0
    properties: ConnackProperties = NO_CONNACK_PROPERTIES


class Publish(Packet, frozen=True, gc=False):
    """PUBLISH (3.3). `topic` is empty only where a Topic Alias stands for it."""

    packet_type: ClassVar[PacketType] = PacketType.PUBLISH
    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_identifier: int = 0  # 0 exactly when qos is 0
    properties: PublishProperties = NO_PUBLISH_PROPERTIES


class Ack(Packet, frozen=True, gc=False):
    """What PUBACK, PUBREC, PUBREL and PUBCOMP share (3.4 to 3.7)."""

    packet_identifier: int
    reason_code: int = 0
    properties: AckProperties = NO_ACK_PROPERTIES


class Puback(Ack, frozen=True, gc=False):
    """PUBACK (3.4)."""

    packet_type: ClassVar[PacketType] = PacketType.PUBACK


class Pubrec(Ack, frozen=True, gc=False):
    """PUBREC (3.5)."""

    packet_type: ClassVar[PacketType] = PacketType.PUBREC


class Pubrel(Ack, frozen=True, gc=False):
    """PUBREL (3.6)."""

    packet_type: ClassVar[PacketType] = PacketType.PUBREL


class Pubcomp(Ack, frozen=True, gc=False):
    """PUBCOMP (3.7)."""

    packet_type: ClassVar[PacketType] = PacketType.PUBCOMP


class SubscriptionRequest(_Value, frozen=True, gc=False):
    """One Topic Filter of a SUBSCRIBE with its Subscription Options (3.8.3.1)."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0  # 0 send, 1 send if new, 2 do not send


class Subscribe(Packet, frozen=True, gc=False):
    """SUBSCRIBE (3.8)."""

    packet_type: ClassVar[PacketType] = PacketType.SUBSCRIBE
    packet_identifier: int
    filters: tuple[SubscriptionRequest, ...]
    properties: SubscribeProperties = NO_SUBSCRIBE_PROPERTIES


class Suback(Packet, frozen=True, gc=False):
    """SUBACK (3.9). One reason code per filter, in order [MQTT-3.8.4-6]."""

    packet_type: ClassVar[PacketType] = PacketType.SUBACK
    packet_identifier: int
    reason_codes: tuple[int, ...]
    properties: AckProperties = NO_ACK_PROPERTIES


class Unsubscribe(Packet, frozen=True, gc=False):
    """UNSUBSCRIBE (3.10)."""

    packet_type: ClassVar[PacketType] = PacketType.UNSUBSCRIBE
    packet_identifier: int
    filters: tuple[str, ...]
    properties: UnsubscribeProperties = NO_UNSUBSCRIBE_PROPERTIES


class Unsuback(Packet, frozen=True, gc=False):
    """UNSUBACK (3.11). MQTT 3 has no reason codes here: the tuple is empty."""

    packet_type: ClassVar[PacketType] = PacketType.UNSUBACK
    packet_identifier: int
    reason_codes: tuple[int, ...] = ()
    properties: AckProperties = NO_ACK_PROPERTIES


class Pingreq(Packet, frozen=True, gc=False):
    """PINGREQ (3.12)."""

    packet_type: ClassVar[PacketType] = PacketType.PINGREQ


class Pingresp(Packet, frozen=True, gc=False):
    """PINGRESP (3.13)."""

    packet_type: ClassVar[PacketType] = PacketType.PINGRESP


class Disconnect(Packet, frozen=True, gc=False):
    """DISCONNECT (3.14). From the server only in MQTT 5."""

    packet_type: ClassVar[PacketType] = PacketType.DISCONNECT
    reason_code: int = 0
    properties: DisconnectProperties = NO_DISCONNECT_PROPERTIES


class Auth(Packet, frozen=True, gc=False):
    """AUTH (3.15), MQTT 5 only. `repr` hides the authentication data."""

    packet_type: ClassVar[PacketType] = PacketType.AUTH
    reason_code: int = 0
    properties: AuthProperties = NO_AUTH_PROPERTIES

    def __repr__(self) -> str:
        return f"Auth(reason_code={self.reason_code:#04x}, method={self.properties.authentication_method!r})"
