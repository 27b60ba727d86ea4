"""Flags the nodes that have had nothing to do for long, so that others may make use of them or spare them."""

from __future__ import annotations

from pydantic import Field

import tasks.loop
from fleet.fleet import Fleet
from fleet.idleness import MINUTE, NEWEST_WITHIN, decide
from fleet.metrics import MINUTES
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

#: How far back a node's history reaches for sure, in seconds.
REMEMBERED = MINUTES * MINUTE - NEWEST_WITHIN


class Options(tasks.loop.Options):
    """What counts as idle, and how many nodes stay unflagged."""

    idle_threshold: float = Field(10.0, gt=0, le=100, description="percent that a busy node reaches at times")
    idle_after: Seconds = Field(
        "900s", ge=120, le=REMEMBERED, validate_default=True, description="time without load or jobs"
    )
    min_nodes_to_keep: int = Field(2, ge=0, description="live nodes that are never flagged")


@loop(options=Options)
def idle_detection(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Flags nodes without load and jobs for long as idle, and takes the flag back when there is work again.

    Idempotent: a flag follows from what the nodes measured, and is written only when it comes, goes or
    means another time. Two round trips at most, however many nodes. Any node may run it: only one run at
    a time gets its writes through.
    """
    report = decide(fleet.nodes.all(history=True), options, tick.now)
    fleet.nodes.mark(report.changes, fence=tick.fence)
    return {"live": report.live, "idle": report.idle, "flagged": report.flagged, "changed": len(report.changes)}
