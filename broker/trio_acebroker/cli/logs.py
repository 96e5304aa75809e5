"""How `trio-acebroker serve` shows the standard library's log: a line each, for people or as JSON, with ISO times.

The library itself logs by `logging` alone; an embedding application sets that up as it likes and
never comes here.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

__all__ = ["show_log"]


def show_log(level: str, log_format: Literal["console", "json"]) -> None:
    """Write every record from `level` on to standard error, from now on."""
    renderer: list[structlog.typing.Processor]
    if log_format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = [_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _one_line(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """What clients choose (identifiers, topics) may hold line ends and terminal controls: show them as escapes."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = "".join(
                letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in value
            )
    return event
