"""The packet values: equality, and a `repr` that is fit for logs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebroker_codec.packets import (
    Auth,
    AuthProperties,
    Connack,
    ConnackProperties,
    Connect,
    ConnectProperties,
    Puback,
    Publish,
    PublishProperties,
    Pubrec,
    Will,
    WillProperties,
)
from tests.strategies import ROLES, VERSIONS, packets

SECRET = b"\xa5s3cr3t-octets"


@pytest.mark.parametrize(
    "packet",
    [
        Connect("c", username="s3cr3t-octets-name", password=SECRET),
        Connect("c", will=Will("t", SECRET), properties=ConnectProperties(authentication_data=SECRET)),
        ConnectProperties(authentication_method="m", authentication_data=SECRET),
        Will("t", SECRET, properties=WillProperties(correlation_data=SECRET)),
        Publish("t", SECRET, properties=PublishProperties(correlation_data=SECRET)),
        Connack(properties=ConnackProperties(authentication_data=SECRET)),
        Auth(0x18, AuthProperties(authentication_method="m", authentication_data=SECRET)),
        AuthProperties(authentication_data=SECRET),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_no_octets_are_shown(packet: Any) -> None:
    for text in (repr(packet), str(packet), f"{[packet]}"):
        assert "s3cr3t" not in text
        assert "octets-name" not in text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
@given(data=st.data())
def test_every_packet_can_be_shown_and_hashed(version: Any, role: Any, data: st.DataObject) -> None:
    packet = data.draw(packets(version, role))
    assert repr(packet).startswith(type(packet).__name__ + "(")
    assert hash(packet) == hash(packet)


def test_what_is_shown() -> None:
    assert repr(Publish("a/b", b"12345", 1, packet_identifier=7, properties=PublishProperties(topic_alias=2))) == (
        "Publish(topic='a/b', payload=<5 octets>, qos=1, retain=False, dup=False, packet_identifier=7, "
        "properties=PublishProperties(topic_alias=2))"
    )


def test_packets_are_equal_by_type_and_value() -> None:
    assert Puback(1) == Puback(1)
    assert Puback(1) != Pubrec(1)
    assert Puback(1) != Puback(2)
    with pytest.raises(AttributeError):
        Puback(1).packet_identifier = 2  # type: ignore[misc]
