"""What operators do to jobs and nodes: take up again what ended badly, drain a node; and who is told of the end."""

from __future__ import annotations

import pytest
from redis import Redis

from fleet import job_keys
from fleet.jobs import ORPHAN_AFTER, Holder, Job, JobQueue, JobStatus
from fleet.nodes import NodeRegistry
from fleet.notices import Notice, Notices
from tests.fleet.queue_stage import ANN, BOB, T0, claimed, ids, selfplay

ENDINGS = (JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.ABANDONED, JobStatus.CANCELLED)
CPU = {"cpu": "jobs.cpu"}


def end(queue: JobQueue, job: Job, ending: JobStatus, now: float = T0) -> None:
    """Let a job that ann holds end badly, so."""
    if ending is JobStatus.CANCELLED:
        queue.cancel(job.id, "the end", now=now)
    elif ending is JobStatus.ABANDONED:
        queue.reap(job, "the end", now=now)
    else:
        queue.fail(ANN, job.id, job.attempt, "the end", retry_after=0, timed_out=ending == "timed_out", now=now)
    found = queue.get(job.id)
    assert found is not None
    assert found.status is ending


class TestRetry:
    @pytest.fixture
    def woken(self) -> list[str]:
        return []

    @pytest.fixture
    def queue(self, redis: Redis, woken: list[str]) -> JobQueue:
        queue = JobQueue(redis, lambda capability, n: woken.extend([capability] * n))
        queue.enqueue([selfplay("a", max_attempts=1, capability="gpu")], now=T0)
        woken.clear()
        return queue

    def claim(self, queue: JobQueue, holder: Holder = ANN, now: float = T0) -> Job:
        job = queue.claim(holder, ["gpu"], now=now)
        assert job is not None
        return job

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_job_that_ended_badly_is_taken_up_again(
        self, redis: Redis, queue: JobQueue, woken: list[str], ending: JobStatus
    ) -> None:
        end(queue, self.claim(queue), ending)
        assert queue.retry("a", now=T0 + 9) is ending
        job = queue.get("a")
        assert job is not None
        assert (job.status, job.failures, job.attempt, job.error) == (JobStatus.PENDING, 0, 1, "the end")
        assert (job.node, job.owner, job.claimed_at, job.started_at, job.finished_at) == (None,) * 5
        assert redis.ttl(job_keys.JOB + "a") == -1
        assert queue.find(ENDINGS) == []
        counts = queue.counts()
        assert {status.value: n for status, n in counts.by_status.items() if n} == {"pending": 1}
        assert counts.outstanding == {("selfplay", "hex8_2p"): 1}
        assert woken == ["gpu"]

    def test_it_then_lives_as_any_other(self, queue: JobQueue) -> None:
        end(queue, self.claim(queue), JobStatus.FAILED)
        queue.retry("a", now=T0 + 1)
        job = self.claim(queue, BOB, T0 + 2)
        assert (job.attempt, job.error) == (2, "the end")
        assert not queue.complete(ANN, "a", 1, {"games": 1}, now=T0 + 3)
        assert queue.complete(BOB, "a", 2, {"games": 1}, now=T0 + 3)
        done = queue.get("a")
        assert done is not None
        assert (done.status, done.error, done.finished_at) == (JobStatus.COMPLETED, None, T0 + 3)

    def test_it_has_all_its_attempts_before_it_and_its_old_place(self, queue: JobQueue) -> None:
        end(queue, self.claim(queue), JobStatus.FAILED)
        queue.enqueue([selfplay("younger", capability="gpu")], now=T0 + 5)
        queue.retry("a", now=T0 + 9)
        assert self.claim(queue, now=T0 + 9).id == "a"
        end(queue, self.queue_job(queue), JobStatus.FAILED)
        assert queue.retry("a", now=T0 + 9) is JobStatus.FAILED

    def queue_job(self, queue: JobQueue) -> Job:
        job = queue.get("a")
        assert job is not None
        return job

    def test_what_is_outstanding_or_completed_stays_as_it_is(
        self, redis: Redis, queue: JobQueue, woken: list[str]
    ) -> None:
        def unchanged(status: JobStatus) -> None:
            before = {key: redis.dump(key) for key in redis.keys("*")}
            assert queue.retry("a", now=T0 + 9) is status
            assert {key: redis.dump(key) for key in redis.keys("*")} == before

        unchanged(JobStatus.PENDING)
        self.claim(queue)
        unchanged(JobStatus.CLAIMED)
        queue.start(ANN, "a", 1, now=T0)
        unchanged(JobStatus.RUNNING)
        queue.complete(ANN, "a", 1, {}, now=T0)
        unchanged(JobStatus.COMPLETED)
        assert woken == []

    def test_nothing_is_known_of_an_unknown_job_or_of_one_whose_record_was_lost(
        self, redis: Redis, queue: JobQueue
    ) -> None:
        assert queue.retry("nobody") is None
        redis.delete(job_keys.JOB + "a")
        assert queue.claim(ANN, ["gpu"], now=T0) is None
        assert ids(queue.find({JobStatus.FAILED})) == ["a"]
        assert queue.retry("a") is None
        assert queue.counts().depth == 0


