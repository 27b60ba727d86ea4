"""Status documents made on the spot, and what they look like."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from fleet.nodes import Node

NOW = 1_800_000_000.0
#: A configuration's best, as the board has it.
BEST = {
    "participant": "hex8_2p-g0003-0123456789ab",
    "rating": 1512.34,
    "deviation": 20.0,
    "games": 412,
    "lower_bound": 1473.1,
}


def loop(name: str, **more: Any) -> dict[str, Any]:
    """A loop's part of the status document."""
    return {
        "name": name,
        "running": True,
        "paused": False,
        "enabled": True,
        "stopped": False,
        "leader_only": False,
        "interval": 60.0,
        "run_count": 120,
        "success_count": 117,
        "error_count": 3,
        "consecutive_errors": 0,
        "missed": 4,
        "skipped": {"stale": 2},
        "average_duration_ms": 48.4,
        "last_duration_ms": 50.0,
        "last_run_time": NOW - 12,
        "last_success_at": NOW - 12,
        "last_outcome": "succeeded",
        "last_counts": {"added": 50, "ratio": 0.25},
        "last_run_by": "n1@h",
        "last_error": None,
        "last_error_at": None,
        "last_traceback": None,
        "next_run": NOW + 48,
        "backing_off_until": None,
        "executing": False,
        "executing_by": None,
        "executing_since": None,
        "state": "due",
        **more,
    }


def failing(name: str, error: str, **more: Any) -> dict[str, Any]:
    return loop(
        name,
        state="backing_off",
        consecutive_errors=3,
        last_outcome="failed",
        last_error=error,
        last_error_at=NOW - 5,
        last_traceback="Traceback (most recent call last):\n  File",
        next_run=NOW + 90,
        backing_off_until=NOW + 90,
        **more,
    )


def node(
    node_id: str,
    *,
    agent_pid: int | None = 10,
    jobs_pid: int | None = 11,
    last_seen: float = NOW - 2,
    host: str = "h",
    **marks: Any,
) -> dict[str, Any]:
    roles: dict[str, dict[str, Any]] = {}
    if agent_pid is not None:
        roles["agent"] = {"host": host, "pid": agent_pid}
    if jobs_pid is not None:
        roles["jobs"] = {"host": host, "pid": jobs_pid, "slots": 4, "running": ["a"]}
    return Node(node_id, last_seen, roles, dict.fromkeys(roles, last_seen), marks).document(NOW)


def document(*loops: dict[str, Any], **more: Any) -> dict[str, Any]:
    statuses = ("pending", "claimed", "running", "completed", "failed", "cancelled", "timed_out", "abandoned")
    counts = {**dict.fromkeys(statuses, 0), "pending": 48, "running": 2}
    return {
        "now": NOW,
        "loops": {each["name"]: each for each in loops},
        "leader": {"node_id": "n1", "host": "h", "pid": 10, "fence": 7, "since": NOW - 3700},
        "beat": {"active": {"pid": 12, "host": "h"}, "replicas": [{"pid": 12}, {"pid": 13}]},
        "nodes": [node("n1")],
        "jobs": {"by_status": counts, "by_kind": {"selfplay": counts}, "games": {"hex8_2p": 3, "square8_2p": 4}},
        "targets": {},
        **more,
    }


def text(shown: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
