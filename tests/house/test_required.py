"""`ACEBROKER_REQUIRE_ALL`: a skipped test, a skipped module and a skipped fixture are failures, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SKIPPING = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no such program")

@pytest.mark.skipif(True, reason="by mark")
def test_skips_by_mark():
    pass

@pytest.fixture
def missing():
    pytest.skip("by fixture")

def test_skips_by_fixture(missing):
    pass

@pytest.mark.xfail(strict=True, reason="known")
def test_known():
    assert False
"""

SKIPPED_MODULE = "import pytest\npytest.importorskip('no_such_module_at_all')\n"


@pytest.mark.parametrize(
    ("required", "expected", "status"),
    [
        ("", "1 passed, 4 skipped, 1 xfailed", 0),
        ("0", "1 passed, 4 skipped, 1 xfailed", 0),
        ("1", "1 failed, 1 passed, 1 xfailed, 3 errors", 1),
    ],
)
def test_a_skip_is_a_failure_where_everything_is_required(
    tmp_path: Path, required: str, expected: str, status: int
) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_whole.py").write_text(SKIPPED_MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            ".",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACEBROKER_REQUIRE_ALL": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    assert expected in run.stdout
    if status:
        for reason in ("no such program", "by mark", "by fixture", "no_such_module_at_all"):
            assert reason in run.stdout
