"""The jobs worker's hold on its data directory, and what it does when it is to end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery.exceptions import WorkerShutdown

from tasks.job import JobRunner
from tests.waiting import until
from workers.jobs import JobsStep


def test_a_data_directory_that_cannot_be_written_ends_the_worker_with_its_name(tmp_path, caplog):
    (tmp_path / "file").touch()
    with pytest.raises(WorkerShutdown):
        object.__new__(JobsStep)._hold(tmp_path / "file" / "data")
    assert f"BACKBEAT_DATA {tmp_path}/file/data cannot be written: Not a directory" in caplog.text


def test_a_worker_that_is_to_end_claims_no_more_and_stops_what_runs_when_its_time_is_over():
    step, stopped = object.__new__(JobsStep), []
    runner = JobRunner(SimpleNamespace(), None, ())
    runner.stop = lambda attempts, reason: stopped.append(reason)
    step.runner, step.backbeat = runner, SimpleNamespace(settings=SimpleNamespace(drain=0.0))
    step._drain()
    assert runner.claim_and_run() == "draining: left for another node"
    until(lambda: stopped == ["this node drains"])
