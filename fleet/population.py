"""What to put into the job queue next: a pure decision.

The queue is kept at a depth, not filled at a rate: twice the active nodes, but at least the configured
minimum, of jobs pending, claimed and running. What is missing is shared out twice by the same rule
(`next_share`): among the kinds of jobs by their ratios, then among the configurations that still have
a target to reach, by the scheduler's scores. Both are judged against what is outstanding now, so a kind
or a configuration that is not drained cannot fill the queue, and none is left out.

Nothing is queued that would have nothing to work on: training waits for enough gathered games, new ones
since the last model, and for the training of that configuration that is outstanding; a tournament waits
for somebody to play. The better the participants are known, the fewer tournaments are outstanding: their
priority is above that of self-play, so what is drained and filled again would take all of the nodes.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet.job import OUTSTANDING, JobCounts, JobSpec, JobStatus
from fleet.kinds import JobKind
from fleet.options import FleetOptions
from fleet.priority import CURRICULUM_WEIGHTS, DEFAULT_WEIGHT, MEDIUM, score, velocity
from fleet.ratings import DEFAULT_DEVIATION, ConfigStandings, Standings
from fleet.stock import Stock
from fleet.targets import reason as target_reason

JOBS_PER_NODE = 2  # outstanding for each active node: one at work, one waiting
LEAST_HEALTH = 0.2
MAX_BOOST = 4  # priority added, of each kind, for the configuration that gets most: two minutes ahead of none
MOST_TOURNAMENTS = 3  # outstanding of a configuration of which nothing is known; fewer where more is
LEAST_URGENCY = 0.2  # of a tournament whose participants are all well known: ratings must not grow old


class Policy(Protocol):
    """How much, of what, for which configurations: the populator's options."""

    min_queue_depth: int
    max_queue_depth: int
    target_elo: float
    selfplay_ratio: float
    training_ratio: float
    tournament_ratio: float
    selfplay_games_per_item: int
    selfplay_priority: int
    training_priority: int
    min_games_for_training: int
    min_new_games_for_training: int
    tournament_games: int
    tournament_priority: int
    backpressure_soft: int
    backpressure_hard: int
    curriculum_weights: dict[str, float]
    board_priority_overrides: dict[str, int]

    @property
    def config_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Snapshot:
    """What the decision is made from. `now` is seconds since the epoch; `known_nodes` counts the active ones too.

    `stock` is what the cluster has of each configuration: gathered games and models.
    """

    now: float
    counts: JobCounts
    standings: Standings = field(default_factory=Standings)
    active_nodes: int = 0
    known_nodes: int = 0
    stock: Mapping[str, Stock] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A job to enqueue, before it has an id."""

    kind: str
    config: str
    priority: int
    payload: Mapping[str, Any]

    def spec(self, template: JobKind) -> JobSpec:
        """The job, under the limits of its kind's template."""
        return JobSpec(
            kind=self.kind,
            config=self.config,
            priority=self.priority,
            capability=template.capability,
            payload=self.payload,
            timeout=template.timeout,
            max_attempts=template.max_attempts,
        )


@dataclass(frozen=True)
class Decision:
    """What to add, in the order to add it, to reach at most `depth_target`. `reason` is for the log."""

    items: tuple[Item, ...]
    depth_target: int
    met: tuple[str, ...]
    unmet: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class _Kind:
    """A kind that may be queued: its share, base priority and payload, and the configurations it is for.

    `most`, by configuration, are how many of them may be outstanding, without end where it says nothing. `urgency`,
    by configuration, weighs the scores; where it says nothing, it is 1.
    """

    ratio: float
    priority: int
    payload: Mapping[str, Any]
    configs: tuple[str, ...]
    most: Mapping[str, int] = field(default_factory=dict)
    urgency: Mapping[str, float] = field(default_factory=dict)


def decide(snapshot: Snapshot, policy: Policy, fleet: FleetOptions) -> Decision:
    """What is to be enqueued now. The same snapshot gives the same decision.

    Raises ValueError when a target is unmet but no kind of job has both a ratio and a command, because
    the queue would then stay empty for ever.
    """
    targets, min_games = targets_of(policy, fleet), fleet.ratings.min_games
    met = tuple(name for name, target in targets.items() if snapshot.standings[name].meets(target, min_games))
    unmet = {name: target for name, target in targets.items() if name not in met}
    room, reason = _room(snapshot, policy)
    if not unmet:
        room, reason = 0, "every target is met"
    kinds = _kinds(tuple(unmet), snapshot, policy, fleet) if room else {}
    if room and not kinds:
        reason = "no configuration has the games or the participants that the kinds of jobs need"
    items = _fill(room, kinds, unmet, snapshot, policy) if kinds else ()
    return Decision(items, depth_target(snapshot, policy), met, tuple(unmet), reason)


