"""What a transaction changes in the set of matches, summed up and then written once.

The set's elements are matches, the losing variants of conflicting ones, exclusions and participants that are
no models. Its digest is the XOR of the elements' hashes: it does not depend on their order, one more costs one
operation, and taking a losing one out is the same as putting it in. XOR would be weak against somebody who
chooses elements to cancel each other, and no sum is strong there; nodes of one cluster trust each other, and by
chance two different sets share 128 bits never. An element is in the set once, which unique keys see to.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet.match import Match, Result, compact, hash_of

HOUR = 3_600_000  # ms: elements are summed by the hour, so that two sets are compared without reading them
#: Where exclusions and participants stand in the order of elements: before every match.
EXCLUSIONS, PARTICIPANTS = -1, -2
DIGEST = 16  # bytes


def exclusion_hash(match_id: str, reason: str) -> bytes:
    return hash_of(compact(["exclusion", match_id, reason]))


def participant_hash(participant: str, kind: str) -> bytes:
    return hash_of(compact(["participant", participant, kind]))


def xor_all(hashes: Sequence[bytes]) -> int:
    """The XOR of hashes, as a number."""
    if not hashes:
        return 0
    import numpy as np  # takes memory that only nodes with matches need

    words = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, DIGEST // 8)
    return int.from_bytes(np.bitwise_xor.reduce(words, axis=0).tobytes(), "big")


@dataclass
class Change:
    """Sums of what is put in (sign 1) and taken out (sign -1)."""

    elements: int = 0
    matches: int = 0
    digest: int = 0
    conflicts: int = 0
    buckets: dict[int, list[int]] = field(default_factory=dict)
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    configs: dict[str, list[int]] = field(default_factory=dict)

    def element(self, at: int, number: int, sign: int = 1) -> None:
        """An element of the set, at its place in the order, by the number of its hash."""
        self.elements += sign
        self.digest ^= number
        bucket = self.buckets.setdefault(at // HOUR, [0, 0])
        bucket[0] += sign
        bucket[1] ^= number

    def many(self, hour: int, number: int, digest: int) -> None:
        """So many elements of one hour, by the XOR of their hashes."""
        self.element(hour * HOUR, digest, number)

    def count(self, match: Match, sign: int = 1) -> None:
        """A match that counts for ratings, or no longer does."""
        self.counts(match.result, sign, match.ended, match.ended)

    def counts(self, found: Result, number: int, last: int, first: int) -> None:
        """So many matches with one result, which ended between `first` and `last`."""
        self.outcomes[(found.config, *found.counted)] += number
        config = self.configs.setdefault(found.config, [0, last, first])
        config[0] += number
        config[1:] = max(config[1], last), min(config[2], first)

    def write(self, db: sqlite3.Connection) -> None:
        """Within the transaction that changes the elements themselves."""
        if not (self.buckets or self.configs):
            return
        self._write_buckets(db)
        db.executemany(
            "INSERT INTO backbeat_outcomes VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET games = games + excluded.games",
            [(*key, games) for key, games in self.outcomes.items() if games],
        )
        if min(self.outcomes.values(), default=0) < 0:
            db.execute("DELETE FROM backbeat_outcomes WHERE games = 0")
        db.executemany(
            "INSERT INTO backbeat_configs VALUES (?, ?, 1, 0, '', ?, ?) ON CONFLICT DO UPDATE SET"
            " matches = matches + excluded.matches, generation = generation + 1,"
            " last_ms = max(last_ms, excluded.last_ms), changed_ms = min(changed_ms, excluded.changed_ms)",
            [(config, *row) for config, row in self.configs.items()],
        )
        ((digest,),) = db.execute("SELECT digest FROM backbeat_set")
        db.execute(
            "UPDATE backbeat_set SET matches = matches + ?, elements = elements + ?, digest = ?,"
            " conflicts = conflicts + ?",
            (self.matches, self.elements, _xor(digest, self.digest), self.conflicts),
        )

    def _write_buckets(self, db: sqlite3.Connection) -> None:
        hours = compact(list(self.buckets))
        stored = dict.fromkeys(self.buckets, bytes(DIGEST)) | dict(
            db.execute(
                "SELECT hour, digest FROM backbeat_buckets WHERE hour IN (SELECT value FROM json_each(?))", (hours,)
            )
        )
        db.executemany(
            "INSERT INTO backbeat_buckets VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
            " elements = elements + excluded.elements, digest = excluded.digest",
            [(hour, count, _xor(stored[hour], digest)) for hour, (count, digest) in self.buckets.items()],
        )
        if any(count < 0 for count, _ in self.buckets.values()):
            db.execute("DELETE FROM backbeat_buckets WHERE elements = 0")


def _xor(stored: bytes, change: int) -> bytes:
    return (int.from_bytes(stored, "big") ^ change).to_bytes(DIGEST, "big")
