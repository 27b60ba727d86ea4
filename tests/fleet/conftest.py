"""The job queue on the test's own database, and a node that runs jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from fleet.jobs import JobQueue
from tests.fleet.node_stage import Node, lives, open_descriptors
from tests.fleet.queue_stage import Counting


@pytest.fixture
def queue(redis: Redis) -> JobQueue:
    return JobQueue(redis)


@pytest.fixture
def counting(redis: Redis, session_server: Any) -> Iterator[Counting]:
    tap = Counting(session_server.url)
    yield tap
    tap.client.close()
    tap.client.connection_pool.disconnect()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "data")
    before = open_descriptors()
    yield node
    for pid in node.pids:
        assert not lives(pid)
    assert open_descriptors() <= before, "a file descriptor is left open"
