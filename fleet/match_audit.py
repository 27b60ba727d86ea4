"""Whether a node's set of matches is what its sums say: everything is computed anew from the rows, and compared."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from fleet import match_rows
from fleet.match import Match, Refused, from_wire
from fleet.match_change import DIGEST, EXCLUSIONS, PARTICIPANTS, Change, exclusion_hash, participant_hash
from fleet.match_set import MatchSet
from fleet.match_store import columns, insert, reading, writing

_MOST = 20  # rows that are named one by one


@dataclass(frozen=True)
class Audit:
    """What was found. `altered` are row ids whose content is no longer that of their hash."""

    matches: int
    digest: str
    problems: tuple[str, ...]
    altered: tuple[int, ...]

    @property
    def sound(self) -> bool:
        return not self.problems


def verify(matches: MatchSet) -> Audit:
    """Look at every row; some seconds for a million. Reads one instant, and changes nothing."""
    with reading(matches.db):
        return _verify(matches)


def repair(matches: MatchSet) -> Audit:
    """Bring the sums in line with the rows, and take rows that were altered in anew, as what they now say.

    What the rows said before is known to the other nodes, so it comes back as the other content of that id.
    Returns what was found before.
    """
    with writing(matches.db):
        found = _verify(matches)
        if not found.sound:
            db = matches.db
            db.executemany(
                "UPDATE match_history SET match_hash = NULL, ended_at_ms = NULL WHERE rowid = ?",
                [(row_id,) for row_id in found.altered],
            )
            _promote(db)
            change, _, _ = _sum(db)
            for table in ("backbeat_buckets", "backbeat_outcomes"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608
            db.execute("UPDATE backbeat_configs SET matches = 0")
            db.execute("UPDATE backbeat_set SET matches = 0, elements = 0, digest = zeroblob(16), conflicts = 0")
            change.write(db)
    matches.adopt("rows that were altered")
    return found


def _promote(db: sqlite3.Connection) -> None:
    """Where no content of an id is in effect any more, of the others the one with the smallest hash is."""
    db.execute(
        "DELETE FROM backbeat_variants WHERE EXISTS (SELECT 1 FROM match_history m WHERE m.game_id = match_id"
        " AND m.match_hash = backbeat_variants.match_hash)"
    )
    orphans = db.execute(
        "SELECT match_id, min(match_hash), content FROM backbeat_variants"
        " WHERE NOT EXISTS (SELECT 1 FROM match_history m WHERE m.game_id = match_id AND m.match_hash IS NOT NULL)"
        " GROUP BY match_id"
    ).fetchall()
    for match_id, stored, content in orphans:
        db.execute(insert(db), match_rows.written(from_wire(json.loads(content))))
        db.execute("DELETE FROM backbeat_variants WHERE match_id = ? AND match_hash = ?", (match_id, stored))


def _verify(matches: MatchSet) -> Audit:
    change, problems, altered = _sum(matches.db)
    state = matches.state()
    for what, stored, true in (
        ("matches", state.matches, change.matches),
        ("elements", state.elements, change.elements),
        ("conflicting contents", state.conflicts, change.conflicts),
        ("digest", state.hex, f"{change.digest:032x}"),
    ):
        if stored != true:
            problems.append(f"{what}: {stored} are noted, {true} are there")
    problems += _differences(
        "hour",
        {hour: (count, each) for hour, count, each in matches.db.execute("SELECT * FROM backbeat_buckets")},
        {hour: (count, each.to_bytes(DIGEST, "big")) for hour, (count, each) in change.buckets.items() if count},
    )
    query = "SELECT config, participants, ranks, games FROM backbeat_outcomes WHERE games <> 0"
    problems += _differences(
        "counted result",
        {tuple(key): games for *key, games in matches.db.execute(query)},
        {key: games for key, games in change.outcomes.items() if games},
    )
    problems += _differences(
        "configuration",
        dict(matches.db.execute("SELECT config, matches FROM backbeat_configs WHERE matches <> 0")),
        {config: count for config, (count, *_) in change.configs.items() if count},
    )
    return Audit(change.matches, f"{change.digest:032x}", tuple(problems), tuple(altered))


def _differences(what: str, stored: dict[object, object], true: dict[object, object]) -> list[str]:
    wrong = sorted(map(str, {key for key in stored.keys() | true.keys() if stored.get(key) != true.get(key)}))
    more = [f"{len(wrong) - _MOST} more of these"] if len(wrong) > _MOST else []
    return [f"{what} {key}: the sum is not that of the rows" for key in wrong[:_MOST]] + more


def _sum(db: sqlite3.Connection) -> tuple[Change, list[str], list[int]]:
    """The sums as they should be, what is wrong with rows, and which rows were altered."""
    change, problems, altered = Change(), list[str](), list[int]()
    excluded = {each for (each,) in db.execute("SELECT match_id FROM backbeat_exclusions")}
    wanted = match_rows.select(columns(db, "match_history"))
    query = f"SELECT rowid, match_hash, {wanted} FROM match_history WHERE match_hash IS NOT NULL"  # noqa: S608
    for row_id, stored, *row in db.execute(query):
        match = _match(tuple(row))
        if match is None or match.hash != stored:
            altered.append(row_id)
            if len(altered) <= _MOST:
                problems.append(f"row {row_id} of match_history: its content is not that of its hash")
            continue
        change.matches += 1
        change.element(match.ended, match.number)
        if match.id not in excluded:
            change.count(match)
    for stored, ended in db.execute("SELECT match_hash, ended_at_ms FROM backbeat_variants"):
        change.conflicts += 1
        change.element(ended, int.from_bytes(stored, "big"))
    for match_id, reason in db.execute("SELECT match_id, reason FROM backbeat_exclusions"):
        change.element(EXCLUSIONS, int.from_bytes(exclusion_hash(match_id, reason), "big"))
    for name, kind in db.execute("SELECT participant_id, type FROM backbeat_participants"):
        change.element(PARTICIPANTS, int.from_bytes(participant_hash(name, kind), "big"))
    return change, problems, altered


def _match(row: match_rows.Row) -> Match | None:
    try:
        return match_rows.read(row)
    except Refused:
        return None
