"""Which packet may come when: the order of packets on one connection, as tables (3.1, 3.2, 3.14, 3.15, 4.12).

                            the client may send           the server may send
    AWAITING_CONNECT        CONNECT                       nothing
    AWAITING_CONNACK        all but CONNECT and AUTH      CONNACK
    AUTHENTICATING          AUTH 0x18, DISCONNECT         AUTH 0x18, CONNACK
    CONNECTED               all but CONNECT; AUTH 0x19    all but CONNACK and AUTH
    REAUTHENTICATING        all but CONNECT; AUTH 0x18    all but CONNACK; AUTH 0x18 and 0x00
    CLOSED                  nothing                       nothing

    AWAITING_CONNECT ── CONNECT ─────────────────────────> AWAITING_CONNACK, with a method AUTHENTICATING
    AWAITING_CONNACK, AUTHENTICATING ── CONNACK 0 ───────> CONNECTED, with another code CLOSED
    CONNECTED ── AUTH 0x19 ──> REAUTHENTICATING ── AUTH 0x00 ──> CONNECTED
    anywhere ── DISCONNECT ──────────────────────────────> CLOSED

Both sides use the same tables, each telling what it received and what it sent. A client need not
wait for CONNACK (3.1.4); what it sends meanwhile is legal here, and lost if it is refused
[MQTT-3.1.4-6]. What comes in CLOSED is to be dropped, not answered.

Statements: [MQTT-3.1.0-1], [MQTT-3.1.0-2], [MQTT-3.1.2-30], [MQTT-3.2.0-1], [MQTT-3.2.0-2],
[MQTT-3.2.2-2], [MQTT-3.14.0-1], [MQTT-3.14.4-1], [MQTT-4.12.0-2], [MQTT-4.12.0-3], [MQTT-4.12.0-5] to
[MQTT-4.12.0-7], [MQTT-4.12.1-1].

Not here: Packet Identifiers and the order of acknowledgements (`flow`), timers, answers to errors.
"""

from __future__ import annotations

import enum
from typing import Final

from acebroker_codec.directions import PACKETS_FROM
from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import Auth, Connack, Connect, Disconnect, Packet, PacketType, ProtocolVersion, Role

__all__ = ["AUTH_STEPS", "MAY_SEND", "Protocol", "State"]


class State(enum.Enum):
    """Where a connection stands."""

    AWAITING_CONNECT = "awaiting CONNECT"
    AWAITING_CONNACK = "awaiting CONNACK"
    AUTHENTICATING = "authenticating"
    CONNECTED = "connected"
    REAUTHENTICATING = "re-authenticating"
    CLOSED = "closed"


_NOTHING: Final[frozenset[PacketType]] = frozenset()
_FROM_CLIENT: Final = PACKETS_FROM["client"] - {PacketType.CONNECT}
_FROM_SERVER: Final = PACKETS_FROM["server"] - {PacketType.CONNACK}

#: state -> sender -> the types it may send now; for AUTH see `AUTH_STEPS` as well.
MAY_SEND: Final[dict[State, dict[Role, frozenset[PacketType]]]] = {
    State.AWAITING_CONNECT: {"client": frozenset({PacketType.CONNECT}), "server": _NOTHING},
    State.AWAITING_CONNACK: {
        "client": _FROM_CLIENT - {PacketType.AUTH},
        "server": frozenset({PacketType.CONNACK}),
    },
    State.AUTHENTICATING: {
        "client": frozenset({PacketType.AUTH, PacketType.DISCONNECT}),
        "server": frozenset({PacketType.AUTH, PacketType.CONNACK}),
    },
    State.CONNECTED: {"client": _FROM_CLIENT, "server": _FROM_SERVER - {PacketType.AUTH}},
    State.REAUTHENTICATING: {"client": _FROM_CLIENT, "server": _FROM_SERVER},
    State.CLOSED: {"client": _NOTHING, "server": _NOTHING},
}

