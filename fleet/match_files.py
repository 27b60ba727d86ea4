"""Matches from another database: looked at before it is believed, and opened for reading only.

A file that we wrote is merged fast: SQLite itself puts the canonical texts together and copies the rows, and only
the hash of each text is computed here. Every row that is not plainly sound goes the long way, through the door.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fleet import match_rows
from fleet.match import (
    MAX_DURATION,
    MAX_LENGTH,
    MAX_METADATA,
    YEAR_2100,
    Match,
    Refused,
    is_id,
    is_source,
    metadata_text,
    names,
    places,
    result,
)
from fleet.match_change import HOUR, Change, xor_all
from fleet.match_set import CHUNK, MatchSet, Merged
from fleet.match_store import ORIGINAL, columns, writing

#: Bytes that any value of a foreign file may have; SQLite reads nothing larger.
MAX_VALUE = 1_000_000
#: Rows of a database of ours that one transaction takes: half a second in which others wait.
ROWS = 50_000
#: KiB of pages that are kept in memory while many rows come in at random places of the indexes.
_CACHE = 64 * 1024
#: Seconds to wait for a program that writes to the file.
_BUSY = 5.0

Progress = Callable[[int], None]


class FileRefused(Exception):
    """Nothing is imported from this file; the message names it and says why."""


def merge_file(
    matches: MatchSet, path: Path, *, other_tables: bool = False, progress: Progress = lambda _: None
) -> Merged:
    """Add every match of a database, ours or the original's. `progress` hears how many rows were looked at.

    Raises FileRefused, and sqlite3.Error when this node's own database cannot be written.
    """
    total = Merged()
    with _source(path, other_tables) as source:
        try:
            there = columns(source, "match_history")
            if {"match_hash", "ended_at_ms"} <= set(there):
                total += _merge_ours(matches, path, source, progress)
                rest = "match_hash IS NULL"
            else:
                rest = "1"
            wanted = match_rows.select(there)
            rows = source.execute(f"SELECT {wanted} FROM match_history WHERE {rest} ORDER BY rowid")  # noqa: S608
            total += _merge_rows(matches, rows, str(path), progress)
            total += _merge_rest(matches, source, path)
        except sqlite3.Error as error:
            raise FileRefused(f"{path}: {error}") from error
    return total


def rows_in(path: Path, *, other_tables: bool = False) -> int:
    """How many matches a database has. Raises FileRefused."""
    with _source(path, other_tables) as source:
        try:
            ((number,),) = source.execute("SELECT count(*) FROM match_history")
        except sqlite3.Error as error:
            raise FileRefused(f"{path}: {error}") from error
        return int(number)


@contextmanager
def _source(path: Path, other_tables: bool) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(_uri(path), uri=True, timeout=_BUSY, isolation_level=None)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA query_only = ON")
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
            db.text_factory = _text
            _look(db, path, other_tables)
            yield db
    except sqlite3.Error as error:
        raise FileRefused(f"{path}: {error}") from error


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def _text(value: bytes) -> str:
    """A text that is none becomes one that no name may be, so its row is refused and not the file."""
    return value.decode("utf-8", "replace")


def _look(db: sqlite3.Connection, path: Path, other_tables: bool) -> None:
    found = [
        (str(kind), str(name), str(sql))
        for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master WHERE type <> 'index'")
    ]
    acting = [f"{kind} {name}" for kind, name, sql in found if kind != "table" or "VIRTUAL" in sql.upper()[:20]]
    if acting:
        raise FileRefused(f"{path}: it holds {', '.join(acting[:5])}; a database of matches has tables only")
    tables = {name for _, name, _ in found}
    if "match_history" not in tables:
        raise FileRefused(f"{path}: it has no table match_history")
    if "board_type" not in columns(db, "match_history"):
        raise FileRefused(f"{path}: its table match_history has no column board_type")
    foreign = sorted(each for each in tables - ORIGINAL.keys() if not each.startswith(("backbeat_", "sqlite_")))
    if foreign and not other_tables:
        raise FileRefused(
            f"{path}: it holds other tables: {', '.join(foreign[:5])}; to leave them aside: --other-tables"
        )


def _merge_rows(matches: MatchSet, rows: Iterator[match_rows.Row], source: str, progress: Progress) -> Merged:
    total, good, refused, seen = Merged(), list[Match](), list[tuple[str, str]](), 0

    def flush() -> Merged:
        nonlocal good, refused
        merged = matches.merge(good)
        matches.refuse(refused, source)
        merged.refused, merged.reasons = len(refused), Counter(why for why, _ in refused)
        good, refused = [], []
        progress(seen)
        return merged

    for row in rows:
        seen += 1
        try:
            good.append(match_rows.read(row))
        except Refused as error:
            refused.append((str(error), json.dumps(row, default=repr)))
        if len(good) + len(refused) == CHUNK:
            total, seen = total + flush(), 0
    return total + flush()


def _merge_rest(matches: MatchSet, source: sqlite3.Connection, path: Path) -> Merged:
    """Participants' types, and of a database of ours the other contents and the exclusions."""
    told: dict[str, list[Any]] = {"matches": [], "exclusions": [], "participants": []}
    there = {name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for kind, table, wanted in (
        ("participants", "participants", "participant_id, participant_type"),
        ("exclusions", "backbeat_exclusions", "match_id, reason"),
    ):
        if table in there and set(wanted.split(", ")) <= set(columns(source, table)):
            rows = source.execute(f"SELECT {wanted} FROM {table}")  # noqa: S608
            told[kind] = [list(row) for row in rows if all(isinstance(each, str) for each in row)]
    if "backbeat_variants" in there:
        for (text,) in source.execute("SELECT content FROM backbeat_variants"):
            try:
                told["matches"].append(json.loads(text))
            except (TypeError, ValueError, RecursionError):
                told["matches"].append(str(text)[:200])
    return matches.take(told, str(path))


# a database of ours ----------------------------------------------------------------------------------------

#: What SQLite can tell of a row: its numbers are of the types and sizes that the door lets in.
_SOUND = f"""typeof(s.ended_at_ms) = 'integer' AND s.ended_at_ms BETWEEN 0 AND {YEAR_2100 - 1}
    AND typeof(s.num_players) = 'integer' AND length(s.participant_ids) < 4000 AND length(s.rankings) < 100
    AND (s.game_length IS NULL OR typeof(s.game_length) = 'integer' AND s.game_length BETWEEN 0 AND {MAX_LENGTH})
    AND (s.duration_sec IS NULL OR s.duration_sec BETWEEN 0 AND {MAX_DURATION // 1000})
    AND (s.metadata IS NULL OR typeof(s.metadata) = 'text' AND length(s.metadata) <= {MAX_METADATA})"""
_DURATION = "CAST(round(s.duration_sec * 1000) AS INTEGER)"
#: The canonical text, if nothing in it needs escaping; else the hash of it will not do.
_TEXT = f"""CAST('["' || s.game_id || '","' || s.board_type || '_' || s.num_players || 'p",' || s.participant_ids
    || ',' || s.rankings || ',' || s.ended_at_ms || ',' || coalesce(s.game_length, 'null') || ','
    || coalesce({_DURATION}, 'null') || ',' || coalesce('"' || s.tournament_id || '"', 'null') || ','
    || coalesce('"' || s.worker || '"', 'null') || ',' || coalesce(json_quote(s.metadata), 'null') || ']' AS BLOB)"""
#: Who played and how it ended, by every column that says so, in lines.
_SHAPE = """s.board_type || char(10) || s.num_players || char(10) || s.participant_ids || char(10) || s.rankings
    || char(10) || coalesce(s.winner, '') || char(10) || s.participant_a || char(10) || s.participant_b"""
_LOOK = f"""SELECT s.rowid, s.game_id, s.match_hash, s.ended_at_ms, s.metadata, s.tournament_id, s.worker, m.match_hash,
    {_SHAPE}, CASE WHEN {_SOUND} THEN {_TEXT} END
    FROM source.match_history s LEFT JOIN main.match_history m ON m.game_id = s.game_id AND m.match_hash IS NOT NULL
    WHERE s.rowid > ? AND s.rowid <= ? AND s.match_hash IS NOT NULL ORDER BY s.rowid"""  # noqa: S608
#: What follows from other columns is not believed but made.
_MADE = {"timestamp": "s.ended_at_ms / 1000.0", "duration_sec": f"{_DURATION} / 1000.0"} | {
    name: f"CAST(s.{name} AS TEXT)"  # it may be the same bytes as a blob
    for name in ("participant_a", "participant_b", "participant_ids", "rankings", "winner", "board_type")
}


def _merge_ours(matches: MatchSet, path: Path, source: sqlite3.Connection, progress: Progress) -> Merged:
    db, total = matches.db, Merged()
    missing = [name for name in match_rows.WRITTEN if name not in columns(source, "match_history")]
    if missing or (path.exists() and _is_same(db, path)):
        why = f"its table match_history lacks {', '.join(missing)}" if missing else "it is this node's own"
        raise FileRefused(f"{path}: {why}")
    wanted = match_rows.select(columns(source, "match_history"))
    db.execute(f"PRAGMA cache_size = -{_CACHE}")
    db.execute("ATTACH ? AS source", (_uri(path),))
    try:
        ((last,),) = source.execute("SELECT coalesce(max(rowid), 0) FROM match_history")
        shapes: dict[str, list[Any]] = {}
        for first, edge in _chunks(source, last):
            with writing(db):
                merged, done = _merge_chunk(matches, first, edge, shapes)
            left = (
                source.execute(
                    f"SELECT rowid, {wanted} FROM match_history WHERE rowid > ? AND rowid <= ?"  # noqa: S608
                    " AND match_hash IS NOT NULL ORDER BY rowid",
                    (first, edge),
                )
                if done is not None
                else ()
            )
            rows = (tuple(row) for row_id, *row in left if row_id not in (done or ()))
            total += merged + _merge_rows(matches, rows, str(path), lambda _: None)
            progress(edge - first)
    finally:
        db.execute("DETACH source")
    return total


def _chunks(source: sqlite3.Connection, last: int) -> Iterator[tuple[int, int]]:
    """Row ids in steps that hold ROWS at most, over gaps of any size."""
    first = 0
    while first < last:
        query = "SELECT max(rowid) FROM (SELECT rowid FROM match_history WHERE rowid > ? ORDER BY rowid LIMIT ?)"
        ((edge,),) = source.execute(query, (first, ROWS))
        yield first, edge
        first = edge


def _merge_chunk(
    matches: MatchSet, first: int, edge: int, shapes: dict[str, list[Any]]
) -> tuple[Merged, set[int] | None]:
    """Within a transaction: what is sound and new or known. Which rows that were; None: all of them."""
    db, change = matches.db, Change()
    excluded = matches.all_excluded()
    hours: dict[int, list[bytes]] = {}
    counted: list[list[Any]] = []
    new: list[int] = []
    known: list[int] = []
    looked_at = [0]
    for row_id, match_id, stored, ended, there, found in _sound(db.execute(_LOOK, (first, edge)), shapes, looked_at):
        if there is not None:
            if there == stored:
                known.append(row_id)
            continue
        new.append(row_id)
        hours.setdefault(ended // HOUR, []).append(stored)
        if match_id in excluded:
            continue
        if not found[1]:
            counted.append(found)
            found[2] = found[3] = ended
        found[1] += 1
        if ended > found[2]:
            found[2] = ended
        elif ended < found[3]:
            found[3] = ended
    whole = len(new) == looked_at[0]
    _copy(db, first, edge, None if whole else new)
    for hour, hashes in hours.items():
        change.many(hour, len(hashes), xor_all(hashes))
    change.matches = len(new)
    for each in counted:
        change.counts(*each)
        each[1] = 0
    change.write(db)
    return Merged(merged=len(new), known=len(known)), None if whole else {*new, *known}


def _sound(
    rows: Iterable[tuple[Any, ...]], shapes: dict[str, list[Any]], looked_at: list[int]
) -> Iterator[tuple[Any, ...]]:
    """The rows whose hash is that of their content, and whose every part passes the door; each id once.

    Adds to `looked_at` how many rows there were.
    A shape is a list: the result, or None, and how often it was counted, between which instants.
    """
    seen: set[str] = set()
    origins: set[tuple[Any, Any]] = set()
    number = 0
    for row_id, match_id, stored, ended, metadata, tournament, worker, there, shape, text in rows:
        number += 1
        if (found := shapes.get(shape)) is None:
            found = shapes[shape] = [_shape(shape), 0, 0, 0]
        if found[0] is None or text is None or blake2b(text, digest_size=16).digest() != stored or match_id in seen:
            continue
        if not is_id(match_id) or (metadata is not None and not _is_canonical(metadata)):
            continue
        if (tournament, worker) not in origins:
            if not _are_names(tournament, worker):
                continue
            origins.add((tournament, worker))
        seen.add(match_id)
        yield row_id, match_id, stored, ended, there, found
    looked_at[0] += number


def _copy(db: sqlite3.Connection, first: int, edge: int, chosen: Sequence[int] | None) -> None:
    named = ", ".join(match_rows.WRITTEN)
    values = ", ".join(_MADE.get(name, f"s.{name}") for name in match_rows.WRITTEN)
    insert = f"INSERT INTO main.match_history ({named}) SELECT {values} FROM source.match_history s WHERE "  # noqa: S608
    if chosen is None:
        db.execute(f"{insert} s.rowid > ? AND s.rowid <= ? AND s.match_hash IS NOT NULL", (first, edge))
    elif chosen:
        db.execute(f"{insert} s.rowid IN (SELECT value FROM json_each(?))", (json.dumps(chosen),))  # noqa: S608


def _shape(shape: Any) -> Any:
    """Who played and how it ended, if every column that says so says it in its one form."""
    try:
        board, players, ids, rankings, *told = shape.split("\n")
        found = result(board, int(players), names(json.loads(ids)), places(json.loads(rankings)))
    except (Refused, AttributeError, TypeError, ValueError, RecursionError):
        return None
    plain = (found.participants_text, found.ranks_text) == (ids, rankings)
    return found if plain and told == [found.winner or "", *found.participants[:2]] else None


def _are_names(tournament: Any, worker: Any) -> bool:
    return all(
        each is None or (isinstance(each, str) and is_source(each) and each.isascii()) for each in (tournament, worker)
    )


def _is_canonical(metadata: str) -> bool:
    try:
        return metadata_text(metadata) == metadata
    except Refused:
        return False


def _is_same(db: sqlite3.Connection, path: Path) -> bool:
    own = [file for _, name, file in db.execute("PRAGMA database_list") if name == "main"]
    return bool(own and own[0] and Path(own[0]).samefile(path))
