from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result

from fleet.nodes import NodeRegistry
from workers.lease import LeaderLease
from workers.settings import connect

Cli = Callable[..., Result]


@pytest.fixture
def registry(session_server: Any, redis: Any) -> Iterator[NodeRegistry]:
    """Two nodes: n1 with both of its processes, n2 with an agent."""
    client = connect(session_server.url)
    registry = NodeRegistry(client)
    agent = {"host": "h", "pid": 10, "probe": {"key": "secret"}, "metrics": {"cpu": 12.0, "memory": 40.0, "disk": 70.0}}
    registry.heartbeat("n1", "agent", agent, history=[[0, 1, 12.0, 12.0, None, None, 40.0, 70.0]])
    registry.heartbeat("n1", "jobs", {"host": "h", "pid": 11, "slots": 4, "running": ["j1"]})
    registry.heartbeat("n2", "agent", {"host": "h", "pid": 20})
    yield registry
    client.close()


def draining(registry: NodeRegistry) -> dict[str, Any]:
    return {node.node_id: node.marks["drain"] for node in registry.all() if "drain" in node.marks}


class TestNodes:
    def test_are_listed(self, cli: Cli, registry: NodeRegistry) -> None:
        assert re.search(r"^n1 +healthy +1 of 4 +12% +40% +70%", cli("nodes").stdout, re.MULTILINE)

    def test_are_a_list_of_documents_for_scripts(self, cli: Cli, registry: NodeRegistry) -> None:
        first, second = json.loads(cli("nodes", "--json").stdout)
        assert (first["node_id"], first["host"], first["agent_pid"], first["jobs_pid"]) == ("n1", "h", 10, 11)
        assert (second["node_id"], second["jobs_pid"]) == ("n2", None)
        assert json.loads(cli("status", "--json").stdout)["nodes"][0].keys() == first.keys()

    def test_of_an_empty_cluster_are_no_error(self, cli: Cli) -> None:
        assert cli("nodes").stdout.startswith("No nodes yet")
        assert cli("nodes", "--json").stdout == "[]\n"

    def test_are_bounded_for_people_and_not_for_scripts(self, cli: Cli, registry: NodeRegistry) -> None:
        for number in range(60):
            registry.heartbeat(f"more-{number:02}", "agent", {})
        assert "showing 50 of 62 nodes" in cli("nodes").stdout
        assert "showing 5 of 62 nodes" in cli("nodes", "--limit", "5").stdout
        assert "showing" not in cli("nodes", "--limit", "62").stdout
        assert len(json.loads(cli("nodes", "--json").stdout)) == 62


class TestShow:
    def test_shows_one_node_in_full(self, cli: Cli, registry: NodeRegistry, session_server: Any) -> None:
        lease = LeaderLease(connect(session_server.url), "n1")
        assert lease.try_once()
        shown = cli("nodes", "show", "n1").stdout
        assert "node         n1, leads" in shown
        assert "pid 11 on h" in shown
        assert "last 60 minutes" in shown
        printed = cli("nodes", "show", "n1", "--json").stdout
        assert "secret" not in printed + shown
        document = json.loads(printed)
        assert document["roles"]["jobs"]["pid"] == 11
        assert (document["leads"], document["history"][0][2]) == (True, 12.0)

    def test_of_an_unknown_node_names_the_nearest(self, cli: Cli, registry: NodeRegistry) -> None:
        assert cli("nodes", "show", "n22", code=1).stderr == "backbeat: no node is named 'n22'; did you mean 'n2'?\n"
        error = cli("nodes", "drain", "n1", "elsewhere", code=1).stderr
        assert error == "backbeat: no node is named 'elsewhere'; `backbeat nodes` lists those there are\n"
        assert draining(registry) == {}

    @pytest.mark.parametrize("where", [["--json", "show", "n1"], ["show", "n1", "--json"]])
    def test_takes_its_options_before_or_behind_its_name(
        self, cli: Cli, registry: NodeRegistry, where: list[str]
    ) -> None:
        assert json.loads(cli("nodes", *where).stdout)["node_id"] == "n1"
        error = cli("nodes", "--redis", "redis://127.0.0.1:1/0", "show", "n1", code=1).stderr
        assert "cannot use the server redis://127.0.0.1:1/0" in error


class TestDrain:
    def test_marks_nodes_with_who_and_why_until_undrain(self, cli: Cli, registry: NodeRegistry) -> None:
        shown = cli("nodes", "drain", "n1", "n2", "--reason", "new disk").stdout
        assert shown.splitlines() == [
            "n1: drains; the job that runs on it goes on to its end",
            "n2: drains; no job runs on it",
        ]
        marks = draining(registry)
        assert marks.keys() == {"n1", "n2"}
        mark = marks["n1"]
        assert mark["reason"] == "new disk"
        assert re.fullmatch(r"[^@ ]+@[^@ ]+", mark["by"])
        (node, _) = registry.all()
        assert 0 <= mark["at"] - node.last_seen < 30  # both on the server's clock
        assert "draining for" in cli("nodes").stdout
        assert cli("nodes", "undrain", "n1").stdout == "n1: takes jobs again\n"
        assert draining(registry).keys() == {"n2"}

    def test_tells_scripts_how_the_nodes_stand_now(self, cli: Cli, registry: NodeRegistry) -> None:
        (node,) = json.loads(cli("nodes", "drain", "n1", "--json").stdout)
        assert node["draining"]["reason"] == ""
        (node,) = json.loads(cli("nodes", "undrain", "n1", "--json").stdout)
        assert node["draining"] is None


class TestReset:
    def test_gives_nodes_all_their_attempts_again(self, cli: Cli, registry: NodeRegistry) -> None:
        at = registry.all()[0].last_seen
        given_up = {"since": at - 900, "state": "Stopped", "attempts": 3, "gave_up_at": at, "error": "up: no route"}
        registry.mark({"n1": {"tailnet": given_up}, "n2": {"tailnet": given_up}})
        shown = cli("nodes", "show", "n1").stdout
        assert re.search(r"^tailnet +Stopped for 15m, 3 attempts, given up, up: no route *$", shown, re.MULTILINE)
        cli("nodes", "reset", "n1")
        assert {node.node_id: "tailnet" in node.marks for node in registry.all()} == {"n1": False, "n2": True}
