"""Whose own time a sampled stack is: the kernel's, the collector's, or a group of modules'."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.bench.profile import COLUMNS, GROUPS, fold, group_of
from tests.house.modules import SOURCE_ROOTS, modules

SERVE = "RawShell.serve (trio_acebroker/runtime/shells/raw.py:53)"
SCAN = "Pipeline._scan (acebroker_middleware/pipeline.py:161)"
DRAIN = "Delivery._drain (trio_acebroker/runtime/delivery.py:72)"


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([SERVE, SCAN], ("flows", "Pipeline._scan (acebroker_middleware/pipeline.py)")),
        (
            [SERVE, SCAN, "bytes_find (bytesobject.c:12)"],
            ("flows", "Pipeline._scan (acebroker_middleware/pipeline.py)"),
        ),
        (
            [DRAIN, "sock_send (socketmodule.c:4207)", "__libc_send (libc.so.6)"],
            ("kernel", "send, by Delivery._drain (trio_acebroker/runtime/delivery.py)"),
        ),
        (
            [SCAN, "PyObject_Malloc (obmalloc.c)", "gc_collect_main (gcmodule.c:1200)"],
            ("collector", "garbage collection"),
        ),
        ([SERVE, "get (msgspec/_core.so)"], ("runtime", "RawShell.serve (trio_acebroker/runtime/shells/raw.py)")),
        (["run (trio/_core/_run.py:2532)"], ("Trio", "run (trio/_core/_run.py)")),
        (
            ["__init__ (<attrs generated methods outcome._impl.Value>:13)"],
            ("Trio", "__init__ (<attrs generated methods outcome._impl.Value>)"),
        ),
        (["hook (site.py:3)"], ("other", "hook (site.py)")),
        (["no frame at all"], ("other", "? ()")),
    ],
)
def test_own_time_has_an_owner(stack: list[str], expected: tuple[str, str]) -> None:
    assert group_of(stack) == expected
    assert expected[0] in COLUMNS


def test_samples_of_one_owner_add_up() -> None:
    raw = f"{SERVE};{SCAN} 3\n{SERVE} 1\n{SCAN.replace('161', '190')} 4\n"
    assert fold(raw) == Counter(
        {
            ("flows", "Pipeline._scan (acebroker_middleware/pipeline.py)"): 7,
            ("runtime", "RawShell.serve (trio_acebroker/runtime/shells/raw.py)"): 1,
        }
    )


def test_groups_name_modules_that_there_are() -> None:
    files = [name.replace(".", "/") + ".py" for name in modules()] + [f"{package}/" for package in SOURCE_ROOTS]
    for group, prefixes in GROUPS.items():
        for prefix in prefixes if group != "Trio" else ():
            assert any(file.startswith(prefix) for file in files), prefix
