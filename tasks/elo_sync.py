"""Brings the matches of all nodes together, rates them, and publishes the ratings."""

from __future__ import annotations

import time

from pydantic import Field

import tasks.loop
from fleet import match_ratings
from fleet.elo_board import EloBoard
from fleet.elo_documents import documents
from fleet.elo_exchange import LEAST, Exchanged, exchange
from fleet.fleet import Fleet
from fleet.job import JobStatus
from fleet.match_set import MatchSet
from fleet.match_store import FILE
from fleet.matches import opened
from fleet.notices import Notice
from schedules.durations import Seconds
from tasks.elo_nodes import rules, tell
from tasks.loop import Counts, Tick, loop

#: Of the time that is left, what the exchange may take: rating and publishing come after it.
SHARE = 0.8


class Options(tasks.loop.Options):
    """With how many nodes at once, how patiently, and when not."""

    max_nodes_per_cycle: int = Field(64, ge=1, le=1000, description="nodes exchanged with, longest untried first")
    nodes_at_once: int = Field(8, ge=1, le=64, description="nodes asked side by side")
    answer_timeout: Seconds = Field("30s", gt=0, validate_default=True, description="one answer of one node")
    skip_while_training: bool = Field(True, description="leave nodes alone that train a model right now")
    training_retry: Seconds = Field("60s", gt=0, validate_default=True, description="next run when it was skipped")


@loop(options=Options)
def elo_sync(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Brings the matches of all nodes together, rates them, and publishes the ratings.

    Idempotent: the union of two sets is the same however often and in whatever order it is made, and the
    ratings follow from the set. Nodes that agree already cost one small reading of the registry.
    """
    began = time.monotonic()
    held = fleet.nodes.holdings("matches", tick.now)
    others = {node: str(part.get("digest", "")) for node, part in held.items() if node != fleet.node_id}
    with opened(fleet.data / FILE) as matches:
        adopted = matches.adopt()
        differ = any(digest != matches.state().hex for digest in others.values())
        training = _training(fleet) if differ and options.skip_while_training else set()
        if fleet.node_id in training:
            tick.next_after(options.training_retry)
            return {"skipped_training": 1}
        reached = {node: digest for node, digest in others.items() if node not in training}
        seconds = SHARE * (tick.deadline - tick.now) - (time.monotonic() - began)
        done = exchange(
            matches,
            reached,
            fleet.call,
            wait=options.answer_timeout,
            seconds=seconds,
            at_once=options.nodes_at_once,
            most=options.max_nodes_per_cycle,
        )
        rated = match_ratings.settle(matches.db, rules(fleet))
        fine = (rules(fleet).mark, match_ratings.NO_RULES)
        behind = {node for node in reached if held[node].get("settled") not in fine} - done.silent - done.failed.keys()
        published = _publish(fleet, matches, done, tick, anew=bool(rated))
        state = matches.state()
        tell(fleet, matches)
        unsettled = [node for node in behind if done.heard[node] == state.hex]
        left = tick.deadline - tick.now - (time.monotonic() - began) - LEAST
        if unsettled and left > LEAST:  # published is what this node has, whether they answer or not
            wait = min(options.answer_timeout, left)
            fleet.call({node: ("elo_take", {"settle": True}) for node in unsettled}, wait)
    if adopted.conflicting or done.pulled.conflicting or done.conflicting:
        body = f"{state.conflicts} ids of matches are claimed by several contents; the smallest hash is in effect"
        fleet.notices.send(Notice("Matches contradict each other", body, "warning"))
    fleet.report_holdings()
    if done.unfinished:
        tick.next_after(1.0)
    counts = {
        "nodes": len(others) + 1,
        "exchanged": len(done.tried - done.silent - done.failed.keys()),
        "agreed": sum(digest == state.hex for digest in done.heard.values()) + 1,
        "pulled": done.pulled.merged + done.pulled.conflicting,
        "pushed": done.pushed + done.conflicting,
        "rated": len(rated),
        "published": int(published),
    }
    more = {
        "adopted": adopted.merged,
        "training": len(others) - len(reached),
        "silent": len(done.silent),
        "failed": len(done.failed),
        "refused": adopted.refused + done.pulled.refused + done.unaccepted,
        "conflicts": state.conflicts,
        "other_rules": sum(part.get("settled") not in ("", None, *fine) for part in held.values()),
        "corrupt": sum(number for part in held.values() if type(number := part.get("corrupt")) is int),
    }
    return counts | {name: number for name, number in more.items() if number}


def _training(fleet: Fleet) -> set[str]:
    running = fleet.jobs.find([JobStatus.RUNNING], kind="training", limit=1000)
    return {job.node for job in running if job.node}


def _publish(fleet: Fleet, matches: MatchSet, done: Exchanged, tick: Tick, *, anew: bool) -> bool:
    """Say where everybody stands, when that is new; a node that knows less than what is published stays silent."""
    board, digest = EloBoard(fleet.redis), matches.state().hex
    basis = f"{digest} {rules(fleet).mark}"
    if board.basis() == basis and not anew:
        return False
    min_games = fleet.options.ratings.min_games
    found = documents(fleet.data / FILE, now=tick.now, node_id=fleet.node_id, digest=digest, min_games=min_games)
    published = sum(int(each.get("matches") or 0) for each in board.read().values())
    if not done.agree(digest) and sum(each["matches"] for each in found.values()) < published:
        return False
    board.publish(found, basis, fence=tick.fence)
    return True
