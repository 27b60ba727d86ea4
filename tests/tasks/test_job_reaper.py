"""The job reaper on a real server: each category, the bounds, the races, and who is told."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis

from fleet.fence import UNFENCED, Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.jobs import Holder, Job, JobQueue, JobSpec, JobStatus
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from fleet.reaping import CATEGORIES, STOPPED_WITHIN
from tasks.job_reaper import Options, job_reaper
from tasks.loop import Tick
from workers.lease import LeaderLease

NOW = 1_800_000_000.0
NOTHING = dict.fromkeys((*CATEGORIES, "unpublished", "requeued", "given_up"), 0)
N1, N2 = Holder("n1", "o1"), Holder("n2", "o2")


class Cluster:
    """A fleet in virtual time, and the messages that were sent."""

    def __init__(self, redis: Redis, data: Path) -> None:
        self.woken: list[str] = []
        notices = Notices(redis=redis, interval=0)
        queue = JobQueue(redis, lambda capability, n: self.woken.extend([capability] * n), notices)
        nodes = NodeRegistry(redis)
        self.fleet = Fleet(redis, FleetOptions(), queue, nodes, notices, "n0", data)
        self.names = (f"j{n}" for n in itertools.count())

    def run(self, tick: Tick | None = None, **options: Any) -> dict[str, int]:
        """What a run counted, but for zeros."""
        counts = job_reaper(self.fleet, Options.model_validate(options), tick or Tick(now=NOW))
        assert counts.keys() - {"listening"} == NOTHING.keys()
        return {name: number for name, number in counts.items() if number}

    def hear(self, node: str = "n1", ago: float = 1.0, **facts: Any) -> None:
        facts = {"slots": 0, "capabilities": ["cpu"], "running": [], **facts}
        self.fleet.nodes.heartbeat(node, "jobs", facts, now=NOW - ago)

    def lose(self, node: str) -> None:
        self.fleet.nodes.mark({node: {"health": {"status": "lost", "since": NOW, "at": NOW, "reasons": []}}})

    def held(
        self, *, claimed: float, started: float | None = None, heard: float | None = None, by: Holder = N1, **spec: Any
    ) -> str:
        """A job claimed, started and last heard of so many seconds ago."""
        job_id = next(self.names)
        queue = self.fleet.jobs
        queue.enqueue([JobSpec("selfplay", "hex8_2p", id=job_id, **spec)], now=NOW - claimed)
        self.woken.clear()
        assert queue.claim(by, ["cpu"], now=NOW - claimed) is not None
        if started is not None:
            assert queue.start(by, job_id, 1, now=NOW - started)
        if heard is not None:
            queue.poll(by, {job_id: 1}, {}, 0, now=NOW - heard)
        return job_id

    def job(self, job_id: str) -> Job:
        job = self.fleet.jobs.get(job_id)
        assert job is not None
        return job


@pytest.fixture
def cluster(redis: Redis, tmp_path: Path) -> Cluster:
    cluster = Cluster(redis, tmp_path)
    cluster.hear()
    return cluster


class TestEachCategory:
    def test_stale_claimed_and_never_started_though_its_holder_lives(self, cluster: Cluster) -> None:
        bad = cluster.held(claimed=3601, heard=1)
        cluster.held(claimed=3599, heard=1)
        cluster.held(claimed=9000, started=3599, heard=1)
        assert cluster.run() == {"stale": 1, "requeued": 1}
        job = cluster.job(bad)
        assert (job.status, job.failures, job.error) == (
            JobStatus.PENDING, 1, "stale: n1 claimed it 3601 s ago and has not started it",
        )  # fmt: skip

    def test_stuck_past_its_own_timeout(self, cluster: Cluster) -> None:
        bad = cluster.held(claimed=400, started=361, heard=1, timeout=60)
        training = cluster.held(claimed=18_000, started=18_000, heard=1, timeout=18_000)
        assert cluster.run() == {"stuck": 1, "requeued": 1}
        assert cluster.job(bad).error == "stuck: 301 s past its timeout, n1 has not ended it"
        assert cluster.job(training).status is JobStatus.RUNNING

    def test_abandoned_by_a_holder_that_is_said_to_be_well(self, cluster: Cluster) -> None:
        cluster.held(claimed=4000, started=4000, heard=3601, timeout=9000)
        cluster.held(claimed=4000, started=4000, heard=3599, timeout=9000)
        assert cluster.run() == {"abandoned": 1, "requeued": 1}

    @pytest.mark.parametrize("how", ["lost", "forgotten", "left", "without a jobs worker"])
    def test_orphaned_by_a_node_that_is_gone(self, cluster: Cluster, how: str) -> None:
        cluster.hear("n2", ago=100)
        bad = cluster.held(claimed=100, started=100, heard=61, by=N2)
        cluster.held(claimed=100, started=100, heard=61)
        if how == "lost":
            cluster.lose("n2")
        elif how == "forgotten":
            cluster.fleet.nodes.mark({}, forget=["n2"])
        elif how == "left":
            cluster.fleet.nodes.leave("n2", "jobs")
        else:
            cluster.fleet.nodes.heartbeat("n2", "agent", {}, now=NOW)
        assert cluster.run() == {"orphaned": 1, "requeued": 1}
        job = cluster.job(bad)
        assert (job.status, job.not_before, job.node) == (JobStatus.PENDING, None, None)
        assert (job.error or "").startswith("orphaned: n2 ")

    def test_nothing_is_found_twice(self, cluster: Cluster) -> None:
        cluster.held(claimed=9000)
        assert cluster.run() == {"stale": 1, "requeued": 1}
        assert cluster.run() == {}
        assert cluster.run(Tick(now=NOW + 1)) == {}

    def test_a_healthy_queue_is_left_alone(self, cluster: Cluster) -> None:
        cluster.held(claimed=100, heard=1)
        cluster.held(claimed=100, started=90, heard=1)
        cluster.fleet.jobs.enqueue([JobSpec("selfplay", "hex8_2p")], now=NOW)
        assert cluster.run() == {}


class TestTheEnd:
    def test_the_last_attempt_ends_the_job_with_its_reason_and_a_notice(self, cluster: Cluster) -> None:
        stuck = cluster.held(claimed=400, started=400, heard=1, timeout=60, max_attempts=1)
        silent = cluster.held(claimed=9000, started=9000, timeout=1e6, max_attempts=1)
        assert cluster.run() == {"stuck": 1, "abandoned": 1, "given_up": 2}
        assert cluster.job(stuck).status is JobStatus.TIMED_OUT
        assert cluster.job(silent).status is JobStatus.ABANDONED
        told = {notice.body for _, notice in cluster.fleet.notices.recent() if notice.title == "Job given up"}
        assert told == {f"{job} {cluster.job(job).status}: {cluster.job(job).error}" for job in (stuck, silent)}

    def test_a_live_holder_is_given_time_before_the_next_attempt(self, cluster: Cluster) -> None:
        job = cluster.held(claimed=400, started=400, heard=1, timeout=60)
        cluster.run()
        at = int(cluster.fleet.redis.time()[0])
        assert at < (cluster.job(job).not_before or 0) <= at + 1 + STOPPED_WITHIN
        assert cluster.fleet.jobs.poll(N1, {job: 1}, {}, 0).lost == (job,)

    def test_a_job_goes_round_as_often_as_it_has_attempts(self, cluster: Cluster) -> None:
        cluster.hear("n2", ago=9000)
        cluster.lose("n2")
        job_id = cluster.held(claimed=9000, by=N2)
        assert cluster.run() == {"orphaned": 1, "requeued": 1}
        for _ in range(2):
            assert cluster.fleet.jobs.claim(N2, ["cpu"], now=NOW - 100) is not None
            cluster.run()
        job = cluster.job(job_id)
        assert (job.status, job.failures, job.attempt) == (JobStatus.ABANDONED, 3, 3)


class TestBounds:
    def test_ten_a_run_those_that_have_been_bad_for_longest(self, cluster: Cluster) -> None:
        cluster.hear("n2", ago=9000)
        cluster.lose("n2")
        orphans = [cluster.held(claimed=1000 - n, by=N2) for n in range(8)]
        stale = [cluster.held(claimed=5000 - n, heard=1) for n in range(8)]
        assert cluster.run() == {"stale": 8, "orphaned": 2, "requeued": 10}
        assert {cluster.job(job).status for job in stale} == {JobStatus.PENDING}
        assert [cluster.job(job).status for job in orphans] == [JobStatus.PENDING] * 2 + [JobStatus.CLAIMED] * 6
        assert cluster.run() == {"orphaned": 6, "requeued": 6}

    def test_the_bound_is_an_option(self, cluster: Cluster) -> None:
        for _ in range(5):
            cluster.held(claimed=5000, heard=1)
        assert [cluster.run(max_jobs_to_reap_per_cycle=3)["stale"] for _ in range(2)] == [3, 2]

    def test_jobs_that_can_no_longer_be_taken_do_not_use_up_the_bound(self, cluster: Cluster) -> None:
        """They changed between the look and the write; the next ones are tried instead."""

        class Racing(JobQueue):
            def held(self, **limits: Any) -> list[Job]:
                found = super().held(**limits)
                for job in found[:3]:
                    assert self.complete(N1, job.id, job.attempt, {}, now=NOW)
                return found

        for _ in range(5):
            cluster.held(claimed=5000, heard=1)
            cluster.held(claimed=5000, started=4000, timeout=60, heard=1)
        racing = replace(cluster.fleet, jobs=Racing(cluster.fleet.redis))
        counts = job_reaper(racing, Options(max_jobs_to_reap_per_cycle=5), Tick(now=NOW))
        assert counts["requeued"] == 5
        assert cluster.fleet.jobs.counts().by_status[JobStatus.COMPLETED] == 3

    def test_a_silent_job_that_is_heard_in_the_last_moment_is_left_alone(self, cluster: Cluster) -> None:
        class Heard(JobQueue):
            def held(self, **limits: Any) -> list[Job]:
                found = super().held(**limits)
                self.poll(N1, {job.id: 1 for job in found}, {}, 0, now=NOW)
                return found

        job = cluster.held(claimed=4000, started=4000, timeout=1e6)
        heard = replace(cluster.fleet, jobs=Heard(cluster.fleet.redis))
        assert job_reaper(heard, Options(), Tick(now=NOW)) == NOTHING
        assert cluster.job(job).status is JobStatus.RUNNING

    def test_it_reads_only_what_is_past_a_limit(self, cluster: Cluster) -> None:
        def read(jobs: int) -> int:
            queue = cluster.fleet.jobs
            queue.enqueue([JobSpec("selfplay", "hex8_2p") for _ in range(3 * jobs)], now=NOW)
            for n in range(2 * jobs):
                job = queue.claim(N1, ["cpu"], now=NOW)
                assert job is not None
                if n % 2:
                    queue.start(N1, job.id, 1, now=NOW)
            cluster.run()
            cluster.fleet.redis.config_resetstat()
            assert cluster.run() == {}
            stats = cluster.fleet.redis.info("commandstats")
            return sum(stat["calls"] for name, stat in stats.items() if name != "cmdstat_config|resetstat")

        assert read(5) == read(200)


class TestUnpublished:
    @pytest.fixture(autouse=True)
    def four_slots(self, cluster: Cluster) -> None:
        cluster.hear(slots=4)

    def wait(self, cluster: Cluster, number: int, capability: str = "cpu") -> None:
        specs = [JobSpec("selfplay", "hex8_2p", capability=capability) for _ in range(number)]
        cluster.fleet.jobs.enqueue(specs, now=NOW - 61)
        cluster.woken.clear()

    def test_idle_workers_are_woken_for_jobs_that_no_message_stands_for(self, cluster: Cluster) -> None:
        self.wait(cluster, 3)
        assert cluster.run() == {"unpublished": 3}
        assert cluster.woken == ["cpu"] * 3

    def test_at_most_one_for_each_idle_slot_and_none_for_nobody(self, cluster: Cluster) -> None:
        self.wait(cluster, 30)
        self.wait(cluster, 5, "gpu")
        assert cluster.run() == {"unpublished": 4}
        cluster.hear(slots=4, running=["a", "b", "c"])
        assert cluster.run() == {"unpublished": 1}
        cluster.hear("n2", slots=64)
        assert cluster.run() == {"unpublished": 10}
        assert set(cluster.woken) == {"cpu"}

    def test_none_while_a_message_waits_or_the_job_is_young(self, cluster: Cluster) -> None:
        self.wait(cluster, 3)
        cluster.fleet.redis.lpush("jobs.cpu", "a message")
        assert cluster.run() == {}
        cluster.fleet.redis.delete("jobs.cpu")
        assert cluster.run(unpublished_after="2m") == {}


class TestTheLeader:
    GUARD = "{backbeat}:leader:guard"

    def tick(self, since: float, run: str = "") -> Tick:
        return Tick(now=NOW, fence=Fence(round(since * 1000), "me", run, self.GUARD, "{backbeat}:loop:job_reaper"))

    def test_a_new_leader_listens_before_it_takes_anything_back(self, cluster: Cluster) -> None:
        """The server was away for hours: nobody was heard, and everybody is about to be."""
        cluster.hear(ago=9000)
        cluster.held(claimed=9000, started=9000, heard=9000, timeout=60)
        cluster.fleet.jobs.enqueue([JobSpec("selfplay", "hex8_2p")], now=NOW - 9000)
        tick = self.tick(NOW - 5)
        assert cluster.run(tick) == {"listening": 1}
        assert tick.wanted_after == pytest.approx(10)
        tick = self.tick(NOW - 15)
        assert cluster.run(tick) == {"orphaned": 1, "requeued": 1}
        assert tick.wanted_after is None

    def test_a_term_from_the_future_stops_nothing(self, cluster: Cluster) -> None:
        """The server's clock went back since the leader was elected."""
        cluster.held(claimed=9000)
        assert cluster.run(self.tick(NOW + 9000))["requeued"] == 1

    def test_the_leases_fence_tells_when_the_term_began(self, redis: Redis) -> None:
        lease = LeaderLease(redis, "n1")
        assert lease.try_once()
        seconds, _ = redis.time()
        assert abs(Fence(lease.fence(), "", "", "", "").since - seconds) < 30
        assert UNFENCED.since == 0

    def test_a_deposed_leader_takes_nothing_back(self, cluster: Cluster) -> None:
        job = cluster.held(claimed=9000)
        cluster.fleet.redis.hset(self.GUARD, mapping={"fence": round(NOW * 1000), "owner": "the new leader"})
        with pytest.raises(FenceRefused):
            cluster.run(self.tick(NOW - 100))
        assert cluster.job(job).status is JobStatus.CLAIMED
        assert cluster.fleet.notices.recent() == []


