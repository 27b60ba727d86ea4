"""Takes jobs back from holders that will not end them, and wakes workers for jobs that no message stands for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import Field

import tasks.loop
from fleet import reaping
from fleet.fleet import Fleet
from fleet.nodes import SILENT_AFTER, Node
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

log = logging.getLogger("backbeat.job_reaper")


class Options(tasks.loop.Options):
    """From when on a job is taken back, and how many are at once."""

    stale_after: Seconds = Field("3600s", gt=0, validate_default=True, description="from claim to start")
    stuck_grace: Seconds = Field(
        "300s", ge=0, validate_default=True, description="past the job's timeout, at which its holder ends it"
    )
    abandoned_after: Seconds = Field(
        "3600s", ge=SILENT_AFTER, validate_default=True, description="silence of a job, whatever its node says"
    )
    orphaned_after: Seconds = Field(
        "60s", gt=0, validate_default=True, description="silence of a job whose node is gone"
    )
    unpublished_after: Seconds = Field(
        "60s", gt=0, validate_default=True, description="waiting of a job that no wake-up stands for"
    )
    listen_for: Seconds = Field(
        SILENT_AFTER, ge=0, description="from the beginning of a leader's term, in which nothing is taken back"
    )
    max_jobs_to_reap_per_cycle: int = Field(10, ge=1, description="jobs taken back in one run, and wake-ups sent")


@loop(options=Options, leader_only=True)
def job_reaper(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Requeues jobs whose holder will not end them, or ends them when no attempt is left.

    Idempotent: a job is taken back only as it was seen (same attempt, same status, and for a silent one
    the same heartbeat), so a tick that comes twice finds nothing left to do. Reads indexes of what is
    past a limit, never all that is held. A new leader first listens: whatever kept it from the server
    may have kept the holders from it too.
    """
    nodes = fleet.nodes.all()
    counts = dict.fromkeys((*reaping.CATEGORIES, "unpublished", "requeued", "given_up"), 0)
    counts["unpublished"] = _wake(fleet, nodes, options, tick)
    listened = tick.now - tick.fence.since
    if 0 <= listened < options.listen_for:
        tick.next_after(options.listen_for - listened)
        return counts | {"listening": 1}
    gone = reaping.gone(nodes, fleet.jobs.holders(), options, tick.now)
    limit = options.max_jobs_to_reap_per_cycle
    held = fleet.jobs.held(
        claimed_before=tick.now - options.stale_after,
        due_before=tick.now - options.stuck_grace,
        silent_since=tick.now - options.abandoned_after,
        nodes=gone,
        limit=limit,
    )
    for finding in reaping.decide(held, gone, options, tick.now):
        if counts["requeued"] + counts["given_up"] == limit:
            break
        status = fleet.jobs.reap(
            finding.job,
            finding.reason,
            retry_after=finding.retry_after,
            timed_out=finding.timed_out,
            if_silent=finding.if_silent,
            fence=tick.fence,
        )
        if status is not None:  # it was still as it was seen
            counts[finding.category] += 1
            counts["given_up" if status.is_final else "requeued"] += 1
            log.warning("%s is %s now: %s", finding.job.id, status, finding.reason)
    return counts


def _wake(fleet: Fleet, nodes: Sequence[Node], options: Options, tick: Tick) -> int:
    """Send the wake-ups that are missing, at most one for each slot that could take a job; how many."""
    idle = reaping.idle_slots(nodes, tick.now)
    left = options.max_jobs_to_reap_per_cycle
    for capability, number in fleet.jobs.unpublished(waited=options.unpublished_after, now=tick.now).items():
        owed = min(number, idle[capability], left)
        if owed > 0:
            fleet.jobs.wake(capability, owed)
            left -= owed
    return options.max_jobs_to_reap_per_cycle - left
