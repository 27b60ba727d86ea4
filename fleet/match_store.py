"""`unified_elo.db`: its tables, how it is opened, and what becomes of a file that is corrupt.

The tables of the original stand as they always did, with columns added; everything else of ours is in tables
of its own. Jobs and other programs write rows to `match_history` at any time: such a row has no `match_hash`
until it is adopted. The file must lie on a local disk, for SQLite's WAL does not work over network file systems.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.match_rows import WRITTEN

FILE = "unified_elo.db"  # in a node's data directory
BUSY_SECONDS = 10.0  # how long a write waits for another process's write
_HEADER = b"SQLite format 3\0"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

#: Table -> column -> type: what the original writes, and what was added since.
ORIGINAL: dict[str, dict[str, str]] = {
    "participants": {
        "participant_id": "TEXT PRIMARY KEY",
        "participant_type": "TEXT",
        "ai_type": "TEXT",
        "difficulty": "INTEGER",
        "use_neural_net": "INTEGER",
        "model_path": "TEXT",
        "model_version": "TEXT",
        "metadata": "TEXT",
        "created_at": "REAL",
        "last_seen": "REAL",
    },
    "elo_ratings": {
        "participant_id": "TEXT NOT NULL",
        "board_type": "TEXT NOT NULL",
        "num_players": "INTEGER NOT NULL",
        "rating": "REAL DEFAULT 1500",
        "games_played": "INTEGER DEFAULT 0",
        "wins": "INTEGER DEFAULT 0",
        "losses": "INTEGER DEFAULT 0",
        "draws": "INTEGER DEFAULT 0",
        "rating_deviation": "REAL DEFAULT 350",
        "last_update": "REAL",
        "peak_rating": "REAL",
        "archived_at": "REAL",
        "anchored": "INTEGER",
        "sequential_elo": "REAL",
    },
    "match_history": {
        "id": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "participant_a": "TEXT",
        "participant_b": "TEXT",
        "participant_ids": "TEXT",
        "rankings": "TEXT",
        "winner": "TEXT",
        "board_type": "TEXT",
        "num_players": "INTEGER",
        "game_length": "INTEGER",
        "duration_sec": "REAL",
        "timestamp": "REAL",
        "tournament_id": "TEXT",
        "game_id": "TEXT",
        "worker": "TEXT",
        "metadata": "TEXT",
        "ended_at_ms": "INTEGER",
        "match_hash": "BLOB",
    },
    "rating_history": {
        "id": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "participant_id": "TEXT",
        "board_type": "TEXT",
        "num_players": "INTEGER",
        "rating": "REAL",
        "rating_change": "REAL",
        "games_played": "INTEGER",
        "timestamp": "REAL",
        "match_id": "TEXT",
        "tournament_id": "TEXT",
    },
}
_KEYS = {"elo_ratings": ", PRIMARY KEY (participant_id, board_type, num_players)"}

#: The unique index is of what is adopted only: other programs may have written a match twice.
OURS = """
CREATE UNIQUE INDEX IF NOT EXISTS backbeat_match_ids ON match_history (game_id) WHERE match_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS backbeat_match_order ON match_history (ended_at_ms, game_id, match_hash)
    WHERE match_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS backbeat_match_pending ON match_history (match_hash) WHERE match_hash IS NULL;
