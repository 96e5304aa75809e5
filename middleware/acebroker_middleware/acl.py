"""Rights from an access control list in mosquitto's file format, for clients known by user name or not at all.

    # before the first `user`: clients without a user name
    topic read news/#
    user alice
    topic readwrite alice/#
    topic deny alice/secret
    pattern write sensor/%u/%c/data

`topic` and `pattern` take `read`, `write`, `readwrite` (the default) or `deny`, then a Topic Filter, which
may hold spaces when the access is spelled out. `pattern` lines hold for every client, with `%u` and `%c`
replaced by its user name and Client Identifier. A line that starts with `#` is a comment.

Nothing is allowed without a rule, and `deny` always wins:

    publish      a `write` rule matches the topic, no `deny` rule does
    receive      a `read` rule matches the topic, no `deny` rule does
    subscribe    ONE `read` rule covers the whole filter, no `deny` rule overlaps it

A topic that starts with `$` needs a rule that spells this `$` [MQTT-4.7.2-1]. Where mosquitto differs:
it grants every SUBSCRIBE and filters deliveries; here a filter that is not wholly permitted is refused.

A name that holds `+`, `#` or `/` would turn a pattern into other people's rights, and so would one that
starts with `$` at the start of a pattern: such a pattern is not expanded, is counted, and grants nothing. When
it is a `deny` pattern, leaving it out would be a grant: the client is then denied everything.

Not here: reading the file, deciding who a client is, and rights that come from tokens.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from acebroker_codec.errors import MqttError
from acebroker_codec.topics import SHARE_PREFIX, check_topic_filter, covers, has_wildcard, matches, overlaps
from acebroker_middleware.state.ports import Decision
from acebroker_middleware.state.subscriptions import Subscription, SubscriptionTree

__all__ = ["AclAuthority", "AclError", "AclRules", "DenyAll", "OpenAuthority"]

_NO_RULE: Final = "no rule"
_NO_LIST: Final = "no access control list"
_OPEN: Final = Decision(True, _NO_LIST)
_CLOSED: Final = Decision(False, _NO_LIST)
_ACCESS: Final = frozenset({"read", "write", "readwrite", "deny"})
#: up to this many filters a list is smaller than a tree, and about as fast
_LIST_MAX: Final = 8
_BLANKS: Final = " \t\r"
_PLACEHOLDER: Final = re.compile("%[uc]")
#: What a name may not hold where it replaces a placeholder.
_UNEXPANDABLE: Final = re.compile("[+#/]")


class AclError(ValueError):
    """A line of an access control list that is not understood. Says `source:line`."""


class _Rule(NamedTuple):
    """One line: `where` is its `source:line`."""

    access: str
    topic_filter: str
    where: str


class _Filters:
    """The filters of one kind of right (read, write or deny): a few are tried in turn, many are kept as a tree."""

    __slots__ = ("_rules", "_tree")

    def __init__(self, rules: list[_Rule]) -> None:
        self._rules = rules
        self._tree: SubscriptionTree[_Rule] | None = None
        if len(rules) > _LIST_MAX:
            self._tree = SubscriptionTree()
            for rule in rules:
                self._tree.add(rule, Subscription(rule.topic_filter))

    def matching(self, topic: str) -> str | None:
        """The line of a filter that matches the topic."""
        if self._tree is not None:
            found, _ = self._tree.match(topic)
            return found[0][0].where if found else None
        for rule in self._rules:
            if matches(rule.topic_filter, topic):
                return rule.where
        return None

    def covering(self, requested_filter: str) -> str | None:
        """The line of a filter that covers the whole requested one."""
        rules = self._rules
        if self._tree is not None:
            # Read as a topic, the request leads to every filter that covers it: where it has `+`, only `+` and
            # `#` agree with it, and where it ends in `#`, only `#` does. It leads to a few others too.
            found, _ = self._tree.match(requested_filter)
            rules = [rule for rule, _ in found]
        for rule in rules:
            if covers(rule.topic_filter, requested_filter):
                return rule.where
        return None

    def overlapping(self, requested_filter: str) -> str | None:
        """The line of a filter that has a topic in common with the requested one."""
        if not has_wildcard(requested_filter):
            return self.matching(requested_filter)
        for rule in self._rules:
            if overlaps(rule.topic_filter, requested_filter):
                return rule.where
        return None


class _Rights:
    """A set of rules, ready to be asked."""

    __slots__ = ("deny", "read", "write")

    def __init__(self, rules: list[_Rule]) -> None:
        self.deny = _Filters([rule for rule in rules if rule.access == "deny"])
        self.read = _Filters([rule for rule in rules if rule.access in ("read", "readwrite")])
        self.write = _Filters([rule for rule in rules if rule.access in ("write", "readwrite")])


class AclRules:
    """An access control list, parsed. `unexpandable` counts patterns left out because of a client's names."""

    def __init__(self, anonymous: list[_Rule], users: dict[str, list[_Rule]], patterns: list[_Rule]) -> None:
        self._anonymous = _Rights(anonymous)
        self._users = {name: _Rights(rules) for name, rules in users.items()}
        self._unknown = _Rights([])
        self._patterns = patterns
        self.unexpandable = 0

    @classmethod
    def parse(cls, text: str, source: str) -> AclRules:
        """Parse the whole text of a file; `source` is its name in messages and in the rules of decisions.

        Raises `AclError` for the first line that is not understood: nothing of such a file counts.
        """
        anonymous: list[_Rule] = []
        users: dict[str, list[_Rule]] = {}
        patterns: list[_Rule] = []
        current = anonymous
        for number, raw_line in enumerate(text.split("\n"), 1):
            where = f"{source}:{number}"
            line = raw_line.strip(_BLANKS)
            if not line or line.startswith("#"):
                continue
            keyword, rest = _first_word(line)
            if keyword == "user":
                if not rest:
                    raise AclError(f"{where}: `user` without a name")
                current = users.setdefault(rest, [])
            elif keyword == "topic":
                current.append(_rule(rest, where))
            elif keyword == "pattern":
                patterns.append(_rule(rest, where))
            else:
                raise AclError(f"{where}: {keyword!r} is none of user, topic, pattern")
        return cls(anonymous, users, patterns)

    def _rights_of(self, username: str | None) -> _Rights:
        return self._anonymous if username is None else self._users.get(username, self._unknown)

    def _expand(self, username: str | None, client_identifier: str) -> tuple[list[_Rule], str | None]:
        """The patterns as rules of one client, and the line of a `deny` pattern that could not become one."""
        names = {"%u": username, "%c": client_identifier}
        rules: list[_Rule] = []
        undeniable: str | None = None
        for pattern in self._patterns:
            if username is None and "%u" in pattern.topic_filter:
                continue  # about users: says nothing about a client without a name
            expanded = _expanded(pattern.topic_filter, names)
            if expanded is not None:
                rules.append(pattern._replace(topic_filter=expanded))
                continue
            self.unexpandable += 1
            if pattern.access == "deny":
                undeniable = undeniable or pattern.where
        return rules, undeniable


