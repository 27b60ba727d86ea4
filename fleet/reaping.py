"""Which jobs to take back from their holders, and why: a pure decision.

A held job is bad from some instant on:

* stale: claimed for longer than `stale_after`, and never started;
* stuck: running for longer than `stuck_grace` past its deadline, at which its holder should have ended it;
* abandoned: without a heartbeat for `abandoned_after`;
* orphaned: without a heartbeat for `orphaned_after`, on a node that is gone.

A job that is bad in several ways is what it became first, and what has been bad for longest is taken back
first. Whatever a node is said to be, a job whose heartbeats come is neither orphaned nor abandoned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from fleet.execution import GRACE
from fleet.job import Job, JobStatus
from fleet.jobs import POLL_EVERY
from fleet.nodes import Node

CATEGORIES = ("stale", "stuck", "abandoned", "orphaned")
#: Seconds within which a live holder has learnt that a job is no longer its own, and has ended its processes: the
#: poll that is on its way may miss it, the next one does not.
STOPPED_WITHIN = 2 * POLL_EVERY + GRACE


class Policy(Protocol):
    """The reaper's options: seconds."""

    stale_after: float
    stuck_grace: float
    abandoned_after: float
    orphaned_after: float


@dataclass(frozen=True)
class Finding:
    """A job to take back: bad since that instant, as one of CATEGORIES. `reason` is for the job's `error`."""

    job: Job
    category: str
    since: float
    reason: str

    @property
    def timed_out(self) -> bool:
        """Whether the job itself took too long, and not its holder."""
        return self.category == "stuck"

    @property
    def if_silent(self) -> bool:
        """Whether one heartbeat more refutes it."""
        return self.category in ("abandoned", "orphaned")

    @property
    def retry_after(self) -> float:
        """Seconds until the next attempt: a live holder first ends this one. A silent one would not hear of it."""
        return 0.0 if self.if_silent else STOPPED_WITHIN


def gone(nodes: Iterable[Node], holders: Collection[str], policy: Policy, now: float) -> dict[str, str]:
    """Those of the nodes holding jobs that will not report on them, each with what is the matter."""
    known = {node.node_id: node for node in nodes}
    found = {}
    for node_id in sorted(holders):
        node = known.get(node_id)
        if node is None:
            found[node_id] = "is not in the node registry"
        elif node.status(now) == "lost":
            found[node_id] = "is lost"
        elif "jobs" not in node.roles:
            found[node_id] = "has no jobs worker any more"
        elif now - node.heard["jobs"] > policy.orphaned_after:
            found[node_id] = "has a jobs worker that is silent"
    return found


def decide(jobs: Iterable[Job], gone: Mapping[str, str], policy: Policy, now: float) -> list[Finding]:
    """What to take back of these held jobs, longest bad first. The same arguments give the same decision."""
    found = []
    for job in jobs:
        became = [finding for finding in _findings(job, gone, policy, now) if finding.since < now]
        if became:
            found.append(min(became, key=lambda finding: finding.since))
    return sorted(found, key=lambda finding: (finding.since, finding.job.id))


def idle_slots(nodes: Iterable[Node], now: float) -> Counter[str]:
    """Slots by capability that could take a job now; a slot counts for each capability it offers."""
    slots = Counter[str]()
    for node in nodes:
        worker = node.roles.get("jobs")
        if worker is not None and "drain" not in node.marks and node.is_live(now):
            for capability in worker.get("capabilities", ()):
                slots[capability] += max(0, worker.get("slots", 0) - len(node.running))
    return slots


def _findings(job: Job, gone: Mapping[str, str], policy: Policy, now: float) -> Iterator[Finding]:
    """What this job is or will be, if nothing happens."""
    if job.status is JobStatus.CLAIMED and job.claimed_at is not None:
        said = f"stale: {job.node} claimed it {now - job.claimed_at:.0f} s ago and has not started it"
        yield Finding(job, "stale", job.claimed_at + policy.stale_after, said)
    if job.status is JobStatus.RUNNING and job.deadline is not None:
        said = f"stuck: {now - job.deadline:.0f} s past its timeout, {job.node} has not ended it"
        yield Finding(job, "stuck", job.deadline + policy.stuck_grace, said)
    if job.heartbeat_at is not None:
        silence = f"no heartbeat for {now - job.heartbeat_at:.0f} s"
        said = f"abandoned: {silence} from {job.node}"
        yield Finding(job, "abandoned", job.heartbeat_at + policy.abandoned_after, said)
        if (matter := gone.get(job.node or "")) is not None:
            said = f"orphaned: {job.node} {matter}; {silence}"
            yield Finding(job, "orphaned", job.heartbeat_at + policy.orphaned_after, said)
