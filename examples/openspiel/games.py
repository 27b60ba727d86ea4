"""Which game each board configuration is played as, and what a game must offer.

`Game`, `State` and `Bot` are the parts of OpenSpiel's classes of these names that are used here, so its
objects fit as they are, and a game of one's own fits by having these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from examples.openspiel.connection import BOARDS, ConnectionGame
from examples.openspiel.search import MCTS, Bot, State


class Game(Protocol):
    def num_players(self) -> int: ...
    def new_initial_state(self) -> State: ...


#: (game, simulations a move, seed, whether to stop thinking) -> the player of every seat
MakeBot = Callable[[Game, int, int, Callable[[], bool]], Bot]


@dataclass(frozen=True)
class Setup:
    """How a configuration is played: `load` makes the game, `make_bot` its self-play player."""

    title: str
    load: Callable[[], Game]
    make_bot: MakeBot


def open_spiel(title: str, spec: str) -> Setup:
    """A game of OpenSpiel for two, played by its own MCTS in C++ (needs the extra `openspiel`)."""

    def load() -> Game:
        import pyspiel

        return cast(Game, pyspiel.load_game(spec))

    def make_bot(game: Game, simulations: int, seed: int, _stop: Callable[[], bool]) -> Bot:
        import pyspiel

        evaluator = pyspiel.RandomRolloutEvaluator(n_rollouts=1, seed=seed)
        bot = pyspiel.MCTSBot(
            game, evaluator, uct_c=2.0, max_simulations=simulations, max_memory_mb=64, solve=True,
            seed=seed, verbose=False,
        )  # fmt: skip
        return cast(Bot, bot)

    return Setup(title, load, make_bot)


def connection(title: str, board: str, players: int) -> Setup:
    """Four in a row for any number of players, played by the MCTS of `search.py`."""

    def make_bot(_game: Game, simulations: int, seed: int, stop: Callable[[], bool]) -> Bot:
        return MCTS(simulations, seed, stop=stop)

    return Setup(title, lambda: ConnectionGame(BOARDS[board], players), make_bot)


CONFIGS: dict[str, Setup] = {
    "square6_2p": open_spiel("Breakthrough, 6x6 cells", "breakthrough(rows=6,columns=6)"),
    "square8_2p": open_spiel("Breakthrough, 8x8 cells", "breakthrough(rows=8,columns=8)"),
    "hex5_2p": open_spiel("Hex, 5x5 cells", "hex(board_size=5)"),
    "hex8_2p": open_spiel("Hex, 8x8 cells", "hex(board_size=8)"),
    "square8_3p": connection("four in a row for 3, 8x8 cells", "square8", 3),
    "hex8_4p": connection("four in a row for 4, 61 hexagonal cells", "hex8", 4),
}


def winner(returns: list[float]) -> int | None:
    """The one seat with the highest return, or None for a draw."""
    best = max(returns)
    return returns.index(best) if returns.count(best) == 1 else None


def replay(game: Game, moves: Iterable[int]) -> State:
    """The state after `moves`. Raises ValueError at a move that the rules do not allow."""
    state = game.new_initial_state()
    for ply, move in enumerate(moves):
        # Checked here: some of OpenSpiel's games do not check it in release builds.
        if move not in state.legal_actions():
            raise ValueError(f"move {move} at ply {ply} is not legal")
        state.apply_action(move)
    return state
