"""Topic Names, Topic Filters and Shared Subscriptions: validity, matching, covering (MQTT 5 and 3.1.1, 4.7 and 4.8.2).

A Topic Name or Topic Filter is a plain `str`; its levels are what stands between the `/`, the empty
level included. Three relations are decided here, and nowhere else:

    matches(filter, topic)       the topic is one that the filter selects           (message -> subscription)
    covers(scope, requested)     everything `requested` selects, `scope` selects    (may this filter be subscribed?)
    overlaps(filter, filter)     some topic is selected by both                     (does a denied filter interfere?)

Matching compares characters as they are, without normalisation [MQTT-4.7.3-4]. The `$`-rule holds in
all three: a filter that starts with a wildcard selects no topic that starts with `$` [MQTT-4.7.2-1].

Statements: [MQTT-4.7.0-1], [MQTT-4.7.1-1] to [MQTT-4.7.1-3], [MQTT-4.7.2-1], [MQTT-4.7.3-1] to
[MQTT-4.7.3-4], [MQTT-4.8.2-1], [MQTT-4.8.2-2].

Not here: UTF-8 itself (`wire`), limits on length and number of levels (`decode`), the store of
subscriptions, and whether a version of the protocol knows Shared Subscriptions: `$share/` means the
same in all of them.
"""

from __future__ import annotations

from msgspec import Struct

from acebroker_codec.errors import MalformedPacket, ProtocolViolation, ReasonCode

__all__ = [
    "SHARE_PREFIX",
    "SharedSubscription",
    "check_topic_filter",
    "check_topic_name",
    "covers",
    "has_wildcard",
    "matches",
    "overlaps",
]

#: What a Topic Filter starts with when it names a Shared Subscription [MQTT-4.8.2-1].
SHARE_PREFIX = "$share/"

_OCTETS_MAX = 65_535
#: The longest UTF-8 form of one code point: shorter texts need not be encoded to be measured.
_OCTETS_PER_CHARACTER_MAX = 4


def check_topic_name(topic: str) -> None:
    """Raise unless `topic` may stand in a PUBLISH or as a Will Topic.

    Raises `ProtocolViolation` for an empty or too long name or a wildcard [MQTT-4.7.3-1],
    [MQTT-4.7.3-3], [MQTT-4.7.0-1], `MalformedPacket` for U+0000 [MQTT-4.7.3-2]; both carry 0x90.
    """
    if not topic:
        raise ProtocolViolation("empty Topic Name", ReasonCode.TOPIC_NAME_INVALID)
    if "+" in topic or "#" in topic:
        raise ProtocolViolation("wildcard in a Topic Name", ReasonCode.TOPIC_NAME_INVALID)
    _check_characters(topic, "Topic Name", ReasonCode.TOPIC_NAME_INVALID)


def check_topic_filter(topic_filter: str) -> None:
    """Raise unless `topic_filter` may stand in a SUBSCRIBE or UNSUBSCRIBE, with or without `$share/Name/`.

    Raises `ProtocolViolation` for an empty or too long filter, a misplaced wildcard [MQTT-4.7.1-1],
    [MQTT-4.7.1-2] or a defect of the `$share/` form [MQTT-4.8.2-1], [MQTT-4.8.2-2], and
    `MalformedPacket` for U+0000; both carry 0x8F.
    """
    if not topic_filter:
        raise ProtocolViolation("empty Topic Filter", ReasonCode.TOPIC_FILTER_INVALID)
    _check_characters(topic_filter, "Topic Filter", ReasonCode.TOPIC_FILTER_INVALID)
    shared = SharedSubscription.parse(topic_filter)
    if shared is not None:
        topic_filter = shared.topic_filter
    if not has_wildcard(topic_filter):
        return
    levels = topic_filter.split("/")
    last = len(levels) - 1
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != last):
            raise ProtocolViolation("# is not alone in the last level", ReasonCode.TOPIC_FILTER_INVALID)
        if "+" in level and level != "+":
            raise ProtocolViolation("+ is not alone in its level", ReasonCode.TOPIC_FILTER_INVALID)


