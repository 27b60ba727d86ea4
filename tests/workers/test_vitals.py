"""What an agent tells of its machine, and what a jobs worker tells of its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from fleet.metrics import Minute
from fleet.nodes import HEARTBEAT, NodeRegistry
from tasks.job import JobRunner
from workers.jobs import WorkReport
from workers.vitals import STALE_AFTER, Vitals

MINUTE = 1_800_000_000.0


class Meter:
    """Simulated: measures what the test says, and fails when that is an error."""

    def __init__(self) -> None:
        self.cpu: float | Exception = 10.0

    def measure(self) -> dict[str, Any]:
        if isinstance(self.cpu, Exception):
            raise self.cpu
        return {"metrics": {"cpu": self.cpu, "memory": 20.0, "disk": 30.0}, "addresses": {"lan": ["10.0.0.1"]}}


class Machine:
    """An agent's vitals on a simulated machine, and the heartbeats that carry them."""

    def __init__(self, nodes: NodeRegistry) -> None:
        self.meter, self.now, self.nodes = Meter(), 0.0, nodes
        self.vitals = Vitals(nodes, "n1", self.meter, clock=lambda: self.now)

    def beat(self, at: float, *, lost: bool = False) -> bool:
        """Measure and send a heartbeat, which may get lost; whether it carries a history."""
        self.vitals.measure()
        facts, history = self.vitals.facts(), self.vitals.history()
        if not lost:
            self.vitals.heard(self.nodes.heartbeat("n1", "agent", facts, history=history, now=at))
        return history is not None


@pytest.fixture
def machine(redis: Redis) -> Callable[[], Machine]:
    return lambda: Machine(NodeRegistry(redis))


def test_facts_are_what_was_measured_last(machine: Callable[[], Machine]) -> None:
    here = machine()
    assert here.vitals.facts().keys() == {"versions"}
    here.vitals.measure()
    assert here.vitals.facts()["metrics"]["cpu"] == 10.0
    assert here.vitals.facts()["addresses"] == {"lan": ["10.0.0.1"]}
    assert here.vitals.facts()["versions"].keys() == {"python", "celery", "backbeat"}


def test_a_measurement_that_hangs_costs_the_metrics_and_not_the_heartbeat(machine: Callable[[], Machine]) -> None:
    here = machine()
    here.vitals.measure()
    here.now = STALE_AFTER
    assert "metrics" in here.vitals.facts()
    here.now = STALE_AFTER + 0.1
    assert here.vitals.facts().keys() == {"versions"}
    here.vitals.heard(MINUTE)
    here.vitals.heard(MINUTE + 60)
    assert here.vitals.history() is None


def test_a_measurement_counts_once_however_many_heartbeats_tell_it(machine: Callable[[], Machine]) -> None:
    here = machine()
    here.beat(MINUTE)
    here.vitals.heard(MINUTE + 5)
    here.vitals.heard(MINUTE + 10)
    here.beat(MINUTE + 60)
    assert [row[1] for row in here.vitals.history() or ()] == [1]


def test_the_history_is_sent_once_a_minute_and_again_until_it_arrives(machine: Callable[[], Machine]) -> None:
    here = machine()
    sent = [here.beat(MINUTE + HEARTBEAT * n) for n in range(26)]
    assert [n for n, with_history in enumerate(sent) if with_history] == [13, 25]
    assert [here.beat(MINUTE + 180, lost=lost) for lost in (False, True, True, False, False)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    rows = Minute.rows(here.nodes.history("n1"))
    assert [(row.at - MINUTE, row.samples, row.cpu) for row in rows] == [(0, 12, 10.0), (60, 12, 10.0), (120, 2, 10.0)]


def test_an_agent_goes_on_with_what_its_predecessor_remembered(machine: Callable[[], Machine]) -> None:
    first = machine()
    for n in range(26):
        first.beat(MINUTE + HEARTBEAT * n)
    second = machine()
    second.meter.cpu = 90.0
    for n in range(26, 40):
        second.beat(MINUTE + HEARTBEAT * n)
    rows = Minute.rows(second.nodes.history("n1"))
    assert [(row.at - MINUTE, row.samples, row.cpu) for row in rows] == [(0, 12, 10.0), (60, 12, 10.0), (120, 10, 90.0)]


def test_minutes_are_those_of_redis_time_whatever_the_node_thinks(machine: Callable[[], Machine]) -> None:
    here = machine()
    for n in range(14):
        here.now += 3600
        here.beat(MINUTE + HEARTBEAT * n)
    assert [row.at for row in Minute.rows(here.nodes.history("n1"))] == [MINUTE]


# work ----------------------------------------------------------------------------------------------------


@pytest.fixture
def runner() -> JobRunner:
    return JobRunner(fleet=None, holder=None, capabilities=())  # type: ignore[arg-type]


def test_a_worker_that_never_ran_a_job_says_so(runner: JobRunner) -> None:
    report = WorkReport(runner, 2, ["cpu"])
    report.heard(100.0)
    assert report.facts() == {"slots": 2, "capabilities": ["cpu"], "running": []}


def test_the_last_job_is_as_old_as_the_last_heartbeat_that_knew_of_one(runner: JobRunner) -> None:
    report = WorkReport(runner, 2, ["cpu"])
    runner.running["j1"] = ("job", "stop")  # type: ignore[assignment]
    runner.runs = 1
    report.heard(100.0)
    assert (report.facts()["running"], report.facts()["last_job_at"]) == (["j1"], 100.0)
    report.heard(105.0)
    runner.running.clear()
    report.heard(110.0)
    assert (report.facts()["running"], report.facts()["last_job_at"]) == ([], 105.0)


def test_a_job_shorter_than_a_heartbeat_is_told_too(runner: JobRunner) -> None:
    report = WorkReport(runner, 2, ["cpu"])
    report.heard(100.0)
    runner.runs = 1  # it began and ended since
    report.heard(105.0)
    report.heard(110.0)
    assert report.facts()["last_job_at"] == 105.0
