"""Tournaments as jobs: seats, ranks, effort, and one database for all."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from examples.openspiel import cli
from examples.openspiel.games import CONFIGS
from examples.openspiel.matches import SCHEMA, Match, MatchStore, rankings
from examples.openspiel.model import RANDOM_SHARE, Chance, Greedy, Model
from examples.openspiel.pairing import ANCHORS
from examples.openspiel.selfplay import Champion, play_game
from examples.openspiel.tournament import LEAST_SEED, play_match, player, tournament
from examples.openspiel.versions import Manifest, hand_in
from tests.waiting import until

CONFIG_BOARD = {"hex5_2p": "hex5", "square8_3p": "square8"}

MakeRegistry = Callable[[str], Any]
Row = dict[str, Any]


def matches(database: Path) -> list[Row]:
    with closing(sqlite3.connect(database, timeout=10)) as file:
        file.row_factory = sqlite3.Row
        assert file.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return [dict(row) for row in file.execute("SELECT * FROM match_history ORDER BY id")]


def count(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database, timeout=10)) as file:
        try:
            return int(file.execute("SELECT count(*) FROM match_history").fetchone()[0])
        except sqlite3.OperationalError:  # the file is there, the table not yet
            return 0


@pytest.fixture
def two_models(tmp_path: Path, registry: MakeRegistry) -> Callable[[str], tuple[str, str]]:
    """Publishes two untrained models of a configuration and promotes the first."""

    def publish(config: str) -> tuple[str, str]:
        own, names = registry(config), []
        for generation in (1, 2):
            model = Model(config, Model.untrained(config).weights + generation * 1e-3)
            name = hand_in(tmp_path, model, parent=None, generation=generation, games=1, metrics={})
            own.publish(name, promote=generation == 1)
            names.append(name)
        return names[0], names[1]

    return publish


@pytest.mark.parametrize("config", ["hex5_2p", "square8_3p"])
def test_a_job_plays_whole_rounds_and_stores_each_match(
    config: str, player: Any, tmp_path: Path, two_models: Callable[[str], tuple[str, str]]
) -> None:
    best, newest = two_models(config)
    report = tmp_path / "result.json"
    done = player.run(
        "--games", 10, command="tournament",
        env={
            "BACKBEAT_JOB_ID": "job-7", "BACKBEAT_JOB_CONFIG": config, "BACKBEAT_NODE_ID": "node-1",
            "BACKBEAT_JOB_RESULT": str(report), "BACKBEAT_DATA": str(tmp_path),
        },
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(report.read_text())
    rows = matches(tmp_path / "unified_elo.db")
    seats = CONFIGS[config].load().num_players()
    assert result["matches"] == len(rows) >= 10
    assert len(rows) % seats == 0

    taken: Counter[tuple[str, int]] = Counter()
    for row in rows:
        who, ranks = json.loads(row["participant_ids"]), json.loads(row["rankings"])
        assert len(set(who)) == len(ranks) == row["num_players"] == seats
        winners = [name for name, rank in zip(who, ranks, strict=True) if rank == 1]
        assert row["winner"] == (winners[0] if len(winners) == 1 else None)
        assert (row["board_type"], row["tournament_id"], row["worker"]) == (CONFIG_BOARD[config], "job-7", "node-1")
        assert (len(row["game_id"]), row["game_length"] > 4, row["duration_sec"] > 0) == (32, True, True)
        assert isinstance(row["timestamp"], float)
        taken.update((name, seat) for seat, name in enumerate(who))
    everybody = {best, newest, *ANCHORS}
    assert {name for name, _ in taken} == everybody
    for name in everybody:  # exactly balanced
        assert len({taken[name, seat] for seat in range(seats)}) == 1
    assert len({row["game_id"] for row in rows}) == len({row["metadata"] for row in rows}) == len(rows)
    with closing(sqlite3.connect(tmp_path / "unified_elo.db")) as file:
        types = dict(file.execute("SELECT participant_id, participant_type FROM participants"))
    assert types == {name: "model" if name in (best, newest) else "baseline" for name in everybody}


def test_losers_tie_and_a_draw_ties_all() -> None:
    assert rankings([-1 / 3, 1.0, -1 / 3, -1 / 3]) == (2, 1, 2, 2)
    assert rankings([0.0, 0.0, 0.0]) == (1, 1, 1)
    assert rankings([1.0, -1.0]) == (1, 2)
    assert Match("square8_3p", ("a", "b", "c"), (1, 1, 1), 9, 0.1, {}).winner is None
    assert Match("square8_3p", ("a", "b", "c"), (2, 2, 1), 9, 0.1, {}).winner == "c"


def test_all_models_play_with_one_effort_that_no_argument_can_change() -> None:
    models = {name: Model.untrained("hex5_2p") for name in ("a", "b")}
    setup = CONFIGS["hex5_2p"]
    game = setup.load()
    one, other = (player(name, models, setup, game, 1, lambda: False) for name in ("a", "b"))
    assert isinstance(one, Greedy)
    assert isinstance(other, Greedy)
    assert one._random_share == other._random_share == RANDOM_SHARE
    assert isinstance(player("random", models, setup, game, 1, lambda: False), Chance)
    assert {name: "uct" + str(effort) for name, effort in ANCHORS.items() if effort} == {
        name: name for name, effort in ANCHORS.items() if effort
    }
    offered = {parameter.name for parameter in cli.tournament.params if isinstance(parameter, click.Option)}
    assert offered == {"config", "games", "data"}


def test_no_match_is_begun_with_a_seed_of_self_play(tmp_path: Path) -> None:
    with MatchStore(tmp_path / "unified_elo.db") as store:
        tournament(store, "hex5_2p", Manifest(), games=40, stop=lambda: False)
    seeds = [int(json.loads(row["metadata"])["seed"]) for row in matches(tmp_path / "unified_elo.db")]
    assert min(seeds) >= LEAST_SEED == 2**53
    assert len(set(seeds)) == len(seeds) == 40


def test_a_match_is_played_again_by_its_seed() -> None:
    models = {"m": Model("square8_3p", Model.untrained("square8_3p").weights + 0.1)}
    seats = ("uct8", "m", "random")
    one, again = (play_match("square8_3p", seats, models, LEAST_SEED + 5, lambda: False) for _ in range(2))
    assert one is not None
    assert again is not None
    assert (one.rankings, one.length) == (again.rankings, again.length)


def test_tournaments_at_once_write_one_database_and_lose_nothing(player: Any, tmp_path: Path) -> None:
    jobs = [player.start("--config", config, "--games", 30, command="tournament") for config in ("hex5_2p", "hex5_2p")]
    total = 0
    for job in jobs:
        out, err = job.communicate(timeout=60)
        assert (job.returncode, err) == (0, "")
        total += json.loads(out.splitlines()[-1])["matches"]
    rows = matches(tmp_path / "unified_elo.db")
    assert len(rows) == len({row["game_id"] for row in rows}) == total == 60


@pytest.mark.parametrize(("stop", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stop_in_the_middle_keeps_whole_matches(
    stop: signal.Signals, exit_code: int, player: Any, tmp_path: Path
) -> None:
    job = player.start("--config", "hex5_2p", "--games", 5000, command="tournament")
    database = tmp_path / "unified_elo.db"
    until(lambda: count(database) > 3)
    job.send_signal(stop)
    out, err = job.communicate(timeout=10)
    rows = matches(database)
    assert (job.returncode, err) == (exit_code, "")
    assert all(row["game_id"] and json.loads(row["rankings"]) for row in rows)
    if stop == signal.SIGTERM:
        result = json.loads(out.splitlines()[-1])
        assert (result["stopped"], result["matches"]) == (True, len(rows))


def test_a_match_is_written_anew_when_its_file_was_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, aside = tmp_path / "unified_elo.db", tmp_path / "unified_elo.db.corrupt-1"

    def set_aside() -> None:
        for suffix in ("", "-shm", "-wal"):
            (tmp_path / f"{database.name}{suffix}").rename(tmp_path / f"{aside.name}{suffix}")

    played = Match("hex5_2p", ("a", "random"), (1, 2), 9, 0.1, {})
    types = {"a": "model", "random": "baseline"}
    with MatchStore(database) as store:
        before = store.append(played, types)
        set_aside()
        after = store.append(played, types)
        assert [row["game_id"] for row in matches(database)] == [after]
        write = store._write

        def meanwhile(*arguments: Any) -> None:
            monkeypatch.undo()
            write(*arguments)
            aside.unlink()
            set_aside()

        monkeypatch.setattr(store, "_write", meanwhile)
        last = store.append(played, types)
    assert [row["game_id"] for row in matches(database)] == [last]
    assert [row["game_id"] for row in matches(aside)] == [after, last]
    assert len({before, after, last}) == 3


def test_rows_of_others_are_kept_and_odd_ones_count_for_nothing(tmp_path: Path) -> None:
    database = tmp_path / "unified_elo.db"
    with closing(sqlite3.connect(database)) as file:
        file.executescript(SCHEMA)
        file.execute("ALTER TABLE match_history ADD COLUMN seen_at REAL")
        for ids, ranks in (("[", "[1, 2]"), ('["a", "b"]', "[1]"), ("[1, 2]", "[1, 2]"), (None, None), ("{}", "{}"),
                           ('["a", "b"]', '["x", 2]'), ('["a", "b"]', "[1, 2]")):  # fmt: skip
            file.execute(
                "INSERT INTO match_history (participant_ids, rankings, board_type, num_players, timestamp) "
                "VALUES (?, ?, 'hex5', 2, 'yesterday')",
                (ids, ranks),
            )
        file.commit()
    with MatchStore(database) as store:
        assert store.results("hex5_2p") == {(("a", "b"), ("a",)): 1}
        assert store.results("hex8_2p") == {}
        tournament(store, "hex5_2p", Manifest(), games=2, stop=lambda: False)
    assert count(database) == 7 + 6


def test_self_play_uses_the_promoted_model_and_says_so(
    player: Any, tmp_path: Path, two_models: Callable[[str], tuple[str, str]], whole_games: Callable[[Path], list[Row]]
) -> None:
    best, _ = two_models("hex5_2p")
    played = [
        player.run("--config", "hex5_2p", "--games", 3, "--seed", 5, "--data", tmp_path, *how)
        for how in ((), ("--player", "model"), ("--player", "mcts", "--simulations", 2))
    ]
    assert [run.returncode for run in played] == [0, 0, 0]
    results = [json.loads(run.stdout.splitlines()[-1]) for run in played]
    assert [(result["player"], result["simulations"]) for result in results] == [
        (best, None),
        (best, None),
        ("uct2", 2),
    ]
    rows = whole_games(tmp_path / "games.db")
    assert [row["players"] for row in rows] == [json.dumps([name] * 2) for name in [best] * 6 + ["uct2"] * 3]
    assert [row["moves"] for row in rows[:3]] == [row["moves"] for row in rows[3:6]]
    promoted = Manifest.read(tmp_path, "hex5_2p").promoted
    assert promoted is not None
    again = play_game("hex5_2p", 1, rows[0]["seed"], champion=Champion(best, promoted.model("hex5_2p")))
    assert again is not None
    assert list(again.moves) == json.loads(rows[0]["moves"])


def test_self_play_with_a_model_that_is_not_there_says_so(player: Any) -> None:
    failed = player.run("--config", "hex5_2p", "--games", 1, "--player", "model")
    assert (failed.returncode, failed.stderr) == (1, "Error: hex5_2p: no model is promoted in models/hex5_2p\n")
