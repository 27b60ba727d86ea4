"""Idle nodes on a real registry, and what the loop's options refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from redis.connection import Connection

from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.metrics import Minute
from tasks.idle_detection import Options, idle_detection
from tasks.loop import Tick

NOW = 1_800_000_030.0


def run(fleet: Fleet, now: float = NOW, *, fence: Fence | None = None, **options: Any) -> dict[str, int]:
    tick = Tick(now=now) if fence is None else Tick(now=now, fence=fence)
    return dict(idle_detection(fleet, Options.model_validate(options), tick))


def heard(fleet: Fleet, *nodes: str, now: float = NOW, cpu: float = 3.0, running: tuple[str, ...] = ()) -> None:
    newest = int(now) // 60 * 60 - 60
    history = [Minute(newest - 60 * back, 12, cpu, cpu, None, None, 40.0, 40.0) for back in range(29, -1, -1)]
    for node in nodes:
        fleet.nodes.heartbeat(node, "agent", {"host": "h", "metrics": {"cpu": cpu}}, history=history, now=now)
        fleet.nodes.heartbeat(node, "jobs", {"host": "h", "slots": 2, "running": running}, now=now)


def flags(fleet: Fleet) -> dict[str, Any]:
    return {node.node_id: node.marks["idle"] for node in fleet.nodes.all() if "idle" in node.marks}


def test_the_idle_are_flagged_once_and_the_flag_goes_with_work(fleet: Fleet) -> None:
    heard(fleet, "n1", "n2", "n3")
    heard(fleet, "n4", cpu=80.0)
    assert run(fleet) == {"live": 4, "idle": 3, "flagged": 2, "changed": 2}
    first = flags(fleet)
    assert first.keys() == {"n1", "n2"}
    assert first["n1"] == {"since": NOW - 30 - 1800, "at": NOW, "why": "CPU below 10 % and no job"}
    assert run(fleet, NOW + 1)["changed"] == 0
    assert flags(fleet) == first

    heard(fleet, "n1", now=NOW + 2, running=("j1",))
    assert run(fleet, NOW + 2) == {"live": 4, "idle": 2, "flagged": 2, "changed": 2}
    assert flags(fleet).keys() == {"n2", "n3"}


def test_a_node_that_left_loses_its_flag_and_does_not_count(fleet: Fleet) -> None:
    heard(fleet, "n1", "n2", "n3")
    run(fleet)
    for role in ("agent", "jobs"):
        fleet.nodes.leave("n1", role)
    assert run(fleet) == {"live": 2, "idle": 2, "flagged": 0, "changed": 1}
    assert flags(fleet) == {}


def test_it_takes_two_round_trips_at_most_and_one_when_nothing_changed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard(fleet, "n1", "n2", "n3")
    run(fleet)  # the server has the scripts now
    heard(fleet, *(f"m{number}" for number in range(50)))
    sent: list[object] = []
    send = Connection.send_packed_command
    monkeypatch.setattr(
        Connection, "send_packed_command", lambda *args, **more: sent.append(args) or send(*args, **more)
    )
    assert run(fleet)["changed"] > 0
    assert len(sent) == 2
    assert run(fleet)["changed"] == 0
    assert len(sent) == 3


def test_a_run_that_was_replaced_flags_nothing(fleet: Fleet) -> None:
    heard(fleet, "n1", "n2", "n3")
    fleet.redis.hset("{backbeat}:loop:idle_detection", "run", "the next one")
    late = Fence(leader=0, owner="", run="this one", guard_key="", loop_key="{backbeat}:loop:idle_detection")
    with pytest.raises(FenceRefused):
        run(fleet, fence=late)
    assert flags(fleet) == {}


def test_any_node_may_run_it() -> None:
    assert not idle_detection.leader_only


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idle_threshold": 0}, "greater than 0"),
        ({"idle_after": "1m"}, "greater than or equal to 120"),
        ({"idle_after": "2h"}, "less than or equal to 3525"),
        ({"min_nodes_to_keep": -1}, "greater than or equal to 0"),
        ({"idle_for": "10m"}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)
