"""One cycle of elo_sync on its node: with whom it exchanges matches, in which order, and when it stops.

Nodes are asked side by side, a question each in a round, so one that is silent delays the others once and is
then left out. Those that were never or longest ago tried come first. A second pass brings what was learned from
the last ones to the first ones, so after a cycle that reached everybody all of them agree.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.asking import Answered
from fleet.match_set import MatchSet, Merged
from fleet.reconciliation import Nonsense, Reconciliation

PASSES = 2
#: Seconds below which no further question is worth while.
LEAST = 0.5

Call = Callable[[Mapping[str, tuple[str, Mapping[str, Any]]], float], dict[str, Answered]]

log = logging.getLogger("backbeat.elo_sync")


@dataclass
class Exchanged:
    """What a cycle did. `heard` are the digests that nodes told last; `unfinished` those that time did not reach."""

    heard: dict[str, str]
    tried: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    pulled: Merged = field(default_factory=Merged)
    pushed: int = 0
    conflicting: int = 0
    unaccepted: int = 0

    def agree(self, digest: str) -> bool:
        """Whether every node has what this digest stands for, those that are silent too."""
        return all(heard == digest for heard in self.heard.values())


def longest_ago(db: sqlite3.Connection, nodes: Iterable[str]) -> list[str]:
    """The nodes in the order in which they are tried.

    Those that were never tried are shuffled: any node may run the loop, and each remembers only its own tries.
    """
    tried = dict(db.execute("SELECT node, tried_at FROM backbeat_peers"))
    shuffled = sorted(nodes)
    random.shuffle(shuffled)
    return sorted(shuffled, key=lambda node: tried.get(node, 0.0))


def exchange(
    matches: MatchSet, nodes: Mapping[str, str], call: Call, *, wait: float, seconds: float, at_once: int, most: int
) -> Exchanged:
    """Bring this node and others (with the digests they are known to have) together.

    `wait` seconds for an answer, `seconds` for all of it, `at_once` nodes side by side, `most` in all.
    """
    give_up = time.monotonic() + seconds
    done = Exchanged(dict(nodes))
    for _ in range(PASSES):
        own = matches.state().hex
        differing = [node for node in longest_ago(matches.db, nodes) if done.heard[node] != own]
        again = [node for node in differing if node in done.tried - done.silent - done.failed.keys()]
        others = [node for node in differing if node not in done.tried]
        wanted = again + others[: most - len(done.tried)]
        for first in range(0, len(wanted), at_once):
            _side_by_side(matches, wanted[first : first + at_once], call, wait, give_up, done)
        if give_up - time.monotonic() < LEAST:
            break
    return done


def _side_by_side(
    matches: MatchSet, nodes: list[str], call: Call, wait: float, give_up: float, done: Exchanged
) -> None:
    if give_up - time.monotonic() < LEAST:
        done.unfinished |= set(nodes)
        return
    rows = [(node, time.time()) for node in nodes]
    matches.db.executemany(
        "INSERT INTO backbeat_peers (node, tried_at) VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET tried_at = excluded.tried_at",
        rows,
    )
    done.tried |= set(nodes)
    active = {node: Reconciliation(matches, node) for node in nodes}
    while True:
        asked = {node: question for node, each in active.items() if (question := each.question()) is not None}
        for node in active.keys() - asked.keys():
            _over(node, active.pop(node), done)
        if not asked:
            return
        left = give_up - time.monotonic()
        if left < LEAST:
            done.unfinished |= asked.keys()
            for node in asked:
                _over(node, active.pop(node), done)
            return
        for node, said in call(asked, min(wait, left)).items():
            if (why := _heard(active[node], said)) is not None:
                if said.silent:
                    done.silent.add(node)
                else:
                    done.failed[node] = why
                log.warning("%s: %s", node, why)
                _over(node, active.pop(node), done)


def _heard(exchange: Reconciliation, said: Answered) -> str | None:
    """Take an answer in; why that does not work, if it does not."""
    if said.silent:
        return "no answer in time"
    if said.answer is None:
        return said.error
    try:
        exchange.answered(said.answer)
    except Nonsense as error:
        return str(error)
    return None


def _over(node: str, exchange: Reconciliation, done: Exchanged) -> None:
    done.heard[node] = exchange.heard or done.heard[node]
    done.pulled += exchange.pulled
    done.pushed += exchange.pushed
    done.conflicting += exchange.pushed_conflicts
    done.unaccepted += exchange.unaccepted
