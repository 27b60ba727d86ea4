"""Which model is promoted: a pure decision for each configuration.

A candidate replaces the promoted model when it is stronger beyond luck: the lower bound of how much it
gains, at the certainty the options ask for, is above the least gain, both have enough games, and both
are anchored. The first model of a configuration has to be so much above the weakest anchor that played.

The bound is one-sided, of the difference. Its standard error comes from the covariance of the ratings
(`Ratings.difference`), because two models that met each other are surer of their difference than of their
way to the anchors. Where only published ratings are at hand, it is the root of the sum of the squares of
both deviations: never too small, because in this model no two ratings err in opposite directions.

A model is promoted once. One that was replaced, or rolled back by an operator, does not come back by itself
when the numbers sway; only an operator brings it back. So the promoted models of a configuration never go
to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from fleet.rating_options import RatingOptions
from fleet.ratings import Standing


@dataclass(frozen=True)
class Contest:
    """One configuration: the promoted model, those that could be, and how everybody stands.

    `candidates` are the model versions that can be had. `earlier` are those that were promoted before.
    `standings` are by participant, anchors included. `differences` has by candidate how many Elo it is
    above the promoted model and the standard error of that, as far as known.
    """

    config: str
    promoted: str | None
    candidates: tuple[str, ...]
    standings: Mapping[str, Standing]
    earlier: frozenset[str] = frozenset()
    differences: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Whom to promote in `config`, or None, and why. `at_least` is the lower bound of the gain in Elo."""

    config: str
    version: str | None
    reason: str
    at_least: float | None = None


@dataclass(frozen=True)
class Promotion:
    """A model that replaces `previous` (None: it is the first)."""

    config: str
    version: str
    previous: str | None
    reason: str


@dataclass(frozen=True)
class _Gain:
    """What one candidate gains over the promoted model, or over the weakest anchor."""

    version: str
    elo: float
    at_least: float
    games: int

    def text(self, certainty: float) -> str:
        sure = f"{self.at_least:+.0f} with {100 * certainty:g} % certainty after {self.games} games"
        return f"{self.elo:+.0f} Elo, at least {sure}"


def decide_promotions(contests: Iterable[Contest], options: RatingOptions) -> tuple[Promotion, ...]:
    """The promotions that are due, in the order of `contests`."""
    return tuple(
        Promotion(contest.config, decision.version, contest.promoted, decision.reason)
        for contest in contests
        if (decision := decide(contest, options)).version is not None
    )


def decide(contest: Contest, options: RatingOptions) -> Decision:
    """Whom to promote: of those that are stronger beyond luck, the one with the highest lower bound."""
    standings, promoted = contest.standings, contest.promoted
    if promoted is None:
        anchors = {name: elo for name, elo in options.anchors.items() if name in standings}
        if not anchors:
            return Decision(contest.config, None, "no anchor has played, so nothing is known to be better than it")
        base = min(anchors, key=lambda name: (anchors[name], name))
        opponent, over = Standing(base, anchors[base], 0.0, options.min_games), f"anchor {base}"
    elif (why_not := _unfit(standings.get(promoted), options)) is not None:
        return Decision(contest.config, None, f"the promoted {promoted} {why_not}")
    else:
        opponent, over = standings[promoted], promoted
    gains = [_gain(candidate, opponent, contest, options.promotion_certainty) for candidate in fit(contest, options)]
    if not gains:
        return Decision(contest.config, None, f"no candidate is anchored and has {options.min_games} games")
    best = max(gains, key=lambda gain: (gain.at_least, gain.version))
    reason = f"{best.text(options.promotion_certainty)} over {over}"
    if best.at_least <= options.promotion_min_gain:
        needed = f"a bound above {options.promotion_min_gain:+g} is needed"
        return Decision(contest.config, None, f"{best.version}: {reason}; {needed}", best.at_least)
    return Decision(contest.config, best.version, reason, best.at_least)


def fit(contest: Contest, options: RatingOptions) -> list[Standing]:
    """The candidates of whom enough is known."""
    return [
        contest.standings[version]
        for version in sorted(set(contest.candidates) - contest.earlier - {contest.promoted})
        if _unfit(contest.standings.get(version), options) is None
    ]


def _unfit(standing: Standing | None, options: RatingOptions) -> str | None:
    """Why nothing can be said of such a model; None when something can."""
    if standing is None:
        return "is not rated"
    if not standing.anchored:
        return "is not anchored"
    if standing.games < options.min_games:
        return f"has {standing.games} of {options.min_games} games"
    return None


def _gain(candidate: Standing, opponent: Standing, contest: Contest, certainty: float) -> _Gain:
    apart = candidate.rating - opponent.rating, math.hypot(candidate.deviation, opponent.deviation)
    known = contest.differences if contest.promoted is not None else {}
    elo, deviation = known.get(candidate.participant, apart)
    at_least = elo - NormalDist().inv_cdf(certainty) * deviation
    return _Gain(candidate.participant, elo, at_least, candidate.games)
