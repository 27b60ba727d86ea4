"""A node's own matches: opened, adopted, rated, and said in short.

What several processes of a node do here at once, they do in short transactions; whatever is killed and
whenever, the file holds whole matches and true sums.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fleet.match_ratings import NO_RULES, settled
from fleet.match_set import MatchSet
from fleet.match_store import FILE, connect, is_corrupt, is_foreign, mend, set_aside

log = logging.getLogger("backbeat.matches")


class MatchesUnreadable(Exception):
    """The file cannot be used; the message names it and the reason."""


@contextmanager
def opened(path: Path) -> Iterator[MatchSet]:
    """The matches in a file, which is made when it is missing; it is closed behind.

    A corrupt file is set aside and a new one made, which the other nodes fill. Raises MatchesUnreadable,
    also when the damage shows only later: the next one to open finds the new file.
    """
    try:
        db = _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise MatchesUnreadable(f"{path}: {error}") from error
    with closing(db):
        try:
            yield MatchSet(db)
        except sqlite3.Error as error:
            if is_corrupt(error):
                db.close()
                _set_aside(path, error)
            raise MatchesUnreadable(f"{path}: {error}") from error


def holdings(data: Path) -> Mapping[str, Any]:
    """What a node holds of matches, for the registry. Rows that jobs have appended since are adopted first.

    `settled` is the mark of the rules by which its ratings follow from just these matches, else empty. Others
    stand there only when they are not 0: `conflicts`, `refused` rows, and `corrupt` files that were set aside.
    """
    path = data / FILE
    if not path.exists() and not corrupt_files(data):
        return {"count": 0, "digest": "0" * 32, "settled": NO_RULES}
    with opened(path) as matches:
        adopted = matches.adopt()
        if adopted.changed or adopted.refused:
            log.info("%d matches taken in from jobs, %d refused", adopted.merged, adopted.refused)
        state = matches.state()
        said: dict[str, Any] = {"count": state.matches, "digest": state.hex, "settled": settled(matches.db)}
        more = {"conflicts": state.conflicts, "refused": state.refused, "corrupt": corrupt_files(data)}
        return said | {name: number for name, number in more.items() if number}


def corrupt_files(data: Path) -> int:
    """How many files were set aside; their -wal and -shm do not count."""
    return len([each for each in data.glob(f"{FILE}.corrupt-*") if each.suffix.rpartition("-")[2].isdecimal()])


def _connect(path: Path) -> sqlite3.Connection:
    mend(path)
    if is_foreign(path):
        _set_aside(path, "it is no database")
    try:
        return connect(path)
    except sqlite3.Error as error:
        if not is_corrupt(error):
            raise
        _set_aside(path, error)
        return connect(path)


def _set_aside(path: Path, why: object) -> None:
    if (target := set_aside(path)) is not None:
        log.error("%s is damaged (%s): it is kept as %s, and the other nodes fill a new one", path, why, target.name)
