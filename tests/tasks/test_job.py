"""The job runner with a real queue and real processes: attempts that follow upon each other on one node."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from redis import Redis

from fleet.fleet import Fleet
from fleet.holdings import Holdings
from fleet.jobs import Holder, Job, JobQueue, JobSpec, JobStatus
from fleet.kinds import JobKind
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from tasks.job import JobRunner
from tests.waiting import until

#: Says that it runs, and goes on until `go` is there; after SIGTERM until `leave` is.
GATED = """
trap 'while [ ! -e leave ]; do sleep 0.02; done; exit 1' TERM
echo $$ > $BACKBEAT_JOB_ATTEMPT
while [ ! -e go ]; do sleep 0.02; done
"""
KINDS = {
    "selfplay": JobKind(command=("sh", "-c", GATED), nice=0),
    "broken": JobKind(command=("false",), nice=0, then=("elo_sync",)),
    "tournament": JobKind(command=("true",), nice=0, then=("elo_sync", "model_sync")),
}
HOLDER = Holder("n1", "o1")


class Node:
    """A node whose runner serves wake-ups in threads."""

    def __init__(self, redis: Redis, data: Path) -> None:
        self.data = data
        notices = Notices(redis=redis, interval=0)
        self.queue = JobQueue(redis, notices=notices)
        options = FleetOptions(jobs=KINDS)
        self.runner = JobRunner(
            Fleet(redis, options, self.queue, NodeRegistry(redis), notices, "n1", data), HOLDER, ["cpu"]
        )
        self.said: list[str] = []
        self.threads: list[threading.Thread] = []

    def wake(self) -> threading.Thread:
        thread = threading.Thread(target=lambda: self.said.append(self.runner.claim_and_run()))
        thread.start()
        self.threads.append(thread)
        return thread

    def pid(self, attempt: int) -> int:
        file = self.data / str(attempt)
        until(lambda: file.exists() and file.read_text().strip())
        return int(file.read_text())

    def job(self) -> Job:
        job = self.queue.get("a")
        assert job is not None
        return job

    def running(self, attempt: int) -> None:
        """Wait until that attempt runs, and is known to."""
        self.pid(attempt)
        until(lambda: (self.job().status, self.job().attempt) == (JobStatus.RUNNING, attempt))

    def touch(self, *names: str) -> None:
        for name in names:
            (self.data / name).touch()

    def close(self) -> None:
        self.touch("go", "leave")
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def node(redis: Redis, tmp_path: Path) -> Iterator[Node]:
    node = Node(redis, tmp_path)
    yield node
    node.close()


def test_an_attempt_waits_until_the_one_before_it_is_gone(node: Node) -> None:
    """They share a folder, and each looks for its processes by the job's name."""
    node.queue.enqueue([JobSpec("selfplay", "hex8_2p", id="a")])
    first = node.wake()
    node.running(1)
    assert node.queue.reap(node.job(), "taken back") is JobStatus.PENDING
    node.wake()
    until(lambda: node.job().attempt == 2)
    assert first.is_alive()
    node.touch("leave")
    node.running(2)
    assert not first.is_alive()
    assert not psutil.pid_exists(node.pid(1))
    assert node.said == ["a: refused: no longer held"]
    assert node.runner.attempts() == {"a": 2}
    node.touch("go")
    until(lambda: node.job().status is JobStatus.COMPLETED)


def test_a_node_that_drains_meanwhile_hands_the_next_attempt_back(node: Node) -> None:
    node.queue.enqueue([JobSpec("selfplay", "hex8_2p", id="a")])
    node.wake()
    node.running(1)
    node.queue.reap(node.job(), "taken back")
    second = node.wake()
    until(lambda: node.job().attempt == 2)
    node.runner.draining.set()
    node.touch("leave")
    second.join(20)
    job = node.job()
    assert (job.status, job.failures) == (JobStatus.PENDING, 1)
    assert "a: handed back" in node.said
    assert not (node.data / "2").exists()


def test_what_is_said_of_an_attempt_does_not_stop_the_next_one(node: Node) -> None:
    """The poll that named the first may come back when the second runs."""
    node.queue.enqueue([JobSpec("selfplay", "hex8_2p", id="a")])
    node.wake()
    node.running(1)
    node.runner.stop({"a": 2, "b": 1}, "another attempt, another job")
    node.queue.poll(HOLDER, node.runner.attempts(), {}, 0)
    assert psutil.pid_exists(node.pid(1))
    node.touch("leave")
    node.runner.stop({"a": 1}, "enough")
    until(lambda: node.job().status is JobStatus.PENDING)
    assert node.job().error == "enough"


def test_a_job_that_fails_for_good_is_told_of(node: Node) -> None:
    node.queue.enqueue(
        [JobSpec("broken", "hex8_2p", id="a", max_attempts=1), JobSpec("unknown", "hex8_2p", id="b", max_attempts=1)]
    )
    assert node.runner.claim_and_run() == "a: failed, now failed"
    assert node.runner.claim_and_run().startswith("b: failed: no command for jobs of kind 'unknown'")
    told = [notice.body for _, notice in node.runner.fleet.notices.recent()]
    assert told[0].startswith("b failed: no command for jobs of kind 'unknown'")
    assert told[1] == "a failed: exit code 1"


def test_loops_that_work_on_what_a_job_made_run_when_it_has_completed(node: Node) -> None:
    runs: list[str] = []
    nodes = node.runner.fleet.nodes
    nodes.heartbeat("n1", "jobs", {})
    held = Holdings(nodes, "n1", node.data, readers={"matches": lambda _data: {"after": list(runs)}})
    node.runner.fleet = replace(node.runner.fleet, run=runs.append, holdings=held)
    node.queue.enqueue([JobSpec(id="good", kind="tournament", config="hex8_2p")])
    assert node.runner.claim_and_run() == "good: completed"
    assert runs == ["elo_sync", "model_sync"]
    assert nodes.all()[0].held == {"matches": {"after": []}}, "what the node holds is said before the loops run"
    node.queue.enqueue([JobSpec(id="bad", kind="broken", config="hex8_2p")])
    assert "failed" in node.runner.claim_and_run()
    assert runs == ["elo_sync", "model_sync"]


def test_a_loop_that_cannot_be_sent_is_no_fault_of_the_job(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.queue.enqueue([JobSpec(id="good", kind="tournament", config="hex8_2p")])
    assert node.runner.claim_and_run() == "good: completed"
    assert "elo_sync runs at its next slot: this process can run no elo_sync" in caplog.text
