"""Ratings on the Elo scale from counts of results: who is how strong, and how sure that is.

The model is Plackett and Luce's: participants of strengths exp(s) finish in an order that is drawn by
choosing the first in proportion to strength, then the second among those left, and so on. For two players
it is the model of Bradley and Terry, which is the curve of Elo: 400 points are odds of 10 to 1. Ties are
averaged over orders (see fleet.choices), so a draw of two is half a win each way.

The ratings are the most probable ones (MAP). The prior is weak: everybody has also drawn `prior` games
against an imagined opponent of PRIOR_RATING. It keeps a perfect score finite, and pulls the less the
more games there are. Anchors are not estimated: their rating is given, and the others follow.

Nothing depends on the order of the games, of the mapping or of the seats: the counts are whole numbers,
participants are sorted, and Newton's method always starts at the same place. So every node that knows the
same games shows the same ratings, to the RESOLUTION that they are rounded to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.choices import SCALE, Choices, Ints, count
from fleet.outcome import Outcome
from fleet.rating_options import MOST_PARTICIPANTS

PRIOR_RATING = 1500.0  # Elo, where a participant that nothing is known of stands
RESOLUTION = 2  # digits of an Elo point that are published

_LOGIT = 400.0 / math.log(10.0)  # Elo points in one unit of log strength
_MAX_STEP = 8.0  # units of log strength: beyond it the curve is no longer what it is here
_MAX_ROUNDS = 200
_NEAR = 1e-3  # units of log strength: a step this short is right as it is
_OVERSHOT = 0.25  # of its slope at the start, that a step of less than a unit may fall behind the peak
_LEAST_CURVATURE = 1e-14  # of the largest one: less is rounding, and may point downhill
_CONVERGED = 1e-10  # units of log strength; 2e-8 Elo

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rated:
    """One participant. `deviation` is the standard error of `rating`; both are Elo, rounded to 0.01.

    A win is a first place alone, a draw a first place shared, all else is a loss. `anchored`: a chain of
    games leads from here to every anchor that has played. Where it does not, the rating only says
    something about others of the same chain, and the deviation is the prior's: nothing is known.
    An anchor's own deviation is 0.
    """

    rating: float
    deviation: float
    games: int
    wins: int
    losses: int
    draws: int
    anchored: bool


class Ratings(Mapping[str, Rated]):
    """Everybody who has played, by participant in sorted order."""

    def __init__(self, rated: Mapping[str, Rated], strengths: Floats, covariance: Floats, chains: Ints) -> None:
        self._rated = dict(rated)
        self._place = {name: place for place, name in enumerate(self._rated)}
        self._strengths = strengths
        self._covariance = covariance
        self._chains = chains

    def __getitem__(self, participant: str) -> Rated:
        return self._rated[participant]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rated)

    def __len__(self) -> int:
        return len(self._rated)

    def __repr__(self) -> str:
        return f"Ratings({self._rated!r})"

    def difference(self, one: str, other: str) -> tuple[float, float]:
        """By how many Elo `one` is above `other`, and the standard error of that, rounded to 0.01.

        The error is of the difference itself: what makes both uncertain alike, such as a long way to the
        anchors, does not count. Without a chain of games between the two it is that of two guesses.
        Raises KeyError for somebody who has not played.
        """
        a, b = self._place[one], self._place[other]
        elo = _LOGIT * float(self._strengths[a] - self._strengths[b])
        if self._chains[a] == self._chains[b]:
            variance = self._covariance[a, a] + self._covariance[b, b] - 2 * self._covariance[a, b]
            return _published(elo), _published(_LOGIT * math.sqrt(max(float(variance), 0.0)))
        return _published(elo), _published(math.hypot(self[one].deviation, self[other].deviation))


def prior_deviation(prior: float) -> float:
    """The standard error, in Elo, of a participant of whom only the prior is known: 347.44 for one draw."""
    return _LOGIT * 2.0 / math.sqrt(prior)


def rate(outcomes: Mapping[Outcome, int], anchors: Mapping[str, float], *, prior: float = 1.0) -> Ratings:
    """The ratings of everybody in `outcomes`, which says how often each result happened.

    `anchors` are participants of known Elo; those that did not play are left out. `prior` is the strength
    of the prior, in drawn games, above 0. Raises ValueError for a result that is none, and for an anchor
    or a prior that is no usable number; ArithmeticError for more than MOST_PARTICIPANTS, and where anchors
    lie so far from what the games say, or a prior is so weak beside so many games, that arithmetic fails. No
    setting that RatingOptions takes does the latter.
    """
    if not (math.isfinite(prior) and prior > 0):
        raise ValueError(f"the prior must be a number of games above 0, not {prior}")
    for name, elo in anchors.items():
        if not math.isfinite(elo):
            raise ValueError(f"anchor {name!r} must have a finite Elo, not {elo}")
    choices = count(outcomes)
    if len(choices.names) > MOST_PARTICIPANTS:
        raise ArithmeticError(f"{len(choices.names):,} participants; {MOST_PARTICIPANTS:,} can be rated together")
    chains = _chains(choices)
    problem = _Problem(choices, anchors, prior)
    try:
        strengths = problem.solve()
        covariance = problem.covariance(strengths)
    except np.linalg.LinAlgError as error:
        raise ArithmeticError(f"{len(chains)} participants cannot be rated from these anchors: {error}") from error
    reached = {int(chains[place]) for place in problem.pinned}
    anchored = (chains == reached.pop()) if len(reached) == 1 else np.zeros(len(chains), bool)
    errors = np.where(anchored, _LOGIT * np.sqrt(covariance.diagonal()), prior_deviation(prior))
    errors[problem.pinned] = 0.0
    record = choices.record
    columns: list[NDArray[Any]] = [PRIOR_RATING + _LOGIT * strengths, errors]
    columns += [record.games, record.wins, record.losses, record.draws, anchored]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    rated = {
        name: Rated(_published(rating), _published(error), *rest)
        for name, (rating, error, *rest) in zip(choices.names, rows, strict=True)
    }
    return Ratings(rated, strengths, covariance, chains)


class _Problem:
    """The posterior of the log strengths, 0 being PRIOR_RATING. Concave, with one peak."""

    def __init__(self, choices: Choices, anchors: Mapping[str, float], prior: float) -> None:
        self.size = len(choices.names)
        self.prior = prior
        self.chosen = choices.chosen / SCALE
        self.sets = [(members, counts / SCALE) for members, counts in choices.sets]
        given = {place: anchors[name] for place, name in enumerate(choices.names) if name in anchors}
        self.pinned = list(given)
        self.free = np.setdiff1d(np.arange(self.size), self.pinned)
        self.start = np.zeros(self.size)
        self.start[self.pinned] = [(_published(elo) - PRIOR_RATING) / _LOGIT for elo in given.values()]

    def solve(self) -> Floats:
        """Newton's method. A long step is shortened until it stays on this side of the peak of its line.

        Only slopes are compared: where games are many, the value itself is too large to show a small rise.
        """
        strengths, last = self.start.copy(), math.inf
        if not len(self.free):
            return strengths
        rounding = 4 * float(np.finfo(float).eps) * float(self.chosen.max(initial=1.0))
        gradient, curvature = self.slopes(strengths)
        for _ in range(_MAX_ROUNDS):
            step = np.zeros(self.size)
            inside = curvature[np.ix_(self.free, self.free)]
            inside[np.diag_indices(len(inside))] += _LEAST_CURVATURE * len(inside) * inside.max()
            step[self.free] = np.linalg.solve(inside, gradient[self.free])
            furthest = float(np.abs(step).max())
            if float(np.abs(gradient[self.free]).max()) <= rounding:
                return strengths
            if furthest < _CONVERGED or _NEAR > furthest > last / 2:  # steps that no longer shrink are rounding
                return strengths + step
            last = furthest
            step *= min(1.0, _MAX_STEP / furthest)
            while True:
                ahead, curvature = self.slopes(strengths + step)
                length = float(np.abs(step).max())
                overshot = 0.0 if length > 1 else _OVERSHOT * float(gradient @ step)
                if length < _NEAR or float(ahead @ step) >= -overshot:
                    break
                step /= 2
            strengths, gradient = strengths + step, ahead
        raise ArithmeticError(f"no ratings of {self.size} participants after {_MAX_ROUNDS} rounds")

    def slopes(self, strengths: Floats) -> tuple[Floats, Floats]:
        """Its gradient, and its curvature: the Hessian with the sign turned, which is positive definite."""
        gradient = self.chosen.copy()
        curvature = np.zeros(self.size * self.size)
        for members, counts in self.sets:
            here = strengths[members]
            share = np.exp(here - here.max(axis=0))
            share /= share.sum(axis=0)
            weighted = counts * share
            gradient -= np.bincount(members.ravel(), weighted.ravel(), self.size)
            for a, b in combinations(range(len(members)), 2):
                both = weighted[a] * share[b]
                curvature -= np.bincount(members[a] * self.size + members[b], both, self.size**2)
        square = curvature.reshape(self.size, self.size)
        square += square.T  # the sets are sorted, so only one half was filled
        np.fill_diagonal(square, -square.sum(axis=1))
        drawn = 1 / (1 + np.exp(-strengths))
        gradient += self.prior * (0.5 - drawn)
        square[np.diag_indices(self.size)] += self.prior * drawn * (1 - drawn)
        return gradient, square

    def covariance(self, strengths: Floats) -> Floats:
        """How uncertain the strengths are together; those of anchors are not."""
        whole = np.zeros((self.size, self.size))
        if len(self.free):
            inside = np.ix_(self.free, self.free)
            inverse = np.linalg.inv(self.slopes(strengths)[1][inside])
            whole[inside] = (inverse + inverse.T) / 2
        return whole


def _chains(choices: Choices) -> Ints:
    """For each participant the number of its chain: those whom games connect have the same."""
    size = len(choices.names)
    met = np.zeros((size, size), bool)
    for members, _ in choices.sets:
        for other in members[1:]:
            met[members[0], other] = met[other, members[0]] = True
    chains = np.full(size, -1, np.int64)
    for first in range(size):
        edge: Any = np.array([first]) if chains[first] < 0 else np.array([], np.int64)
        while len(edge):
            chains[edge] = first
            edge = np.flatnonzero(met[edge].any(axis=0) & (chains < 0))
    return chains


def _published(elo: float) -> float:
    return round(elo, RESOLUTION) + 0.0  # never -0.0
