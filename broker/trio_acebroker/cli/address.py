"""`HOST:PORT` on the command line, with IPv6 addresses in brackets."""

from __future__ import annotations

import re

import click

__all__ = ["parse_address"]


def parse_address(text: str) -> tuple[str, int]:
    """Host and port; for `type=` of click's options. Raises click.BadParameter."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", text, re.ASCII)
    if found is None or int(found[3]) > 65_535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT (IPv6: [ADDRESS]:PORT)")
    return found[1] or found[2], int(found[3])
