"""A tick from clock to ledger, on virtual time and a real server."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from workers.lease import LeaderLease
from workers.ledger import Claim, Grant, Ledger, Refusal, Scheduled, Vanished
from workers.settings import connect
from workers.status import read_status

START = 1_800_000_000.0


class Clock:
    """Redis time, as this test says it."""

    def __init__(self, ledger: Ledger) -> None:
        self.now = START
        self.ledger = ledger

    def seed(self, *loops: Scheduled) -> None:
        self.ledger.seed(loops, prune=True, now=self.now)

    def claim(self, token: str = "b1", ttl: float = 3.0, grace: float = 2.0) -> Claim:
        return self.ledger.claim(token, '{"host": "h", "pid": 1}', ttl=ttl, grace=grace, now=self.now)

    def gate(self, seq: int | None, run: str = "run", name: str = "a", **more: Any) -> Grant | Refusal | Vanished:
        options: dict[str, Any] = {
            "ttl": 8.0, "deadline": 60.0, "leader_only": False, "owner": "", "identity": "n1", "now": self.now,
        }  # fmt: skip
        return self.ledger.gate(name, seq, run, **{**options, **more})

    def record(self, outcome: str, run: str = "run", name: str = "a", **more: Any) -> str:
        return self.ledger.record(name, run, outcome, now=self.now, **more)

    def status(self, name: str = "a") -> dict[str, Any]:
        return read_status_at(self.ledger, self.now)["loops"][name]


def read_status_at(ledger: Ledger, now: float) -> dict[str, Any]:
    class Frozen(Ledger):
        def read(self, *, now: float | None = None, _at: float = now) -> list[Any]:
            return super().read(now=_at)

    return read_status(Frozen(ledger.redis))


@pytest.fixture
def clock(redis: Redis, session_server: Any) -> Clock:
    return Clock(Ledger(connect(session_server.url)))


def loop(name: str = "a", interval: float = 60.0, **more: Any) -> Scheduled:
    return Scheduled(name=name, interval=interval, queue="loops", **more)


def test_the_first_tick_comes_after_the_initial_delay_and_then_on_a_fixed_grid(clock: Clock) -> None:
    clock.seed(loop(initial_delay=30))
    assert clock.claim().ticks == ()
    slots = []
    for _ in range(3):
        clock.now = START + 30 + 60 * len(slots) + 0.4  # beat is always a little late
        (tick,) = clock.claim(token="b1").ticks
        slots.append(tick.slot)
        assert isinstance(clock.gate(tick.seq), Grant)
        clock.record("succeeded")
    assert slots == [START + 30, START + 90, START + 150]  # lateness never moves the grid


def test_a_slot_is_claimed_once_whoever_asks(clock: Clock) -> None:
    clock.seed(loop())
    assert len(clock.claim("b1").ticks) == 1
    assert clock.claim("b2") == Claim(False, 3.0)
    clock.ledger.redis.rpush("loops", "the tick waits here")
    clock.now += 3.1  # the lease is over: two replicas may now both believe that they are active
    assert clock.claim("b2").ticks == ()
    assert clock.claim("b1").active is False


def test_beat_may_sleep_until_the_next_slot_whatever_becomes_of_the_tick(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim(ttl=90).ticks
    clock.ledger.redis.rpush("loops", "the message waits")
    assert clock.claim(ttl=90) == Claim(True, 60.0, loops_known=1)
    assert clock.gate(tick.seq, deny="overrunning") == Refusal("overrunning")
    clock.now += 10
    assert clock.claim(ttl=90) == Claim(True, 50.0, loops_known=1)


def test_slots_that_pass_while_nobody_takes_the_tick_coalesce_into_it(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.ledger.redis.rpush("loops", "the message waits")
    for _ in range(9):
        clock.now += 60
        assert clock.claim().ticks == ()
    grant = clock.gate(tick.seq)
    assert isinstance(grant, Grant)
    assert grant.missed == 9
    clock.record("succeeded")
    assert clock.status()["missed"] == 9
    clock.ledger.redis.delete("loops")
    clock.now += 60
    (after,) = clock.claim().ticks
    assert after.seq == tick.seq + 1
    assert clock.gate(after.seq) == Grant(clock.now, after.seq, START + 600, 0, 0, 0)


def test_a_tick_lost_on_its_way_is_sent_again_under_its_number_and_runs_once(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.now += 1.9
    assert clock.claim().ticks == ()
    clock.now += 0.2
    assert clock.claim().ticks == (tick,)
    assert isinstance(clock.gate(tick.seq), Grant)
    assert clock.gate(tick.seq, "other") == Refusal("stale")


def test_a_tick_that_waits_in_its_queue_is_not_sent_again(clock: Clock) -> None:
    clock.seed(loop())
    clock.claim()
    clock.ledger.redis.rpush("loops", "a message")
    clock.now += 10
    assert clock.claim().ticks == ()


@pytest.mark.parametrize("action", ["pause", "stop"])
def test_a_loop_that_is_paused_or_stopped_does_not_tick_and_its_waiting_tick_is_refused(
    clock: Clock, action: str
) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    assert clock.ledger.control("a", action, now=clock.now)
    past = {"pause": "paused", "stop": "stopped"}[action]
    assert clock.gate(tick.seq) == Refusal(past)
    clock.now += 600
    assert clock.claim().ticks == ()
    clock.ledger.control("a", {"pause": "resume", "stop": "start"}[action], now=clock.now)
    clock.now += 60
    (again,) = clock.claim().ticks
    assert isinstance(clock.gate(again.seq), Grant)
    assert clock.status()["missed"] == 0
    assert clock.status()["skipped"] == {past: 1}


def test_a_manual_run_passes_cadence_pause_and_backoff_but_not_a_stop_or_a_running_one(clock: Clock) -> None:
    clock.seed(loop())
    clock.ledger.control("a", "pause", now=clock.now)
    assert isinstance(clock.gate(None), Grant)
    assert clock.gate(None, "second") == Refusal("overlapped")
    clock.record("failed", error="x", backoff=100)
    assert isinstance(clock.gate(None), Grant)
    clock.record("succeeded")
    clock.ledger.control("a", "stop", now=clock.now)
    assert clock.gate(None) == Refusal("stopped")


def test_a_failure_is_retried_after_its_backoff_and_success_returns_to_the_grid(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    clock.record("failed", error="ValueError: no", backoff=5)
    status = clock.status()
    assert (status["state"], status["consecutive_errors"], status["error_count"]) == ("backing_off", 1, 1)
    clock.now += 4.9
    assert clock.claim().ticks == ()
    clock.now += 0.2
    (retry,) = clock.claim().ticks
    clock.gate(retry.seq)
    clock.record("succeeded")
    assert clock.status()["consecutive_errors"] == 0
    assert clock.status()["next_run"] == START + 60
    clock.now = START + 60
    assert [t.slot for t in clock.claim().ticks] == [START + 60]


def test_slots_inside_a_backoff_are_counted_as_such_and_not_as_missed(clock: Clock) -> None:
    clock.seed(loop(interval=1))
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    clock.record("failed", error="x", backoff=5.5)
    clock.now += 5.6
    assert len(clock.claim().ticks) == 1
    assert clock.status()["missed"] == 0
    assert clock.status()["skipped"]["backing_off"] == 4


def test_a_tick_that_arrives_inside_a_backoff_is_refused(clock: Clock) -> None:
    clock.seed(loop(interval=1))
    (tick,) = clock.claim().ticks
    clock.gate(None, "manual")
    clock.record("failed", run="manual", error="x", backoff=50)
    assert clock.gate(tick.seq) == Refusal("backing_off")


def test_a_slot_during_a_run_is_overlapped_and_nothing_is_sent(clock: Clock) -> None:
    clock.seed(loop(interval=5))
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq, ttl=100.0)
    clock.now += 5
    assert clock.claim().ticks == ()
    assert clock.status()["skipped"] == {"overlapped": 1}


def test_a_run_whose_worker_died_is_found_when_its_lease_ends(clock: Clock) -> None:
    clock.seed(loop(interval=300))
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    clock.now += 7.9
    assert clock.claim().vanished == ()
    clock.now += 0.2
    (gone,) = clock.claim().vanished
    assert gone == Vanished("a", "run", 0, START + 8)
    assert clock.gate(None, "manual") == gone  # a worker may be first to see it
    clock.record("abandoned", error="gone", backoff=5, failed_at=gone.lease_until - 8)
    assert clock.status()["last_outcome"] == "abandoned"
    assert len(clock.claim().ticks) == 1  # its backoff counts from its last sign of life, so it runs at once
    assert clock.record("succeeded") == "late"


def test_renewal_keeps_a_run_alive_and_says_what_is_lost(clock: Clock) -> None:
    clock.seed(loop(), loop("b"))
    ticks = {tick.name: tick for tick in clock.claim().ticks}
    clock.gate(ticks["a"].seq)
    clock.now += 7
    assert clock.ledger.renew({"a": "run", "b": "never"}, ttl=8, now=clock.now) == ["b"]
    clock.now += 7
    assert clock.claim().vanished == ()


def test_the_next_run_may_be_asked_for_by_the_body(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    clock.now += 2
    clock.record("succeeded", next_after=300)
    assert clock.status()["next_run"] == START + 302
    clock.now += 299
    assert clock.claim().ticks == ()
    clock.now += 1
    assert len(clock.claim().ticks) == 1


def test_an_edited_interval_takes_effect_once_and_a_manual_one_outlives_restarts(clock: Clock) -> None:
    clock.seed(loop(interval=300))
    clock.claim()
    clock.seed(loop(interval=300, initial_delay=99))  # a restart moves nothing
    assert clock.status()["next_run"] == START + 300
    clock.ledger.control("a", "interval", 10, now=clock.now)
    assert clock.status()["next_run"] == START + 10
    clock.seed(loop(interval=300))
    assert clock.status()["interval"] == 10
    clock.seed(loop(interval=120))
    assert clock.status()["interval"] == 120
    clock.seed(loop(interval=5))
    assert clock.status()["next_run"] == START + 5  # a shorter one does not wait for the old slot
    clock.seed(loop(interval=120))
    assert clock.status()["next_run"] == START + 5


def test_a_loop_that_left_the_plan_ticks_no_more_and_a_registered_one_stays(clock: Clock) -> None:
    clock.seed(loop("a"), loop("b"))
    clock.ledger.seed([loop("c", source="registered")], prune=False, now=clock.now)
    clock.seed(loop("b"))
    assert clock.ledger.names() == ["b", "c"]
    assert {tick.name for tick in clock.claim().ticks} == {"b", "c"}


def test_a_leader_only_tick_waits_for_whoever_leads(clock: Clock) -> None:
    clock.seed(loop(leader_only=True))
    (tick,) = clock.claim().ticks
    wanted: dict[str, Any] = {"leader_only": True, "now": None}
    assert clock.gate(tick.seq, owner="", **wanted) == Refusal("not_leader")
    lease = LeaderLease(clock.ledger.redis, "n1")
    assert lease.try_once()
    assert clock.gate(tick.seq, owner="somebody else", **wanted) == Refusal("not_leader")
    grant = clock.gate(tick.seq, owner=lease.token, **wanted)
    assert isinstance(grant, Grant)
    assert grant.leader_fence == lease.fence() > 0


def test_a_run_that_lost_the_leadership_is_no_failure_and_its_tick_is_due_at_once(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    assert clock.record("not_leader") == "not_leader"
    assert clock.status()["error_count"] == 0
    assert len(clock.claim().ticks) == 1


def test_a_process_may_bring_its_own_refusal(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    assert clock.gate(tick.seq, deny="overrunning") == Refusal("overrunning")
    assert isinstance(clock.gate(tick.seq), Grant)  # another process may still take it


def test_an_unknown_loop_is_refused_by_gate_and_control(clock: Clock) -> None:
    assert clock.gate(1) == Refusal("unknown")
    assert not clock.ledger.control("a", "pause")


def test_an_empty_cluster_has_a_status(clock: Clock) -> None:
    document = read_status_at(clock.ledger, START)
    assert document["loops"] == {}
    assert document["leader"] is None
    assert document["beat"] == {"active": None, "replicas": []}
    assert document["jobs"]["depth"] == 0


def test_a_grant_whose_reply_was_lost_is_given_again(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    grant = clock.gate(tick.seq)
    assert isinstance(grant, Grant)
    assert clock.gate(tick.seq) == grant
    assert clock.gate(tick.seq, "another run") == Refusal("stale")


def test_an_end_whose_reply_was_lost_is_told_again_without_counting(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    assert clock.record("succeeded") == "succeeded"
    assert clock.record("succeeded") == "succeeded"
    assert clock.record("failed") == "late"
    status = clock.status()
    assert (status["run_count"], status["late_reports"]) == (1, 1)


def test_what_came_of_a_manual_run_outlives_the_next_tick(clock: Clock) -> None:
    clock.seed(loop(interval=1))
    (tick,) = clock.claim().ticks
    clock.gate(None, "by hand", call="c1")
    clock.record("failed", run="by hand", error="no luck", backoff=0.001)
    clock.now += 1
    clock.claim()
    clock.gate(tick.seq + 1, "next")
    clock.record("succeeded", run="next")
    manual = clock.status()["manual"]
    assert (manual["call"], manual["outcome"], manual["error"]) == ("c1", "failed", "no luck")
    clock.ledger.control("a", "stop", now=clock.now)
    clock.gate(None, "again", call="c2")
    assert clock.status()["manual"]["outcome"] == "stopped"


def test_an_error_in_any_characters_is_kept(clock: Clock) -> None:
    clock.seed(loop())
    clock.gate(None)
    assert clock.record("failed", error="bad name \udcff", traceback="\udcff") == "failed"
    assert clock.status()["last_error"] == "bad name \\udcff"


def test_a_server_clock_that_goes_back_takes_the_timetable_with_it(clock: Clock) -> None:
    clock.seed(loop())
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    clock.record("succeeded")
    clock.now += 86_400  # a day ahead by mistake
    clock.claim("b1")
    clock.now -= 86_400 - 30
    assert clock.claim("b2").active  # the lease of that day keeps nobody waiting
    clock.now += 2.1
    (lost,) = clock.claim("b2").ticks
    assert clock.status()["next_run"] <= clock.now + 60
    assert isinstance(clock.gate(lost.seq), Grant)
    clock.record("succeeded")
    clock.now += 60
    assert len(clock.claim("b2").ticks) == 1


def test_slots_after_a_backoff_that_nobody_ticked_are_missed(clock: Clock) -> None:
    clock.seed(loop(interval=10))
    (tick,) = clock.claim().ticks
    clock.gate(tick.seq)
    clock.record("failed", error="x", backoff=25)
    clock.now += 1000  # beat was away: slots at 10 and 20 were backing off, 30 to 990 were missed
    assert len(clock.claim().ticks) == 1
    assert clock.status()["skipped"] == {"backing_off": 2}
    assert clock.status()["missed"] == 97
