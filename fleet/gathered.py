"""`gathered.db`: everybody's games, on the central node, as training reads them.

    SELECT ... FROM games WHERE config = 'hex5_2p' ORDER BY finished_at DESC LIMIT 100000

reads the newest games of a configuration through the index `games_by_config`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.game_shard import DEFINITIONS, Manifest, harden, uri
from fleet.games import BUSY_SECONDS, COLUMNS, GamesUnreadable, open_read_only

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS games (
{DEFINITIONS},
    shard       INTEGER NOT NULL,
    PRIMARY KEY (game_id)
);
CREATE INDEX IF NOT EXISTS games_by_config ON games (config, finished_at);
CREATE TABLE IF NOT EXISTS shards (
    number   INTEGER PRIMARY KEY,
    node     TEXT NOT NULL,
    shard    TEXT NOT NULL,
    state    TEXT NOT NULL,
    sha256   TEXT,
    games    INTEGER NOT NULL DEFAULT 0,
    gathered INTEGER NOT NULL DEFAULT 0,
    bytes    INTEGER NOT NULL DEFAULT 0,
    unpacked INTEGER NOT NULL DEFAULT 0,
    configs  TEXT NOT NULL DEFAULT '{{}}',
    at       REAL NOT NULL,
    why      TEXT,
    UNIQUE (node, shard)
);
CREATE TABLE IF NOT EXISTS gathered (
    node    TEXT NOT NULL,
    config  TEXT NOT NULL,
    games   INTEGER NOT NULL,
    doubled INTEGER NOT NULL,
    PRIMARY KEY (node, config)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Shard:
    """A row of the ledger of shards: `gathered`, or `refused` for the reason `why`."""

    node: str
    shard: str
    state: str = ""
    sha256: str | None = None
    why: str | None = None


class Gathered:
    """A connection to the file, which is made when it is missing. Its methods raise GamesUnreadable, but `take`
    raises sqlite3.Error, with nothing taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._telling():
            self.db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                self.db.execute("PRAGMA journal_mode = WAL")
                self.db.execute("PRAGMA synchronous = FULL")  # the shard is deleted as soon as it is in here
                harden(self.db)
                self.db.executescript(SCHEMA)
            except BaseException:
                self.db.close()
                raise

    def close(self) -> None:
        self.db.close()

    def shard(self, node: str, shard: str) -> Shard | None:
        """What is known of a shard."""
        with self._telling():
            row = self.db.execute(
                "SELECT node, shard, state, sha256, why FROM shards WHERE node = ? AND shard = ?", (node, shard)
            ).fetchone()
        return None if row is None else Shard(*row)

    def take(self, path: Path, manifest: Manifest, now: float) -> int:
        """Take in the games of a checked shard and record it, in one transaction that is durable when this returns.

        Returns how many of them were new.
        """
        self.db.execute("ATTACH ? AS incoming", (uri(path),))
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                new = self._take(manifest, now)
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
        finally:
            self.db.execute("DETACH incoming")
        return sum(new.values())

    def _take(self, manifest: Manifest, now: float) -> Mapping[str, int]:
        (number,) = self.db.execute(
            "INSERT INTO shards (node, shard, state, sha256, games, bytes, unpacked, configs, at)"
            " VALUES (?, ?, 'gathered', ?, ?, ?, ?, ?, ?) ON CONFLICT (node, shard) DO UPDATE SET"
            " state = 'gathered', sha256 = excluded.sha256, games = excluded.games, bytes = excluded.bytes,"
            " unpacked = excluded.unpacked, configs = excluded.configs, at = excluded.at, why = NULL RETURNING number",
            (
                manifest.node,
                manifest.shard,
                manifest.sha256,
                manifest.games,
                manifest.size,
                manifest.unpacked,
                json.dumps(dict(manifest.configs)),
                now,
            ),
        ).fetchone()
        (last,) = self.db.execute("SELECT COALESCE(MAX(rowid), 0) FROM games").fetchone()
        names = ", ".join(COLUMNS)
        added = self.db.execute(
            f"INSERT OR IGNORE INTO main.games ({names}, shard) SELECT {names}, ? FROM incoming.games",  # noqa: S608
            (number,),
        ).rowcount
        new = dict(manifest.configs)
        if added != manifest.games:
            counted = self.db.execute(
                "SELECT config, COUNT(*) FROM main.games WHERE rowid > ? GROUP BY config", (last,)
            )
            new = dict(counted.fetchall())
        self.db.execute("UPDATE shards SET gathered = gathered + ? WHERE number = ?", (added, number))
        self.db.executemany(
            "INSERT INTO gathered VALUES (?1, ?2, ?3, ?4) ON CONFLICT (node, config) DO UPDATE SET"
            " games = games + ?3, doubled = doubled + ?4",
            [
                (manifest.node, config, new.get(config, 0), count - new.get(config, 0))
                for config, count in manifest.configs.items()
            ],
        )
        return new

    def refuse(self, node: str, shard: str, why: str, now: float) -> bool:
        """Record that a shard was refused, unless it was gathered before. Says whether that is news."""
        known = self.shard(node, shard)
        with self._telling():
            self.db.execute(
                "INSERT INTO shards (node, shard, state, at, why) VALUES (?, ?, 'refused', ?, ?)"
                " ON CONFLICT (node, shard) DO UPDATE SET at = excluded.at, why = excluded.why WHERE state = 'refused'",
                (node, shard, now, why),
            )
        return known is None or known.why != why

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise GamesUnreadable(f"{self.path}: {error}") from error


def arrived(path: Path, nodes: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many games of each of these nodes came here, by configuration, doubles included. Raises GamesUnreadable."""
    found: dict[str, dict[str, int]] = {node: {} for node in nodes}
    if not found or not path.exists():
        return found
    try:
        with closing(open_read_only(path)) as db:
            for node, counts in found.items():
                counts.update(
                    db.execute("SELECT config, games + doubled FROM gathered WHERE node = ?", (node,)).fetchall()
                )
    except sqlite3.Error as error:
        raise GamesUnreadable(f"{path}: {error}") from error
    return found
