"""The player as real processes, and a reader that accepts whole games only."""

from __future__ import annotations

import hashlib
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
    """Starts `python -m examples.openspiel`, `selfplay` if not told otherwise, and ends what it started."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.database = data / "games.db"
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self,
        *arguments: object,
        command: str = "selfplay",
        env: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BACKBEAT_")}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "examples.openspiel", command, *map(str, arguments)],
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


class Registry:
    """Publishes and promotes what was handed in, as the cluster would."""

    def __init__(self, data: Path, config: str) -> None:
        self.new = data / "models" / "new"
        self.folder = data / "models" / config
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "manifest.json"
        self.document: dict[str, Any] = {"config": config, "promoted": None, "previous": None, "versions": []}

    def publish(self, version: str, *, promote: bool = False) -> None:
        about = json.loads((self.new / f"{version}.json").read_text())
        data = (self.new / about["file"]).read_bytes()
        (self.new / about["file"]).rename(self.folder / about["file"])
        (self.new / f"{version}.json").unlink()
        known = {key: about[key] for key in ("file", "parent", "generation", "games")}
        row = {"version": version, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "created_at": 1.0}
        self.document["versions"].append(row | known)
        if promote:
            self.document |= {"previous": self.document["promoted"], "promoted": version}
        self.write()

    def write(self, **changes: Any) -> None:
        self.path.write_text(json.dumps(self.document | changes))


@pytest.fixture
def registry(tmp_path: Path) -> Callable[[str], Registry]:
    """Makes the registry of a configuration in the test's folder."""
    return lambda config: Registry(tmp_path, config)


@pytest.fixture
def small_disk(mount_small: Callable[[Path, int], Path], tmp_path: Path) -> Path:
    """A file system of its own of 128 KiB."""
    return mount_small(tmp_path / "disk", 128)
