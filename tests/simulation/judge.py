"""What the broker sent, held against the model: is it allowed, is it in order, is anything missing?

`sent` is called for every packet, `settled` whenever the broker rests. A message that was due is taken off the
model's lists when it is sent; what stays there without a reason was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from acebroker_codec import packets
from tests.simulation.model import Model
from tests.simulation.terms import (
    SLACK,
    Connection,
    Due,
    Flight,
    Group,
    Message,
    Session,
    Subscription,
    Violation,
    Waiting,
)

__all__ = ["Judge"]


class Judge:
    """The judge of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    # ---- what the broker sent ----

    def sent(self, connection: Connection, packet: packets.Packet, at: float) -> Due | None:
        """The broker sent this packet, which arrived at `at`. Gives the Due of a PUBLISH."""
        if isinstance(packet, packets.Publish):
            return self._sent_publish(connection, packet, at)
        owed = connection.owed.get(type(packet))
        if not owed:
            raise Violation(f"{connection.session.client}: nothing demands {packet!r}")
        entry = owed.pop(0)
        match packet:
            case packets.Connack():
                right = packet.reason_code == 0 and entry[0] in (None, packet.session_present)
            case packets.Disconnect():
                right = packet.reason_code == entry[0]
            case packets.Suback() | packets.Unsuback():
                right = (packet.packet_identifier, packet.reason_codes) == entry
            case packets.Ack():
                allowed = entry[1]
                assert isinstance(allowed, tuple)
                right = packet.packet_identifier == entry[0] and packet.reason_code in allowed
            case _:
                right = isinstance(packet, packets.Pingresp)
        if not right:
            raise Violation(f"{connection.session.client}: {packet!r} where {entry} was due")
        return None

    def _sent_publish(self, connection: Connection, packet: packets.Publish, at: float) -> Due:
        session = connection.session
        topic = self._topic(connection, packet)
        if packet.qos:
            flight = session.flights.get(packet.packet_identifier)
            if flight is not None and (packet.dup or not flight.optional):
                return self._sent_again(connection, packet, topic, flight, at)
        due = self._take_due(connection, packet, topic, at) or self._take_from_group(connection, packet, topic, at)
        if due is None:
            raise Violation(f"{session.client}: nothing demands {packet!r} ({packet.payload[:9]!r}) on {topic!r}")
        if packet.dup and not due.unseen:
            raise Violation(f"{session.client}: DUP on what was not sent before: {packet!r}")
        if not connection.fits(due.message):
            raise Violation(f"{session.client}: {packet!r} is larger than its Maximum Packet Size")
        if packet.qos:
            session.flights.pop(packet.packet_identifier, None)
            session.flights[packet.packet_identifier] = Flight(due, connection)
            self._check_quota(connection)
        return due

    @staticmethod
    def _topic(connection: Connection, packet: packets.Publish) -> str:
        alias = packet.properties.topic_alias
        if alias is None:
            return packet.topic
        if alias > connection.alias_max:
            raise Violation(f"{connection.session.client}: Topic Alias {alias} of {connection.alias_max}")
        if packet.topic:
            connection.aliases[alias] = packet.topic
        if alias not in connection.aliases:
            raise Violation(f"{connection.session.client}: Topic Alias {alias} was never set")
        return connection.aliases[alias]

    def _sent_again(
        self, connection: Connection, packet: packets.Publish, topic: str, flight: Flight, at: float
    ) -> Due:
        """A resend: only on a new connection, in order, as it was, with DUP [MQTT-3.3.1-1], [MQTT-4.4.0-1]."""
        client = connection.session.client
        if flight.released or flight.connection is connection or not packet.dup:
            raise Violation(f"{client}: Packet Identifier {packet.packet_identifier} is in use: {packet!r}")
        if packet.qos != flight.due.qos or not self._same(packet, topic, flight.due, connection.version, at):
            raise Violation(f"{client}: {packet!r} on {topic!r} is not what it was: {flight.due}")
        for earlier in connection.session.flights.values():
            if earlier is flight:
                break
            if not earlier.released and not earlier.optional and earlier.connection is not connection:
                raise Violation(f"{client}: {packet!r} sent again out of order")
        flight.connection = connection
        self._check_quota(connection)
        return flight.due

    @staticmethod
    def _check_quota(connection: Connection) -> None:
        """Never more than Receive Maximum unacknowledged [MQTT-3.3.4-9]."""
        flights = connection.session.flights.values()
        used = sum(1 for flight in flights if flight.connection is connection and not flight.optional)
        if used > connection.receive_max:
            raise Violation(f"{connection.session.client}: {used} in flight, Receive Maximum {connection.receive_max}")

    def _take_due(self, connection: Connection, packet: packets.Publish, topic: str, at: float) -> Due | None:
        """The message that this is, off the list of the session; a publisher may have sent it twice."""
        session = connection.session
        fitting = [
            d for d in session.due if packet.qos == d.qos and self._same(packet, topic, d, connection.version, at)
        ]
        if not fitting:
            return None
        fitting.sort(key=lambda due: (packet.dup > due.unseen, due.lane[0] != "live"))  # whose place in a row matters
        due = next((due for due in fitting if not self._overtakes(session, due, at)), None)
        if due is None:
            raise Violation(f"{session.client}: {packet!r} overtook others of {session.due}")
        session.due.remove(due)
        _one_less(due, fitting)
        return due

    @staticmethod
    def _overtakes(session: Session, due: Due, at: float) -> bool:
        earlier = session.due[: session.due.index(due)]
        return any(other.lane == due.lane and not other.optional and not _over(other, at) for other in earlier)

    def _take_from_group(self, connection: Connection, packet: packets.Publish, topic: str, at: float) -> Due | None:
        session = connection.session
        memberships = [
            (group, group.members[session.client])
            for group in self._model.groups.values()
            if session.client in group.members
        ]
        fitting: list[tuple[Waiting, Due]] = []
        for group, subscription in memberships if self._model.sessions.get(session.client) is session else session.left:
            for waiting in group.waiting:
                due = self._due_of_group(session.client, group, subscription, waiting.message)
                due.unseen = waiting.unseen
                if packet.qos == due.qos and self._same(packet, topic, due, connection.version, at):
                    fitting.append((waiting, due))
        if not fitting:
            return None
        fitting.sort(key=lambda pair: packet.dup > pair[0].unseen)
        for waiting, due in fitting:
            assert due.group is not None
            if waiting.again or due.group.last.get(due.lane, 0) <= waiting.number:
                self._given(session, due, waiting)
                _one_less(waiting, [other for other, _ in fitting])
                return due
        raise Violation(f"{session.client}: {packet!r} comes late in {[due.group for _, due in fitting]}")

    @staticmethod
    def _given(session: Session, due: Due, waiting: Waiting) -> None:
        group = due.group
        assert group is not None
        group.last[due.lane] = max(group.last.get(due.lane, 0), waiting.number)
        if session.left and due.qos == 1:
            waiting.again = True  # sent before the session's end, and never acknowledged
        else:
            group.waiting.remove(waiting)

    @staticmethod
    def _due_of_group(client: str, group: Group, subscription: Subscription, message: Message) -> Due:
        qos = min(message.qos, subscription.qos)
        return Due(
            message,
            qos,
            message.retain and subscription.retain_as_published,
            (subscription.identifier,) if subscription.identifier else (),
            (client, message.publisher, message.topic, message.qos, qos),
            group=group,
        )

    @staticmethod
    def _same(packet: packets.Publish, topic: str, due: Due, version: int, at: float) -> bool:
        """Whether a packet is the message that is due, as the client's version shows it."""
        message = due.message
        if (topic, packet.payload, packet.retain) != (message.topic, message.payload, due.retain):
            return False
        if version < 5:
            return True
        properties = packet.properties
        for name in ("payload_format_indicator", "response_topic", "correlation_data", "user_properties"):
            if getattr(properties, name) != getattr(message.extra, name):
                return False
        if properties.content_type != message.extra.content_type:
            return False
        if tuple(sorted(properties.subscription_identifiers)) != due.identifiers:
            return False
        if message.expires_at is None:
            return properties.message_expiry_interval is None
        remaining = message.expires_at - at  # [MQTT-3.3.2-6]
        shown = properties.message_expiry_interval
        if remaining < -SLACK:  # only what was sent in time may come again
            return shown is not None and packet.dup
        return shown is not None and max(0, remaining - 1 - SLACK) <= shown <= remaining + SLACK

    # ---- what must hold when the broker has nothing more to do ----

    def settled(self) -> None:
        """Nothing is owed, nothing is forgotten, nothing waits that could go."""
        for session in self._model.sessions.values():
            session.due = [due for due in session.due if due.unseen or not _over(due, self._model.now)]
            for due in session.due:  # else what was sent in time may come again
                due.optional = due.optional or _over(due, self._model.now)
            connection = session.connection
            # retained messages go out one after the other, whatever their QoS, when everything else has gone
            waits = connection is not None and not connection.has_room
            for due in [due for due in session.due if not due.qos]:
                if connection is not None and not due.optional and not (due.lane[0] == "retained" and waits):
                    raise Violation(f"{session.client}: lost {due}")
                if due.lane[0] == "live":
                    session.due.remove(due)
                due.optional = True
            if connection is not None:
                self._check_progress(session, connection)
        for group in self._model.groups.values():
            self._check_group(group)

    def finished(self) -> None:
        """Everybody is online and has answered everything: nothing is on its way any more."""
        for session in self._model.sessions.values():
            left = [due for due in session.due if not due.optional]
            flights = [flight for flight in session.flights.values() if not flight.optional]
            if left or flights:
                raise Violation(f"{session.client}: never delivered: {left}, never settled: {flights}")
        for group in self._model.groups.values():
            waiting = [entry for entry in group.waiting if not entry.optional]
            if waiting:
                raise Violation(f"{group.topic_filter}: never delivered: {waiting}")

    def owes_nothing(self, connection: Connection) -> None:
        """Every packet that this connection had to get was sent."""
        left = {kind.__name__: entries for kind, entries in connection.owed.items() if entries}
        if left:
            raise Violation(f"{connection.session.client}: never sent: {left}")

    def _check_progress(self, session: Session, connection: Connection) -> None:
        flights = session.flights
        unsent = {i: f for i, f in flights.items() if not f.released and f.connection is not connection}
        if unsent and len(flights) - len(unsent) < connection.receive_max:
            if any(not flight.optional for flight in unsent.values()):
                raise Violation(f"{session.client}: not sent again, though there is room: {unsent}")
            for identifier in unsent:  # what might have been left out, was
                del flights[identifier]
        if not any(identifier in flights for identifier in unsent) and connection.has_room:
            stuck = [due for due in session.due if due.qos and not due.optional]
            if stuck:
                raise Violation(f"{session.client}: not sent, though there is room: {stuck}")
            session.due.clear()

    def _check_group(self, group: Group) -> None:
        free = [member for member in self._model.members_online(group) if member.has_room]
        for waiting in list(group.waiting):
            expires_at = waiting.message.expires_at
            if expires_at is not None and expires_at <= self._model.now and not waiting.unseen:
                group.waiting.remove(waiting)
            elif free and not waiting.optional:
                member = free[0].session.client
                raise Violation(f"{group.topic_filter}: {waiting} was not sent, though {member} is free")
            elif not waiting.message.qos or (free and not waiting.unseen):
                group.waiting.remove(waiting)


def _one_less(taken: Due | Waiting, alike: Sequence[Due | Waiting]) -> None:
    """Of some that look alike, one was sent: what holds for it may hold for another one that was meant."""
    for other in alike:
        if (other.optional, other.unseen) < (taken.optional, taken.unseen):
            other.optional = other.optional or taken.optional
            other.unseen = other.unseen or taken.unseen
            return


def _over(due: Due, at: float) -> bool:
    return due.message.expires_at is not None and due.message.expires_at <= at
