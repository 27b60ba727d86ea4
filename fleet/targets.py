"""Which configuration has reached its target, since when, and why: what is published, and what is news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fleet.ratings import MIN_GAMES, ConfigStandings, Standings


@dataclass(frozen=True)
class Target:
    """One configuration's target. `since` is when it was found to be met, `at` when this was judged."""

    config: str
    target: float
    met: bool
    since: float | None
    reason: str
    at: float

    def document(self) -> dict[str, Any]:
        """As the board has it, under the configuration's name."""
        document = asdict(self)
        del document["config"]
        return document


def judge(
    targets: Mapping[str, float],
    standings: Standings,
    before: Mapping[str, Mapping[str, Any]],
    now: float,
    min_games: int = MIN_GAMES,
) -> tuple[Target, ...]:
    """How each stands. `before` is what the board had, by configuration: a target that stays met keeps its `since`."""
    judged = []
    for config, target in targets.items():
        standing = standings[config]
        met = standing.meets(target, min_games)
        known = before.get(config, {})
        since = known.get("since") if met and known.get("met") is True else None
        if met and type(since) not in (int, float):
            since = now
        judged.append(Target(config, target, met, since, reason(standing, target), now))
    return tuple(judged)


def newly_all_met(judged: Sequence[Target], before: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every target is met, and the board did not say so yet."""
    return all(one.met for one in judged) and any(before.get(one.config, {}).get("met") is not True for one in judged)


def reason(standing: ConfigStandings, target: float) -> str:
    """How the best model stands to the target, in words; the bound is what counts."""
    best = standing.best
    if best is None:
        return f"target {target:g}: no model is rated yet"
    adrift = "" if best.anchored else ", but no games lead to the anchors"
    return (
        f"target {target:g}: {best.participant[:80]} has {best.rating:.0f} after {best.games} games, "
        f"lower bound {best.lower_bound:.0f}{adrift}"
    )
