"""The configuration: values, their defaults, and what makes no sense.

Everything is a frozen Struct that an embedder constructs as plainly as a file does. What contradicts
itself is refused at construction, before anything is started, by a `ConfigError` of one sentence. The
limits, each with its default, are `acebroker_middleware.state.bounds.Limits`.

Closed by default: the default listeners are on loopback, and who may connect anonymously is said by
the configuration. Without a configuration *file*, that is everybody on loopback and nobody elsewhere.

Not here: reading password and ACL files, resolving host names, loading plugins.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import select
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from msgspec import Meta, Struct

from acebroker_codec.packets import ProtocolVersion
from acebroker_middleware.state.bounds import Limits
from trio_acebroker.config_ace import Ace, AuthorizationServer
from trio_acebroker.config_text import ConfigError, change_by_environment, convert, parse_toml

__all__ = [
    "Ace",
    "Authentication",
    "Authorization",
    "AuthorizationServer",
    "BrokerConfig",
    "ConfigError",
    "Limits",
    "Listener",
    "Log",
    "StageConfig",
    "SysTopics",
    "Tls",
    "address_text",
    "loopback_listeners",
]

#: keys of a listener's `tls` that name files
TLS_FILES: Final = ("certificate", "key", "client_ca", "client_crl")

#: the `pump` shell needs epoll
PUMP_POSSIBLE: Final = hasattr(select, "epoll")

#: the largest values that MQTT can express; other limits have no upper bound of their own
LIMIT_CEILINGS: Mapping[str, int] = {
    "packet_bytes_max": 268_435_460,  # a Remaining Length of 268,435,455 and the five octets before it
    "connect_bytes_max": 268_435_460,
    "topic_bytes_max": 65_535,
    "client_identifier_bytes_max": 65_535,
    "topic_alias_max": 65_535,
    "topic_alias_out_max": 65_535,
    "session_expiry_seconds_max": 0xFFFF_FFFF,
    "in_flight_max": 65_535,
    "receive_max": 65_535,
    "keep_alive_seconds_max": 65_535,
}

#: the largest value of any limit
LIMIT_MAX = 2**63 - 1

#: limits that may be 0, which turns off what they bound; all others are at least 1 (or above 0, in seconds)
LIMITS_TO_ZERO = frozenset(
    {
        "topic_alias_max",
        "topic_alias_out_max",
        "topic_alias_out_bytes_min",
        "session_expiry_seconds_max",
        "queued_messages_max",
        "queued_bytes_max",
        "group_messages_max",
        "group_bytes_max",
        "retained_messages_max",
        "retained_bytes_max",
        "drain_seconds_max",
    }
)

Port = Annotated[int, Meta(ge=0, le=65_535)]
Count = Annotated[int, Meta(ge=1)]


def address_text(host: str, port: int) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS on one listener: versions 1.2 and 1.3, ALPN `mqtt`. The files are PEM, and loaded again when they change."""

    #: our certificate, and behind it those between it and the root
    certificate: str
    #: its private key
    key: str
    #: CAs whose client certificates are taken
    client_ca: str | None = None
    #: CRLs of these CAs: then a certificate without a valid one of its CA is refused
    client_crl: str | None = None
    #: must a client show a certificate, where `client_ca` is set?
    client_certificate: Literal["optional", "required"] = "optional"
    #: may clients authenticate by a key that they share with us?
    pre_shared_keys: bool = False
    #: may clients show a raw public key, or ask for ours? Needs libgnutls
    raw_public_keys: bool = False

    def __post_init__(self) -> None:
        if self.client_ca is None and (self.client_crl is not None or self.client_certificate == "required"):
            raise ConfigError("client certificates are checked against client_ca, which is not set")


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One address to listen on, with settings of its own."""

    #: IPv4 or IPv6 address, or a host name; `0.0.0.0` and `::` are every interface
    host: str = "127.0.0.1"
    #: TCP port; 0 takes a free one
    port: Port = 1883
    #: how logs, counters and errors call it; empty means its address
    name: str = ""
    #: the protocol versions spoken here: 3 (MQTT 3.1), 4 (3.1.1), 5
    protocol_versions: tuple[ProtocolVersion, ...] = tuple(ProtocolVersion)
    #: connections of this listener at one time; None is bounded by `limits.connections_max` alone
    connections_max: Count | None = None
    #: may clients without credentials connect here? None is what `authentication.anonymous` says
    anonymous: bool | None = None
    #: how sockets are read: `raw` is one task per connection, `pump` one task with an epoll of its own for all
    #: (Linux only); `auto` takes `pump` where it can
    shell: Literal["auto", "raw", "pump"] = "auto"
    #: with this table, TLS is spoken here, and nothing else
    tls: Tls | None = None
    #: take tokens without TLS, on loopback?
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.host or self.host != self.host.strip("[]* \t"):
            raise ConfigError(f"host {self.host!r} is no address; every interface is 0.0.0.0 (IPv4) or :: (IPv6)")
        if not self.protocol_versions:
            raise ConfigError("protocol_versions is empty: no client could connect")
        if self.shell == "pump" and self.tls is not None:
            raise ConfigError("TLS is read by the raw shell: leave shell out, or say raw")
        if self.insecure and not self.is_loopback:
            raise ConfigError(f"listener {self.label}: insecure is for loopback only")
        if self.shell == "pump" and not PUMP_POSSIBLE:
            raise ConfigError("shell pump needs epoll, which this platform has not; auto takes what there is")

    @property
    def shell_name(self) -> Literal["raw", "pump"]:
        """The shell that serves it."""
        if self.shell == "auto":
            return "pump" if PUMP_POSSIBLE and self.tls is None else "raw"
        return self.shell

    @property
    def address(self) -> str:
        """`host:port`, with IPv6 addresses in brackets."""
        return address_text(self.host, self.port)

    @property
    def label(self) -> str:
        """The name, or the address where there is none."""
        return self.name or self.address

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. Any host name but `localhost` counts as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def loopback_listeners(port: int = 1883) -> tuple[Listener, ...]:
    """The listeners of a broker that nobody configured: 127.0.0.1, and ::1 on machines that have it."""
    listeners = [Listener(port=port)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind(("::1", 0))
        listeners.append(Listener(host="::1", port=port))
    return tuple(listeners)


class Authentication(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may connect."""

    #: may clients without credentials connect? None: on loopback, while there is no password file
    anonymous: bool | None = None
    #: file of users and hashes, as `trio-acebroker passwd` writes it
    password_file: str | None = None