def _check_characters(text: str, what: str, reason_code: ReasonCode) -> None:
    if "\0" in text:
        raise MalformedPacket(f"U+0000 in a {what}", reason_code)
    if len(text) * _OCTETS_PER_CHARACTER_MAX > _OCTETS_MAX and len(text.encode("utf-8", "surrogatepass")) > _OCTETS_MAX:
        raise ProtocolViolation(f"{what} longer than 65,535 octets", reason_code)


def has_wildcard(topic_filter: str) -> bool:
    """Whether a valid Topic Filter selects more than the one Topic Name that it spells."""
    return "+" in topic_filter or "#" in topic_filter


class SharedSubscription(Struct, frozen=True):
    """The two parts of `$share/{share_name}/{topic_filter}` (4.8.2)."""

    share_name: str
    topic_filter: str

    @classmethod
    def parse(cls, topic_filter: str) -> SharedSubscription | None:
        """Split a filter that starts with `$share/`; None for any other filter.

        Raises `ProtocolViolation` (0x8F) where the share name is empty or holds a wildcard
        [MQTT-4.8.2-1], or no filter follows it [MQTT-4.8.2-2]. The inner filter is not examined further.
        """
        if not topic_filter.startswith(SHARE_PREFIX):
            return None
        share_name, slash, inner = topic_filter[len(SHARE_PREFIX) :].partition("/")
        if not share_name or has_wildcard(share_name):
            raise ProtocolViolation("empty share name, or a wildcard in it", ReasonCode.TOPIC_FILTER_INVALID)
        if not slash or not inner:
            raise ProtocolViolation("no Topic Filter after the share name", ReasonCode.TOPIC_FILTER_INVALID)
        return cls(share_name, inner)

    def __str__(self) -> str:
        return f"{SHARE_PREFIX}{self.share_name}/{self.topic_filter}"


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a valid filter (without `$share`) selects a valid Topic Name (4.7)."""
    if not has_wildcard(topic_filter):
        return topic_filter == topic
    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    topic_levels = topic.split("/")
    count = len(topic_levels)
    index = 0
    for level in topic_filter.split("/"):
        if level == "#":
            return True  # the parent level too: "sport/#" selects "sport"
        if index == count or (level != "+" and level != topic_levels[index]):
            return False
        index += 1
    return index == count


def covers(scope_filter: str, requested_filter: str) -> bool:
    """Whether everything that `requested_filter` selects is selected by `scope_filter` as well.

    Both are valid filters without `$share`. True is never wrong; False is wrong only for `/#` under
    `/+/#` and `+/+/#`, which differ by nothing but the empty topic, and that cannot occur.
    """
    if requested_filter[0] == "$" and scope_filter[0] in "+#":
        return False
    scope = scope_filter.split("/")
    requested = ["+", "#"] if requested_filter == "#" else requested_filter.split("/")
    count = len(requested)
    index = 0
    for level in scope:
        if level == "#":
            return True
        if index == count or requested[index] == "#":
            return False
        if level != "+" and level != requested[index]:
            return False
        index += 1
    return index == count


def overlaps(filter_a: str, filter_b: str) -> bool:
    """Whether at least one Topic Name is selected by both valid filters (without `$share`)."""
    if (filter_a[0] == "$" and filter_b[0] in "+#") or (filter_b[0] == "$" and filter_a[0] in "+#"):
        return False
    if {filter_a, filter_b} == {"+", "/#"}:
        return False  # only the empty topic would be in both
    levels_a = filter_a.split("/")
    levels_b = filter_b.split("/")
    for level_a, level_b in zip(levels_a, levels_b, strict=False):
        if level_a == "#" or level_b == "#":
            return True
        if level_a != level_b and level_a != "+" and level_b != "+":
            return False
    longer, shorter = (levels_a, levels_b) if len(levels_a) > len(levels_b) else (levels_b, levels_a)
    rest = len(longer) - len(shorter)
    return rest == 0 or (rest == 1 and longer[-1] == "#")
