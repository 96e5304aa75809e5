"""Errors of the pipeline that end a connection, beside those of the codec.

MqttError (codec)
├── ConnectionRefused     CONNACK with this reason code, then the end (3.1.4)
├── NotAuthorized         0x87
│   └── RightsEnded       the authority's `authorized_until` has passed
├── SessionTakenOver      0x8E
├── QuotaExceeded         0x97
├── KeepAliveTimeout      0x8D
├── ServerShuttingDown    0x8B
├── AdministrativeAction  0x98
├── StageFailure          0x83, an exception of a stage, by the stage's name
└── ClientDisconnected    the client said DISCONNECT: nothing is answered
"""

from __future__ import annotations

from acebroker_codec.errors import MqttError, ReasonCode
from acebroker_codec.packets import UserProperties

__all__ = [
    "AdministrativeAction",
    "ClientDisconnected",
    "ConnectionRefused",
    "KeepAliveTimeout",
    "NotAuthorized",
    "QuotaExceeded",
    "RightsEnded",
    "ServerShuttingDown",
    "SessionTakenOver",
    "StageFailure",
]


class ConnectionRefused(MqttError):
    """A CONNECT that is answered with a CONNACK of this reason code. `rule` says what refused it.

    `user_properties` go into CONNACK where the client takes one so large.
    """

    def __init__(self, reason_code: ReasonCode, rule: str, user_properties: UserProperties = ()) -> None:
        super().__init__(rule, reason_code)
        self.user_properties = user_properties


class NotAuthorized(MqttError):
    """Rights that a connection needs are missing or have ended."""

    default_reason_code = ReasonCode.NOT_AUTHORIZED


class RightsEnded(NotAuthorized):
    """The rights of a connection are over: `authorized_until` has passed."""

    def __init__(self) -> None:
        super().__init__("rights ended")


class SessionTakenOver(MqttError):
    """Another connection uses the Client Identifier now [MQTT-3.1.4-3]."""

    default_reason_code = ReasonCode.SESSION_TAKEN_OVER


class QuotaExceeded(MqttError):
    """A named limit is reached."""

    default_reason_code = ReasonCode.QUOTA_EXCEEDED


class KeepAliveTimeout(MqttError):
    """Nothing came for one and a half times the Keep Alive [MQTT-3.1.2-22]."""

    default_reason_code = ReasonCode.KEEP_ALIVE_TIMEOUT


class ServerShuttingDown(MqttError):
    """The broker stops."""

    default_reason_code = ReasonCode.SERVER_SHUTTING_DOWN


class AdministrativeAction(MqttError):
    """An operator ended the connection."""

    default_reason_code = ReasonCode.ADMINISTRATIVE_ACTION


class StageFailure(MqttError):
    """A stage raised something that is no MqttError. `detail` names the stage; the cause is `__cause__`."""

    default_reason_code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR


class ClientDisconnected(MqttError):
    """DISCONNECT from the client (3.14): an orderly end, with the reason code that it gave."""

    default_reason_code = ReasonCode.NORMAL_DISCONNECTION

    def __init__(self, reason_code: ReasonCode = ReasonCode.NORMAL_DISCONNECTION) -> None:
        super().__init__("disconnected by the client", reason_code)
