"""Ratings beside those of other people's programs: choix, and the Elo of OpenSpiel."""

from __future__ import annotations

import csv
import math
from collections import Counter
from itertools import permutations
from pathlib import Path

import choix
import numpy as np
import pytest
from numpy.typing import NDArray

from fleet.outcome import Outcome, outcome
from fleet.rating import rate

LOGIT = 400 / math.log(10)
WEAK = 1e-6  # a prior that the others do not have
MATCHES = Path(__file__).parents[3] / "shared" / "data" / "lz_matches.csv"


def wins_between(outcomes: dict[Outcome, int], names: list[str]) -> NDArray[np.float64]:
    wins = np.zeros((len(names), len(names)))
    for (participants, ranks), times in outcomes.items():
        one, other = map(names.index, participants)
        half = times / 2 if ranks == (1, 1) else 0.0
        wins[one, other] += half or times * (ranks == (1, 2))
        wins[other, one] += half or times * (ranks == (2, 1))
    return wins


def ours(outcomes: dict[Outcome, int], names: list[str]) -> NDArray[np.float64]:
    ratings = rate(outcomes, {}, prior=WEAK)
    elo = np.array([ratings[name].rating for name in names])
    return elo - elo.mean()


def centred(strengths: NDArray[np.float64]) -> NDArray[np.float64]:
    elo: NDArray[np.float64] = np.asarray(strengths) * LOGIT
    return elo - elo.mean()


def random_duels(seed: int, participants: int = 8) -> tuple[dict[Outcome, int], list[str]]:
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(participants)]
    strengths = rng.normal(0, 1, participants)
    games: Counter[Outcome] = Counter()
    for one in range(participants):
        for other in range(one + 1, participants):
            number = int(rng.integers(20, 60))
            draws = 2 * int(rng.integers(0, 6))
            won = int(rng.binomial(number, 1 / (1 + np.exp(strengths[other] - strengths[one]))))
            pair = (names[one], names[other])
            games += Counter({outcome(pair, (1, 2)): won, outcome(pair, (2, 1)): number - won})
            games += Counter({outcome(pair, (1, 1)): draws})
    return dict(games), names


@pytest.fixture(scope="module")
def leela_zero() -> dict[Outcome, int]:
    """65,644 real games of 202 models."""
    if not MATCHES.exists():
        pytest.skip(f"{MATCHES} is not here")
    games: Counter[Outcome] = Counter()
    with MATCHES.open(newline="") as file:
        for black, white, _speed, number, won in csv.reader(file):
            games[outcome((black, white), (1, 2))] += int(won)
            games[outcome((black, white), (2, 1))] += int(number) - int(won)
    return dict(games)


def test_choix_rates_the_real_games_of_leela_zero_the_same(leela_zero: dict[Outcome, int]) -> None:
    names = sorted({name for participants, _ in leela_zero for name in participants})
    assert len(names) == 202
    theirs = choix.ilsr_pairwise_dense(wins_between(leela_zero, names), alpha=0.0, max_iter=1000, tol=1e-9)
    assert np.abs(ours(leela_zero, names) - centred(theirs)).max() < 0.02


def test_openspiel_rates_the_real_games_of_leela_zero_the_same(leela_zero: dict[Outcome, int]) -> None:
    names = sorted({name for participants, _ in leela_zero for name in participants})
    theirs = openspiel(wins_between(leela_zero, names))
    assert np.abs(ours(leela_zero, names) - theirs).max() < 0.02


def openspiel(wins: NDArray[np.float64], draws: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    elo = pytest.importorskip("pyspiel").elo
    options = elo.default_elo_options()
    options.max_iterations, options.smoothing_factor, options.convergence_delta = 20_000, 0.0, 1e-14
    matrix = wins.astype(int).tolist()
    theirs = np.array(elo.compute_ratings_from_matrices(matrix, [] if draws is None else draws.tolist(), options))
    return theirs - theirs.mean()


@pytest.mark.parametrize("seed", range(5))
def test_choix_and_openspiel_rate_random_duels_with_draws_the_same(seed: int) -> None:
    games, names = random_duels(seed)
    decided = {result: times for result, times in games.items() if result[1] != (1, 1)}
    drawn = np.zeros((len(names), len(names)), np.int64)
    for (pair, ranks), times in games.items():
        if ranks == (1, 1):
            one, other = map(names.index, pair)
            drawn[one, other] = drawn[other, one] = times
    mine = ours(games, names)
    theirs = choix.ilsr_pairwise_dense(wins_between(games, names), alpha=0.0, max_iter=1000, tol=1e-10)
    assert np.abs(mine - centred(theirs)).max() < 0.02
    assert np.abs(mine - openspiel(wins_between(decided, names), drawn)).max() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_choix_rates_random_games_of_three_and_four_with_ties_the_same(seed: int) -> None:
    """choix knows no ties, so it gets the choices of every order that a result can stand for, as often as it is
    likely, and none among losers that share the last place."""
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(7)]
    strengths = rng.normal(0, 0.7, len(names))
    games: Counter[Outcome] = Counter()
    chosen: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(150):
        seats = [int(seat) for seat in rng.permutation(len(names))[: rng.integers(3, 5)]]
        luck = [int(np.floor(2 * (strengths[seat] + rng.gumbel()))) for seat in seats]  # whole numbers tie
        ranks = [1 + sum(other > own for other in luck) for own in luck]
        games[outcome([names[seat] for seat in seats], ranks)] += 1
        orders = [o for o in permutations(range(len(seats))) if [ranks[i] for i in o] == sorted(ranks)]
        last = ranks.count(max(ranks))
        told = len(seats) - (last if last < len(seats) else 1)
        for order in orders:
            standing = [seats[i] for i in order]
            choices = [(standing[place], tuple(standing[place + 1 :])) for place in range(told)]
            chosen += [choice for choice in choices for _ in range(24 // len(orders))]
    assert any(1 < ranks.count(rank) < len(ranks) and rank < max(ranks) for _, ranks in games for rank in ranks)
    assert any(1 < ranks.count(max(ranks)) < len(ranks) for _, ranks in games)
    theirs = choix.ilsr_top1(len(names), chosen, alpha=0.0, max_iter=500, tol=1e-9)
    assert np.abs(ours(dict(games), names) - centred(theirs)).max() < 0.02
