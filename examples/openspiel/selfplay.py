"""Games of a player against itself, each reproducible from its own seed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.openspiel.games import CONFIGS, Game, winner
from examples.openspiel.search import Bot
from examples.openspiel.store import GameStore, PlayedGame

if TYPE_CHECKING:  # a model needs NumPy, plain search does not
    from examples.openspiel.model import Model

#: The share of moves that a model makes at random in self-play, so that it meets positions it would avoid.
EXPLORATION = 0.15


@dataclass(frozen=True)
class Champion:
    """A model by the name of its version."""

    version: str
    model: Model


def play(
    game: Game, bots: Sequence[Bot], rng: random.Random, stop: Callable[[], bool]
) -> tuple[list[int], list[float]] | None:
    """One game: its moves and what each seat gets, or None when `stop` said so before its end.

    The first move of each seat is drawn from the legal ones, so that games differ; `bots`, one a
    seat, choose all others.
    """
    state = game.new_initial_state()
    moves: list[int] = []
    while not state.is_terminal():
        if len(moves) < game.num_players():
            move = rng.choice(state.legal_actions())
        else:
            move = bots[state.current_player()].step(state)
        if stop():
            return None
        state.apply_action(move)
        moves.append(move)
    return moves, state.returns()


def play_game(
    config: str,
    simulations: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    champion: Champion | None = None,
) -> PlayedGame | None:
    """The game that `seed` stands for: the same arguments give the same moves. None when stopped.

    `champion` plays all seats, or without one MCTS with so many simulations a move. Raises KeyError for a
    config without a game, and ImportError when it needs OpenSpiel and that is not installed.
    """
    setup = CONFIGS[config]
    game = setup.load()
    seats = game.num_players()
    rng = random.Random(seed)
    own_seed = rng.getrandbits(31)
    if champion is None:
        name, bot = f"uct{simulations}", setup.make_bot(game, simulations, own_seed, stop)
    else:
        from examples.openspiel.model import Greedy

        name, bot = champion.version, Greedy(champion.model, random.Random(own_seed), EXPLORATION)
    started_at = time.time()
    played = play(game, [bot] * seats, rng, stop)
    if played is None:
        return None
    moves, returns = played
    return PlayedGame(
        config, (name,) * seats, tuple(moves), tuple(returns), winner(returns), seed, started_at, time.time()
    )


@dataclass
class Tally:
    """What a job has played so far."""

    wins: list[int]  # by seat
    draws: int = 0
    games: int = 0
    moves: int = 0

    def add(self, game: PlayedGame) -> None:
        self.games += 1
        self.moves += len(game.moves)
        if game.winner is None:
            self.draws += 1
        else:
            self.wins[game.winner] += 1


def selfplay(
    store: GameStore,
    config: str,
    *,
    games: int,
    simulations: int,
    seed: int,
    stop: Callable[[], bool],
    champion: Champion | None = None,
) -> Tally:
    """Play `games` games with seeds drawn from `seed`, each stored as it ends; fewer when `stop` says so.

    Raises what `play_game` raises, and StoreError.
    """
    tally = Tally([0] * CONFIGS[config].load().num_players())
    seeds = random.Random(seed)
    for _ in range(games):
        # 53 bits: exact in every reader of JSON
        game = play_game(config, simulations, seeds.getrandbits(53), stop, champion)
        if game is None:
            break
        store.append(game)
        tally.add(game)
    return tally
