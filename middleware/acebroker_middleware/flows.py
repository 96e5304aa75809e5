"""What was decided once and is kept: Verdict, FlowKey, Route and Flow (the hot path of PUBLISH).

A Route is what the subscription tree and the deliver direction say about one Topic Name; a Flow is
what the publish direction says about one (connection, topic), with the Route it leads to. Both are
thrown away rather than repaired:

    exact (un)subscribe, a session (re)attached    the Route of that topic is marked stale
    wildcard (un)subscribe                         the Routes of the topics it selects are; of too many, all of them,
                                                   by `Epoch.routes` + 1
    rights of a connection change                  its flows are cleared, its Routes made stale

A run is a row of QoS 0 PUBLISH frames of one flow in the input; a fast route forwards it as a slice.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from acebroker_middleware.state.message import Message
    from acebroker_middleware.state.session_state import SessionState
    from acebroker_middleware.state.subscriptions import SharedGroup

__all__ = ["Epoch", "Flow", "FlowKey", "FlowMode", "LocalSubscriber", "Route", "Target", "Verdict"]


class Verdict(enum.Enum):
    """What a stage says of a flow."""

    #: nothing against it until its epoch changes: may be cached
    PASS = 0
    #: refused with a reason code; cached
    DENY = 1
    #: I want to see every packet of this flow
    INSPECT = 2


class FlowKey(Struct, frozen=True):
    """What a cached decision may depend on, beside the connection."""

    topic: str


class Target(Struct, frozen=True, gc=False):
    """One session that a Route leads to, its overlapping subscriptions merged [MQTT-3.3.4-2].

    `qos` is the highest granted; `identifiers` are all Subscription Identifiers [MQTT-3.3.4-3..5].
    `no_local`: some subscription has No Local set; then `own` is what the others make of a message that this
    very client published, None where there are no others [MQTT-3.8.3-3]. `inspect`: a deliver stage wants
    to see each message for this session.
    """

    session: SessionState
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifiers: tuple[int, ...] = ()
    inspect: bool = False
    own: Target | None = None


class LocalSubscriber:
    """A subscriber inside the broker's own process: `take` gets each message, and must not wait or raise."""

    __slots__ = ("take",)

    def __init__(self, take: Callable[[Message], None]) -> None:
        self.take = take


class Epoch:
    """A number that rises when everything derived from an older one is void."""

    __slots__ = ("routes",)

    def __init__(self) -> None:
        self.routes = 0


#: version of a Route that was marked stale
STALE: Final = -1
#: where no target bounds the size of a packet
UNBOUNDED: Final = 1 << 62


class Route(Struct, gc=False, eq=False):
    """Where messages of one topic go. `version` is the `Epoch.routes` it was made in, or STALE.

    `targets` are all; `fast` says that a plain QoS 0 frame may go to each of them as it came, in one
    slice: then `fast_3` and `fast_5` are the sessions attached by MQTT 3 and by MQTT 5, and
    `packet_bytes_max` is the size of a frame, of either, that fits all of them. `durable`: some target is kept
    in the store.

    There are many, so what is empty costs nothing, and the garbage collector does not look at them: no circle
    goes through one, once the sessions it names have let go of their connections.
    """

    version: int
    targets: Sequence[Target] = ()
    groups: Sequence[SharedGroup[SessionState]] = ()
    local: Sequence[LocalSubscriber] = ()
    fast: bool = True
    durable: bool = False
    fast_3: Sequence[SessionState] = ()
    fast_5: Sequence[SessionState] = ()
    packet_bytes_max: int = UNBOUNDED


class FlowMode(enum.Enum):
    """How frames of a flow are treated."""

    FAST = 0  # forwarded in runs
    DENIED = 1  # QoS 0: dropped in runs, counted
    PACKETS = 2  # each becomes a packet


class Flow(Struct, gc=False, eq=False):
    """The decision of all stages on one (connection, topic).

    `rule` names what denied; `echo`: the client is itself among the subscribers.
    """

    topic: str
    mode: FlowMode
    route: Route
    rule: str = ""
    echo: bool = False
