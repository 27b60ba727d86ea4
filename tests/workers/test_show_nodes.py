from __future__ import annotations

from typing import Any

import pytest

from fleet.nodes import Node
from tests.workers.show_stage import NOW, document, node, text
from workers import show_nodes

METRICS = {
    "cpu": 12.4,
    "memory": 40.0,
    "memory_total": 32 * 2**30,
    "disk": 71.0,
    "disk_free": 120 * 2**30,
    "load": [1.25, 1.0, 0.9],
    "cores": 8,
    "gpus": [{"name": "A100", "utilization": 98.0, "memory": 55.0, "memory_total": 80 * 2**30}, {"name": "old"}],
}
DRAIN = {"reason": "new disk", "by": "ann@desk", "at": NOW - 300}


def full(**more: Any) -> Node:
    """A node of which everything is known."""
    roles = {
        "agent": {
            "host": "h",
            "pid": 10,
            "metrics": METRICS,
            "addresses": {"lan": ["192.0.2.7"], "tailnet": ["100.64.0.7", "fd7a:115c:a1e0::7"]},
            "clock_offset": -0.012,
            "versions": {"python": "3.12.1", "backbeat": "1.0"},
            "tailnet": {"state": "Running", "online": True, "age": 1.0},
        },
        "jobs": {"host": "h", "pid": 11, "slots": 4, "running": ["job-a", "job-b"], "capabilities": ["cpu", "gpu"]},
    }
    health = {"status": "unhealthy", "since": NOW - 600, "at": NOW, "reasons": ["disk 97 % full"]}
    marks = {
        "health": health,
        "drain": DRAIN,
        "idle": {"since": NOW - 900, "why": "CPU below 10 % and no job"},
        "address": {"address": "192.0.2.7", "source": "lan", "reachable": False, "why": "refused"},
    }
    return Node("n1", NOW - 2, roles, {"agent": NOW - 2, "jobs": NOW - 3}, marks, **more)


def listed(*nodes: Any, width: int = 200, limit: int = 50) -> list[str]:
    shown = show_nodes.nodes(document(nodes=list(nodes)), width, limit)
    return [" ".join(line.split()) for line in text(shown, width).splitlines()]


class TestTheList:
    def test_has_a_line_a_node_with_what_is_known_of_it(self) -> None:
        titles, row = listed(full().document(NOW))
        assert titles == "node status jobs cpu gpu mem disk load idle last seen host notes"
        assert row == (
            "n1 (leader) unhealthy 2 of 4 12% 98% 40% 71% 1.25 15m 2s ago h draining for 5m: new disk; disk 97 % full"
        )

    def test_says_nothing_of_what_nobody_measured(self) -> None:
        titles, row = listed(node("n1"))
        assert (titles, row) == ("node status jobs last seen host", "n1 (leader) healthy 1 of 4 2s ago h")

    def test_begins_with_those_that_are_not_well(self) -> None:
        nodes = [
            node("a"),
            node("b", agent_pid=None, jobs_pid=None),
            node("c", last_seen=NOW - 20),
            node("d", health={"status": "lost", "at": NOW}),
            node("e", health={"status": "unhealthy", "at": NOW}),
        ]
        rows = [row.split()[:2] for row in listed(*nodes)[1:]]
        assert rows == [["d", "lost"], ["e", "unhealthy"], ["c", "suspect"], ["a", "healthy"], ["b", "left"]]

    def test_of_a_thousand_is_bounded_and_says_so(self) -> None:
        nodes = [node(f"n{number:04}") for number in range(1000)]
        lines = listed(*nodes, width=80)
        assert len(lines) == 52
        assert lines[-1] == ("showing 50 of 1,000 nodes, those that are not well first; more with --limit")

    @pytest.mark.parametrize("width", [60, 80, 100, 120])
    def test_fits_the_screen(self, width: int) -> None:
        shown = text(show_nodes.nodes(document(nodes=[full().document(NOW)]), width, 50), 300)
        assert "n1 (leader)" in shown
        assert "unhealthy" in shown
        assert len(text(show_nodes.nodes(document(nodes=[full().document(NOW)]), width, 50), width).splitlines()) == 2

    def test_of_none_says_how_to_begin(self) -> None:
        assert listed() == ["No nodes yet: start an agent on one (celery -A workers.app worker)."]