class TestDrain:
    @pytest.fixture(autouse=True)
    def nodes(self, redis: Redis) -> NodeRegistry:
        nodes = NodeRegistry(redis)
        for node in ("ann", "bob"):
            nodes.heartbeat(node, "jobs", {}, now=T0)
        nodes.mark({"ann": {"drain": {"at": T0}}})
        return nodes

    def test_a_node_that_drains_is_given_no_job_and_others_are(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        assert queue.claim(ANN, ["cpu"], now=T0) is None
        assert claimed(queue, BOB).id == "a"

    def test_it_is_owed_no_wake_up_and_told_why(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        poll = queue.poll(ANN, {}, CPU, 4, now=T0)
        assert (poll.wakes, poll.draining) == ({}, True)
        poll = queue.poll(BOB, {}, CPU, 4, now=T0)
        assert (poll.wakes, poll.draining) == ({"cpu": 1}, False)

    def test_what_it_runs_it_may_end(self, queue: JobQueue, nodes: NodeRegistry) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        nodes.mark({"ann": {"drain": None}})
        claimed(queue)
        nodes.mark({"ann": {"drain": {"at": T0}}})
        assert queue.start(ANN, "a", 1, now=T0)
        assert queue.poll(ANN, {"a": 1}, CPU, 0, now=T0).lost == ()
        assert queue.complete(ANN, "a", 1, {}, now=T0)

    def test_it_takes_jobs_again_when_the_mark_is_gone(self, queue: JobQueue, nodes: NodeRegistry) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        nodes.mark({"ann": {"drain": None}})
        assert queue.poll(ANN, {}, CPU, 4, now=T0).wakes == {"cpu": 1}
        assert claimed(queue).id == "a"


class TestNotices:
    @pytest.fixture
    def notices(self, redis: Redis) -> Notices:
        return Notices(redis=redis, interval=0)

    @pytest.fixture
    def queue(self, redis: Redis, notices: Notices) -> JobQueue:
        queue = JobQueue(redis, notices=notices)
        queue.enqueue([selfplay("a", max_attempts=2)], now=T0)
        return queue

    @pytest.mark.parametrize("ending", [JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.ABANDONED])
    def test_a_job_whose_last_attempt_failed_is_told_of_once(
        self, queue: JobQueue, notices: Notices, ending: JobStatus
    ) -> None:
        queue.fail(ANN, claimed(queue).id, 1, "only the first", retry_after=0, now=T0)
        assert notices.recent() == []
        end(queue, claimed(queue), ending)
        assert [notice for _, notice in notices.recent()] == [Notice("Job given up", f"a {ending}: the end", "warning")]

    def test_a_cancelled_job_is_no_news(self, queue: JobQueue, notices: Notices) -> None:
        end(queue, claimed(queue), JobStatus.CANCELLED)
        assert notices.recent() == []

    @pytest.mark.parametrize("finder", ["release_node", "poll"])
    def test_so_is_one_that_its_own_node_gives_up(self, queue: JobQueue, notices: Notices, finder: str) -> None:
        queue.fail(ANN, claimed(queue).id, 1, "only the first", retry_after=0, now=T0)
        queue.start(ANN, claimed(queue).id, 2, now=T0)
        if finder == "poll":
            queue.poll(ANN, {}, {}, 0, now=T0 + ORPHAN_AFTER)
        else:
            queue.release_node(Holder("ann", "ann-2"), "its worker was replaced", now=T0)
        ((_, notice),) = notices.recent()
        assert notice.body.startswith("a abandoned: its ")

    def test_so_is_one_whose_record_is_malformed(self, redis: Redis, queue: JobQueue, notices: Notices) -> None:
        redis.hset(job_keys.JOB + "a", "payload", "[1]")
        assert queue.claim(ANN, ["cpu"], now=T0) is None
        ((_, notice),) = notices.recent()
        assert notice.body.startswith("a failed: malformed job")
