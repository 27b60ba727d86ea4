"""Judges the nodes: healthy, suspect, unhealthy or lost, by what was heard of them and measured on them.

A pure decision. Silence is judged on Redis time, limits only on what the agent measured: a metric that it
does not report is no fault, and what a silent one reported last stays. Between a limit and `margin` points
below it a judgement stays what it was, so a value that wavers there does not make it waver.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fleet.nodes import ROLES, Node
from fleet.notices import Notice, listed

STATUSES = ("healthy", "suspect", "unhealthy", "lost")

#: What makes one judgement another. Its wording may change without a write.
_JUDGEMENT = ("status", "over", "silent")
_PROCESSES = {"agent": "agent", "jobs": "jobs worker"}
_FULL = {"disk": "disk {:.0f} % full", "memory": "memory {:.0f} % in use"}


class Policy(Protocol):
    """The loop's options: seconds and percent."""

    suspect_after: float
    lost_after: float
    disk_limit: float
    memory_limit: float
    margin: float
    unhealthy_after: float


@dataclass(frozen=True)
class Report:
    """What a cycle found: marks to change, what the cluster amounts to, and what the operator should know."""

    changes: Mapping[str, Mapping[str, Mapping[str, Any] | None]]
    totals: Mapping[str, int]
    events: tuple[Notice, ...]


def judge(
    node: Node, before: Mapping[str, Any] | None, policy: Policy, now: float, *, resumed: bool = False
) -> dict[str, Any]:
    """The node's `health` mark as of now; `before` is its last one.

    `since` is when its status began, `at` the instant of this judgement, `silent` the roles that should
    report and do not, `over` each limit that is exceeded and the first measurement that did.

    `resumed` says that the cycles before this one did not happen, perhaps because no node could reach the
    server. Then a silence that no earlier cycle saw makes a node suspect; the next cycle knows.
    """
    before = before or {}
    silent = [role for role in ROLES if _is_silent(node, role, policy, now)]
    lost = now - node.last_seen > policy.lost_after and (bool(before.get("silent")) or not resumed)
    over = {} if lost else _over(node, before.get("over", {}), policy)
    measured_at = node.heard.get("agent", 0.0)
    if lost:
        status = "lost"
    elif any(measured_at - since >= policy.unhealthy_after for since in over.values()):
        status = "unhealthy"
    else:
        status = "suspect" if silent or over else "healthy"
    return {
        "status": status,
        "since": before.get("since", now) if before.get("status") == status else now,
        "at": now,
        "reasons": [
            *(_silence(node, role) for role in silent),
            *(_FULL[name].format(_percent(node, name)) for name in over),
        ],
        "silent": silent,
        "over": over,
    }


def decide(nodes: Iterable[Node], policy: Policy, now: float, *, resumed: bool = False) -> Report:
    """Judge every node. Nodes whose processes all ended in order are not counted, and lose their mark."""
    changes: dict[str, dict[str, dict[str, Any] | None]] = {}
    totals = Counter(dict.fromkeys(("nodes", *STATUSES, "slots", "busy_slots", "gpus"), 0))
    entered: dict[str, list[Node]] = {"lost": [], "back": [], "unhealthy": []}
    for node in nodes:
        before = node.marks.get("health")
        if node.left:
            if before is not None:
                changes[node.node_id] = {"health": None}
            continue
        mark = judge(node, before, policy, now, resumed=resumed)
        was, status = (before or {}).get("status"), mark["status"]
        if before is None or any(before.get(part) != mark[part] for part in _JUDGEMENT):
            changes[node.node_id] = {"health": mark}
        if status != was:
            if was == "lost":
                entered["back"].append(node)
            if status in entered:
                entered[status].append(node)
        totals.update(nodes=1, **{status: 1})
        if status != "lost":
            totals.update(
                slots=node.roles.get("jobs", {}).get("slots", 0),
                busy_slots=len(node.running),
                gpus=len(node.metrics.get("gpus", ())),
            )
    reasons = {node_id: mark["health"]["reasons"] for node_id, mark in changes.items() if mark["health"]}
    return Report(changes, dict(totals), tuple(_notices(entered, reasons)))


def _is_silent(node: Node, role: str, policy: Policy, now: float) -> bool:
    """Whether that role should report and does not: nodes have an agent, and may have a jobs worker."""
    if role not in node.roles:
        return role == "agent"
    return now - node.heard[role] > policy.suspect_after


def _over(node: Node, before: Mapping[str, float], policy: Policy) -> dict[str, float]:
    """Limits that are exceeded, each with the instant of the first measurement that said so."""
    found = {}
    for name, limit in (("disk", policy.disk_limit), ("memory", policy.memory_limit)):
        value = _percent(node, name)
        if value > (limit - policy.margin if name in before else limit):
            found[name] = before.get(name, node.heard["agent"])
    return found


def _percent(node: Node, name: str) -> float:
    """What the agent measured; below any limit when it measured nothing."""
    value = node.metrics.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else -math.inf


def _silence(node: Node, role: str) -> str:
    process = _PROCESSES[role]
    return f"{process} not heard since {_utc(node.heard[role])}" if role in node.roles else f"no {process} reports"


def _notices(entered: Mapping[str, Sequence[Node]], reasons: Mapping[str, Sequence[str]]) -> Iterator[Notice]:
    """At most one of a title, however many nodes it is about."""
    if lost := entered["lost"]:
        yield Notice("Node lost", listed([_last_words(node) for node in lost]), "error")
    if ailing := entered["unhealthy"]:
        told = [f"{_name(node)}: {', '.join(reasons[node.node_id])}" for node in ailing]
        yield Notice("Node unhealthy", listed(told), "warning")
    if back := entered["back"]:
        yield Notice("Node back", listed([_name(node) for node in back]))


def _last_words(node: Node) -> str:
    held = f"holds {listed(list(node.running), ', ')}" if node.running else "holds no jobs"
    return f"{_name(node)}: last seen {_utc(node.last_seen)}, {held}"


def _name(node: Node) -> str:
    return f"{node.node_id} on {node.host or 'no host'}"


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
