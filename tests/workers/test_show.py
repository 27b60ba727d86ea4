from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.workers.show_stage import NOW, document, failing, loop, node, text
from workers import show
from workers.status import read_status


class TestStatus:
    def test_shows_when_each_loop_ran_and_what_it_did(self) -> None:
        seen = text(show.status(document(loop("alpha")), 120), 120)
        titles = " ".join(seen.splitlines()[0].split())
        assert titles == "loop state every last run next run runs errors missed avg did"
        assert seen.splitlines()[1].split("  ")[0] == "alpha"
        for part in ("due", "1m", "12s ago", "in 48s", "120", "48ms", "added 50, ratio 0.25"):
            assert part in seen

    def test_says_who_leads_and_beats_and_how_the_jobs_stand(self) -> None:
        seen = text(show.status(document(loop("alpha")), 80))
        assert "leader: n1 (pid 10 on h), for 1h1m, fence 7" in seen
        assert "beat: pid 12 on h, 1 standing by" in seen
        assert "nodes: 1 live; jobs: 48 pending, 2 running; 7 games in completed jobs" in seen

    @pytest.mark.parametrize(
        ("met", "said"),
        [([False, True, False], "1 of 3 targets met"), ([True, True], "every target is met"), ([], "completed jobs")],
    )
    def test_says_how_many_targets_are_met(self, met: list[bool], said: str) -> None:
        targets = {f"hex{number}_2p": {"target": 900.0, "met": each} for number, each in enumerate(met, 5)}
        assert show.progress(document(targets=targets)).endswith(said)

    def test_counts_the_nodes_by_how_they_stand(self) -> None:
        nodes = [*(node(f"n{number}") for number in range(12)), node("gone", agent_pid=None, jobs_pid=None)]
        nodes += [node("lost", last_seen=NOW - 200, health={"status": "lost", "at": NOW})]
        assert "nodes: 12 live, 1 lost, 1 left; jobs:" in text(show.status(document(nodes=nodes), 80))
        assert "nodes: none; jobs:" in text(show.status(document(nodes=[]), 80))

    @pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
    def test_fits_the_screen_and_never_cuts_a_name(self, width: int) -> None:
        names = ["alpha", "tailscale_recovery", "health_aggregation"]
        seen = text(show.status(document(*map(loop, names)), width), max(width, 50))
        assert all(name in seen for name in names)
        assert {"state", "next run", "errors"} <= set(re.split("  +", seen.splitlines()[0]))
        assert ("did" in seen.splitlines()[0]) == (width > 100)
        assert max(map(len, seen.splitlines())) <= max(width, 50)

    def test_shows_the_error_of_a_failing_loop_in_full_at_eighty_columns(self) -> None:
        error = "ConnectionError: " + " ".join(f"word{number}" for number in range(100))
        seen = text(show.status(document(loop("alpha"), failing("beta", error)), 80))
        assert "beta: 3 failures in a row, the last 5s ago, next try in 1m30s" in seen
        assert " ".join(seen.split()).endswith(error)
        assert max(map(len, seen.splitlines())) <= 80

    def test_shows_troubles_first_where_the_end_may_be_cut_off(self) -> None:
        loops = [loop(f"loop{number}") for number in range(100)]
        seen = text(show.status(document(*loops, failing("zeta", "E: why")), 80, troubles_first=True))
        assert seen.splitlines()[:2] == [
            "zeta: 3 failures in a row, the last 5s ago, next try in 1m30s",
            "  E: why",
        ]

    def test_of_an_empty_cluster_says_what_is_missing(self, bench: Any) -> None:
        seen = text(show.status(read_status(bench.ledger), 80))
        assert "No loops yet" in seen
        assert "beat: none is active, so nothing ticks; start one:" in seen
        assert "agents: none is there, so no loop runs; start one:" in seen

    def test_lets_no_error_steer_the_terminal(self) -> None:
        seen = text(show.status(document(failing("beta", "E: \x1b[31mred\x07 [bold]not markup[/bold]")), 80))
        assert r"E: \x1b[31mred\x07 [bold]not markup[/bold]" in seen