def _first_word(text: str) -> tuple[str, str]:
    parts = text.replace("\t", " ").split(" ", 1)
    return parts[0], text[len(parts[0]) :].strip(_BLANKS)


def _rule(text: str, where: str) -> _Rule:
    access, topic_filter = _first_word(text)
    if not access or (access in _ACCESS and not topic_filter):
        raise AclError(f"{where}: no Topic Filter")
    if not topic_filter:
        access, topic_filter = "readwrite", access
    if access not in _ACCESS:
        raise AclError(f"{where}: {access!r} is none of read, write, readwrite, deny")
    if topic_filter.startswith(SHARE_PREFIX):
        raise AclError(f"{where}: a Shared Subscription needs the rights of its filter: leave `$share/Name/` out")
    try:
        check_topic_filter(topic_filter)
    except MqttError as error:
        raise AclError(f"{where}: {topic_filter!r} is no Topic Filter: {error.detail}") from None
    return _Rule(access, topic_filter, where)


def _expanded(pattern: str, names: dict[str, str | None]) -> str | None:
    """The filter that the pattern means for these names, or None where they must not be put in."""
    for placeholder in set(_PLACEHOLDER.findall(pattern)):
        name = names[placeholder]
        if name is None or _UNEXPANDABLE.search(name):
            return None
    # in one pass: what a name spells is never taken for a placeholder
    expanded = _PLACEHOLDER.sub(lambda found: names[found.group()] or "", pattern)
    if expanded.startswith("$") and not pattern.startswith("$"):
        return None
    try:
        check_topic_filter(expanded)
    except MqttError:
        return None
    return expanded


