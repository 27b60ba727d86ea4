"""Ranges of the set in the order (ended_at, id): their counts and digests, how they are split, and what is in them.

Two nodes that differ compare ranges, and look closer only into those that differ; so the cost follows the
difference and not the size (range-based set reconciliation). Hours have sums of their own, so that a range of
months costs no reading of its matches.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fleet import match_rows
from fleet.match import compact
from fleet.match_change import EXCLUSIONS, HOUR, PARTICIPANTS, xor_all
from fleet.match_store import columns

#: Parts of a range that is split.
PARTS = 32
#: Elements of a range that are listed instead of split.
LISTED = 200
#: Bytes of matches in one answer, well below the limit of an answer.
BUNDLE = 384 * 1024

Key = tuple[int, str]
#: Before and behind every element.
FIRST: Key = (-(2**50), "")
LAST: Key = (2**50, "")
#: Behind every name, for it is no printable character.
_LAST_NAME = chr(sys.maxunicode)


def after(key: Key) -> Key:
    """The first place behind one."""
    return key[0], key[1] + "\0"


class Element(NamedTuple):
    """What is in the set, by its place in the order and its hash (hex)."""

    at: int
    id: str
    hash: str

    @property
    def key(self) -> Key:
        return self.at, self.id


class Sum(NamedTuple):
    """A range from `low`, up to but without `high`: how many elements, and the XOR of their hashes."""

    low: Key
    high: Key
    number: int
    digest: int


def total(db: sqlite3.Connection, low: Key, high: Key) -> Sum:
    """The sum of a range: whole hours from their sums, the rest read."""
    first, last = -(-low[0] // HOUR) + (low[1] != "" and low[0] % HOUR == 0), high[0] // HOUR
    if first >= last:
        return _read(db, low, high)
    parts = [_read(db, low, (first * HOUR, "")), _read(db, (last * HOUR, ""), high)]
    rows = _hours(db, first, last)
    digest = parts[0].digest ^ parts[1].digest
    for _, _, each in rows:
        digest ^= int.from_bytes(each, "big")
    return Sum(low, high, parts[0].number + parts[1].number + sum(count for _, count, _ in rows), digest)


def split(db: sqlite3.Connection, low: Key, high: Key) -> list[Sum]:
    """A range in up to PARTS parts of about as many elements each: at full hours, or within a single one."""
    rows = _hours(db, -(-low[0] // HOUR), high[0] // HOUR)
    bounds = [(hour * HOUR, "") for hour in _even(rows)]
    bounds = [bound for bound in bounds if low < bound < high]
    if not bounds:
        keys = [(at, match_id) for at, match_id, _ in _elements(db, low, high)]
        step = max(1, -(-len(keys) // PARTS))
        bounds = [bound for bound in sorted(set(keys[step::step])) if low < bound < high]
    edges = [low, *bounds, high]
    return [total(db, one, other) for one, other in pairwise(edges)]


def listed(db: sqlite3.Connection, low: Key, high: Key, limit: int = -1) -> list[Element]:
    """The elements of a range in order; the first `limit` or a few more, those of one place together."""
    return [Element(at, match_id, each.hex()) for at, match_id, each in _elements(db, low, high, limit)]


def bundle(db: sqlite3.Connection, elements: Sequence[Element]) -> tuple[dict[str, list[Any]], int]:
    """What these elements say, for another node, and how many of them fit into it. Unknown ones are left out."""
    told: dict[str, list[Any]] = {"matches": [], "exclusions": [], "participants": []}
    size = taken = 0
    texts = _texts(db, [each for each in elements if each.at >= 0])
    for each in elements:
        kind, parts = _told(db, each, texts)
        if parts is not None:
            size += len(compact(parts)) + 2
            if size > BUNDLE and taken:
                return told, taken
            told[kind].append(parts)
        taken += 1
    return told, taken


def _told(db: sqlite3.Connection, each: Element, texts: dict[tuple[str, str], str]) -> tuple[str, list[Any] | None]:
    if each.at >= 0:
        text = texts.get((each.id, each.hash))
        return "matches", None if text is None else json.loads(text)
    raw = bytes.fromhex(each.hash)
    if each.at == EXCLUSIONS:
        query = "SELECT match_id, reason FROM backbeat_exclusions WHERE match_id = ? AND hash = ?"
        row = db.execute(query, (each.id, raw)).fetchone()
        return "exclusions", None if row is None else list(row)
    query = "SELECT participant_id, type FROM backbeat_participants WHERE participant_id = ? AND hash = ?"
    row = db.execute(query, (each.id, raw)).fetchone()
    return "participants", None if row is None else list(row)


def _texts(db: sqlite3.Connection, elements: Sequence[Element]) -> dict[tuple[str, str], str]:
    """The canonical texts of matches, those in effect and variants."""
    ids = compact([each.id for each in elements])
    wanted = match_rows.select(columns(db, "match_history"))
    rows = db.execute(
        f"SELECT {wanted} FROM match_history WHERE match_hash IS NOT NULL"  # noqa: S608
        " AND game_id IN (SELECT value FROM json_each(?))",
        (ids,),
    )
    found = {(match.id, match.hash.hex()): match.text for match in map(match_rows.read, rows)}
    variants = db.execute(
        "SELECT match_id, match_hash, content FROM backbeat_variants"
        " WHERE match_id IN (SELECT value FROM json_each(?))",
        (ids,),
    )
    return found | {(match_id, each.hex()): text for match_id, each, text in variants}


def _even(rows: Sequence[tuple[int, int, bytes]]) -> Iterator[int]:
    """Hours at which to split, so that the parts hold about as much; each hour's start but the first."""
    wanted = max(1, sum(count for _, count, _ in rows) // PARTS)
    held = 0
    for (_, count, _), (following, _, _) in pairwise(rows):
        held += count
        if held >= wanted:
            yield following
            held = 0


def _hours(db: sqlite3.Connection, first: int, last: int) -> list[tuple[int, int, bytes]]:
    query = "SELECT hour, elements, digest FROM backbeat_buckets WHERE hour >= ? AND hour < ? ORDER BY hour"
    return db.execute(query, (first, last)).fetchall()


def _elements(db: sqlite3.Connection, low: Key, high: Key, limit: int = -1) -> list[tuple[int, str, bytes]]:
    """Elements in order. SQLite's order of ASCII texts is Python's."""
    rows: list[tuple[int, str, bytes]] = db.execute(
        "SELECT ended_at_ms, game_id, match_hash FROM match_history"
        " WHERE match_hash IS NOT NULL AND (ended_at_ms, game_id) >= (?, ?) AND (ended_at_ms, game_id) < (?, ?)"
        " ORDER BY ended_at_ms, game_id LIMIT ?",
        (*low, *high, limit),
    ).fetchall()
    if len(rows) == limit:
        high = after((rows[-1][0], rows[-1][1]))
    more = db.execute(
        "SELECT ended_at_ms, match_id, match_hash FROM backbeat_variants"
        " WHERE (ended_at_ms, match_id) >= (?, ?) AND (ended_at_ms, match_id) < (?, ?)",
        (*low, *high),
    ).fetchall()
    for at, query in (
        (EXCLUSIONS, "SELECT ?, match_id, hash FROM backbeat_exclusions WHERE match_id >= ? AND match_id < ?"),
        (
            PARTICIPANTS,
            "SELECT ?, participant_id, hash FROM backbeat_participants"
            " WHERE participant_id >= ? AND participant_id < ?",
        ),
    ):
        if low[0] <= at <= high[0]:
            names = low[1] if low[0] == at else "", high[1] if high[0] == at else _LAST_NAME
            more += db.execute(query, (at, *names)).fetchall()
    return sorted([*rows, *more]) if more else rows


def _read(db: sqlite3.Connection, low: Key, high: Key) -> Sum:
    if low >= high:
        return Sum(low, high, 0, 0)
    hashes = [each for _, _, each in _elements(db, low, high)]
    return Sum(low, high, len(hashes), xor_all(hashes))
