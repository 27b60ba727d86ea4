"""Where each game of a node stands, kept in the node's `games.db` itself.

Jobs are foreign programs, which append while shards are made, so no cursor over the table can be trusted: VACUUM may
renumber its rows, and their times and ids come in any order. Instead a trigger enters each new game in a table of
ours, within the writer's own transaction: a game is there exactly when its entry is. Games from before the trigger
are entered in batches. Counters by configuration move with the entries.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.game_shard import FAULT, new_shard
from fleet.games import BUSY_SECONDS, COLUMNS, STATES, Account, GamesUnreadable

WAITING, REFUSED, GONE = 0, -1, -2  # of an entry's `shard`; above 0 it is a shard's number
#: Games entered in one transaction, and pruned in one: writers wait for it.
BATCH = 5_000

_TABLES = """
CREATE TABLE IF NOT EXISTS backbeat_games (
    game_id TEXT PRIMARY KEY NOT NULL,
    config  TEXT NOT NULL,
    shard   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS backbeat_games_by_shard ON backbeat_games (shard);
CREATE TABLE IF NOT EXISTS backbeat_configs (
    config   TEXT PRIMARY KEY NOT NULL,
    produced INTEGER NOT NULL DEFAULT 0,
    waiting  INTEGER NOT NULL DEFAULT 0,
    sent     INTEGER NOT NULL DEFAULT 0,
    gathered INTEGER NOT NULL DEFAULT 0,
    refused  INTEGER NOT NULL DEFAULT 0,
    gone     INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_shards (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    shard   TEXT NOT NULL UNIQUE,
    state   TEXT NOT NULL,
    configs TEXT NOT NULL DEFAULT '{}',
    at      REAL NOT NULL,
    pruned  INTEGER NOT NULL DEFAULT 0,
    why     TEXT
);
CREATE TABLE IF NOT EXISTS backbeat_entering (after);
"""

# Plain statements only: the conflict clause of a writer's own INSERT would override one in here.
_ENTERS = """WHEN NEW.game_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM backbeat_games WHERE game_id = NEW.game_id)
BEGIN
    INSERT INTO backbeat_games VALUES (NEW.game_id, COALESCE(CAST(NEW.config AS TEXT), ''), 0);
    INSERT INTO backbeat_configs (config) SELECT COALESCE(CAST(NEW.config AS TEXT), '')
        WHERE NOT EXISTS (SELECT 1 FROM backbeat_configs WHERE config = COALESCE(CAST(NEW.config AS TEXT), ''));
    UPDATE backbeat_configs SET produced = produced + 1, waiting = waiting + 1
        WHERE config = COALESCE(CAST(NEW.config AS TEXT), '');
END"""
_TRIGGERS = {
    "backbeat_enters": f"CREATE TRIGGER backbeat_enters AFTER INSERT ON games {_ENTERS}",
    "backbeat_renames": f"CREATE TRIGGER backbeat_renames AFTER UPDATE OF game_id ON games {_ENTERS}",
}

_SIZE = "length(g.moves) + length(g.players) + length(g.result) + 200"


@dataclass(frozen=True)
class Batch:
    """A shard of this node: `building` until it is in the store, `sent`, then `gathered` or `refused`; `at` is when
    it became so. `configs` counts its games, and is empty while it is built."""

    number: int
    shard: str
    state: str
    configs: Mapping[str, int]
    at: float


class GameLedger:
    """One process's connection to a node's `games.db`. Its methods raise GamesUnreadable. One process at a time may
    move games (see game_export); jobs append meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._telling():
            self.db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                self._install()
            except BaseException:
                self.db.close()
                raise

    def close(self) -> None:
        self.db.close()

    def names(self, node: str) -> list[str]:
        """The names that this node has sent games under, with the one it has now."""
        with self._telling():
            self.db.execute("CREATE TABLE IF NOT EXISTS backbeat_names (node TEXT PRIMARY KEY) WITHOUT ROWID")
            self.db.execute("INSERT OR IGNORE INTO backbeat_names VALUES (?)", (node,))
            return [name for (name,) in self.db.execute("SELECT node FROM backbeat_names ORDER BY node LIMIT 50")]

    def enter(self, give_up: float = float("inf")) -> bool:
        """Enter the games from before the trigger, until `give_up` (monotonic). Says whether all of them are."""
        with self._telling():
            while (row := self.db.execute("SELECT after FROM backbeat_entering").fetchone()) is not None:
                if time.monotonic() > give_up:
                    return False
                self._enter_some(row[0])
        return True

    def begin(self, max_games: int, max_bytes: int, now: float) -> Batch | None:
        """Put waiting games into a new shard, as many as its bounds allow; None when none waits."""
        with self._telling():
            rows = self.db.execute(
                f"SELECT e.game_id, {_SIZE} FROM backbeat_games e LEFT JOIN games g ON g.game_id = e.game_id"  # noqa: S608
                " WHERE e.shard = ? ORDER BY e.game_id LIMIT ?",
                (WAITING, max_games),
            )
            chosen: list[str] = []
            size = 0
            for game_id, length in rows:
                size += length or 0
                if chosen and size > max_bytes:
                    break
                chosen.append(game_id)
            rows.close()
            if not chosen:
                return None
            name = new_shard(now)
            with self._writing():
                made = self.db.execute(
                    "INSERT INTO backbeat_shards (shard, state, at) VALUES (?, 'building', ?)", (name, now)
                )
                number = int(made.lastrowid or 0)
                self.db.executemany(
                    "UPDATE backbeat_games SET shard = ? WHERE game_id = ?", [(number, each) for each in chosen]
                )
            return Batch(number, name, "building", {}, now)

    def sift(self, batch: Batch) -> tuple[int, str]:
        """Take out of a shard the games that no shard may have, and those that are not there any more.

        Returns how many were refused, and why one of them was.
        """
        with self._telling():
            rows = self.db.execute(
                f"SELECT e.game_id, e.config, g.game_id IS NULL, {FAULT}"  # noqa: S608
                " FROM backbeat_games e LEFT JOIN games g ON g.game_id = e.game_id"
                f" WHERE e.shard = ? AND (g.game_id IS NULL OR {FAULT} IS NOT NULL)",
                (batch.number,),
            ).fetchall()
            with self._writing():
                for game_id, config, gone, _ in rows:
                    state = GONE if gone else REFUSED
                    self.db.execute("UPDATE backbeat_games SET shard = ? WHERE game_id = ?", (state, game_id))
                    self._move("waiting", "gone" if gone else "refused", {config: 1})
            faults = [f"{game_id!r}: {fault}" for game_id, _, gone, fault in rows if not gone]
            return len(faults), faults[0] if faults else ""

    def fill(self, batch: Batch, target: Path, schema: str) -> dict[str, int]:
        """Write a shard's games into a new SQLite file, by id. Returns their number by configuration."""
        with self._telling():
            self.db.execute("ATTACH ? AS shard", (target.absolute().as_uri(),))
            try:
                self.db.execute("PRAGMA shard.journal_mode = OFF")
                self.db.execute("PRAGMA shard.synchronous = OFF")
                self.db.execute(schema.replace("TABLE games", "TABLE shard.games", 1))
                self.db.execute(
                    f"INSERT INTO shard.games SELECT {', '.join('g.' + name for name in COLUMNS)}"  # noqa: S608
                    " FROM backbeat_games e JOIN games g ON g.game_id = e.game_id WHERE e.shard = ? ORDER BY e.game_id",
                    (batch.number,),
                )
                return dict(self.db.execute("SELECT config, COUNT(*) FROM shard.games GROUP BY config"))
            finally:
                self.db.execute("DETACH shard")

    def settle(self, batch: Batch, state: str, now: float, why: str | None = None) -> None:
        """Record what became of a shard, with all its games."""
        before = "waiting" if batch.state == "building" else batch.state
        with self._telling(), self._writing():
            counted = dict(
                self.db.execute(
                    "SELECT config, COUNT(*) FROM backbeat_games WHERE shard = ? GROUP BY config", (batch.number,)
                )
            )
            self.db.execute(
                "UPDATE backbeat_shards SET state = ?, configs = ?, at = ?, why = ? WHERE number = ?",
                (state, json.dumps(counted), now, why, batch.number),
            )
            self._move(before, "waiting" if state == "building" else state, counted)

    def drop(self, batch: Batch) -> None:
        """Forget a shard that holds nothing."""
        with self._telling(), self._writing():
            self.db.execute("DELETE FROM backbeat_shards WHERE number = ?", (batch.number,))

    def batches(self, *states: str) -> list[Batch]:
        """The shards in these states, oldest first."""
        marks = ", ".join("?" * len(states))
        with self._telling():
            rows = self.db.execute(
                "SELECT number, shard, state, configs, at FROM backbeat_shards"  # noqa: S608
                f" WHERE state IN ({marks}) ORDER BY number",
                states,
            ).fetchall()
        return [Batch(number, shard, state, json.loads(configs), at) for number, shard, state, configs, at in rows]

    def prune(self, before: float, max_games: int) -> int:
        """Delete games, at most so many, of shards that the central node has acknowledged before that instant."""
        pruned = 0
        with self._telling():
            while pruned < max_games:
                ids = self.db.execute(
                    "SELECT e.game_id FROM backbeat_shards s JOIN backbeat_games e ON e.shard = s.number"
                    " WHERE s.state = 'gathered' AND s.pruned = 0 AND s.at < ? LIMIT ?",
                    (before, min(BATCH, max_games - pruned)),
                ).fetchall()
                with self._writing():
                    self.db.executemany("DELETE FROM games WHERE game_id = ?", ids)
                    self.db.executemany("DELETE FROM backbeat_games WHERE game_id = ?", ids)
                    if not ids:
                        self.db.execute(
                            "UPDATE backbeat_shards SET pruned = 1 WHERE state = 'gathered' AND at < ?", (before,)
                        )
                        return pruned
                pruned += len(ids)
        return pruned

    def account(self) -> Account:
        """How many games of each configuration are in which state, and were produced in all."""
        names = ("produced", *STATES)
        with self._telling():
            rows = self.db.execute(f"SELECT config, {', '.join(names)} FROM backbeat_configs ORDER BY config")  # noqa: S608
            return {config: dict(zip(names, counts, strict=True)) for config, *counts in rows}

    def _move(self, before: str, after: str, counted: Mapping[str, int]) -> None:
        if before == after:
            return
        for config, number in counted.items():
            self.db.execute(
                f"UPDATE backbeat_configs SET {before} = {before} - ?, {after} = {after} + ? WHERE config = ?",  # noqa: S608
                (number, number, config),
            )

    def _install(self) -> None:
        columns = {name for _, name, *_ in self.db.execute("PRAGMA table_info(games)")}
        if missing := [name for name in COLUMNS if name not in columns]:
            raise GamesUnreadable(f"{self.path}: table games lacks {', '.join(missing)}")
        self.db.execute("PRAGMA synchronous = NORMAL")
        if self._is_installed():
            return
        with self._writing():
            if self._is_installed():
                return
            for statement in _TABLES.split(";\n"):
                self.db.execute(statement)
            for name, trigger in _TRIGGERS.items():
                self.db.execute(f"DROP TRIGGER IF EXISTS {name}")
                self.db.execute(trigger)
            self.db.execute("DELETE FROM backbeat_entering")
            self.db.execute("INSERT INTO backbeat_entering VALUES (NULL)")

    def _is_installed(self) -> bool:
        rows = self.db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'backbeat_%'")
        return dict(rows.fetchall()) == _TRIGGERS

    def _enter_some(self, after: object) -> None:
        beyond, bounds = ("g.game_id > ?", (after,)) if after is not None else ("g.game_id IS NOT NULL", ())
        with self._writing():
            ids = self.db.execute(
                f"SELECT game_id FROM games g WHERE {beyond} ORDER BY game_id LIMIT {BATCH}",  # noqa: S608
                bounds,
            ).fetchall()
            if not ids:
                self.db.execute("DELETE FROM backbeat_entering")
                return
            last = ids[-1][0]
            unknown = (
                f"FROM games g WHERE {beyond} AND g.game_id <= ?"  # noqa: S608
                " AND NOT EXISTS (SELECT 1 FROM backbeat_games e WHERE e.game_id = g.game_id)"
            )
            config = "COALESCE(CAST(g.config AS TEXT), '')"
            counted = self.db.execute(
                f"SELECT {config}, COUNT(DISTINCT g.game_id) {unknown} GROUP BY 1",
                (*bounds, last),
            ).fetchall()
            self.db.execute(
                f"INSERT OR IGNORE INTO backbeat_games SELECT g.game_id, {config}, 0 {unknown}",
                (*bounds, last),
            )
            self.db.executemany(
                "INSERT OR IGNORE INTO backbeat_configs (config) VALUES (?)", [(c,) for c, _ in counted]
            )
            self.db.executemany(
                "UPDATE backbeat_configs SET produced = produced + ?2, waiting = waiting + ?2 WHERE config = ?1",
                counted,
            )
            self.db.execute("UPDATE backbeat_entering SET after = ?", (last,))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise GamesUnreadable(f"{self.path}: {error}") from error


def account(path: Path) -> Account:
    """A node's account as it stands; empty without a file of games. Raises GamesUnreadable."""
    if not path.exists():
        return {}
    with closing(GameLedger(path)) as ledger:
        return ledger.account()
