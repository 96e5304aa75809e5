"""The load generator: what a broker does wrong is reported, and what it does right is not."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.brokers import Broker, BrokerDidNotStart, PeerSpec, Setup, ours
from tests.bench.measurement import CannotCompile, Load, Record, compile_tools, measure
from tests.bench.relay import FAULTS
from tests.bench.scenarios import SCENARIOS, Case

COMPILER = os.environ.get("CC", "cc")
#: ends by count, and soon after something is missing
LOAD = Load(seconds=20, stall_seconds=1, cpu=None)
PAIR = "flow -n 1 -m 1 -w 10 -c 50 -W 0"
#: rows that a relay of frames can serve, with what cuts them short
SHORT = {
    name: SCENARIOS[name].cases[0].load + " -c 50 -W 0" for name in ("one", "fanin", "pairs", "qos2", "var", "props")
}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of compiled tools."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C compiler {COMPILER}")
    folder = tmp_path_factory.mktemp("bench")
    compile_tools(folder, COMPILER)
    return folder


def run(command: str, load: str, build: Path, scenario: str = "pairs") -> Record:
    """One run against what `command` starts."""
    broker = Broker(PeerSpec("relay", {"": Setup(command)}), "", build, None, 30)
    try:
        return measure(broker, scenario, Case(load), LOAD, build)
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("fault", "status", "delivered", "lost"),
    [
        ("none", "ok", 50, 0),
        ("drop", "lossy", 49, 1),
        ("double", "repeated-or-out-of-order", 50, 0),
        ("swap", "lossy", 49, 1),  # the one that comes late counts as out of order, not as delivered
        ("cut", "lossy", 49, 1),
    ],
)
def test_one_wrong_message_is_reported(fault: str, status: str, delivered: int, lost: int, build: Path) -> None:
    record = run(f"{shlex.quote(sys.executable)} -m tests.bench.relay {{port}} {fault}", PAIR, build)
    assert (record["status"], record["sent"], record["delivered"], record["lost"]) == (status, 50, delivered, lost)
    assert (record["bad_order"], record["errors"]) == (fault in ("double", "swap"), fault == "cut")
    assert record["operations"] == delivered
    assert record["cpu"] >= 0
    assert fault in FAULTS


@pytest.mark.parametrize("name", SHORT)
def test_right_messages_are_not_reported(name: str, build: Path) -> None:
    record = run("{build}/floor {port}", SHORT[name], build, name)
    assert (record["status"], record["lost"], record["version"]) == ("ok", 0, SCENARIOS[name].version or "4")


@pytest.mark.parametrize(("name", "shorter"), [("tls", " -c 50 -W 0"), ("tls1", " -c 5 -W 0"), ("tlsstorm", "")])
def test_rows_over_tls(name: str, shorter: str, build: Path) -> None:
    try:
        compile_tools(build, COMPILER, tls=True)
    except CannotCompile as error:
        pytest.skip(str(error))
    load = Case(SCENARIOS[name].cases[0].load + shorter, setup="tls")
    broker = Broker(ours(), "tls", build, None, 30)
    try:
        record = measure(broker, name, load, replace(LOAD, seconds=0.2 if name == "tlsstorm" else 20), build)
    finally:
        broker.stop()
    assert (record["status"], record["lost"], record["errors"]) == ("ok", 0, 0)
    assert record["operations"] > 0


def test_another_size_of_payload_is_an_error(build: Path) -> None:
    """Sizes are known by publisher and sequence number: mixed ones are checked as strictly as equal ones."""
    command = f"{shlex.quote(sys.executable)} -m tests.bench.relay {{port}} cut"
    assert run(command, f"{PAIR} -L 16-64", build)["errors"] == 1


@pytest.mark.parametrize(("fault", "errors"), [("none", 0), ("alter", 1)])
def test_properties_must_arrive_unaltered(fault: str, errors: int, build: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m tests.bench.relay {{port}} {fault}"
    record = run(command, f"{PAIR} -u 3 -P 16", build, "props")
    assert (record["errors"], record["lost"]) == (errors, errors)


def test_a_run_without_an_end_is_killed(build: Path) -> None:
    broker = Broker(PeerSpec("floor", {"": Setup("{build}/floor {port}")}), "", build, None, 30)
    try:
        record = measure(broker, "pairs", Case(PAIR + " -c 0"), Load(limit_seconds=0.2, cpu=None), build)
    finally:
        broker.stop()
    assert (record["status"], record["cpu_us"]) == ("timeout", None)


def test_a_broker_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(BrokerDidNotStart, match="no such luck"):
        Broker(PeerSpec("sad", {"": Setup("sh -c 'echo no such luck; exit 3'")}), "", tmp_path, None, 30)


def test_what_does_not_compile_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotCompile, match="no C compiler 'no-such-compiler'"):
        compile_tools(tmp_path, "no-such-compiler")
