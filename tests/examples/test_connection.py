"""The rules of the connection game, against a plain reading of the board."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.openspiel.connection import (
    BOARDS,
    TERMINAL,
    Board,
    Cell,
    ConnectionGame,
    ConnectionState,
    hexagon,
    square,
)

boards = st.sampled_from([square(3), square(5), hexagon(1), hexagon(2), *BOARDS.values()])


@st.composite
def games(draw: st.DrawFn) -> tuple[ConnectionGame, list[int]]:
    """A game and an order in which its cells are filled, until somebody wins."""
    board = draw(boards)
    game = ConnectionGame(board, players=draw(st.integers(2, 5)), length=draw(st.integers(3, 4)))
    return game, draw(st.permutations(range(len(board.cells))))


def longest_run(board: Board, stones: set[Cell]) -> int:
    """The most stones in an unbroken straight line, by walking from every stone."""
    longest = 0
    for row, column in stones:
        for down, right in board.directions:
            run = 0
            while (row + run * down, column + run * right) in stones:
                run += 1
            longest = max(longest, run)
    return longest


def stones_of(state: ConnectionState, seat: int) -> set[Cell]:
    cells = state.game.board.cells
    return {cell for number, cell in enumerate(cells) if state.stones[seat] >> number & 1}


@given(games())
def test_a_game_ends_when_somebody_has_enough_in_a_row_or_the_board_is_full(
    played: tuple[ConnectionGame, list[int]],
) -> None:
    game, order = played
    state = game.new_initial_state()
    for ply, cell in enumerate(order):
        seat = state.current_player()
        assert seat == ply % game.players
        assert sorted(state.legal_actions()) == sorted(order[ply:])
        state.apply_action(cell)
        lined_up = longest_run(game.board, stones_of(state, seat)) >= game.length
        assert state.is_terminal() == (lined_up or ply == len(order) - 1)
        if lined_up:
            others = -1 / (game.players - 1)
            assert state.returns() == [1.0 if i == seat else others for i in range(game.players)]
            break
        assert state.returns() == [0.0] * game.players
    assert state.is_terminal()
    assert state.current_player() == TERMINAL
    assert state.legal_actions() == []


@given(games(), st.data())
def test_a_clone_lives_its_own_life(played: tuple[ConnectionGame, list[int]], data: st.DataObject) -> None:
    game, order = played
    state = game.new_initial_state()
    for cell in order[: data.draw(st.integers(0, 3))]:
        state.apply_action(cell)
    before = (state.stones.copy(), state.legal_actions(), state.current_player())
    clone = state.clone()
    clone.apply_action(clone.legal_actions()[0])
    clone.legal_actions().clear()
    assert (state.stones, state.legal_actions(), state.current_player()) == before
    assert clone.stones != state.stones


def test_a_full_board_without_a_row_is_a_draw() -> None:
    game = ConnectionGame(square(3), players=3, length=4)
    state = game.new_initial_state()
    for cell in range(9):
        state.apply_action(cell)
    assert state.is_terminal()
    assert state.returns() == [0.0, 0.0, 0.0]


def test_a_move_that_the_rules_forbid_is_refused() -> None:
    state = ConnectionGame(square(4), players=2, length=3).new_initial_state()
    state.apply_action(0)
    for cell in (0, -1, 16):
        with pytest.raises(ValueError, match=f"cell {cell} is not an empty cell"):
            state.apply_action(cell)
    for cell in (4, 1, 5, 2):
        state.apply_action(cell)
    with pytest.raises(ValueError, match="player 0 has won"):
        state.apply_action(3)


def test_nobody_plays_alone() -> None:
    with pytest.raises(ValueError, match="2 or more players, not 1"):
        ConnectionGame(square(4), players=1)


def test_the_boards_have_their_known_numbers_of_cells_and_lines() -> None:
    # 8x8: 5 starts in each of 8 rows and 8 columns, 5x5 on either diagonal.
    assert len(BOARDS["square8"].cells) == 64
    assert len(BOARDS["square8"].lines(4)) == 2 * 5 * 8 + 2 * 5 * 5
    # Nine rows of 5, 6, 7, 8, 9, 8, 7, 6, 5 cells, in three directions.
    assert len(BOARDS["hex8"].cells) == 61
    assert len(BOARDS["hex8"].lines(4)) == 3 * (2 + 3 + 4 + 5 + 6 + 5 + 4 + 3 + 2)
