from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from fleet.nodes import Node
from workers import show
from workers.status import read_status

NOW = 1_800_000_000.0


def loop(name: str, **more: Any) -> dict[str, Any]:
    """A loop's part of the status document."""
    return {
        "name": name,
        "running": True,
        "paused": False,
        "enabled": True,
        "stopped": False,
        "leader_only": False,
        "interval": 60.0,
        "run_count": 120,
        "success_count": 117,
        "error_count": 3,
        "consecutive_errors": 0,
        "missed": 4,
        "skipped": {"stale": 2},
        "average_duration_ms": 48.4,
        "last_duration_ms": 50.0,
        "last_run_time": NOW - 12,
        "last_success_at": NOW - 12,
        "last_outcome": "succeeded",
        "last_counts": {"added": 50, "ratio": 0.25},
        "last_run_by": "n1@h",
        "last_error": None,
        "last_error_at": None,
        "last_traceback": None,
        "next_run": NOW + 48,
        "backing_off_until": None,
        "executing": False,
        "executing_by": None,
        "executing_since": None,
        "state": "due",
        **more,
    }


def failing(name: str, error: str, **more: Any) -> dict[str, Any]:
    return loop(
        name,
        state="backing_off",
        consecutive_errors=3,
        last_outcome="failed",
        last_error=error,
        last_error_at=NOW - 5,
        last_traceback="Traceback (most recent call last):\n  File",
        next_run=NOW + 90,
        backing_off_until=NOW + 90,
        **more,
    )


def node(
    node_id: str,
    *,
    agent_pid: int | None = 10,
    jobs_pid: int | None = 11,
    last_seen: float = NOW - 2,
    host: str = "h",
    **marks: Any,
) -> dict[str, Any]:
    roles: dict[str, dict[str, Any]] = {}
    if agent_pid is not None:
        roles["agent"] = {"host": host, "pid": agent_pid}
    if jobs_pid is not None:
        roles["jobs"] = {"host": host, "pid": jobs_pid, "slots": 4, "running": ["a"]}
    return Node(node_id, last_seen, roles, dict.fromkeys(roles, last_seen), marks).document(NOW)


def document(*loops: dict[str, Any], **more: Any) -> dict[str, Any]:
    statuses = ("pending", "claimed", "running", "completed", "failed", "cancelled", "timed_out", "abandoned")
    counts = {**dict.fromkeys(statuses, 0), "pending": 48, "running": 2}
    return {
        "now": NOW,
        "loops": {each["name"]: each for each in loops},
        "leader": {"node_id": "n1", "host": "h", "pid": 10, "fence": 7, "since": NOW - 3700},
        "beat": {"active": {"pid": 12, "host": "h"}, "replicas": [{"pid": 12}, {"pid": 13}]},
        "nodes": [node("n1")],
        "jobs": {"by_status": counts, "by_kind": {"selfplay": counts}, "games": {"hex8_2p": 3, "square8_2p": 4}},
        **more,
    }


def text(shown: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


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

    @pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
    def test_fits_the_screen_and_never_cuts_a_name(self, width: int) -> None:
        names = ["alpha", "tailscale_recovery", "health_aggregation"]
        seen = text(show.status(document(*map(loop, names)), width), max(width, 64))
        assert all(name in seen for name in names)
        assert ("did" in seen.splitlines()[0]) == (width > 100)
        assert max(map(len, seen.splitlines())) <= max(width, 64)

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

    def test_name_lost_nodes_but_not_those_that_stopped_or_were_lost_long_ago(self) -> None:
        nodes = [
            node("n1"),
            node("lost", last_seen=NOW - 16),
            node("stopped", last_seen=NOW - 16, agent_pid=None, jobs_pid=None),
            node("forgotten", last_seen=NOW - 90_000),
        ]
        assert show.troubles(document(nodes=nodes)) == {"lost": "lost; last seen 16s ago on h"}

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
        assert "last error, 5s ago" in seen
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


class TestNodesAndJobs:
    def test_nodes_are_shown_with_their_processes_and_whether_they_live(self) -> None:
        nodes = [node("n1"), node("n2", last_seen=NOW - 100), node("n3", agent_pid=None, jobs_pid=None, host="")]
        rows = [" ".join(line.split()) for line in text(show.nodes(document(nodes=nodes))).splitlines()[1:]]
        assert rows[0] == "n1 (leader) h 10 11 1 of 4 2s ago"
        assert rows[1] == "n2 h 10 11 1 of 4 1m40s ago (lost)"
        assert rows[2] == "n3 - - - 0 of 0 2s ago (stopped)"

    def test_jobs_are_counted_by_kind_and_by_the_statuses_there_are(self) -> None:
        lines = text(show.jobs(document()["jobs"])).splitlines()
        assert [line.split() for line in lines] == [["kind", "pending", "running"], ["selfplay", "48", "2"]]

    def test_nothing_is_said_to_be_nothing(self) -> None:
        assert text(show.nodes(document(nodes=[]))).startswith("No nodes yet")
        assert text(show.jobs({"by_kind": {}, "by_status": {}})) == "No jobs yet."
        assert show.progress({"jobs": {"by_status": {}, "games": {}}}) == "jobs: none yet"
        assert text(show.leader(document(leader=None))) == "leader: none"


class TestTimes:
    @pytest.mark.parametrize(
        ("seconds", "said"),
        [(0, "1s ago"), (-5, "1s ago"), (59.4, "59s ago"), (61, "1m1s ago"), (3725, "1h2m ago"), (90_000, "1d1h ago")],
    )
    def test_an_age_has_two_units_at_most(self, seconds: float, said: str) -> None:
        assert show.ago(NOW - seconds, NOW) == said

    def test_an_instant_that_is_not_there_has_a_word(self) -> None:
        assert (show.ago(None, NOW), show.until(None, NOW), show.until(NOW - 3, NOW)) == ("never", "-", "now")

    @pytest.mark.parametrize(
        ("number", "said"), [(0, "0ms"), (12.6, "13ms"), (999.6, "1.0s"), (1500, "1.5s"), (61_000, "1m1s")]
    )
    def test_a_duration_is_short(self, number: float, said: str) -> None:
        assert show.milliseconds(number) == said

    @given(st.floats(0, 1e9), st.floats(-1e9, 1e9))
    def test_none_is_too_odd_to_be_shown(self, number: float, ago: float) -> None:
        assert len(show.milliseconds(number)) <= 12
        assert len(show.ago(NOW - ago, NOW)) <= 14
        assert len(show.until(NOW + ago, NOW)) <= 14


@given(st.text())
def test_what_is_printed_is_printable(given_text: str) -> None:
    assert all(sign.isprintable() or sign == "\n" for sign in show.printable(given_text))
