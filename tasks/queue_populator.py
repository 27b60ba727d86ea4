"""Keeps the job queue filled until every board configuration has reached its Elo target."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

import tasks.loop
from fleet import ratings, targets
from fleet.configs import BoardConfig
from fleet.elo_board import EloBoard
from fleet.fleet import Fleet
from fleet.notices import Notice, listed
from fleet.options import ConfigName
from fleet.population import Snapshot, decide, targets_of
from fleet.priority import CURRICULUM_WEIGHTS
from fleet.stock import stock
from schedules.durations import Seconds
from tasks.loop import Counts, Tick, loop

KNOWN_WITHIN = 3600.0  # seconds: a node silent for longer has left, and is no sign of an ailing cluster

log = logging.getLogger("backbeat.queue_populator")

Ratio = Annotated[float, Field(ge=0, le=1)]
Board = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,31}$")]
Players = Annotated[int, Field(ge=2, le=9)]
Priority = Annotated[int, Field(ge=0, le=900)]
Level = Annotated[int, Field(ge=0, le=3)]
Weight = Annotated[float, Field(gt=0)]


class Options(tasks.loop.Options):
    """How deep the queue is kept, with what, and for which configurations."""

    min_queue_depth: int = Field(50, ge=1, description="jobs kept outstanding; more when nodes are many")
    max_queue_depth: int = Field(1000, ge=1, description="jobs never exceeded, however many nodes")
    target_elo: float = Field(2000.0, gt=0, description="where elo_targets names no other")
    selfplay_ratio: Ratio = 0.6
    training_ratio: Ratio = 0.3
    tournament_ratio: Ratio = 0.1
    configs: tuple[ConfigName, ...] | None = Field(
        None, description="configurations to train; absent: board_types x player_counts"
    )
    board_types: tuple[Board, ...] = ("square8", "square19", "hex8", "hexagonal")
    player_counts: tuple[Players, ...] = (2, 3, 4)
    selfplay_games_per_item: int = Field(50, ge=1)
    selfplay_priority: Priority = 50
    training_priority: Priority = 100
    min_games_for_training: int = Field(300, ge=0, description="gathered games before the first training")
    min_new_games_for_training: int = Field(150, ge=1, description="games gathered since, before the next")
    tournament_games: int = Field(50, ge=1)
    tournament_priority: Priority = 80
    backpressure_soft: int = Field(500, ge=1, description="pending jobs above which less is added")
    backpressure_hard: int = Field(1000, ge=1, description="pending jobs from which nothing is added")
    all_met_interval: Seconds = Field(
        "300s", gt=0, validate_default=True, description="next run once every target is met"
    )
    notify_at: int = Field(10, ge=1, description="jobs added in one run that are worth a notification")
    curriculum_weights: dict[ConfigName, Weight] = Field(
        default=CURRICULUM_WEIGHTS,
        description="work by configuration; one not named keeps its default, or 0.5",
    )
    board_priority_overrides: dict[ConfigName, Level] = Field(
        default_factory=dict, description="0 = CRITICAL, 1 = HIGH, 2 = MEDIUM (the default), 3 = LOW"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        ratios = (self.selfplay_ratio, self.training_ratio, self.tournament_ratio)
        if abs(sum(ratios) - 1) > 1e-6:
            shown = " + ".join(f"{ratio:g}" for ratio in ratios)
            raise ValueError(
                f"selfplay_ratio + training_ratio + tournament_ratio must be 1, not {shown} = {sum(ratios):g}"
            )
        if self.max_queue_depth < self.min_queue_depth:
            raise ValueError(
                f"max_queue_depth ({self.max_queue_depth}) is below min_queue_depth ({self.min_queue_depth})"
            )
        if self.backpressure_hard <= self.backpressure_soft:
            raise ValueError(
                f"backpressure_hard ({self.backpressure_hard}) must be above "
                f"backpressure_soft ({self.backpressure_soft})"
            )
        crossed = {"board_types", "player_counts"} & self.model_fields_set
        if self.configs is not None and crossed:
            raise ValueError(f"give either configs or board_types and player_counts, not configs and {min(crossed)}")
        if not self.config_names:
            raise ValueError("no configuration is left to train: configs, board_types or player_counts is empty")
        return self

    @property
    def config_names(self) -> tuple[str, ...]:
        """The configurations to train, each once, in the order given."""
        crossed = [str(BoardConfig(board, players)) for board in self.board_types for players in self.player_counts]
        return tuple(dict.fromkeys(crossed if self.configs is None else self.configs))


@loop(options=Options, leader_only=True)
def queue_populator(fleet: Fleet, options: Options, tick: Tick) -> Counts:
    """Keeps the job queue at its depth until every configuration has reached its Elo target.

    Idempotent: nothing is remembered from run to run. The depth is counted anew each time, and the
    script that enqueues lets nothing through above it, so a tick that comes twice adds nothing twice.
    That every target is met is told when the board of Elo does not say so yet.
    Ratings that cannot be read do not stop the games: they count as empty, and the operator is told.
    """
    standings, unreadable = _standings(fleet, tick)
    heard = [node for node in fleet.nodes.all() if not node.left and tick.now - node.last_seen <= KNOWN_WITHIN]
    known = [node for node in heard if "drain" not in node.marks]
    snapshot = Snapshot(
        now=tick.now,
        counts=fleet.jobs.counts(),
        standings=standings,
        active_nodes=sum(node.status(tick.now) != "lost" for node in known),
        known_nodes=len(known),
        stock=stock(node.held for node in heard),
    )
    decision = decide(snapshot, options, fleet.options)
    specs = [item.spec(fleet.options.jobs[item.kind]) for item in decision.items]
    added = fleet.jobs.enqueue(specs, depth_cap=decision.depth_target, fence=tick.fence)
    depth = snapshot.counts.depth + len(added)
    log.info("%d jobs added, %d outstanding: %s", len(added), depth, decision.reason)
    if len(added) >= options.notify_at:
        accepted = set(added)
        kinds = Counter(spec.kind for spec in specs if spec.id in accepted)
        shown = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        fleet.notices.send(
            Notice(
                "Job queue filled",
                f"{len(added)} jobs added ({shown}); {depth} outstanding; "
                f"{len(decision.unmet)} of {len(decision.met) + len(decision.unmet)} targets unmet",
            )
        )
    if not unreadable:  # what the board says was true when it could be read
        _publish(fleet, options, tick, standings)
    if not decision.unmet:
        tick.next_after(options.all_met_interval)
    counts = {"added": len(added), "depth": depth, "met": len(decision.met), "unmet": len(decision.unmet)}
    return counts | {"ratings_unreadable": 1} if unreadable else counts


def _publish(fleet: Fleet, options: Options, tick: Tick, standings: ratings.Standings) -> None:
    """Put the targets on the board, and say so when all of them are met now."""
    board = EloBoard(fleet.redis)
    before = board.read_targets()
    wanted = targets_of(options, fleet.options)
    judged = targets.judge(wanted, standings, before, tick.now, fleet.options.ratings.min_games)
    if targets.newly_all_met(judged, before):
        fleet.notices.send(Notice("Every target is met", listed([f"{one.config}: {one.reason}" for one in judged])))
    board.targets({one.config: one.document() for one in judged}, fence=tick.fence)


def _standings(fleet: Fleet, tick: Tick) -> tuple[ratings.Standings, bool]:
    try:
        return ratings.read(fleet.data / ratings.FILE, tick.now, fleet.options.ratings.min_games), False
    except ratings.RatingsUnreadable as error:
        fleet.notices.send(Notice("Ratings cannot be read", f"{error}; no target counts as met", "error"))
        return ratings.Standings(), True
