"""Matches to try things with, and files as the original and the jobs write them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fleet.match import Match, match, result
from fleet.match_set import MatchSet
from fleet.match_store import connect

T0 = 1_750_000_000_000  # ms

ORIGINAL = """
CREATE TABLE participants (participant_id TEXT PRIMARY KEY, participant_type TEXT NOT NULL, ai_type TEXT,
    difficulty INTEGER, use_neural_net INTEGER, model_path TEXT, model_version TEXT, metadata TEXT,
    created_at REAL, last_seen REAL);
CREATE TABLE elo_ratings (participant_id TEXT NOT NULL, board_type TEXT NOT NULL, num_players INTEGER NOT NULL,
    rating REAL DEFAULT 1500.0, games_played INTEGER DEFAULT 0, wins INTEGER DEFAULT 0, losses INTEGER DEFAULT 0,
    draws INTEGER DEFAULT 0, rating_deviation REAL DEFAULT 350.0, last_update REAL,
    PRIMARY KEY (participant_id, board_type, num_players),
    FOREIGN KEY (participant_id) REFERENCES participants(participant_id));
CREATE TABLE match_history (id INTEGER PRIMARY KEY AUTOINCREMENT, participant_a TEXT, participant_b TEXT,
    participant_ids TEXT, rankings TEXT, winner TEXT, board_type TEXT NOT NULL, num_players INTEGER NOT NULL,
    game_length INTEGER, duration_sec REAL, timestamp REAL NOT NULL, tournament_id TEXT, game_id TEXT, worker TEXT,
    metadata TEXT);
CREATE TABLE rating_history (id INTEGER PRIMARY KEY AUTOINCREMENT, participant_id TEXT NOT NULL, board_type TEXT,
    num_players INTEGER, rating REAL, rating_change REAL, games_played INTEGER, timestamp REAL, match_id TEXT,
    tournament_id TEXT);
CREATE INDEX idx_match_timestamp ON match_history(timestamp);
"""


def played(
    number: int,
    participants: Sequence[str] = ("a", "b"),
    ranks: Sequence[int] = (1, 2),
    *,
    board: str = "hex8",
    ended: int | None = None,
    **more: Any,
) -> Match:
    """A match by its number: its id, and the second in which it ended."""
    found = result(board, len(participants), tuple(participants), tuple(ranks))
    return match(f"m{number:05d}", found, T0 + number * 1000 if ended is None else ended, **more)


@contextmanager
def matches(path: Path) -> Iterator[MatchSet]:
    with closing(connect(path)) as db:
        yield MatchSet(db)


def write_original(path: Path) -> sqlite3.Connection:
    """A database with the original's tables and nothing of ours; close it."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(ORIGINAL)
    return db


def row(db: sqlite3.Connection, **columns: Any) -> None:
    """A row of match_history as another program appends it: only what is given, and a board."""
    given: dict[str, Any] = {"board_type": "hex8", "num_players": 2, "timestamp": T0 / 1000} | columns
    values = [json.dumps(value) if isinstance(value, list | dict) else value for value in given.values()]
    db.execute(
        f"INSERT INTO match_history ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})",
        values,
    )


def published(found: MatchSet) -> list[tuple[Any, ...]]:
    """The ratings that a node shows."""
    return found.db.execute(
        "SELECT participant_id, board_type, num_players, rating, rating_deviation, games_played, wins, losses, draws,"
        " anchored, sequential_elo FROM elo_ratings ORDER BY 1, 2, 3"
    ).fetchall()
