from __future__ import annotations

import random

import pyspiel
import pytest

from examples.openspiel.connection import BOARDS, ConnectionGame, ConnectionState, square
from examples.openspiel.search import MCTS


def position(game: ConnectionGame, moves: list[int]) -> ConnectionState:
    state = game.new_initial_state()
    for move in moves:
        state.apply_action(move)
    return state


@pytest.mark.parametrize("seed", range(3))
def test_it_completes_its_own_row(seed: int) -> None:
    three_of_each = position(ConnectionGame(square(5), players=3), [0, 5, 20, 1, 6, 21, 2, 7, 22])
    assert MCTS(300, seed).step(three_of_each) == 3


@pytest.mark.parametrize("seed", range(3))
def test_it_blocks_the_next_player_whoever_sits_after_that(seed: int) -> None:
    next_wins_at_8 = position(ConnectionGame(square(5), players=3), [0, 5, 20, 2, 6, 18, 14, 7, 11])
    assert MCTS(1500, seed).step(next_wins_at_8) == 8


def test_it_draws_a_solved_game_of_openspiel() -> None:
    state = pyspiel.load_game("tic_tac_toe").new_initial_state()
    bot = MCTS(1000, seed=1)
    while not state.is_terminal():
        state.apply_action(bot.step(state))
    assert state.returns() == [0, 0]


def test_it_beats_three_random_players_from_every_seat() -> None:
    game = ConnectionGame(BOARDS["hex8"], players=4)
    rng = random.Random(5)
    won = 0
    for seat in (0, 1, 2, 3) * 2:
        bot, state = MCTS(128, seed=seat), game.new_initial_state()
        while not state.is_terminal():
            mine = state.current_player() == seat
            state.apply_action(bot.step(state) if mine else rng.choice(state.legal_actions()))
        won += state.returns()[seat] == 1.0
    assert won >= 7  # a random player in its place wins 2 of 8


def test_it_leaves_the_state_as_it_was() -> None:
    state = position(ConnectionGame(square(5), players=3), [0, 5, 20])
    before = (state.stones.copy(), state.legal_actions(), state.current_player())
    MCTS(50, seed=1).step(state)
    assert (state.stones, state.legal_actions(), state.current_player()) == before


def test_a_stop_ends_the_search_after_the_simulation_at_hand() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 10

    state = ConnectionGame(BOARDS["square8"], players=3).new_initial_state()
    move = MCTS(1_000_000_000, seed=1, stop=stop).step(state)
    assert asked == 10
    assert move in state.legal_actions()