class AclAuthority:
    """The rights of one client under an access control list: an `Authority`.

    `username` is None for a client without one. Decisions name the line, `source:number`, or "no rule".
    """

    __slots__ = ("_blocked", "_layers", "authorized_until")

    def __init__(self, rules: AclRules, username: str | None, client_identifier: str) -> None:
        self.authorized_until: float | None = None
        expanded, self._blocked = rules._expand(username, client_identifier)
        shared = rules._rights_of(username)
        self._layers = (shared, _Rights(expanded)) if expanded else (shared,)

    def permits_publish(self, topic: str) -> Decision:
        """May this client publish to the Topic Name?"""
        return self._denied_topic(topic) or _allowed([rights.write.matching(topic) for rights in self._layers])

    def permits_subscribe(self, topic_filter: str) -> Decision:
        """May it subscribe to the filter (without `$share/Name/`): is all of it granted, and nothing of it denied?"""
        where = self._blocked
        for rights in self._layers:
            where = where or rights.deny.overlapping(topic_filter)
        if where:
            return Decision(False, where)
        return _allowed([rights.read.covering(topic_filter) for rights in self._layers])

    def permits_receive(self, topic: str) -> Decision:
        """May a message on the Topic Name be delivered to it?"""
        return self._denied_topic(topic) or _allowed([rights.read.matching(topic) for rights in self._layers])

    def _denied_topic(self, topic: str) -> Decision | None:
        where = self._blocked
        for rights in self._layers:
            where = where or rights.deny.matching(topic)
        return Decision(False, where) if where else None


def _allowed(granting: list[str | None]) -> Decision:
    for where in granting:
        if where:
            return Decision(True, where)
    return Decision(False, _NO_RULE)


class OpenAuthority:
    """Everything but topics that start with `$`: for a broker without an access control list."""

    __slots__ = ("authorized_until",)

    def __init__(self) -> None:
        self.authorized_until: float | None = None

    def permits_publish(self, topic: str) -> Decision:
        """May anybody publish to the Topic Name?"""
        return _CLOSED if topic.startswith("$") else _OPEN

    def permits_subscribe(self, topic_filter: str) -> Decision:
        """May anybody subscribe to the filter? `#` and `+` select no `$`-topic [MQTT-4.7.2-1]."""
        return _CLOSED if topic_filter.startswith("$") else _OPEN

    def permits_receive(self, topic: str) -> Decision:
        """May a message on the Topic Name be delivered to anybody?"""
        return _CLOSED if topic.startswith("$") else _OPEN


class DenyAll:
    """No rights at all."""

    __slots__ = ("authorized_until",)

    def __init__(self) -> None:
        self.authorized_until: float | None = None

    def permits_publish(self, topic: str) -> Decision:
        """No."""
        return Decision(False, _NO_RULE)

    def permits_subscribe(self, topic_filter: str) -> Decision:
        """No."""
        return Decision(False, _NO_RULE)

    def permits_receive(self, topic: str) -> Decision:
        """No."""
        return Decision(False, _NO_RULE)
