"""The steps of authentication by ACE on one MQTT connection, and which may follow which, as tables.

RFC 9431, 2.2.4 (CONNECT, the challenge), 4 (re-authentication), 6.1 (MQTT 3.1.1: the first line of START only):

                          the client may               the broker may
    START                 show a token, with proof
                          or without; show nothing
    PROOF_SHOWN                                        accept, refuse
    TOKEN_SHOWN                                        challenge, refuse
    CHALLENGED            answer                       refuse
    ANSWERED                                           accept, refuse
    PROVEN                show a new token
    RENEWAL_SHOWN                                      challenge
    RENEWAL_CHALLENGED    answer
    RENEWAL_ANSWERED                                   renew
    CLOSED                nothing                      nothing

    START ── CONNECT with proof ──> PROOF_SHOWN ── CONNACK 0 ──> PROVEN
    START ── CONNECT without ──> TOKEN_SHOWN ── AUTH 0x18 ──> CHALLENGED ── AUTH 0x18 ──> ANSWERED
    ANSWERED ── CONNACK 0 ──> PROVEN
    PROVEN ── AUTH 0x19 ──> RENEWAL_SHOWN ── AUTH 0x18 ──> RENEWAL_CHALLENGED ── AUTH 0x18 ──> RENEWAL_ANSWERED
    RENEWAL_ANSWERED ── AUTH 0 ──> PROVEN

Either side may leave (DISCONNECT) at any moment, which is also how a broker refuses a re-authentication.
Re-authentication is by challenge only, and only after a proof (ACE-4-9, ACE-4-11, ACE-4-12): no other way
leads there.

Both sides follow the same tables. What the packets hold, and whether it is right: `handshake`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from acebroker_ace.errors import HandshakeViolation
from acebroker_codec.packets import Role

__all__ = ["SENT_BY", "TRANSITIONS", "Exchange", "State", "Step"]


class State(enum.Enum):
    """Where the handshake of a connection stands."""

    START = "start"
    PROOF_SHOWN = "token and proof shown"
    TOKEN_SHOWN = "token shown"
    CHALLENGED = "challenged"
    ANSWERED = "challenge answered"
    PROVEN = "possession proven"
    RENEWAL_SHOWN = "new token shown"
    RENEWAL_CHALLENGED = "challenged for the new token"
    RENEWAL_ANSWERED = "challenge for the new token answered"
    CLOSED = "closed"


class Step(enum.Enum):
    """What a packet means here."""

    SHOW_WITH_PROOF = "CONNECT with token and proof"
    SHOW = "CONNECT without proof"
    CHALLENGE = "AUTH 0x18 with the broker's nonce"
    ANSWER = "AUTH 0x18 with client's nonce and proof"
    ACCEPT = "CONNACK 0"
    REFUSE = "CONNACK 0x80 or above"
    RENEW = "AUTH 0x19 with a new token"
    RENEWED = "AUTH 0"
    LEAVE = "DISCONNECT"


#: who takes which step
SENT_BY: Final[Mapping[Step, frozenset[Role]]] = {
    Step.SHOW_WITH_PROOF: frozenset({"client"}),
    Step.SHOW: frozenset({"client"}),
    Step.CHALLENGE: frozenset({"server"}),
    Step.ANSWER: frozenset({"client"}),
    Step.ACCEPT: frozenset({"server"}),
    Step.REFUSE: frozenset({"server"}),
    Step.RENEW: frozenset({"client"}),
    Step.RENEWED: frozenset({"server"}),
    Step.LEAVE: frozenset({"client", "server"}),
}

#: state -> step -> the state after it
TRANSITIONS: Final[Mapping[State, Mapping[Step, State]]] = {
    State.START: {
        Step.SHOW_WITH_PROOF: State.PROOF_SHOWN,
        Step.SHOW: State.TOKEN_SHOWN,
        Step.LEAVE: State.CLOSED,
    },
    State.PROOF_SHOWN: {Step.ACCEPT: State.PROVEN, Step.REFUSE: State.CLOSED, Step.LEAVE: State.CLOSED},
    State.TOKEN_SHOWN: {Step.CHALLENGE: State.CHALLENGED, Step.REFUSE: State.CLOSED, Step.LEAVE: State.CLOSED},
    State.CHALLENGED: {Step.ANSWER: State.ANSWERED, Step.REFUSE: State.CLOSED, Step.LEAVE: State.CLOSED},
    State.ANSWERED: {Step.ACCEPT: State.PROVEN, Step.REFUSE: State.CLOSED, Step.LEAVE: State.CLOSED},
    State.PROVEN: {Step.RENEW: State.RENEWAL_SHOWN, Step.LEAVE: State.CLOSED},
    State.RENEWAL_SHOWN: {Step.CHALLENGE: State.RENEWAL_CHALLENGED, Step.LEAVE: State.CLOSED},
    State.RENEWAL_CHALLENGED: {Step.ANSWER: State.RENEWAL_ANSWERED, Step.LEAVE: State.CLOSED},
    State.RENEWAL_ANSWERED: {Step.RENEWED: State.PROVEN, Step.LEAVE: State.CLOSED},
    State.CLOSED: {},
}


class Exchange:
    """One handshake, seen from the side `role`: the state, and that it follows the tables."""

    def __init__(self, role: Role) -> None:
        self.role: Final[Role] = role
        self.state = State.START

    def received(self, step: Step) -> None:
        """The peer took `step`. Raises `HandshakeViolation`, and is closed, where it may not."""
        after = TRANSITIONS[self.state].get(step)
        if after is None or not SENT_BY[step] - {self.role}:
            was, self.state = self.state, State.CLOSED
            raise HandshakeViolation(f"{step.value}, when the state is: {was.value}")
        self.state = after

    def sent(self, step: Step) -> None:
        """We take `step`. Raises `RuntimeError` where we must not: that is a mistake of ours."""
        after = TRANSITIONS[self.state].get(step)
        if after is None or self.role not in SENT_BY[step]:
            raise RuntimeError(f"{step.value}, when the state is: {self.state.value}")
        self.state = after

    @contextmanager
    def closed_by_errors(self) -> Iterator[None]:
        """Whatever is raised within, the handshake is over then."""
        try:
            yield
        except BaseException:
            self.state = State.CLOSED
            raise

    def left(self) -> None:
        """The connection has ended, by DISCONNECT or without."""
        self.state = State.CLOSED
