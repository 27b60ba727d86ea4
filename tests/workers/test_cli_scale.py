from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from click.testing import Result
from redis import Redis

from fleet.nodes import NodeRegistry
from fleet.scale_snapshot import Awaited, Scaling
from fleet.scale_state import ScaleState
from tests.workers.show_stage import NOW, loop, node, text
from workers import show_scale
from workers.settings import connect

Cli = Callable[..., Result]


@pytest.fixture
def state(session_server: Any, redis: Redis) -> Iterator[ScaleState]:
    client = connect(session_server.url)
    yield ScaleState(client)
    client.close()


def test_a_number_is_pinned_until_it_is_left_to_the_loop_again(cli: Cli, state: ScaleState) -> None:
    assert "number     as auto_scaling decides" in cli("scale").stdout
    assert "number     pinned to 4" in cli("scale", "--nodes", "4").stdout
    assert state.read().pinned == 4
    assert json.loads(cli("scale", "--json").stdout)["pinned"] == 4
    cli("scale", "--nodes", "0")
    assert state.read().pinned == 0
    assert "number     as auto_scaling decides" in cli("scale", "--auto").stdout
    assert state.read().pinned is None


def test_what_cannot_be_is_refused(cli: Cli, state: ScaleState, redis: Redis) -> None:
    assert "either --nodes or --auto" in cli("scale", "--nodes", "4", "--auto", code=2).stderr
    assert "x>=0" in cli("scale", "--nodes", "-1", code=2).stderr
    assert state.read().pinned is None
    redis.hset("{backbeat}:scaling", "awaited", "[7]")
    assert "is malformed" in cli("scale", code=1).stderr


def test_before_the_first_decision_it_says_so(cli: Cli, state: ScaleState) -> None:
    shown = cli("scale").stdout
    assert "nothing is decided yet" in shown
    assert "auto_scaling is not in the timetable" in shown


def test_nodes_that_scaling_started_are_told_by_their_names(cli: Cli, state: ScaleState, session_server: Any) -> None:
    registry = NodeRegistry(connect(session_server.url))
    for name in ("auto-7-1", "big-box-12-3", "node-1", "auto-7", "left-1-1"):
        registry.heartbeat(name, "jobs", {"slots": 2})
    registry.leave("left-1-1", "jobs")
    document = json.loads(cli("scale", "--json").stdout)
    assert [node["node_id"] for node in document["nodes_started"]] == ["auto-7-1", "big-box-12-3"]


class TestShown:
    def seen(self, scaling: Scaling, **more: Any) -> str:
        document = {**asdict(scaling), "nodes_started": [], "loop": None, **more}
        return text(show_scale.scale(document, NOW, 80))

    def test_says_which_command_shows_the_nodes_that_are_left_out(self) -> None:
        started = [node(f"auto-1-{number}") for number in range(60)]
        last = self.seen(Scaling(), nodes_started=started).splitlines()[-1]
        assert last == "showing 50 of 60 nodes that it started; more with backbeat nodes --limit"

    def test_in_full(self) -> None:
        scaling = Scaling(
            last_up_at=NOW - 20,
            failed_at=NOW - 30,
            failures=2,
            awaited={"auto-7-1": Awaited(NOW - 20), "auto-3-1": Awaited(NOW - 2000, counted=True)},
            decided_at=NOW - 20,
            nodes=4,
            wanted=5,
            reason="60 jobs pending for 4 nodes; 1 started",
        )
        started = node("auto-2-1", drain={"by": "auto_scaling", "at": NOW - 60})
        auto = loop("auto_scaling", last_counts={"pending": 60}, consecutive_errors=1, last_error="ProviderError: why")
        seen = self.seen(scaling, nodes_started=[started], loop=auto)
        for line in (
            "nodes      4 at work or coming, 5 wanted, as of 20s ago",
            "because    60 jobs pending for 4 nodes; 1 started",
            "pending    60 jobs that these nodes could run",
            "coming     auto-7-1 (asked for 20s ago)",
            "overdue    auto-3-1",
            "last up    20s ago",
            "last down  never",
            "failures   2 in a row, the last 30s ago",
            "loop       auto_scaling is due, last run 12s ago, next in 48s\n           ProviderError: why",
        ):
            assert line in seen
        assert seen.splitlines()[-1].split() == [
            "auto-2-1",
            "healthy",
            "1",
            "of",
            "4",
            "2s",
            "ago",
            "draining",
            "for",
            "1m",
        ]

    def test_without_what_is_not(self) -> None:
        names = [line.split()[0] for line in self.seen(Scaling(decided_at=NOW)).splitlines()]
        assert names[:4] == ["nodes", "number", "last", "last"]
