"""Fitting a value model to played games."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from examples.openspiel.features import Features, Floats, Sight
from examples.openspiel.games import Game

EPOCHS = 8
BATCH = 256
RATE = 0.05
#: pulls every weight towards zero, so that what is rarely seen stays small
DECAY = 1e-5
#: Adagrad's sum of squares before the first step
START = 1e-4


class Stopped(Exception):
    """A stop was asked for in the middle."""


@dataclass(frozen=True)
class Lessons:
    """Positions, a row each, and what became of them."""

    features: Features
    outcomes: Floats


def lessons(
    game: Game,
    sight: Sight,
    played: Iterable[tuple[Sequence[int], Sequence[float]]],
    stop: Callable[[], bool] = lambda: False,
) -> Lessons:
    """Every position but the last of games, each given by its moves and returns, and its mirror images.

    Raises Stopped.
    """
    seen, outcomes = [], []
    for moves, returns in played:
        if stop():
            raise Stopped
        state = game.new_initial_state()
        for move in moves[:-1]:
            seen.append(sight.after(state, [move])[0])
            outcomes.append(sight.outcome(returns, state.current_player()))
            state.apply_action(move)
    images = sight.turned(np.array(seen))
    return Lessons(np.concatenate(images), np.concatenate([np.array(outcomes)] * len(images)))


def fit(
    sight: Sight, weights: Floats, lessons: Lessons, seed: int, stop: Callable[[], bool] = lambda: False
) -> tuple[Floats, float]:
    """Better weights, from `weights` on, and the mean loss of the last epoch. The same arguments give the same.

    Adagrad: a weight that has moved much moves less. Raises Stopped.
    """
    rng = np.random.default_rng(seed)
    weights = weights.copy()
    squares = np.full(weights.shape, START)
    count = len(lessons.features)
    loss = 0.0
    for _ in range(EPOCHS):
        order = rng.permutation(count)
        loss = 0.0
        for start in range(0, count, BATCH):
            if stop():
                raise Stopped
            batch = order[start : start + BATCH]
            slope, batch_loss = sight.slope(weights, lessons.features[batch], lessons.outcomes[batch])
            slope = slope + DECAY * weights
            squares += slope**2
            weights -= RATE * slope / np.sqrt(squares)
            loss += batch_loss * len(batch) / count
    return weights, loss
