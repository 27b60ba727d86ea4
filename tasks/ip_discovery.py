"""Finds out at which address each node is reached right now."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

import tasks.loop
from fleet.fleet import Fleet
from fleet.reachability import Family, Source, decide, due
from fleet.resolving import LOOKUPS
from fleet.survey import look
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

#: Share of the time to the deadline in which all probes are over.
SHARE = 0.8


class Options(tasks.loop.Options):
    """How many nodes are checked, how long that may take, and which address is the best."""

    max_nodes_per_cycle: int = Field(20, ge=1, le=LOOKUPS, description="nodes checked in one run")
    dns_timeout: Seconds = Field("10s", gt=0, validate_default=True, description="time for all lookups of a run")
    probe_timeout: Seconds = Field("5s", gt=0, validate_default=True, description="time for one probe")
    max_probes: int = Field(64, ge=1, le=1024, description="probes at once")
    order: Annotated[tuple[Source, ...], Field(min_length=1)] = ("current", "dns", "tailnet", "public", "lan")
    prefer: Family = Field("ipv4", description="the family that comes first within one source")
    failures_before_switch: int = Field(2, ge=1, description="checks in a row without an answer")
    settle_for: Seconds = Field("15m", ge=0, validate_default=True, description="time until an address is returned to")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if twice := sorted({each for each in self.order if self.order.count(each) > 1}):
            raise ValueError(f"order names {', '.join(twice)} twice")
        return self


@loop(options=Options, leader_only=True)
async def ip_discovery(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Probes the addresses that each node may have, and marks the best one at which the node proved itself.

    Idempotent: a mark follows from what answers now and from the mark before; the same tick again probes
    the nodes that are due then, and changes no address that still answers. Two round trips to the server,
    however many nodes. Leader only, so that addresses are judged from one place.
    """
    nodes = due(fleet.nodes.all(), options, tick.now)
    survey = await look(nodes, fleet.options.inventory, options, SHARE * (tick.deadline - tick.now))
    report = decide(nodes, survey.found, options, tick.now)
    fleet.nodes.mark(report.changes, fence=tick.fence)
    for notice in report.events:
        fleet.notices.send(notice)
    return {**report.totals, "unresolved": survey.unresolved}
