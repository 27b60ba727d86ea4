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
from itertools import combinations
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


class Meetings:
    """How often one of two was better than the other, for each two, and how open their next meeting is.

    Among more than two, only meetings that one of them won tell who of them is better: the others tie.
    """

    def __init__(self) -> None:
        self._games: Counter[tuple[str, str]] = Counter()
        self._score: Counter[tuple[str, str]] = Counter()

    def add(self, participants: Sequence[str], ranks: Sequence[int], times: int = 1) -> None:
        seated = sorted(zip(participants, ranks, strict=True))
        for (one, rank), (other, others_rank) in combinations(seated, 2):
            if rank != others_rank or len(seated) == 2:
                self._games[one, other] += times
                self._score[one, other] += times * (1 + (rank < others_rank) - (rank > others_rank))

    def games(self, one: str, other: str) -> int:
        return self._games[min(one, other), max(one, other)]

    def openness(self, one: str, other: str) -> float:
        """1 when nothing is known or they are equals, towards 0 as one always wins."""
        pair = (min(one, other), max(one, other))
        share = (self._score[pair] / 2 + 1) / (self._games[pair] + 2)
        return 4 * share * (1 - share)

    def known(self, one: str, other: str) -> float:
        """What their meetings tell about the difference of the two, in even games."""
        return self.games(one, other) * self.openness(one, other)


class MatchStore(Database):
    """Appends matches to a file that it makes when it is missing. Every method raises StoreError."""

    def __init__(self, path: Path, job_id: str | None = None, node_id: str | None = None) -> None:
        self._job_id = job_id or uuid.uuid4().hex
        self._node_id = node_id or None
        super().__init__(path, SCHEMA)

    def append(self, match: Match, types: dict[str, str]) -> str:
        """Write a match and its participants, of the given types, and return its new id (128 random bits in hex)."""
        game_id = uuid.uuid4().hex
        board_type, _, _ = match.config.rpartition("_")
        now = time.time()
        pair = match.participants if len(match.participants) == 2 else (None, None)
        row = (
            *pair, json.dumps(match.participants), json.dumps(match.rankings), match.winner, board_type,
            len(match.participants), match.length, match.seconds, now, self._job_id, game_id, self._node_id,
            json.dumps(match.metadata),
        )  # fmt: skip
        with self.transaction() as file:
            for name in sorted(set(match.participants)):
                version = name if types[name] == "model" else None
                file.execute(
                    "INSERT INTO participants (participant_id, participant_type, ai_type, model_version, created_at, "
                    "last_seen) VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (participant_id) DO UPDATE SET last_seen = excluded.last_seen",
                    (name, types[name], "openspiel", version, now, now),
                )
            file.execute(
                "INSERT INTO match_history (participant_a, participant_b, participant_ids, rankings, winner, "
                "board_type, num_players, game_length, duration_sec, timestamp, tournament_id, game_id, worker, "
                "metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return game_id

    def meetings(self, config: str) -> Meetings:
        """Of the newest matches of a configuration. Rows that do not read as matches count for nothing."""
        board_type, _, players = config.rpartition("_")
        with self.clear_errors():
            rows = self.connection.execute(
                "SELECT participant_ids, rankings, count(*) FROM (SELECT participant_ids, rankings FROM match_history "
                "WHERE board_type = ? AND num_players = ? ORDER BY id DESC LIMIT ?) GROUP BY 1, 2",
                (board_type, int(players[:-1]), LOOKED_AT),
            ).fetchall()
        met = Meetings()
        for ids, ranks, times in rows:
            try:
                who, positions = json.loads(ids), json.loads(ranks)
                if len(who) == len(positions) and all(type(name) is str for name in who):
                    met.add(who, [int(position) for position in positions], times)
            except (ValueError, TypeError, RecursionError):
                continue
        return met
