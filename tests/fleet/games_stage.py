"""Nodes that play games, one central node, and a store in a directory."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.openspiel.store import GameStore, PlayedGame
from fleet.game_export import Bounds, Exported, export
from fleet.game_ingest import Ingested, Intake, ingest
from fleet.game_shard import Limits
from fleet.games import FILE, GATHERED, Account
from fleet.store import Store

NOW = 1_800_000_000.0
BOUNDS = Bounds(shard_games=7)
INTAKE = Intake(limits=Limits(min_free=0))


def play(data: Path, number: int, config: str = "hex5_2p", *, seed: int = 0, moves: int = 40) -> set[str]:
    """Games that a job played; their ids."""
    data.mkdir(parents=True, exist_ok=True)
    chance, players = random.Random(seed), int(config[-2])
    with GameStore(data / FILE, job_id="j1", node_id=data.name) as store:
        return {
            store.append(
                PlayedGame(
                    config=config,
                    players=("uct",) * players,
                    moves=tuple(chance.randrange(600) for _ in range(moves)),
                    returns=(1.0,) + (-1.0,) * (players - 1),
                    winner=0,
                    seed=n,
                    started_at=NOW + n,
                    finished_at=NOW + n + 1,
                )
            )
            for n in range(number)
        }


def put(data: Path, **changes: Any) -> str:
    """One game with other values than it should have, written as a foreign program would; its id."""
    (game_id,) = play(data, 1)
    with closing(sqlite3.connect(data / FILE)) as db, db:
        for column, value in changes.items():
            db.execute(f"UPDATE games SET {column} = ? WHERE game_id = ?", (value, game_id))
            game_id = value if column == "game_id" else game_id
    return game_id


def send(store: Store, data: Path, bounds: Bounds = BOUNDS, now: float = NOW, **changes: Any) -> Exported:
    return export(store, data, data.name, replace(bounds, **changes), now)


def take(store: Store, data: Path, intake: Intake = INTAKE, now: float = NOW, **more: Any) -> Ingested:
    data.mkdir(parents=True, exist_ok=True)
    return ingest(store, data, intake, now, **more)


def ids(path: Path) -> set[str]:
    """The games in a file; fails when one is there twice."""
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'games'").fetchone():
            return set()  # it is being made
        found = [game_id for (game_id,) in db.execute("SELECT game_id FROM games")]
    assert len(found) == len(set(found))
    return set(found)


def gathered(data: Path) -> set[str]:
    return ids(data / GATHERED)


def keys(store: Store, prefix: str) -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def total(account: Account) -> Mapping[str, int]:
    """Games of all configurations in each state."""
    found: dict[str, int] = {}
    for counts in account.values():
        for state, number in counts.items():
            found[state] = found.get(state, 0) + number
    return found
