"""The life of jobs, rule by rule: claimed, run, ended, handed back, taken back."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from fleet import job_keys, jobs
from fleet.job import ERROR_LIMIT, HELD, JSON_LIMIT
from fleet.jobs import Holder, Job, JobQueue, JobStatus
from tests.fleet.queue_stage import ANN, BOB, T0, Counting, claimed, ids, selfplay


class TestLife:
    @pytest.fixture(autouse=True)
    def one_job(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a", max_attempts=2)], now=T0)

    def test_from_claim_to_completion(self, queue: JobQueue) -> None:
        job = claimed(queue, now=T0 + 1)
        assert (job.status, job.attempt, job.node, job.owner) == (JobStatus.CLAIMED, 1, "ann", "ann-1")
        assert (job.claimed_at, job.heartbeat_at, job.started_at) == (T0 + 1, T0 + 1, None)
        assert queue.claim(BOB, ["cpu"], now=T0 + 1) is None
        assert queue.start(ANN, "a", 1, now=T0 + 2)
        assert queue.poll(ANN, {"a": 1}, {}, 0, now=T0 + 3).lost == ()
        running = queue.get("a")
        assert running is not None
        assert (running.status, running.started_at, running.heartbeat_at) == (JobStatus.RUNNING, T0 + 2, T0 + 3)
        assert queue.complete(ANN, "a", 1, {"games": 25, "note": "é"}, now=T0 + 4)
        done = queue.get("a")
        assert done is not None
        assert (done.status, done.finished_at, done.node) == (JobStatus.COMPLETED, T0 + 4, "ann")
        assert done.result == {"games": 25, "note": "é"}
        assert queue.counts().games == {"hex8_2p": 25}
        assert queue.counts().depth == 0

    @pytest.mark.parametrize("stranger", [BOB, Holder("ann", "ann-2"), Holder("bob", "ann-1")])
    def test_only_the_holder_is_believed(self, queue: JobQueue, stranger: Holder) -> None:
        claimed(queue)
        before = queue.get("a")
        assert not queue.start(stranger, "a", 1, now=T0)
        assert not queue.complete(stranger, "a", 1, {}, now=T0)
        assert queue.fail(stranger, "a", 1, "x", retry_after=0, now=T0) is None
        assert not queue.release(stranger, "a", 1, "x", now=T0)
        assert queue.poll(stranger, {"a": 1}, {}, 0, now=T0).lost == ("a",)
        assert queue.get("a") == before

    def test_an_earlier_attempt_of_the_same_holder_is_refused(self, queue: JobQueue) -> None:
        claimed(queue)
        queue.release(ANN, "a", 1, "drain", now=T0)
        assert claimed(queue).attempt == 2
        assert not queue.complete(ANN, "a", 1, {}, now=T0)
        assert queue.poll(ANN, {"a": 1}, {}, 0, now=T0).lost == ("a",)
        assert queue.complete(ANN, "a", 2, {}, now=T0)

    def test_starting_twice_is_the_same_as_once(self, queue: JobQueue) -> None:
        claimed(queue)
        assert queue.start(ANN, "a", 1, now=T0 + 1)
        assert queue.start(ANN, "a", 1, now=T0 + 9)
        job = queue.get("a")
        assert job is not None
        assert job.started_at == T0 + 1

    def test_a_job_ends_once(self, queue: JobQueue) -> None:
        claimed(queue)
        assert queue.complete(ANN, "a", 1, {"games": 3}, now=T0)
        assert not queue.complete(ANN, "a", 1, {"games": 3}, now=T0)
        assert queue.fail(ANN, "a", 1, "x", retry_after=0, now=T0) is None
        assert queue.cancel("a", "too late", now=T0) is JobStatus.COMPLETED
        assert queue.counts().games == {"hex8_2p": 3}

    def test_a_failure_waits_for_its_retry(self, queue: JobQueue) -> None:
        claimed(queue)
        queue.start(ANN, "a", 1, now=T0)
        assert queue.fail(ANN, "a", 1, "exit code 1", retry_after=30, now=T0) is JobStatus.PENDING
        job = queue.get("a")
        assert job is not None
        assert (job.failures, job.not_before, job.error) == (1, T0 + 30, "exit code 1")
        assert (job.node, job.owner, job.claimed_at, job.started_at, job.heartbeat_at) == (None,) * 5
        assert queue.claim(BOB, ["cpu"], now=T0 + 29.999) is None
        again = claimed(queue, BOB, now=T0 + 30)
        assert (again.attempt, again.failures, again.started_at, again.not_before) == (2, 1, None, None)

    @pytest.mark.parametrize(("timed_out", "ending"), [(False, JobStatus.FAILED), (True, JobStatus.TIMED_OUT)])
    def test_the_last_failure_is_the_end(self, queue: JobQueue, timed_out: bool, ending: JobStatus) -> None:
        claimed(queue)
        queue.fail(ANN, "a", 1, "first", retry_after=0, now=T0)
        claimed(queue)
        assert queue.fail(ANN, "a", 2, "last", retry_after=9, timed_out=timed_out, now=T0) is ending
        job = queue.get("a")
        assert job is not None
        assert (job.status, job.failures, job.error, job.finished_at) == (ending, 2, "last", T0)

    def test_handing_back_is_no_failure(self, queue: JobQueue) -> None:
        for attempt in range(1, 6):
            assert claimed(queue, now=T0 + attempt).attempt == attempt
            assert queue.release(ANN, "a", attempt, "drain", now=T0 + attempt)
        job = queue.get("a")
        assert job is not None
        assert (job.status, job.failures, job.error, job.node) == (JobStatus.PENDING, 0, "drain", None)

    def test_a_new_incarnation_takes_back_what_the_old_one_held(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("b", max_attempts=1), selfplay("c")], now=T0)
        assert [claimed(queue).id for _ in range(3)] == ["a", "b", "c"]
        queue.start(ANN, "b", 1, now=T0)
        reborn = Holder("ann", "ann-2")
        queue.cancel("c", "not wanted", now=T0)
        queue.enqueue([selfplay("d")], now=T0)
        claimed(queue, reborn)
        assert sorted(queue.release_node(reborn, "worker restarted", now=T0 + 1)) == ["a", "b"]
        a, b, d = queue.get("a"), queue.get("b"), queue.get("d")
        assert a is not None
        assert b is not None
        assert d is not None
        assert (a.status, a.failures, a.error) == (JobStatus.PENDING, 1, "worker restarted")
        assert (b.status, b.failures) == (JobStatus.ABANDONED, 1)
        assert (d.status, d.owner) == (JobStatus.CLAIMED, "ann-2")
        assert queue.release_node(reborn, "again", now=T0 + 2) == []
        assert queue.release_node(BOB, "another node", now=T0 + 2) == []

    def test_cancel_ends_a_job_wherever_it_is(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("b"), selfplay("c"), selfplay("d")], now=T0)
        claimed(queue)
        claimed(queue)
        claimed(queue)
        queue.start(ANN, "b", 1, now=T0)
        queue.fail(ANN, "c", 1, "delayed", retry_after=60, now=T0)
        for name in "abcd":
            assert queue.cancel(name, "not wanted", now=T0) is JobStatus.CANCELLED
            assert queue.cancel(name, "again", now=T0 + 5) is JobStatus.CANCELLED
        assert not queue.complete(ANN, "b", 1, {"games": 1}, now=T0 + 1)
        assert queue.poll(ANN, {"a": 1, "b": 1}, {}, 0, now=T0 + 1).lost == ("a", "b")
        assert queue.claim(ANN, ["cpu"], now=T0 + 99) is None
        job = queue.get("b")
        assert job is not None
        assert (job.error, job.finished_at) == ("not wanted", T0)
        assert queue.counts().games == {}

    def test_nothing_is_known_of_an_unknown_job(self, queue: JobQueue) -> None:
        assert queue.get("nobody") is None
        assert queue.cancel("nobody", "x") is None
        assert not queue.start(ANN, "nobody", 1)

    @pytest.mark.parametrize("games", [-1, True, 2.5, "7", 10**30, None])
    def test_games_that_are_no_count_are_not_added(self, queue: JobQueue, games: Any) -> None:
        claimed(queue)
        assert queue.complete(ANN, "a", 1, {"games": games}, now=T0)
        assert queue.counts().games == {}

    @pytest.mark.parametrize("result", [{"x": "y" * JSON_LIMIT, "games": 5}, {"x": float("nan"), "games": 5}])
    def test_a_result_that_cannot_be_kept_leaves_a_note(self, queue: JobQueue, result: dict[str, Any]) -> None:
        claimed(queue)
        assert queue.complete(ANN, "a", 1, result, now=T0)
        job = queue.get("a")
        assert job is not None
        assert job.result is not None
        assert job.result["note"].startswith("not kept: result")
        assert queue.counts().games == {"hex8_2p": 5}

    def test_an_endless_error_is_cut(self, queue: JobQueue) -> None:
        claimed(queue)
        queue.fail(ANN, "a", 1, "é" * 10**6, retry_after=0, now=T0)
        job = queue.get("a")
        assert job is not None
        assert job.error == "é" * ERROR_LIMIT

    def test_a_finished_job_is_kept_for_a_day(self, redis: Redis, queue: JobQueue) -> None:
        assert redis.ttl(job_keys.JOB + "a") == -1
        queue.cancel("a", "x", now=T0)
        assert 86_390 <= redis.ttl(job_keys.JOB + "a") <= 86_400

    def test_the_list_of_finished_jobs_is_bounded_in_time_and_length(self, redis: Redis, queue: JobQueue) -> None:
        queue.cancel("a", "x", now=T0)
        many = [f"j{i:04}" for i in range(1005)]
        queue.enqueue([selfplay(name) for name in many], now=T0)
        for i, name in enumerate(many[:500]):
            queue.cancel(name, "x", now=T0 + i)
        for i, name in enumerate(many[500:]):
            queue.cancel(name, "x", now=T0 + 80_000 + i)
        assert redis.zcard(job_keys.FINISHED) == 1000
        assert ids(queue.find({JobStatus.CANCELLED}, limit=2)) == ["j1004", "j1003"]
        queue.enqueue([selfplay("z")], now=T0)
        queue.cancel("z", "x", now=T0 + 90_000)
        assert redis.zcard(job_keys.FINISHED) == 506


class TestPoll:
    def test_wake_ups_are_owed_where_the_brokers_list_is_empty(self, redis: Redis, queue: JobQueue) -> None:
        queues = {"cpu": "jobs.cpu", "gpu": "jobs.gpu"}
        assert queue.poll(ANN, {}, queues, 4, now=T0).wakes == {}
        queue.enqueue([selfplay() for _ in range(3)] + [selfplay("g", capability="gpu")], now=T0)
        assert queue.poll(ANN, {}, queues, 4, now=T0).wakes == {"cpu": 3, "gpu": 1}
        assert queue.poll(ANN, {}, queues, 2, now=T0).wakes == {"cpu": 2, "gpu": 1}
        assert queue.poll(ANN, {}, queues, 0, now=T0).wakes == {}
        redis.lpush("jobs.cpu", "a message")
        assert queue.poll(ANN, {}, queues, 4, now=T0).wakes == {"gpu": 1}
        assert queue.poll(ANN, {}, {}, 4, now=T0).wakes == {}

    def test_a_delayed_job_is_owed_a_wake_up_when_it_is_due(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        claimed(queue)
        queue.fail(ANN, "a", 1, "x", retry_after=30, now=T0)
        assert queue.poll(ANN, {}, {"cpu": "jobs.cpu"}, 4, now=T0 + 29).wakes == {}
        assert queue.poll(ANN, {}, {"cpu": "jobs.cpu"}, 4, now=T0 + 30).wakes == {"cpu": 1}

    def test_it_is_one_round_trip(self, counting: Counting) -> None:
        queue = JobQueue(counting.client)
        queue.enqueue([selfplay() for _ in range(8)], now=T0)
        running = {claimed(queue).id: 1 for _ in range(8)}
        queue.poll(ANN, running, {"cpu": "jobs.cpu"}, 4, now=T0)
        with counting as sent:
            assert queue.poll(ANN, running, {"cpu": "jobs.cpu"}, 4, now=T0 + 2).lost == ()
        assert sent == ["EVALSHA"]

    def test_a_claim_whose_reply_was_lost_goes_back_without_a_failure(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a", max_attempts=1)], now=T0)
        claimed(queue)
        queue.poll(ANN, {}, {}, 1, now=T0 + jobs.ORPHAN_AFTER - 1)
        job = queue.get("a")
        assert job is not None
        assert job.status is JobStatus.CLAIMED
        queue.poll(BOB, {}, {}, 1, now=T0 + jobs.ORPHAN_AFTER)
        queue.poll(Holder("ann", "ann-0"), {}, {}, 1, now=T0 + jobs.ORPHAN_AFTER)
        assert queue.get("a") == job
        queue.poll(ANN, {}, {}, 1, now=T0 + jobs.ORPHAN_AFTER)
        job = queue.get("a")
        assert job is not None
        assert (job.status, job.failures) == (JobStatus.PENDING, 0)

    def test_a_running_job_its_holder_forgot_is_a_failure(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a", max_attempts=1)], now=T0)
        claimed(queue)
        queue.start(ANN, "a", 1, now=T0)
        queue.poll(ANN, {"a": 1}, {}, 1, now=T0 + 50)
        queue.poll(ANN, {}, {}, 1, now=T0 + 100)
        assert queue.counts().by_status[JobStatus.RUNNING] == 1
        queue.poll(ANN, {}, {}, 1, now=T0 + 110)
        assert queue.counts().by_status[JobStatus.ABANDONED] == 1


class TestReap:
    @pytest.fixture
    def job(self, queue: JobQueue) -> Job:
        queue.enqueue([selfplay("a", max_attempts=2)], now=T0)
        claimed(queue)
        queue.start(ANN, "a", 1, now=T0)
        [job] = queue.find(HELD)
        return job

    def test_a_silent_job_goes_to_somebody_else(self, queue: JobQueue, job: Job) -> None:
        assert queue.reap(job, "node lost", retry_after=5, if_silent=True, now=T0 + 99) is JobStatus.PENDING
        assert not queue.complete(ANN, "a", 1, {}, now=T0 + 99)
        assert claimed(queue, BOB, now=T0 + 104).attempt == 2

    def test_the_last_attempt_ends_as_abandoned_or_timed_out(self, queue: JobQueue, job: Job) -> None:
        queue.reap(job, "node lost", now=T0)
        claimed(queue)
        [again] = queue.find(HELD)
        assert queue.reap(again, "stuck", timed_out=True, now=T0) is JobStatus.TIMED_OUT

    def test_a_claimed_job_that_was_started_since_it_was_seen_is_left_alone(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("b")], now=T0)
        seen = claimed(queue, BOB)
        queue.start(BOB, "b", 1, now=T0)
        assert queue.reap(seen, "stale", now=T0) is None
        assert queue.complete(BOB, "b", 1, {}, now=T0)

    def test_a_job_that_changed_since_it_was_seen_is_left_alone(self, queue: JobQueue, job: Job) -> None:
        queue.poll(ANN, {"a": 1}, {}, 0, now=T0 + 50)
        assert queue.reap(job, "node lost", if_silent=True, now=T0 + 51) is None
        queue.release(ANN, "a", 1, "drain", now=T0 + 52)
        assert queue.reap(job, "stuck", now=T0 + 52) is None
        claimed(queue, now=T0 + 53)
        assert queue.reap(job, "stuck", now=T0 + 53) is None
        queue.start(ANN, "a", 2, now=T0 + 54)
        assert queue.reap(job, "stuck", now=T0 + 54) is None
