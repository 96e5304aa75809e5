"""`allowed_connection_types`: lenient in tokens, strict in a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from acebroker_ace.connection_types import (
    ANY_CONNECTION_TYPE,
    ConnectionType,
    connection_types_of_claim,
    connection_types_of_configuration,
    permits_connection_type,
)
from acebroker_ace.errors import UnreadableClaims

STANDARD, MQTT, MQTT_WS = ConnectionType.STANDARD, ConnectionType.MQTT, ConnectionType.MQTT_WS


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ([], set()),
        (["MQTT"], {MQTT}),
        (["STANDARD", "mqtt"], {STANDARD, MQTT}),
        (["Mqtt_Ws"], {MQTT_WS}),
        (["MQTT", "SomeNewType"], {MQTT}),
        (["MQTT", "MQTT", ""], {MQTT}),
        (["IN_PROCESS"], {ConnectionType.IN_PROCESS}),
        (["INPROCESS"], {ConnectionType.IN_PROCESS}),
        ([kind.value for kind in ConnectionType], set(ConnectionType)),
    ],
)
def test_a_claim_passes_over_what_is_unknown(names: list[str], allowed: set[ConnectionType]) -> None:
    assert connection_types_of_claim(names) == allowed


@pytest.mark.parametrize(
    "names", [["SomeNewType"], [""], [" MQTT"], ["MQTT "], "MQTT", None, {}, [1], ["MQTT", None], 1]
)
def test_a_claim_that_allows_nothing_is_refused(names: Any) -> None:
    with pytest.raises(UnreadableClaims):
        connection_types_of_claim(names)


def test_a_configuration_knows_every_name() -> None:
    assert connection_types_of_configuration(["mqtt", "MQTT_WS"]) == {MQTT, MQTT_WS}
    assert connection_types_of_configuration([]) == ANY_CONNECTION_TYPE
    with pytest.raises(ValueError, match=r'^invalid connection types \["UNKNOWN" "other"\]$'):
        connection_types_of_configuration(["UNKNOWN", "MQTT", "other"])


def test_an_empty_list_permits_all_and_no_type_implies_another() -> None:
    for kind in ConnectionType:
        assert permits_connection_type(ANY_CONNECTION_TYPE, kind)
        for other in ConnectionType:
            assert permits_connection_type(frozenset({kind}), other) is (kind is other)


def test_names_of_the_wire() -> None:
    names = ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"]
    assert [kind.value for kind in ConnectionType] == names
