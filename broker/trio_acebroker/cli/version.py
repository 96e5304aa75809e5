"""`trio-acebroker version`: what is installed here, as a report of an error should name it."""

from __future__ import annotations

import platform
from importlib import metadata

import click

__all__ = ["command"]


@click.command("version")
def command() -> None:
    """Print the versions of the broker, Python and Trio."""
    click.echo(f"trio-acebroker {metadata.version('trio-acebroker')}")
    click.echo(
        f"Python {platform.python_version()}, trio {metadata.version('trio')}, {platform.system()} {platform.machine()}"
    )
