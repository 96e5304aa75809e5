"""The order of the steps: every state, every step, both sides."""

from __future__ import annotations

import itertools

import pytest

from acebroker_ace.errors import HandshakeViolation
from acebroker_ace.exchange import SENT_BY, TRANSITIONS, Exchange, State, Step
from acebroker_codec.packets import Role
from tests.conformance.statements import ace

ROLES: tuple[Role, ...] = ("client", "server")

#: (state, step) -> the state after it, written down a second time
EXPECTED = {
    (State.START, Step.SHOW_WITH_PROOF): State.PROOF_SHOWN,
    (State.START, Step.SHOW): State.TOKEN_SHOWN,
    (State.PROOF_SHOWN, Step.ACCEPT): State.PROVEN,
    (State.PROOF_SHOWN, Step.REFUSE): State.CLOSED,
    (State.TOKEN_SHOWN, Step.CHALLENGE): State.CHALLENGED,
    (State.TOKEN_SHOWN, Step.REFUSE): State.CLOSED,
    (State.CHALLENGED, Step.ANSWER): State.ANSWERED,
    (State.CHALLENGED, Step.REFUSE): State.CLOSED,
    (State.ANSWERED, Step.ACCEPT): State.PROVEN,
    (State.ANSWERED, Step.REFUSE): State.CLOSED,
    (State.PROVEN, Step.RENEW): State.RENEWAL_SHOWN,
    (State.RENEWAL_SHOWN, Step.CHALLENGE): State.RENEWAL_CHALLENGED,
    (State.RENEWAL_CHALLENGED, Step.ANSWER): State.RENEWAL_ANSWERED,
    (State.RENEWAL_ANSWERED, Step.RENEWED): State.PROVEN,
    **{(state, Step.LEAVE): State.CLOSED for state in State if state is not State.CLOSED},
}
FROM_CLIENT = {Step.SHOW_WITH_PROOF, Step.SHOW, Step.ANSWER, Step.RENEW, Step.LEAVE}
FROM_BROKER = {Step.CHALLENGE, Step.ACCEPT, Step.REFUSE, Step.RENEWED, Step.LEAVE}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)))
@ace("ACE-4-7", "ACE-4-9", "ACE-4-11", "ACE-4-12")
def test_every_step_in_every_state(state: State, step: Step, role: Role) -> None:
    after = EXPECTED.get((state, step))
    ours, theirs = (FROM_CLIENT, FROM_BROKER) if role == "client" else (FROM_BROKER, FROM_CLIENT)

    receiving = Exchange(role)
    receiving.state = state
    if after is not None and step in theirs:
        receiving.received(step)
        assert receiving.state is after
    else:
        with pytest.raises(HandshakeViolation):
            receiving.received(step)
        assert receiving.state is State.CLOSED

    sending = Exchange(role)
    sending.state = state
    if after is not None and step in ours:
        sending.sent(step)
        assert sending.state is after
    else:
        with pytest.raises(RuntimeError):
            sending.sent(step)
        assert sending.state is state


def test_the_tables_are_complete() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(SENT_BY) == set(Step)
    reached = {after for steps in TRANSITIONS.values() for after in steps.values()}
    assert reached == set(State) - {State.START}
    taken = {step for steps in TRANSITIONS.values() for step in steps}
    assert taken == set(Step)


def test_whoever_leaves_is_gone() -> None:
    for state in State:
        exchange = Exchange("server")
        exchange.state = state
        exchange.left()
        assert exchange.state is State.CLOSED


def test_an_error_closes() -> None:
    exchange = Exchange("server")
    with pytest.raises(KeyError), exchange.closed_by_errors():
        raise KeyError
    assert exchange.state is State.CLOSED