class Authorization(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may publish and subscribe to what."""

    #: rules in mosquitto's format; None grants every client all topics that do not begin with `$`
    acl_file: str | None = None
    #: what a denied PUBLISH of an MQTT 3 client leads to, as MQTT 3 has no error acknowledgement:
    #: `ignore` acknowledges and drops it, `disconnect` closes the connection [MQTT-3.3.5-2]
    denied_publish_v3: Literal["ignore", "disconnect"] = "ignore"


class StageConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plugin in the pipeline."""

    #: name of an entry point in the group `trio_acebroker.stages`, or `package.module:Class`
    use: str
    #: the built-in stage that it stands behind; stages behind the same one keep the order of the file
    after: Literal["decode", "authn", "authz", "session"] = "authz"
    #: arguments of its constructor
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Without the values of options, which may be secret."""
        return f"StageConfig(use={self.use!r}, after={self.after!r}, options={sorted(self.options)!r})"


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `trio-acebroker serve` writes to standard error. Embedders configure `logging` themselves."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class SysTopics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's own topics under `$SYS/broker/`."""

    #: seconds between two publications of what changed; 0 publishes nothing
    interval_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.interval_seconds) or self.interval_seconds < 0:
            raise ConfigError("interval_seconds must be 0 or a number of seconds")


