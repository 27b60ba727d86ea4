"""A tournament is played on one node; moments later every node has its matches, and the same ratings."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from fleet.elo_board import EloBoard
from fleet.jobs import JobSpec
from fleet.match_store import FILE

#: What a tournament job leaves: plain rows in tables that it makes itself.
PLAYED = """
import json, os, sqlite3, time, uuid
db = sqlite3.connect(os.path.join(os.environ["BACKBEAT_DATA"], "unified_elo.db"), timeout=10)
db.execute("PRAGMA journal_mode = WAL")
db.executescript('''
CREATE TABLE IF NOT EXISTS participants (participant_id TEXT PRIMARY KEY, participant_type TEXT);
CREATE TABLE IF NOT EXISTS match_history (id INTEGER PRIMARY KEY AUTOINCREMENT, participant_ids TEXT, rankings TEXT,
    winner TEXT, board_type TEXT, num_players INTEGER, timestamp REAL, game_id TEXT);
''')
with db:
    db.execute("INSERT OR IGNORE INTO participants (participant_id, participant_type) VALUES ('random', 'baseline')")
    db.executemany(
        "INSERT INTO match_history (participant_ids, rankings, winner, board_type, num_players, timestamp, game_id)"
        " VALUES (?, ?, ?, 'hex8', 2, ?, ?)",
        [('["strong", "random"]', "[1, 2]", "strong", time.time(), uuid.uuid4().hex) for _ in range(40)],
    )
print(json.dumps({"games": 40}))
"""
TOURNAMENT = {"command": ["{python}", "-c", PLAYED.replace("{", "{{").replace("}", "}}")], "then": ["elo_sync"]}


def ratings(path: Path) -> list[Any]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        query = "SELECT participant_id, rating, rating_deviation, games_played FROM elo_ratings ORDER BY 1"
        return db.execute(query).fetchall() if "elo_ratings" in tables else []


def test_after_a_tournament_all_nodes_show_the_same_ratings(house: Any) -> None:
    house.configure({"elo_sync": {"interval": 3600, "initial_delay": 3600}}, jobs={"tournament": TOURNAMENT})
    house.agent("n1")
    house.agent("n2")
    house.jobs("n1")
    house.beat()
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 2 and house.status("elo_sync"), 30, "two nodes")
    house.queue.enqueue([JobSpec(kind="tournament", config="hex8_2p")])
    files = [house.folder / node / FILE for node in ("n1", "n2")]
    house.until(lambda: all(ratings(each) for each in files), 30, "ratings on both nodes")
    assert ratings(files[0]) == ratings(files[1])
    (document,) = house.until(lambda: list(EloBoard(house.redis).read().values()), 10, "the board of Elo")
    assert (document["best"]["participant"], document["best"]["games"], document["matches"]) == ("strong", 40, 40)
    house.until(lambda: house.status("elo_sync")["last_counts"].get("agreed") == 2, 10, "the run that is over")
