"""Application Messages on their way: Message, Delivery and the frames made of them.

A Message is what a publisher said, once; a Delivery is that message for one subscriber, with the
QoS, flags and Subscription Identifiers of its subscriptions. Frames are made at most once per
(protocol level, QoS, RETAIN) for all subscribers of a message: see `Frames`.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from acebroker_codec.encoder import publish_halves
from acebroker_codec.packets import NO_PUBLISH_PROPERTIES, Publish, PublishProperties
from acebroker_codec.properties import encode_properties
from acebroker_middleware.state.leases import Lease

__all__ = ["Delivery", "Frames", "Message", "message_of", "property_octets", "remaining_properties"]

#: what a User Property costs beside its name and value, for limits in octets: it can be as short as five octets
USER_PROPERTY_BYTES: Final = 128


class Message(Struct, frozen=True, gc=False):
    """One Application Message (1.2), owned by nobody.

    `properties` hold neither Topic Alias nor Subscription Identifiers; `message_expiry_interval` in
    them is what the publisher sent, `expires_at` the moment on `Clock.now` that follows from it.
    `publisher` is the Client Identifier (for No Local), empty for the broker itself. `lease`: what a retained message
    lasts by, beside its expiry; None for no such end.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: PublishProperties = NO_PUBLISH_PROPERTIES
    expires_at: float | None = None
    publisher: str = ""
    lease: Lease | None = None

    @property
    def octets(self) -> int:
        """What it counts for limits in octets: topic, payload and properties."""
        return len(self.topic) + len(self.payload) + property_octets(self.properties)

    def __repr__(self) -> str:
        return f"Message({self.topic!r}, {len(self.payload)} octets, qos={self.qos}, retain={self.retain})"


def property_octets(properties: PublishProperties) -> int:
    """What the properties of a message count for limits in octets."""
    if properties is NO_PUBLISH_PROPERTIES:
        return 0
    octets = len(properties.response_topic or "") + len(properties.correlation_data or b"")
    octets += len(properties.content_type or "")
    for name, value in properties.user_properties:
        octets += len(name) + len(value) + USER_PROPERTY_BYTES
    return octets


def message_of(packet: Publish, publisher: str, now: float) -> Message:
    """The message that a PUBLISH carries, received at `now`."""
    properties = packet.properties
    expires_at = None
    if properties is not NO_PUBLISH_PROPERTIES:
        if properties.topic_alias is not None or properties.subscription_identifiers:
            properties = replace(properties, topic_alias=None, subscription_identifiers=())
            if properties == NO_PUBLISH_PROPERTIES:
                properties = NO_PUBLISH_PROPERTIES
        if properties.message_expiry_interval is not None:
            expires_at = now + properties.message_expiry_interval
    return Message(packet.topic, packet.payload, packet.qos, packet.retain, properties, expires_at, publisher)


def remaining_properties(message: Message, now: float) -> PublishProperties:
    """The properties to send on: the expiry interval less the time spent waiting [MQTT-3.3.2-6]."""
    if message.expires_at is None:
        return message.properties
    return replace(message.properties, message_expiry_interval=max(0, int(message.expires_at - now)))


class Delivery(Struct, frozen=True, gc=False):
    """A message for one subscriber. `group` is the SharedGroup it came through, if any."""

    message: Message
    qos: int
    retain: bool = False
    subscription_identifiers: tuple[int, ...] = ()
    group: Any = None
    sequence: int = 0  # number of its row in the store; 0 = not stored


class Frames:
    """The encodings of one message, made when first asked for and shared by all subscribers of a round.

    `halves(v5, first_octet)` gives what stands before and after the Packet Identifier, which lies
    between the topic and the properties; at QoS 0 the frame is the two joined.
    """

    __slots__ = ("_cache", "_now", "_properties", "message")

    def __init__(self, message: Message, now: float) -> None:
        self.message = message
        self._now = now
        self._properties: bytes | None = None
        self._cache: dict[int, Any] = {}

    def adopt(self, v5: bool, first_octet: int, before: bytes, after: bytes) -> None:
        """Take an encoding that is there already: the halves of a frame that was received."""
        self._cache[first_octet << 1 | v5] = (before, after)

    def properties(self) -> bytes:
        """The encoded properties with their length, MQTT 5."""
        if self._properties is None:
            self._properties = encode_properties(remaining_properties(self.message, self._now))
        return self._properties

    def halves(self, v5: bool, first_octet: int) -> tuple[bytes, bytes]:
        """(before, after) the two octets of the Packet Identifier, for QoS 1 and 2."""
        key = first_octet << 1 | v5
        found: tuple[bytes, bytes] | None = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._encode(v5, first_octet)
        return found

    def _encode(self, v5: bool, first_octet: int) -> tuple[bytes, bytes]:
        message = self.message
        return publish_halves(first_octet, message.topic.encode(), message.payload, self.properties() if v5 else b"")

    def frame(self, v5: bool, first_octet: int) -> bytes:
        """The whole frame, for QoS 0."""
        key = first_octet << 1 | v5
        found: bytes | None = self._cache.get(key)
        if found is None:
            before, after = self._encode(v5, first_octet)
            found = self._cache[key] = before + after
        return found

    def with_properties(
        self, first_octet: int, topic: str, subscription_identifiers: tuple[int, ...], topic_alias: int | None
    ) -> tuple[bytes, bytes]:
        """An encoding of its own for one MQTT 5 subscriber: Subscription Identifiers, Topic Alias."""
        properties = remaining_properties(self.message, self._now)
        encoded = encode_properties(
            replace(properties, subscription_identifiers=subscription_identifiers, topic_alias=topic_alias)
        )
        return publish_halves(first_octet, topic.encode(), self.message.payload, encoded)
