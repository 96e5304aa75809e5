"""The composition root: what a BrokerConfig means, as the parts of a running broker.

Reads the files that the configuration names, once, before anything listens; what is wrong with them is a
ConfigError. Also here: who may connect where, and the thread that checks passwords.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from acebroker_middleware.acl import AclAuthority, AclError, AclRules, OpenAuthority
from acebroker_middleware.anonymous import Anonymous
from acebroker_middleware.authn import Authenticator, Authn
from acebroker_middleware.authz import Authz
from acebroker_middleware.connection import Connection, Round
from acebroker_middleware.decode import Decode
from acebroker_middleware.deliver import Deliver
from acebroker_middleware.expiry import Expiry
from acebroker_middleware.passwords import PasswordFile, PasswordFileError, Passwords
from acebroker_middleware.pipeline import Pipeline
from acebroker_middleware.revocation import Revocation
from acebroker_middleware.router import Router
from acebroker_middleware.scope_authority import ScopeAuthority
from acebroker_middleware.session import Session
from acebroker_middleware.state.ports import Authority, Store, Timers
from acebroker_middleware.state.retained import RetainedMessages
from trio_acebroker.ace import TokenAccess
from trio_acebroker.config import BrokerConfig, ConfigError
from trio_acebroker.plugins import load_stage

__all__ = ["BUILT_IN", "Composition", "Placed", "compose"]

#: password checks at the same time: each takes memory and a core by design
PASSWORD_CHECKS_MAX: Final = 2

#: the stages that every pipeline has, in order
BUILT_IN: Final = ("decode", "authn", "authz", "session", "router")

#: a stage, and the built-in one that it stands behind
Placed = tuple[Any, str]


class Composition:
    """The parts that `compose` made and that the runtime needs to hold.

    `ace` and `revocation` are None where no tokens are taken.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        session: Session,
        router: Router,
        deliver: Deliver,
        expiry: Expiry,
        ace: TokenAccess | None,
        revocation: Revocation | None,
    ) -> None:
        self.pipeline = pipeline
        self.session = session
        self.router = router
        self.deliver = deliver
        self.expiry = expiry
        self.ace = ace
        self.revocation = revocation


def compose(
    config: BrokerConfig,
    round_: Round,
    store: Store,
    timers: Timers,
    added: Sequence[Placed],
    *,
    flow_cache: bool = True,
) -> Composition:
    """Make all stages and put them in order. Raises ConfigError."""
    plugins = [*[(load_stage(item.use, item.options), item.after) for item in config.stages], *added]
    for stage, after in plugins:
        if after not in BUILT_IN[:-1]:
            raise ConfigError(f"stage {stage.name}: cannot stand behind {after!r}; choose {', '.join(BUILT_IN[:-1])}")
    ace = TokenAccess(config, round_.clock) if config.authorization_servers else None
    authz = Authz(round_)
    retained = RetainedMessages(round_.limits.retained_messages_max, round_.limits.retained_bytes_max)
    deliver_stages = [stage for stage, _ in plugins if hasattr(stage, "on_deliver")]
    deliver = Deliver(round_, store, retained, [*deliver_stages, authz])
    router = Router(round_, store, retained, deliver)
    session = Session(round_, store, timers, router, deliver)
    expiry = Expiry(round_, timers, router, config.ace.reauthentication_seconds)

    def granted(conn: Connection) -> None:
        if conn.lease is not None and conn.authority is not None:
            authority = conn.authority
            retained.renew(conn.lease, lambda topic: authority.permits_publish(topic).allowed, round_.clock.wall)
        expiry.granted(conn)

    authenticators = _authenticators(config, ace, granted)
    authn = Authn(round_, authenticators, lambda: f"auto-{secrets.token_hex(12)}", granted)
    stages: list[Any] = []
    for built_in in (Decode(round_), authn, authz, session, router):
        stages.append(built_in)
        if built_in is authn and ace is not None:
            stages.append(ace.uploads(round_))
        stages.extend(stage for stage, after in plugins if after == built_in.name)
    try:
        pipeline = Pipeline(round_, stages, flow_cache=flow_cache)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    revocation = None
    if ace is not None:
        revocation = Revocation(round_, store, session, retained, expiry, ace.tokens, ace.verification)
    return Composition(pipeline, session, router, deliver, expiry, ace, revocation)


def _authenticators(
    config: BrokerConfig, ace: TokenAccess | None, granted: Callable[[Connection], None]
) -> list[Authenticator]:
    """In the order in which they are asked: a token, a password, what TLS knows, nothing at all."""
    authority_for = _authorities(config)
    authenticators: list[Authenticator] = []
    passwords = _passwords(config)
    if ace is not None:
        authenticators.append(ace.by_token(lambda name: passwords is not None and name in passwords))
    if passwords is not None:
        limiter = trio.CapacityLimiter(PASSWORD_CHECKS_MAX)
        verify = passwords.verify

        async def check(username: str, password: bytes) -> bool:
            return await trio.to_thread.run_sync(verify, username, password, limiter=limiter, abandon_on_cancel=True)

        authenticators.append(Passwords(check, authority_for))
    if ace is not None:
        authenticators.append(ace.by_tls(granted))
    authenticators.append(
        Anonymous(
            lambda client_identifier: authority_for(None, client_identifier),
            ignore_credentials=passwords is None and ace is None,
            strict=ace is not None,
        )
    )
    return authenticators


def _passwords(config: BrokerConfig) -> PasswordFile | None:
    path = config.authentication.password_file
    if path is None:
        return None
    try:
        return PasswordFile.parse(_read(path, "authentication.password_file"), path)
    except PasswordFileError as error:
        raise ConfigError(str(error)) from None


def _authorities(config: BrokerConfig) -> Callable[[str | None, str], Authority]:
    path = config.authorization.acl_file
    if path is None:
        open_to_all = OpenAuthority()
        public: Authority = open_to_all
        if config.authorization_servers:
            public = ScopeAuthority(config.ace.public_scope, None, "public topics")
        return lambda username, client_identifier: public if username is None else open_to_all
    try:
        rules = AclRules.parse(_read(path, "authorization.acl_file"), path)
    except AclError as error:
        raise ConfigError(str(error)) from None
    return lambda username, client_identifier: AclAuthority(rules, username, client_identifier)


def _read(path: str, key: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}") from None
