"""What a loop's body is given: every part of the domain, ready to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

    from fleet.jobs import JobQueue
    from fleet.nodes import NodeRegistry
    from fleet.notices import Notices
    from fleet.options import FleetOptions


@dataclass(frozen=True)
class Fleet:
    """The domain as one node sees it. `data` is the node's own directory."""

    redis: Redis
    options: FleetOptions
    jobs: JobQueue
    nodes: NodeRegistry
    notices: Notices
    node_id: str
    data: Path
