"""Gathers the games of all nodes on the central one, by way of the store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

import tasks.loop
from fleet.fleet import Fleet
from fleet.game_export import Bounds
from fleet.game_ingest import Intake
from fleet.gathering import Member, central, decide, lost_games, names, remember
from fleet.gathering_state import GatheringState, Record
from fleet.notices import Notice, listed
from schedules.backoff import Backoff
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

log = logging.getLogger("backbeat.data_aggregation")

#: Of the time that a node has to answer, what it may work: the rest is for the message, its last shard, the answer.
SHARE = 0.8
#: Seconds that an export or an ingest may be given: SHARE of it is the hour that nodes accept.
LONGEST = 4_500


class Options(tasks.loop.Options):
    """Which nodes are asked, and how much they do at once."""

    min_games: int = Field(100, ge=1, description="new games from which a node is asked")
    flush_after: Seconds = Field("30m", ge=0, validate_default=True, description="time after which fewer are enough")
    max_nodes_per_cycle: int = Field(10, ge=1, le=1_000, description="nodes asked in one run")
    export_timeout: Seconds = Field(
        "600s", gt=0, le=LONGEST, validate_default=True, description="time that nodes have to export"
    )
    ingest_timeout: Seconds = Field(
        "600s", gt=0, le=LONGEST, validate_default=True, description="time to take in what came"
    )
    max_shards_per_cycle: int = Field(Intake.shards, ge=1, le=100_000, description="shards taken in at once")
    shard_games: int = Field(Bounds.shard_games, ge=1, le=1_000_000, description="games of one shard at most")
    shard_bytes: int = Field(Bounds.shard_bytes, ge=1, le=128 << 20, description="bytes of one shard, unpacked")
    keep_for: Seconds = Field("7d", ge=0, validate_default=True, description="time that gathered games stay on nodes")
    node_backoff: Backoff = Backoff(initial_delay=60.0, max_delay=3600.0)


@loop(options=Options, leader_only=True)
def data_aggregation(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Has nodes leave their new games in the store, and the central node take them in.

    Idempotent: games are known by their ids and shards by their names, wherever a tick that comes twice finds them.
    Nodes are asked all at once; one that fails is left alone for a while. Leader only, so that nodes are asked once.
    """
    if fleet.store is None:
        return {"without_store": 1}
    state, members = GatheringState(fleet.redis), [Member.of(node, tick.now) for node in fleet.nodes.all()]
    record = state.read()
    chosen, complaint = central(members, record.central)
    plan = decide(members, record.memories, options, tick.now)
    export = {"seconds": SHARE * options.export_timeout, "keep_for": options.keep_for}
    export |= {"shard_games": options.shard_games, "shard_bytes": options.shard_bytes}
    done, failed = _call(fleet, plan.ask, "export_games", export, options.export_timeout)
    memories = remember(plan, done, failed, options.node_backoff.delay, tick.now)
    state.write(Record(memories, chosen, record.said), fence=tick.fence)

    took: Mapping[str, Any] = {}
    complaints = [complaint] if complaint else []
    if chosen is not None and any(member.node_id == chosen and not member.live for member in members):
        complaints.append(f"{chosen}, which gathers games, is away: they wait in the store")
    elif chosen is not None and not fleet.stopping.is_set():
        intake = {"seconds": SHARE * options.ingest_timeout, "shards": options.max_shards_per_cycle}
        named = {**intake, "nodes": sorted({each for name in done for each in names(name, done)})}
        took_in, lost = _call(fleet, [chosen], "ingest_games", named, options.ingest_timeout)
        took = took_in.get(chosen, {})
        complaints += [f"{name} did not gather: {why}" for name, why in lost.items()]
        complaints += [f"{chosen}: {took['full']}"] if took.get("full") else []
    missing = lost_games(done, took.get("arrived", {}))
    complaints += [f"games of {name} are unaccounted for: {missing[name]}" for name in missing]
    if news := [each for each in complaints if each not in record.said]:
        fleet.notices.send(Notice("Games are not gathered", listed(news), "warning"))
    state.write(Record(memories, chosen, tuple(complaints)), fence=tick.fence)
    return {
        "asked": len(plan.ask),
        "backing_off": plan.backing_off,
        "failed": len(failed),
        "busy": sum(bool(answer.get("busy")) for answer in (*done.values(), took)),
        **{name: sum(answer.get(key, 0) for answer in done.values()) for name, key in _EXPORTED.items()},
        **{name: took.get(key, 0) for name, key in _INGESTED.items()},
        "unaccounted": sum(sum(games.values()) for games in missing.values()),
    }


#: Counts of the exports, and of the ingest, by their names in the answers.
_EXPORTED = {"exported": "games", "bytes_exported": "bytes", "rejected": "refused", "pruned": "pruned"}
_INGESTED = {
    "gathered": "gathered", "doubled": "doubled", "shards": "shards", "bytes": "bytes",
    "refused": "refused", "shards_failed": "failed", "shards_left": "left", "strange": "strange",
}  # fmt: skip


def _call(
    fleet: Fleet, nodes: Iterable[str], task: str, arguments: Mapping[str, Any], wait: float
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """Who did what was asked, with the answer; and who did not, and why: silence too, if it was waited for."""
    done, failed = {}, {}
    for name, answered in fleet.call(dict.fromkeys(nodes, (task, arguments)), wait).items():
        if answered.silent and fleet.stopping.is_set():
            continue
        if answered.answer is None:
            failed[name] = answered.error or "no answer in time"
        elif answered.answer.get("without_store"):
            failed[name] = "its processes know no store"
        else:
            done[name] = answered.answer
        for why in (failed.get(name), *done.get(name, {}).get("failures", ())):
            if why is not None:
                log.warning("%s: %s: %s", name, task, why)
    return done, failed
