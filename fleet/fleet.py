"""What a loop's body is given: every part of the domain, ready to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

    from fleet.jobs import JobQueue
    from fleet.nodes import NodeRegistry
    from fleet.notices import Notices
    from fleet.options import FleetOptions
    from fleet.tailnet_attempt import TailnetWatch


def _unreachable(node_id: str, task: str, _arguments: Mapping[str, Any]) -> None:
    raise RuntimeError(f"this process can send no {task} to {node_id}")


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
    #: Ask a node's agent for a node task by name: node id, name, arguments. Raises what the broker's client raises.
    ask: Callable[[str, str, Mapping[str, Any]], None] = _unreachable
    #: This node's tailnet, in its agent.
    tailnet: TailnetWatch | None = None
