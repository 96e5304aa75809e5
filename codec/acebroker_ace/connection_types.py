"""`allowed_connection_types`: over what a token or a user may connect, as NATS has it.

A list of names, in any case. In a token unknown names are passed over, since a newer server may know them;
a list of which no name is known allows nothing. In a configuration an unknown name is an error. An absent
or empty list allows every type. No type implies another: MQTT does not admit MQTT over WebSocket.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from acebroker_ace.errors import UnreadableClaims

__all__ = [
    "ANY_CONNECTION_TYPE",
    "ConnectionType",
    "connection_types_of_claim",
    "connection_types_of_configuration",
    "permits_connection_type",
]


class ConnectionType(enum.Enum):
    """What a connection is, by its name on the wire. This broker has those of MQTT; the others are only known."""

    STANDARD = "STANDARD"
    WEBSOCKET = "WEBSOCKET"
    LEAFNODE = "LEAFNODE"
    LEAFNODE_WS = "LEAFNODE_WS"
    MQTT = "MQTT"
    MQTT_WS = "MQTT_WS"
    IN_PROCESS = "IN_PROCESS"


#: the empty list
ANY_CONNECTION_TYPE: Final[frozenset[ConnectionType]] = frozenset()

_BY_NAME: Final = {kind.value: kind for kind in ConnectionType} | {"INPROCESS": ConnectionType.IN_PROCESS}


def _sorted_out(names: Sequence[str]) -> tuple[frozenset[ConnectionType], tuple[str, ...]]:
    """The types that are known, and the names that are not."""
    known = frozenset(_BY_NAME[name.upper()] for name in names if name.upper() in _BY_NAME)
    return known, tuple(name for name in names if name.upper() not in _BY_NAME)


def connection_types_of_claim(names: object) -> frozenset[ConnectionType]:
    """The types that a claim allows.

    Raises `UnreadableClaims` where it is no list of text, or where it has names and none of them is known.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnreadableClaims("allowed_connection_types is no list of text")
    known, unknown = _sorted_out(names)
    if unknown and not known:
        raise UnreadableClaims("allowed_connection_types names no type that is known")
    return known


def connection_types_of_configuration(names: Sequence[str]) -> frozenset[ConnectionType]:
    """The types that a configuration allows. Raises `ValueError` for a name that is not known."""
    known, unknown = _sorted_out(names)
    if unknown:
        listed = " ".join(f'"{name}"' for name in unknown)
        raise ValueError(f"invalid connection types [{listed}]")
    return known


def permits_connection_type(allowed: frozenset[ConnectionType], kind: ConnectionType) -> bool:
    """Whether a connection of this type is among the allowed ones."""
    return not allowed or kind in allowed
