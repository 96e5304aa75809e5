"""The rows: definitions that must not change, brokers that get the same limits, bars that belong to a row."""

from __future__ import annotations

import re
from typing import Literal

import pytest

from acebroker_middleware.acl import AclAuthority, AclRules
from tests.bench.bars import BARS
from tests.bench.brokers import ACL_RULES, HERE, ours, peers
from tests.bench.scenarios import SCENARIOS, any_over_tls
from trio_acebroker import BrokerConfig, Limits
from trio_acebroker.config import Listener, Tls
from trio_acebroker.plugins import load_stage

#: a second copy, so that a change of the first is no accident: figures of all revisions are compared by these
DEFINITIONS = {
    "one": "flow -n 1 -m 1 -w 5000",
    "fanin": "flow -t fanin -n 50 -m 1 -w 100",
    "fan100": "flow -t fanout -n 1 -m 100 -w 50",
    "fan1000": "flow -t fanout -n 1 -m 1000 -w 10",
    "pairs": "flow -n 100 -m 100 -w 50",
    "pairs1": "flow -n 100 -m 100 -w 1",
    "qos1": "flow -n 100 -m 100 -q 1 -w 20",
    "qos2": "flow -n 100 -m 100 -q 2 -w 20",
    "storm": "storm -n 100",
    "idle": "idle -n 5000",
    "lat1k": "flow -n 100 -m 100 -r 1000 -s",
    "lat10k": "flow -n 100 -m 100 -r 10000 -s",
    "wild": "flow -t wild -n 10 -m 100 -f 1000 -w 500",
    "retained": "retained -c 100000 -w 20",
    "tls": "flow -n 100 -m 100 -w 50 -S",
    "tls1": "flow -n 100 -m 100 -w 1 -S",
    "tlsstorm": "storm -n 100 -S",
}


def test_definitions_stay() -> None:
    assert {name: [case.load for case in SCENARIOS[name].cases] for name in DEFINITIONS} == {
        name: [load] for name, load in DEFINITIONS.items()
    }


def test_bars_belong_to_a_row_and_one_of_its_cases() -> None:
    for bar in BARS:
        brokers = {spec + case.name for spec in ("ours", "ours-raw") for case in SCENARIOS[bar.scenario].cases}
        assert bar.broker in brokers
        assert bar.unit in {None, "mosquitto"} | brokers


def test_the_readme_explains_every_row() -> None:
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    explained = {
        name for names in re.findall(r"^\| ([a-z0-9, ]+) \|", readme, re.MULTILINE) for name in names.split(", ")
    }
    assert set(SCENARIOS) <= explained


@pytest.mark.parametrize("name", ["mosquitto", "mosquitto21"])
def test_mosquitto_gets_our_limits(name: str) -> None:
    limits = Limits()
    configured = dict(line.split(maxsplit=1) for line in peers()[name].setups[""].files["m.conf"].splitlines())
    assert int(configured["max_queued_messages"]) == limits.queued_messages_max
    assert int(configured["max_queued_bytes"]) == limits.queued_bytes_max
    assert int(configured["max_inflight_messages"]) == limits.in_flight_max


def test_flashmq_gets_our_limits() -> None:
    limits = Limits()
    configured = dict(re.findall(r"^(\w+) (\d+)$", peers()["flashmq"].setups[""].files["f.conf"], re.MULTILINE))
    assert int(configured["max_qos_msg_pending_per_client"]) == limits.queued_messages_max
    assert int(configured["max_qos_bytes_pending_per_client"]) == limits.queued_bytes_max
    assert int(configured["client_max_write_buffer_size"]) == limits.out_queue_bytes_max


@pytest.mark.parametrize("shell", ["auto", "raw"])
@pytest.mark.parametrize("setup", ["", "acl"])
def test_our_setups_change_only_what_they_are_about(setup: str, shell: Literal["auto", "raw"]) -> None:
    chosen = ours("ours", shell).setups[setup]
    if "--listen" in chosen.command:
        assert not chosen.files  # as shipped
        return
    config = BrokerConfig.from_toml(chosen.files["broker.toml"].replace("{port}", "1884"))
    shipped = BrokerConfig()
    assert (config.limits, config.sys_topics, config.log) == (shipped.limits, shipped.sys_topics, shipped.log)
    assert [(listener.port, listener.shell) for listener in config.listeners] == [(1884, shell)]
    assert [stage.use for stage in config.stages] == (["rate-limit"] if setup else [])
    for stage in config.stages:
        load_stage(stage.use, stage.options)


def test_the_setup_over_tls_changes_only_that() -> None:
    text = ours().setups["tls"].files["broker.toml"].replace("{port}", "1884")
    (listener,) = BrokerConfig.from_toml(text).listeners
    assert listener == Listener(port=1884, tls=listener.tls)
    assert listener.tls == Tls(certificate="localhost.pem", key="localhost.key")


def test_rows_over_tls_have_a_setup_for_it() -> None:
    for name, row in SCENARIOS.items():
        assert any_over_tls([name]) == any(case.setup == "tls" for case in row.cases)


def test_the_acl_file_of_the_row_acl_lets_its_load_pass() -> None:
    anybody = AclAuthority(AclRules.parse(ACL_RULES, "acl"), None, "mqp1")
    assert anybody.permits_publish("bench/pair/7").allowed
    assert anybody.permits_subscribe("bench/pair/7").allowed
    assert not anybody.permits_publish("bench/flood").allowed
