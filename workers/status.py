"""The status document: `status --json`, `LoopManager.get_status()` and `GET /status`. One round trip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fleet.elo_board import decode_board
from fleet.job import JobCounts, JobStatus
from fleet.nodes import ROLES, SILENT_AFTER, Node, decode_brief, decode_nodes
from workers.ledger import HISTORY_KEPT, Ledger

#: How a node may stand, the best first.
NODE_STATUSES = ("healthy", "suspect", "unhealthy", "lost", "left")
#: Seconds after which a beat replica that polls twice a second is no longer counted.
BEAT_SEEN_WITHIN = 5.0


def read_status(ledger: Ledger) -> dict[str, Any]:
    """The whole cluster as of now. Times are seconds since the epoch on Redis time, or None."""
    rows = ledger.read()
    now = int(rows[0]) / 1000
    document = cluster(rows, now)
    document["nodes"] = [node.document(now) for node in decode_nodes(rows[5])]
    return document


def read_overview(ledger: Ledger) -> dict[str, Any]:
    """The status document as far as the dashboard and its metrics show it, which is a tenth of the work.

    Its `nodes` only counts them: `by_status`, and those with a live process of each role. Each loop has its
    `history`: when its last runs ended, how long they took in ms, and their outcomes; the oldest first.
    """
    rows = ledger.read(history=HISTORY_KEPT, brief=True)
    now = int(rows[0]) / 1000
    document = cluster(rows, now)
    document["nodes"] = _count(decode_brief(rows[5]), now)
    for name, *_, history in rows[1]:
        document["loops"][name]["history"] = [_past(run) for run in history]
    return document


def cluster(rows: list[Any], now: float) -> dict[str, Any]:
    """All of the document but the nodes."""
    _, loops, leader, beat, beats, _, counts, games, targets = rows
    documents = {
        name: _loop(name, _pairs(flat), due, running, issued, now)
        for name, flat, due, running, issued, _ in sorted(loops)
    }
    return {
        "now": now,
        "total_loops": len(documents),
        "running_loops": sum(loop["running"] for loop in documents.values()),
        "paused_loops": sum(loop["paused"] for loop in documents.values()),
        "error_loops": sum(loop["consecutive_errors"] > 0 for loop in documents.values()),
        "loops": documents,
        "leader": _leader(_pairs(leader), now),
        "beat": _beat(_pairs(beat), beats, now),
        "nodes": [],
        "jobs": _jobs(JobCounts.decode(_pairs(counts), _pairs(games))),
        "targets": decode_board(_pairs(targets)),
    }


def _loop(name: str, h: Mapping[str, str], due: str, lease: str, issued: str, now: float) -> dict[str, Any]:
    enabled, stopped, paused = h.get("enabled") == "1", h.get("stopped") == "1", h.get("paused") == "1"
    executing = bool(lease) and "run" in h
    not_before = _at(h, "not_before")
    backing_off = not_before is not None and not_before > now
    successes = int(h.get("success_count", 0))
    document = {
        "name": name,
        "running": enabled and not stopped,
        "paused": paused,
        "enabled": enabled,
        "stopped": stopped,
        "leader_only": h.get("leader_only") == "1",
        "queue": h.get("queue", ""),
        "interval": int(h.get("interval", 0)) / 1000,
        "run_count": int(h.get("run_count", 0)),
        "success_count": successes,
        "error_count": int(h.get("error_count", 0)),
        "consecutive_errors": int(h.get("consecutive_errors", 0)),
        "missed": int(h.get("missed", 0)),
        "skipped": {key.partition(":")[2]: int(n) for key, n in sorted(h.items()) if key.startswith("skipped:")},
        "average_duration_ms": float(h.get("success_duration_ms", 0)) / successes if successes else 0.0,
        "last_duration_ms": float(h["last_duration_ms"]) if "last_duration_ms" in h else None,
        "last_run_time": _at(h, "last_run_at"),
        "last_finished_at": _at(h, "last_finished_at"),
        "last_success_at": _at(h, "last_success_at"),
        "last_outcome": h.get("last_outcome"),
        "last_counts": json.loads(h.get("last_counts", "{}")),
        "last_run_by": h.get("last_run_by"),
        "last_error": h.get("last_error"),
        "last_error_at": _at(h, "last_error_at"),
        "last_traceback": h.get("last_traceback"),
        "last_skip": h.get("last_skip"),
        "last_skip_at": _at(h, "last_skip_at"),
        "manual": _manual(h),
        "last_run_call": h.get("last_run_call"),
        "last_skip_call": h.get("last_skip_call"),
        "late_reports": int(h.get("late_reports", 0)),
        "seq": int(h.get("seq", 0)),
        "next_run": None if stopped or paused or not enabled else float(due) / 1000 if due else None,
        "backing_off_until": not_before if backing_off else None,
        "waiting_since": float(issued) / 1000 if issued else None,
        "executing": executing,
        "executing_by": h.get("run_by") if executing else None,
        "executing_since": _at(h, "run_started_at") if executing else None,
    }
    document["state"] = _state(document, h, now, lease)
    return document


def _manual(h: Mapping[str, str]) -> dict[str, Any] | None:
    """The last manual call and what came of it."""
    if "manual_call" not in h:
        return None
    return {
        "call": h["manual_call"],
        "outcome": h["manual_outcome"],
        "error": h.get("manual_error") or None,
        "counts": json.loads(h.get("manual_counts", "{}")),
        "duration_ms": float(h.get("manual_duration_ms", 0)),
    }


def _state(loop: Mapping[str, Any], h: Mapping[str, str], now: float, lease: str) -> str:
    if not loop["enabled"]:
        return "disabled"
    if loop["stopped"]:
        return "stopped"
    if loop["executing"]:
        deadline = _at(h, "run_deadline")
        if float(lease) / 1000 <= now:
            return "lost"
        return "overrun" if deadline is not None and deadline < now else "executing"
    if loop["paused"]:
        return "paused"
    if loop["consecutive_errors"]:
        if loop["last_outcome"] == "timed_out":
            return "overrun"
        return "backing_off" if loop["backing_off_until"] else "failing"
    if loop["waiting_since"] is not None:
        return "waiting"
    return "due"


def _leader(h: Mapping[str, str], now: float) -> dict[str, Any] | None:
    if "token" not in h or int(h.get("until", 0)) / 1000 <= now:
        return None
    return {
        "node_id": h["node_id"],
        "host": h["host"],
        "pid": int(h["pid"]),
        "fence": int(h["fence"]),
        "since": int(h["since"]) / 1000,
    }


def _beat(h: Mapping[str, str], beats: list[str], now: float) -> dict[str, Any]:
    active = None
    if "token" in h and int(h.get("until", 0)) / 1000 > now:
        active = {**json.loads(h["identity"]), "since": int(h["since"]) / 1000}
    seen = zip(beats[::2], beats[1::2], strict=True)
    replicas = [
        {**json.loads(identity), "last_seen": float(at) / 1000}
        for identity, at in seen
        if now - float(at) / 1000 <= BEAT_SEEN_WITHIN
    ]
    return {"active": active, "replicas": replicas}


def _jobs(counts: JobCounts) -> dict[str, Any]:
    return {
        "depth": counts.depth,
        "by_status": {status.value: counts.by_status[status] for status in JobStatus},
        "by_kind": {
            kind: {status.value: number for status, number in by_status.items()}
            for kind, by_status in sorted(counts.by_kind.items())
        },
        "games": dict(sorted(counts.games.items())),
    }


def _count(nodes: list[Node], now: float) -> dict[str, Any]:
    by_status = dict.fromkeys(NODE_STATUSES, 0)
    live = dict.fromkeys(ROLES, 0)
    for node in nodes:
        by_status[node.status(now)] += 1
        for role, at in node.heard.items():
            live[role] += now - at <= SILENT_AFTER
    return {"known": len(nodes), "by_status": by_status, "live": live}


def _past(run: str) -> tuple[float, float, str]:
    at, duration, outcome = run.split("|")
    return float(at) / 1000, float(duration), outcome


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _at(h: Mapping[str, str], field: str) -> float | None:
    value = int(h.get(field) or 0)
    return value / 1000 if value else None
