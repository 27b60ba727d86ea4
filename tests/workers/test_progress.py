"""How far the cluster has come, as numbers and as a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from fleet.elo_board import ELO, TARGETS
from fleet.nodes import NodeRegistry
from tests.workers.show_stage import BEST
from workers.progress import RATE_OVER, rates
from workers.show_progress import spread


def rows(*values: float | None, step: float = 30.0) -> list[dict[str, float]]:
    return [
        {"at": step * place} if each is None else {"at": step * place, "n": each} for place, each in enumerate(values)
    ]


def test_a_rate_is_taken_over_the_last_minutes_alone() -> None:
    steady = rates(rows(*range(40)), "n")
    assert steady[0] is None
    assert steady[1:] == [pytest.approx(120.0)] * 39
    stopped = rates(rows(*range(20), *[19] * 20), "n")
    assert stopped[-1] == 0.0  # RATE_OVER is past
    assert stopped[25] == pytest.approx(120.0 * (10 - 6) / 10)


def test_a_total_that_fell_began_anew_and_a_missing_one_has_no_rate() -> None:
    assert rates(rows(5, 6, 1, 2, None, 4), "n")[2:] == [None, pytest.approx(120.0), None, pytest.approx(120.0)]
    assert rates(rows(None, None), "n") == [None, None]
    assert rates([], "n") == []


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=50), st.floats(1, 2 * RATE_OVER))
def test_rates_of_a_growing_total_lie_between_its_slowest_and_its_fastest(steps: list[int], step: float) -> None:
    values = [sum(steps[: place + 1]) for place in range(len(steps))]
    found = [each for each in rates(rows(*values, step=step), "n") if each is not None]
    hourly = [3600 * each / step for each in steps[1:]]
    assert all(min(hourly) * 0.999 - 1e-6 <= each <= max(hourly) * 1.001 + 1e-6 for each in found)


@given(st.integers(0, 100), st.integers(1, 30))
def test_rows_are_spread_evenly_and_the_last_is_always_there(known: int, wanted: int) -> None:
    chosen = spread(range(known), wanted)
    assert len(chosen) == min(known, wanted)
    assert chosen == sorted(set(chosen))
    assert chosen[-1:] == list(range(known))[-1:]


def test_the_command_shows_what_the_page_does(cli: Callable[..., Result], redis: Redis) -> None:
    empty = cli("progress").output
    assert "No ratings yet" in empty
    assert "No totals yet" in empty

    now = redis.time()[0]
    redis.hset(ELO, mapping={"hex8_2p": json.dumps({"config": "hex8_2p", "best": BEST, "velocity": -3.2}), "": "x"})
    redis.hset(TARGETS, "hex8_2p", json.dumps({"target": 1450.0, "met": True, "since": now - 3600}))
    registry = NodeRegistry(redis)
    for ago, games in ((60, 0), (0, 5)):
        redis.hset("{backbeat}:jobs:games", "hex8_2p", games)
        registry.mark({}, totals={"at": now - ago, "nodes": 3, "healthy": 2, "slots": 8, "busy_slots": 5})
    shown = cli("progress").output
    for said in ("1,512", "± 39", "1,450, met 1h ago", "-3", "5 of 8", "300"):
        assert said in shown, said
    document: dict[str, Any] = json.loads(cli("progress", "--json").output)
    assert document["elo"]["hex8_2p"]["target"]["target"] == 1450.0
    assert [row["games_per_hour"] for row in document["totals"]] == [None, 300.0]
    assert document["totals"][-1]["depth"] == 0
