"""MQTT.js, the client of the JavaScript world: runs `mqttjs.mjs` under node.

Found through `NODE_PATH`, or in `.run/node/node_modules`, where `.ci/run` puts it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interop.conftest import ROOT, Served

HERE = Path(__file__).resolve().parent
CHECKS_MIN = {4: 12, 5: 17}


def node_path() -> str | None:
    """The folder that holds MQTT.js, None where there is none."""
    folders = [*os.environ.get("NODE_PATH", "").split(os.pathsep), str(ROOT / ".run" / "node" / "node_modules")]
    return next((folder for folder in folders if folder and (Path(folder) / "mqtt").is_dir()), None)


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_mqttjs(served: Served, version: int) -> None:
    folder = node_path()
    if shutil.which("node") is None or folder is None:
        pytest.skip("node or MQTT.js is not installed")
    done = subprocess.run(
        ["node", str(HERE / "mqttjs.mjs"), str(served.port), str(version)],
        env={**os.environ, "NODE_PATH": folder},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    checks = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "not ok "))]
    assert not [line for line in checks if line.startswith("not ok")], done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(checks) >= CHECKS_MIN[version]
