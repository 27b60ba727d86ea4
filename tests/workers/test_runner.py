"""Gate, body, record: what becomes of a run, however its body behaves."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fleet.fence import FenceRefused
from tasks.loop import Loop
from tests.waiting import until
from workers.runner import RunFailed

Declare = Callable[..., Loop]


def test_a_run_is_two_round_trips(bench: Any, declare: Declare) -> None:
    runner = bench.runner(declare(lambda fleet, options, tick: {"done": 1}))
    runner.run("x", None)  # the scripts are known to the server now
    bench.redis.config_resetstat()
    assert runner.run("x", None) == "succeeded"
    stats = bench.redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 2
    outside = {name for name in stats if name.startswith("cmdstat_")} & {"cmdstat_eval", "cmdstat_script|load"}
    assert not outside


def cut_all_connections(bench: Any) -> None:
    """As a restart of the server does."""
    bench.redis.client_kill_filter(_type="normal", skipme=True)


def test_a_tick_gets_through_the_gate_on_a_connection_that_was_cut(bench: Any, declare: Declare) -> None:
    runner = bench.runner(declare(lambda fleet, options, tick: None))
    assert runner.run("x", None) == "succeeded"
    cut_all_connections(bench)
    assert runner.run("x", None) == "succeeded"


def test_a_run_whose_connection_was_cut_meanwhile_is_recorded(bench: Any, declare: Declare) -> None:
    runner = bench.runner(declare(lambda fleet, options, tick: cut_all_connections(bench)))
    assert runner.run("x", None) == "succeeded"
    assert bench.status("x")["success_count"] == 1


def test_counts_and_duration_are_recorded(bench: Any, declare: Declare) -> None:
    runner = bench.runner(declare(lambda fleet, options, tick: {"added": 3, "ratio": 0.5}))
    assert runner.run("x", None) == "succeeded"
    status = bench.status("x")
    assert status["last_counts"] == {"added": 3, "ratio": 0.5}
    assert status["run_count"] == status["success_count"] == 1
    assert status["average_duration_ms"] == status["last_duration_ms"] > 0


def test_an_async_body_runs_as_it_is(bench: Any, declare: Declare) -> None:
    async def body(fleet: Any, options: Any, tick: Any) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"awaited": 1}

    assert bench.runner(declare(body)).run("x", None) == "succeeded"
    assert bench.status("x")["last_counts"] == {"awaited": 1}


def test_a_failure_is_recorded_with_its_traceback_and_backs_off(bench: Any, declare: Declare) -> None:
    def body(fleet: Any, options: Any, tick: Any) -> None:
        raise ValueError("the cable is out")

    runner = bench.runner(declare(body))
    for failures, delay in ((1, 5), (2, 10), (3, 20)):
        with pytest.raises(RunFailed, match="the cable is out") as caught:
            runner.run("x", None)
        assert caught.value.retry_after == delay
        assert isinstance(caught.value.cause, ValueError)
        assert bench.status("x")["consecutive_errors"] == failures
    status = bench.status("x")
    assert status["last_error"] == "ValueError: the cable is out"
    assert "in body" in status["last_traceback"]
    assert status["state"] == "backing_off"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("done", "returned str, not a mapping of counts"),
        (7, "returned int"),
        ({"added": "3"}, "counts are numbers by name"),
        ({1: 2}, "counts are numbers by name"),
        ({"ok": True}, "counts are numbers by name"),
        ({"n": float("nan")}, "finite"),
    ],
)
def test_nonsense_is_a_failure_that_says_what_was_expected(bench: Any, declare: Declare, value: Any, said: str) -> None:
    with pytest.raises(RunFailed, match=said):
        bench.runner(declare(lambda fleet, options, tick: value)).run("x", None)
    assert bench.status("x")["error_count"] == 1


def test_a_body_that_exits_fails_its_run_and_not_the_worker(bench: Any, declare: Declare) -> None:
    with pytest.raises(RunFailed, match="SystemExit"):
        bench.runner(declare(lambda fleet, options, tick: sys.exit(1))).run("x", None)


def test_a_body_past_its_deadline_loses_its_run_and_is_not_started_twice(bench: Any, declare: Declare) -> None:
    release = threading.Event()
    abandoned: list[tuple[threading.Thread, str]] = []
    outcomes: list[str] = []

    def body(fleet: Any, options: Any, tick: Any) -> None:
        release.wait(30)

    runner = bench.runner(declare(body), deadline=0.2)
    runner.abandon = lambda thread, call: abandoned.append((thread, call))
    hung = threading.Thread(target=lambda: outcomes.append(runner.run("x", None, "call")))
    hung.start()
    until(lambda: bench.status("x")["last_outcome"] == "timed_out")
    status = bench.status("x")
    assert status["last_error"] == "did not end within its deadline of 0.2 s"
    assert "release.wait(30)" in status["last_traceback"]  # where it hangs
    assert status["state"] == "overrun"
    assert abandoned == [(hung, "call")]
    assert runner.run("x", None) == "overrunning"
    assert bench.status("x")["skipped"] == {"overrunning": 1}
    release.set()
    hung.join(5)
    assert outcomes == ["late"]
    assert bench.status("x")["late_reports"] == 1
    assert runner.run("x", None) == "succeeded"


def test_writes_of_an_overrun_body_are_refused(bench: Any, declare: Declare) -> None:
    from fleet.jobs import JobSpec

    release = threading.Event()
    seen: list[str] = []

    def body(fleet: Any, options: Any, tick: Any) -> None:
        release.wait(30)
        try:
            fleet.jobs.enqueue([JobSpec(kind="selfplay", config="hex8_2p")], fence=tick.fence)
        except FenceRefused as error:
            seen.append(str(error))

    runner = bench.runner(declare(body), deadline=0.2)
    hung = threading.Thread(target=lambda: runner.run("x", None))
    hung.start()
    until(lambda: bench.status("x")["last_outcome"] == "timed_out")
    release.set()
    hung.join(5)
    assert len(seen) == 1
    assert "newer run" in seen[0]
    assert bench.fleet.jobs.counts().depth == 0


def test_an_async_body_is_cancelled_at_its_deadline(bench: Any, declare: Declare) -> None:
    cancelled = threading.Event()

    async def body(fleet: Any, options: Any, tick: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(RunFailed, match="deadline"):
        bench.runner(declare(body), deadline=0.2).run("x", None)
    assert cancelled.is_set()
    assert bench.status("x")["last_outcome"] == "timed_out"


def test_a_timeout_of_the_bodys_own_is_its_failure_and_no_overrun(bench: Any, declare: Declare) -> None:
    async def body(fleet: Any, options: Any, tick: Any) -> None:
        raise TimeoutError("the peer is slow")

    with pytest.raises(RunFailed, match="the peer is slow"):
        bench.runner(declare(body)).run("x", None)
    assert bench.status("x")["last_outcome"] == "failed"


def test_on_start_runs_once_before_the_first_run_and_again_if_it_failed(bench: Any, declare: Declare) -> None:
    calls: list[str] = []

    def on_start(fleet: Any, options: Any) -> None:
        calls.append("start")
        if len(calls) == 1:
            raise OSError("not yet")

    runner = bench.runner(
        declare(
            lambda fleet, options, tick: calls.append("run"),
            on_start=on_start,
            on_stop=lambda fleet, options: calls.append("stop"),
        )
    )
    with pytest.raises(RunFailed, match="not yet"):
        runner.run("x", None)
    runner.run("x", None)
    runner.run("x", None)
    runner.stop()
    runner.stop()
    assert calls == ["start", "start", "run", "run", "stop"]


def test_error_callbacks_hear_of_every_failure_and_cannot_break_it(bench: Any, declare: Declare) -> None:
    heard: list[tuple[str, str]] = []

    def broken(name: str, tick: Any, error: BaseException) -> None:
        raise KeyError("callback")

    def body(fleet: Any, options: Any, tick: Any) -> None:
        raise ValueError("x")

    loop = declare(body, on_error=(broken, lambda name, tick, error: heard.append((name, str(error)))))
    with pytest.raises(RunFailed, match="ValueError"):
        bench.runner(loop).run("x", None)
    assert heard == [("x", "x")]


def notices(bench: Any) -> list[tuple[str, str]]:
    """What the operator was told, oldest first."""
    return [(notice.title, notice.body) for _, notice in reversed(bench.fleet.notices.recent())]


def test_three_failures_in_a_row_are_told_once_and_so_is_the_end_of_them(bench: Any, declare: Declare) -> None:
    failing = [False, True, True, False, True, True, True, True, True, False, False]
    said: list[int] = []

    def body(fleet: Any, options: Any, tick: Any) -> None:
        if failing.pop(0):
            raise ValueError("the cable is out")

    runner = bench.runner(declare(body))
    while failing:
        with contextlib.suppress(RunFailed):
            runner.run("x", None)
        said.append(len(notices(bench)))
    assert said == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    (failed, why), well = notices(bench)
    assert (failed, why.partition(", on ")[0]) == (
        "Loop fails",
        "x has failed 3 times in a row, the last: ValueError: the cable is out",
    )
    assert well == ("Loop works again", "x has succeeded after 5 failures in a row")


def test_runs_whose_worker_died_and_runs_past_their_deadline_count_as_failures_too(
    bench: Any, declare: Declare
) -> None:
    async def body(fleet: Any, options: Any, tick: Any) -> None:
        await asyncio.Event().wait()

    runner = bench.runner(declare(body), deadline=0.01)
    for _ in range(2):
        with pytest.raises(RunFailed):
            runner.run("x", None)
    assert notices(bench) == []
    bench.ledger.gate(
        "x", None, "dead", ttl=0.001, deadline=1, leader_only=False, owner="", identity="n0", now=time.time() - 60
    )
    with pytest.raises(RunFailed):  # it writes the dead one off, the third, and fails as the fourth
        runner.run("x", None)
    ((title, body_text),) = notices(bench)
    assert title == "Loop fails"
    assert "x has failed 3 times in a row, the last: its worker died" in body_text


def test_a_body_may_ask_for_its_next_run(bench: Any, declare: Declare) -> None:
    bench.runner(declare(lambda fleet, options, tick: tick.next_after(300))).run("x", None)
    status = bench.status("x")
    assert 299 < status["next_run"] - status["last_finished_at"] < 301


def test_the_run_lease_is_renewed_while_the_body_runs(bench: Any, declare: Declare) -> None:
    def body(fleet: Any, options: Any, tick: Any) -> dict[str, float]:
        first = bench.redis.zscore("{backbeat}:running", "x")
        until(lambda: bench.redis.zscore("{backbeat}:running", "x") != first, 5)
        return {"renewed_by_ms": bench.redis.zscore("{backbeat}:running", "x") - first}

    bench.runner(declare(body), run_ttl=0.4).run("x", None)
    assert bench.status("x")["last_counts"]["renewed_by_ms"] > 0


def test_a_run_that_was_written_off_meanwhile_is_late(bench: Any, declare: Declare) -> None:
    def body(fleet: Any, options: Any, tick: Any) -> None:
        bench.ledger.record("x", tick.fence.run, "abandoned", error="gone")

    assert bench.runner(declare(body)).run("x", None) == "late"
    assert bench.status("x")["last_outcome"] == "abandoned"
    assert bench.status("x")["late_reports"] == 1


def test_a_worker_finds_a_dead_ones_run_writes_it_off_and_runs(bench: Any, declare: Declare) -> None:
    runner = bench.runner(declare(lambda fleet, options, tick: None))
    bench.ledger.gate(
        "x", None, "dead", ttl=0.001, deadline=1, leader_only=False, owner="", identity="n0", now=time.time() - 60
    )
    assert runner.run("x", None) == "succeeded"
    status = bench.status("x")
    assert (status["error_count"], status["consecutive_errors"]) == (1, 0)
    assert "its worker died" in status["last_error"]


def test_a_leader_only_loop_does_not_run_here_without_the_lease(bench: Any, declare: Declare) -> None:
    runner = bench.runner(declare(lambda fleet, options, tick: None, leader_only=True))
    assert runner.run("x", None) == "not_leader"
