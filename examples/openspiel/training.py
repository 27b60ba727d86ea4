"""One generation: the newest gathered games, and a model that is fitted to them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.openspiel.database import BUSY_SECONDS
from examples.openspiel.games import CONFIGS, Game, replay
from examples.openspiel.learning import Stopped, fit, lessons
from examples.openspiel.model import Model
from examples.openspiel.sights import sight_of
from examples.openspiel.versions import Manifest, hand_in, handed_in

#: characters of the longest list of moves that is read
MOST_TEXT = 100_000

Played = tuple[list[int], list[float]]


class TooFewGames(Exception):
    """There is not enough to learn from; the message says what there is."""


class GamesUnreadable(Exception):
    """The file of games cannot be read; the message names it and the cause."""


@dataclass(frozen=True)
class Gathered:
    """The newest games that hold, the newest last, how many of those read did not, and all there are."""

    games: list[Played]
    refused: int
    total: int


def gathered(path: Path, config: str, window: int, stop: Callable[[], bool] = lambda: False) -> Gathered:
    """The newest `window` games of a configuration. Raises GamesUnreadable and Stopped.

    Games come from many machines: each is replayed by the rules, and left out when it does not hold.
    """
    game = CONFIGS[config].load()
    if not path.exists():
        return Gathered([], 0, 0)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as file:
            total = file.execute("SELECT count(*) FROM games WHERE config = ?", (config,)).fetchone()[0]
            rows = file.execute(
                "SELECT substr(moves, 1, ?), substr(result, 1, ?) FROM games WHERE config = ? "
                "ORDER BY finished_at DESC, game_id LIMIT ?",
                (MOST_TEXT, MOST_TEXT, config, window),
            ).fetchall()
    except sqlite3.Error as error:
        raise GamesUnreadable(f"{path}: {error}") from error
    games, refused = [], 0
    for moves, result in reversed(rows):
        if stop():
            raise Stopped
        played = _played(game, moves, result)
        if played is None:
            refused += 1
        else:
            games.append(played)
    return Gathered(games, refused, total)


def _played(game: Game, moves: Any, result: Any) -> Played | None:
    try:
        played, returns = json.loads(moves), json.loads(result)
        if not isinstance(played, list) or not all(type(move) is int and 0 <= move < 2**31 for move in played):
            return None
        final = replay(game, played)
        return (played, returns) if final.is_terminal() and final.returns() == returns else None
    except (ValueError, TypeError, RecursionError):
        return None


@dataclass(frozen=True)
class Trained:
    """What a training made; no `version` when there was nothing new to learn from."""

    version: str | None
    parent: str | None
    generation: int
    total: int
    games: int
    refused: int
    positions: int
    loss: float | None


def train(
    data: Path,
    config: str,
    *,
    games_from: Path,
    window: int,
    min_games: int,
    min_new_games: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Fit the promoted model, or an untrained one, to the newest games, and hand the result in.

    The same games, parent and seed give the same model. Raises TooFewGames, GamesUnreadable,
    ManifestRefused, ModelRefused, OSError and Stopped; whatever is raised, nothing was handed in.
    """
    manifest = Manifest.read(data, config)
    waiting = handed_in(data, config)
    generation = 1 + max([version.generation for version in manifest.versions] + [known for known, _ in waiting] + [0])
    parent = manifest.promoted
    start = Model.untrained(config) if parent is None else parent.model(config)
    found = gathered(games_from, config, window, stop)
    if len(found.games) < min_games:
        held = f" and {found.refused} that do not hold by the rules" if found.refused else ""
        raise TooFewGames(
            f"{config}: {games_from} has {len(found.games)} games to learn from{held}; training takes {min_games}"
        )
    seen = max([version.games for version in manifest.versions] + [games for _, games in waiting] + [0])
    name = None if parent is None else parent.name
    if seen and found.total - seen < min_new_games:
        return Trained(None, name, generation, found.total, 0, found.refused, 0, None)
    sight = sight_of(config)
    learned = lessons(CONFIGS[config].load(), sight, found.games, stop)
    weights, loss = fit(sight, start.weights, learned, seed, stop)
    if not np.isfinite(weights).all():
        raise ArithmeticError(f"{config}: the fit gave weights that are not finite numbers")
    model = Model(config, weights)
    metrics = {
        "window": len(found.games), "refused": found.refused, "positions": len(learned.features),
        "loss": round(loss, 6), "features": sight.name, "seed": seed,
    }  # fmt: skip
    if stop():
        raise Stopped
    version = hand_in(data, model, parent=name, generation=generation, games=found.total, metrics=metrics)
    return Trained(
        version, name, generation, found.total, len(found.games), found.refused, len(learned.features), round(loss, 6)
    )
