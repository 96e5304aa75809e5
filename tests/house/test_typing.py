"""Types as users see them: mypy passes right examples, and reports each marked mistake, and nothing else.

The extra `typing` (trio-typing) is tried where it is installed, in an environment of its own, since its
stubs hide Trio's types from mypy: `make typing-environment` makes it.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.house.modules import ROOT

EXAMPLES = ROOT / "tests" / "typing"
WITH_TRIO_TYPING = ROOT / ".venv-typing" / "bin" / "python"


def test_examples() -> None:
    right = [
        EXAMPLES / "plugin.py",
        EXAMPLES / "embedding.py",
        ROOT / "tests" / "sample_plugin" / "acebroker_sample.py",
    ]
    wrong = EXAMPLES / "mistakes.py"
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, right), str(wrong)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    found = re.findall(r"^(\S+):(\d+): error: .*\[([\w-]+)\]$", run.stdout, re.MULTILINE)
    expected = [
        (str(wrong.relative_to(ROOT)), str(number), code)
        for number, line in enumerate(wrong.read_text(encoding="utf-8").splitlines(), start=1)
        for code in re.findall(r"# error: ([\w-]+)$", line)
    ]
    assert sorted(found) == sorted(expected), run.stdout
    assert len(expected) >= 5


@pytest.mark.skipif(not WITH_TRIO_TYPING.exists(), reason="no environment with trio-typing: make typing-environment")
def test_a_program_annotated_with_trio_typing() -> None:
    run = subprocess.run(
        [WITH_TRIO_TYPING, "-W", "error", EXAMPLES / "trio_typing_compat.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "7 20020000\n", "")
