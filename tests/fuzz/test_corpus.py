"""The kept corpus: inputs that once failed or that reach far, each through its door in every `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.doors import DOORS
from tests.fuzz.finding import CORPUS, run

FILES = sorted(CORPUS.glob("*/*"))
#: so that running all of them stays a matter of seconds
FILES_MAX = 600
FILE_BYTES_MAX = 5_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_fails(path: Path) -> None:
    run(DOORS[path.parent.name], path.read_bytes())


def test_it_is_kept_small() -> None:
    assert {path.parent.name for path in FILES} == set(DOORS)
    assert len(FILES) <= FILES_MAX
    assert max(path.stat().st_size for path in FILES) <= FILE_BYTES_MAX
    assert len({path.read_bytes() for path in FILES}) == len(FILES)
