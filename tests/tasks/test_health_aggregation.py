"""The judgement of nodes on a real registry, and what its options refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from redis.connection import Connection

from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.jobs import Holder, JobSpec
from fleet.nodes import NODE, TOTALS, TOTALS_KEPT
from tasks.health_aggregation import Options, health_aggregation
from tasks.loop import Tick

NOW = 1_800_000_000.0


def run(fleet: Fleet, now: float = NOW, **tick: Any) -> dict[str, int]:
    return dict(health_aggregation(fleet, Options(), Tick(now=now, **tick)))


def heard(fleet: Fleet, *nodes: str, now: float = NOW, disk: float = 40.0) -> None:
    for node in nodes:
        fleet.nodes.heartbeat(node, "agent", {"host": "h", "metrics": {"disk": disk, "gpus": [{}]}}, now=now)
        fleet.nodes.heartbeat(node, "jobs", {"host": "h", "slots": 2, "running": ["j1"]}, now=now)


def statuses(fleet: Fleet, now: float = NOW) -> dict[str, str]:
    return {node.node_id: node.status(now) for node in fleet.nodes.all()}


def test_a_node_is_healthy_then_suspect_then_lost_and_healthy_when_it_is_back(fleet: Fleet) -> None:
    heard(fleet, "n1", "n2")
    assert run(fleet) == {
        "nodes": 2, "healthy": 2, "suspect": 0, "unhealthy": 0, "lost": 0,
        "slots": 4, "busy_slots": 2, "gpus": 2, "changed": 2,
    }  # fmt: skip
    for silence, expected in ((60, "suspect"), (121, "lost")):
        heard(fleet, "n2", now=NOW + silence)
        run(fleet, NOW + silence)
        assert statuses(fleet, NOW + silence) == {"n1": expected, "n2": "healthy"}
    assert run(fleet, NOW + 122)["slots"] == 2
    heard(fleet, "n1", "n2", now=NOW + 123)
    assert run(fleet, NOW + 124)["healthy"] == 2
    assert [notice.title for _, notice in fleet.notices.recent()] == ["Node back", "Node lost"]


def test_the_last_metrics_of_a_lost_node_stay(fleet: Fleet) -> None:
    heard(fleet, "n1", disk=41.0)
    run(fleet, NOW + 500)
    (node,) = fleet.nodes.all()
    assert (node.status(NOW + 500), node.metrics["disk"]) == ("lost", 41.0)


def test_nothing_is_written_on_a_node_while_its_judgement_stays(fleet: Fleet) -> None:
    heard(fleet, "n1", "n2", disk=97.0)
    run(fleet)
    marks = [fleet.redis.hget(NODE + node, "health") for node in ("n1", "n2")]
    for later in (1, 2, 3):
        heard(fleet, "n1", "n2", now=NOW + later, disk=97.0 + later / 2)
        assert run(fleet, NOW + later)["changed"] == 0
    assert [fleet.redis.hget(NODE + node, "health") for node in ("n1", "n2")] == marks


def test_it_takes_two_round_trips_however_many_nodes(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    run(fleet)  # the server has the scripts now
    heard(fleet, *(f"n{number}" for number in range(50)))
    sent: list[object] = []
    send = Connection.send_packed_command
    monkeypatch.setattr(
        Connection, "send_packed_command", lambda *args, **more: sent.append(args) or send(*args, **more)
    )
    assert run(fleet)["changed"] == 50
    assert len(sent) == 2


def test_each_cycle_keeps_a_row_of_totals_with_the_queues_depth(fleet: Fleet) -> None:
    fleet.jobs.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(5)])
    job = fleet.jobs.claim(Holder("n1", "o"), ["cpu"])
    assert job is not None
    fleet.jobs.start(Holder("n1", "o"), job.id, job.attempt)
    heard(fleet, "n1")
    run(fleet)
    run(fleet, NOW + 121)
    first, second = fleet.nodes.totals()
    assert first == {
        "at": NOW, "nodes": 1, "healthy": 1, "suspect": 0, "unhealthy": 0, "lost": 0,
        "slots": 2, "busy_slots": 1, "gpus": 1, "pending": 4, "claimed": 0, "running": 1, "completed": 0, "games": 0,
    }  # fmt: skip
    assert (second["at"], second["healthy"], second["lost"], second["slots"]) == (NOW + 121, 0, 1, 0)


def test_totals_are_trimmed_to_what_an_hour_needs(fleet: Fleet) -> None:
    for row in range(TOTALS_KEPT + 3):
        fleet.nodes.mark({}, totals={"at": row})
    assert fleet.redis.xlen(TOTALS) == TOTALS_KEPT
    assert [row["at"] for row in fleet.nodes.totals()] == list(range(3, TOTALS_KEPT + 3))


def test_a_run_that_was_replaced_writes_and_tells_nothing(fleet: Fleet) -> None:
    heard(fleet, "n1")
    fleet.redis.hset("{backbeat}:loop:health_aggregation", "run", "the next one")
    late = Fence(leader=0, owner="", run="this one", guard_key="", loop_key="{backbeat}:loop:health_aggregation")
    with pytest.raises(FenceRefused):
        run(fleet, NOW + 500, fence=late)
    assert statuses(fleet, NOW) == {"n1": "healthy"}
    assert fleet.nodes.totals() == []
    assert fleet.notices.recent() == []


def test_after_the_server_was_away_nobody_is_lost_before_the_second_look(fleet: Fleet) -> None:
    heard(fleet, "n1", "n2")
    run(fleet)
    assert run(fleet, NOW + 300, missed=9)["lost"] == 0
    heard(fleet, "n1", now=NOW + 329)
    assert run(fleet, NOW + 330)["lost"] == 1
    assert statuses(fleet, NOW + 330) == {"n1": "healthy", "n2": "lost"}


def test_any_node_may_run_it() -> None:
    assert not health_aggregation.leader_only


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lost_after": "20s"}, r"lost_after \(20 s\) must be above suspect_after \(30 s\)"),
        ({"suspect_after": "5s"}, "greater than 5"),
        ({"suspect_after": "soon"}, "'soon' is not a duration"),
        ({"disk_limit": 101}, "less than or equal to 100"),
        ({"margin": 95}, r"margin \(95\) must be below disk_limit and memory_limit \(95\)"),
        ({"disk_limt": 90}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)
