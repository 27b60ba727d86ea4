"""`unified_elo.db`: rated matches, one row each, and who took part.

The tables are those that rating tools know; this program adds rows and reads how often who has met, and
leaves ratings to others. Any number of processes may write at once; each match is one transaction.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.openspiel.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS participants (
    participant_id   TEXT PRIMARY KEY,
    participant_type TEXT NOT NULL,
    ai_type          TEXT,
    difficulty       INTEGER,
    use_neural_net   INTEGER DEFAULT 0,
    model_path       TEXT,
    model_version    TEXT,
    metadata         TEXT,
    created_at       REAL,
    last_seen        REAL
);
CREATE TABLE IF NOT EXISTS match_history (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    participant_a   TEXT,
    participant_b   TEXT,
    participant_ids TEXT,
    rankings        TEXT,
    winner          TEXT,
    board_type      TEXT NOT NULL,
    num_players     INTEGER NOT NULL,
    game_length     INTEGER,
    duration_sec    REAL,
    timestamp       REAL NOT NULL,
    tournament_id   TEXT,
    game_id         TEXT,
    worker          TEXT,
    metadata        TEXT
);
"""
#: the newest matches that are looked at for who has met how often
LOOKED_AT = 20_000


@dataclass(frozen=True)
class Match:
    """A finished match. `participants` and `rankings` are by seat; rank 1 is best, and equal ranks are ties."""

    config: str
    participants: tuple[str, ...]
    rankings: tuple[int, ...]
    length: int
    seconds: float
    metadata: dict[str, Any]

    @property
    def winner(self) -> str | None:
        first = [who for who, rank in zip(self.participants, self.rankings, strict=True) if rank == 1]
        return first[0] if len(first) == 1 else None


def rankings(returns: Sequence[float]) -> tuple[int, ...]:
    """Final positions by seat: 1 and one more for each seat that got more. Equal returns tie."""
    return tuple(1 + sum(other > own for other in returns) for own in returns)


class MatchStore(Database):
    """Appends matches to a file that it makes when it is missing. Every method raises StoreError."""

    def __init__(self, path: Path, job_id: str | None = None, node_id: str | None = None) -> None:
        self._job_id = job_id or uuid.uuid4().hex
        self._node_id = node_id or None
        super().__init__(path, SCHEMA)

    def append(self, match: Match, types: dict[str, str]) -> str:
        """Write a match and its participants, of the given types, and return its new id (128 random bits in hex).

        A damaged file is set aside by those who look after it, and a new one is made. What was written to the old
        one meanwhile, nobody would read: it is written again, under the same id.
        """
        game_id = uuid.uuid4().hex
        board_type, _, _ = match.config.rpartition("_")
        now = time.time()
        pair = match.participants if len(match.participants) == 2 else (None, None)
        row = (
            *pair, json.dumps(match.participants), json.dumps(match.rankings), match.winner, board_type,
            len(match.participants), match.length, match.seconds, now, self._job_id, game_id, self._node_id,
            json.dumps(match.metadata),
        )  # fmt: skip
        if self.is_moved():
            self.reopen()
        self._write(row, match, types, now)
        while self.is_moved():
            self.reopen()
            self._write(row, match, types, now)
        return game_id

    def _write(self, row: tuple[Any, ...], match: Match, types: dict[str, str], now: float) -> None:
        with self.transaction() as file:
            for name in sorted(set(match.participants)):
                version = name if types[name] == "model" else None
                # Not by a conflict: nobody promises that a file of another program has a key here.
                if file.execute("UPDATE participants SET last_seen = ? WHERE participant_id = ?", (now, name)).rowcount:
                    continue
                file.execute(
                    "INSERT INTO participants (participant_id, participant_type, ai_type, model_version, created_at, "
                    "last_seen) VALUES (?, ?, ?, ?, ?, ?)",
                    (name, types[name], "openspiel", version, now, now),
                )
            file.execute(
                "INSERT INTO match_history (participant_a, participant_b, participant_ids, rankings, winner, "
                "board_type, num_players, game_length, duration_sec, timestamp, tournament_id, game_id, worker, "
                "metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def results(self, config: str) -> Counter[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Who played whom and won how often, in the newest matches of a configuration.

        Rows that do not read as matches count for nothing.
        """
        board_type, _, players = config.rpartition("_")
        seats = int(players[:-1])
        with self.clear_errors():
            rows = self.connection.execute(
                "SELECT participant_ids, rankings, count(*) FROM (SELECT participant_ids, rankings FROM match_history "
                "WHERE board_type = ? AND num_players = ? ORDER BY id DESC LIMIT ?) GROUP BY 1, 2",
                (board_type, seats, LOOKED_AT),
            ).fetchall()
        found: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
        for ids, ranks, times in rows:
            try:
                who, places = json.loads(ids), json.loads(ranks)
                best = min(places)
                winners = [name for name, place in zip(who, places, strict=True) if place == best]
                if all(type(name) is str for name in who) and len(set(who)) == seats:
                    found[tuple(sorted(who)), tuple(sorted(winners))] += times
            except (ValueError, TypeError, RecursionError):
                continue
        return found
