"""Brings nodes back that fell out of their tailnet, and tells when one cannot be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

import tasks.loop
from fleet.fleet import Fleet
from fleet.ssh import Target, connected, target
from fleet.tailnet import Tailnet
from fleet.tailnet_attempt import Attempt, attempt
from fleet.tailnet_recovery import STEPS, Wanted, concluded, decide
from fleet.tailscale import Tailscale, TailscaleError
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop
from tasks.node import Answer, Arguments, node_task

log = logging.getLogger("backbeat.tailscale_recovery")


class Options(tasks.loop.Options):
    """How often a node is tried to be recovered, and how many at once."""

    max_attempts: int = Field(3, ge=1, description="attempts until a node is given up")
    cooldown: Seconds = Field("300s", validate_default=True, description="time from one attempt to the next")
    step_timeout: Seconds = Field("60s", ge=1, le=600, validate_default=True, description="time for one step")
    starting_for: Seconds = Field(
        "120s", ge=0, validate_default=True, description="time that a node may start or be offline by itself"
    )
    warn_before: Seconds = Field("7d", ge=0, validate_default=True, description="time before a key expires")
    max_nodes_per_cycle: int = Field(5, ge=1, le=100, description="attempts that go on at once")

    @model_validator(mode="after")
    def _one_at_a_time(self) -> Self:
        if self.cooldown < STEPS * self.step_timeout:
            raise ValueError(
                f"cooldown ({self.cooldown:g} s) must be {STEPS} times step_timeout ({self.step_timeout:g} s) or more: "
                "an attempt is over before the next one"
            )
        return self


class Recovery(Arguments):
    """How long a step may take, and until when, on Redis time, the attempt may begin."""

    step_timeout: float = Field(ge=1, le=600)
    until: float


@loop(options=Options, leader_only=True)
async def tailscale_recovery(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Has nodes that are not well in their tailnet recovered: by their own agent, or over SSH when they are lost.

    Idempotent: an attempt is written down before it is made, so the same tick again finds the node in its
    cooldown; an attempt itself does nothing on a node that is well. Leader only, so that attempts are
    counted and bounded in one place.
    """
    nodes = fleet.nodes.all()
    ssh = fleet.options.tailnet.ssh
    known = fleet.options.inventory.hosts
    found = {} if ssh is None else {node.node_id: target(node, known.get(node.node_id), ssh) for node in nodes}
    targets = {node_id: each for node_id, each in found.items() if each is not None}
    report = decide(nodes, options, tick.now, by_ssh=targets)
    fleet.nodes.mark(report.changes, fence=tick.fence)
    for notice in report.events:
        fleet.notices.send(notice)
    arguments = {"step_timeout": options.step_timeout, "until": tick.now + options.cooldown}
    for wanted in report.wanted:
        if wanted.way == "queue":
            fleet.ask(wanted.node.node_id, recover_tailnet.name, arguments)
    lost = [wanted for wanted in report.wanted if wanted.way == "ssh"]
    made = await asyncio.gather(*(_over_ssh(fleet, targets[each.node.node_id], each, options) for each in lost))
    if lost:
        # a mark that is another one by now was reset by an operator: that word is the newer one
        marks = {node.node_id: {"tailnet": node.marks.get("tailnet")} for node in fleet.nodes.all()}
        ends = {
            each.node.node_id: {"tailnet": concluded(each.node, ended, each.number, tick.now)}
            for each, ended in zip(lost, made, strict=True)
            if marks.get(each.node.node_id) == report.changes[each.node.node_id]
        }
        fleet.nodes.mark(ends, fence=tick.fence)
    return {**report.counts, "by_ssh": len(lost)}


async def _over_ssh(fleet: Fleet, target: Target, wanted: Wanted, options: Options) -> Attempt:
    """What came of an attempt on another machine; it takes no longer than its steps may."""
    node_id = wanted.node.node_id
    try:
        async with connected(target) as shell:
            made = await attempt(Tailscale(fleet.options.tailnet, shell), options.step_timeout)
    except TailscaleError as error:
        made = Attempt(Tailnet.unknown(f"not reached over SSH: {error}"))
    log.info("%s: attempt %d over SSH: %s", node_id, wanted.number, _told(made))
    return made


def _told(made: Attempt) -> str:
    steps = ", ".join(step for step, _ in made.steps) or "no step"
    return f"{steps}; {made.tailnet.describe()}"


@node_task(arguments=Recovery)
def recover_tailnet(fleet: Fleet, arguments: Recovery) -> Answer:
    """Make one attempt to bring this node back into its tailnet; the next heartbeat tells what came of it.

    Idempotent: nothing is done on a node that is well, while an attempt is being made, or after `until`.
    Commands, flags and key are this node's own: none comes with the message.
    """
    assert fleet.tailnet is not None  # noqa: S101 - every agent has one
    seconds, micro = _time(fleet)
    if seconds + micro / 1e6 > arguments.until:
        return {"made": False, "why": "the message came too late"}
    if not fleet.tailnet.attempt(arguments.step_timeout):
        return {"made": False, "why": "an attempt is being made"}
    told: Mapping[str, Any] = fleet.tailnet.facts()
    log.info("tailnet after an attempt: %s", told.get("tailnet"))
    return {"made": True, **told}


def _time(fleet: Fleet) -> tuple[int, int]:
    now: Any = fleet.redis.time()
    return now[0], now[1]
