"""Spreads models: those that jobs left, to the store; those that nodes should hold, to the nodes."""

from __future__ import annotations

import logging
import time
from collections import Counter

from pydantic import Field

import tasks.loop
from fleet.fleet import Fleet
from fleet.model_plan import NodeModels, plan, prunable, publishers, remembered
from fleet.model_promotion import contests, informed, noticed
from fleet.model_registry import ModelRegistry, Registry
from fleet.nodes import SILENT_AFTER
from fleet.options import ConfigName
from fleet.promotion import decide_promotions
from fleet.ratings import FILE, RatingsUnreadable, read_everybody
from schedules.backoff import Backoff
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop
from tasks.model_asking import ANSWER_WITHIN, publish, transfer
from tasks.models import list_models

log = logging.getLogger("backbeat.model_sync")

#: Times that publishing may take as long as a transfer: an upload that is stopped begins anew.
UPLOADS = 12
#: Contents deleted from the store in one run.
PRUNED = 100
#: Seconds without growth after which an upload in the store belongs to nobody.
UPLOAD_DEAD_AFTER = 86_400.0


class Options(tasks.loop.Options):
    """How much is moved in one run, in which order, and what is kept."""

    max_transfers_per_cycle: int = Field(5, ge=1, le=100, description="versions fetched by nodes in one run")
    transfer_timeout: Seconds = Field("300s", ge=1, le=3600, validate_default=True, description="time for one of them")
    priority_configs: tuple[ConfigName, ...] = Field(("hex8_2p", "square8_2p"), description="these come first")
    retry: Backoff = Field(
        Backoff(initial_delay=60.0, max_delay=3600.0, jitter=False),
        description="after failures of one version, or node",
    )
    keep_candidates: int = Field(3, ge=1, le=100, description="newest versions that each node holds")
    unlisted_for: Seconds = Field(
        "1d", ge=60, validate_default=True, description="time for which a node keeps a version it need no longer hold"
    )
    store_candidates: int = Field(
        50, ge=1, description="newest versions whose contents the store keeps; those that nodes hold stay in any case"
    )
    store_promoted: int = Field(5, ge=2, description="last promotions to which one can roll back")
    store_for: Seconds = Field(
        "30d", ge=3600, validate_default=True, description="time for which the store keeps any version"
    )


@loop(options=Options)
def model_sync(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Has models published, promoted and fetched where they are missing.

    Idempotent: what is in the store, promoted, or on a node stays so; a version that is fetched twice is one.
    """
    if fleet.store is None:
        return {"without_store": 1}
    ends = time.monotonic() + tick.deadline - tick.now
    keep = {"newest": options.keep_candidates, "unlisted_for": options.unlisted_for}
    delay = options.retry.delay
    counts = Counter(dict.fromkeys(("published", "set_aside", "promoted", "pulled", "bytes", "failed"), 0))

    nodes = _nodes(fleet, tick.now)
    asked = publishers(nodes.values(), options, tick.now, delay)
    if asked:
        publish(fleet, asked, {**keep, "seconds": UPLOADS * options.transfer_timeout}, counts)
        nodes = _nodes(fleet, tick.now)
    registry = ModelRegistry(fleet.store)
    found = registry.read(now=tick.now)
    if _promote(fleet, registry, found, tick, counts):
        found = registry.read(now=tick.now)

    decided = plan(list(nodes.values()), found.configs.values(), options, tick.now, delay)
    outcomes = transfer(fleet, decided.transfers, keep, options.transfer_timeout, ends, counts)
    told = fleet.call(dict.fromkeys(decided.refresh, (list_models.name, keep)), ANSWER_WITHIN)
    marks = {}
    for node_id, node in nodes.items():
        lacking, ended = decided.lacking[node_id], outcomes.get(node_id, {})
        after = remembered(node, lacking, ended, tick.now, asked=node_id in asked, told=node_id in told)
        if after != node:
            marks[node_id] = {"models": after.mark()}
    fleet.nodes.mark(marks, fence=tick.fence)
    if outcomes or told:  # nodes say what they hold before they answer
        decided = plan(list(_nodes(fleet, tick.now).values()), found.configs.values(), options, tick.now, delay)
    return {
        **counts,
        "listed": sum(each.answer is not None for each in told.values()),
        "converged": decided.converged,
        "behind": decided.behind,
        "missing": decided.missing,
        "resting": decided.resting,
        "refused": len(found.refused),
        "pruned": _prune(registry, found, options, tick.now),
    }


def _nodes(fleet: Fleet, now: float) -> dict[str, NodeModels]:
    """The nodes whose agent is heard, and that are to stay."""
    return {
        node.node_id: NodeModels.read(node.node_id, node.held.get("models", {}), node.marks.get("models", {}))
        for node in fleet.nodes.all()
        if now - node.heard.get("agent", 0.0) <= SILENT_AFTER and "drain" not in node.marks
    }


def _promote(fleet: Fleet, registry: ModelRegistry, found: Registry, tick: Tick, counts: Counter[str]) -> bool:
    """Promote what is stronger than what is promoted; says whether anything was."""
    path, options = fleet.data / FILE, fleet.options.ratings
    try:
        known = informed(contests(found.configs.values(), read_everybody(path)), path, options)
    except RatingsUnreadable as error:
        log.warning("nothing is promoted: %s", error)
        return False
    for each in decide_promotions(known, options):
        registry.promote(found[each.config], each.version, now=tick.now, by=fleet.node_id, why=each.reason)
        fleet.notices.send(noticed(each))
        counts["promoted"] += 1
    return counts["promoted"] > 0


def _prune(registry: ModelRegistry, found: Registry, options: Options, now: float) -> int:
    registry.store.sweep(UPLOAD_DEAD_AFTER)
    newest = max(options.store_candidates, options.keep_candidates)
    old = [each for models in found.configs.values() for each in models.versions[:-newest]]
    if not any(now - each.created_at > options.store_for for each in old):
        return 0
    gone = prunable(
        found.configs.values(),
        registry.store.list("blobs"),
        newest=newest,
        standing=options.store_promoted,
        now=now,
        after=options.store_for,
    )[:PRUNED]
    for each in gone:
        registry.store.delete(each.key)
    return len(gone)
