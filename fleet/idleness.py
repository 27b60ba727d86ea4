"""Finds the nodes that have had nothing to do for long, and says which of them the cluster can spare.

A pure decision, made on what was measured and nothing else: the peak of each minute of the whole time, the
reading of now, and the jobs that the node says it ran. A minute that is missing is not an idle one, nor is
one without the metric that counts: the busiest GPU of a node that has any, else its CPU.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fleet.metrics import Minute, busy
from fleet.nodes import SILENT_AFTER, Node

MINUTE = 60.0
#: Seconds from the end of the newest minute that a node has told to now, at most: the next one is not over yet.
NEWEST_WITHIN = MINUTE + SILENT_AFTER


class Policy(Protocol):
    """The loop's options: percent, seconds and nodes."""

    idle_threshold: float
    idle_after: float
    min_nodes_to_keep: int


@dataclass(frozen=True)
class Report:
    """Marks to change, and how many nodes could work, have nothing to do, and are flagged as idle."""

    changes: Mapping[str, Mapping[str, Mapping[str, Any] | None]]
    live: int
    idle: int
    flagged: int


def idle_since(node: Node, policy: Policy, now: float) -> float | None:
    """Since when the node has had nothing to do, when that is for `idle_after` or longer; else None."""
    if node.running or not _is_heard(node, now) or not _is_quiet(busy(node.metrics), policy):
        return None
    minutes = Minute.rows(node.history)
    last_job_at: float = node.roles.get("jobs", {}).get("last_job_at", 0.0)
    since = max(_quiet_since(minutes, policy, now, _has_gpu(node)), last_job_at)
    if now - since < policy.idle_after:
        return None
    flagged: float = node.marks.get("idle", {}).get("since", since)
    return min(since, flagged) if since == minutes[0].at else since  # of what was before, only the flag knows


def decide(nodes: Iterable[Node], policy: Policy, now: float) -> Report:
    """Which nodes are flagged as idle, so that `min_nodes_to_keep` others stay: the longest idle first, one of each
    kind in turn, for nodes of one kind cannot stand for those of another.

    A node that is lost, unhealthy or silent cannot work: it is neither flagged nor one of those that stay.
    """
    nodes = list(nodes)
    live = [node for node in nodes if node.is_live(now) and node.status(now) not in ("unhealthy", "lost")]
    idle = {node.node_id: since for node in live if (since := idle_since(node, policy, now)) is not None}
    spare = max(0, len(live) - policy.min_nodes_to_keep)
    flagged = set(_in_turn([node for node in live if node.node_id in idle], idle)[:spare])
    changes: dict[str, dict[str, dict[str, Any] | None]] = {}
    for node in nodes:
        before = node.marks.get("idle")
        if node.node_id not in flagged:
            if before is not None:
                changes[node.node_id] = {"idle": None}
        elif before is None or before.get("since") != idle[node.node_id]:
            why = f"{'GPU' if _has_gpu(node) else 'CPU'} below {policy.idle_threshold:g} % and no job"
            changes[node.node_id] = {"idle": {"since": idle[node.node_id], "at": now, "why": why}}
    return Report(changes, len(live), len(idle), len(flagged))


def _in_turn(nodes: Iterable[Node], since: Mapping[str, float]) -> list[str]:
    """The longest idle of each kind, then the next of each; of equal ones first those with a GPU."""
    ranked = []
    seen = Counter[tuple[bool, frozenset[str]]]()
    for node in sorted(nodes, key=lambda node: (since[node.node_id], node.node_id)):
        kind = (_has_gpu(node), frozenset(node.roles.get("jobs", {}).get("capabilities", ())))
        ranked.append((seen[kind], not _has_gpu(node), since[node.node_id], node.node_id))
        seen[kind] += 1
    return [node_id for *_, node_id in sorted(ranked)]


def _is_heard(node: Node, now: float) -> bool:
    """Whether all that the node says of itself is of now."""
    return "agent" in node.roles and all(now - node.heard[role] <= SILENT_AFTER for role in node.roles)


def _has_gpu(node: Node) -> bool:
    return bool(node.metrics.get("gpus"))


def _is_quiet(percent: float | None, policy: Policy) -> bool:
    return percent is not None and percent < policy.idle_threshold


def _quiet_since(minutes: Sequence[Minute], policy: Policy, now: float, has_gpu: bool) -> float:
    """When the unbroken row of quiet minutes that leads to now began; now, when there is none."""
    since: float = minutes[-1].at + MINUTE if minutes else -math.inf
    if now - since > NEWEST_WITHIN:
        return now
    for minute in reversed(minutes):
        peak = minute.gpu_peak if has_gpu or minute.gpu_peak is not None else minute.cpu_peak
        if minute.at + MINUTE != since or not _is_quiet(peak, policy):
            break
        since = minute.at
    return since