class TestOneNode:
    def seen(self, found: Node, *, leads: bool = True, width: int = 80, ascii_only: bool = False) -> str:
        return text(show_nodes.node(found, found.document(NOW), leads, NOW, width, ascii_only=ascii_only), width)

    def test_is_shown_with_all_that_is_known(self) -> None:
        seen = self.seen(full(), width=120)
        for line in (
            "node               n1, leads",
            "status             unhealthy, for 10m",
            "why                disk 97 % full",
            "draining           for 5m, by ann@desk: new disk",
            "idle               for 15m: CPU below 10 % and no job",
            "agent              pid 10 on h, heard 2s ago",
            "jobs worker        pid 11 on h, heard 3s ago; 2 of 4 slots taken, offers cpu, gpu",
            "runs               job-a\n                   job-b",
            "cpu                12% of 8 cores, load 1.25 1.00 0.90",
            "memory             40% of 32 GiB",
            "disk               71%, 120 GiB free",
            "gpu 0              98%, memory 55% of 80 GiB, A100",
            "gpu 1              old",
            "address            192.0.2.7 (lan), does not answer: refused",
            "lan addresses      192.0.2.7",
            "tailnet addresses  100.64.0.7, fd7a:115c:a1e0::7",
            "tailnet            Running",
            "clock              -12 ms from the server's",
            "versions           python 3.12.1, backbeat 1.0",
        ):
            assert line in seen

    def test_that_left_is_shown_too(self) -> None:
        seen = self.seen(Node("n1", NOW - 60, {}), leads=False)
        assert [line.split() for line in seen.splitlines()] == [["node", "n1"], ["status", "left"]]

    def test_shows_a_bar_for_each_minute_of_the_last_hour(self) -> None:
        minute = int(NOW // 60) * 60
        rows = [
            [minute - 60 * back, 12, 100.0 * (back < 10), 100.0, None, None, 40.0, 71.0]
            for back in range(1, 50)
            if back != 5
        ]
        cpu, mem, disk = self.seen(full(history=rows)).splitlines()[-3:]
        assert cpu == "cpu" + " " * 14 + "▁" * 40 + "█" * 4 + " " + "█" * 4 + "  100%  100%"
        assert mem.split() == ["mem", "▄" * 44, "▄" * 4, "40%", "40%"]
        assert disk.endswith("71%   71%")

    @pytest.mark.parametrize("width", [50, 78, 80, 200])
    def test_bars_are_as_many_as_there_is_room_for(self, width: int) -> None:
        minute = int(NOW // 60) * 60
        rows = [[minute - 60 * back, 1, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0] for back in range(1, 61)]
        lines = self.seen(full(history=rows), width=width).splitlines()[-5:]
        assert [line.split()[0] for line in lines] == ["the", "cpu", "gpu", "mem", "disk"]
        assert len(lines[1].split()[1]) == min(60, width - 18)
        assert max(map(len, lines)) <= width

    def test_bars_do_without_unicode(self) -> None:
        minute = int(NOW // 60) * 60
        seen = self.seen(full(history=[[minute - 60, 1, 100.0, 100.0, None, None, 0.0, 50.0]]), ascii_only=True)
        assert seen.isascii()
        assert "@  100%  100%" in seen

    def test_of_another_version_is_shown_as_far_as_it_is_understood(self) -> None:
        odd = Node(
            "n1",
            NOW - 2,
            {"agent": {"metrics": {"cpu": "much", "load": []}, "addresses": {"lan": "192.0.2.7"}}},
            {"agent": NOW - 2},
            history=["nonsense", [1, 2]],
        )
        seen = self.seen(odd)
        assert "pid ? on ?" in seen
        assert "lan addresses  192.0.2.7" in seen
        assert "last 60 minutes" not in seen
        assert listed(odd.document(NOW))[1].startswith("n1")
