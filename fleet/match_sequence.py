"""Sequential Elo of a configuration's matches, gone on with from a checkpoint instead of from the first one.

A match that ended before a checkpoint takes it back to an earlier one: the result is always that of all matches
in their order, on every node.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fleet.configs import BoardConfig
from fleet.sequential_elo import Game, replay

#: Checkpoints of a configuration that are kept; of the older ones every second goes.
KEPT = 16


@dataclass(frozen=True)
class Sequence:
    """Where the numbers stand: `elo` rounded to 0.01, after the match at `last`; no match yet: None."""

    elo: Mapping[str, float]
    last: tuple[int, str] | None
    state: str


def play(db: sqlite3.Connection, config: str, anchors: Mapping[str, float], rules: str) -> Sequence:
    """The sequential Elo of every participant, within a transaction that reads."""
    (changed,) = db.execute("SELECT changed_ms FROM backbeat_configs WHERE config = ?", (config,)).fetchone()
    row = db.execute(
        "SELECT at, match_id, state FROM backbeat_sequence WHERE config = ? AND rules = ? AND at < ?"
        " ORDER BY at DESC, match_id DESC LIMIT 1",
        (config, rules, changed),
    ).fetchone()
    ratings: dict[str, float] = {}
    played: Counter[str] = Counter()
    last = None
    if row is not None:
        last = (row[0], row[1])
        stored, games = json.loads(row[2])
        ratings.update(stored)
        played.update(games)

    def following() -> Iterator[Game]:
        nonlocal last
        for game in _after(db, config, last or (-1, "")):
            last = (game.ended_at, game.id)
            yield game

    replay(following(), anchors, ratings, played)
    elo = {name: round(value, 2) + 0.0 for name, value in ratings.items()}
    return Sequence(elo, last, json.dumps([ratings, played]))


def store(db: sqlite3.Connection, config: str, rules: str, sequence: Sequence, generation: int) -> None:
    """Keep a checkpoint, within the transaction that writes the numbers."""
    query = "SELECT generation, changed_ms FROM backbeat_configs WHERE config = ?"
    current, changed = db.execute(query, (config,)).fetchone()
    db.execute("DELETE FROM backbeat_sequence WHERE config = ? AND (at >= ? OR rules <> ?)", (config, changed, rules))
    if current != generation:
        return  # what came in between may belong before it
    db.execute("UPDATE backbeat_configs SET changed_ms = ? WHERE config = ?", (2**50, config))
    if sequence.last is not None:
        row = (config, *sequence.last, rules, sequence.state)
        db.execute("INSERT OR REPLACE INTO backbeat_sequence VALUES (?, ?, ?, ?, ?)", row)
    query = "SELECT at, match_id FROM backbeat_sequence WHERE config = ? ORDER BY at, match_id"
    places = db.execute(query, (config,)).fetchall()
    if len(places) > KEPT:
        gone = [(config, *place) for place in places[1 : len(places) // 2 : 2]]
        db.executemany("DELETE FROM backbeat_sequence WHERE config = ? AND at = ? AND match_id = ?", gone)


def _after(db: sqlite3.Connection, config: str, place: tuple[int, str]) -> Iterator[Game]:
    board = BoardConfig.parse(config)
    rows = db.execute(
        "SELECT ended_at_ms, game_id, participant_ids, rankings FROM match_history WHERE match_hash IS NOT NULL"
        " AND (ended_at_ms, game_id) > (?, ?) AND board_type = ? AND num_players = ?"
        " AND game_id NOT IN (SELECT match_id FROM backbeat_exclusions) ORDER BY ended_at_ms, game_id",
        (*place, board.board, board.players),
    )
    return (Game(at, match_id, _list(names), _list(ranks)) for at, match_id, names, ranks in rows)


@lru_cache(65_536)
def _list(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text))
