"""How the positions of each configuration are seen by a value model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import numpy as np

from examples.openspiel.connection import ConnectionGame
from examples.openspiel.features import Cells, Ints, Lines, Sight, groups
from examples.openspiel.games import CONFIGS, Game
from examples.openspiel.search import State

Shape = Sequence[tuple[int, int]]

#: groups of four cells on OpenSpiel's board of hexagons: the three ways in which two cells with two common
#: neighbours can lie, with those neighbours; stones on the two can hardly be kept apart
BRIDGES: tuple[Shape, ...] = (
    ((0, 0), (0, 1), (1, 0), (1, 1)),
    ((0, 0), (0, 1), (1, -1), (1, 0)),
    ((0, 0), (1, -1), (1, 0), (2, -1)),
)
#: row and column steps of Breakthrough's six directions, as OpenSpiel numbers them
STEPS = ((1, -1), (1, 0), (1, 1), (-1, -1), (-1, 0), (-1, 1))


def breakthrough(game: Game) -> Sight:
    """One weight for each cell and what stands on it: groups of more cells learn more slowly here."""
    rows, columns = _sides(game, "rows", "columns")
    cells = np.arange(rows * columns).reshape(rows, columns)
    left, entered = [], []
    for row in range(rows):
        for column in range(columns):
            for down, right in STEPS:
                onto = min(max(row + down, 0), rows - 1) * columns + min(max(column + right, 0), columns - 1)
                left += [row * columns + column] * 2  # OpenSpiel numbers a move that captures separately
                entered += [onto] * 2
    planes = np.array([1, 2, 0])

    def board(state: State) -> Ints:
        seen = np.asarray(cast(Any, state).observation_tensor(0)).reshape(3, -1)
        return cast(Ints, planes[seen.argmax(axis=0)])

    singles = groups(rows, columns, [((0, 0),)])
    return Cells(
        "cells1", board, np.array(left), np.array(entered), seat_1=cells[::-1].ravel(),
        mirror=cells[:, ::-1].ravel(), groups=singles, shape=(3 * len(singles),),
    )  # fmt: skip


def hexes(game: Game) -> Sight:
    """A weight for each filling of each bridge."""
    rows, columns = _sides(game, "board_size", "board_size")
    cells = np.arange(rows * columns).reshape(rows, columns)

    def board(state: State) -> Ints:
        stones = np.zeros(rows * columns, dtype=np.int64)
        moves = cast(Any, state).history()
        stones[moves[0::2]] = 1
        stones[moves[1::2]] = 2
        return stones

    bridges = groups(rows, columns, BRIDGES)
    return Cells(
        "bridges1", board, cells.ravel(), cells.ravel(), seat_1=cells.T.ravel(),
        mirror=cells[::-1, ::-1].ravel(), groups=bridges, shape=(3**4 * len(bridges),),
    )  # fmt: skip


def lines(game: Game) -> Sight:
    return Lines(cast(ConnectionGame, game))


SIGHTS: dict[str, Callable[[Game], Sight]] = {
    "square6_2p": breakthrough,
    "square8_2p": breakthrough,
    "hex5_2p": hexes,
    "hex8_2p": hexes,
    "square8_3p": lines,
    "hex8_4p": lines,
}


@cache
def sight_of(config: str) -> Sight:
    """Raises KeyError for a config that has none, ImportError when its game needs OpenSpiel and that is missing."""
    return SIGHTS[config](CONFIGS[config].load())


def _sides(game: Game, rows: str, columns: str) -> tuple[int, int]:
    parameters = cast(Any, game).get_parameters()
    return parameters[rows], parameters[columns]
