"""`trio-acebroker serve`: run a broker until SIGINT or SIGTERM; SIGHUP loads certificates again.

Says at its start what listens, open to whom and why, which stages packets pass, and which limits are
not the default ones. Ends in order: listeners close, clients are told, what is queued leaves within the
drain time; then status 0. What cannot be started ends with one message, nothing half-started: status 2
for a configuration, 1 for an address that cannot be listened on.
"""

from __future__ import annotations

import gc
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from trio_acebroker.cli.address import parse_address
from trio_acebroker.cli.configuration import BadConfiguration, config_option, effective
from trio_acebroker.cli.logs import show_log
from trio_acebroker.cli.summary import changed_limits, pipeline, versions
from trio_acebroker.config import BrokerConfig, ConfigError, address_text

if TYPE_CHECKING:
    from trio_acebroker import Broker

__all__ = ["command"]

#: objects made before the collector looks for circles. Neither messages nor the ends of connections leave any, and
#: with Python's own 700 it looks at every connection again for each 20 that are made
GC_THRESHOLDS: Final = (50_000, 20, 20)

logger = logging.getLogger("trio_acebroker.serve")


@click.command("serve")
@config_option
@click.option(
    "--listen",
    type=parse_address,
    multiple=True,
    metavar="HOST:PORT",
    help="Listen here, and not where the configuration says. May be given several times; port 0 takes a free one.",
)
@click.option("--log-format", type=click.Choice(["console", "json"]), help="How log lines look.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="From which level on.")
def command(
    path: Path | None, listen: tuple[tuple[str, int], ...], log_format: str | None, log_level: str | None
) -> None:
    """Run the broker."""
    import trio

    from trio_acebroker import Broker

    config = effective(path, listen, log_level, log_format)
    show_log(config.log.level, config.log.format)
    try:
        trio.run(run, Broker(config), config)
    except BaseException as error:
        cause = only(error)
        if isinstance(cause, ConfigError):
            raise BadConfiguration(str(cause)) from None
        if isinstance(cause, OSError):
            raise click.ClickException(cause.strerror or str(cause)) from None
        raise


async def run(broker: Broker, config: BrokerConfig) -> None:
    """Serve until a signal comes."""
    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            announce(config, broker, await nursery.start(broker.serve))
            gc.collect()
            gc.set_threshold(*GC_THRESHOLDS)
            gc.freeze()  # what start-up made stays: the collector need not look at it again
            async for number in signals:
                if number == signal.SIGHUP:
                    logger.info("loading certificates again")
                    broker.reload_certificates()
                    continue
                logger.info("stopping: %s", signal.Signals(number).name)
                nursery.cancel_scope.cancel()
    logger.info("stopped")


def announce(config: BrokerConfig, broker: Broker, addresses: list[tuple[str, int]]) -> None:
    """Log what was started. A listener whose host is a name may have several addresses."""
    for address in addresses:
        logger.info("listening on %s", address_text(*address))
    for listener in config.listeners:
        facts = {"open_to": config.open_to(listener), "versions": versions(listener), "shell": listener.shell_name}
        logger.info("listener %s", listener.label, extra=facts)
    for name, value, default in changed_limits(config.limits):
        logger.info("limit %s", name, extra={"value": value, "default": default})
    stages = [name if kind == "-" else f"{name} ({kind})" for name, kind in pipeline(broker.pipeline.stages)]
    logger.info("pipeline: %s", " > ".join(stages))


def only(error: BaseException) -> BaseException:
    """The one error inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
