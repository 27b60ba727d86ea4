"""Nodes say who they are, and two processes that say the same do not run side by side."""

from __future__ import annotations

import os
import platform
import signal
import socket
from typing import Any

import celery
import psutil
import pytest

from fleet.addresses import addresses
from fleet.nodes import Node, NodeRegistry, NodeTaken

pytestmark = pytest.mark.story

WAITS = "waiting until it falls silent"


def known(house: Any, node_id: str = "n1") -> Node | None:
    return next((node for node in NodeRegistry(house.redis).all() if node.node_id == node_id), None)


def pid_of(house: Any, role: str) -> int:
    node = known(house)
    return int(node.roles[role]["pid"]) if node is not None and role in node.roles else 0


def test_two_processes_of_one_name(house: Any) -> None:
    house.configure({"leading": {"interval": "300s"}})
    agent, jobs = house.agent("n1"), house.jobs("n1")
    house.until(lambda: (pid_of(house, "agent"), pid_of(house, "jobs")) == (agent.pid, jobs.pid), what="a node")
    leader = house.await_leader()
    # what it reports of itself is true of this machine
    node = house.until(lambda: (found := known(house)) and "disk" in found.metrics and found, what="its metrics")
    facts = node.roles["agent"]
    assert (facts["host"], facts["pid"]) == (socket.gethostname(), agent.pid)
    assert facts["addresses"] == addresses()
    assert facts["versions"].items() >= {"python": platform.python_version(), "celery": celery.__version__}.items()
    assert abs(facts["clock_offset"]) < 5
    assert facts["metrics"]["memory_total"] == psutil.virtual_memory().total
    assert facts["metrics"]["cores"] == psutil.cpu_count()
    disk = psutil.disk_usage(str(house.folder / "n1"))
    assert facts["metrics"]["disk"] == pytest.approx(disk.percent, abs=2)

    # a second pair with the same name, elsewhere on the disk, does not start
    (house.folder / "copy").mkdir()
    copies = {
        role: house.process(
            f"copy-{role}",
            ["worker", "-l", "INFO", "-n", f"{role}@copy", *queues],
            BACKBEAT_NODE_ID="n1",
            BACKBEAT_DATA=str(house.folder / "copy"),
        )
        for role, queues in {"agent": (), "jobs": ("-Q", "jobs.cpu", "-c", "1")}.items()
    }
    for role, copy in copies.items():
        assert copy.popen.wait(40) == 1, copy.text()
        first = {"agent": agent, "jobs": jobs}[role]
        assert f"role {role} of node n1 is taken by pid {first.pid} on {socket.gethostname()}" in copy.text()
        assert "another BACKBEAT_NODE_ID" in copy.text()
        assert "Traceback" not in copy.text()
    # nor did it do anything in the node's name
    assert "consuming from node.n1" not in copies["agent"].text()
    assert "leads now" not in copies["agent"].text()
    assert agent.alive
    assert jobs.alive
    assert (pid_of(house, "agent"), pid_of(house, "jobs")) == (agent.pid, jobs.pid)
    assert house.leader() == leader

    # one that was killed is followed at once
    agent.kill()
    jobs.kill()
    agent, jobs = house.agent("n1"), house.jobs("n1")
    house.until(lambda: (pid_of(house, "agent"), pid_of(house, "jobs")) == (agent.pid, jobs.pid), what="successors")
    for process in (agent, jobs):
        assert "died without a word" in process.text()
        assert WAITS not in process.text()


def test_a_restart_does_not_wait_for_what_the_old_agent_still_runs(house: Any) -> None:
    house.configure({"slow": {"interval": "600s", "seconds": 4}})
    old = house.agent("n1")
    house.beat()
    house.until(lambda: house.notes("slow"), what="a run in progress")
    old.send(signal.SIGTERM)
    new = house.agent("n1")
    house.until(lambda: pid_of(house, "agent") == new.pid, what="the successor")
    assert WAITS not in new.text()
    assert old.popen.wait(20) == 0
    # the old one's end takes nothing from the new one
    assert house.status("slow")["success_count"] == 1
    assert pid_of(house, "agent") == new.pid


def test_an_agent_whose_name_was_taken_while_it_was_cut_off_gives_up_the_lead_and_ends(house: Any) -> None:
    house.configure({"leading": {"interval": "300s"}})
    old = house.agent("n1")
    house.until(lambda: house.await_leader()["pid"] == old.pid and pid_of(house, "agent"), what="it leads")
    nodes = NodeRegistry(house.redis)
    another = {"host": "elsewhere", "pid": os.getpid()}

    def takes() -> bool:
        """As if the agent had been silent: it is its last heartbeat that is taken for that of a dead process."""
        try:
            nodes.heartbeat("n1", "agent", another, owner="another", take=known(house).heard["agent"])
        except NodeTaken:  # it was heard in between
            return False
        return True

    house.until(takes, what="its name is taken")
    assert old.popen.wait(20) == 1
    assert f"taken by pid {os.getpid()} on elsewhere" in old.text()
    assert "this node leads no more" in old.text()
    assert house.leader() == {}
    assert known(house).roles["agent"]["host"] == "elsewhere"
