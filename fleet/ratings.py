"""Reads `unified_elo.db`: who stands where in each board configuration.

Read-only, and of the columns that every writer of the file keeps: `elo_ratings` is required,
`participants`, `rating_history`, `elo_ratings.archived_at` and `elo_ratings.anchored` are used when they
are there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

FILE = "unified_elo.db"  # in a node's data directory
DEFAULT_DEVIATION = 350.0  # Elo, of a rating that nothing supports yet
MIN_GAMES = 30  # below it a rating says nothing; the option `ratings.min_games` wins
VELOCITY_WINDOW = 7 * 86_400.0  # seconds of history that say where a configuration is heading

_BUSY_TIMEOUT = 1.0  # seconds to wait for a writer
_REQUIRED = ("participant_id", "board_type", "num_players", "rating", "games_played", "rating_deviation")


class RatingsUnreadable(Exception):
    """The file is there, but its ratings cannot be read. The message names the file and the reason."""


@dataclass(frozen=True)
class Standing:
    """One participant's rating in one configuration.

    `updated_at` is seconds since the epoch, if known. `anchored` says that a chain of games leads to the
    anchors that the scale hangs on; an older file does not say, nor does a row of it when the
    column has been added, and counts as anchored.
    """

    participant: str
    rating: float
    deviation: float
    games: int
    updated_at: float | None = None
    anchored: bool = True

    @property
    def lower_bound(self) -> float:
        """Elo that the participant has with 97.5 % certainty: the low end of the 95 % interval."""
        return self.rating - 1.96 * self.deviation

    def meets(self, target: float, min_games: int = MIN_GAMES) -> bool:
        """Whether `target` is reached beyond luck: by the lower bound, with enough games, on the anchors' scale."""
        return self.anchored and self.games >= min_games and self.lower_bound >= target


@dataclass(frozen=True)
class ConfigStandings:
    """One configuration. Only models can be `best`: a strong baseline is no reason to stop training.

    `rated` counts participants of any type. `history` is the best model rating seen in each hour,
    as (seconds since the epoch, Elo). `by_name` has every model.
    """

    best: Standing | None = None
    models: int = 0
    rated: int = 0
    history: tuple[tuple[float, float], ...] = ()
    by_name: Mapping[str, Standing] = field(default_factory=dict, compare=False, repr=False)

    def meets(self, target: float, min_games: int = MIN_GAMES) -> bool:
        """Whether a model has reached `target` beyond luck."""
        return self.best is not None and self.best.meets(target, min_games)


@dataclass(frozen=True)
class Standings:
    """Every configuration that has a rating."""

    configs: Mapping[str, ConfigStandings] = field(default_factory=dict)

    def __getitem__(self, config: str) -> ConfigStandings:
        return self.configs.get(config, ConfigStandings())


def read(path: Path, now: float, min_games: int = MIN_GAMES) -> Standings:
    """The standings in `path`, with the history of the VELOCITY_WINDOW before `now`.

    A model with fewer than `min_games` games is best only where none has more, and is no part of the history.
    A file that does not exist yet, or in which only matches are yet, has no standings. Raises
    RatingsUnreadable when it is damaged, locked for long, or lacks a table or column.
    """
    with _reading(path) as found:
        if found is None:
            return Standings()
        db, columns = found
        baselines = _baselines(db, columns)
        histories = _histories(db, columns, baselines, now, min_games)
        return Standings(_standings(db, baselines, histories, min_games))


def read_everybody(path: Path) -> dict[str, dict[str, Standing]]:
    """Everybody who stands in `path`, anchors and other baselines too, by configuration and participant.

    Raises RatingsUnreadable as `read` does.
    """
    with _reading(path) as found:
        everybody = _everybody(found[0]) if found else {}
        return {config: {one.participant: one for one in standings} for config, standings in everybody.items()}


