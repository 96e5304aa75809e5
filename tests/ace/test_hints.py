"""AS Request Creation Hints: the one User Property, read and written."""

from __future__ import annotations

import json

import pytest

from acebroker_ace.errors import HandshakeViolation
from acebroker_ace.hints import HINT_PROPERTY, CreationHints, hints_among
from tests.conformance.statements import ace

FULL = CreationHints(
    server="https://as.example.com/token",
    audience="mqtts://broker.example.com",
    kid="k1",
    scope="W10",
    client_nonce=bytes.fromhex("e0a156bb3f"),
)


@ace("ACE-2.4.1-3", "ACE-2.4.1-4", "ACE-2.4.1-5", "ADJ-9200-19")
def test_the_example() -> None:
    hints = CreationHints(
        server="https://as.example.com/token",
        audience="mqtts://broker.example.com",
        client_nonce=bytes.fromhex("e0a156bb3f"),
    )
    name, value = hints.user_property()
    assert name == HINT_PROPERTY == "ace_as_hint"
    assert value == '{"AS":"https://as.example.com/token","audience":"mqtts://broker.example.com","cnonce":"4KFWuz8"}'
    assert hints_among(((name, value),)) == hints


def test_what_is_written_is_read() -> None:
    for hints in (FULL, CreationHints(server="https://é.example")):
        assert hints_among((("other", "x"), hints.user_property(), (HINT_PROPERTY, "later ones do not count"))) == hints
    assert hints_among(()) is None
    assert hints_among((("other", "x"),)) is None


def test_unknown_members_are_ignored() -> None:
    assert CreationHints.from_json('{"AS":"x","other":[1]}') == CreationHints(server="x")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"as":"x"}',
        '{"AS":1}',
        '{"AS":null}',
        '{"AS":"x","kid":1}',
        '{"AS":"x","cnonce":"A"}',
        '{"AS":"x","AS":"y"}',
    ],
)
def test_hints_that_are_none(value: str) -> None:
    with pytest.raises(HandshakeViolation):
        hints_among(((HINT_PROPERTY, value),))


def test_the_value_is_json_in_utf_8() -> None:
    assert json.loads(CreationHints(server='https://é.example/"').user_property()[1]) == {"AS": 'https://é.example/"'}
