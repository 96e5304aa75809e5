"""Every limit that stages and the runtime enforce, named, with its default.

A peer can never choose our memory: what a client may grow is bounded by a field here, and checked
before the memory is spent. What happens at each bound stands beside it. The configuration's
`[limits]` table is exactly this class.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Limits"]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one broker. Octets, seconds or counts, as the last word of each name says.

    Reached on MQTT 5, the client gets the reason code given here; on MQTT 3 the connection is
    closed, or CONNACK carries the nearest Connect Return code.
    """

    # connections; beyond it: closed at once, or CONNACK 0x97 Quota exceeded once CONNECT was read
    connections_max: int = 100_000
    connections_per_address_max: int = 20_000
    unauthenticated_max: int = 10_000
    #: accepted connections per second and listener; beyond it accepting waits
    accept_rate_max: int = 20_000
    #: octets of a ClientHello, and of everything before it is complete; then closed
    client_hello_bytes_max: int = 32_768
    #: TLS handshakes at one time; more wait, and who then takes longer than 2 seconds is closed
    handshakes_max: int = 512
    #: from accept to a complete CONNECT and its CONNACK; then closed
    connect_timeout_seconds: float = 10.0

    # packets; 0x95 Packet too large
    packet_bytes_max: int = 1_048_576
    #: octets of a CONNECT, which anybody may send: closed, as nobody is known yet who could be told
    connect_bytes_max: int = 131_072
    #: 0x90 Topic Name invalid, 0x8F Topic Filter invalid
    topic_bytes_max: int = 4_096
    topic_levels_max: int = 128
    client_identifier_bytes_max: int = 1_024
    #: Topic Aliases a client may use [MQTT-3.2.2-17]; 0x94
    topic_alias_max: int = 64
    #: Topic Aliases the broker uses towards a client that offers them
    topic_alias_out_max: int = 64
    #: a topic is aliased only from this length on: a shorter one does not pay
    topic_alias_out_bytes_min: int = 24

    # sessions; 0x97 Quota exceeded
    sessions_max: int = 200_000
    #: a longer Session Expiry Interval is cut to this, and CONNACK says so [MQTT-3.2.2-21]
    session_expiry_seconds_max: int = 2_592_000
    #: and filters of one packet, where that is more than 1,000
    subscriptions_per_client_max: int = 10_000
    #: unacknowledged QoS 1 and 2 packets to one client, whatever larger Receive Maximum it names
    in_flight_max: int = 1_024
    #: octets of these that are kept to be sent again, of messages with more than 4,096; the last may be beyond it
    in_flight_bytes_max: int = 8_388_608
    #: Receive Maximum announced to clients; 0x93
    receive_max: int = 1_024
    #: octets of QoS 2 messages from one client that wait for its PUBREL; 0x97 in PUBREC (MQTT 3: closed)
    unreleased_bytes_max: int = 8_388_608
    #: QoS 1 and 2 messages waiting in one session; new ones are dropped and counted
    queued_messages_max: int = 10_000
    queued_bytes_max: int = 8_388_608
    #: the same for a shared subscription with nobody online
    group_messages_max: int = 10_000
    group_bytes_max: int = 8_388_608
    keep_alive_seconds_max: int = 65_535

    # delivery
    #: octets waiting for one client's socket; beyond it QoS 0 is dropped and counted, QoS 1 and 2 wait in the session,
    #: and the client is not read
    out_queue_bytes_max: int = 1_048_576
    #: the sum of that over connected clients; beyond it those that send are not read until half is left
    out_queues_bytes_max: int = 268_435_456
    #: how long that lasts at most; then the clients with the most octets waiting are cut with 0x97
    pause_seconds_max: float = 5.0

    # retained messages; 0x97 Quota exceeded (QoS 1 and 2), dropped and counted (QoS 0)
    retained_messages_max: int = 1_000_000
    retained_bytes_max: int = 268_435_456

    # caches and time
    #: half of them, and of their octets, is kept for sure: the topics met last
    flows_per_connection_max: int = 16_384
    #: octets of topics, and 256 for each
    flow_bytes_per_connection_max: int = 6_291_456
    routes_max: int = 65_536
    #: a stage that waits longer ends its connection with 0x83
    hand_off_seconds_max: float = 10.0
    #: at shutdown: time for DISCONNECT and queued octets to leave
    drain_seconds_max: float = 5.0
