"""Judges every node, and tells when one is lost, back or unhealthy."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

import tasks.loop
from fleet.fleet import Fleet
from fleet.health import decide
from fleet.nodes import HEARTBEAT
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

Percent = Annotated[float, Field(gt=0, le=100)]


class Options(tasks.loop.Options):
    """From when on a node is judged to be what."""

    suspect_after: Seconds = Field(
        "30s", gt=HEARTBEAT, validate_default=True, description="silence of a process, from which the node is suspect"
    )
    lost_after: Seconds = Field(
        "120s", gt=HEARTBEAT, validate_default=True, description="silence of the node, from which it is lost"
    )
    disk_limit: Percent = Field(95.0, description="percent of the disk in use, above which the node is suspect")
    memory_limit: Percent = Field(95.0, description="percent of memory in use, above which the node is suspect")
    margin: float = Field(5.0, ge=0, description="percent below a limit, from which it counts as kept again")
    unhealthy_after: Seconds = Field(
        "60s", ge=0, validate_default=True, description="time above a limit, from which the node is unhealthy"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.lost_after <= self.suspect_after:
            raise ValueError(
                f"lost_after ({self.lost_after:g} s) must be above suspect_after ({self.suspect_after:g} s)"
            )
        lowest = min(self.disk_limit, self.memory_limit)
        if self.margin >= lowest:
            raise ValueError(f"margin ({self.margin:g}) must be below disk_limit and memory_limit ({lowest:g})")
        return self


@loop(options=Options)
def health_aggregation(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Judges every node as healthy, suspect, unhealthy or lost, and keeps an hour of the cluster's totals.

    Idempotent: a judgement follows from what the nodes reported and from the judgement before, and is
    written only when it is another one; the same tick again adds a row with the same totals, no more.
    Two round trips, however many nodes. Any node may run it: only one run at a time gets its writes through.
    """
    report = decide(fleet.nodes.all(), options, tick.now, resumed=tick.missed > 0)
    fleet.nodes.mark(report.changes, totals={"at": tick.now, **report.totals}, fence=tick.fence)
    for notice in report.events:
        fleet.notices.send(notice)
    return {**report.totals, "changed": len(report.changes)}
