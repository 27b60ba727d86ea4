"""Jobs on real nodes: claimed once, run as processes, reported; nodes that die, drain and lose messages."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from fleet.jobs import JobSpec, JobStatus

QUICK = {"command": ["{python}", "-c", "print('{{\"games\": 1}}')"], "nice": 0}
#: Writes its pid, then runs until it is stopped, with a child that does not care for SIGTERM.
LONG_BODY = """
import os, signal, subprocess, sys
code = "import signal as s; s.signal(15, s.SIG_IGN); s.pause()"
child = subprocess.Popen([sys.executable, "-c", code])
open(os.environ["BACKBEAT_JOB_ID"] + ".pids", "w").write(f"{os.getpid()} {child.pid}")
signal.pause()
"""
LONG = {"command": ["{python}", "-c", LONG_BODY.replace("{", "{{").replace("}", "}}")], "nice": 0}
#: Runs until its node is given the word.
GATED_BODY = "while [ ! -e go ]; do sleep 0.05; done; echo '{{\"games\": 1}}'"
GATED = {"command": ["sh", "-c", GATED_BODY], "nice": 0}
KINDS = {"selfplay": QUICK, "gated": GATED, "long": LONG, "missing": {"command": ["no-such-player", "--at-all"]}}


def spec(kind: str = "selfplay", **more: Any) -> JobSpec:
    return JobSpec(kind=kind, config="hex8_2p", **more)


def setup(house: Any) -> None:
    house.configure({"note": {"interval": "60s"}}, jobs=KINDS)


def pids(house: Any, node: str, job_id: str) -> list[int]:
    file = Path(house.folder) / node / f"{job_id}.pids"

    def read() -> list[int]:
        return [int(pid) for pid in file.read_text().split()] if file.exists() and file.read_text() else []

    found: list[int] = house.until(lambda: len(read()) == 2 and read(), 20, "the job's processes")
    return found


def gone(numbers: list[int]) -> bool:
    return all(not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie" for pid in numbers)


def statuses(house: Any) -> dict[str, int]:
    return {status.value: number for status, number in house.queue.counts().by_status.items() if number}


def test_a_hundred_jobs_are_each_run_once_without_a_single_message(house: Any) -> None:
    setup(house)
    ids = house.queue.enqueue([spec() for _ in range(100)])  # registered, never published
    house.jobs("n1", slots=4)
    house.jobs("n2", slots=4)
    house.until(lambda: statuses(house) == {"completed": 100}, 60, "all done")
    jobs = [house.queue.get(job_id) for job_id in ids]
    assert {job.attempt for job in jobs} == {1}
    assert {job.node for job in jobs} == {"n1", "n2"}
    assert house.queue.counts().games == {"hex8_2p": 100}


def test_a_command_that_does_not_exist_is_the_jobs_error_and_nobody_elses(house: Any) -> None:
    setup(house)
    (bad,) = house.queue.enqueue([spec("missing", max_attempts=1)])
    (unknown,) = house.queue.enqueue([spec("nobody_declared", max_attempts=1)])
    (good,) = house.queue.enqueue([spec()])
    worker = house.jobs("n1")
    house.until(lambda: statuses(house) == {"completed": 1, "failed": 2}, 30)
    assert "no-such-player" in house.queue.get(bad).error
    assert "add jobs.nobody_declared to the configuration" in house.queue.get(unknown).error
    assert house.queue.get(good).status is JobStatus.COMPLETED
    assert worker.alive


def test_a_cancelled_job_stops_with_its_whole_process_group(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long")])
    house.jobs("n1")
    family = pids(house, "n1", job_id)
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    house.queue.cancel(job_id, "changed my mind")
    house.until(lambda: gone(family), 20, "the processes are gone")
    assert house.queue.get(job_id).status is JobStatus.CANCELLED


def test_a_job_past_its_timeout_is_stopped_and_tried_again_later(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long", timeout=1.0)])
    house.jobs("n1")
    family = pids(house, "n1", job_id)
    house.until(lambda: house.queue.get(job_id).failures == 1, 20)
    assert gone(family)
    job = house.queue.get(job_id)
    assert job.status is JobStatus.PENDING
    assert job.not_before is not None


def test_a_node_that_drains_finishes_what_it_can_and_hands_back_the_rest(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long")])
    worker = house.jobs("n1")
    family = pids(house, "n1", job_id)
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    began = time.monotonic()
    assert worker.terminate(25) == 0
    assert time.monotonic() - began < 15
    assert gone(family)
    job = house.queue.get(job_id)
    assert (job.status, job.failures, job.node) == (JobStatus.PENDING, 0, None)
    house.jobs("n2")
    pids(house, "n2", job_id)
    house.until(lambda: house.queue.get(job_id).attempt == 2)


def test_a_job_that_ends_while_its_node_drains_is_completed_and_no_other_is_begun(house: Any, tmp_path: Path) -> None:
    setup(house)
    first, second = house.queue.enqueue([spec("gated"), spec("gated")])
    worker = house.jobs("n1", slots=1, BACKBEAT_DRAIN="60")
    house.until(lambda: house.queue.get(first).status is JobStatus.RUNNING)
    worker.send(signal.SIGTERM)
    house.until(lambda: "Warm shutdown" in worker.text())
    (tmp_path / "n1" / "go").touch()
    assert worker.popen.wait(25) == 0
    done, left = house.queue.get(first), house.queue.get(second)
    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 1)
    assert (left.status, left.attempt) == (JobStatus.PENDING, 0)


def test_a_killed_jobs_worker_is_replaced_and_its_job_runs_again_once(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long")])
    first = house.jobs("n1")
    family = pids(house, "n1", job_id)
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    first.kill()
    assert not gone(family)  # its job was left running
    (Path(house.folder) / "n1" / f"{job_id}.pids").unlink()
    house.jobs("n1")
    house.until(lambda: gone(family), 20, "the left-over processes are stopped")
    pids(house, "n1", job_id)
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    job = house.queue.get(job_id)
    assert (job.attempt, job.failures) == (2, 1)


def test_a_frozen_jobs_worker_reports_to_nobody_what_was_taken_from_it(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long")])
    worker = house.jobs("n1")
    family = pids(house, "n1", job_id)
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    worker.send(signal.SIGSTOP)
    house.queue.cancel(job_id, "its node was away")
    os.kill(family[0], signal.SIGKILL)  # the frozen worker will find its job ended
    worker.send(signal.SIGCONT)
    house.until(lambda: "no longer held" in worker.text() or "holds it no more" in worker.text(), 20, "it noticed")
    house.until(lambda: gone(family), 20)
    assert house.queue.get(job_id).status is JobStatus.CANCELLED
    assert statuses(house) == {"cancelled": 1}


def test_what_a_frozen_node_lost_to_another_is_completed_by_the_other_alone(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("gated")])
    frozen = house.jobs("n1")
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    frozen.freeze()
    (Path(house.folder) / "n1" / "go").touch()  # its job comes to its end, and nobody there to say so
    house.queue.reap(house.queue.get(job_id), "its node fell silent")
    house.jobs("n2")
    house.until(lambda: house.queue.get(job_id).node == "n2" and house.queue.get(job_id).started_at)
    frozen.send(signal.SIGCONT)
    house.until(lambda: "no longer held" in frozen.text() or "holds it no more" in frozen.text(), 20, "it noticed")
    house.until(lambda: not house.redis.exists("{backbeat}:jobs:holds:n1"))
    job = house.queue.get(job_id)
    assert (job.status, job.node, job.attempt) == (JobStatus.RUNNING, "n2", 2)
    (Path(house.folder) / "n2" / "go").touch()
    house.until(lambda: statuses(house) == {"completed": 1}, 20)
    assert house.queue.get(job_id).node == "n2"
    assert house.queue.counts().games == {"hex8_2p": 1}


def test_the_node_says_what_it_runs(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long")])
    house.agent("n1")
    worker = house.jobs("n1", slots=3)

    def document() -> dict[str, Any]:
        nodes = house.manager.get_status()["nodes"]
        found: dict[str, Any] = nodes[0] if nodes and nodes[0]["jobs_pid"] and nodes[0]["agent_pid"] else {}
        return found

    seen = house.until(lambda: document().get("running_jobs") == [job_id] and document(), 20)
    assert (seen["node_id"], seen["jobs_pid"], seen["slots"]) == ("n1", worker.pid, 3)
    assert json.dumps(seen)
    worker.terminate(25)
    house.until(lambda: house.manager.get_status()["nodes"][0]["jobs_pid"] is None, 10, "it said that it left")


def test_a_second_jobs_worker_of_a_node_leaves_the_first_ones_jobs_alone(house: Any) -> None:
    setup(house)
    (job_id,) = house.queue.enqueue([spec("long")])
    house.jobs("n1")
    family = pids(house, "n1", job_id)
    second = house.process(
        "n1-jobs-too",
        ["worker", "-n", "jobs2@n1", "-Q", "jobs.gpu", "-c", "1"],
        BACKBEAT_NODE_ID="n1",
        BACKBEAT_DATA=str(Path(house.folder) / "n1"),
    )
    assert second.popen.wait(30) == 1
    assert "another jobs worker uses" in second.text()
    assert not gone(family)
    assert house.queue.get(job_id).attempt == 1
