"""The jobs worker's hold on its data directory."""

from __future__ import annotations

import pytest
from celery.exceptions import WorkerShutdown

from workers.jobs import JobsStep


def test_a_data_directory_that_cannot_be_written_ends_the_worker_with_its_name(tmp_path, caplog):
    (tmp_path / "file").touch()
    with pytest.raises(WorkerShutdown):
        object.__new__(JobsStep)._hold(tmp_path / "file" / "data")
    assert f"BACKBEAT_DATA {tmp_path}/file/data cannot be written: Not a directory" in caplog.text
