"""For the tests of plugins: drive one stage by hand, and what it may answer.

Everything is explained where it is made, in `acebroker_middleware.testing`. A test that wants a whole broker
takes `Broker` and `Broker.connect`, which need no socket either.
"""

from __future__ import annotations

from acebroker_codec.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from acebroker_middleware.state.ports import Decision, Identity
from acebroker_middleware.testing import Fed, RecordingConnection, Refusal, SetClock

__all__ = [
    "Auth",
    "Connack",
    "Connect",
    "Decision",
    "Disconnect",
    "Fed",
    "Identity",
    "Pingreq",
    "Pingresp",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "RecordingConnection",
    "Refusal",
    "SetClock",
    "Suback",
    "Subscribe",
    "SubscriptionRequest",
    "Unsuback",
    "Unsubscribe",
    "Will",
]
