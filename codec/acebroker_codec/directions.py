"""Who may send which packet, with which reason codes (tables 2-1 and 2-6, and the tables of each packet).

Data for decoder, encoder and protocol. The order of packets is not here: `protocol`.

Statements: [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1],
[MQTT-3.9.3-2], [MQTT-3.11.3-2], [MQTT-3.14.2-1], [MQTT-3.15.2-1]; MQTT 3.1.1: [MQTT-3.9.3-2].
"""

from __future__ import annotations

from typing import Final

from acebroker_codec.errors import ReasonCode
from acebroker_codec.packets import PacketType, Role

__all__ = [
    "CONNECT_RETURN_CODE_MAX",
    "PACKETS_FROM",
    "REASON_CODES",
    "REASON_CODES_ONLY_FROM",
    "SUBACK_RETURN_CODES",
]

_BOTH: Final = frozenset(
    {
        PacketType.PUBLISH,
        PacketType.PUBACK,
        PacketType.PUBREC,
        PacketType.PUBREL,
        PacketType.PUBCOMP,
        PacketType.DISCONNECT,
        PacketType.AUTH,
    }
)

#: The direction of flow of every packet (table 2-1). DISCONNECT of a server, and AUTH, exist in MQTT 5 only.
PACKETS_FROM: Final[dict[Role, frozenset[PacketType]]] = {
    "client": _BOTH | {PacketType.CONNECT, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE, PacketType.PINGREQ},
    "server": _BOTH | {PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP},
}

_RECEIVED: Final = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_RELEASED: Final = frozenset({0x00, 0x92})

#: The reason codes of MQTT 5 that each packet may carry (table 2-6).
REASON_CODES: Final[dict[PacketType, frozenset[int]]] = {
    PacketType.CONNACK: frozenset({0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, *range(0x99, 0x9E), 0x9F}),
    PacketType.PUBACK: _RECEIVED,
    PacketType.PUBREC: _RECEIVED,
    PacketType.PUBREL: _RELEASED,
    PacketType.PUBCOMP: _RELEASED,
    PacketType.SUBACK: frozenset({0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    PacketType.UNSUBACK: frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    PacketType.DISCONNECT: frozenset(
        {0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8C, 0x91), *range(0x93, 0xA3)}
    ),
    PacketType.AUTH: frozenset({0x00, 0x18, 0x19}),
}

#: Codes that only one side sends ("Sent by" of tables 3-10 and 3-11).
REASON_CODES_ONLY_FROM: Final[dict[PacketType, dict[Role, frozenset[int]]]] = {
    PacketType.DISCONNECT: {
        "client": frozenset({ReasonCode.DISCONNECT_WITH_WILL_MESSAGE}),
        "server": frozenset({0x87, 0x89, 0x8B, *range(0x8C, 0x90), *range(0x9A, 0xA3)}),
    },
    PacketType.AUTH: {
        "client": frozenset({ReasonCode.RE_AUTHENTICATE}),
        "server": frozenset({ReasonCode.SUCCESS}),
    },
}

#: MQTT 3: the codes of SUBACK, granted QoS or failure (3.1.1, 3.9.3). MQTT 3.1 peers send 0x80 as well.
SUBACK_RETURN_CODES: Final = frozenset({0x00, 0x01, 0x02, 0x80})

#: MQTT 3: Connect Return codes above this one are reserved (3.1.1, table 3.1).
CONNECT_RETURN_CODE_MAX: Final = 5
