"""A cluster that grows while jobs wait and shrinks when nothing is left to do, with real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.jobs import JobSpec, JobStatus
from fleet.nodes import Node, NodeRegistry
from fleet.notices import Notices
from fleet.processes import kill_marked

pytestmark = pytest.mark.story

CELERY = ["{python}", "-m", "celery", "-A", "stage", "worker", "-l", "INFO", "-n"]
SCALING = {
    "interval": "500ms",
    "provider": "local",
    "min_nodes": 0,
    "max_nodes": 1,
    "scale_up_cooldown": 0,
    "scale_down_cooldown": 0,
    "stabilize_for": 0,
    "local": {
        "commands": {
            "agent": [*CELERY, "agent@{name}"],
            "jobs": [*CELERY, "jobs@{name}", "-Q", "{queues}", "-c", "{slots}"],
        }
    },
}
JOB = {"command": ["{python}", "-c", "print('{{\"games\": 1}}')"], "nice": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Where the nodes lie; none outlives the story."""
    yield tmp_path / "instances"
    for node in (tmp_path / "instances").glob("*"):
        kill_marked({"BACKBEAT_NODE_ID": node.name, "BACKBEAT_DATA": str(node / "data")})


def test_a_node_comes_for_the_jobs_runs_them_and_goes_when_it_is_idle(
    house: Any, folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("BACKBEAT_INSTANCES", str(folder))
    house.configure({"auto_scaling": SCALING}, jobs={"selfplay": JOB})
    registry = NodeRegistry(house.redis)
    house.agent("n1")
    house.beat()
    house.await_leader()
    house.until(lambda: house.status("auto_scaling").get("run_count"), 20, "a first run")
    assert house.status("auto_scaling")["last_counts"]["wanted"] == 0

    # nobody is there to run these
    house.queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(2)])
    house.until(lambda: house.queue.counts().by_status.get(JobStatus.COMPLETED) == 2, 40, "two completed jobs")
    (name,) = (path.name for path in folder.iterdir())
    node = found(registry, name)
    record = json.loads((folder / name / "instance.json").read_text())
    pids = [process["pid"] for process in record["processes"].values()]
    assert sorted(pids) == sorted(facts["pid"] for facts in node.roles.values())
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert "Scaled up" in titles(house)
    # it stays while it is not idle
    seq = house.status("auto_scaling")["seq"]
    house.until(lambda: house.status("auto_scaling")["seq"] > seq + 2, 20, "more runs")
    assert found(registry, name).marks == {}

    registry.mark({name: {"idle": {"since": node.last_seen - 900, "at": node.last_seen, "why": "no job"}}})
    house.until(lambda: name not in [each.node_id for each in registry.all()], 40, "the end of the node")
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    drained = json.loads((folder / name / "instance.json").read_text())["ended"]
    assert drained.startswith("auto_scaling:")
    assert "Scaled down" in titles(house)
    assert "Scaling failed" not in titles(house)
    log = (folder / name / "logs" / "jobs.log").read_text()
    assert "Warm shutdown" in log
    assert house.status("auto_scaling")["error_count"] == 0


def found(registry: NodeRegistry, name: str) -> Node:
    (node,) = (node for node in registry.all() if node.node_id == name)
    return node


def titles(house: Any) -> list[str]:
    return [notice.title for _, notice in Notices(redis=house.redis).recent()]
