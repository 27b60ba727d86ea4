"""Four in a row for two or more players, on square or hexagonal cells.

In turn each player puts a stone of their own on any empty cell. Who first has `length` of their stones
in an unbroken straight line wins alone; when the board fills up without one, everybody draws.

OpenSpiel has hardly a board game for three or four players that plays fast and ends with a winner, so
this one serves those configurations. It is no classic: the first seats have an advantage, and more
players mean more draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Cell = tuple[int, int]

#: what `current_player` says when nobody moves any more (OpenSpiel's number for it)
TERMINAL = -4


@dataclass(frozen=True)
class Board:
    """Cells, numbered in this order, and the directions in which a line can run."""

    cells: tuple[Cell, ...]
    directions: tuple[Cell, ...]

    def lines(self, length: int) -> list[tuple[int, ...]]:
        """Every straight line of `length` neighbouring cells, as numbers of cells."""
        number = {cell: i for i, cell in enumerate(self.cells)}
        lines = []
        for row, column in self.cells:
            for down, right in self.directions:
                line = [(row + i * down, column + i * right) for i in range(length)]
                if all(cell in number for cell in line):
                    lines.append(tuple(number[cell] for cell in line))
        return lines


def square(side: int) -> Board:
    """`side` x `side` cells; a line runs along a row, a column or a diagonal."""
    cells = tuple((row, column) for row in range(side) for column in range(side))
    return Board(cells, ((0, 1), (1, 0), (1, 1), (1, -1)))


def hexagon(radius: int) -> Board:
    """A hexagon of hexagonal cells with `radius` rings around its centre, in axial coordinates."""
    span = range(-radius, radius + 1)
    cells = tuple((q, r) for q in span for r in span if abs(q + r) <= radius)
    return Board(cells, ((0, 1), (1, 0), (1, -1)))


BOARDS = {"square8": square(8), "hex8": hexagon(4)}


class ConnectionGame:
    """The rules. An action is the number of a cell."""

    def __init__(self, board: Board, players: int, length: int = 4) -> None:
        if players < 2:
            raise ValueError(f"a connection game takes 2 or more players, not {players}")
        self.board = board
        self.players = players
        self.length = length
        #: for each cell, the lines through it as bit sets of cells
        self.lines_through: list[list[int]] = [[] for _ in board.cells]
        for line in board.lines(length):
            mask = sum(1 << cell for cell in line)
            for cell in line:
                self.lines_through[cell].append(mask)

    def num_players(self) -> int:
        return self.players

    def new_initial_state(self) -> ConnectionState:
        cells = list(range(len(self.board.cells)))
        return ConnectionState(self, [0] * self.players, cells, player=0, winner=None)


class ConnectionState:
    """A position. `stones` holds each player's stones as a bit set of cells."""

    __slots__ = ("_empty", "_player", "_winner", "game", "stones")

    def __init__(
        self,
        game: ConnectionGame,
        stones: Sequence[int],
        empty: Sequence[int],
        player: int,
        winner: int | None,
    ) -> None:
        self.game = game
        self.stones = list(stones)
        self._empty = list(empty)
        self._player = player
        self._winner = winner

    def clone(self) -> ConnectionState:
        return ConnectionState(self.game, self.stones, self._empty, self._player, self._winner)

    def current_player(self) -> int:
        return TERMINAL if self.is_terminal() else self._player

    def legal_actions(self) -> list[int]:
        return [] if self._winner is not None else self._empty.copy()

    def is_terminal(self) -> bool:
        return self._winner is not None or not self._empty

    def apply_action(self, action: int) -> None:
        """Put the current player's stone on a cell. Raises ValueError when the rules forbid it."""
        if self._winner is not None:
            raise ValueError(f"player {self._winner} has won already; nobody moves any more")
        try:
            self._empty.remove(action)
        except ValueError:
            raise ValueError(f"cell {action} is not an empty cell of this board") from None
        player = self._player
        stones = self.stones[player] = self.stones[player] | 1 << action
        for line in self.game.lines_through[action]:
            if stones & line == line:
                self._winner = player
                return
        self._player = (player + 1) % self.game.players

    def returns(self) -> list[float]:
        """Per seat: 1 for the winner and an equal share of -1 for the others; all 0 when there is none."""
        players = self.game.players
        if self._winner is None:
            return [0.0] * players
        return [1.0 if seat == self._winner else -1.0 / (players - 1) for seat in range(players)]