#: state -> sender -> reason code of an AUTH that it may send now -> the state after it.
AUTH_STEPS: Final[dict[State, dict[Role, dict[int, State]]]] = {
    State.AUTHENTICATING: {
        "client": {ReasonCode.CONTINUE_AUTHENTICATION: State.AUTHENTICATING},
        "server": {ReasonCode.CONTINUE_AUTHENTICATION: State.AUTHENTICATING},
    },
    State.CONNECTED: {"client": {ReasonCode.RE_AUTHENTICATE: State.REAUTHENTICATING}, "server": {}},
    State.REAUTHENTICATING: {
        "client": {ReasonCode.CONTINUE_AUTHENTICATION: State.REAUTHENTICATING},
        "server": {
            ReasonCode.CONTINUE_AUTHENTICATION: State.REAUTHENTICATING,
            ReasonCode.SUCCESS: State.CONNECTED,
        },
    },
}


class Protocol:
    """The order of packets on one connection, seen from the side `role`.

    `state` is read by the owner; only packets of the types CONNECT, CONNACK, AUTH and DISCONNECT
    change it. `authentication_method` is that of CONNECT, None without one.
    """

    __slots__ = ("_connect", "_may_send", "_peer", "_role", "authentication_method", "state")

    def __init__(self, role: Role) -> None:
        self._role: Final[Role] = role
        self._peer: Final[Role] = "server" if role == "client" else "client"
        self._connect: Connect | None = None
        self.authentication_method: str | None = None
        self.state = State.AWAITING_CONNECT
        self._may_send = MAY_SEND[self.state]

    def received(self, packet: Packet) -> None:
        """The peer sent `packet`. Raises `ProtocolViolation` where it may not stand here; nothing changes then."""
        self._step(packet, self._peer)

    def sent(self, packet: Packet) -> None:
        """We are about to send `packet`. Raises `ProtocolViolation` where we must not; nothing changes then."""
        self._step(packet, self._role)

    def _step(self, packet: Packet, sender: Role) -> None:
        if packet.packet_type not in self._may_send[sender]:
            raise ProtocolViolation(f"{packet.packet_type.name} from the {sender}, {self.state.value}")
        if isinstance(packet, Connect):
            self._connect = packet
            self.authentication_method = packet.properties.authentication_method
            self._enter(State.AWAITING_CONNACK if self.authentication_method is None else State.AUTHENTICATING)
        elif isinstance(packet, Connack):
            self._check_connack(packet)
            self._enter(State.CLOSED if packet.reason_code else State.CONNECTED)
        elif isinstance(packet, Auth):
            self._enter(self._after_auth(packet, sender))
        elif isinstance(packet, Disconnect):
            self._check_disconnect(packet, sender)
            self._enter(State.CLOSED)

    def _enter(self, state: State) -> None:
        self.state = state
        self._may_send = MAY_SEND[state]

    def _check_connack(self, connack: Connack) -> None:
        assert self._connect is not None
        if connack.session_present and self._connect.clean_start:
            raise ProtocolViolation("Session Present after Clean Start")  # [MQTT-3.2.2-2]
        method = connack.properties.authentication_method
        if method != self.authentication_method and (method is not None or not connack.reason_code):
            # [MQTT-4.12.0-5], [MQTT-4.12.0-6]; a refusal need not repeat the method
            raise ProtocolViolation("CONNACK with another Authentication Method than CONNECT")

    def _after_auth(self, auth: Auth, sender: Role) -> State:
        method = self.authentication_method
        if method is None or auth.properties.authentication_method != method:
            raise ProtocolViolation("AUTH without the Authentication Method of CONNECT")  # 3.15, [MQTT-4.12.0-5]
        after = AUTH_STEPS[self.state][sender].get(auth.reason_code)
        if after is None:
            raise ProtocolViolation(f"AUTH {auth.reason_code:#04x} from the {sender}, {self.state.value}")
        return after

    def _check_disconnect(self, disconnect: Disconnect, sender: Role) -> None:
        assert self._connect is not None
        if sender == "server":
            if self._connect.version != ProtocolVersion.MQTT_5:
                raise ProtocolViolation("DISCONNECT from the server below MQTT 5")
        elif disconnect.properties.session_expiry_interval and not self._connect.properties.session_expiry_interval:
            raise ProtocolViolation("Session Expiry Interval in DISCONNECT, but not in CONNECT")  # 3.14.2.2.2
