"""Beats, workers and operators in any order, on virtual time: what always holds of the timetable."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from workers import keys
from workers.ledger import Grant, Ledger, Refusal, Scheduled, Vanished
from workers.settings import connect

START = 1_800_000_000.0
INTERVAL, TTL, LEASE, GRACE = 10.0, 8.0, 3.0, 2.0


class Timetable(RuleBasedStateMachine):
    """Two beats and three workers around one loop."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.tokens = 0
        self.sent: list[int] = []  # every message ever published: seqs
        self.granted: Counter[int] = Counter()  # scheduled runs by seq
        self.running: dict[str, float] = {}  # run token -> when its lease ends, as the model sees it
        self.grid_at = START
        self.paused = self.stopped = False

    @initialize()
    def seed(self) -> None:
        self.ledger.redis.flushall()
        self.ledger.seed([Scheduled("a", INTERVAL, "loops")], prune=True, now=self.now)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.9, 2.1, 3.1, 7.9, 8.1, 9.9, 10.0, 25.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(beat=st.sampled_from(["b1", "b2"]), delivered=st.booleans())
    def poll(self, beat: str, delivered: bool) -> None:
        claim = self.ledger.claim(beat, "{}", ttl=LEASE, grace=GRACE, now=self.now)
        for tick in claim.ticks:
            # a retry after a backoff stands between slots; every other tick stands on the grid
            assert tick.slot <= self.now
            if delivered:
                self.sent.append(tick.seq)
                self.ledger.redis.rpush("loops", tick.seq)
        for gone in claim.vanished:
            self.write_off(gone)

    def write_off(self, gone: Vanished) -> None:
        assert self.running.pop(gone.run) <= self.now
        self.ledger.record(
            "a", gone.run, "abandoned", error="x", backoff=5, failed_at=gone.lease_until - TTL, now=self.now
        )

    def ask(self, seq: int | None) -> None:
        self.tokens += 1
        token = f"r{self.tokens}"
        answer = self.ledger.gate(
            "a", seq, token, ttl=TTL, deadline=60, leader_only=False, owner="", identity="w", now=self.now
        )
        if isinstance(answer, Vanished):
            self.write_off(answer)
        elif isinstance(answer, Grant):
            assert not self.stopped
            assert all(until <= self.now for until in self.running.values()), "two runs at once"
            self.running[token] = self.now + TTL
            if seq is not None:
                assert not self.paused
                self.granted[seq] += 1
        else:
            assert isinstance(answer, Refusal)

    @rule(keep=st.booleans())
    def take(self, keep: bool) -> None:
        """A worker takes the next message; it may be delivered again later."""
        raw = self.ledger.redis.lpop("loops")
        if raw is not None:
            self.ask(int(raw))
            if keep:
                self.ledger.redis.rpush("loops", raw)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        """A message of any time arrives once more."""
        self.ask(data.draw(st.sampled_from(self.sent)))

    @rule()
    def run_by_hand(self) -> None:
        self.ask(None)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "not_leader", "timed_out"]))
    def end(self, data: Any, outcome: str) -> None:
        token = data.draw(st.sampled_from(sorted(self.running)))
        said = self.ledger.record("a", token, outcome, backoff=5, error="x", now=self.now)
        assert said == outcome
        del self.running[token]
        assert self.ledger.record("a", token, outcome, now=self.now) == outcome  # told again
        assert self.ledger.record("a", token, "abandoned", now=self.now) == "late"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        token = data.draw(st.sampled_from(sorted(self.running)))
        assert self.ledger.renew({"a": token}, ttl=TTL, now=self.now) == []
        self.running[token] = self.now + TTL

    @rule(action=st.sampled_from(["pause", "resume", "stop", "start"]))
    def steer(self, action: str) -> None:
        assert self.ledger.control("a", action, now=self.now)
        self.paused = {"pause": True, "resume": False, "start": False}.get(action, self.paused)
        self.stopped = {"stop": True, "start": False}.get(action, self.stopped)

    @rule()
    def restart(self) -> None:
        self.ledger.seed([Scheduled("a", INTERVAL, "loops")], prune=True, now=self.now)

    @invariant()
    def holds(self) -> None:
        assert all(times == 1 for times in self.granted.values()), f"a tick ran twice: {self.granted}"
        row = self.ledger.redis.hgetall(keys.LOOP + "a")
        if not row:
            return
        assert len(self.running) <= 1
        assert int(row.get("seq", 0)) >= max([0, *self.granted])
        assert (int(row["next_due"]) / 1000 - START) % INTERVAL == 0, "the grid moved"
        assert self.ledger.redis.zscore(keys.DUE, "a") is not None


@pytest.mark.timeout(180)
def test_the_timetable_keeps_its_promises_in_any_order(redis: Redis, session_server: Any) -> None:
    Timetable.ledger = Ledger(connect(session_server.url))
    run_state_machine_as_test(
        Timetable,
        settings=settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )
