"""A naive broker on paper: what MQTT 5.0 and 3.1.1 let a server send, written from their text alone.

Nothing of the broker is used here, and nothing is fast: every list is searched from its beginning. The
model is told what clients did, when, and is shown each packet that the broker sent; `Violation` says
what the standards do not allow. Where they leave a choice, the model takes either way:

    which member of a shared subscription gets a message; whether a message that nobody of a group could
    take is kept when it is of QoS 0; in which order messages of different publishers, topics or QoS
    leave; whether what was buffered for an ended subscription, or a retained message that was
    replaced while it waited, is still sent; 0x10 or 0x00 where nobody subscribes

Where the broker has promised more, in its documents, the model asks for it:

    one copy for overlapping subscriptions [MQTT-3.3.4-2]; QoS 2 is fanned out at PUBREL; a message of QoS 0
    is not lost inside of the process; a group's QoS 1 message goes to another member when a session ends

Times are seconds of one virtual clock; `SLACK` is what the broker's timers may be late.
"""

from __future__ import annotations

from collections.abc import Iterator

from acebroker_codec import packets
from tests.simulation.deadlines import events_of
from tests.simulation.terms import (
    NEVER,
    Connection,
    Due,
    Group,
    Message,
    Session,
    Subscription,
    Waiting,
    Will,
    permitted,
    selects,
)

__all__ = ["Model"]


