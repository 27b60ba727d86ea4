"""From the set of matches to the tables `elo_ratings` and `rating_history`, for the configurations that changed.

Ratings follow from the counted results alone, so they are the same on every node that has the same set. They are
computed outside of any transaction, and written only where the set is still the one they were computed from.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fleet import match_sequence
from fleet.configs import BoardConfig
from fleet.match import compact, hash_of
from fleet.match_set import MODEL
from fleet.match_store import reading, writing
from fleet.outcome import Outcome, outcome
from fleet.rating_options import ALGORITHM
from fleet.ratings import MIN_GAMES

if TYPE_CHECKING:
    from fleet.rating import Rated, Ratings

DEFAULT_ANCHORS: Mapping[str, float] = {"random": 400.0}
#: The mark of a node that has nothing to rate.
NO_RULES = "-"
#: Elo that a rating moves before it is worth a row of history.
WORTH_A_ROW = 0.5
#: Seconds of which one row of history stays of each participant, the last: from a full hour to the next.
GRAIN = 3600.0
#: Seconds that history is kept.
KEPT_FOR = 30 * 86_400.0
#: Points of the curve that is kept of each configuration's best.
CURVE = 500
#: Seconds that history is told backwards, and in how many steps, where there is none.
WINDOW = 7 * 86_400.0
STEPS = 8

log = logging.getLogger("backbeat.matches")


@dataclass(frozen=True)
class Rules:
    """What ratings follow from beside the matches; the same on every node of a cluster."""

    anchors: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_ANCHORS))
    prior: float = 1.0
    min_games: int = MIN_GAMES

    @property
    def key(self) -> str:
        """Changes whenever the same matches would be rated otherwise."""
        return compact([ALGORITHM, sorted(self.anchors.items()), self.prior, self.min_games])

    @property
    def mark(self) -> str:
        return mark(self.key)

    def rate(self, outcomes: Mapping[Outcome, int]) -> Ratings:
        from fleet.rating import rate  # with numpy, which takes memory

        return rate(outcomes, self.anchors, prior=self.prior)


def settled(db: sqlite3.Connection) -> str:
    """The mark of the rules by which all ratings here are of the matches here; empty when some are behind.

    A node without matches has the mark of no rules.
    """
    if db.execute("SELECT 1 FROM backbeat_configs WHERE rated < generation LIMIT 1").fetchone() is not None:
        return ""
    keys = [key for (key,) in db.execute("SELECT DISTINCT rules FROM backbeat_configs")]
    return mark(keys[0]) if len(keys) == 1 else "" if keys else NO_RULES


def mark(key: str) -> str:
    """What stands for rules where there is little room."""
    return hash_of(key).hex()[:8]


def settle(db: sqlite3.Connection, rules: Rules) -> list[str]:
    """Rate every configuration whose matches or rules changed; which these were. Idempotent."""
    query = "SELECT config FROM backbeat_configs WHERE rated < generation OR rules <> ? ORDER BY config"
    wanted = [config for (config,) in db.execute(query, (rules.key,))]
    return [config for config in wanted if _settle(db, config, rules)]


def unrated(db: sqlite3.Connection) -> list[str]:
    """The configurations that have matches, and were found to be impossible to rate."""
    query = (
        "SELECT config FROM backbeat_configs WHERE matches > 0 AND rated >= generation AND NOT EXISTS"
        " (SELECT 1 FROM elo_ratings WHERE board_type || '_' || num_players || 'p' = config) ORDER BY config"
    )
    return [config for (config,) in db.execute(query)]


def outcomes(db: sqlite3.Connection, config: str) -> dict[Outcome, int]:
    """How often each result happened, without excluded matches."""
    query = "SELECT participants, ranks, games FROM backbeat_outcomes WHERE config = ? AND games > 0"
    return {(_texts(names), _texts(ranks)): games for names, ranks, games in db.execute(query, (config,))}


@lru_cache(65_536)
def _texts(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text))


def _settle(db: sqlite3.Connection, config: str, rules: Rules) -> bool:
    with reading(db):
        query = "SELECT generation, last_ms FROM backbeat_configs WHERE config = ?"
        generation, last_ms = db.execute(query, (config,)).fetchone()
        last_ms = min(last_ms, round(time.time() * 1000))  # a clock that is ahead takes history nowhere
        counted = outcomes(db, config)
        past = _past(db, config, last_ms) if not _has_history(db, config) else []
        sequence = match_sequence.play(db, config, rules.anchors, rules.key)
    rated: Mapping[str, Rated] = {}
    told: list[tuple[float, Mapping[str, Rated]]] = []
    try:
        rated = rules.rate(counted)
        told = [(at, rules.rate(each)) for at, each in past]
    except ArithmeticError as error:  # the same on every node, and no reason to rate the others less
        log.error("%s is not rated: %s", config, error)
    with writing(db):
        ((already, by),) = db.execute("SELECT rated, rules FROM backbeat_configs WHERE config = ?", (config,))
        if already > generation or (already == generation and by == rules.key):
            return False  # another process has rated the same, or more
        board = BoardConfig.parse(config)
        for at, each in told:
            _remember(db, board, at, {name: (None, one) for name, one in each.items()}, each, rules)
        moved = _store(db, board, last_ms / 1000, rated, sequence.elo)
        _remember(db, board, last_ms / 1000, moved, rated, rules)
        row = (generation, rules.key, config)
        db.execute("UPDATE backbeat_configs SET rated = ?, rules = ? WHERE config = ?", row)
        match_sequence.store(db, config, rules.key, sequence, generation)
    return True


Moved = dict[str, "tuple[float | None, Rated]"]


def _store(
    db: sqlite3.Connection, board: BoardConfig, at: float, rated: Mapping[str, Rated], sequential: Mapping[str, float]
) -> Moved:
    """Write what is new; returns the ratings that are, with what they were."""
    place = (board.board, board.players)
    query = (
        "SELECT participant_id, rating, rating_deviation, games_played, wins, losses, draws, anchored,"
        " sequential_elo FROM elo_ratings WHERE board_type = ? AND num_players = ?"
    )
    stored = {name: tuple(row) for name, *row in db.execute(query, place)}
    moved: Moved = {}
    for name, one in rated.items():
        row = (
            one.rating,
            one.deviation,
            one.games,
            one.wins,
            one.losses,
            one.draws,
            int(one.anchored),
            sequential.get(name),
        )
        if stored.get(name) == row:
            continue
        moved[name] = (stored[name][0] if name in stored else None, one)
        values = (*row, at, one.rating, name, *place)
        changed = db.execute(
            "UPDATE elo_ratings SET rating = ?, rating_deviation = ?, games_played = ?, wins = ?, losses = ?,"
            " draws = ?, anchored = ?, sequential_elo = ?, last_update = ?,"
            " peak_rating = max(coalesce(peak_rating, rating), ?)"
            " WHERE participant_id = ? AND board_type = ? AND num_players = ?",
            values,
        ).rowcount
        if not changed:
            db.execute(
                "INSERT INTO elo_ratings (rating, rating_deviation, games_played, wins, losses, draws, anchored,"
                " sequential_elo, last_update, peak_rating, participant_id, board_type, num_players)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        db.execute(
            "INSERT INTO participants (participant_id, participant_type, created_at) SELECT ?, ?, ?"
            " WHERE NOT EXISTS (SELECT 1 FROM participants WHERE participant_id = ?)",
            (name, MODEL, at, name),
        )
    _drop(db, place, stored.keys() - rated.keys())
    return moved


def _drop(db: sqlite3.Connection, place: tuple[str, int], gone: set[str]) -> None:
    """A rating without a match that counts is set aside: on the other nodes there is none."""
    for name in sorted(gone):
        where = "FROM elo_ratings WHERE participant_id = ? AND board_type = ? AND num_players = ?"
        for row in db.execute(f"SELECT * {where}", (name, *place)).fetchall():
            text = json.dumps(row, default=repr)
            db.execute(
                "INSERT OR IGNORE INTO backbeat_set_aside VALUES (?, 0, 'elo_ratings', 'no match of it counts', ?)",
                (hash_of(text), text),
            )
        db.execute(f"DELETE {where}", (name, *place))


def _has_history(db: sqlite3.Connection, config: str) -> bool:
    board = BoardConfig.parse(config)
    query = "SELECT 1 FROM rating_history WHERE board_type = ? AND num_players = ? LIMIT 1"
    return db.execute(query, (board.board, board.players)).fetchone() is not None


def _past(db: sqlite3.Connection, config: str, last_ms: int) -> list[tuple[float, dict[Outcome, int]]]:
    """The counted results at some instants of the last days, for a node that was not there.

    A new leader must know where each configuration is heading, and not only where it stands.
    """
    board = BoardConfig.parse(config)
    since = last_ms - round(WINDOW * 1000)
    found = (
        "FROM match_history WHERE match_hash IS NOT NULL AND ended_at_ms > ? AND board_type = ? AND num_players = ?"
        " AND game_id NOT IN (SELECT match_id FROM backbeat_exclusions)"
    )
    place = (since, board.board, board.players)
    ((first,),) = db.execute(f"SELECT min(ended_at_ms) {found}", place)
    if first is None:
        return []
    left = outcomes(db, config)
    rows = db.execute(f"SELECT ended_at_ms, participant_ids, rankings {found} ORDER BY ended_at_ms DESC", place)
    instants = sorted(
        {round(first + (last_ms - first) * step / STEPS) for step in range(1, STEPS)} - {last_ms}, reverse=True
    )
    past: list[tuple[float, dict[Outcome, int]]] = []
    row = next(rows, None)
    for instant in instants:
        while row is not None and row[0] > instant:
            left[outcome(_texts(row[1]), _texts(row[2]))] -= 1
            row = next(rows, None)
        past.append((instant / 1000, {key: games for key, games in left.items() if games > 0}))
    return [(at, counted) for at, counted in reversed(past) if counted]


def _remember(
    db: sqlite3.Connection, board: BoardConfig, at: float, moved: Moved, rated: Mapping[str, Rated], rules: Rules
) -> None:
    """Rows of history for ratings that moved, and a point of the curve of the best."""
    place = (board.board, board.players)
    changes = {
        name: (one, 0.0 if before is None else one.rating - before)
        for name, (before, one) in moved.items()
        if before is None or abs(one.rating - before) >= WORTH_A_ROW
    }
    db.execute(
        "DELETE FROM rating_history WHERE board_type = ? AND num_players = ? AND timestamp >= ? AND timestamp <= ?"
        " AND participant_id IN (SELECT value FROM json_each(?))",
        (*place, at // GRAIN * GRAIN, at, compact(list(changes))),
    )
    db.executemany(
        "INSERT INTO rating_history (participant_id, board_type, num_players, rating, rating_change, games_played,"
        " timestamp) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(name, *place, one.rating, round(change, 2), one.games, at) for name, (one, change) in changes.items()],
    )
    db.execute(
        "DELETE FROM rating_history WHERE board_type = ? AND num_players = ? AND timestamp < ?", (*place, at - KEPT_FOR)
    )
    best = best_model(db, rated, rules.min_games)
    if best is not None:
        row = (str(board), at, best, rated[best].rating)
        db.execute("INSERT OR REPLACE INTO backbeat_best VALUES (?, ?, ?, ?)", row)
        _thin(db, str(board))


def best_model(db: sqlite3.Connection, rated: Mapping[str, Rated], min_games: int) -> str | None:
    """The model with the highest lower bound; those without a way to the anchors, or with few games, behind others."""
    others = {name for (name,) in db.execute("SELECT participant_id FROM backbeat_participants")}

    def rank(name: str) -> tuple[bool, bool, float, str]:
        one = rated[name]
        return one.anchored, one.games >= min_games, one.rating - 1.96 * one.deviation, name

    return max((name for name in rated if name not in others), key=rank, default=None)


def _thin(db: sqlite3.Connection, config: str) -> None:
    """Keep the curve's shape in fewer points: every second one of the older half goes."""
    points = [at for (at,) in db.execute("SELECT at FROM backbeat_best WHERE config = ? ORDER BY at", (config,))]
    if len(points) > CURVE:
        gone = points[1 : len(points) // 2 : 2]
        db.executemany("DELETE FROM backbeat_best WHERE config = ? AND at = ?", [(config, at) for at in gone])
