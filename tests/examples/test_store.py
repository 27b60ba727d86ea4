"""games.db under concurrent writers, kills and full disks."""

from __future__ import annotations

import random
import sqlite3
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from examples.openspiel.selfplay import play_game
from examples.openspiel.store import GameStore, StoreError

WholeGames = Callable[[Path], list[dict[str, Any]]]
FAST = ("--config", "hex5_2p", "--simulations", "4", "--games")


def test_processes_that_make_and_fill_one_file_at_once_lose_nothing(player: Any, whole_games: WholeGames) -> None:
    writers = [player.start(*FAST, 60) for _ in range(2)]
    for writer in writers:
        _, err = writer.communicate(timeout=60)
        assert (writer.returncode, err) == (0, "")
    rows = whole_games(player.database)
    assert len(rows) == len({row["game_id"] for row in rows}) == 120


def test_many_stores_can_open_a_new_file_in_the_same_moment(tmp_path: Path, whole_games: WholeGames) -> None:
    game = play_game("hex5_2p", 2, 1)
    assert game is not None
    together = Barrier(8)

    def open_and_append(database: Path) -> None:
        together.wait()
        with GameStore(database) as store:
            store.append(game)

    with ThreadPoolExecutor(8) as threads:
        for attempt in range(10):
            database = tmp_path / f"{attempt}.db"
            list(threads.map(open_and_append, [database] * 8))
            assert len(whole_games(database)) == 8


def test_a_kill_at_any_moment_leaves_whole_games(player: Any, whole_games: WholeGames) -> None:
    rng = random.Random(3)
    kept = 0
    for _ in range(6):
        process = player.start(*FAST, 1_000_000)
        player.wait_for_games(kept + 1)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        rows = whole_games(player.database)
        assert len(rows) > kept
        kept = len(rows)
    assert player.run(*FAST, 1).returncode == 0
    assert len(whole_games(player.database)) == kept + 1


def test_a_full_disk_is_one_clear_line_and_costs_only_the_game_at_hand(
    player: Any, whole_games: WholeGames, small_disk: Path
) -> None:
    full = player.run(*FAST, 1_000_000, "--data", small_disk)
    database = small_disk / "games.db"
    assert (full.returncode, full.stdout) == (1, "")
    assert full.stderr == f"Error: {database}: database or disk is full\n"

    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    kept = len(whole_games(database))
    assert kept > 0
    assert player.run(*FAST, 3, "--data", small_disk).returncode == 0
    assert len(whole_games(database)) == kept + 3


def test_a_read_only_disk_is_one_clear_line(player: Any, small_disk: Path, whole_games: WholeGames) -> None:
    assert player.run(*FAST, 1, "--data", small_disk).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused = player.run(*FAST, 1, "--data", small_disk)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"Error: {small_disk / 'games.db'}: unable to open database file (its folder cannot be written to)\n"
    )
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert len(whole_games(small_disk / "games.db")) == 1


def test_a_write_that_fails_half_way_leaves_whole_games(player: Any, whole_games: WholeGames) -> None:
    # No file may grow beyond 64 KiB: the write-ahead log hits that after some games.
    limited = player.run(*FAST, 1_000_000, prefix=("sh", "-c", 'ulimit -f 128; exec "$@"', "sh"))
    assert limited.returncode == 1
    assert limited.stderr == f"Error: {Path('games.db')}: disk I/O error\n"
    kept = len(whole_games(player.database))
    assert kept > 0
    assert player.run(*FAST, 3).returncode == 0
    assert len(whole_games(player.database)) == kept + 3


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "games.db"
    database.write_text("not a database, but somebody's notes\n" * 100)
    before = database.read_bytes()
    with pytest.raises(StoreError, match=r"games\.db: file is not a database"):
        GameStore(database)
    assert database.read_bytes() == before


def test_the_file_is_in_wal_mode_and_its_index_serves_the_newest_games_of_a_config(tmp_path: Path) -> None:
    database = tmp_path / "games.db"
    GameStore(database).close()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM games WHERE config = 'hex8_2p' ORDER BY finished_at DESC"
        ).fetchall()
    assert [step[3] for step in plan] == ["SEARCH games USING INDEX games_by_config (config=?)"]
