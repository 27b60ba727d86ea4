"""What is found of the queue: for an operator, for the reaper, and for whoever asks what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from fleet import job_keys
from fleet.job import ENDED_BADLY, HELD
from fleet.jobs import Holder, JobQueue, JobStatus
from tests.fleet.queue_stage import ANN, BOB, T0, Counting, claimed, ids, selfplay

PENDING, COMPLETED, CANCELLED = JobStatus.PENDING, JobStatus.COMPLETED, JobStatus.CANCELLED
LONG_AGO = T0 - 1e6


@pytest.fixture
def busy(queue: JobQueue) -> JobQueue:
    """Two jobs in each place, named for it; ann holds the first of those that are held, and bob the second."""
    names = ("running", "claimed", "done", "dropped")
    for step, name in enumerate(name for name in names for _ in range(2)):
        job_id = f"{name}-{step % 2}"
        config = ("hex8_2p", "square8_3p")[step % 2]
        holder, now = (ANN, BOB)[step % 2], T0 + step
        queue.enqueue([selfplay(job_id, config=config, capability=f"for_{holder.node}", timeout=100 - step)], now=now)
        job = queue.claim(holder, [f"for_{holder.node}"], now=now)
        assert job is not None
        if name == "running":
            queue.start(holder, job_id, 1, now=now)
        elif name == "done":
            queue.complete(holder, job_id, 1, {}, now=now)
        elif name == "dropped":
            queue.fail(holder, job_id, 1, "no", retry_after=60, now=now)
            queue.cancel(job_id, "not wanted", now=now)
    queue.enqueue([selfplay("low", priority=1), selfplay("high", priority=99, capability="gpu")], now=T0)
    return queue


def test_everything_comes_most_relevant_first(busy: JobQueue) -> None:
    relevant = ["running-0", "running-1", "claimed-0", "claimed-1", "high", "low"]
    newest = ["dropped-1", "dropped-0", "done-1", "done-0"]
    assert ids(busy.find()) == relevant + newest
    assert ids(busy.find(limit=7)) == [*relevant, "dropped-1"]
    assert ids(busy.find(list(reversed(JobStatus)), limit=3)) == relevant[:3]


def test_the_running_job_that_is_due_first_comes_first(queue: JobQueue) -> None:
    queue.enqueue([selfplay("later", timeout=900), selfplay("sooner", timeout=60)], now=T0)
    for _ in range(2):
        queue.start(ANN, claimed(queue).id, 1, now=T0)
    assert ids(queue.find(HELD)) == ["sooner", "later"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"statuses": {PENDING}}, ["high", "low"]),
        ({"statuses": HELD}, ["running-0", "running-1", "claimed-0", "claimed-1"]),
        ({"statuses": {JobStatus.CLAIMED}}, ["claimed-0", "claimed-1"]),
        ({"statuses": {COMPLETED}}, ["done-1", "done-0"]),
        ({"statuses": ENDED_BADLY}, ["dropped-1", "dropped-0"]),
        ({"statuses": ["completed", "cancelled"]}, ["dropped-1", "dropped-0", "done-1", "done-0"]),
        ({"statuses": ()}, []),
        ({"kind": "training"}, []),
        ({"config": "square8_3p"}, ["running-1", "claimed-1", "dropped-1", "done-1"]),
        ({"config": "square8_3p", "statuses": HELD, "limit": 1}, ["running-1"]),
        ({"node": "ann"}, ["running-0", "claimed-0", "done-0"]),
        ({"node": "ann", "statuses": {JobStatus.RUNNING}}, ["running-0"]),
        ({"node": "bob", "statuses": {PENDING}}, []),
        ({"node": "bob", "config": "hex8_2p"}, []),
        ({"node": "nobody"}, []),
    ],
)
def test_jobs_are_found_by_status_kind_config_and_node(
    busy: JobQueue, asked: dict[str, object], found: list[str]
) -> None:
    assert ids(busy.find(**asked)) == found  # type: ignore[arg-type]


def test_it_takes_two_round_trips_and_reads_no_more_than_it_shows(counting: Counting, redis: Redis) -> None:
    queue = JobQueue(counting.client)
    queue.enqueue([selfplay(capability=("cpu", "gpu")[i % 2]) for i in range(600)], now=T0)
    queue.find()
    redis.config_resetstat()
    with counting as sent:
        assert len(queue.find(limit=5)) == 5
    assert sent == ["HGETALL", "EVALSHA"]
    read = redis.info("commandstats")["cmdstat_hmget"]["calls"]
    assert read == 10


def test_a_job_far_back_in_the_queue_is_found_by_its_config(queue: JobQueue) -> None:
    queue.enqueue([selfplay() for _ in range(1100)], now=T0)
    queue.enqueue([selfplay("rare", config="hexagonal_4p")], now=T0)
    assert ids(queue.find({PENDING}, config="hexagonal_4p")) == ["rare"]


class TestPastALimit:
    """What the reaper reads: each limit by itself, by an index of its own."""

    @pytest.fixture(autouse=True)
    def held(self, queue: JobQueue) -> None:
        """Three jobs claimed a second apart; the last two started 10 s later, one for 30 s and one for 60 s."""
        for step, (name, timeout) in enumerate({"idle": 5.0, "short": 30.0, "long": 60.0}.items()):
            queue.enqueue([selfplay(name, timeout=timeout)], now=T0 + step)
            claimed(queue, now=T0 + step)
        for name in ("short", "long"):
            queue.start(ANN, name, 1, now=T0 + 10)

    def past(self, queue: JobQueue, **limits: object) -> list[str]:
        never = {"claimed_before": LONG_AGO, "due_before": LONG_AGO, "silent_since": LONG_AGO}
        return ids(queue.held(**never | limits))  # type: ignore[arg-type]

    def test_nothing_is_past_a_limit_far_back(self, queue: JobQueue) -> None:
        assert self.past(queue) == []

    def test_claimed_ones_by_their_claim(self, queue: JobQueue) -> None:
        assert self.past(queue, claimed_before=T0 - 0.001) == []
        assert self.past(queue, claimed_before=T0) == ["idle"]
        assert self.past(queue, claimed_before=T0 + 1e6) == ["idle"]
        queue.poll(ANN, {"idle": 1}, {}, 0, now=T0 + 50)  # heartbeats do not make it younger
        assert self.past(queue, claimed_before=T0) == ["idle"]

    def test_running_ones_by_the_end_of_their_timeout(self, queue: JobQueue) -> None:
        assert self.past(queue, due_before=T0 + 39.999) == []
        assert self.past(queue, due_before=T0 + 40) == ["short"]
        assert self.past(queue, due_before=T0 + 70) == ["short", "long"]
        assert self.past(queue, due_before=T0 + 70, limit=1) == ["short"]

    def test_silent_ones_by_their_last_heartbeat(self, queue: JobQueue) -> None:
        assert self.past(queue, silent_since=T0) == ["idle"]
        queue.poll(ANN, {"idle": 1, "short": 1}, {}, 0, now=T0 + 20)
        assert self.past(queue, silent_since=T0 + 19) == ["long"]
        assert self.past(queue, silent_since=T0 + 20) == ["long", "idle", "short"]

    def test_those_of_a_node(self, queue: JobQueue) -> None:
        assert self.past(queue, nodes=["bob"]) == []
        assert self.past(queue, nodes=["bob", "ann"]) == ["idle", "short", "long"]
        assert queue.holders() == {"ann"}

    def test_each_once_whatever_it_is_past(self, queue: JobQueue) -> None:
        everything = {"claimed_before": T0 + 1e6, "due_before": T0 + 1e6, "silent_since": T0 + 1e6, "nodes": ["ann"]}
        assert sorted(self.past(queue, **everything)) == ["idle", "long", "short"]

    def test_what_is_over_or_requeued_is_held_by_nobody(self, queue: JobQueue) -> None:
        queue.complete(ANN, "short", 1, {}, now=T0 + 20)
        queue.fail(ANN, "long", 1, "no", retry_after=5, now=T0 + 20)
        queue.release(ANN, "idle", 1, "drain", now=T0 + 20)
        assert (
            self.past(queue, due_before=T0 + 1e6, silent_since=T0 + 1e6, claimed_before=T0 + 1e6, nodes=["ann"]) == []
        )
        assert queue.holders() == frozenset()


class TestMalformedOnesStandInNobodysWay:
    """Ten spoilt records at the head of every index, and a limit of five."""

    @pytest.fixture
    def past(self, queue: JobQueue) -> Callable[[], list[str]]:
        def read() -> list[str]:
            far = T0 + 1e6
            return ids(queue.held(claimed_before=far, due_before=far, silent_since=far, nodes=["ann"], limit=5))

        return read

    @pytest.fixture(autouse=True)
    def spoilt(self, queue: JobQueue) -> Iterator[None]:
        queue.enqueue([selfplay(f"bad-{n}") for n in range(10)], now=T0)
        for n in range(10):
            claimed(queue)
            if n % 2:
                queue.start(ANN, f"bad-{n}", 1, now=T0)
        queue.enqueue([selfplay("good")], now=T0 + 1)
        claimed(queue, BOB, now=T0 + 1)
        yield
        counts = queue.counts()
        assert (counts.by_status[JobStatus.FAILED], counts.depth) == (10, 1)
        assert queue.holders() == {"bob"}

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda redis, key: redis.delete(key),
            lambda redis, key: redis.set(key, "a string"),
            lambda redis, key: redis.hdel(key, "claimed_at"),
            lambda redis, key: redis.hset(key, "heartbeat_at", "never"),
            lambda redis, key: redis.hset(key, "timeout", "nan"),
            lambda redis, key: redis.hset(key, "status", "pending"),
            lambda redis, key: redis.hset(key, "payload", "[1]"),
            lambda redis, key: redis.hset(key, "payload", b"\xff\xfe"),
            lambda redis, key: redis.hset(key, "created_at", "1" * 400),
        ],
    )
    def test_they_have_failed_and_the_next_is_found(
        self, redis: Redis, past: Callable[[], list[str]], spoil: Callable[[Redis, str], object]
    ) -> None:
        for n in range(10):
            spoil(redis, f"{job_keys.JOB}bad-{n}")
        found = [past() for _ in range(3)]
        assert found[-1] == ["good"]

    def test_rubbish_in_the_indexes_is_swept_aside(
        self, redis: Redis, past: Callable[[], list[str]], queue: JobQueue
    ) -> None:
        for n in range(10):
            queue.fail(ANN, f"bad-{n}", 1, "no", retry_after=0, now=T0)
            queue.cancel(f"bad-{n}", "no", now=T0)
            redis.hset(f"{job_keys.JOB}bad-{n}", "status", "failed")
        redis.hset(job_keys.COUNTS, "status:failed", 10)
        for key in (job_keys.CLAIMED, job_keys.RUNNING, job_keys.HEARD, job_keys.HOLDS + "ann"):
            redis.zadd(key, {f"rubbish {n}": n for n in range(10)})
        assert [past() for _ in range(3)][-1] == ["good"]
        assert redis.zcard(job_keys.HEARD) == redis.zcard(job_keys.CLAIMED) == 1
        assert redis.exists(job_keys.RUNNING, job_keys.HOLDS + "ann") == 0


class TestUnpublished:
    def test_jobs_wait_while_the_broker_has_no_wake_up_for_them(self, redis: Redis, queue: JobQueue) -> None:
        queue.enqueue([selfplay(), selfplay(), selfplay(capability="gpu")], now=T0)
        assert queue.unpublished(waited=60, now=T0 + 59) == {}
        assert queue.unpublished(waited=60, now=T0 + 60) == {"cpu": 2, "gpu": 1}
        redis.lpush("jobs.cpu", "a message")
        assert queue.unpublished(waited=60, now=T0 + 60) == {"gpu": 1}

    def test_a_job_in_its_backoff_does_not_wait_yet(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        queue.fail(ANN, claimed(queue).id, 1, "no", retry_after=100, now=T0)
        assert queue.unpublished(waited=60, now=T0 + 159) == {}
        assert queue.unpublished(waited=60, now=T0 + 160) == {"cpu": 1}

    def test_what_is_held_or_over_waits_for_nothing(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a"), selfplay("b")], now=T0)
        claimed(queue)
        queue.complete(ANN, claimed(queue).id, 1, {}, now=T0)
        assert queue.unpublished(waited=60, now=T0 + 1e6) == {}


def test_pending_jobs_are_counted_by_capability(queue: JobQueue) -> None:
    queue.enqueue([selfplay("a"), selfplay("b"), selfplay("g", capability="gpu")], now=T0)
    assert queue.counts().pending == {"cpu": 2, "gpu": 1}
    queue.fail(ANN, claimed(queue).id, 1, "no", retry_after=60, now=T0)
    claimed(queue)
    assert queue.counts().pending == {"cpu": 1, "gpu": 1}
    queue.cancel("a", "no", now=T0)
    queue.release(ANN, "b", 1, "drain", now=T0)
    queue.cancel("g", "no", now=T0)
    assert queue.counts().pending == {"cpu": 1}


def test_what_a_node_lost_another_holds(queue: JobQueue) -> None:
    queue.enqueue([selfplay("a"), selfplay("b")], now=T0)
    claimed(queue)
    assert queue.release_node(Holder("ann", "ann-2"), "restarted", now=T0) == ["a"]
    claimed(queue, BOB)
    assert queue.holders() == {"bob"}
