"""`backbeat elo`: what it shows, and how matches come in and out by it."""

from __future__ import annotations

import csv
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from redis import Redis

from fleet.elo_board import EloBoard
from fleet.match_store import FILE
from tests.fleet.match_stage import matches, played, row, write_original
from tests.workers.show_stage import NOW, text
from workers import show_elo

Cli = Callable[..., Result]

BEST = {"participant": "hex8_2p-g0003-0123456789ab", "rating": 1512.34, "deviation": 20.0, "games": 1400}
DOCUMENT = {
    "config": "hex8_2p",
    "at": NOW - 30,
    "node": "node-1",
    "digest": "0" * 32,
    "matches": 2000,
    "best": {**BEST, "lower_bound": 1473.14, "anchored": True},
    "ranking": [{**BEST, "type": "model"}, {**BEST, "participant": "random", "type": "baseline"}],
    "history": [[NOW - 100 + number, 1000.0 + number * number] for number in range(50)],
    "velocity": 123.4,
}
TARGET = {"target": 1450.0, "met": True, "since": NOW - 60, "reason": "bound 1473 reaches 1450", "at": NOW}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's database in a directory of its own; no configuration and no `up` is near."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKBEAT_DATA", raising=False)
    monkeypatch.delenv("BACKBEAT_CONFIG", raising=False)
    return tmp_path / FILE


def test_without_ratings_it_says_what_will_bring_some(cli: Cli) -> None:
    assert "no ratings yet: they come from matches, which tournaments play" in cli("elo").stdout
    assert json.loads(cli("elo", "--json").stdout) == {}
    assert "nothing is known of hex8_2p yet" in cli("elo", "--config", "hex8_2p", code=1).stderr
    assert "is not a board configuration" in cli("elo", "--config", "hex", code=2).stderr


def test_it_shows_what_is_published(cli: Cli, redis: Redis) -> None:
    EloBoard(redis).publish({"hex8_2p": DOCUMENT, "hex8_3p": {"best": None, "matches": 3}}, "0" * 32)
    EloBoard(redis).targets({"hex8_2p": TARGET})
    shown = cli("elo").stdout
    assert [line.split()[:6] for line in shown.splitlines()] == [
        ["config", "elo", "bound", "target", "met", "games"],
        ["hex8_2p", "1512", "1473", "1450", "met", "1,400"],
        ["hex8_3p", "-", "-", "-", "3", "-"],
    ]
    document = json.loads(cli("elo", "--config", "hex8_2p", "--json").stdout)
    assert document == {**DOCUMENT, "target": TARGET}
    one = cli("elo", "--config", "hex8_2p").stdout
    for line in (
        "best      hex8_2p-g0003-0123456789ab, 1512 ± 39",
        "bound     1473 with 97.5 % certainty",
        "games     1,400 of the best, 2,000 matches in all",
        "because   bound 1473 reaches 1450",
        "velocity  +123 Elo a day",
    ):
        assert line in one
    assert "random" in one
    assert "▁" in cli("elo", "--config", "hex8_2p", "--history").stdout


def test_tables_fit_a_narrow_screen() -> None:
    shown = text(show_elo.everything({"hex8_2p": {**DOCUMENT, "target": TARGET}}, NOW, 40, False), 40)
    assert max(map(len, shown.splitlines())) <= 40
    assert "hex8_2p" in shown
    assert "met" in shown


def test_a_rating_that_hangs_on_no_anchor_says_so() -> None:
    document = {**DOCUMENT, "best": {**DOCUMENT["best"], "anchored": False}}  # type: ignore[dict-item]
    assert "no chain of games leads to them" in text(show_elo.one(document, NOW, 80, False))


def test_a_curve_is_drawn_in_one_line() -> None:
    assert show_elo.curve([]) == ""
    assert show_elo.curve([[0, 1.0], [1, 2.0], [2, 3.0]]) == "▁▅█"
    assert len(show_elo.curve([[at, at] for at in range(500)])) == 16


def test_a_file_is_read_as_it_is(cli: Cli, own: Path) -> None:
    with closing(write_original(own)) as db:
        row(db, participant_ids=["a", "b"], rankings=[1, 2])
        db.execute("INSERT INTO elo_ratings (participant_id, board_type, num_players, rating, games_played)"
                   " VALUES ('a', 'hex8', 2, 1600, 40)")  # fmt: skip
    before = own.read_bytes()
    (found,) = json.loads(cli("elo", "--db", str(own), "--json").stdout).values()
    assert (found["best"]["participant"], found["matches"]) == ("a", 1)
    assert own.read_bytes() == before
    assert "there is no such file" in cli("elo", "--db", "nowhere.db", code=1).stderr
    own.write_bytes(b"nonsense" * 1000)
    assert "file is not a database" in cli("elo", "--db", str(own), code=1).stderr


def test_a_database_is_imported_once_and_rated(cli: Cli, own: Path, tmp_path: Path) -> None:
    with matches(tmp_path / "theirs.db") as theirs:
        theirs.merge(played(number, ("a", "random"), (1, 2)) for number in range(40))
    shown = cli("elo", "import", "theirs.db", "--db", str(own)).stdout
    assert "imported  40" in shown
    counts = json.loads(cli("elo", "import", "theirs.db", "--data", str(tmp_path), "--json").stdout)
    assert (counts["imported"], counts["known"], counts["matches"]) == (0, 40, 40)
    (found,) = json.loads(cli("elo", "--db", str(own), "--json").stdout).values()
    assert found["best"]["games"] == 40
    assert "40 matches, digest" in cli("elo", "verify", "--db", str(own)).stdout


