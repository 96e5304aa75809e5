"""`trio-acebroker check`: is the configuration usable, and what does it come to?

Reads what `serve` would read (password and ACL files, plugins) and makes the broker, but listens nowhere.
"""

from __future__ import annotations

from pathlib import Path

import click

from trio_acebroker.ace import authorization_servers
from trio_acebroker.cli.configuration import BadConfiguration, config_option, effective
from trio_acebroker.cli.summary import changed_limits, pipeline, versions, ways_to_connect
from trio_acebroker.config import ConfigError
from trio_acebroker.key_files import describe

__all__ = ["command"]


@click.command("check")
@config_option
def command(path: Path | None) -> None:
    """Check the configuration, and print what the broker would do."""
    from trio_acebroker import Broker

    config = effective(path)
    try:
        broker = Broker(config)
        servers = authorization_servers(config)
    except ConfigError as error:
        raise BadConfiguration(str(error)) from None
    click.echo(f"{path or 'no configuration file'}: valid")
    click.echo("\nlisteners")
    for listener in config.listeners:
        name = f"{listener.name}: " if listener.name else ""
        click.echo(f"  {name}{listener.address}, MQTT {versions(listener)}, open to {config.open_to(listener)}")
        for way in ways_to_connect(config, listener):
            click.echo(f"    {way}")
    if servers:
        click.echo("\nauthorization servers")
    for server in servers:
        click.echo(f"  {server.issuer}: for {' or '.join(sorted(server.audience))}; keys: {describe(server.keys)}")
    click.echo("\npipeline (stage: how it treats what is published on a known topic)")
    for name, kind in pipeline(broker.pipeline.stages):
        click.echo(f"  {name}: {kind}")
    click.echo("\nlimits that differ from their default")
    changed = [f"  {name} = {value} (default {default})" for name, value, default in changed_limits(config.limits)]
    click.echo("\n".join(changed or ["  none"]))