@contextmanager
def _reading(path: Path) -> Iterator[tuple[sqlite3.Connection, dict[str, set[str]]] | None]:
    """The file as of one instant, and its columns by table; None where nothing is written yet."""
    if not path.exists():
        yield None
        return
    try:
        with closing(_open(path)) as db:
            columns = _columns(db)
            if "match_history" in columns and "elo_ratings" not in columns:
                columns = {}  # a job's first matches, which nobody has rated yet
            missing = [name for name in _REQUIRED if name not in columns.get("elo_ratings", ())]
            if columns and missing:
                raise ValueError(f"table elo_ratings lacks {', '.join(missing)}")
            yield (db, columns) if columns else None
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise RatingsUnreadable(f"{path}: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("BEGIN")  # every query sees the same instant
    return db


def _columns(db: sqlite3.Connection) -> dict[str, set[str]]:
    rows = db.execute(
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type IN ('table', 'view')"
    )
    columns: dict[str, set[str]] = {}
    for table, column in rows:
        columns.setdefault(table, set()).add(column)
    return columns


def _baselines(db: sqlite3.Connection, columns: Mapping[str, set[str]]) -> set[str]:
    """Participants known to be something other than a model. One without a row counts as a model."""
    if not {"participant_id", "participant_type"} <= columns.get("participants", set()):
        return set()
    rows = db.execute("SELECT participant_id FROM participants WHERE participant_type <> 'model'")
    return {participant for (participant,) in rows}


def _histories(
    db: sqlite3.Connection, columns: Mapping[str, set[str]], baselines: set[str], now: float, min_games: int
) -> dict[str, tuple[tuple[float, float], ...]]:
    wanted = {"participant_id", "board_type", "num_players", "rating", "games_played", "timestamp"}
    if not wanted <= columns.get("rating_history", set()):
        return {}
    rows = db.execute(
        "SELECT board_type, num_players, participant_id,"
        " CAST(timestamp / 3600 AS INTEGER) AS hour, MAX(rating) AS elo"
        " FROM rating_history"
        " WHERE typeof(timestamp) IN ('real', 'integer') AND timestamp BETWEEN ? AND ? AND games_played >= ?"
        " GROUP BY board_type, num_players, hour, participant_id",
        (now - VELOCITY_WINDOW, now, min_games),
    )
    best: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["participant_id"] not in baselines:
            hours = best.setdefault(_config(row), {})
            at = row["hour"] * 3600.0
            hours[at] = max(float(row["elo"]), hours.get(at, float("-inf")))
    return {config: tuple(sorted(hours.items())) for config, hours in best.items()}


def _standings(
    db: sqlite3.Connection,
    baselines: set[str],
    histories: Mapping[str, tuple[tuple[float, float], ...]],
    min_games: int,
) -> dict[str, ConfigStandings]:
    standings = {}
    for config, everyone in _everybody(db).items():
        models = [standing for standing in everyone if standing.participant not in baselines]
        best = max(models, key=partial(_rank, min_games), default=None)
        by_name = {standing.participant: standing for standing in models}
        standings[config] = ConfigStandings(best, len(models), len(everyone), histories.get(config, ()), by_name)
    return standings


def _everybody(db: sqlite3.Connection) -> dict[str, list[Standing]]:
    rated: dict[str, list[Standing]] = {}
    for row in map(dict, db.execute("SELECT * FROM elo_ratings")):
        if row.get("archived_at") is None:
            rated.setdefault(_config(row), []).append(_standing(row))
    return rated


def _rank(min_games: int, standing: Standing) -> tuple[bool, bool, float, str]:
    return standing.anchored, standing.games >= min_games, standing.lower_bound, standing.participant


def _standing(row: Mapping[str, Any]) -> Standing:
    deviation, updated_at, anchored = row["rating_deviation"], row.get("last_update"), row.get("anchored")
    return Standing(
        participant=str(row["participant_id"]),
        rating=float(row["rating"]),
        deviation=DEFAULT_DEVIATION if deviation is None else float(deviation),
        games=int(row["games_played"] or 0),
        updated_at=float(updated_at) if isinstance(updated_at, int | float) else None,
        anchored=anchored is None or bool(anchored),
    )


def _config(row: Any) -> str:
    return f"{row['board_type']}_{row['num_players']}p"
