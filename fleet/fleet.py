"""What a loop's body is given: every part of the domain, ready to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from fleet.asking import Answered, call

if TYPE_CHECKING:
    from redis import Redis

    from fleet.asking import Send
    from fleet.holdings import Holdings
    from fleet.jobs import JobQueue
    from fleet.nodes import NodeRegistry
    from fleet.notices import Notices
    from fleet.options import FleetOptions
    from fleet.store import Store
    from fleet.tailnet_attempt import TailnetWatch


def _unreachable(node_id: str, task: str, _arguments: Mapping[str, Any], _reply: str | None = None, /) -> None:
    raise RuntimeError(f"this process can send no {task} to {node_id}")


def _no_loops(name: str) -> None:
    raise RuntimeError(f"this process can run no {name}")


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
    ask: Send = _unreachable
    #: Send a manual run of a loop. Raises what the broker's client raises.
    run: Callable[[str], None] = _no_loops
    #: What this node holds of the cluster's data, in its own processes.
    holdings: Holdings | None = None
    #: Set when this process is to end: what takes long stops then, and is gone on with later.
    stopping: Event = field(default_factory=Event)
    #: Where models and games are kept for the whole cluster; None: nowhere.
    store: Store | None = None
    #: This node's tailnet, in its agent.
    tailnet: TailnetWatch | None = None

    def call(self, asked: Mapping[str, tuple[str, Mapping[str, Any]]], wait: float) -> dict[str, Answered]:
        """Ask each node (node id -> node task, arguments) and wait up to `wait` seconds for what they say.

        The wait ends when this process is to.
        """
        return call(self.redis, self.ask, asked, wait, self.stopping.is_set)

    def report_holdings(self) -> None:
        """Tell the registry what is new in what this node holds. Raises RedisError."""
        if self.holdings is not None:
            self.holdings.report()
