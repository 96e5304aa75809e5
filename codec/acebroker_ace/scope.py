"""Scopes in AIF-MQTT: what a token lets its client publish and subscribe to (RFC 9431, 2.3; RFC 9237).

A scope is an array of pairs `[filter, permissions]`, each permission `pub` or `sub`; what is not listed is
denied (ADJ-9237-1). A Topic Name is permitted when an entry matches it, a Topic Filter when one entry alone
covers it (ACE-2.3-10). Nothing is ever narrowed or put together from several entries (D-21).

Each permission is compiled into a tree of levels. Several entries may apply to a topic on the way down, by
a `+`, a `#` or the text itself; which ones do is worked out once for each set of branches and remembered. So
a check is one step in a dictionary per level, however many entries there are. What is remembered is bounded;
beyond `STEPS_MAX` it is worked out anew.

A requested filter is looked up the same way: to an entry, its `+` is a level that only `+` or `#` covers.

Statements: ACE-2.3-3 to ACE-2.3-10, ACE-3.1-1, ACE-3.3-1, ACE-3.3-2, ADJ-9237-1, ADJ-9237-4, D-18, D-21.

Not here: `$share/` in front of a request, and topics that are free or closed to everybody, such as
`authz-info`: the stage that asks knows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, final

from acebroker_ace.errors import UnrecognizedScope
from acebroker_ace.notation import NotationError, base64url_decode, cbor_loads, json_loads
from acebroker_codec.errors import MqttError
from acebroker_codec.topics import SHARE_PREFIX, check_topic_filter

__all__ = ["STEPS_MAX", "Scope"]

#: how many steps from a set of branches to the next one permission remembers
STEPS_MAX: Final = 262_144

_PERMISSIONS: Final = frozenset({"pub", "sub"})


class _Node:
    """One level in the tree of the filters that have a permission."""

    __slots__ = ("children", "everything_below", "plus", "stands")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.plus: _Node | None = None
        #: a filter ends here
        self.stands = False
        #: a filter ends in `#` here: the level itself and all below
        self.everything_below = False


@final
class _Path:
    """The nodes that a topic has reached, and where the next level leads; None in `onward`: not worked out yet."""

    __slots__ = ("everything_below", "nodes", "onward", "otherwise", "stands")

    def __init__(self, nodes: tuple[_Node, ...]) -> None:
        self.nodes = nodes
        self.stands = any(node.stands for node in nodes)
        self.everything_below = any(node.everything_below for node in nodes)
        #: the texts that some entry has at the next level
        self.onward: dict[str, _Path | None] = dict.fromkeys(level for node in nodes for level in node.children)
        #: for every other text: where only `+` leads
        self.otherwise: _Path | None = None


class _Filters:
    """The filters of one permission, as a tree."""

    def __init__(self, filters: Iterable[str]) -> None:
        root = _Node()
        for topic_filter in filters:
            node = root
            for level in topic_filter.split("/"):
                if level == "#":
                    node.everything_below = True
                    break
                if level == "+":
                    node.plus = node.plus or _Node()
                    node = node.plus
                else:
                    node = node.children.setdefault(level, _Node())
            else:
                node.stands = True
        # a wildcard in the first level selects no topic that begins with $ [MQTT-4.7.2-1]
        dollar = _Node()
        dollar.children = root.children
        self._paths: dict[tuple[int, ...], _Path] = {}
        self._steps_left = STEPS_MAX
        self._start = self._path((root,))
        self._start_of_dollar = self._path((dollar,))

    def _path(self, nodes: tuple[_Node, ...]) -> _Path:
        key = tuple(map(id, nodes))
        path = self._paths.get(key)
        if path is None:
            path = _Path(nodes)
            self._steps_left -= 1 + len(path.onward)
            if self._steps_left >= 0:
                self._paths[key] = path
        return path

    def _step(self, path: _Path, level: str) -> _Path:
        known = level in path.onward
        found = path.onward[level] if known else path.otherwise
        if found is None:
            nodes = [node.children[level] for node in path.nodes if level in node.children]
            found = self._path((*nodes, *(node.plus for node in path.nodes if node.plus is not None)))
            if self._steps_left >= 0:
                if known:
                    path.onward[level] = found
                else:
                    path.otherwise = found
        return found

    def match(self, topic: str) -> bool:
        """Whether a filter matches the Topic Name, or covers the Topic Filter."""
        path = self._start_of_dollar if topic[:1] == "$" else self._start
        levels = ["+", "#"] if topic == "#" else topic.split("/")  # a lone # selects no empty topic
        for level in levels:
            if path.everything_below:
                return True
            if level == "#" or not path.nodes:
                return False
            path = self._step(path, level)
        return path.stands or path.everything_below


@final
class Scope:
    """What one token permits. Immutable; equal when the entries are.

    Every way to make one raises `UnrecognizedScope` for anything but AIF-MQTT: another shape, an unknown
    permission, a text that is no Topic Filter, or a `$share/` filter, which no request is compared with (D-18).
    """

    __slots__ = ("_publish", "_subscribe", "entries")

    #: Topic Filter -> its permissions; the same filter twice is merged (ADJ-9237-4)
    entries: dict[str, frozenset[str]]

    def __init__(self, aif: object = ()) -> None:
        """`aif`: the decoded array; without one, nothing is permitted."""
        self.entries = {}
        for topic_filter, permissions in _pairs(aif):
            self.entries[topic_filter] = self.entries.get(topic_filter, frozenset()) | permissions
        self._publish = _Filters(filter_ for filter_, permissions in self.entries.items() if "pub" in permissions)
        self._subscribe = _Filters(filter_ for filter_, permissions in self.entries.items() if "sub" in permissions)

    @classmethod
    def from_json(cls, text: str | bytes) -> Scope:
        """The JSON array as text."""
        try:
            return cls(json_loads(text))
        except NotationError as error:
            raise UnrecognizedScope(f"scope: {error}") from None

    @classmethod
    def from_cbor(cls, octets: bytes) -> Scope:
        """The CBOR array."""
        try:
            return cls(cbor_loads(octets))
        except NotationError as error:
            raise UnrecognizedScope(f"scope: {error}") from None

    @classmethod
    def from_claim(cls, claim: str | bytes | list[Any] | None, *, json_array: bool = False) -> Scope:
        """The `scope` claim of a token or of an introspection answer.

        Text is base64url of JSON (ACE-2.3-4), octets are CBOR (ACE-2.3-5), no claim is no right (ACE-2.3-9).
        `json_array`: take an array that stands in the JSON as it is, which RFC 9431 does not have.
        """
        if claim is None:
            return cls()
        if isinstance(claim, bytes):
            return cls.from_cbor(claim)
        if isinstance(claim, str):
            try:
                return cls.from_json(base64url_decode(claim))
            except NotationError as error:
                raise UnrecognizedScope(f"scope: {error}") from None
        if not json_array:
            raise UnrecognizedScope("scope is an array, and no text")
        return cls(claim)

    def permits_publish(self, topic: str) -> bool:
        """Whether the Topic Name is matched by an entry with `pub` (ACE-3.1-1)."""
        return self._publish.match(topic)

    def permits_subscribe(self, topic_filter: str) -> bool:
        """Whether one entry with `sub` covers the whole Topic Filter (ACE-3.3-2). Without any `$share/` prefix."""
        return self._subscribe.match(topic_filter)

    def permits_receive(self, topic: str) -> bool:
        """Whether the Topic Name is matched by an entry with `sub` (ACE-3.2-1)."""
        return self._subscribe.match(topic)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scope) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(frozenset(self.entries.items()))

    def __repr__(self) -> str:
        return f"Scope({[[filter_, sorted(permissions)] for filter_, permissions in self.entries.items()]})"


def _pairs(aif: object) -> Iterable[tuple[str, frozenset[str]]]:
    if not isinstance(aif, list | tuple):
        raise UnrecognizedScope("scope is no array")
    for entry in aif:
        if not isinstance(entry, list) or len(entry) != 2:
            raise UnrecognizedScope("an entry of scope is no pair")
        topic_filter, permissions = entry
        if not isinstance(permissions, list) or not permissions:
            raise UnrecognizedScope("the permissions of a scope are no list, or an empty one")
        if not all(isinstance(permission, str) and permission in _PERMISSIONS for permission in permissions):
            raise UnrecognizedScope("an unknown permission in scope")
        if not isinstance(topic_filter, str) or topic_filter.startswith(SHARE_PREFIX):
            raise UnrecognizedScope("a scope for something that is no Topic Filter")
        try:
            check_topic_filter(topic_filter)
            topic_filter.encode()
        except (MqttError, UnicodeEncodeError):
            raise UnrecognizedScope("a scope for something that is no Topic Filter") from None
        yield topic_filter, frozenset(permissions)