def targets_of(policy: Policy, fleet: FleetOptions) -> dict[str, float]:
    """The Elo that each configuration has to reach."""
    return {name: _own(fleet.elo_target(name).target_elo, policy.target_elo) for name in policy.config_names}


def depth_target(snapshot: Snapshot, policy: Policy) -> int:
    """How many jobs should be outstanding."""
    wanted = max(policy.min_queue_depth, JOBS_PER_NODE * snapshot.active_nodes)
    return min(wanted, policy.max_queue_depth)


def next_share(shares: Mapping[str, float], outstanding: Mapping[str, int], turn: str) -> str:
    """Whose turn it is, by weighted fair shares of what is outstanding.

    Nobody gets more than the share of the new total, rounded up. Among those below that, the turn is
    drawn by lot in proportion to the shares; `turn` names it, and one name always draws the same lot.
    So the shares hold at every total, and one whose share is less than one job still gets its turn.
    """
    total = sum(outstanding.get(name, 0) for name in shares) + 1
    weight = sum(shares.values())
    below = [
        name for name, share in shares.items() if outstanding.get(name, 0) < math.ceil(total * share / weight - 1e-9)
    ]
    # A regular sequence in place of the lot can fall in step with the drain and never name some of them.
    lot = random.Random(turn)  # noqa: S311
    return lot.choices(below, [shares[name] for name in below])[0]


def _room(snapshot: Snapshot, policy: Policy) -> tuple[int, str]:
    """How many jobs to add, and why so many.

    Backpressure and an ailing cluster make the filling slower; they never lower the depth that is
    filled to, nor stop it short of the hard limit.
    """
    missing = depth_target(snapshot, policy) - snapshot.counts.depth
    pending = snapshot.counts.by_status.get(JobStatus.PENDING, 0)
    if missing <= 0:
        return 0, f"the queue holds {snapshot.counts.depth} jobs, as many as it should"
    if pending >= policy.backpressure_hard:
        return 0, f"{pending} jobs are pending, at or above backpressure_hard ({policy.backpressure_hard})"
    span = policy.backpressure_hard - policy.backpressure_soft
    pressure = min(1.0, (policy.backpressure_hard - pending) / span)
    health = snapshot.active_nodes / snapshot.known_nodes if snapshot.known_nodes else 1.0
    room = max(1, int(missing * pressure * max(LEAST_HEALTH, health)))
    reason = f"{missing} jobs missing"
    if pressure < 1:
        reason += f", {pending} pending"
    if health < 1:
        reason += f", {snapshot.active_nodes} of {snapshot.known_nodes} nodes active"
    return room, reason


def _kinds(unmet: tuple[str, ...], snapshot: Snapshot, policy: Policy, fleet: FleetOptions) -> dict[str, _Kind]:
    """The kinds that can be queued now. The share of one that cannot goes to the others."""

    nothing = Stock()

    def trainable(name: str) -> bool:
        have = snapshot.stock.get(name, nothing)
        needed = max(1, _own(fleet.elo_target(name).min_games_for_training, policy.min_games_for_training))
        if have.trained_on is not None:
            needed = max(needed, have.trained_on + policy.min_new_games_for_training)
        return have.gathered >= needed

    def comparable(name: str) -> bool:
        standing, have = snapshot.standings[name], snapshot.stock.get(name, nothing)
        return have.models >= 1 or standing.models >= 1 or standing.rated >= 2

    selfplay, tournament = {"games": policy.selfplay_games_per_item}, {"games": policy.tournament_games}
    trained, compared = tuple(filter(trainable, unmet)), tuple(filter(comparable, unmet))
    unsure = {
        name: urgency(snapshot.standings[name], snapshot.stock.get(name, nothing).newest, fleet.ratings.min_games)
        for name in compared
    }
    kinds = {
        "selfplay": _Kind(policy.selfplay_ratio, policy.selfplay_priority, selfplay, unmet),
        "training": _Kind(policy.training_ratio, policy.training_priority, {}, trained, dict.fromkeys(trained, 1)),
        "tournament": _Kind(
            policy.tournament_ratio,
            policy.tournament_priority,
            tournament,
            compared,
            {name: math.ceil(MOST_TOURNAMENTS * value) for name, value in unsure.items()},
            unsure,
        ),
    }
    kinds = {name: kind for name, kind in kinds.items() if kind.ratio > 0 and name in fleet.jobs}
    if not kinds:
        raise ValueError(
            "no kind of job can be queued: give selfplay, training or tournament a command in `jobs` "
            f"and a ratio above 0 in `queue_populator` (`jobs` has {', '.join(fleet.jobs) or 'none'})"
        )
    return {name: kind for name, kind in kinds.items() if _free(name, kind, snapshot.counts.outstanding)}


