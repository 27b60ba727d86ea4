"""Starts nodes while jobs wait, and gives them back when they are idle."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

import tasks.loop
from fleet.fleet import Fleet
from fleet.notices import Notice
from fleet.providers.command import Command, CommandOptions
from fleet.providers.docker import Docker, DockerOptions
from fleet.providers.local import Local, LocalOptions
from fleet.providers.port import Provider, ProviderError, ProviderSilent
from fleet.providers.simulated import Simulated, SimulatedOptions
from fleet.scale_snapshot import Decision, Member, Snapshot
from fleet.scale_state import ScaleState
from fleet.scaling import after_failure, decide, is_ours
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

log = logging.getLogger("backbeat.auto_scaling")

Threshold = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Capability = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Options(tasks.loop.Options):
    """How many nodes, how fast, and from where."""

    provider: Literal["none", "local", "docker", "command", "simulated"] = "none"
    capabilities: tuple[Capability, ...] = Field(("cpu",), min_length=1)
    min_nodes: int = Field(2, ge=0)
    max_nodes: int = Field(20, ge=0)
    scale_up_threshold: Threshold = 10.0
    scale_down_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    scale_up_cooldown: Seconds = Field(600.0, ge=0)
    scale_down_cooldown: Seconds = Field(600.0, ge=0)
    max_step_up: int = Field(3, ge=1)
    max_step_down: int = Field(2, ge=1)
    stabilize_for: Seconds = Field(300.0, ge=0)
    join_within: Seconds = Field(900.0, gt=0)
    failure_backoff: Seconds = Field(180.0, gt=0)
    drain_for: Seconds = Field(3600.0, ge=0)
    max_hourly_cost: Cost | None = None
    cost_per_hour: Cost | None = None
    name_prefix: str = Field("auto", pattern=r"^[a-z][a-z0-9-]{0,19}$")
    local: LocalOptions = LocalOptions()
    docker: DockerOptions = DockerOptions()
    command: CommandOptions = CommandOptions()
    simulated: SimulatedOptions = SimulatedOptions()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_nodes < self.min_nodes:
            raise ValueError(f"max_nodes ({self.max_nodes}) is below min_nodes ({self.min_nodes})")
        if self.scale_down_threshold >= self.scale_up_threshold:
            raise ValueError(
                f"scale_down_threshold ({self.scale_down_threshold:g}) must be below "
                f"scale_up_threshold ({self.scale_up_threshold:g})"
            )
        if self.provider == "docker" and self.docker.image is None:
            raise ValueError("provider docker needs docker.image, what its containers run")
        if self.provider == "command" and not (self.command.up and self.command.down and self.command.list):
            raise ValueError("provider command needs command.up, command.down and command.list")
        if self.max_hourly_cost is not None and self.cost_per_hour is None and self.provider in ("local", "docker"):
            raise ValueError(f"max_hourly_cost: provider {self.provider} tells no cost; give cost_per_hour")
        return self


@loop(options=Options, leader_only=True)
def auto_scaling(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Starts nodes while jobs wait, and gives them back when they are idle.

    Idempotent: what is asked of the provider is on record before, under names that no other tick gives, and
    counts until the nodes are heard or overdue; so a tick that comes twice, or whose answer was lost, starts
    nothing twice. Starting what is there and stopping what is gone change nothing. What the provider did not
    do fails the run, after all the rest was done; the next run goes by what the provider lists.
    """
    state, provider = ScaleState(fleet.redis), _provider(fleet, options)
    if isinstance(provider, Simulated):
        _rehearse(fleet, provider, options, tick.now)
    instances = None if provider is None else provider.instances()
    pending = fleet.jobs.counts().pending
    gathering = fleet.store is not None
    snapshot = Snapshot(
        now=tick.now,
        pending=sum(pending.get(capability, 0) for capability in options.capabilities),
        members=[Member.of(node, options.capabilities, tick.now, gathering=gathering) for node in fleet.nodes.all()],
        instances=None if instances is None else [i for i in instances if is_ours(i.name, options.name_prefix)],
        scaling=state.read(),
        here=fleet.node_id,
        seq=tick.seq,
    )
    decision = decide(snapshot, options)
    scaling = decision.scaling
    state.write(scaling, fence=tick.fence)
    fleet.nodes.mark(decision.marks, forget=decision.forget, fence=tick.fence)
    log.info("%d nodes, %d wanted: %s", scaling.nodes, scaling.wanted, scaling.reason)
    errors = [f"{', '.join(decision.failed)} did not join in time"] if decision.failed else []
    if provider is not None:
        if error := _ask(fleet, provider.start, decision.start, decision, "Scaled up"):
            errors.append(str(error))
            silent = isinstance(error, ProviderSilent)
            state.write(after_failure(scaling, decision.start, tick.now, silent=silent), fence=tick.fence)
        if error := _ask(fleet, provider.stop, decision.remove, decision, "Scaled down"):
            errors.append(str(error))
    if errors:
        fleet.notices.send(Notice("Scaling failed", "; ".join(errors), "error"))
        raise ProviderError("; ".join(errors))
    return {
        "pending": snapshot.pending,
        "nodes": scaling.nodes,
        "wanted": scaling.wanted,
        "coming": decision.coming,
        "draining": decision.draining,
        "started": len(decision.start),
        "drained": len(decision.drain),
        "undrained": len(decision.undrain),
        "removed": len(decision.remove),
    }


def _provider(fleet: Fleet, options: Options) -> Provider | None:
    match options.provider:
        case "local":
            folder = Path(os.environ.get("BACKBEAT_INSTANCES") or fleet.data / "instances")
            return Local(folder, options.local, options.capabilities)
        case "docker":
            return Docker(options.docker, options.capabilities)
        case "command":
            return Command(options.command)
        case "simulated":
            return simulated(options.simulated)
    return None


@functools.cache
def simulated(options: SimulatedOptions) -> Simulated:
    """The rehearsal's provider: its instances live as long as this process."""
    return Simulated(options)


def _rehearse(fleet: Fleet, provider: Simulated, options: Options, now: float) -> None:
    """Let the nodes of simulated instances be heard."""
    provider.now = now
    for name in provider.joined:
        facts = {"host": "simulated", "slots": 0, "running": [], "capabilities": options.capabilities}
        fleet.nodes.heartbeat(name, "jobs", facts, now=now)


def _ask(
    fleet: Fleet, call: Callable[[Sequence[str], str], None], names: Sequence[str], decision: Decision, title: str
) -> ProviderError | None:
    """Have the provider start or stop these, and tell the operator; what went wrong, if anything did."""
    if not names:
        return None
    try:
        call(names, decision.key)
    except ProviderError as error:
        return error
    fleet.notices.send(Notice(title, f"{', '.join(names)}: {decision.scaling.reason}"))
    return None
