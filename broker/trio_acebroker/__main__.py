"""`python -m trio_acebroker`: the same as the command `trio-acebroker`."""

from __future__ import annotations

from trio_acebroker.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="trio-acebroker")
