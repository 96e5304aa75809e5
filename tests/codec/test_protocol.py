"""The order of packets: every state, every packet, every sender, seen from both sides."""

from __future__ import annotations

import itertools

import pytest

from acebroker_codec.errors import ProtocolViolation, ReasonCode
from acebroker_codec.packets import (
    Auth,
    AuthProperties,
    Connack,
    ConnackProperties,
    Connect,
    ConnectProperties,
    Disconnect,
    DisconnectProperties,
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
)
from acebroker_codec.protocol import Protocol, State
from tests.strategies import ROLES, VERSIONS

V311, V5 = ProtocolVersion.MQTT_3_1_1, ProtocolVersion.MQTT_5


def auth(reason_code: int, method: str | None = "m") -> Auth:
    return Auth(reason_code, AuthProperties(authentication_method=method))


def connect(method: str | None = None, version: ProtocolVersion = V5, clean_start: bool = True) -> Connect:
    properties = ConnectProperties(authentication_method=method)
    return Connect("c", version, clean_start, properties=properties)


ACCEPTED = Connack(properties=ConnackProperties(authentication_method="m"))
CONTINUE, AGAIN, SUCCESS = auth(0x18), auth(0x19), auth(0x00)

#: packets that lead from the start to each state, with who sends them
WAYS: dict[State, list[tuple[Role, Packet]]] = {
    State.AWAITING_CONNECT: [],
    State.AWAITING_CONNACK: [("client", connect())],
    State.AUTHENTICATING: [("client", connect("m"))],
    State.CONNECTED: [("client", connect("m")), ("server", ACCEPTED)],
    State.REAUTHENTICATING: [("client", connect("m")), ("server", ACCEPTED), ("client", AGAIN)],
    State.CLOSED: [("client", connect("m")), ("server", ACCEPTED), ("client", Disconnect())],
}

SAMPLES: dict[PacketType, Packet] = {
    sample.packet_type: sample
    for sample in (
        connect("m"),
        ACCEPTED,
        Publish("t"),
        Puback(1),
        Pubrec(1),
        Pubrel(1),
        Pubcomp(1),
        Subscribe(1, (SubscriptionRequest("t"),)),
        Suback(1, (0,)),
        Unsubscribe(1, ("t",)),
        Unsuback(1, (0,)),
        Pingreq(),
        Pingresp(),
        Disconnect(),
        CONTINUE,
    )
}

#: what the standard lets each side send, written out: C client, S server; AUTH stands in AUTHS
TEXT = """
                 AWAITING_CONNECT  AWAITING_CONNACK  AUTHENTICATING  CONNECTED  REAUTHENTICATING  CLOSED
    CONNECT      C                 -                 -               -          -                 -
    CONNACK      -                 S                 S               -          -                 -
    PUBLISH      -                 C                 -               CS         CS                -
    PUBACK       -                 C                 -               CS         CS                -
    PUBREC       -                 C                 -               CS         CS                -
    PUBREL       -                 C                 -               CS         CS                -
    PUBCOMP      -                 C                 -               CS         CS                -
    SUBSCRIBE    -                 C                 -               C          C                 -
    SUBACK       -                 -                 -               S          S                 -
    UNSUBSCRIBE  -                 C                 -               C          C                 -
    UNSUBACK     -                 -                 -               S          S                 -
    PINGREQ      -                 C                 -               C          C                 -
    PINGRESP     -                 -                 -               S          S                 -
    DISCONNECT   -                 C                 C               CS         CS                -
"""
LINES = [line.split() for line in TEXT.strip().splitlines()]
EXPECTED = {
    (PacketType[line[0]], State[name]): cell
    for line in LINES[1:]
    for name, cell in zip(LINES[0], line[1:], strict=True)
}

#: AUTH: state, sender, reason code -> state after it; all others are violations
AUTHS: dict[tuple[State, str, int], State] = {
    (State.AUTHENTICATING, "client", 0x18): State.AUTHENTICATING,
    (State.AUTHENTICATING, "server", 0x18): State.AUTHENTICATING,
    (State.CONNECTED, "client", 0x19): State.REAUTHENTICATING,
    (State.REAUTHENTICATING, "client", 0x18): State.REAUTHENTICATING,
    (State.REAUTHENTICATING, "server", 0x18): State.REAUTHENTICATING,
    (State.REAUTHENTICATING, "server", 0x00): State.CONNECTED,
}


def pass_on(protocol: Protocol, role: Role, sender: Role, packet: Packet) -> None:
    """`sender` sends the packet; `protocol` is that of `role`."""
    (protocol.sent if role == sender else protocol.received)(packet)


def protocol_in(state: State, role: Role) -> Protocol:
    protocol = Protocol(role)
    for sender, packet in WAYS[state]:
        pass_on(protocol, role, sender, packet)
    assert protocol.state is state
    return protocol


def check_refused(protocol: Protocol, role: Role, sender: Role, packet: Packet) -> None:
    before = protocol.state
    with pytest.raises(ProtocolViolation) as caught:
        pass_on(protocol, role, sender, packet)
    assert caught.value.reason_code == ReasonCode.PROTOCOL_ERROR
    assert protocol.state is before


def test_the_written_table_is_complete() -> None:
    assert set(EXPECTED) == set(itertools.product(set(PacketType) - {PacketType.AUTH}, State))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sender", ROLES)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("packet_type", [each for each in PacketType if each != PacketType.AUTH], ids=lambda t: t.name)
