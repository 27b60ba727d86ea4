"""What a model sees is what is on the board, whoever looks."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from examples.openspiel.features import Cells, Lines
from examples.openspiel.games import CONFIGS
from examples.openspiel.sights import SIGHTS, sight_of

every_config = pytest.mark.parametrize("config", CONFIGS)
for_two = pytest.mark.parametrize("config", [config for config in CONFIGS if config.endswith("_2p")])


def positions(config: str, seed: int = 1) -> list[Any]:
    """The states of a random game, without its end."""
    rng = random.Random(seed)
    state: Any = CONFIGS[config].load().new_initial_state()
    found = []
    while not state.is_terminal():
        found.append(state.clone())
        state.apply_action(rng.choice(state.legal_actions()))
    return found


def test_every_config_has_a_sight() -> None:
    assert SIGHTS.keys() == CONFIGS.keys()


@for_two
def test_the_board_after_a_move_is_the_one_that_the_next_side_sees(config: str) -> None:
    sight = sight_of(config)
    assert isinstance(sight, Cells)
    for state in positions(config):
        actions = state.legal_actions()
        for action, seen in zip(actions, sight.after(state, actions), strict=True):
            after = state.clone()
            after.apply_action(action)
            board = sight.board(after)
            if state.current_player() == 0:  # seat 1 sees it turned and with the colours swapped
                board = np.array([0, 2, 1])[board[sight.seat_1]]
            assert (seen == board).all()


@for_two
def test_both_sides_see_the_beginning_alike_and_mirrors_undo_themselves(config: str) -> None:
    sight = sight_of(config)
    assert isinstance(sight, Cells)
    board = sight.board(CONFIGS[config].load().new_initial_state())
    assert (board == np.array([0, 2, 1])[board[sight.seat_1]]).all()
    cells = np.arange(len(board))
    for order in (sight.seat_1, sight.mirror):
        assert (order[order] == cells).all()
        assert (np.sort(order) == cells).all()


@pytest.mark.parametrize("config", ["square8_3p", "hex8_4p"])
def test_open_lines_are_counted_as_by_hand(config: str) -> None:
    sight = sight_of(config)
    assert isinstance(sight, Lines)
    game: Any = CONFIGS[config].load()
    lines = [sum(1 << cell for cell in line) for line in game.board.lines(game.length)]
    for state in positions(config)[::4]:
        action = state.legal_actions()[0]
        after = state.clone()
        after.apply_action(action)
        if after.is_terminal():
            continue
        expected = np.zeros(sight.shape)
        for line in lines:
            held = [(after.stones[seat] & line).bit_count() for seat in range(game.players)]
            if sum(map(bool, held)) == 1:
                seat = next(seat for seat, stones in enumerate(held) if stones)
                expected[(seat - after.current_player()) % game.players, max(held) - 1] += 1
        assert (sight.after(state, [action])[0] == expected).all()


@every_config
def test_the_slope_is_that_of_the_loss(config: str) -> None:
    sight = sight_of(config)
    rng = np.random.default_rng(2)
    states = positions(config)[3:9]
    rows = np.array([sight.after(state, state.legal_actions()[:1])[0] for state in states])
    game: Any = CONFIGS[config].load()
    returns = [1.0] + [-1.0 / (game.num_players() - 1)] * (game.num_players() - 1)
    outcomes = np.array([sight.outcome(returns, state.current_player()) for state in states])
    weights = rng.normal(size=sight.shape) * 0.1
    slope, loss = sight.slope(weights, rows, outcomes)
    shorter = weights - 0.01 * slope / np.abs(slope).max()
    assert sight.slope(shorter, rows, outcomes)[1] < loss
    if isinstance(sight, Lines):  # of tanh the slope is bent on purpose
        bump = np.zeros(sight.shape)
        bump[0, 0] = 1e-6
        assert slope[0, 0] == pytest.approx((sight.slope(weights + bump, rows, outcomes)[1] - loss) / 1e-6, rel=1e-3)


def test_an_outcome_is_told_from_the_seat_that_moves_next() -> None:
    two, three = sight_of("hex5_2p"), sight_of("square8_3p")
    assert two.outcome([1.0, -1.0], mover=0) == -1
    assert two.outcome([1.0, -1.0], mover=1) == 1
    assert three.outcome([-0.5, 1.0, -0.5], mover=0).tolist() == [1, 0, 0]
    assert three.outcome([-0.5, 1.0, -0.5], mover=1).tolist() == [0, 0, 1]
    assert three.outcome([0.0, 0.0, 0.0], mover=1).tolist() == [1 / 3] * 3
