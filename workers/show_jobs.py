"""What the command line shows people of jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from fleet.job import OUTSTANDING, Job, JobStatus
from schedules import durations
from workers.table import Column, Document, age, ago, facts, fitted, plain, printable, until

STYLES = {
    JobStatus.PENDING: "",
    JobStatus.CLAIMED: "cyan",
    JobStatus.RUNNING: "cyan",
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.TIMED_OUT: "red",
    JobStatus.ABANDONED: "red",
}


def counts(document: Document) -> RenderableType:
    """Counts by kind and status, and how many are outstanding."""
    kinds: Mapping[str, Mapping[str, int]] = document["by_kind"]
    if not kinds:
        return Text("No jobs yet.")
    statuses = [name for name in document["by_status"] if any(kind.get(name) for kind in kinds.values())]
    rows = [[kind, *(f"{each.get(name, 0):,}" for name in statuses)] for kind, each in sorted(kinds.items())]
    depth = Text(f"depth: {document['depth']:,} (pending, claimed and running)")
    return Group(plain(["kind", *statuses], rows, right=statuses), Text(), depth)


def jobs(found: Sequence[Job], now: float, width: int, limit: int, outstanding: int) -> RenderableType:
    """A line for each of the first `limit` jobs; `outstanding` is how many there are in the whole queue."""
    if not found:
        return Text("No job is like that.")
    table = fitted(_COLUMNS, found[:limit], now, width, lambda job: STYLES[job.status])
    if len(found) <= limit:
        return table
    more = f"showing {limit:,}; there are more: --limit N ({outstanding:,} are outstanding in all)"
    return Group(table, Text(more, style="dim"))


def _when(job: Job, now: float) -> str:
    if job.status is JobStatus.PENDING:
        if job.not_before is not None and job.not_before > now:
            return f"next try {until(job.not_before, now)}"
        return f"waits {age(job.created_at, now)}"
    if job.status in OUTSTANDING:
        return f"for {age(job.started_at or job.claimed_at or now, now)}"
    return ago(job.finished_at, now)


def _why(job: Job, _: float) -> str:
    lines = (job.error or "").strip().splitlines()
    return lines[0] if lines else ""


_COLUMNS = (
    Column("job", lambda job, _: job.id, right=False),
    Column("status", lambda job, _: job.status.value, right=False),
    Column("when", _when),
    Column("node", lambda job, _: job.node or "", right=False, optional=1),
    Column("kind", lambda job, _: job.kind, right=False, optional=5),
    Column("config", lambda job, _: job.config, right=False, optional=6),
    Column("try", lambda job, _: f"{job.attempt}/{job.max_attempts}", optional=3),
    Column("prio", lambda job, _: str(job.priority), optional=4),
    Column("error", _why, right=False, optional=2, least=20),
)


def job(found: Job, now: float) -> RenderableType:
    """One job in full."""
    held = f" by {found.node}" if found.node else ""
    rows = {
        "job": found.id,
        "status": found.status.value + (held if found.status in (JobStatus.CLAIMED, JobStatus.RUNNING) else ""),
        "kind": f"{found.kind} of {found.config}, for nodes that offer {found.capability}",
        "priority": str(found.priority),
        "attempts": f"{found.attempt}; {found.failures} of {found.max_attempts} have failed",
        "created": ago(found.created_at, now),
        "not before": until(found.not_before, now) if found.not_before and found.not_before > now else "",
        "claimed": ago(found.claimed_at, now) + held if found.claimed_at else "",
        "started": ago(found.started_at, now) if found.started_at else "",
        "heard": ago(found.heartbeat_at, now) if found.heartbeat_at and not found.finished_at else "",
        "finished": ago(found.finished_at, now) if found.finished_at else "",
        "took": age(found.started_at, found.finished_at) if found.started_at and found.finished_at else "",
        "timeout": f"{durations.format(found.timeout)} from start to kill",
        "payload": _lines(found.payload) or "none",
        "result": _lines(found.result or {}),
    }
    table = facts(rows, {"status": STYLES[found.status]})
    if not found.error:
        return table
    style = "red" if found.status in (JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.ABANDONED) else ""
    return Group(table, Text(), Panel(Text(printable(found.error)), title="what last went wrong", border_style=style))


def _lines(document: Mapping[str, object]) -> str:
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in document.items())