CREATE INDEX IF NOT EXISTS backbeat_rating_history ON rating_history (board_type, num_players, timestamp);
CREATE TABLE IF NOT EXISTS backbeat_variants (match_id TEXT, match_hash BLOB, ended_at_ms INTEGER, content TEXT,
    PRIMARY KEY (match_id, match_hash)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS backbeat_variant_order ON backbeat_variants (ended_at_ms, match_id);
CREATE TABLE IF NOT EXISTS backbeat_exclusions (match_id TEXT, reason TEXT, hash BLOB,
    PRIMARY KEY (match_id, reason)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_participants (participant_id TEXT PRIMARY KEY, type TEXT, hash BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_buckets (hour INTEGER PRIMARY KEY, elements INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS backbeat_outcomes (config TEXT, participants TEXT, ranks TEXT, games INTEGER,
    PRIMARY KEY (config, participants, ranks)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_configs (config TEXT PRIMARY KEY, matches INTEGER, generation INTEGER,
    rated INTEGER, rules TEXT, last_ms INTEGER, changed_ms INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_sequence (config TEXT, at INTEGER, match_id TEXT, rules TEXT, state TEXT,
    PRIMARY KEY (config, at, match_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_best (config TEXT, at REAL, participant TEXT, rating REAL,
    PRIMARY KEY (config, at)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_set_aside (hash BLOB PRIMARY KEY, at REAL, source TEXT, reason TEXT, content TEXT)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_peers (node TEXT PRIMARY KEY, tried_at REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_told (what TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backbeat_set (version INTEGER, matches INTEGER, elements INTEGER, digest BLOB,
    conflicts INTEGER, refused INTEGER);
"""
VERSION = 1


def connect(path: Path) -> sqlite3.Connection:
    """The database, with every table and column that is needed, in WAL. Close it. Raises sqlite3.Error."""
    # as an address, so that another database can be attached for reading only
    uri = path.absolute().as_uri()
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA trusted_schema = OFF")
        if not _complete(db):
            _use_wal(db)
            with writing(db):
                _prepare(db)
        return db
    except BaseException:
        db.close()
        raise


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """One transaction that writes, or leaves everything as it was."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def reading(db: sqlite3.Connection) -> Iterator[None]:
    """One instant, as every query within sees it."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def columns(db: sqlite3.Connection, table: str) -> list[str]:
    """The columns that a table has; none, when there is no such table."""
    return [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether it says that the file itself is damaged."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF in _CORRUPT


def set_aside(path: Path) -> Path | None:
    """Move a corrupt file out of the way, with its -wal and -shm, and say where to. It is never deleted.

    None: another process has done so already.

    Several processes may find the damage at once; the first moves the file, the others find a new one or none.
    The -wal goes last: should this process be killed between the two, the next one to open the file, which
    then is missing or new, moves it after its own.
    """
    with _alone(path):
        number = 1
        while _aside(path, number).exists() or _aside(path, number, "-wal").exists():
            number += 1
        target = _aside(path, number)
        if not path.exists() or not _damaged(path):
            return None
        path.rename(target)
        _follow(path, number)
    return target


def mend(path: Path) -> None:
    """Finish a move that was killed half way: a -wal without its database belongs to the last one moved."""
    if path.exists() or not path.with_name(f"{path.name}-wal").exists():
        return
    with _alone(path):
        number = 1
        while _aside(path, number + 1).exists():
            number += 1
        if not path.exists():
            _follow(path, number)


def _follow(path: Path, number: int) -> None:
    for suffix in ("-shm", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(_aside(path, number, suffix))


def _aside(path: Path, number: int, suffix: str = "") -> Path:
    return path.with_name(f"{path.name}.corrupt-{number}{suffix}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_foreign(path: Path) -> bool:
    """Whether it does not even begin as a database. SQLite would not look at its -wal, and delete it."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HEADER)) not in (_HEADER, b"")
    except FileNotFoundError:
        return False


def is_other(path: Path) -> bool:
    """Whether it is a file of something else, in which matches have no business; a damaged one is not."""
    if not path.exists() or is_foreign(path):
        return path.exists()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return False
    return bool(tables) and not tables & ORIGINAL.keys()


def _damaged(path: Path) -> bool:
    """Whether it is still the damaged file: another process may have put a new one in its place."""
    if is_foreign(path):
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as db:
            # the quick check does not see an index that lacks entries, or has one of a row that is gone
            found: list[tuple[str]] = db.execute("PRAGMA integrity_check(1)").fetchall()
            return found != [("ok",)]
    except sqlite3.Error as error:
        return is_corrupt(error)


def _complete(db: sqlite3.Connection) -> bool:
    try:
        return bool(db.execute("SELECT version FROM backbeat_set").fetchone() == (VERSION,))
    except sqlite3.OperationalError:
        return False


def _use_wal(db: sqlite3.Connection) -> None:
    # SQLite does not wait for other processes in this one step, whatever the timeout
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepare(db: sqlite3.Connection) -> None:
    for table, wanted in ORIGINAL.items():
        declared = ", ".join(f"{name} {kind}" for name, kind in wanted.items())
        db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({declared}{_KEYS.get(table, '')})")
        there = columns(db, table)
        for name, kind in wanted.items():
            if name not in there:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind.partition(' ')[0]}")
    for statement in OURS.split(";"):
        db.execute(statement)
    if db.execute("SELECT 1 FROM backbeat_set").fetchone() is None:
        db.execute("INSERT INTO backbeat_set VALUES (?, 0, 0, zeroblob(16), 0, 0)", (VERSION,))


def insert(db: sqlite3.Connection) -> str:
    """The statement that adds a match. Columns of another program that demand a value get an empty one."""
    named = list(WRITTEN)
    values = ["?"] * len(named)
    for _, name, kind, demanded, default, key in db.execute("PRAGMA table_info(match_history)"):
        if demanded and default is None and not key and name not in ORIGINAL["match_history"]:
            named.append(f'"{name}"')
            values.append("0" if kind.upper() in ("INTEGER", "REAL") else "''")
    return f"INSERT INTO match_history ({', '.join(named)}) VALUES ({', '.join(values)})"  # noqa: S608
