"""`games.db`: the games a node has played, in SQLite.

Several processes of a node write to the same file at once. Each game is one transaction, so whatever
is killed and whenever, the file holds whole games only. It must lie on a local disk (SQLite's WAL does
not work over network file systems); after a power cut the last few games may be missing, never half.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

#: how long a write waits for another process's write
BUSY_SECONDS = 10.0

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


class StoreError(Exception):
    """The file could not be read or written; the message names it and the cause."""


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


class GameStore:
    """Appends games to a file that it makes when it is missing. Close it, or use it in a `with`.

    `job_id` and `node_id` say in each row who played it. Every method raises StoreError.
    """

    def __init__(self, path: Path, job_id: str | None = None, node_id: str | None = None) -> None:
        self.path = path
        self._played_by = (job_id or None, node_id or None)
        with self._clear_errors():
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._use_wal()
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.executescript(SCHEMA)
            except BaseException:
                self._connection.close()
                raise

    def append(self, game: PlayedGame) -> str:
        """Write a game, in a transaction of its own, and return its new id (128 random bits in hex)."""
        game_id = uuid.uuid4().hex
        board_type, _, _ = game.config.rpartition("_")
        row = (
            game_id, game.config, board_type, len(game.players), json.dumps(game.players),
            json.dumps(game.moves), json.dumps(game.returns), game.winner, game.seed,
            *self._played_by, game.started_at, game.finished_at,
        )  # fmt: skip
        with self._clear_errors():
            self._connection.execute(f"INSERT INTO games VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        return game_id

    def close(self) -> None:
        with self._clear_errors():
            self._connection.close()

    def __enter__(self) -> GameStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _use_wal(self) -> None:
        # SQLite does not wait for other processes in this one step, whatever the timeout: when several
        # processes open a new file at once, all but one may be told that it is busy.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            cause = str(error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_CANTOPEN and not os.access(self.path.parent, os.W_OK):
                cause += " (its folder cannot be written to)"
            raise StoreError(f"{self.path}: {cause}") from error
