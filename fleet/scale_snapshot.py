"""What scaling is decided from, what it comes to, and what it remembers.

Instants are seconds since the epoch on Redis time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet.games import number_of
from fleet.nodes import SILENT_AFTER, Node
from fleet.providers.port import Instance

LOOP = "auto_scaling"


class Policy(Protocol):
    """The loop's options; durations in seconds, thresholds in pending jobs a node, costs an hour."""

    min_nodes: int
    max_nodes: int
    scale_up_threshold: float
    scale_down_threshold: float
    scale_up_cooldown: float
    scale_down_cooldown: float
    max_step_up: int
    max_step_down: int
    stabilize_for: float
    join_within: float
    failure_backoff: float
    drain_for: float
    max_hourly_cost: float | None
    cost_per_hour: float | None
    name_prefix: str


@dataclass(frozen=True)
class Member:
    """A registered node as scaling sees it. `live`: its jobs worker takes jobs of the capabilities in question.

    `heard_at` is that worker's last heartbeat, `running` how many jobs it had then, `idle_since` and
    `drained_at` what the marks say, `new_games` how many games would be lost with it.
    """

    node_id: str
    live: bool
    running: int = 0
    heard_at: float = 0.0
    idle_since: float | None = None
    drained_at: float | None = None
    drained_by: str = ""
    new_games: int = 0

    @classmethod
    def of(cls, node: Node, capabilities: Sequence[str], now: float, *, gathering: bool = False) -> Member:
        """What the registry says of a node. `gathering`: games can leave it, so they are worth waiting for."""
        heard_at = node.heard.get("jobs", 0.0)
        offered = node.roles.get("jobs", {}).get("capabilities", ())
        idle, drain = node.marks.get("idle"), node.marks.get("drain")
        return cls(
            node.node_id,
            live=now - heard_at <= SILENT_AFTER and not set(capabilities).isdisjoint(offered),
            running=len(node.running),
            heard_at=heard_at,
            idle_since=None if idle is None else float(idle.get("since", now)),
            drained_at=None if drain is None else float(drain.get("at", 0.0)),
            drained_by="" if drain is None else str(drain.get("by", "")),
            new_games=number_of("new", node.held.get("games", {})) if gathering else 0,
        )


@dataclass(frozen=True)
class Awaited:
    """An instance that is to be heard of `since` then; `counted`: that it was not is no further failure."""

    since: float
    counted: bool = False


@dataclass(frozen=True)
class Scaling:
    """What scaling knows from one run to the next, and says to whoever asks.

    `window` holds recommendations, each with the instant since when none was higher; `seq` and `number`
    name the last instance; `pinned` is an operator's number of nodes. The rest is the last decision.
    """

    last_up_at: float = 0.0
    last_down_at: float = 0.0
    failed_at: float = 0.0
    failures: int = 0
    awaited: Mapping[str, Awaited] = field(default_factory=dict)
    window: tuple[tuple[float, int], ...] = ()
    seq: int = 0
    number: int = 0
    pinned: int | None = None
    decided_at: float = 0.0
    nodes: int = 0
    wanted: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What the decision is made from.

    `pending` jobs could run on the nodes in question; `instances` are ours, or None where nothing can be
    started; `here` is the node that decides, which does not end itself; `seq` numbers the tick.
    """

    now: float
    pending: int
    members: Sequence[Member]
    instances: Sequence[Instance] | None
    scaling: Scaling = field(default_factory=Scaling)
    here: str = ""
    seq: int = 0


@dataclass(frozen=True)
class Decision:
    """What to do: node ids are the names of instances. `scaling` is to be stored before anything is done.

    `failed` are instances that did not join in time; `coming` and `draining` count those on their way.
    """

    scaling: Scaling
    key: str
    start: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    undrain: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    coming: int = 0
    draining: int = 0

    @property
    def marks(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        """The changes to the nodes' marks."""
        mark = {"reason": "not needed any more", "at": self.scaling.decided_at, "by": LOOP}
        marks: dict[str, dict[str, dict[str, Any] | None]] = {name: {"drain": mark} for name in self.drain}
        return marks | {name: {"drain": None} for name in self.undrain}
