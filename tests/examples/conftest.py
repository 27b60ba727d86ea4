"""The player as real processes, and a reader that accepts whole games only."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.openspiel.games import CONFIGS, replay, winner
from tests.waiting import until

Row = dict[str, Any]


def _rows(database: Path) -> list[Row]:
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return [dict(row) for row in connection.execute("SELECT * FROM games ORDER BY rowid")]


@pytest.fixture
def whole_games() -> Callable[[Path], list[Row]]:
    """Reads `games.db`; fails unless every stored game replays to its stored result."""

    def read(database: Path) -> list[Row]:
        rows = _rows(database)
        for row in rows:
            moves, result = json.loads(row["moves"]), json.loads(row["result"])
            final = replay(CONFIGS[row["config"]].load(), moves)
            assert final.is_terminal()
            assert final.returns() == result
            assert row["winner"] == winner(result)
            assert len(json.loads(row["players"])) == len(result) == row["num_players"]
            assert row["started_at"] <= row["finished_at"]
        return rows

    return read


class Player:
    """Starts `python -m examples.openspiel selfplay` and ends what it started."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.database = data / "games.db"
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: object, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BACKBEAT_")}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "examples.openspiel", "selfplay", *map(str, arguments)],
            cwd=self.data, env=clean | (env or {}), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, *arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **how)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def wait_for_games(self, count: int) -> None:
        """Wait until that many games are committed."""
        until(lambda: self._committed() >= count, 30, f"{count} games")

    def _committed(self) -> int:
        if not self.database.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute("SELECT count(*) FROM games").fetchone()[0])
            except sqlite3.OperationalError:  # the file is there, the table not yet
                return 0

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    """The player with an empty data folder, which is also its current directory."""
    player = Player(tmp_path)
    yield player
    player.close()


@pytest.fixture
def small_disk(mount_small: Callable[[Path, int], Path], tmp_path: Path) -> Path:
    """A file system of its own of 128 KiB."""
    return mount_small(tmp_path / "disk", 128)
