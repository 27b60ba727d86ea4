"""`python -m examples.openspiel selfplay` as a jobs worker and a person meet it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.openspiel.games import CONFIGS
from tests.waiting import until

WholeGames = Callable[[Path], list[dict[str, Any]]]


def last_line(output: str) -> Any:
    return json.loads(output.splitlines()[-1])


def test_a_job_plays_its_games_and_reports_them(player: Any, whole_games: WholeGames, tmp_path: Path) -> None:
    report, data = tmp_path / "result.json", tmp_path / "new" / "data"
    done = player.run(
        "--games", 5, "--simulations", 4, "--seed", 9,
        env={
            "BACKBEAT_JOB_ID": "job-1", "BACKBEAT_JOB_CONFIG": "hex8_4p", "BACKBEAT_NODE_ID": "node-1",
            "BACKBEAT_JOB_RESULT": str(report), "BACKBEAT_DATA": str(data),
        },
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = whole_games(data / "games.db")
    winners = [row["winner"] for row in rows]
    result = last_line(done.stdout)
    assert result.pop("seconds") > 0
    assert result == {
        "config": "hex8_4p",
        "games": 5,
        "moves": sum(len(json.loads(row["moves"])) for row in rows),
        "results": {"wins": [winners.count(seat) for seat in range(4)], "draws": winners.count(None)},
        "player": "uct4",
        "simulations": 4,
        "seed": 9,
        "database": str(data / "games.db"),
        "stopped": False,
    }
    assert json.loads(report.read_text()) == last_line(done.stdout)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["result.json"]
    assert {(row["job_id"], row["node_id"]) for row in rows} == {("job-1", "node-1")}


@pytest.mark.parametrize("config", ["hex8_2p", "square8_3p"])
def test_the_same_seed_plays_the_same_games_in_another_process(
    config: str, player: Any, tmp_path: Path, whole_games: WholeGames
) -> None:
    for folder in ("a", "b"):
        done = player.run("--config", config, "--games", 3, "--simulations", 8, "--seed", 4, "--data", folder)
        assert done.returncode == 0
    first, second = (whole_games(tmp_path / folder / "games.db") for folder in ("a", "b"))
    assert [(row["seed"], row["moves"]) for row in first] == [(row["seed"], row["moves"]) for row in second]
    assert not {row["game_id"] for row in first} & {row["game_id"] for row in second}


@pytest.mark.parametrize(
    ("config", "stop", "exit_code"),
    [("square6_2p", signal.SIGTERM, 143), ("hex8_4p", signal.SIGTERM, 143), ("hex8_4p", signal.SIGINT, 130)],
)
def test_a_stop_signal_leaves_whole_games_and_reports_stopped(
    config: str, stop: signal.Signals, exit_code: int, player: Any, tmp_path: Path, whole_games: WholeGames
) -> None:
    report = tmp_path / "result.json"
    job = player.start("--config", config, "--games", 1_000_000, env={"BACKBEAT_JOB_RESULT": str(report)})
    player.wait_for_games(1)
    job.send_signal(stop)
    out, err = job.communicate(timeout=10)
    rows = whole_games(player.database)
    result = last_line(out)
    assert (job.returncode, err) == (exit_code, "")
    assert result["stopped"] is True
    assert result["games"] == len(rows) == sum(result["results"]["wins"]) + result["results"]["draws"]
    assert json.loads(report.read_text()) == result


@pytest.mark.parametrize("config", ["square8_2p", "square8_3p"])
def test_a_stop_does_not_wait_for_a_long_game(config: str, player: Any, whole_games: WholeGames) -> None:
    job = player.start("--config", config, "--games", 1, "--simulations", 5000)
    until(player.database.exists)
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(0.3)  # in the middle of a move
    signalled = time.monotonic()
    job.terminate()
    out, _ = job.communicate(timeout=30)
    assert time.monotonic() - signalled < 3  # a whole game takes 10 s
    assert (job.returncode, last_line(out)["games"]) == (143, 0)
    assert whole_games(player.database) == []


def test_an_unknown_config_is_one_line_that_names_the_accepted_ones(player: Any) -> None:
    refused = player.run("--config", "hex9_2p", "--games", 1)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "Error: 'hex9_2p' has no game here; --config takes one of "
        "square6_2p, square8_2p, hex5_2p, hex8_2p, square8_3p, hex8_4p\n"
    )
    assert not player.database.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--games", "1"),
        ("--config", "hex5_2p"),
        ("--config", "hex5_2p", "--games", "0"),
        ("--config", "hex5_2p", "--games", "1", "--simulations", "5001"),
        ("--config", "hex5_2p", "--games", "1", "--seed", "-1"),
    ],
)
def test_a_wrong_call_is_a_usage_error(arguments: tuple[str, ...], player: Any) -> None:
    refused = player.run(*arguments)
    assert refused.returncode == 2
    assert "Error: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_data_folder_that_cannot_be_is_one_clear_line(player: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    refused = player.run("--config", "hex5_2p", "--games", 1, "--data", tmp_path / "notes" / "data")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"Error: [Errno 20] Not a directory: '{tmp_path}/notes/data'\n"


def test_a_result_that_cannot_be_written_fails_the_job_and_is_printed_all_the_same(
    player: Any, tmp_path: Path, whole_games: WholeGames
) -> None:
    report = tmp_path / "nowhere" / "result.json"
    failed = player.run(
        "--config", "hex5_2p", "--games", 2, "--simulations", 4, env={"BACKBEAT_JOB_RESULT": str(report)}
    )
    assert failed.returncode == 1
    assert failed.stderr == f"Error: [Errno 2] No such file or directory: '{report}'\n"
    assert last_line(failed.stdout)["games"] == len(whole_games(player.database)) == 2


def test_without_openspiel_its_configs_say_what_is_missing_and_the_others_play(tmp_path: Path) -> None:
    program = "import sys; sys.modules['pyspiel'] = None; from examples.openspiel.cli import main; main()"

    def run(config: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, "selfplay", "--config", config, "--games", "1",
             "--simulations", "2", "--data", tmp_path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    missing = run("hex8_2p")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("Error: hex8_2p needs OpenSpiel (the extra `openspiel`): ")
    assert run("hex8_4p").returncode == 0


def test_the_help_shows_every_config_and_an_example(player: Any) -> None:
    shown = player.run("--help")
    assert shown.returncode == 0
    for config, setup in CONFIGS.items():
        assert f"  {config:11} {setup.title}\n" in shown.stdout
    assert "python -m examples.openspiel selfplay --config hex8_2p --games 50" in shown.stdout
