"""Which board configuration needs work most: the self-play scheduler's priorities.

A score is a positive number; twice the score means twice the work. It is the product of

    need        how far the best model is from its target, and how stale its rating is
    momentum    a configuration that climbs pays for its games, one on a plateau less so
    curriculum  the weight a configuration has in the curriculum
    level       the operator's override: each level is worth twice the next

and never 0, so that no configuration with an unmet target is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

DAY = 86_400.0

#: Curriculum weights by configuration; the smaller the board and the fewer the players, the sooner it learns.
CURRICULUM_WEIGHTS = {
    "square8_2p": 1.0, "square8_3p": 0.7, "square8_4p": 0.5,
    "square19_2p": 0.8, "square19_3p": 0.5, "square19_4p": 0.4,
    "hex8_2p": 0.9, "hex8_3p": 0.6, "hex8_4p": 0.5,
    "hexagonal_2p": 0.7, "hexagonal_3p": 0.5, "hexagonal_4p": 0.4,
}  # fmt: skip
DEFAULT_WEIGHT = 0.5

CRITICAL, HIGH, MEDIUM, LOW = range(4)

UNRATED = 1500.0  # Elo of a configuration in which no model is rated yet
GAP_SCALE = 500.0  # Elo: the distance from UNRATED to the usual target counts as 1
MAX_GAP = 2.0  # in GAP_SCALEs: beyond it, further is not more urgent
STALE_AFTER = 7 * DAY  # seconds without a new rating after which staleness is full
STALENESS_SHARE = 0.5  # what full staleness adds to the need
LEAST_NEED = 0.25  # the target is near, but not shown to be met: it still takes games
CLIMBING = 50.0  # Elo a day at which momentum is full
MOMENTUM_SHARE = 0.25  # how much full momentum adds or takes away


def velocity(history: Sequence[tuple[float, float]]) -> float | None:
    """Elo a day: the least-squares slope through (seconds, Elo).

    None when fewer than two distinct instants are known, because no slope can be told then.
    """
    if len({at for at, _ in history}) < 2:
        return None
    mean_at = sum(at for at, _ in history) / len(history)
    mean_elo = sum(elo for _, elo in history) / len(history)
    spread = sum((at - mean_at) ** 2 for at, _ in history)
    return DAY * sum((at - mean_at) * (elo - mean_elo) for at, elo in history) / spread


def score(
    *,
    rating: float | None,
    target: float,
    age: float | None,
    elo_per_day: float | None,
    weight: float = DEFAULT_WEIGHT,
    level: int = MEDIUM,
) -> float:
    """How much work a configuration with an unmet target should get, relative to the others.

    `rating` is its best model's (None: none is rated), `age` the seconds since that rating was made
    (None: never), `elo_per_day` its velocity (None: unknown), `weight` its curriculum weight, above 0,
    `level` 0 (CRITICAL) to 3 (LOW).
    """
    gap = (target - (UNRATED if rating is None else rating)) / GAP_SCALE
    staleness = 1.0 if age is None else min(max(age, 0.0) / STALE_AFTER, 1.0)
    need = max(LEAST_NEED, min(gap, MAX_GAP)) + STALENESS_SHARE * staleness
    climb = 0.0 if elo_per_day is None else min(max(elo_per_day / CLIMBING, -1.0), 1.0)
    return need * (1 + MOMENTUM_SHARE * climb) * weight * 2.0 ** (MEDIUM - level)
