"""The whole queue against a model of it: several holders, late and doubled reports, any order of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

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

from fleet import job_keys, jobs
from fleet.job import ENDED_BADLY, HELD, OUTSTANDING
from fleet.jobs import Holder, Job, JobQueue, JobSpec, JobStatus
from fleet.nodes import NodeRegistry

PENDING, CLAIMED, RUNNING = JobStatus.PENDING, JobStatus.CLAIMED, JobStatus.RUNNING
CAPABILITIES = ["cpu", "gpu"]


@dataclass(frozen=True)
class Expected:
    """One job as it should be; instants in ms."""

    spec: JobSpec
    seq: int
    created: int
    status: JobStatus = PENDING
    attempt: int = 0
    failures: int = 0
    holder: Holder | None = None
    since: int = 0  # claimed, or started
    heartbeat: int = 0
    not_before: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return self.created - self.spec.priority * jobs.AGEING, self.seq

    @property
    def is_held(self) -> bool:
        return self.status in (CLAIMED, RUNNING)

    @property
    def deadline(self) -> int:
        return self.since + round(self.spec.timeout * 1000)

    def requeued(self, due: int) -> Expected:
        return replace(self, status=PENDING, holder=None, not_before=due)

    def retried(self, due: int, ending: JobStatus) -> Expected:
        failed = replace(self, failures=self.failures + 1)
        return failed.requeued(due) if failed.failures < self.spec.max_attempts else replace(failed, status=ending)


class Queue(RuleBasedStateMachine):
    redis: Redis

    @initialize()
    def begin(self) -> None:
        self.redis.flushall()
        self.queue = JobQueue(self.redis)
        self.ms = 1_750_000_000_000
        self.model: dict[str, Expected] = {}
        self.games = 0
        self.holders = [Holder("ann", "ann-1"), Holder("bob", "bob-1")]
        self.said: list[tuple[Holder, str, int]] = []  # every claim there ever was, to be repeated later
        self.seen: Job | None = None
        self.ended: Counter[tuple[str, int]] = Counter()  # by job, and how often it was retried before
        self.retried: Counter[str] = Counter()
        self.nodes = NodeRegistry(self.redis)
        self.draining: set[str] = set()
        for holder in self.holders:
            self.nodes.heartbeat(holder.node, "jobs", {}, now=self.now)

    @property
    def now(self) -> float:
        return self.ms / 1000

    def settle(self, job_id: str, job: Expected) -> None:
        if job.status.is_final and not self.model[job_id].status.is_final:
            self.ended[job_id, self.retried[job_id]] += 1
        self.model[job_id] = job

    def holds(self, holder: Holder, job_id: str, attempt: int) -> Expected | None:
        job = self.model.get(job_id)
        return job if job and job.is_held and (job.holder, job.attempt) == (holder, attempt) else None

    @rule(ms=st.sampled_from([1, 999, 15_000, 31_000, 61_000]))
    def time_passes(self, ms: int) -> None:
        self.ms += ms

    @rule(
        wanted=st.lists(
            st.tuples(
                st.integers(-2, 20), st.sampled_from([0, 50, 51]), st.sampled_from(CAPABILITIES), st.integers(1, 3)
            ),
            min_size=1,
            max_size=6,
        ),
        cap=st.sampled_from([None, None, None, 4, 9]),
    )
    def enqueue(self, wanted: list[tuple[int, int, str, int]], cap: int | None) -> None:
        kinds, configs = ["selfplay", "training"], ["hex8_2p", "square8_3p", "hex8_4p"]
        specs = []
        for step, priority, capability, most in wanted:
            n = max(0, len(self.model) + step)  # steps below 0 name jobs that exist already
            name = f"job-{n}"
            specs.append(
                JobSpec(
                    kinds[n % 2],
                    configs[n % 3],
                    priority,
                    capability,
                    {"n": n},
                    timeout=20.5 + n,
                    max_attempts=most,
                    id=name,
                )
            )
        accepted = []
        depth = sum(job.status in OUTSTANDING for job in self.model.values())
        for spec in specs:
            name = str(spec.id)
            if name not in self.model and (cap is None or depth < cap):
                self.model[name] = Expected(spec, len(self.model), self.ms)
                accepted.append(name)
                depth += 1
        assert self.queue.enqueue(specs, depth_cap=cap, now=self.now) == accepted

    @rule(who=st.integers(0, 1))
    def claim_any(self, who: int) -> None:
        self.claim(who, CAPABILITIES)

    @rule(
        who=st.integers(0, 1),
        capabilities=st.sampled_from([["cpu"], ["gpu"], ["cpu", "gpu"], ["gpu", "cpu"], ["gpu", "gpu"]]),
    )
    def claim(self, who: int, capabilities: list[str]) -> None:
        holder = self.holders[who]
        due = [
            (job.order, name)
            for name, job in self.model.items()
            if job.status is PENDING and job.spec.capability in capabilities and job.not_before <= self.ms
        ]
        due = [] if holder.node in self.draining else due
        job = self.queue.claim(holder, capabilities, now=self.now)
        if not due:
            assert job is None
            return
        name = min(due)[1]
        assert job is not None
        expected = self.model[name]
        self.model[name] = replace(
            expected, status=CLAIMED, attempt=expected.attempt + 1, holder=holder, since=self.ms, heartbeat=self.ms
        )
        self.said.append((holder, name, job.attempt))
        assert job.id == name

    def some_claim(self, data: st.DataObject) -> tuple[Holder, str, int]:
        """One that holds, mostly; else an old one, or an impostor's."""
        live = [said for said in self.said if self.holds(*said)]
        holder, name, attempt = data.draw(st.sampled_from(live * 3 + self.said[-3:]))
        odd = [(Holder(holder.node, "older"), name, attempt), (Holder("eve", holder.owner), name, attempt)]
        return data.draw(st.sampled_from([*[(holder, name, attempt)] * 6, *odd, (holder, name, attempt - 1)]))

    @precondition(lambda self: self.said)
    @rule(data=st.data(), verb=st.sampled_from(["start", "start", "start", "complete", "fail", "time out", "release"]))
    def report(self, data: st.DataObject, verb: str) -> None:
        said = self.some_claim(data)
        job, name, now = self.holds(*said), said[1], self.now
        match verb:
            case "start":
                assert self.queue.start(*said, now=now) == (job is not None)
                if job and job.status is CLAIMED:
                    self.settle(name, replace(job, status=RUNNING, since=self.ms, heartbeat=self.ms))
            case "complete":
                assert self.queue.complete(*said, {"games": 5}, now=now) == (job is not None)
                if job:
                    self.settle(name, replace(job, status=JobStatus.COMPLETED))
                    self.games += 5
            case "release":
                assert self.queue.release(*said, "drain", now=now) == (job is not None)
                if job:
                    self.settle(name, job.requeued(0))
            case _:
                late = verb == "time out"
                status = self.queue.fail(*said, "no", retry_after=30, timed_out=late, now=now)
                if job:
                    ending = JobStatus.TIMED_OUT if late else JobStatus.FAILED
                    self.settle(name, job.retried(self.ms + 30_000, ending))
                assert status == (self.model[name].status if job else None)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(["nobody", *list(self.model)[-5:]]))
        job = self.model.get(name)
        if job and not job.status.is_final:
            self.settle(name, replace(job, status=JobStatus.CANCELLED))
        assert self.queue.cancel(name, "not wanted", now=self.now) == (self.model[name].status if job else None)

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        over = [name for name, job in self.model.items() if job.status.is_final]
        name = data.draw(st.sampled_from(["nobody", *over * 3, *list(self.model)[-3:]]))
        job = self.model.get(name)
        if job and job.status in ENDED_BADLY:
            self.model[name] = replace(job, status=PENDING, failures=0, holder=None, not_before=0)
            self.retried[name] += 1
        assert self.queue.retry(name, now=self.now) == (job.status if job else None)

    @rule(who=st.integers(0, 1))
    def drain_or_not(self, who: int) -> None:
        node = self.holders[who].node
        self.draining ^= {node}
        self.nodes.mark({node: {"drain": {"at": self.now} if node in self.draining else None}})

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        node, _, count = self.holders[who].owner.partition("-")
        reborn = self.holders[who] = Holder(node, f"{node}-{int(count) + 1}")
        taken = {n for n, job in self.model.items() if job.is_held and job.holder and job.holder.node == node}
        for name in taken:
            self.settle(name, self.model[name].retried(0, JobStatus.ABANDONED))
        assert set(self.queue.release_node(reborn, "restarted", now=self.now)) == taken

    @rule(who=st.integers(0, 1))
    def ask_for_leftovers_again(self, who: int) -> None:
        assert self.queue.release_node(self.holders[who], "no restart", now=self.now) == []

    @rule(who=st.integers(0, 1), data=st.data(), idle=st.integers(0, 3))
    def poll(self, who: int, data: st.DataObject, idle: int) -> None:
        holder = self.holders[who]
        mine = [(name, job.attempt) for name, job in self.model.items() if job.is_held and job.holder == holder]
        others = [(name, attempt) for _, name, attempt in self.said[-4:]]
        known = st.lists(st.sampled_from(mine * 3 + others), max_size=6) if others else st.just([])
        running = dict(data.draw(known))
        lost = []
        for name, attempt in running.items():
            if job := self.holds(holder, name, attempt):
                self.model[name] = replace(job, heartbeat=self.ms)
            else:
                lost.append(name)
        for name, job in list(self.model.items()):
            forgotten = name not in running or name in lost
            if job.is_held and job.holder == holder and forgotten and job.heartbeat <= self.ms - 60_000:
                self.settle(name, job.requeued(0) if job.status is CLAIMED else job.retried(0, JobStatus.ABANDONED))
        ready = Counter(
            job.spec.capability for job in self.model.values() if job.status is PENDING and job.not_before <= self.ms
        )
        drains = holder.node in self.draining
        wakes = {name: min(ready[name], idle) for name in CAPABILITIES if min(ready[name], idle) and not drains}
        poll = self.queue.poll(holder, running, {name: f"jobs.{name}" for name in CAPABILITIES}, idle, now=self.now)
        assert (list(poll.lost), poll.wakes, poll.draining) == (lost, wakes, drains)

    @rule(retry_after=st.sampled_from([0, 30]), silent=st.booleans(), fresh=st.booleans())
    def reap(self, retry_after: int, silent: bool, fresh: bool) -> None:
        held = self.queue.find(HELD, now=self.now)
        if held and fresh:
            self.seen = held[-1]
        if self.seen is None:
            return
        job = self.model[self.seen.id]
        unchanged = job.is_held and (job.status, job.attempt) == (self.seen.status, self.seen.attempt)
        if silent:
            assert self.seen.heartbeat_at is not None
            unchanged = unchanged and job.heartbeat == round(self.seen.heartbeat_at * 1000)
        status = self.queue.reap(self.seen, "lost", retry_after=retry_after, if_silent=silent, now=self.now)
        if unchanged:
            self.settle(self.seen.id, job.retried(self.ms + retry_after * 1000, JobStatus.ABANDONED))
        assert status == (self.model[self.seen.id].status if unchanged else None)

    @invariant()
    def the_registry_says_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        keys = list(self.redis.scan_iter(job_keys.JOB + "*", count=1000))
        with self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hgetall(key).ttl(key)
            replies = iter(pipe.execute())
        stored = {
            key.decode().removeprefix(job_keys.JOB): (Job.decode(next(replies).items()), next(replies)) for key in keys
        }
        assert stored.keys() == self.model.keys()
        for name, expected in self.model.items():
            job, ttl = stored[name]
            assert job.id == name
            assert (ttl > 0) == expected.status.is_final
            assert (job.status, job.attempt, job.failures) == (expected.status, expected.attempt, expected.failures)
            if expected.is_held:
                assert expected.holder == Holder(str(job.node), str(job.owner))
                assert job.heartbeat_at == expected.heartbeat / 1000
                assert (job.started_at or job.claimed_at) == expected.since / 1000

    @invariant()
    def the_counters_equal_a_full_recount(self) -> None:
        if not hasattr(self, "model"):
            return
        statuses = Counter(job.status for job in self.model.values())
        kinds = Counter((job.spec.kind, job.status) for job in self.model.values())
        outstanding = Counter(
            (job.spec.kind, job.spec.config) for job in self.model.values() if job.status in OUTSTANDING
        )
        counts = self.queue.counts()
        assert Counter(counts.by_status) == statuses
        assert +Counter({(k, s): n for k, by in counts.by_kind.items() for s, n in by.items()}) == kinds
        assert counts.outstanding == outstanding
        assert counts.depth == outstanding.total()
        pending = Counter(job.spec.capability for job in self.model.values() if job.status is PENDING)
        assert counts.pending == pending
        assert sum(counts.games.values()) == self.games

    @invariant()
    def each_job_is_in_one_place_and_ends_once(self) -> None:
        if not hasattr(self, "model"):
            return
        places: list[str] = []
        for pattern, status in (
            ("ready:*", PENDING),
            ("delayed:*", PENDING),
            ("claimed", CLAIMED),
            ("running", RUNNING),
        ):
            for key in self.redis.keys("{backbeat}:jobs:" + pattern):
                names = [entry.decode().split(":")[1] for entry in self.redis.zrange(key, 0, -1)]
                assert {self.model[name].status for name in names} <= {status}
                places += names
        assert sorted(places) == sorted(name for name, job in self.model.items() if job.status in OUTSTANDING)
        assert set(self.ended.values()) <= {1}
        over = sorted(name for name, job in self.model.items() if job.status.is_final)
        assert sorted(self.scores(job_keys.FINISHED)) == over

    @invariant()
    def what_is_held_is_found_by_time_and_by_node(self) -> None:
        if not hasattr(self, "model"):
            return
        held = {name: job for name, job in self.model.items() if job.is_held}
        assert self.scores(job_keys.CLAIMED) == {n: job.since for n, job in held.items() if job.status is CLAIMED}
        assert self.scores(job_keys.RUNNING) == {n: job.deadline for n, job in held.items() if job.status is RUNNING}
        assert self.scores(job_keys.HEARD) == {name: job.heartbeat for name, job in held.items()}
        by_node: dict[str, dict[str, float]] = {}
        for name, job in held.items():
            assert job.holder is not None
            by_node.setdefault(job.holder.node, {})[name] = job.since
        assert self.queue.holders() == by_node.keys()
        holds = {key.decode() for key in self.redis.keys(job_keys.HOLDS + "*")}
        assert {key.removeprefix(job_keys.HOLDS): self.scores(key) for key in holds} == by_node

    def scores(self, key: str) -> dict[str, float]:
        """Job id -> score."""
        return {entry.decode().split(":")[1]: score for entry, score in self.redis.zrange(key, 0, -1, withscores=True)}


def test_the_queue_behaves_as_its_model(session_server: Any, redis: Redis) -> None:
    machine = type("QueueOnThisServer", (Queue,), {"redis": redis})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=60, stateful_step_count=60, suppress_health_check=list(HealthCheck)),
    )
