"""The replicated set of matches: it only grows, by union, and is the same on every node that knows the same.

A match is known by its id and the hash of its content. Where two contents claim one id, both are kept and counted,
and the one with the smaller hash is in effect, on every node alike. Exclusions (id and reason) take a match out of
the ratings, not out of the set. Of a participant's types the most cautious one holds: whoever is once said to be
no model is none.

Every change is one transaction: rows, digest, sums by hour and counted results together, so a process may be
killed anywhere. Everything may be told twice, in any order.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleet import match_rows
from fleet.match import MAX_NAME, Match, Refused, compact, from_wire, hash_of
from fleet.match_change import EXCLUSIONS, PARTICIPANTS, Change, exclusion_hash, participant_hash
from fleet.match_store import columns, insert, writing

MODEL = "model"
#: Matches that one transaction takes: a tenth of a second in which others wait.
CHUNK = 5_000
#: Refused rows that are kept in the file; further ones are only counted.
KEPT_REFUSED = 10_000
_MAX_REASON = 500


@dataclass
class Merged:
    """What came of what was told. `reasons` of the refused ones, and how often each."""

    merged: int = 0
    known: int = 0
    conflicting: int = 0
    refused: int = 0
    exclusions: int = 0
    participants: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> bool:
        return bool(self.merged or self.conflicting or self.exclusions or self.participants)

    def __add__(self, other: Merged) -> Merged:
        return Merged(
            self.merged + other.merged,
            self.known + other.known,
            self.conflicting + other.conflicting,
            self.refused + other.refused,
            self.exclusions + other.exclusions,
            self.participants + other.participants,
            self.reasons + other.reasons,
        )


@dataclass(frozen=True)
class State:
    """The set in short. `matches` are those in effect, `elements` all of which `digest` is the sum."""

    matches: int
    elements: int
    digest: int
    conflicts: int
    refused: int

    @property
    def hex(self) -> str:
        return f"{self.digest:032x}"


class MatchSet:
    """The set in one open database. Not for two threads at once."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self._insert = insert(db)

    def state(self) -> State:
        row = self.db.execute("SELECT matches, elements, digest, conflicts, refused FROM backbeat_set").fetchone()
        return State(row[0], row[1], int.from_bytes(row[2], "big"), row[3], row[4])

    # what comes in --------------------------------------------------------------------------------------

    def merge(self, matches: Iterable[Match]) -> Merged:
        """Add matches that passed the door; a transaction for each CHUNK."""
        total, chunk = Merged(), []
        for match in matches:
            chunk.append(match)
            if len(chunk) == CHUNK:
                total, chunk = total + self._merge(chunk), []
        return total + self._merge(chunk) if chunk else total

    def take(self, bundle: Mapping[str, Any], source: str) -> Merged:
        """Add what another node sent: lists of matches, exclusions and participants. What is none is refused."""
        good: list[Match] = []
        refused: list[tuple[str, str]] = []
        for parts in _list(bundle.get("matches")):
            try:
                good.append(from_wire(parts))
            except Refused as error:
                refused.append((str(error), compact(parts)))
        pairs: dict[str, list[tuple[str, str]]] = {"exclusions": [], "participants": []}
        for kind, told in pairs.items():
            for parts in _list(bundle.get(kind)):
                try:
                    told.append(_pair(parts))
                except Refused as error:
                    refused.append((str(error), compact(parts)))
        total = self.merge(good)
        total.exclusions = self.exclude(pairs["exclusions"])
        total.participants = self.tell_types(_cautious(pairs["participants"]))
        total.refused, total.reasons = len(refused), Counter(why for why, _ in refused)
        self.refuse(refused, source)
        return total

    def refuse(self, refused: Sequence[tuple[str, str]], source: str) -> None:
        """Set aside what is no match: (why, what it said)."""
        if refused:
            with writing(self.db):
                self._refuse(refused, source)

    def exclude(self, pairs: Iterable[tuple[str, str]]) -> int:
        """Take matches out of the ratings: (id, reason). How many pairs were new. A match may still be unknown."""
        change, new = Change(), 0
        told = sorted(set(pairs))
        if not told:
            return 0
        with writing(self.db):
            for match_id, reason in told:
                earlier = self._excluded([match_id])
                value = exclusion_hash(match_id, reason)
                row = (match_id, reason, value)
                if not self.db.execute("INSERT OR IGNORE INTO backbeat_exclusions VALUES (?, ?, ?)", row).rowcount:
                    continue
                new += 1
                change.element(EXCLUSIONS, int.from_bytes(value, "big"))
                if not earlier and (match := self.find(match_id)) is not None:
                    change.count(match, -1)
            change.write(self.db)
        return new

    def tell_types(self, kinds: Mapping[str, str]) -> int:
        """Say of participants what they are; how many are something else now."""
        news = {name: kind for name, kind in kinds.items() if kind and kind != MODEL}
        if not news or not self._new_types(news):
            return 0
        with writing(self.db):
            return self._tell_types(news)

    # what the operator is told --------------------------------------------------------------------------

    def is_news(self, what: str, number: int) -> bool:
        """Whether a number has grown since this was asked last."""
        row = self.db.execute("SELECT number FROM backbeat_told WHERE what = ?", (what,)).fetchone()
        if number <= (0 if row is None else row[0]):
            return False
        self.db.execute("INSERT OR REPLACE INTO backbeat_told VALUES (?, ?)", (what, number))
        return True

    def refusals(self, most: int = 5) -> list[tuple[str, int]]:
        """The most frequent reasons for which something was set aside, of what is kept."""
        query = "SELECT reason, count(*) FROM backbeat_set_aside GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?"
        return self.db.execute(query, (most,)).fetchall()

    # what is written here by others ---------------------------------------------------------------------

    def pending(self) -> bool:
        """Whether another program has appended rows that are not adopted yet."""
        return self.db.execute("SELECT 1 FROM match_history WHERE match_hash IS NULL LIMIT 1").fetchone() is not None

    def adopt(self, source: str = "rows of this node") -> Merged:
        """Take in the rows that jobs and other programs appended. Rows that are no match are set aside."""
        total = Merged()
        if not self.pending():
            return total
        typed = self.db.execute("SELECT participant_id, participant_type FROM participants")
        told = (row for row in typed if all(isinstance(each, str) for each in row) and _is_pair(*row))
        total.participants = self.tell_types(_cautious(told))
        wanted = match_rows.select(columns(self.db, "match_history"))
        while self.pending():
            with writing(self.db):
                rows = self.db.execute(
                    f"SELECT rowid, {wanted} FROM match_history WHERE match_hash IS NULL ORDER BY rowid LIMIT {CHUNK}"  # noqa: S608
                ).fetchall()
                total += self._adopt(rows, source)
        return total

    def find(self, match_id: str) -> Match | None:
        """The match of that id which is in effect."""
        wanted = match_rows.select(columns(self.db, "match_history"))
        row = self.db.execute(
            f"SELECT {wanted} FROM match_history WHERE game_id = ? AND match_hash IS NOT NULL",  # noqa: S608
            (match_id,),
        ).fetchone()
        return None if row is None else match_rows.read(row)

    def all_excluded(self) -> set[str]:
        """The ids of matches that do not count."""
        return {each for (each,) in self.db.execute("SELECT match_id FROM backbeat_exclusions")}

    # in transactions ------------------------------------------------------------------------------------

    def _merge(self, chunk: Sequence[Match]) -> Merged:
        with writing(self.db):
            total, change, new = Merged(), Change(), dict[str, Match]()
            known = self._known([match.id for match in chunk])
            for match in chunk:
                there = known.get(match.id)
                if there is None:
                    known[match.id] = match.hash
                    new[match.id] = match
                elif there == match.hash:
                    total.known += 1
                elif match.id in new:
                    # both are new: the one in effect goes in, the other one is the variant
                    kept, lost = sorted((new[match.id], match), key=lambda each: each.hash)
                    new[match.id], known[match.id] = kept, kept.hash
                    self._vary(lost, change, total)
                elif self._conflict(match, change, total):
                    known[match.id] = match.hash
            self._insert_new(new.values(), change)
            total.merged += len(new)
            change.write(self.db)
        return total

    def _insert_new(self, new: Iterable[Match], change: Change) -> None:
        self._enter(new, change)
        self.db.executemany(self._insert, map(match_rows.written, new))

    def _enter(self, new: Iterable[Match], change: Change) -> None:
        excluded = self.all_excluded()
        for match in new:
            change.matches += 1
            change.element(match.ended, match.number)
            if match.id not in excluded:
                change.count(match)

    def _adopt(self, rows: Sequence[tuple[Any, ...]], source: str) -> Merged:
        total, change = Merged(), Change()
        found: list[tuple[int, Match]] = []
        refused: list[tuple[str, str]] = []
        gone: list[tuple[int]] = []
        for row_id, *row in rows:
            try:
                found.append((row_id, match_rows.read(tuple(row))))
            except Refused as error:
                refused.append((str(error), _shown(row)))
                gone.append((row_id,))
        new: dict[str, tuple[int, Match]] = {}
        known = self._known([match.id for _, match in found])
        for row_id, match in found:
            there = known.get(match.id)
            if there is None:
                known[match.id], new[match.id] = match.hash, (row_id, match)
                continue
            gone.append((row_id,))
            if there == match.hash:
                total.known += 1
            elif match.id in new:
                kept, lost = sorted((new[match.id][1], match), key=lambda each: each.hash)
                new[match.id], known[match.id] = (new[match.id][0], kept), kept.hash
                self._vary(lost, change, total)
            elif self._conflict(match, change, total):
                known[match.id] = match.hash
        self._enter([match for _, match in new.values()], change)
        self.db.executemany("DELETE FROM match_history WHERE rowid = ?", gone)
        assignments = ", ".join(f"{name} = ?" for name in match_rows.WRITTEN)
        self.db.executemany(
            f"UPDATE match_history SET {assignments} WHERE rowid = ?",  # noqa: S608
            [(*match_rows.written(match), row_id) for row_id, match in new.values()],
        )
        change.write(self.db)
        self._refuse(refused, source)
        total.merged, total.refused = len(new), len(refused)
        total.reasons = Counter(why for why, _ in refused)
        return total

    def _conflict(self, match: Match, change: Change, total: Merged) -> bool:
        """Another content for an id that is stored. Whether it is in effect now."""
        there = self.find(match.id)
        if there is None or match.hash > there.hash:
            self._vary(match, change, total)
            return False
        self._vary(there, change, total, stored=True)
        change.element(match.ended, match.number)
        if not self._excluded([match.id]):
            change.count(there, -1)
            change.count(match)
        assignments = ", ".join(f"{name} = ?" for name in match_rows.WRITTEN)
        self.db.execute(
            f"UPDATE match_history SET {assignments} WHERE game_id = ? AND match_hash IS NOT NULL",  # noqa: S608
            (*match_rows.written(match), match.id),
        )
        return True

    def _vary(self, match: Match, change: Change, total: Merged, *, stored: bool = False) -> None:
        """Keep a content that is not in effect; one that is `stored` is an element already."""
        row = (match.id, match.hash, match.ended, match.text)
        if not self.db.execute("INSERT OR IGNORE INTO backbeat_variants VALUES (?, ?, ?, ?)", row).rowcount:
            total.known += 1
            return
        total.conflicting += 1
        change.conflicts += 1
        if not stored:
            change.element(match.ended, match.number)

    def _known(self, ids: Sequence[str]) -> dict[str, bytes]:
        query = (
            "SELECT game_id, match_hash FROM match_history WHERE match_hash IS NOT NULL"
            " AND game_id IN (SELECT value FROM json_each(?))"
        )
        return dict(self.db.execute(query, (compact(list(ids)),)))

    def _excluded(self, ids: Sequence[str]) -> set[str]:
        query = "SELECT match_id FROM backbeat_exclusions WHERE match_id IN (SELECT value FROM json_each(?))"
        return {each for (each,) in self.db.execute(query, (compact(list(ids)),))}

    def _refuse(self, refused: Sequence[tuple[str, str]], source: str) -> None:
        if not refused:
            return
        ((count,),) = self.db.execute("SELECT count(*) FROM backbeat_set_aside")
        now, room = time.time(), max(0, KEPT_REFUSED - count)
        rows = [(hash_of(f"{why} {what}"), now, source, why, what[:65_536]) for why, what in refused[:room]]
        self.db.executemany("INSERT OR IGNORE INTO backbeat_set_aside VALUES (?, ?, ?, ?, ?)", rows)
        self.db.execute("UPDATE backbeat_set SET refused = refused + ?", (len(refused),))

    def _types(self, names: Iterable[str]) -> dict[str, str]:
        query = (
            "SELECT participant_id, type FROM backbeat_participants"
            " WHERE participant_id IN (SELECT value FROM json_each(?))"
        )
        return dict(self.db.execute(query, (compact(list(names)),)))

    def _new_types(self, news: Mapping[str, str]) -> dict[str, str]:
        known = self._types(news)
        return {name: kind for name, kind in news.items() if name not in known or kind < known[name]}

    def _tell_types(self, news: Mapping[str, str]) -> int:
        change, known = Change(), self._types(news)
        told = self._new_types(news)
        for name, kind in told.items():
            if name in known:
                change.element(PARTICIPANTS, int.from_bytes(participant_hash(name, known[name]), "big"), -1)
            value = participant_hash(name, kind)
            change.element(PARTICIPANTS, int.from_bytes(value, "big"))
            self.db.execute("INSERT OR REPLACE INTO backbeat_participants VALUES (?, ?, ?)", (name, kind, value))
            if not self.db.execute(
                "UPDATE participants SET participant_type = ? WHERE participant_id = ?", (kind, name)
            ).rowcount:
                self.db.execute(
                    "INSERT INTO participants (participant_id, participant_type) VALUES (?, ?)", (name, kind)
                )
        change.write(self.db)
        return len(told)


def _cautious(told: Iterable[tuple[str, str]]) -> dict[str, str]:
    """One type for each, of a list in which somebody may have several."""
    return dict(sorted((pair for pair in told if pair[1] != MODEL), reverse=True))


def _pair(parts: Any) -> tuple[str, str]:
    """(id, reason) or (participant, type). Raises Refused."""
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(each, str) for each in parts)):
        raise Refused(f"{str(parts)[:100]} is no pair of texts")
    if not _is_pair(*parts):
        raise Refused(f"{str(parts)[:100]}: 1 to {MAX_NAME} printable characters, and 1 to {_MAX_REASON}")
    return parts[0], parts[1]


def _is_pair(one: str, other: str) -> bool:
    return 1 <= len(one) <= MAX_NAME and 1 <= len(other) <= _MAX_REASON and one.isprintable() and other.isprintable()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(row: Sequence[Any]) -> str:
    named = dict(zip(match_rows.COLUMNS, row, strict=True))
    return json.dumps({name: value for name, value in named.items() if value is not None}, default=repr)