def _free(name: str, kind: _Kind, outstanding: Mapping[tuple[str, str], int]) -> list[str]:
    """The configurations that may have one more."""
    return [one for one in kind.configs if one not in kind.most or outstanding.get((name, one), 0) < kind.most[one]]


def _fill(
    room: int, kinds: Mapping[str, _Kind], unmet: Mapping[str, float], snapshot: Snapshot, policy: Policy
) -> tuple[Item, ...]:
    counts, standings = snapshot.counts, snapshot.standings
    scores = {name: _score(name, standings[name], unmet[name], policy, snapshot.now) for name in unmet}
    shares = {
        name: {config: scores[config] * kind.urgency.get(config, 1.0) for config in kind.configs}
        for name, kind in kinds.items()
    }
    reasons = {name: target_reason(standings[name], target) for name, target in unmet.items()}
    ratios = {name: kind.ratio for name, kind in kinds.items()}
    by_kind = {name: counts.by_kind.get(name, {}) for name in kinds}
    outstanding = {name: sum(by_kind[name].get(status, 0) for status in OUTSTANDING) for name in kinds}
    queued = {name: sum(by_kind[name].values()) for name in kinds}  # ever, so it numbers the turns
    placed = Counter(counts.outstanding)  # by kind and configuration
    free = {name: _free(name, kind, placed) for name, kind in kinds.items()}
    items: list[Item] = []
    while ratios and len(items) < room:
        name = next_share(ratios, outstanding, f"kind {sum(queued.values())}")
        kind = kinds[name]
        own = {config: shares[name][config] for config in free[name]}
        config = next_share(own, {config: placed[name, config] for config in own}, f"{name} {queued[name]}")
        payload = {**kind.payload, "reason": reasons[config]}
        boost = round(MAX_BOOST * own[config] / max(shares[name].values()))
        items.append(Item(name, config, kind.priority + boost, payload))
        outstanding[name] += 1
        queued[name] += 1
        placed[name, config] += 1
        free[name] = _free(name, kind, placed)
        if not free[name]:
            del ratios[name]
    return tuple(items)


def urgency(standing: ConfigStandings, newest: str | None, min_games: int) -> float:
    """How much a tournament of a configuration may tell, from LEAST_URGENCY to 1.

    It is the error of what tournaments decide about, in DEFAULT_DEVIATIONs: whether the newest model is promoted,
    and whether the best one has reached the target. Of whom there are too few games, nothing is known.
    """
    asked = [standing.best, standing.by_name.get(newest)] if newest is not None else [standing.best]
    errors = [
        one.deviation if one is not None and one.games >= min_games and one.anchored else DEFAULT_DEVIATION
        for one in asked
    ]
    return min(1.0, max(LEAST_URGENCY, max(errors) / DEFAULT_DEVIATION))


def _own(own: float | None, general: float) -> float:
    return general if own is None else own


def _score(name: str, standing: ConfigStandings, target: float, policy: Policy, now: float) -> float:
    best = standing.best
    return score(
        rating=None if best is None else best.rating,
        target=target,
        age=None if best is None or best.updated_at is None else now - best.updated_at,
        elo_per_day=velocity(standing.history),
        weight=policy.curriculum_weights.get(name, CURRICULUM_WEIGHTS.get(name, DEFAULT_WEIGHT)),
        level=policy.board_priority_overrides.get(name, MEDIUM),
    )
