"""`games.db`: the games a node has played, in SQLite. Each game is one transaction."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from examples.openspiel.database import Database, StoreError

__all__ = ["GameStore", "PlayedGame", "StoreError"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS games (
    game_id     TEXT PRIMARY KEY NOT NULL,
    config      TEXT NOT NULL,
    board_type  TEXT NOT NULL,
    num_players INTEGER NOT NULL,
    players     TEXT NOT NULL,
    moves       TEXT NOT NULL,
    result      TEXT NOT NULL,
    winner      INTEGER,
    seed        INTEGER NOT NULL,
    job_id      TEXT,
    node_id     TEXT,
    started_at  REAL NOT NULL,
    finished_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS games_by_config ON games (config, finished_at);
"""


@dataclass(frozen=True)
class PlayedGame:
    """A finished game. Seats count from 0; `started_at` and `finished_at` are seconds since the epoch."""

    config: str
    players: tuple[str, ...]
    moves: tuple[int, ...]
    returns: tuple[float, ...]
    winner: int | None
    seed: int
    started_at: float
    finished_at: float


class GameStore(Database):
    """Appends games to a file that it makes when it is missing.

    `job_id` and `node_id` say in each row who played it. Every method raises StoreError.
    """

    def __init__(self, path: Path, job_id: str | None = None, node_id: str | None = None) -> None:
        self._played_by = (job_id or None, node_id or None)
        super().__init__(path, SCHEMA)

    def append(self, game: PlayedGame) -> str:
        """Write a game, in a transaction of its own, and return its new id (128 random bits in hex)."""
        game_id = uuid.uuid4().hex
        board_type, _, _ = game.config.rpartition("_")
        row = (
            game_id, game.config, board_type, len(game.players), json.dumps(game.players),
            json.dumps(game.moves), json.dumps(game.returns), game.winner, game.seed,
            *self._played_by, game.started_at, game.finished_at,
        )  # fmt: skip
        with self.clear_errors():
            self.connection.execute(f"INSERT INTO games VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        return game_id
