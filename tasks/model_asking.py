"""Asks nodes to publish and to fetch models, and counts what comes of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.asking import Answered
from fleet.fleet import Fleet
from fleet.model_plan import Transfer
from fleet.models import Version
from tasks.models import OUTCOMES, publish_models, pull_model

log = logging.getLogger("backbeat.model_sync")

#: Seconds for an answer that takes a node no time, and beside a transfer's own.
ANSWER_WITHIN = 10.0
#: Seconds that nodes get to publish before the transfers begin; what takes longer is known to the next run.
PUBLISH_WITHIN = 30.0


def publish(fleet: Fleet, asked: list[str], arguments: Mapping[str, Any], counts: Counter[str]) -> None:
    for node_id, said in fleet.call(dict.fromkeys(asked, (publish_models.name, arguments)), PUBLISH_WITHIN).items():
        outcome = _outcome(fleet, node_id, "publish", said, counts)
        if outcome == "done" and said.answer is not None:
            counts["published"] += len(said.answer.get("versions", ()))
            counts["set_aside"] += said.answer.get("set_aside", 0)
            counts["bytes"] += said.answer.get("moved", 0)


def transfer(
    fleet: Fleet,
    transfers: Sequence[Transfer],
    keep: Mapping[str, Any],
    seconds: float,
    ends: float,
    counts: Counter[str],
) -> dict[str, dict[str, str]]:
    """What came of each, by node and version. A node fetches one at a time: it goes by rounds, while there is time.

    `seconds` is the time for one transfer, `ends` the end of it all on the monotonic clock.
    """
    outcomes: dict[str, dict[str, str]] = {}
    left = list(transfers)
    while left and not (outcomes and fleet.stopping.is_set()):
        if outcomes and ends - time.monotonic() <= seconds + 2 * ANSWER_WITHIN:
            break
        batch: dict[str, Version] = {}
        for each in left:
            batch.setdefault(each.node_id, each.version)
        left = [each for each in left if batch[each.node_id] != each.version]
        questions = {
            node_id: (
                pull_model.name,
                {**keep, "seconds": seconds, "config": version.config, "version": version.version},
            )
            for node_id, version in batch.items()
        }
        wait = min(seconds + ANSWER_WITHIN, max(1.0, ends - time.monotonic() - ANSWER_WITHIN))
        for node_id, said in fleet.call(questions, wait).items():
            outcome = _outcome(fleet, node_id, f"get {batch[node_id].version}", said, counts)
            outcomes.setdefault(node_id, {})[batch[node_id].version] = outcome
            if outcome == "done" and said.answer is not None:
                counts["pulled"] += 1
                counts["bytes"] += said.answer.get("moved", 0)
    return outcomes


def _outcome(fleet: Fleet, node_id: str, what: str, said: Answered, counts: Counter[str]) -> str:
    """One word for what came of a question; failures are counted by it, and logged."""
    if said.silent and fleet.stopping.is_set():
        return "busy"  # for all we know: nobody waited for it
    answer = said.answer or {}
    outcome = "silent" if said.silent else str(answer.get("outcome", "failed"))
    if outcome not in OUTCOMES:
        outcome = "silent" if said.silent else "failed"
    if outcome != "done":
        counts[outcome] += 1
        counts["failed"] += outcome not in ("failed", "busy")
        log.warning("%s did not %s: %s: %s", node_id, what, outcome, said.error or answer.get("why", "no answer"))
    return outcome
