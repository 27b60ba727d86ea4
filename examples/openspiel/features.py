"""What a value model sees of a position, and how a fitted set of weights judges it.

Two kinds of games, two kinds of features. A board for two is cut into small groups of cells (tuples);
each filling of each group has a weight, and their sum through tanh is what the side to move may expect.
In the game of `connection.py` each seat has counts of the lines that are still open to it; a weighted
sum a seat through softmax is each seat's chance to win.

Boards are always looked at from the side that moves next, turned so that all sides play in the same
direction: so what is learned with one colour holds for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from examples.openspiel.connection import ConnectionGame, ConnectionState
from examples.openspiel.search import State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: (state, its legal actions) -> what the position after each looks like to whoever moves then
Features = NDArray[Any]


class Sight(Protocol):
    """How positions of one game are seen, and how weights judge what is seen.

    `name` tells the kind and version of the features; weights of another name mean something else.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def after(self, state: State, actions: Sequence[int]) -> Features:
        """A row for the position after each action, as whoever moves next sees it."""
        ...

    def worth(self, weights: Floats, features: Features) -> Floats:
        """How good each row is for the seat that has just moved; only the order matters."""
        ...

    def outcome(self, returns: Sequence[float], mover: int) -> Floats:
        """What `fit` is to predict for a position into which `mover` moved, in a game that ended so."""
        ...

    def turned(self, features: Features) -> list[Features]:
        """The same positions as the board's symmetries show them, themselves included."""
        ...

    def slope(self, weights: Floats, features: Features, outcomes: Floats) -> tuple[Floats, float]:
        """The gradient of the mean loss at `weights`, and that loss."""
        ...


@dataclass(frozen=True)
class Cells:
    """A board for two as cells that are empty (0), one's own (1) or the other's (2).

    `board` reads the cells as seat 0 sees them; `moved` gives for each action the cell that is left (or
    the one that is entered, when none is) and the cell that is entered. `seat_1` is the order of cells in
    which seat 1 sees the board as seat 0 would, `mirror` the order that shows an equal position.
    """

    name: str
    board: Callable[[State], Ints]
    left: Ints
    entered: Ints
    seat_1: Ints
    mirror: Ints
    groups: Ints  # one row a group of cells
    shape: tuple[int, ...]

    def after(self, state: State, actions: Sequence[int]) -> Features:
        mover = state.current_player()
        chosen = np.asarray(actions)
        rows = np.arange(len(chosen))
        boards = np.repeat(self.board(state).astype(np.uint8)[None], len(chosen), axis=0)
        boards[rows, self.left[chosen]] = 0
        boards[rows, self.entered[chosen]] = mover + 1
        if mover == 0:  # seat 1 is next
            boards = _SWAPPED[boards[:, self.seat_1]]
        return boards

    def worth(self, weights: Floats, features: Features) -> Floats:
        return cast(Floats, -weights[self._indices(features)].sum(axis=1))

    def outcome(self, returns: Sequence[float], mover: int) -> Floats:
        return np.array(returns[1 - mover], dtype=float)

    def turned(self, features: Features) -> list[Features]:
        return [features, features[:, self.mirror]]

    def slope(self, weights: Floats, features: Features, outcomes: Floats) -> tuple[Floats, float]:
        indices = self._indices(features)
        said = np.tanh(weights[indices].sum(axis=1))
        wrong = said - outcomes
        # + 0.05: a weight that is sure and wrong still learns
        pull = wrong * (1 - said**2 + 0.05) / len(outcomes)
        slope = np.bincount(indices.ravel(), np.repeat(pull, indices.shape[1]), minlength=len(weights))
        return slope.astype(float), float((wrong**2).mean())

    def _indices(self, features: Features) -> Ints:
        found = np.zeros((len(features), len(self.groups)), dtype=np.int64)
        for column in range(self.groups.shape[1]):
            found = found * 3 + features[:, self.groups[:, column]]
        found += np.arange(len(self.groups)) * 3 ** self.groups.shape[1]
        return found


_SWAPPED = np.array([0, 2, 1], dtype=np.uint8)


def groups(rows: int, columns: int, shapes: Sequence[Sequence[tuple[int, int]]]) -> Ints:
    """Every place of every shape on the board, as rows of cell numbers. All shapes have one size."""
    places = []
    for shape in shapes:
        for row in range(-columns, rows):
            for column in range(-rows, columns):
                cells = [(row + down, column + right) for down, right in shape]
                if all(0 <= r < rows and 0 <= c < columns for r, c in cells):
                    places.append([r * columns + c for r, c in cells])
    return np.array(places)


class Lines:
    """The open lines of the connection game: a row per seat, from the one that moves next on, and in it
    how many lines hold 1, 2, ... stones of that seat and none of others."""

    def __init__(self, game: ConnectionGame) -> None:
        self.name = f"lines{game.length}-{game.players}"
        self.players = game.players
        self.counts = game.length - 1
        self.shape: tuple[int, ...] = (game.players, self.counts)
        lines = game.board.lines(game.length)
        self._cells = len(game.board.cells)
        self._through = np.zeros((len(lines), self._cells), dtype=np.float32)
        for number, line in enumerate(lines):
            self._through[number, list(line)] = 1

    def after(self, state: State, actions: Sequence[int]) -> Features:
        position = cast(ConnectionState, state)
        mover, players, counts = state.current_player(), self.players, self.counts
        stones = np.array([self._stones(position.stones[(mover + 1 + seat) % players]) for seat in range(players)])
        on_line = stones @ self._through.T  # (seat, line)
        total = on_line.sum(axis=0)
        open_to = on_line == total
        # (seat, count, line): open lines of that seat with so many stones; count 0: empty ones
        held = (on_line[:, None, :] == np.arange(counts + 1)[None, :, None]) & open_to[:, None, :]
        base = held[:, 1:, :].sum(axis=2).astype(np.float64)
        cells = np.asarray(actions)
        hit = held.astype(np.float32) @ self._through[:, cells]  # (seat, count, action)
        features = np.repeat(base[None], len(cells), axis=0)
        features -= hit[:, 1:, :].transpose(2, 0, 1)
        # the mover, seen last: its own lines grow instead of closing
        features[:, -1, :] += hit[-1, :-1, :].T
        return features

    def worth(self, weights: Floats, features: Features) -> Floats:
        return _log_softmax((features * weights).sum(axis=2))[:, -1]

    def outcome(self, returns: Sequence[float], mover: int) -> Floats:
        """The share of the win that each seat has, from the one that moves next on; a draw is shared."""
        best = max(returns)
        ordered = [returns[(mover + 1 + seat) % self.players] for seat in range(self.players)]
        return np.array([value == best for value in ordered], dtype=float) / returns.count(best)

    def turned(self, features: Features) -> list[Features]:
        return [features]  # counts of lines are the same however the board is turned

    def slope(self, weights: Floats, features: Features, outcomes: Floats) -> tuple[Floats, float]:
        logs = _log_softmax((features * weights).sum(axis=2))
        wrong = np.exp(logs) - outcomes
        return (wrong[:, :, None] * features).mean(axis=0), float(-(outcomes * logs).sum(axis=1).mean())

    def _stones(self, bits: int) -> NDArray[np.float32]:
        packed = np.frombuffer(bits.to_bytes((self._cells + 7) // 8, "little"), dtype=np.uint8)
        return np.unpackbits(packed, count=self._cells, bitorder="little").astype(np.float32)


def _log_softmax(values: Floats) -> Floats:
    values = values - values.max(axis=1, keepdims=True)
    return cast(Floats, values - np.log(np.exp(values).sum(axis=1, keepdims=True)))
