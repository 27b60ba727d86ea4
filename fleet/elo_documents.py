"""Where each configuration stands, as one document each: from a node's database, or any file with the same tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fleet import ratings
from fleet.elo_board import POINTS, RANKED
from fleet.match_set import MODEL
from fleet.match_store import columns
from fleet.priority import velocity

_BUSY = 5.0  # seconds to wait for a writer


def documents(path: Path, *, now: float, node_id: str = "", digest: str = "", min_games: int) -> dict[str, Any]:
    """By configuration what `{backbeat}:elo` holds; the file is only read. Raises RatingsUnreadable."""
    standings = ratings.read(path, now, min_games)
    everybody = ratings.read_everybody(path)
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY)) as db:
            kinds, counted = _kinds(db), _counted(db)
            found = {}
            for config in sorted(everybody.keys() | counted.keys()):
                standing = standings[config]
                found[config] = {
                    "config": config,
                    "at": now,
                    "node": node_id,
                    "digest": digest,
                    "matches": counted.get(config, 0),
                    "best": _best(standing.best),
                    "ranking": _ranking(everybody.get(config, {}), kinds),
                    "history": _curve(db, config) or [list(point) for point in standing.history],
                    "velocity": _rounded(velocity(standing.history)),
                }
            return found
    except sqlite3.Error as error:
        raise ratings.RatingsUnreadable(f"{path}: {error}") from error


def _kinds(db: sqlite3.Connection) -> dict[str, str]:
    if not {"participant_id", "participant_type"} <= set(columns(db, "participants")):
        return {}
    return {
        name: kind or MODEL for name, kind in db.execute("SELECT participant_id, participant_type FROM participants")
    }


def _counted(db: sqlite3.Connection) -> dict[str, int]:
    """Matches that count, by configuration."""
    if columns(db, "backbeat_configs"):
        return dict(db.execute("SELECT config, matches FROM backbeat_configs WHERE matches > 0"))
    if not {"board_type", "num_players"} <= set(columns(db, "match_history")):
        return {}
    query = "SELECT board_type || '_' || num_players || 'p', count(*) FROM match_history GROUP BY 1"
    return {str(config): number for config, number in db.execute(query) if config is not None}


def _curve(db: sqlite3.Connection, config: str) -> list[list[float]]:
    """The best model's rating over time, (seconds, Elo), oldest first."""
    if not columns(db, "backbeat_best"):
        return []
    query = "SELECT at, rating FROM backbeat_best WHERE config = ? ORDER BY at DESC LIMIT ?"
    return [list(point) for point in reversed(db.execute(query, (config, POINTS)).fetchall())]


def _best(best: ratings.Standing | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "participant": best.participant,
        "rating": best.rating,
        "deviation": best.deviation,
        "games": best.games,
        "lower_bound": round(best.lower_bound, 2),
        "anchored": best.anchored,
    }


def _ranking(standings: Mapping[str, ratings.Standing], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    first = sorted(standings.values(), key=lambda one: (-one.rating, one.participant))[:RANKED]
    return [
        {
            "participant": one.participant,
            "type": kinds.get(one.participant, MODEL),
            "rating": one.rating,
            "deviation": one.deviation,
            "games": one.games,
        }
        for one in first
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
