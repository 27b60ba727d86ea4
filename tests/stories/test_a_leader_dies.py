"""The leader is killed, frozen or asked to leave while it populates the queue."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.jobs import JobStatus

DEPTH = 6000  # a dozen round trips, so that a signal can come between two of them
POPULATE = {"interval": "1s", "deadline": "60s", "min_queue_depth": DEPTH, "max_queue_depth": DEPTH}
POPULATE |= {"backpressure_soft": 10 * DEPTH, "backpressure_hard": 20 * DEPTH, "configs": ["hex8_2p"]}
POPULATE |= {"selfplay_ratio": 1.0, "training_ratio": 0.0, "tournament_ratio": 0.0}
PLAYER = {"command": ["sh", "-c", "echo $BACKBEAT_JOB_ID >> played; echo '{{\"games\": 1}}'"], "nice": 0}
LED_AGAIN_WITHIN = 5.0
HANDED_OVER_WITHIN = 1.0


def depth(house: Any) -> int:
    number: int = house.queue.counts().depth
    return number


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_another_populates_and_the_depth_is_met_and_not_exceeded(house: Any, tmp_path: Path, number: int) -> None:
    house.configure({"queue_populator": POPULATE}, jobs={"selfplay": PLAYER})
    for node in ("n1", "n2", "n3"):
        house.agent(node)
    player = house.jobs("n1")
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 3, what="three agents")
    leader = house.await_leader()
    house.beat()
    while not depth(house):
        pass
    old = house.by_pid(leader["pid"])
    old.send(number)
    signalled_at = time.monotonic()
    assert 0 < depth(house) < DEPTH, "not while it populated"
    successor = house.await_leader(other_than=leader["pid"])
    assert time.monotonic() - signalled_at < LED_AGAIN_WITHIN
    assert successor["fence"] > leader["fence"]
    deepest = 0

    def ran_after(runs: int) -> bool:
        nonlocal deepest
        deepest = max(deepest, depth(house))
        return bool(house.status("queue_populator")["success_count"] > runs)

    house.until(lambda: ran_after(0), 40, "the successor has populated")
    old.send(signal.SIGCONT)
    runs = house.status("queue_populator")["success_count"]
    house.until(lambda: ran_after(runs + 1), 20, "two more runs")
    assert player.terminate() == 0
    house.until(lambda: ran_after(0) and depth(house) == DEPTH, 10, "a full queue")
    assert deepest <= DEPTH
    # none lost, none played twice to completion
    counts = house.queue.counts()
    assert counts.games["hex8_2p"] == counts.by_status["completed"] > 0
    assert counts.by_status["failed"] == counts.by_status["abandoned"] == 0
    played = (tmp_path / "n1" / "played").read_text().split()
    completed = [job.id for job in house.queue.find({JobStatus.COMPLETED}, limit=1000)]
    assert len(set(played)) == len(played)
    assert set(completed) <= set(played)


def test_a_leader_frozen_with_a_tick_in_its_socket_runs_it_no_more(house: Any) -> None:
    house.configure({"leading": {"interval": "300ms"}})
    old, stopped_at = freeze_the_leader_with(house, lambda: house.until_next_tick("leading"))
    seq = house.status("leading")["seq"]
    successor = house.await_leader(other_than=old.pid)
    assert time.monotonic() - stopped_at < LED_AGAIN_WITHIN
    # beat sends it again, to whoever leads
    house.until(lambda: seq in house.seqs("leading"), 15, "the tick that was in the socket")
    old.send(signal.SIGCONT)
    house.until(lambda: house.status("leading")["last_skip_call"] == f"leading:{seq}", 15, "its tick is refused")
    assert house.status("leading")["last_skip"] == "stale"
    house.until(lambda: len(house.notes("leading")) >= house.seqs("leading").index(seq) + 5, 15, "more ticks")
    notes = house.notes("leading")
    assert {note[4] for note in notes if int(note[0]) >= seq} == {str(successor["pid"])}
    assert house.seqs("leading") == list(range(1, len(notes) + 1))


def test_a_leader_frozen_with_a_manual_run_in_its_socket_runs_it_no_more(house: Any) -> None:
    house.configure({"leading": {"interval": "300s"}})
    calls: list[str] = []
    old, stopped_at = freeze_the_leader_with(house, lambda: calls.append(house.manager.run("leading")))
    successor = house.await_leader(other_than=old.pid)
    assert time.monotonic() - stopped_at < LED_AGAIN_WITHIN
    ran = len(house.notes("leading"))
    old.send(signal.SIGCONT)
    # no tick number makes a manual run stale: nothing but the lease speaks against it. It is refused, or
    # given back when the old leader has closed the queue before it read its socket
    status = house.until(lambda: house.answer("leading", calls[-1]), 15, "what came of its run")
    refused = status["last_skip_call"] == calls[-1] and status["last_skip"] == "not_leader"
    given_back = status["last_run_call"] == calls[-1] and "Requeuing" in old.text()
    assert refused or given_back
    # and it takes no more of the leader's messages: of two consumers, each would get one in two
    house.until_in_a_row("leading", 6)
    assert {note[4] for note in house.notes("leading")[ran:]} == {str(successor["pid"])}


@pytest.mark.parametrize(
    ("number", "limit"),
    [(signal.SIGSTOP, LED_AGAIN_WITHIN), (signal.SIGTERM, HANDED_OVER_WITHIN)],
    ids=["frozen", "asked to leave"],
)
def test_what_it_decided_before_it_lost_the_lease_is_not_written(house: Any, number: int, limit: float) -> None:
    house.configure({"deciding": {"interval": "300s", "deadline": "60s"}})
    house.agent("n1")
    house.agent("n2")
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 2, what="two agents")
    house.beat()
    (run,) = house.until(lambda: house.notes("deciding"), what="a run between its read and its write")
    old = house.by_pid(int(run[4]))
    assert house.leader()["pid"] == old.pid
    old.send(number)
    signalled_at = time.monotonic()
    successor = house.await_leader(other_than=old.pid)
    assert time.monotonic() - signalled_at < limit
    house.redis.set("story:decide", "now")
    old.send(signal.SIGCONT)
    (refused,) = house.until(lambda: house.redis.lrange("story:refused", 0, -1), 15, "its write is refused")
    assert refused == f"{old.pid} jobs: enqueue refused, for a newer leader exists"
    # the run goes back, and the successor makes it anew
    house.until(lambda: house.status("deciding")["success_count"] == 1, 20, "the successor's run")
    assert [note[4] for note in house.notes("deciding")] == [str(old.pid), str(successor["pid"])]
    assert depth(house) == 1
    if number == signal.SIGTERM:
        assert old.popen.wait(20) == 0
        assert house.status("deciding")["error_count"] == 0


def test_a_leader_that_is_asked_to_leave_hands_over_at_once_and_finishes_what_it_runs(house: Any) -> None:
    house.configure({"leading": {"interval": "1s"}, "slow": {"interval": "600s", "seconds": 12}})
    old = house.agent("n1")
    house.beat()
    house.until(lambda: house.notes("slow"), what="a run in progress")
    house.agent("n2")
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 2, what="two agents")
    assert house.leader()["pid"] == old.pid
    assert house.status("slow")["executing"]
    old.send(signal.SIGTERM)
    asked_at = time.monotonic()
    successor = house.await_leader(other_than=old.pid)
    assert time.monotonic() - asked_at < HANDED_OVER_WITHIN
    house.until(lambda: house.notes("leading")[-1][4] == str(successor["pid"]), 10, "the successor's ticks")
    assert old.popen.wait(30) == 0
    status = house.status("slow")
    assert (status["success_count"], status["error_count"], len(house.notes("slow"))) == (1, 0, 1)


def freeze_the_leader_with(house: Any, send: Callable[[], object]) -> tuple[Any, float]:
    """Two agents; the leader is frozen with what `send` put into its queue popped by its open BRPOP, and when."""
    house.agent("n1")
    house.agent("n2")
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 2, what="two agents")
    house.beat()
    # nobody but the holder of the lease consumes this queue
    frozen = house.freeze_with_a_message("leading", "leader", lambda: house.await_leader()["pid"], send)
    return frozen, time.monotonic()