def test_every_packet_in_every_state(packet_type: PacketType, state: State, sender: Role, role: Role) -> None:
    protocol = protocol_in(state, role)
    packet = SAMPLES[packet_type]
    if sender[0].upper() not in EXPECTED[packet_type, state]:
        check_refused(protocol, role, sender, packet)
        return
    if packet_type == PacketType.CONNACK and state is State.AWAITING_CONNACK:
        packet = Connack()  # CONNECT had no Authentication Method on this way
    pass_on(protocol, role, sender, packet)
    after = {
        PacketType.CONNECT: State.AUTHENTICATING,
        PacketType.CONNACK: State.CONNECTED,
        PacketType.DISCONNECT: State.CLOSED,
    }
    assert protocol.state is after.get(packet_type, state)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sender", ROLES)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("reason_code", [0x00, 0x18, 0x19])
def test_every_auth_in_every_state(reason_code: int, state: State, sender: Role, role: Role) -> None:
    protocol = protocol_in(state, role)
    after = AUTHS.get((state, sender, reason_code))
    if after is None:
        check_refused(protocol, role, sender, auth(reason_code))
        return
    for other in (auth(reason_code, "M"), auth(reason_code, ""), auth(reason_code, None)):
        check_refused(protocol, role, sender, other)
    pass_on(protocol, role, sender, auth(reason_code))
    assert protocol.state is after


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sender", ROLES)
@pytest.mark.parametrize("reason_code", [0x00, 0x18, 0x19])
def test_no_auth_without_a_method(reason_code: int, sender: Role, role: Role) -> None:
    for ways in ([("client", connect())], [("client", connect()), ("server", Connack())]):
        protocol = Protocol(role)
        for each_sender, packet in ways:
            pass_on(protocol, role, each_sender, packet)  # type: ignore[arg-type]
        for method in ("m", "", None):
            check_refused(protocol, role, sender, auth(reason_code, method))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_refusal_closes(version: ProtocolVersion, role: Role) -> None:
    protocol = Protocol(role)
    pass_on(protocol, role, "client", connect(version=version))
    pass_on(protocol, role, "server", Connack(False, 0x87 if version == V5 else 5))
    assert protocol.state is State.CLOSED


@pytest.mark.parametrize("role", ROLES)
def test_the_method_of_connack(role: Role) -> None:
    def method(name: str | None, reason_code: int = 0) -> Connack:
        return Connack(False, reason_code, ConnackProperties(authentication_method=name))

    for name in ("M", "", None):
        check_refused(protocol_in(State.AUTHENTICATING, role), role, "server", method(name))
    check_refused(protocol_in(State.AUTHENTICATING, role), role, "server", method("other", 0x87))
    for name in ("m", ""):
        check_refused(protocol_in(State.AWAITING_CONNACK, role), role, "server", method(name))
        check_refused(protocol_in(State.AWAITING_CONNACK, role), role, "server", method(name, 0x87))
    for refusal in (method(None, 0x8C), method("m", 0x8C)):  # a refusal may repeat it
        protocol = protocol_in(State.AUTHENTICATING, role)
        pass_on(protocol, role, "server", refusal)
        assert protocol.state is State.CLOSED


@pytest.mark.parametrize("role", ROLES)
def test_session_present_after_clean_start(role: Role) -> None:
    check_refused(protocol_in(State.AWAITING_CONNACK, role), role, "server", Connack(True))
    protocol = Protocol(role)
    pass_on(protocol, role, "client", connect(clean_start=False))
    pass_on(protocol, role, "server", Connack(True))
    assert protocol.state is State.CONNECTED


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("version", VERSIONS)
def test_disconnect_from_the_server_is_of_mqtt_5(version: ProtocolVersion, role: Role) -> None:
    protocol = Protocol(role)
    pass_on(protocol, role, "client", connect(version=version))
    pass_on(protocol, role, "server", Connack())
    if version == V5:
        pass_on(protocol, role, "server", Disconnect(0x8B))
        assert protocol.state is State.CLOSED
    else:
        check_refused(protocol, role, "server", Disconnect())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("before", [None, 0, 1])
@pytest.mark.parametrize("after", [None, 0, 7, 0xFFFF_FFFF])
def test_session_expiry_cannot_begin_with_disconnect(before: int | None, after: int | None, role: Role) -> None:
    protocol = Protocol(role)
    pass_on(protocol, role, "client", Connect("c", properties=ConnectProperties(session_expiry_interval=before)))
    pass_on(protocol, role, "server", Connack())
    packet = Disconnect(0, DisconnectProperties(session_expiry_interval=after))
    if after and not before:
        check_refused(protocol, role, "client", packet)  # and it is then not taken for a DISCONNECT
        assert protocol.state is State.CONNECTED
    else:
        pass_on(protocol, role, "client", packet)
        assert protocol.state is State.CLOSED


@pytest.mark.parametrize("role", ROLES)
def test_a_whole_exchange(role: Role) -> None:
    protocol = Protocol(role)
    exchange: list[tuple[Role, Packet, State]] = [
        ("client", connect("m"), State.AUTHENTICATING),
        ("server", CONTINUE, State.AUTHENTICATING),
        ("client", CONTINUE, State.AUTHENTICATING),
        ("server", ACCEPTED, State.CONNECTED),
        ("client", Publish("t"), State.CONNECTED),
        ("client", AGAIN, State.REAUTHENTICATING),
        ("server", Publish("t"), State.REAUTHENTICATING),
        ("server", CONTINUE, State.REAUTHENTICATING),
        ("client", Pingreq(), State.REAUTHENTICATING),
        ("client", CONTINUE, State.REAUTHENTICATING),
        ("server", SUCCESS, State.CONNECTED),
        ("client", AGAIN, State.REAUTHENTICATING),
        ("server", SUCCESS, State.CONNECTED),
        ("server", Disconnect(0x8B), State.CLOSED),
    ]
    assert protocol.authentication_method is None
    for sender, packet, after in exchange:
        pass_on(protocol, role, sender, packet)
        assert protocol.state is after
    assert protocol.authentication_method == "m"