def test_a_file_of_something_else_is_neither_moved_nor_written_to(cli: Cli, own: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,games,wins\nm1,m2,3,2\n")
    with closing(sqlite3.connect(tmp_path / "games.db")) as db:
        db.execute("CREATE TABLE games (x)")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for wrong in ("x.csv", "games.db"):
        for command in (("import", "x.csv", "--config", "go_2p"), ("verify",), ("exclude", "m", "--reason", "why")):
            assert f"{wrong}: it is no database of matches" in cli("elo", *command, "--db", wrong, code=1).stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_texts_are_imported_and_what_is_refused_is_said(cli: Cli, own: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("m1,m2,fast,3,2\nm1,m1,fast,3,2\n")
    command = ("elo", "import", "x.csv", "--columns", "a,b,label,games,wins", "--data", str(tmp_path))
    shown = cli(*command, "--config", "go_2p").stdout
    assert "imported  3" in shown
    assert "1 x 'm1' plays against itself" in shown
    assert "no board configuration: give --config" in cli(*command, code=1).stdout
    assert (
        "x.csv: column '2, 3, fast, m1, m2' is none of"
        in cli("elo", "import", "x.csv", "--db", str(own), code=1).stderr
    )
    assert "No such file" in cli("elo", "import", "nowhere.csv", "--db", str(own), code=1).stderr
    (tmp_path / "y.pgn").write_text('[White "a"]\n[Black "b"]\n[Result "1-0"]\n\n1. e4 1-0\n')
    options = ("--config", "chess_2p", "--ended", "2026-01-31", "--db", str(own))
    assert "imported  1" in cli("elo", "import", "y.pgn", *options).stdout
    assert "is no time" in cli("elo", "import", "y.pgn", "--ended", "soon", code=2).stderr


def test_a_database_that_does_more_is_refused(cli: Cli, own: Path, tmp_path: Path) -> None:
    write_original(tmp_path / "theirs.db").close()
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as db:
        db.execute("CREATE TABLE other (x)")
    assert "--other-tables" in cli("elo", "import", "theirs.db", "--db", str(own), code=1).stderr
    assert "imported  0" in cli("elo", "import", "theirs.db", "--db", str(own), "--other-tables").stdout


def test_matches_are_exported_and_excluded(cli: Cli, own: Path, tmp_path: Path) -> None:
    assert "there are no matches yet" in cli("elo", "export", "out.csv", "--db", str(own), code=1).stderr
    with matches(own) as found:
        found.merge([played(1), played(2)])
    assert cli("elo", "export", "out.csv", "--db", str(own)).stdout == "2 matches written to out.csv\n"
    with (tmp_path / "out.csv").open() as file:
        assert [line["game_id"] for line in csv.DictReader(file)] == ["m00001", "m00002"]
    assert cli("elo", "export", "out.db", "--db", str(own)).stdout == "2 matches written to out.db\n"
    assert "ends in .db or .csv" in cli("elo", "export", "out.txt", "--db", str(own), code=2).stderr
    missing = cli("elo", "export", "nowhere/out.csv", "--db", str(own), code=1).stderr
    assert missing == "backbeat: nowhere: there is no such directory\n"
    exclude = ("elo", "exclude", "--reason", "crashed", "--db", str(own))
    assert cli(*exclude, "m00001").stdout.startswith("1 excluded")
    assert "has no match m9" in cli(*exclude, "m9", code=1).stderr
    with closing(sqlite3.connect(own, isolation_level=None)) as db:
        db.execute("UPDATE match_history SET rankings = '[2,1]' WHERE game_id = 'm00002'")
    assert "its content is not that of its hash" in cli("elo", "verify", "--db", str(own), code=1).stdout
    assert "repaired" in cli("elo", "verify", "--repair", "--db", str(own)).stdout


def test_it_finds_the_central_node_of_an_up(cli: Cli, own: Path, tmp_path: Path) -> None:
    assert "no data directory of an `up` is found here" in cli("elo", "verify", code=1).stderr
    central = tmp_path / ".backbeat" / "nodes" / "node-1"
    central.mkdir(parents=True)
    with matches(central / FILE) as found:
        found.merge([played(1)])
    assert "1 matches, digest" in cli("elo", "verify").stdout


def on_a_terminal(*arguments: str) -> str:
    """What a command draws on the terminal beside what it prints."""
    ours, its = pty.openpty()
    argv = [sys.executable, "-c", "from workers.entry import main; main()", *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=its, env={**os.environ, "TERM": "xterm"})
    os.close(its)
    drawn = b""
    try:
        while part := os.read(ours, 65536):
            drawn += part
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    assert process.wait() == 0
    return drawn.decode()


def test_what_takes_long_shows_that_it_goes_on_but_not_into_a_pipe(cli: Cli, own: Path, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("a,b,games,wins\nm1,m2,2,1\n")
    old = ("old.csv", "--config", "hex8_2p")
    assert cli("elo", "import", *old, "--db", str(own)).stderr == ""
    for command, said in (
        (("import", *old), "matches"),
        (("import", *old), "models are rated by them"),
        (("export", "out.csv"), "matches are written to out.csv"),
        (("verify",), "is looked at"),
    ):
        assert cli("elo", *command, "--db", str(own)).stderr == ""
        assert said in on_a_terminal("elo", *command, "--db", str(own)), command
