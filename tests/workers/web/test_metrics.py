"""What Prometheus is told, and that rules, the Grafana dashboard and the documents speak of nothing else."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from fleet.elo_board import ELO, TARGETS
from fleet.jobs import Holder, JobQueue, JobSpec, JobStatus
from fleet.nodes import ROLES, NodeRegistry
from tests.workers.web.test_pages import round_trips
from workers.lease import LeaderLease
from workers.show import STYLES
from workers.status import NODE_STATUSES
from workers.web.metrics import COUNTER, FAMILIES, SUMMARY, UP

ROOT = Path(__file__).parents[3]
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "backbeat.json").read_text())
#: Every family with its name on the wire.
NAMES = {UP[0]: UP[1]} | {each.name + "_total" * (each.type is COUNTER): each.meaning for each in FAMILIES}


def ours(served: Any) -> dict[str, Metric]:
    """Our families, by name."""
    answer = served.ask("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found = text_string_to_metric_families(answer.text)
    return {family.name: family for family in found if family.name.startswith("backbeat")}


def values(families: dict[str, Metric], sample: str) -> dict[tuple[str, ...], float]:
    """A sample's values, by the values of its labels."""
    return {
        tuple(each.labels.values()): each.value
        for family in families.values()
        for each in family.samples
        if each.name == sample
    }


@pytest.fixture
def cluster(timetable: Any, registry: NodeRegistry, redis: Redis) -> float:
    """Something of everything; returns the server's time."""
    now = float(redis.time()[0])
    timetable.add("alpha", "idle")
    timetable.ran("alpha", duration=0.5)
    timetable.ran("alpha", duration=1.5)
    timetable.ran("alpha", "failed", error="no luck", backoff=60.0)
    timetable.gate("idle", 7, "r", ttl=8, deadline=9, leader_only=False, owner="", identity="n1")
    assert LeaderLease(redis, "n1").try_once()
    timetable.claim("b1", '{"host": "h", "pid": 1}', ttl=30.0, grace=5.0)
    registry.heartbeat("n1", "agent", {"host": "h"})
    queue = JobQueue(redis)
    queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(3)])
    job = queue.claim(Holder("n1", "o"), ["cpu"])
    assert job is not None
    queue.start(Holder("n1", "o"), job.id, job.attempt)
    queue.complete(Holder("n1", "o"), job.id, job.attempt, {"games": 5})
    best = {"participant": "m", "rating": 1512.5, "deviation": 20.25, "games": 412, "lower_bound": 1473.1}
    redis.hset(ELO, mapping={"hex8_2p": json.dumps({"config": "hex8_2p", "at": now, "best": best})})
    redis.hset(TARGETS, "hex8_2p", json.dumps({"target": 1600, "met": False}))
    return now


def test_each_series_has_the_value_that_the_cluster_has(served: Any, cluster: float) -> None:
    found = ours(served)
    assert values(found, "backbeat_up") == {(): 1}
    assert values(found, "backbeat_loop_runs_total")["alpha", "succeeded"] == 2
    assert values(found, "backbeat_loop_runs_total")["alpha", "failed"] == 1
    assert values(found, "backbeat_loop_duration_seconds_sum")["alpha",] == 2.0
    assert values(found, "backbeat_loop_duration_seconds_count")["alpha",] == 2
    assert values(found, "backbeat_loop_consecutive_errors") == {("alpha",): 1, ("idle",): 0}
    assert ("alpha", "backing_off") in values(found, "backbeat_loop_state")
    assert values(found, "backbeat_loop_skipped_total") == {("idle", "stale"): 1}
    (last,) = values(found, "backbeat_loop_last_success_timestamp_seconds").items()
    assert last[0] == ("alpha",)
    assert last[1] == pytest.approx(cluster, abs=5)
    assert values(found, "backbeat_leader_info") == {(socket.gethostname(), "n1"): 1}
    assert values(found, "backbeat_beats") == {("active",): 1, ("standby",): 0}
    assert values(found, "backbeat_nodes")["healthy",] == 1
    assert values(found, "backbeat_node_processes") == {("agent",): 1, ("jobs",): 0}
    assert values(found, "backbeat_jobs")["selfplay", "pending"] == 2
    assert ("selfplay", "completed") not in values(found, "backbeat_jobs")
    assert values(found, "backbeat_jobs_completed_total") == {("selfplay",): 1}
    assert values(found, "backbeat_games_total") == {("hex8_2p",): 5}
    assert values(found, "backbeat_elo_rating") == {("hex8_2p",): 1512.5}
    assert values(found, "backbeat_elo_target") == {("hex8_2p",): 1600}
    assert values(found, "backbeat_elo_target_met") == {("hex8_2p",): 0}