class Model:
    """The model. `now` is set by its owner before each call; the limits are those that the broker announces."""

    def __init__(self, *, session_expiry_max: int, in_flight_max: int) -> None:
        self.session_expiry_max = session_expiry_max
        self.in_flight_max = in_flight_max
        self.now = 0.0
        self.sessions: dict[str, Session] = {}
        self.groups: dict[str, Group] = {}
        self.retained: dict[str, Message] = {}
        self._numbers = 0

    # ---- connections and sessions ----

    def connect(
        self,
        client: str,
        version: int,
        *,
        clean: bool,
        expiry: int = 0,
        receive_max: int | None = None,
        packet_max: int | None = None,
        alias_max: int = 0,
        keep_alive: int = 0,
        will: Will | None = None,
    ) -> Connection:
        """A CONNECT that is accepted (3.1, 3.2)."""
        if version < 5:
            expiry = 0 if clean else NEVER
        old = self.sessions.get(client)
        if old is not None and old.connection is not None:  # take-over [MQTT-3.1.4-3]
            if old.connection.version == 5:
                old.connection.owe(packets.Disconnect, 0x8E)
            self.lost(old.connection)
        old = self.sessions.get(client)
        if old is not None and clean:
            self._end(old)  # [MQTT-3.1.2-4]
            old = None
        session = old if old is not None else Session(client)
        self.sessions[client] = session
        session.expiry = min(expiry, self.session_expiry_max)
        session.ends_at = None
        session.will, session.will_at = will, None  # a Will that waited is not sent [MQTT-3.1.3-9]
        connection = Connection(
            session,
            version,
            min(receive_max or 65_535, self.in_flight_max),
            packet_max,
            alias_max,
            keep_alive,
            self.now,
        )
        session.connection = connection
        connection.present = old is not None
        connection.owe(packets.Connack, None if version == 3 else connection.present)  # MQTT 3.1 does not say it
        for identifier, flight in session.flights.items():
            if flight.released:
                connection.owe(packets.Pubrel, identifier, (0,))  # [MQTT-4.4.0-1]
            elif not connection.fits(flight.due.message):
                flight.optional = True
        for due in session.due:
            due.optional = due.optional or not connection.fits(due.message)
        self._online(connection)
        return connection

    def _online(self, connection: Connection) -> None:
        """A message too large for one of a group may be discarded for all [MQTT-3.1.2-25]."""
        for group in self.groups.values():
            if connection.session.client in group.members:
                for waiting in group.waiting:
                    waiting.optional = waiting.optional or not connection.fits(waiting.message)

    def disconnect(self, connection: Connection, reason_code: int = 0, expiry: int | None = None) -> None:
        """A DISCONNECT from the client (3.14)."""
        session = connection.session
        if expiry is not None:
            session.expiry = min(expiry, self.session_expiry_max)
        if reason_code == 0:
            session.will = None  # [MQTT-3.14.4-3]
        self.lost(connection)

    def refused(self, connection: Connection, reason_code: int) -> None:
        """The client did what it must not: the server says so, where it can, and closes (4.13)."""
        if connection.version == 5:
            connection.owe(packets.Disconnect, reason_code)
        self.lost(connection)

    def cut(self, connection: Connection) -> None:
        """The network fails, and what the server makes of the last that came may be on its way into nowhere."""
        session = connection.session
        for due in session.due:
            due.unseen = True
        for group in self.groups.values():
            if session.client in group.members:
                for waiting in group.waiting:
                    waiting.unseen = waiting.again = waiting.optional = True
        self.lost(connection)

    def lost(self, connection: Connection) -> None:
        """The Network Connection is closed, by whomever."""
        session = connection.session
        connection.open = False
        session.connection = None
        for due in session.due:
            due.optional = due.optional or not due.qos
        if session.will is not None:
            if session.will.delay:
                session.will_at = self.now + session.will.delay
            else:
                self._publish_will(session)
        if session.expiry == 0:
            self._end(session)
        elif session.expiry != NEVER:
            session.ends_at = self.now + session.expiry

    def _end(self, session: Session) -> None:
        """The session ends [MQTT-4.1.0-2]; a Will that waits is sent now [MQTT-3.1.3-9]."""
        self._publish_will(session)
        del self.sessions[session.client]
        session.left = [(self.groups[name], s) for name, s in session.subscriptions.items() if s.share]
        for topic_filter in list(session.subscriptions):
            self._unsubscribe(session, topic_filter)
        for flight in reversed(session.flights.values()):
            group = flight.due.group
            if group is None or flight.due.qos != 1 or flight.released:
                continue  # QoS 2 never goes to another member [MQTT-4.8.2-5]
            if self.groups.get(group.topic_filter) is group:
                message = flight.due.message
                optional = flight.optional or any(not member.fits(message) for member in self.members_online(group))
                group.waiting.insert(0, Waiting(message, 0, again=True, optional=optional))

    def _publish_will(self, session: Session) -> None:
        will, session.will, session.will_at = session.will, None, None
        if will is not None:
            if will.expiry is not None:
                will.message.expires_at = self.now + will.expiry
            self.publish(will.message)

    # ---- messages from clients ----

    def publish(self, message: Message) -> bool:
        """Retain and fan out (3.3); whether anybody subscribes."""
        if message.retain:
            self._retain(message)
        targets = [(session, self._matching(session, message)) for session in self.sessions.values()]
        for session, filters in targets:
            if filters:
                self._fan_out(session, message, filters)
        groups = [group for group in self.groups.values() if group.selects(message.topic)]
        for group in groups:
            self._numbers += 1
            waiting = Waiting(message, self._numbers)
            online = list(self.members_online(group))
            waiting.optional = any(not member.fits(message) for member in online) or not (
                message.qos or any(member.has_room for member in online)
            )
            group.waiting.append(waiting)
        return bool(groups) or any(filters for _, filters in targets)

    def _anybody(self, message: Message) -> bool:
        return any(group.selects(message.topic) for group in self.groups.values()) or any(
            self._matching(session, message) for session in self.sessions.values()
        )

    @staticmethod
    def _matching(session: Session, message: Message) -> list[str]:
        """The subscriptions of a session, but for shared ones, that a message is for."""
        return [
            name
            for name, subscription in session.subscriptions.items()
            if not subscription.share
            and selects(subscription.filter, message.topic)
            and not (subscription.no_local and session.client == message.publisher)  # [MQTT-3.8.3-3]
        ]

    def _retain(self, message: Message) -> None:
        self.retained.pop(message.topic, None)
        if message.payload:
            self.retained[message.topic] = message  # [MQTT-3.3.1-5]
        for session in self.sessions.values():
            for due in session.due:
                if due.lane[0] == "retained" and due.message.topic == message.topic:
                    due.optional = True

    def _fan_out(self, session: Session, message: Message, filters: list[str]) -> None:
        subscriptions = [session.subscriptions[name] for name in filters]
        qos = min(message.qos, max(s.qos for s in subscriptions))
        due = Due(
            message,
            qos,
            message.retain and any(s.retain_as_published for s in subscriptions),  # [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            tuple(sorted(s.identifier for s in subscriptions if s.identifier)),  # [MQTT-3.3.4-4], [MQTT-3.3.4-5]
            ("live", message.publisher, message.topic, qos),
            tuple(filters),
        )
        if session.connection is None:
            due.optional = qos == 0  # a client that takes over may be back before its own Will is sent
        else:
            due.optional = not session.connection.fits(message)
        session.due.append(due)

    def publish_received(self, connection: Connection, message: Message, packet_identifier: int) -> None:
        """A PUBLISH from a client (4.3)."""
        kind = packets.Puback if message.qos == 1 else packets.Pubrec
        session = connection.session
        if message.qos == 2 and packet_identifier in session.received:
            connection.owe(packets.Pubrec, packet_identifier, (0,))  # [MQTT-4.3.3-10]
        elif not permitted(message.topic):
            if message.qos:
                connection.owe(kind, packet_identifier, (0x87,) if connection.version == 5 else (0,))
        elif message.qos == 2:
            session.received[packet_identifier] = message
            nobody = connection.version == 5 and not self._anybody(message)
            connection.owe(packets.Pubrec, packet_identifier, (0, 0x10) if nobody else (0,))
        else:
            found = self.publish(message)
            if message.qos:
                codes = (0,) if found or connection.version < 5 else (0, 0x10)
                connection.owe(packets.Puback, packet_identifier, codes)

    def pubrel_received(self, connection: Connection, packet_identifier: int) -> None:
        """PUBREL from a client: the message goes on, once."""
        message = connection.session.received.pop(packet_identifier, None)
        if message is None:
            connection.owe(packets.Pubcomp, packet_identifier, (0x92,) if connection.version == 5 else (0,))
            return
        if message.expires_at is None or message.expires_at > self.now:
            self.publish(message)
        connection.owe(packets.Pubcomp, packet_identifier, (0,))

    # ---- subscriptions ----

    def subscribe(
        self,
        connection: Connection,
        packet_identifier: int,
        requests: tuple[packets.SubscriptionRequest, ...],
        identifier: int,
    ) -> None:
        """SUBSCRIBE (3.8)."""
        codes: list[int] = []
        for request in requests:
            share, topic_filter = "", request.filter
            if topic_filter.startswith("$share/"):
                _, share, topic_filter = topic_filter.split("/", 2)
            if not permitted(topic_filter):
                codes.append(0x87 if connection.version == 5 else 0x80)
                continue
            codes.append(request.qos)
            subscription = Subscription(
                topic_filter, request.qos, request.no_local, request.retain_as_published, identifier, share
            )
            self._subscribe(connection.session, request.filter, subscription, request.retain_handling)
        connection.owe(packets.Suback, packet_identifier, tuple(codes))
        self._online(connection)

    def _subscribe(self, session: Session, name: str, subscription: Subscription, retain_handling: int) -> None:
        new = name not in session.subscriptions
        session.subscriptions[name] = subscription  # [MQTT-3.8.4-3]
        if subscription.share:  # no retained messages (4.8.2)
            self.groups.setdefault(name, Group(name)).members[session.client] = subscription
            return
        if retain_handling == 2 or (retain_handling == 1 and not new):  # [MQTT-3.3.1-9] to [MQTT-3.3.1-11]
            return
        for topic, message in self.retained.items():
            if not selects(subscription.filter, topic):
                continue
            if subscription.no_local and message.publisher == session.client:
                continue
            due = Due(
                message,
                min(message.qos, subscription.qos),
                True,  # [MQTT-3.3.1-8]
                (subscription.identifier,) if subscription.identifier else (),
                ("retained", name, topic),
                (name,),
            )
            due.optional = session.connection is not None and not session.connection.fits(message)
            session.due.append(due)

    def unsubscribe(self, connection: Connection, packet_identifier: int, filters: tuple[str, ...]) -> None:
        """UNSUBSCRIBE (3.10)."""
        codes = tuple(0 if self._unsubscribe(connection.session, name) else 0x11 for name in filters)
        connection.owe(packets.Unsuback, packet_identifier, codes if connection.version == 5 else ())

    def _unsubscribe(self, session: Session, name: str) -> bool:
        subscription = session.subscriptions.pop(name, None)
        if subscription is None:
            return False
        if subscription.share:
            group = self.groups[name]
            del group.members[session.client]
            if not group.members:
                del self.groups[name]
        for due in session.due:  # what is buffered MAY still be delivered (3.10.4)
            due.optional = due.optional or not any(name in session.subscriptions for name in due.filters)
        return True

    # ---- acknowledgements of clients ----

    def acknowledged(self, connection: Connection, ack: packets.Ack) -> None:
        """PUBACK, PUBREC or PUBCOMP from a client (4.3)."""
        flights = connection.session.flights
        identifier = ack.packet_identifier
        if isinstance(ack, packets.Pubrec) and ack.reason_code < 0x80:
            if identifier in flights:
                flights[identifier].released = True
                flights[identifier].connection = connection
                flights[identifier] = flights.pop(identifier)  # PUBREL in the order of PUBREC [MQTT-4.6.0-4]
                connection.owe(packets.Pubrel, identifier, (0,))
            else:
                connection.owe(packets.Pubrel, identifier, (0x92,) if connection.version == 5 else (0,))
        else:
            flights.pop(identifier, None)

    def members_online(self, group: Group) -> Iterator[Connection]:
        """The connections of a group's members."""
        for client in group.members:
            connection = self.sessions[client].connection
            if connection is not None:
                yield connection

    def all_delivered(self, payload: bytes) -> bool:
        """Whether no message with this payload is on its way."""
        waiting = [entry.message for group in self.groups.values() for entry in group.waiting]
        for session in self.sessions.values():
            waiting += session.received.values()
            waiting += (due.message for due in session.due)
            waiting += (flight.due.message for flight in session.flights.values())
        return all(message.payload != payload for message in waiting)

    # ---- time ----

    def events(self) -> list[tuple[float, str, str]]:
        """Each Will, end of a session and Keep Alive that is due: when, whose and which, the next one first."""
        return sorted((moment, s.client, what) for s in self.sessions.values() for moment, what in events_of(s))

    def advance(self, to: float) -> None:
        """Time passes: everything that is due until then happens, in order."""
        while True:
            events = self.events()
            if not events or events[0][0] > to:
                break
            moment, client, what = events[0]
            self.now = moment
            session = self.sessions[client]
            if what == "will":
                self._publish_will(session)
            elif what == "end":
                self._end(session)
            else:
                assert session.connection is not None
                self.refused(session.connection, 0x8D)  # [MQTT-3.1.2-22]
        self.now = to
        for topic, message in list(self.retained.items()):
            if message.expires_at is not None and message.expires_at <= to:
                del self.retained[topic]  # [MQTT-3.3.2-5]
