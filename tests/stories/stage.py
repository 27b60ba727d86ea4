"""The loops that the stories and benchmarks run: `celery -A stage`."""

from __future__ import annotations

import os
import time

from fleet.fence import FenceRefused
from fleet.fleet import Fleet
from fleet.jobs import JobSpec
from tasks.auto_scaling import auto_scaling
from tasks.data_aggregation import data_aggregation
from tasks.elo_sync import elo_sync
from tasks.health_aggregation import health_aggregation
from tasks.job_reaper import job_reaper
from tasks.loop import Counts, Loop, Options, Tick, loop
from tasks.model_sync import model_sync
from tasks.queue_populator import queue_populator
from tasks.tailscale_recovery import tailscale_recovery
from workers.app import create_app
from workers.settings import Settings


class Seconds(Options):
    """How long a body takes."""

    seconds: float = 0.0


def _note(fleet: Fleet, name: str, tick: Tick) -> None:
    line = f"{tick.seq} {tick.slot:.3f} {tick.now:.3f} {tick.missed} {os.getpid()} {fleet.node_id}"
    fleet.redis.rpush(f"story:{name}", line)


@loop
def note(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Writes down that it ran."""
    _note(fleet, "note", tick)
    return {"noted": 1}


@loop(options=Seconds)
def slow(fleet: Fleet, options: Seconds, tick: Tick) -> None:
    """Takes its time."""
    _note(fleet, "slow", tick)
    time.sleep(options.seconds)
    fleet.redis.rpush("story:slow:end", f"{tick.seq} {os.getpid()}")


@loop
def failing(fleet: Fleet, options: Options, tick: Tick) -> None:
    """Fails always."""
    _note(fleet, "failing", tick)
    raise RuntimeError("no such luck")


@loop
async def hanging(fleet: Fleet, options: Options, tick: Tick) -> None:
    """Blocks its event loop, so not even a cancellation gets through."""
    _note(fleet, "hanging", tick)
    time.sleep(3600)


@loop
def nonsense(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Returns what is no counts."""
    return ["what", object()]  # type: ignore[return-value]


@loop
def loud(fleet: Fleet, options: Options, tick: Tick) -> None:
    """Prints a megabyte."""
    _note(fleet, "loud", tick)
    print("x" * 1_000_000)


@loop
def exiting(fleet: Fleet, options: Options, tick: Tick) -> None:
    """Takes its worker with it, the first times."""
    _note(fleet, "exiting", tick)
    if fleet.redis.incr("story:exits") <= int(os.environ.get("STORY_EXITS", "1")):
        os._exit(3)


@loop(leader_only=True)
def leading(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Only where the leader is."""
    _note(fleet, "leading", tick)
    return {"fence": tick.fence.leader}


@loop(leader_only=True)
def deciding(fleet: Fleet, options: Options, tick: Tick) -> None:
    """Waits for the story's word between its read and its write."""
    _note(fleet, "deciding", tick)
    while not fleet.redis.exists("story:decide"):
        time.sleep(0.02)
    try:
        fleet.jobs.enqueue([JobSpec(kind="selfplay", config="hex8_2p")], fence=tick.fence)
    except FenceRefused as refused:
        fleet.redis.rpush("story:refused", f"{os.getpid()} {refused}")
        raise


def trivial(name: str) -> Loop:
    """A loop that does nothing but say when it began."""

    def body(fleet: Fleet, options: Options, tick: Tick) -> None:
        STARTS.append((name, tick.seq, tick.slot, time.time()))

    return Loop(name, body, Options, leader_only=False)


STARTS: list[tuple[str, int, float, float]] = []
LOOPS = {
    declared.name: declared
    for declared in (
        note,
        slow,
        failing,
        hanging,
        nonsense,
        loud,
        exiting,
        leading,
        deciding,
        queue_populator,
        health_aggregation,
        job_reaper,
        model_sync,
        tailscale_recovery,
        auto_scaling,
        data_aggregation,
        elo_sync,
    )
}

if "STORY_LOOPS" in os.environ:
    _wanted = os.environ["STORY_LOOPS"].split(",")
    app = create_app(Settings.from_environment(), {name: LOOPS[name] for name in _wanted})
