from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from redis import Redis

from fleet.nodes import NodeRegistry
from workers.settings import connect

Cli = Callable[..., Result]


class TestSteering:
    """run, pause, resume, start, stop, interval."""

    @pytest.mark.parametrize(
        ("command", "past", "field", "value"),
        [
            ("pause", "paused", "paused", True),
            ("resume", "resumed", "paused", False),
            ("stop", "stopped", "stopped", True),
            ("start", "started", "stopped", False),
        ],
    )
    def test_a_command_is_for_the_loops_named_or_for_all(
        self, cli: Cli, loops: Any, command: str, past: str, field: str, value: bool
    ) -> None:
        assert cli(command, "beta", "alpha").stdout == f"{past}: beta, alpha\n"
        loops = json.loads(cli("status", "--json").stdout)["loops"]
        assert [loops[name][field] for name in ("alpha", "beta", "gamma")] == [value, value, False]
        assert cli(command, "--all").stdout == f"{past}: alpha, beta, gamma\n"
        assert cli("status", "gamma", "--json").stdout.count(f'"{field}": {json.dumps(value)}') == 1

    def test_nothing_is_done_when_one_name_is_wrong(self, cli: Cli, loops: Any) -> None:
        assert "did you mean 'beta'?" in cli("pause", "alpha", "betta", code=1).stderr
        assert json.loads(cli("status", "--json").stdout)["paused_loops"] == 0

    @pytest.mark.parametrize("arguments", [["pause"], ["pause", "alpha", "--all"], ["pausw", "alpha"], ["interval"]])
    def test_what_is_not_clear_is_a_usage_error(self, cli: Cli, loops: Any, arguments: list[str]) -> None:
        cli(*arguments, code=2)

    def test_there_is_nothing_to_steer_before_beat_has_started(self, cli: Cli) -> None:
        assert "no loops yet" in cli("pause", "--all", code=1).stderr

    def test_an_interval_is_any_duration(self, cli: Cli, loops: Any) -> None:
        assert cli("interval", "alpha", "90s").stdout == "alpha: every 1m30s\n"
        assert json.loads(cli("status", "alpha", "--json").stdout)["interval"] == 90
        assert "is not a duration" in cli("interval", "alpha", "soon", code=2).stderr
        assert "at least 0.1 s" in cli("interval", "alpha", "10ms", code=2).stderr


class TestRun:
    @pytest.fixture(autouse=True)
    def agent(self, session_server: Any, redis: Redis) -> None:
        NodeRegistry(connect(session_server.url)).heartbeat("n1", "agent", {"host": "h", "pid": 10})

    @pytest.fixture
    def worker(self, redis: Redis, loops: Any) -> Callable[[str, Callable[[str], None]], Any]:
        """Take one manual run off a queue, as a worker would, and do something under its id."""

        def take(queue: str, act: Callable[[str], None]) -> threading.Thread:
            def work() -> None:
                answer = redis.blpop([queue], timeout=20)
                assert answer is not None
                act(json.loads(answer[1])["headers"]["id"])

            thread = threading.Thread(target=work)
            thread.start()
            return thread

        return take

    def test_says_what_the_run_did(self, cli: Cli, loops: Any, worker: Any) -> None:
        thread = worker("loops", lambda call: loops.ran("alpha", "succeeded", call, counts={"added": 3}))
        assert cli("run", "alpha").stdout == "alpha: succeeded in 50ms (added 3)\n"
        thread.join()

    def test_that_fails_is_exit_code_1_with_the_error(self, cli: Cli, loops: Any, worker: Any) -> None:
        thread = worker("leader", lambda call: loops.ran("beta", "failed", call, error="ValueError: why"))
        assert "beta: failed: ValueError: why; its traceback: backbeat status beta" in cli("run", "beta", code=1).stderr
        thread.join()

    def test_that_is_refused_at_the_gate_says_why(self, cli: Cli, loops: Any, worker: Any) -> None:
        def overlap(call: str) -> None:
            for run, each in (("r1", "other"), ("r2", call)):
                loops.gate(
                    "alpha", None, run, ttl=8.0, deadline=9.0, leader_only=False, owner="", identity="n1@h", call=each
                )

        thread = worker("loops", overlap)
        assert "alpha: refused: it is running already" in cli("run", "alpha", code=1).stderr
        thread.join()

    def test_that_nobody_takes_is_given_up(self, cli: Cli, loops: Any) -> None:
        said = cli("run", "alpha", "--wait", "200ms", code=1).stderr
        assert "alpha: no outcome within 200ms; see: backbeat status alpha" in said

    def test_need_not_be_waited_for(self, cli: Cli, loops: Any, redis: Redis) -> None:
        assert cli("run", "alpha", "--wait", "0s").stdout == "alpha: sent\n"
        assert redis.llen("loops") == 1

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("beta", "beta is stopped; start it first: backbeat start beta"),
            ("gamma", "gamma is disabled in the configuration"),
            ("alhpa", "did you mean 'alpha'?"),
        ],
    )
    def test_that_cannot_be_is_refused_at_once(self, cli: Cli, loops: Any, redis: Redis, name: str, why: str) -> None:
        cli("stop", "beta")
        assert why in cli("run", name, code=1).stderr
        assert redis.llen("loops") == redis.llen("leader") == 0

    def test_without_an_agent_is_refused_at_once(self, cli: Cli, loops: Any, redis: Redis) -> None:
        NodeRegistry(loops.redis).leave("n1", "agent")
        assert "no agent is there to run it" in cli("run", "alpha", code=1).stderr
        assert redis.llen("loops") == 0
