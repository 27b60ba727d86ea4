"""The disk under one node's games is full: its jobs say so, and another node is not harmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet.jobs import JobSpec, JobStatus

PLAYER = ["{python}", "-m", "examples.openspiel", "selfplay", "--config", "{config}", "--games", "{games}"]


def test_its_jobs_fail_with_a_clear_error_and_another_node_plays_on(
    house: Any, mount_small: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    mount_small(tmp_path / "n1", 256)
    house.configure({"note": {}}, jobs={"selfplay": {"command": PLAYER, "nice": 0}})
    job = {"kind": "selfplay", "config": "hex5_2p", "payload": {"games": 100_000}, "max_attempts": 1}
    (doomed,) = house.queue.enqueue([JobSpec(**job)])
    worker = house.jobs("n1", slots=1)
    house.until(lambda: house.queue.get(doomed).status.is_final, 60, "the disk is full")
    failed = house.queue.get(doomed)
    assert failed.status is JobStatus.FAILED
    assert any(said in failed.error for said in ("disk is full", "No space left", "disk I/O"))
    assert "Traceback" not in failed.error
    assert worker.alive
    # the same worker still claims and reports; and a node with room finishes its job
    (next_one,) = house.queue.enqueue([JobSpec(**{**job, "payload": {"games": 1}})])
    house.until(lambda: house.queue.get(next_one).status.is_final, 30)
    worker.terminate(25)
    (fine,) = house.queue.enqueue([JobSpec(**{**job, "payload": {"games": 2}})])
    house.jobs("n2", slots=1)
    house.until(lambda: house.queue.get(fine).status is JobStatus.COMPLETED, 30)
    assert house.queue.get(fine).result["games"] == 2