class BrokerConfig(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"listeners": "listener", "authorization_servers": "authorization_server", "stages": "stage"},
):
    """Everything that a broker is told. Raises `ConfigError` where the parts contradict each other."""

    listeners: tuple[Listener, ...] = msgspec.field(default_factory=loopback_listeners)
    authentication: Authentication = Authentication()
    authorization: Authorization = Authorization()
    authorization_servers: tuple[AuthorizationServer, ...] = ()
    ace: Ace = Ace()
    limits: Limits = Limits()
    stages: tuple[StageConfig, ...] = ()
    log: Log = Log()
    sys_topics: SysTopics = SysTopics()

    def __post_init__(self) -> None:
        check_limits(self.limits)
        self._check_ace()
        taken: dict[tuple[str, int], Listener] = {}
        names: set[str] = set()
        for listener in self.listeners:
            if listener.port and (listener.host, listener.port) in taken:
                raise ConfigError(f"two listeners are on {listener.address}")
            if listener.name in names:
                raise ConfigError(f"two listeners have the name {listener.name!r}")
            taken[listener.host, listener.port] = listener
            names.update({listener.name} - {""})
            self._check_somebody_may_connect(listener)

    def _check_ace(self) -> None:
        issuers = [server.issuer for server in self.authorization_servers]
        for issuer in issuers:
            if issuers.count(issuer) > 1:
                raise ConfigError(f"two authorization servers have the issuer {issuer}")
        if not issuers and self.ace != Ace():
            raise ConfigError("[ace] says how tokens are taken, but there is no [[authorization_server]]")
        if self.authorization.acl_file is not None and (self.ace.public_publish or self.ace.public_subscribe):
            raise ConfigError("authorization.acl_file says what clients without a token may do: leave ace.public_* out")

    def takes_tokens(self, listener: Listener) -> bool:
        """Whether clients may show tokens on this listener: some server issues them, and nobody can read along."""
        return bool(self.authorization_servers) and (listener.tls is not None or listener.insecure)

    def _check_somebody_may_connect(self, listener: Listener) -> None:
        if (
            self.anonymous_allowed(listener)
            or self.authentication.password_file is not None
            or self.takes_tokens(listener)
        ):
            return
        if self.authorization_servers:
            raise ConfigError(
                f"nobody may connect to listener {listener.label}: tokens are taken over TLS, or on loopback with "
                "insecure = true"
            )
        remedy = "name an authentication.password_file, or let everybody in by authentication.anonymous = true"
        if listener.is_loopback:
            raise ConfigError(f"nobody may connect to listener {listener.label}: {remedy}")
        raise ConfigError(
            f"listener {listener.label} can be reached from other machines, and no authentication is configured: "
            f"{remedy}"
        )

    def anonymous_allowed(self, listener: Listener) -> bool:
        """Whether clients without credentials may connect to this listener."""
        if listener.anonymous is not None:
            return listener.anonymous
        if self.authentication.anonymous is not None:
            return self.authentication.anonymous
        return listener.is_loopback and self.authentication.password_file is None and not self.authorization_servers

    def open_to(self, listener: Listener) -> str:
        """Who may connect to this listener, and what says so: a phrase for people."""
        who = []
        if self.takes_tokens(listener):
            issuers = " or ".join(server.issuer for server in self.authorization_servers)
            who.append(f"clients with a token of {issuers}")
        if self.authentication.password_file is not None:
            who.append(f"users in {self.authentication.password_file}")
        if self.anonymous_allowed(listener):
            if listener.anonymous is not None:
                why = "its anonymous = true"
            elif self.authentication.anonymous is not None:
                why = "authentication.anonymous = true"
            else:
                why = "loopback, and no authentication is configured"
            limited = self.authorization_servers and self.authorization.acl_file is None
            who.append(f"anybody without credentials{', for public topics only' if limited else ''} ({why})")
        return ", ".join(who)

    @classmethod
    def from_toml(cls, text: str, source: str = "configuration", environ: Mapping[str, str] | None = None) -> Self:
        """The configuration in `text`, changed by `ACEBROKER_` variables of `environ`.

        Arguments: `source` names the text in errors, and file names in it are relative to its folder;
        `environ` is nothing unless given, and file names in it are relative to the working folder.
        Raises ConfigError.
        """
        tables = parse_toml(text, source)
        for table, key in (("authentication", "password_file"), ("authorization", "acl_file")):
            named = tables.get(table)
            if isinstance(named, dict) and isinstance(named.get(key), str):
                named[key] = str(Path(source).parent / named[key])
        for entry in tables.get("listener") or ():
            tls: Any = entry.get("tls") if isinstance(entry, dict) else None
            for key in TLS_FILES if isinstance(tls, dict) else ():
                if isinstance(tls.get(key), str):
                    tls[key] = str(Path(source).parent / tls[key])
        for entry in tables.get("authorization_server") or ():
            _resolve_list(entry, "keys", source)
        _resolve_list(tables.get("ace"), "private_keys", source)
        # a file that does not say who may connect lets nobody in; without a file, loopback is let in
        authentication = tables.setdefault("authentication", {})
        origins = change_by_environment(tables, cls, environ or {})
        if isinstance(authentication, dict):
            authentication.setdefault("anonymous", False)
        return convert(tables, cls, source, origins)

    @classmethod
    def load(cls, path: str | Path | None, environ: Mapping[str, str]) -> Self:
        """The configuration in the file at `path`, or the defaults where that is None, changed by `environ`.

        Raises ConfigError, also for a file that cannot be read.
        """
        if path is None:
            tables: dict[str, Any] = {}
            return convert(tables, cls, "environment", change_by_environment(tables, cls, environ))
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 at octet {error.start}") from None
        return cls.from_toml(text, str(path), environ)


def _resolve_list(table: object, key: str, source: str) -> None:
    """Make the file names in a list of a table relative to the folder of `source`."""
    names = table.get(key) if isinstance(table, dict) else None
    if isinstance(table, dict) and isinstance(names, list):
        table[key] = [str(Path(source).parent / name) if isinstance(name, str) else name for name in names]


def check_limits(limits: Limits) -> None:
    """Raises ConfigError for a limit that is negative, zero where that makes no sense, or more than MQTT can say."""
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        ceiling = LIMIT_CEILINGS.get(name)
        smallest = 0 if name in LIMITS_TO_ZERO else 1 if isinstance(value, int) else None
        if isinstance(value, int) and abs(value) > LIMIT_MAX:
            raise ConfigError(f"limits.{name} is no number of this world; {LIMIT_MAX} is the largest")
        if not math.isfinite(value) or (value <= 0 if smallest is None else value < smallest):
            raise ConfigError(
                f"limits.{name} is {value}, and must be {'above 0' if smallest is None else f'at least {smallest}'}"
            )
        if ceiling is not None and value > ceiling:
            raise ConfigError(f"limits.{name} is {value}; MQTT can express {ceiling} at most")