def race(url: str, data: Path, names: list[str]) -> tuple[list[str], Counter[str]]:
    """Two reapers and the holder at once: which jobs the holder could complete, and what the reapers counted."""
    start = threading.Barrier(3)
    completed: list[str] = []
    reaped: list[Counter[str]] = []

    def reap() -> None:
        with Redis.from_url(url) as client:
            cluster = Cluster(client, data)
            start.wait()
            reaped.append(Counter(cluster.run(Tick(now=NOW + 400), max_jobs_to_reap_per_cycle=len(names))))

    def complete() -> None:
        with Redis.from_url(url) as client:
            queue = JobQueue(client)
            start.wait()
            completed.extend(name for name in reversed(names) if queue.complete(N1, name, 1, {"games": 1}))

    threads = [threading.Thread(target=work) for work in (reap, reap, complete)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return completed, reaped[0] + reaped[1]


def test_a_job_that_ends_while_it_is_reaped_has_one_outcome(
    cluster: Cluster, session_server: Any, tmp_path: Path
) -> None:
    cluster.hear(ago=-400)
    queue = cluster.fleet.jobs
    outcomes = Counter[JobStatus]()
    for _ in range(5):
        names = [cluster.held(claimed=0, started=0, timeout=1, max_attempts=1 + n % 2) for n in range(40)]
        completed, reaped = race(session_server.url, tmp_path, names)
        ended = Counter(cluster.job(name).status for name in names)
        assert ended.keys() <= {JobStatus.COMPLETED, JobStatus.PENDING, JobStatus.TIMED_OUT}
        assert {name for name in names if cluster.job(name).status is JobStatus.COMPLETED} == set(completed)
        assert reaped["requeued"] == ended[JobStatus.PENDING]
        assert reaped["given_up"] == ended[JobStatus.TIMED_OUT]
        assert reaped["stuck"] == reaped["requeued"] + reaped["given_up"]
        outcomes += ended
        for name in names:
            queue.cancel(name, "the round is over")
    assert queue.counts().games == {"hex8_2p": outcomes[JobStatus.COMPLETED]}
    assert 0 < outcomes[JobStatus.COMPLETED] < 200, "nobody raced"
    assert queue.counts().depth == 0


def test_it_is_declared_for_the_leader_only() -> None:
    assert job_reaper.name == "job_reaper"
    assert job_reaper.leader_only
    assert "Idempotent" in (job_reaper.body.__doc__ or "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stale_after": 0}, "greater than 0"),
        ({"stuck_grace": "-5s"}, "is not a duration"),
        ({"abandoned_after": "10s"}, "greater than or equal to 15"),
        ({"max_jobs_to_reap_per_cycle": 0}, "greater than or equal to 1"),
        ({"unpublished_after": "soon"}, "'soon' is not a duration"),
        ({"abandon_after": "1h"}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)
