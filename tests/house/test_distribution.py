"""What a user installs: one wheel with all packages, type markers, the command and the plugins that come along."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import trio_acebroker
from tests.house.modules import ROOT, modules

#: what a program or a plugin needs, and finds at the top
PUBLIC = {
    "Batch",
    "Broker",
    "BrokerConfig",
    "ConfigError",
    "Connection",
    "DeliverStage",
    "FlowKey",
    "FlowStage",
    "Lifecycle",
    "Limits",
    "Message",
    "MqttError",
    "PacketType",
    "ProtocolVersion",
    "Publish",
    "ReasonCode",
    "Stage",
    "Subscribe",
    "Verdict",
    "per_packet",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    quietly = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *quietly, "--wheel-dir", folder, ROOT], check=True, timeout=100
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    with wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entry_points = configparser.ConfigParser()
        (listed,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        entry_points.read_string(wheel.read(listed).decode())
        assert [name for name in wheel.namelist() if name.endswith("LICENSE")]
    packages = {module.package for module in modules().values()}
    own = {str(Path(*module.path.relative_to(ROOT).parts[1:])) for module in modules().values()}
    assert held == own | {f"{package}/py.typed" for package in packages}
    assert dict(entry_points["console_scripts"]) == {"trio-acebroker": "trio_acebroker.cli:main"}
    assert set(entry_points["trio_acebroker.stages"]) == {"rate-limit", "payload-validator"}


def test_public_names_stand_at_the_top() -> None:
    assert set(trio_acebroker.__all__) >= PUBLIC
    assert not [name for name in trio_acebroker.__all__ if not hasattr(trio_acebroker, name)]
    assert list(trio_acebroker.__all__) == sorted(set(trio_acebroker.__all__), key=lambda name: (name.islower(), name))
