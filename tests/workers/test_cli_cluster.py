from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from rich.text import Text

from workers.cli_cluster import _watch
from workers.lease import LeaderLease
from workers.ledger import Scheduled
from workers.settings import connect

Cli = Callable[..., Result]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command as a process."""
    started: list[subprocess.Popen[str]] = []

    def make(*arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", "from workers.cli import main; main()", *arguments]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield make
    for process in started:
        with process:
            process.kill()


def read_until(process: subprocess.Popen[str], word: str) -> None:
    """Read lines up to one with the word in it."""
    assert process.stdout is not None
    while word not in (line := process.stdout.readline()):
        assert line, f"it ended without {word!r}"


class TestSight:
    """status, leader."""

    def test_status_is_the_document_of_the_manager(self, cli: Cli, loops: Any) -> None:
        document = json.loads(cli("status", "--json").stdout)
        assert document["total_loops"] == 3
        assert json.loads(cli("status", "alpha", "--json").stdout)["name"] == "alpha"
        shown = cli("status").stdout
        assert all(f"\n{name}" in shown for name in ("alpha", "beta", "gamma"))
        assert "beat: none is active" in shown

    def test_status_of_one_loop_shows_its_error_in_full(self, cli: Cli, loops: Any) -> None:
        loops.ran("alpha", "failed", error="ValueError: why", traceback="Traceback: where", backoff=60.0)
        shown = cli("status", "alpha").stdout
        assert "ValueError: why" in shown
        assert "Traceback: where" in shown
        assert "did you mean 'alpha'?" in cli("status", "alphq", code=1).stderr

    def test_status_of_an_empty_server_is_no_error(self, cli: Cli) -> None:
        assert "No loops yet" in cli("status").stdout
        assert json.loads(cli("status", "--json").stdout)["loops"] == {}

    def test_the_leader_is_shown_and_its_absence_is_exit_code_1(self, cli: Cli, session_server: Any) -> None:
        assert cli("leader", "--json", code=1).stdout == "null\n"
        assert cli("leader", code=1).stdout == "leader: none\n"
        lease = LeaderLease(connect(session_server.url), "n1")
        assert lease.try_once()
        leader = json.loads(cli("leader", "--json").stdout)
        assert leader.keys() == {"node_id", "host", "pid", "fence", "since"}
        assert (leader["node_id"], leader["pid"], leader["fence"]) == ("n1", os.getpid(), lease.fence())
        assert f"leader: n1 (pid {os.getpid()} on " in cli("leader").stdout

    def test_a_server_that_is_away_is_one_line_and_exit_code_1(self, cli: Cli) -> None:
        for command in (
            *("status", "jobs", "jobs list", "jobs show j", "jobs cancel j", "jobs retry j", "jobs logs j"),
            *("nodes", "nodes show n", "nodes drain n", "leader", "pause --all", "run alpha"),
        ):
            result = cli(*command.split(), "--redis", "redis://:secret@127.0.0.1:1/0", code=1)
            assert result.stderr.startswith("backbeat: cannot use the server redis://:***@127.0.0.1:1/0: ")
            assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("arguments", [[], ["alpha", "--json"]])
    def test_a_watch_shows_it_anew_until_ctrl_c(self, cli: Cli, loops: Any, start: Start, arguments: list[str]) -> None:
        watch = start("status", "--watch", *arguments)
        for _ in range(2):
            read_until(watch, "alpha")
        watch.send_signal(signal.SIGINT)
        _, errors = watch.communicate(timeout=20)
        assert (watch.returncode, errors) == (0, "")

    @pytest.fixture
    def own_server(self, session_server: Any, tmp_path: Path) -> Iterator[Any]:
        server = type(session_server)(tmp_path / "server")
        server.start()
        yield server
        server.kill()

    def test_the_pictures_of_a_piped_watch_stand_apart(self) -> None:
        piped = io.StringIO()
        _watch(
            "redis://127.0.0.1:1/0", Console(file=piped), lambda each: Text(each["said"]), iter([{"said": "one"}] * 2)
        )
        assert piped.getvalue().rstrip() == "one\n\none"

    def test_a_watch_outlives_the_server(self, own_server: Any, start: Start) -> None:
        watch = start("status", "--watch", "--redis", own_server.url)
        read_until(watch, "No loops yet")
        own_server.kill()
        read_until(watch, "cannot use the server")
        read_until(watch, "No loops yet")  # the last picture stays
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=20)
        assert watch.returncode == 0

    @pytest.mark.parametrize("arguments", [[], ["--json"], ["--watch", "--json"]])
    def test_a_reader_that_goes_away_is_no_traceback(
        self, cli: Cli, loops: Any, start: Start, arguments: list[str]
    ) -> None:
        loops.seed([Scheduled(f"loop{number}", 60.0, "loops") for number in range(300)], prune=True)
        status = start("status", *arguments)
        assert status.stdout is not None
        assert status.stderr is not None
        assert status.stdout.readline()
        status.stdout.close()
        assert status.stderr.read() == ""
        assert status.wait(20) in (0, 1)
