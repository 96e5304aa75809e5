"""A process of its own for one door, guided by coverage: `python -m tests.fuzz.guided DOOR SECONDS CORPUS FINDINGS`.

atheris instruments our packages while they are imported, so they must not have been imported before. It keeps what
reaches something new in the folder CORPUS, writes what fails to FINDINGS, and ends the process itself.
"""

from __future__ import annotations

import random
import sys
from typing import Any

__all__ = ["main"]

#: octets of the largest input
INPUT_BYTES_MAX = 4_096
#: memory of this process, MiB
MEMORY_MIB_MAX = 2_048


def main(name: str, seconds: str, corpus: str, findings: str) -> None:
    """Fuzz until the time is over, or something fails."""
    import atheris

    with atheris.instrument_imports(include=["acebroker_codec", "acebroker_middleware", "trio_acebroker"]):
        from tests.fuzz.doors import DOORS
    from tests.fuzz.finding import run

    door = DOORS[name]

    def mutate(data: bytes, size_max: int, seed: int) -> Any:
        chance = random.Random(seed)
        data = bytes(data[:size_max])
        mutated = door.spoiled(data, chance) if chance.random() < 0.5 else atheris.Mutate(data, size_max)
        return mutated[:size_max]

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            f"-artifact_prefix={findings}/",
            "-timeout=60",
            "-print_final_stats=1",
            "-verbosity=1",
            corpus,
        ],
        lambda data: run(door, data),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
