"""Who plays whom in a tournament: a pure decision.

Games go where their results tell most. What is known so far gives everybody a strength (the model of
Bradley and Terry, or the winner of Plackett and Luce's for more than two) and says how sure that is. Each
next table is the one that is expected to take most off the errors that matter: how far the leading models
are above `random`, where the scale is fixed, and how far the newest is above the promoted one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np

from examples.openspiel.features import Floats, Ints

#: Players that never change, so that ratings of all times have one scale: chance, and plain MCTS with so many
#: simulations a move. Each beats the one before it often, but not always: results that are certain tell nothing.
ANCHORS = {"random": 0, "uct8": 8, "uct32": 32, "uct128": 128}

#: How often which of the players of a table won it: (all in sorted order, those who share the first place).
Results = Mapping[tuple[tuple[str, ...], tuple[str, ...]], int]

#: What is guessed beforehand, with little weight: each anchor is so much stronger than the one before it, and
#: a model as strong as the strongest. In units of log strength, of which 1 is 174 Elo.
STEP = 1.5
PRIOR = 0.1
#: how much more the difference of the newest and the promoted model matters: it decides on promotion
CHALLENGE = 2.0
ROUNDS = 30


def tables(
    candidates: Sequence[str],
    promoted: str | None,
    previous: str | None,
    *,
    seats: int,
    count: int,
    results: Results,
    rng: random.Random,
) -> list[tuple[str, ...]]:
    """`count` tables of `seats` different participants, or a few more when more are needed.

    First come the meetings without which ratings would have no common scale: every anchor, with the next
    one and with the leading models, and these with each other. The rest goes where a result tells most.
    Raises ValueError when there are fewer participants than seats.
    """
    leading = list(dict.fromkeys([*candidates[:1], *([promoted] if promoted else [])]))
    everybody = list(dict.fromkeys([*leading, *candidates, *([previous] if previous else []), *ANCHORS]))
    if len(everybody) < seats:
        raise ValueError(f"{len(everybody)} participants ({', '.join(everybody)}) cannot fill {seats} seats")
    known = {who for who, _ in results}
    names = list(dict.fromkeys([*everybody, *sorted({name for who in known for name in who})]))
    index = {name: number for number, name in enumerate(names)}
    guess = np.array([STEP * list(ANCHORS).index(name if name in ANCHORS else "uct128") for name in names])
    strengths, information = _strengths(results, index, seats, guess)
    for name in everybody:  # who has not played yet is taken to be as strong as what it is to replace
        if name not in ANCHORS and information[index[name], index[name]] <= PRIOR:
            strengths[index[name]] = strengths[index[promoted or "uct128"]]

    every = list(combinations(everybody, seats))
    seated = np.array([[index[name] for name in table] for table in every])
    chances = _chances(strengths[seated])
    goals = _goals(leading, index)
    found: list[tuple[str, ...]] = []
    met: set[frozenset[str]] = set()

    def worth() -> Floats:
        """By table, how much a round of it takes off the variances of the goals."""
        covariance = np.linalg.inv(information)
        gains = np.zeros(len(every))
        for i, j in combinations(range(seats), 2):
            told = seats * chances[:, i] * chances[:, j]
            one, other = seated[:, i], seated[:, j]
            unsure = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
            moved = (goals @ covariance)[:, one] - (goals @ covariance)[:, other]
            gains += told * (moved**2).sum(axis=0) / (1 + told * unsure)
        return gains

    def add(number: int) -> None:
        place = seated[number]
        information[np.ix_(place, place)] += seats * _told(chances[number])
        met.update(frozenset(pair) for pair in combinations(every[number], 2))
        found.append(tuple(rng.sample(every[number], seats)))

    for pair in _needed(leading):
        if frozenset(pair) not in met:
            fitting = np.array([set(pair) <= set(table) for table in every])
            add(int(np.where(fitting, worth(), -1).argmax()))
    while len(found) < count:
        add(int(worth().argmax()))
    return found


def _strengths(results: Results, index: Mapping[str, int], seats: int, guess: Floats) -> tuple[Floats, Floats]:
    """The most probable log strengths by number of participant, and the information behind them."""
    size = len(index)
    strengths, information = guess.copy(), np.eye(size) * PRIOR
    if not results:
        return strengths, information
    seated: Ints = np.array([[index[name] for name in who] for who, _ in results])
    first = np.array([[name in winners for name in who] for who, winners in results], dtype=float)
    first /= first.sum(axis=1, keepdims=True)
    times = np.array(list(results.values()), dtype=float)[:, None]
    rows, columns = np.repeat(seated, seats, axis=1), np.tile(seated, seats)
    for _ in range(ROUNDS):
        chances = _chances(strengths[seated])
        slope = -PRIOR * (strengths - guess)
        np.add.at(slope, seated, times * (first - chances))
        information = np.eye(size) * PRIOR
        told = np.array([_told(row) for row in chances]).reshape(len(chances), -1)
        np.add.at(information, (rows, columns), times * told)
        step = np.clip(np.linalg.solve(information, slope), -1, 1)
        strengths += step
        if np.abs(step).max() < 1e-6:
            break
    return strengths, information


def _chances(strengths: Floats) -> Floats:
    odds = np.exp(strengths - strengths.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _told(chances: Floats) -> Floats:
    """What the winner of one game tells about the strengths of a table (Fisher's information)."""
    return np.asarray(np.diag(chances) - np.outer(chances, chances))


def _goals(leading: Sequence[str], index: Mapping[str, int]) -> Floats:
    """The differences that matter, a row each."""
    differences = [(name, "random", 1.0) for name in (leading or ["uct128"])]
    differences += [(one, other, CHALLENGE) for one, other in combinations(leading, 2)]
    goals = np.zeros((len(differences), len(index)))
    for row, (one, other, weight) in zip(goals, differences, strict=True):
        row[index[one]], row[index[other]] = weight, -weight
    return goals


def _needed(leading: Sequence[str]) -> list[tuple[str, str]]:
    strongest_first = tuple(reversed(ANCHORS))
    return [
        *[(model, anchor) for model in leading for anchor in strongest_first],
        *combinations(leading, 2),
        *pairwise(strongest_first),
    ]


def rotations(table: Sequence[str]) -> list[tuple[str, ...]]:
    """The same table as often as it has seats, so that everybody sits once on each."""
    return [tuple(table[shift:]) + tuple(table[:shift]) for shift in range(len(table))]
