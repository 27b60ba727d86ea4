"""A runner with real parts, and declared loops made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from fleet.fleet import Fleet
from fleet.jobs import JobQueue
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from schedules.backoff import Backoff
from schedules.plan import Stanza
from tasks.loop import Loop
from workers.cli import backbeat
from workers.ledger import Grant, Ledger, Scheduled
from workers.runner import Runner
from workers.settings import connect


class Bench:
    """One process's worth of run-time."""

    def __init__(self, url: str, folder: Path) -> None:
        self.redis = connect(url)
        self.ledger = Ledger(self.redis)
        self.runners: list[Runner] = []
        self.fleet = Fleet(
            redis=self.redis,
            options=FleetOptions(),
            jobs=JobQueue(self.redis),
            nodes=NodeRegistry(self.redis),
            notices=Notices(redis=self.redis),
            node_id="n1",
            data=folder,
        )

    def runner(self, *loops: Loop, deadline: float = 5.0, **more: Any) -> Runner:
        """A runner that knows `loops`, which are due."""
        stanzas = {
            loop.name: Stanza(
                name=loop.name,
                interval=60.0,
                deadline=deadline,
                backoff=Backoff(initial_delay=5, jitter=False),
                options=loop.options(),
            )
            for loop in loops
        }
        self.ledger.seed(
            [Scheduled(loop.name, 60.0, "loops", leader_only=loop.leader_only) for loop in loops], prune=True
        )
        made = Runner(self.ledger, self.fleet, {loop.name: loop for loop in loops}, stanzas, **more)
        self.runners.append(made)
        return made

    def status(self, name: str) -> dict[str, Any]:
        from workers.status import read_status

        found: dict[str, Any] = read_status(self.ledger)["loops"][name]
        return found


@pytest.fixture
def bench(session_server: Any, redis: Redis, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(session_server.url, tmp_path)
    yield bench
    for runner in bench.runners:
        runner.stop()


@pytest.fixture
def declare() -> Callable[..., Loop]:
    """Declare a body as a loop named `x`."""
    from tasks.loop import loop

    def make(body: Callable[..., Any], **options: Any) -> Loop:
        declared: Loop = loop(name="x", **options)(body)
        return declared

    return make


@pytest.fixture
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BACKBEAT_", "CELERY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def cli(session_server: Any, redis: Redis, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command on the session's server, expecting an exit code."""
    monkeypatch.setenv("BACKBEAT_REDIS_URL", session_server.url)

    def invoke(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
        result = CliRunner().invoke(backbeat, arguments, input=answer)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


class Loops(Ledger):
    """Three loops: alpha, beta (leader only), gamma (disabled)."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        alpha = Scheduled("alpha", 60.0, "loops")
        beta = Scheduled("beta", 1.0, "leader", leader_only=True)
        self.seed([alpha, beta, Scheduled("gamma", 60.0, "loops", enabled=False)], prune=True)

    def enter(self, name: str, call: str = "") -> Any:
        """A manual run at the gate."""
        return self.gate(
            name, None, "r1", ttl=8.0, deadline=9.0, leader_only=False, owner="", identity="n1@h", call=call
        )

    def ran(self, name: str, outcome: str, call: str = "", **more: Any) -> None:
        """A manual run from gate to end."""
        assert isinstance(self.enter(name, call), Grant)
        self.record(name, "r1", outcome, duration=0.05, **more)


@pytest.fixture
def loops(session_server: Any, redis: Redis) -> Iterator[Loops]:
    """A timetable of three loops on the session's server."""
    client = connect(session_server.url)
    yield Loops(client)
    client.close()