class TestTroubles:
    def test_are_none_where_all_is_well(self) -> None:
        assert show.troubles(document(loop("alpha"), loop("off", enabled=False, state="disabled"))) == {}

    def test_name_what_is_missing(self) -> None:
        beatless = document(loop("alpha"), beat={"active": None, "replicas": []})
        assert show.troubles(beatless).keys() == {"beat"}
        assert show.troubles(document(leader=None)).keys() == {"leader"}
        assert show.troubles(document(leader=None, nodes=[])).keys() == {"agents"}
        assert show.troubles(document(nodes=[node("n1", agent_pid=None)])).keys() == {"agents"}

    def test_name_nodes_that_are_not_well_but_not_those_that_stopped(self) -> None:
        full = {"status": "unhealthy", "reasons": ["disk 97 % full", "memory 96 % in use"], "at": NOW, "since": NOW}
        nodes = [
            node("n1"),
            node("n2", health={**full, "status": "suspect"}),
            node("silent", last_seen=NOW - 16),
            node("lost", last_seen=NOW - 200, health={"status": "lost", "reasons": [], "at": NOW, "since": NOW}),
            node("full", health=full),
            node("stopped", last_seen=NOW - 16, agent_pid=None, jobs_pid=None),
        ]
        assert show.troubles(document(nodes=nodes)) == {
            "silent": "suspect; last seen 16s ago on h",
            "lost": "lost; last seen 3m20s ago on h",
            "full": "unhealthy: disk 97 % full, memory 96 % in use on h",
        }

    def test_name_ten_nodes_at_most(self) -> None:
        nodes = [node(f"n{number}", last_seen=NOW - 100) for number in range(1000)]
        troubles = show.troubles(document(nodes=nodes))
        assert len([name for name in troubles if name.startswith("n") and name != "nodes"]) == 10
        assert troubles["nodes"] == "990 more are not well; see: backbeat nodes"

    @pytest.mark.parametrize(
        ("state", "said"),
        [("overrun", "runs past its deadline on n1@h, for 2m"), ("lost", "has lost its worker on n1@h, for 2m")],
    )
    def test_name_loops_that_hang(self, state: str, said: str) -> None:
        hung = loop("hung", state=state, executing=True, executing_by="n1@h", executing_since=NOW - 120)
        assert show.troubles(document(hung)) == {"hung": said}

    def test_say_that_a_paused_loop_has_no_next_try(self) -> None:
        paused = failing("beta", "E") | {"state": "paused", "next_run": None, "consecutive_errors": 1}
        assert show.troubles(document(paused)) == {"beta": "1 failure, the last 5s ago, now paused\nE"}


class TestOneLoop:
    def test_is_shown_with_its_last_error_and_traceback(self) -> None:
        seen = text(show.loop(failing("beta", "E: why"), NOW))
        assert "backing_off, in 1m30s" in seen
        assert "120, 3 failed, 3 in a row; 48ms on average" in seen
        assert f"last error, 5s ago ({time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(NOW - 5))})" in seen
        assert re.search(r"last run  .* ago \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\) on ", seen)
        assert "E: why" in seen
        assert "Traceback (most recent call last):" in seen

    def test_that_never_ran_is_shown_too(self, bench: Any, declare: Any) -> None:
        bench.runner(declare(lambda fleet, options, tick: None))
        seen = text(show.loop(bench.status("x"), read_status(bench.ledger)["now"]))
        assert "never on -: none yet" in seen
        assert "last error" not in seen

    def test_that_runs_is_shown_with_who_runs_it(self) -> None:
        seen = text(
            show.loop(loop("x", state="executing", executing=True, executing_by="n1@h", executing_since=NOW), NOW)
        )
        assert "executing on n1@h since 1s ago" in seen
