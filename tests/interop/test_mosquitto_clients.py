"""mosquitto_pub and mosquitto_sub, as people use them in a shell."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.interop.conftest import Served

for command in ("mosquitto_pub", "mosquitto_sub"):
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed", allow_module_level=True)

versions = pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
SECONDS_MAX = 15


def publish(served: Served, version: str, topic: str, *arguments: str, standard_input: str | None = None) -> None:
    """Run mosquitto_pub, which must succeed."""
    subprocess.run(
        ["mosquitto_pub", "-h", served.host, "-p", str(served.port), "-V", version, "-t", topic, *arguments],
        input=standard_input,
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


@contextmanager
def subscribed(served: Served, version: str, topic_filter: str, *arguments: str) -> Iterator[IO[str]]:
    """Run mosquitto_sub until it has what it waits for; gives its output once it is subscribed."""
    base = ["mosquitto_sub", "-h", served.host, "-p", str(served.port), "-V", version, "-W", str(SECONDS_MAX), "-d"]
    with subprocess.Popen(
        ["stdbuf", "-oL", *base, "-t", topic_filter, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "Subscribed" in line:
                    break
            else:
                raise AssertionError("mosquitto_sub was not subscribed")
            yield process.stdout
            process.wait(SECONDS_MAX)
        finally:
            process.kill()


def payloads(output: IO[str]) -> list[str]:
    """The messages among mosquitto_sub's remarks."""
    remarks = ("Client ", "Subscribed", " (null)", "    ")
    return [line.rstrip("\n") for line in output if not line.startswith(remarks)]


@pytest.fixture
def topic() -> str:
    """A topic of its own for each test: the broker is shared."""
    return f"interop/{uuid.uuid4().hex}"


@versions
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_one_message(served: Served, topic: str, version: str, qos: str) -> None:
    with subscribed(served, version, topic, "-q", qos, "-C", "1", "-F", "%q %r %t %p") as output:
        publish(served, version, topic, "-q", qos, "-m", "hello")
        assert payloads(output) == [f"{qos} 0 {topic} hello"]


@versions
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_a_line_for_each_message(served: Served, topic: str, version: str, qos: str) -> None:
    lines = [f"line {number}" for number in range(200)]
    with subscribed(served, version, f"{topic}/#", "-q", qos, "-C", "200") as output:
        publish(served, version, f"{topic}/x", "-q", qos, "-l", standard_input="\n".join(lines) + "\n")
        assert payloads(output) == lines


@versions
def test_retained_and_cleared(served: Served, topic: str, version: str) -> None:
    publish(served, version, topic, "-q", "1", "-r", "-m", "kept")
    with subscribed(served, version, topic, "-C", "1", "-F", "%r %p") as output:
        assert payloads(output) == ["1 kept"]
    publish(served, version, topic, "-q", "1", "-r", "-n")
    with subscribed(served, version, topic, "-C", "1", "-F", "%r %p") as output:
        publish(served, version, topic, "-m", "live")
        assert payloads(output) == ["0 live"]


@versions
def test_a_session_with_its_messages(served: Served, topic: str, version: str) -> None:
    kept = ["-i", f"mosquitto-{version}", "-c", *(["-x", "100"] if version == "mqttv5" else [])]
    with subscribed(served, version, topic, "-q", "1", "-E", *kept):
        pass
    publish(served, version, topic, "-q", "1", "-m", "while away")
    # what was kept comes before SUBACK
    command = [
        *("mosquitto_sub", "-h", served.host, "-p", str(served.port), "-V", version, "-t", topic, "-q", "1"),
        *kept,
    ]
    done = subprocess.run([*command, "-C", "1", "-W", str(SECONDS_MAX)], capture_output=True, text=True, check=False)
    assert done.stdout == "while away\n"


def test_a_shared_subscription(served: Served, topic: str) -> None:
    with subscribed(served, "mqttv5", f"$share/group/{topic}", "-q", "1", "-C", "2") as output:
        publish(served, "mqttv5", topic, "-q", "1", "-m", "one")
        publish(served, "mqttv5", topic, "-q", "1", "-m", "two")
        assert payloads(output) == ["one", "two"]


def test_properties(served: Served, topic: str) -> None:
    with subscribed(served, "mqttv5", topic, "-C", "1", "-F", "%C %R %P %p") as output:
        more = ["-D", "publish", "content-type", "text", "-D", "publish", "response-topic", "answers"]
        publish(served, "mqttv5", topic, "-m", "x", *more, "-D", "publish", "user-property", "name", "value")
        assert payloads(output) == ["text answers name:value x"]


def test_the_will_of_a_client_that_is_killed(served: Served, topic: str) -> None:
    with subscribed(served, "mqttv311", topic, "-C", "1", "-q", "1") as output:
        with subprocess.Popen(
            [
                *("stdbuf", "-oL", "mosquitto_sub", "-d", "-h", served.host, "-p", str(served.port)),
                *("-t", f"{topic}/other", "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        ) as dying:
            assert dying.stdout is not None
            assert any("Subscribed" in line for line in dying.stdout)
            dying.kill()
        assert payloads(output) == ["gone"]
