"""A node's matches as a file for elsewhere: a database of its own, or CSV. Whole or not at all."""

from __future__ import annotations

import csv
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from fleet.match_set import MatchSet

#: Columns of an exported CSV file; `import` reads them, and so may a spreadsheet.
COLUMNS = (
    "game_id",
    "config",
    "participant_ids",
    "rankings",
    "winner",
    "timestamp",
    "game_length",
    "duration_sec",
    "tournament_id",
    "worker",
    "metadata",
)


def export_db(matches: MatchSet, target: Path) -> int:
    """A copy of the database in one file, with ratings and history; how many matches. Raises OSError, sqlite3.Error."""
    part = _part(target)
    try:
        with closing(sqlite3.connect(part)) as db:
            matches.db.backup(db)
            db.execute("PRAGMA journal_mode = DELETE")
            ((number,),) = db.execute("SELECT count(*) FROM match_history")
        _keep(part, target)
    finally:
        part.unlink(missing_ok=True)
    return int(number)


def export_csv(matches: MatchSet, target: Path, config: str | None = None) -> int:
    """A line a match, oldest first, of one configuration or all; how many. Raises OSError, sqlite3.Error."""
    part, number = _part(target), 0
    query = (
        "SELECT game_id, board_type || '_' || num_players || 'p' AS config, participant_ids, rankings, winner,"
        " ended_at_ms / 1000.0, game_length, duration_sec, tournament_id, worker, metadata FROM match_history"
        " WHERE match_hash IS NOT NULL AND (? IS NULL OR config = ?) ORDER BY ended_at_ms, game_id"
    )
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(COLUMNS)
            for row in matches.db.execute(query, (config, config)):
                lines.writerow(row)
                number += 1
        _keep(part, target)
    finally:
        part.unlink(missing_ok=True)
    return number


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _keep(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
