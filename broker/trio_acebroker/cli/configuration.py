"""The configuration that a command runs with: file, then environment, then command line; the last one wins."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from trio_acebroker.config import BrokerConfig, ConfigError, Listener

__all__ = ["BadConfiguration", "config_option", "effective"]

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path), metavar="FILE", help="Configuration in TOML."
)


class BadConfiguration(click.ClickException):
    """Ends a command with status 2 and one message."""

    exit_code = 2


def effective(
    path: Path | None,
    listen: tuple[tuple[str, int], ...] = (),
    log_level: str | None = None,
    log_format: str | None = None,
) -> BrokerConfig:
    """The configuration, changed by what the command line says. Raises BadConfiguration.

    Addresses in `listen` take the place of all configured listeners.
    """
    try:
        config = BrokerConfig.load(path, os.environ)
        log = {key: value for key, value in (("level", log_level), ("format", log_format)) if value is not None}
        config = msgspec.structs.replace(config, log=msgspec.structs.replace(config.log, **log))
        if listen:
            listeners = tuple(Listener(host=host, port=port) for host, port in listen)
            config = msgspec.structs.replace(config, listeners=listeners)
    except ConfigError as error:
        raise BadConfiguration(str(error)) from None
    return config
