"""Games on their way: what a node has of them, and whether all of them arrived.

Jobs append to `games.db` of their node. From there a game goes into a shard in the store's inbox, and from the
inbox into `gathered.db` of the central node. `game_ledger` knows where each game of a node stands, `game_export`
makes shards, `game_ingest` takes them in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fleet.configs import BoardConfig

FILE = "games.db"  # in a node's data directory: the games that jobs played here
GATHERED = "gathered.db"  # in the central node's data directory: everybody's games

#: The columns of a game, as jobs write them and as it travels; a file may have more.
COLUMNS = (
    "game_id", "config", "board_type", "num_players", "players", "moves", "result",
    "winner", "seed", "job_id", "node_id", "started_at", "finished_at",
)  # fmt: skip

BUSY_SECONDS = 10.0

#: Games looked at where nobody counts them.
COUNTED = 5_000

#: Of one node, by board configuration: how many games are in each state, and `produced`, how many there ever were.
Account = Mapping[str, Mapping[str, int]]

#: The states of a game on its node: `waiting` for its shard to be in the store, `sent`, `gathered`, `refused` here
#: or by the central node, and `gone`: somebody else deleted it before it was exported.
STATES = ("waiting", "sent", "gathered", "refused", "gone")


class GamesUnreadable(Exception):
    """A file of games cannot be read or written. The message names the file and the reason."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing. Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0, isolation_level=None)


def holdings(data: Path) -> dict[str, Mapping[str, int]]:
    """How many games of each configuration here are not exported yet (`new`), are in the store without a word from
    the central node (`sent`), and are gathered here (`gathered`).

    All are counters, except of a `games.db` that was never exported from: that is counted, and above COUNTED games
    estimated from so many of the newest. Raises GamesUnreadable.
    """
    rows = _counted(data / FILE, "SELECT config, waiting, sent FROM backbeat_configs", "backbeat_configs")
    return {
        "new": {config: waiting for config, (waiting, *_) in rows.items() if waiting},
        "sent": {config: sent for config, (_, *more) in rows.items() for sent in more if sent},
        "gathered": {
            config: games
            for config, (games, *_) in _counted(
                data / GATHERED, "SELECT config, SUM(games) FROM gathered GROUP BY config", "gathered"
            ).items()
            if games
        },
    }


def number_of(state: str, held: Mapping[str, Any]) -> int:
    """How many games there are in a state, such as `new`, in holdings that another node reported; what is no number
    counts nothing."""
    counts = held.get(state, {})
    numbers = counts.values() if isinstance(counts, Mapping) else ()
    return sum(number for number in numbers if type(number) is int and number > 0)


def _counted(path: Path, counters: str, table: str) -> dict[str, list[int]]:
    if not path.exists():
        return {}
    try:
        with closing(open_read_only(path)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if table in tables:
                rows = db.execute(counters).fetchall()
            elif "games" in tables:
                rows = _estimated(db)
            else:
                rows = []
    except sqlite3.Error as error:
        raise GamesUnreadable(f"{path}: {error}") from error
    return {config: numbers for config, *numbers in rows if is_config(config)}


def _estimated(db: sqlite3.Connection) -> list[tuple[Any, int]]:
    """Games by configuration, in the time that COUNTED of them take."""
    try:
        (first,), (last,) = (db.execute(f"SELECT {each}(rowid) FROM games").fetchone() for each in ("MIN", "MAX"))  # noqa: S608
    except sqlite3.OperationalError:  # a table without: there is no newest
        return db.execute("SELECT config, COUNT(*) FROM games GROUP BY config").fetchall()
    if first is None:
        return []
    rows = db.execute(
        "SELECT config, COUNT(*) FROM games NOT INDEXED WHERE rowid > ? GROUP BY config",  # but for its rowid
        (last - COUNTED,),
    ).fetchall()
    share = max(1.0, (last - first + 1) / COUNTED)
    return [(config, round(number * share)) for config, number in rows]


def is_config(name: Any) -> bool:
    """Whether this is the name of a board configuration."""
    try:
        BoardConfig.parse(name)
    except (TypeError, ValueError):
        return False
    return True


def unaccounted(node: Account, gathered: Mapping[str, int]) -> dict[str, int]:
    """The conservation check: by configuration, how many games of a node are in none of its states, or are gone
    from where it was told that they had arrived.

    `gathered` is what the central node has had of that node, doubles included, under all the names it had; it is
    asked after the node was, so it can only be ahead. Empty: every game that was produced waits, is on its way, was
    gathered, or was refused.
    """
    missing = {}
    for config, count in node.items():
        lost_here = count.get("produced", 0) - sum(count.get(state, 0) for state in STATES)
        lost_there = count.get("gathered", 0) - gathered.get(config, 0)
        if lost_here or lost_there > 0:
            missing[config] = max(lost_here, 0) + max(lost_there, 0) or lost_here
    return missing
