from __future__ import annotations

from typing import Any

import pytest

from fleet.job import Job, JobStatus
from tests.workers.show_stage import NOW, document, text
from workers import show_jobs


def job(number: int = 1, status: str = "pending", **more: Any) -> Job:
    fields: dict[str, Any] = {
        "id": f"selfplay-hex8_2p-{number:012}",
        "kind": "selfplay",
        "config": "hex8_2p",
        "capability": "cpu",
        "priority": 50,
        "payload": {"games": 10},
        "attempt": 0,
        "failures": 0,
        "max_attempts": 3,
        "timeout": 3600.0,
        "created_at": NOW - 90,
        **more,
    }
    return Job(status=JobStatus(status), **fields)


ENDED = {"node": "n1", "claimed_at": NOW - 80, "started_at": NOW - 79, "finished_at": NOW - 19}


def listed(*jobs: Job, width: int = 200, limit: int = 50, outstanding: int = 0) -> list[str]:
    shown = show_jobs.jobs(jobs, NOW, width, limit, outstanding)
    return [" ".join(line.split()) for line in text(shown, width).splitlines()]


def test_counts_are_by_kind_and_by_the_statuses_there_are_with_the_depth() -> None:
    counted = {**document()["jobs"], "depth": 12_345}
    lines = text(show_jobs.counts(counted)).splitlines()
    assert [line.split() for line in lines[:2]] == [["kind", "pending", "running"], ["selfplay", "48", "2"]]
    assert lines[-1] == "depth: 12,345 (pending, claimed and running)"
    assert text(show_jobs.counts({"by_kind": {}, "by_status": {}, "depth": 0})) == "No jobs yet."


def test_each_job_is_a_line_that_says_what_matters_in_its_status() -> None:
    titles, *rows = listed(
        job(1, "running", node="n1", attempt=1, claimed_at=NOW - 20, started_at=NOW - 10),
        job(2, "claimed", node="n1", attempt=1, claimed_at=NOW - 3),
        job(3),
        job(4, attempt=1, failures=1, not_before=NOW + 30, error="exit code 3\nlast words"),
        job(5, "failed", attempt=3, error="boom \x1b[31m", **ENDED),
    )
    assert titles == "job status when node kind config try prio error"
    assert [row.partition(" ")[2] for row in rows] == [
        "running for 10s n1 selfplay hex8_2p 1/3 50",
        "claimed for 3s n1 selfplay hex8_2p 1/3 50",
        "pending waits 1m30s selfplay hex8_2p 0/3 50",
        "pending next try in 30s selfplay hex8_2p 1/3 50 exit code 3",
        r"failed 19s ago n1 selfplay hex8_2p 3/3 50 boom \x1b[31m",
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_list_fits_the_screen_and_never_cuts_an_id(width: int) -> None:
    shown = text(show_jobs.jobs([job(5, "failed", error="x" * 300, **ENDED)], NOW, width, 50, 0), width)
    assert "selfplay-hex8_2p-000000000005" in shown
    assert len(shown.splitlines()) == 2


def test_a_list_of_ten_thousand_is_bounded_and_says_so() -> None:
    lines = listed(*(job(number) for number in range(51)), outstanding=10_000)
    assert len(lines) == 52
    assert lines[-1] == "showing 50; there are more: --limit N (10,000 are outstanding in all)"
    assert listed() == ["No job is like that."]


def test_one_job_is_shown_in_full() -> None:
    result = {"games": 10, "wins": [6, 4]}
    seen = text(show_jobs.job(job(5, "completed", attempt=2, failures=1, result=result, **ENDED), NOW))
    assert [line.rstrip() for line in seen.splitlines()] == [
        "job       selfplay-hex8_2p-000000000005",
        "status    completed",
        "kind      selfplay of hex8_2p, for nodes that offer cpu",
        "priority  50",
        "attempts  2; 1 of 3 have failed",
        "created   1m30s ago",
        "claimed   1m20s ago by n1",
        "started   1m19s ago",
        "finished  19s ago",
        "took      1m",
        "timeout   1h from start to kill",
        "payload   games: 10",
        "result    games: 10",
        "          wins: [6, 4]",
    ]


def test_one_job_is_shown_with_its_error_in_full_and_nothing_of_it_steers_the_terminal() -> None:
    error = "exit code 3\n" + " ".join(f"word{number}" for number in range(100)) + "\x1b[2J"
    waiting = job(5, attempt=1, failures=1, not_before=NOW + 30, error=error)
    seen = text(show_jobs.job(waiting, NOW))
    assert "not before  in 30s" in seen
    assert "word99" in seen
    assert r"\x1b[2J" in seen
    held = text(show_jobs.job(job(6, "running", node="n2", claimed_at=NOW - 9, heartbeat_at=NOW - 2), NOW))
    assert "status    running by n2" in held
    assert "heard     2s ago" in held
