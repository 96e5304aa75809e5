"""The command `trio-acebroker`: one module for each of its commands.

Exit status: 0 when all went well, 1 when it did not, 2 for a command line or a configuration that
cannot be used, always with one message and no traceback.
"""

from __future__ import annotations

import click

from trio_acebroker.cli import check, health, passwd, serve, version

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An MQTT 3.1, 3.1.1 and 5.0 broker."""


for module in (serve, check, passwd, health, version):
    main.add_command(module.command)
