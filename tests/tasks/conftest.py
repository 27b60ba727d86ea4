"""What a loop's body is given, on an empty database."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from fleet.fleet import Fleet
from fleet.jobs import JobQueue
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions


@pytest.fixture
def fleet(redis: Redis, tmp_path: Path) -> Fleet:
    """The domain as node n0 sees it; every notice is sent on its own."""
    return Fleet(
        redis=redis,
        options=FleetOptions(),
        jobs=JobQueue(redis),
        nodes=NodeRegistry(redis),
        notices=Notices(redis=redis, interval=0),
        node_id="n0",
        data=tmp_path,
    )