def test_a_scrape_reads_the_server_twice_and_keeps_flowers_own_metrics(served: Any, cluster: float) -> None:
    text = served.ask("/metrics").text
    assert "flower_" in text
    assert "python_info" in text
    list(served.app.metrics.collect())  # this thread has its connection now
    with round_trips() as sent:
        list(served.app.metrics.collect())
    assert len(sent) == 2


def test_without_the_server_there_is_one_series_that_says_so(serving: Callable[..., Any], nobody: str) -> None:
    away = serving(nobody)
    assert "\nbackbeat_up 0.0\n" in away.ask("/metrics").text
    assert [family.name for family in away.app.metrics.collect()] == ["backbeat_up"]


# conventions and documents --------------------------------------------------------------------------------


def test_names_follow_prometheus_conventions() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"backbeat_[a-z_]+", family.name), family.name
        assert not family.name.endswith(("_total", "_ms", "_minutes", "_count", "_sum")), family.name
        if family.type is SUMMARY or "duration" in family.name or "timestamp" in family.name:
            assert family.name.endswith("_seconds"), family.name
        assert family.meaning.endswith("."), family.name
    assert len(NAMES) == len(FAMILIES) + 1


def test_prometheus_has_nothing_to_say_against_them(
    served: Any, cluster: float, lacking: Callable[[str], NoReturn]
) -> None:
    if shutil.which("promtool") is None:
        lacking("promtool is not here: it comes with Prometheus")
    text = served.ask("/metrics").text
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_every_metric_is_documented_with_its_type_labels_and_meaning(docs: Path) -> None:
    rows = re.findall(
        r"^\| `(backbeat_\w+)` \| (\w+) \| (.+?) \| (.*?) ?\| (.+) \|$", (docs / "metrics.md").read_text(), re.M
    )
    types = {COUNTER: "counter", SUMMARY: "summary"}
    wanted = {UP[0]: ("gauge", "", UP[1])}
    for each in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        wanted[each.name + "_total" * (each.type is COUNTER)] = types.get(each.type, "gauge"), labels, each.meaning
    assert {name: (kind, labels, meaning) for name, kind, _, labels, meaning in rows} == wanted
    assert all(unit for _, _, unit, _, _ in rows)


def named(expression: str) -> set[str]:
    """The metrics of an expression, without what a summary's name gets."""
    return {re.sub(r"_(sum|count)$", "", name) for name in re.findall(r"\bbackbeat_\w+", expression)}


def labels(expression: str) -> set[tuple[str, str]]:
    """The labels by which an expression selects, with their metric."""
    return {
        (re.sub(r"_(sum|count)$", "", name), label)
        for name, selected in re.findall(r"\b(backbeat_\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)=", selected)
    }


EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [
    target["expr"] for panel in BOARD["panels"] for target in panel["targets"]
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rules_and_panels_use_metrics_and_labels_that_exist(expression: str) -> None:
    known = {each.name + "_total" * (each.type is COUNTER): each.labels for each in FAMILIES}
    assert named(expression) <= NAMES.keys()
    assert [pair for pair in labels(expression) if pair[1] not in known[pair[0]]] == []
    assert expression.count("(") == expression.count(")")


#: What the labels with a closed set of values may say.
VALUES = {
    ("backbeat_beats", "state"): {"active", "standby"},
    ("backbeat_jobs", "status"): {status.value for status in JobStatus},
    ("backbeat_loop_runs_total", "outcome"): {"succeeded", "failed"},
    ("backbeat_loop_state", "state"): STYLES.keys(),
    ("backbeat_node_processes", "role"): set(ROLES),
    ("backbeat_nodes", "status"): set(NODE_STATUSES),
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rules_and_panels_select_by_values_that_occur(expression: str) -> None:
    for name, selected in re.findall(r"\b(backbeat_\w+)\{([^}]*)\}", expression):
        for label, values in re.findall(r'(\w+)[=!]~?"([^"]*)"', selected):
            assert set(values.split("|")) <= VALUES[name, label], (name, label, values)


def test_the_values_that_occur_are_those(served: Any, cluster: float) -> None:
    found = ours(served)
    for (name, label), values in VALUES.items():
        samples = found[name.removesuffix("_total")].samples
        assert {each.labels[label] for each in samples if each.name == name} <= values, (name, label)


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_is_whole_and_has_its_section_in_the_runbook(rule: dict[str, Any], docs: Path) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert re.search(rf"^### {rule['alert']}\n\n\S", (docs / "operations.md").read_text(), re.MULTILINE)


def test_the_runbook_has_no_alert_that_is_none(docs: Path) -> None:
    sections = re.findall(r"^### (Backbeat\w+)$", (docs / "operations.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in ALERTS)


def test_the_grafana_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [each["type"] for each in BOARD["templating"]["list"]] == ["datasource"]
