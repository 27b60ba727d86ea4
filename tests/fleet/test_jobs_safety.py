"""What the queue withstands: replaced leaders, spoilt records, crowds, and ten thousand jobs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from fleet import job_keys
from fleet.fence import Fence, FenceRefused
from fleet.job import HELD
from fleet.jobs import Holder, Job, JobQueue, JobSpec, JobStatus
from tests.fleet.queue_stage import ANN, BOB, T0, claimed, ids, selfplay


class TestFences:
    GUARD, LOOP = "{backbeat}:guard", "{backbeat}:loop:x"

    def fence(self, leader: int, owner: str = "me", run: str = "r1") -> Fence:
        return Fence(leader, owner, run, self.GUARD, self.LOOP)

    @pytest.fixture(params=["an old leader", "an overrun run"])
    def stale(self, request: pytest.FixtureRequest, redis: Redis) -> Fence:
        if request.param == "an old leader":
            redis.hset(self.LOOP, "run", "r1")
            redis.hset(self.GUARD, mapping={"fence": 8, "owner": "other"})
            return self.fence(7)
        redis.hset(self.LOOP, "run", "r2")
        return self.fence(0)

    def everything(self, redis: Redis) -> dict[bytes, bytes | None]:
        return {key: redis.dump(key) for key in redis.keys("*")}

    @pytest.mark.parametrize(
        "write",
        [
            lambda queue, job, fence: queue.enqueue([selfplay("new")], fence=fence),
            lambda queue, job, fence: queue.cancel(job.id, "x", fence=fence),
            lambda queue, job, fence: queue.reap(job, "x", fence=fence),
        ],
        ids=["enqueue", "cancel", "reap"],
    )
    def test_who_was_replaced_writes_nothing(
        self, redis: Redis, stale: Fence, write: Callable[[JobQueue, Job, Fence], object]
    ) -> None:
        woken: list[str] = []
        queue = JobQueue(redis, lambda capability, n: woken.append(capability))
        queue.enqueue([selfplay("a")], now=T0)
        job = claimed(queue)
        woken.clear()
        before = self.everything(redis)
        with pytest.raises(FenceRefused):
            write(queue, job, stale)
        assert self.everything(redis) == before
        assert woken == []

    def test_the_present_leader_writes(self, redis: Redis, queue: JobQueue) -> None:
        redis.hset(self.LOOP, "run", "r1")
        assert queue.enqueue([selfplay("a")], fence=self.fence(7), now=T0) == ["a"]
        job = claimed(queue)
        assert queue.reap(job, "x", fence=self.fence(7), now=T0) is JobStatus.PENDING
        assert queue.cancel("a", "x", fence=self.fence(8), now=T0) is JobStatus.CANCELLED
        with pytest.raises(FenceRefused):
            queue.enqueue([selfplay("b")], fence=self.fence(7))


class TestHostileRecords:
    """Whatever is done to a record, the others go on, and no counter counts a ghost."""

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda redis, key: redis.delete(key),
            lambda redis, key: redis.set(key, "a string"),
            lambda redis, key: (redis.delete(key), redis.lpush(key, "a list")),
            lambda redis, key: redis.hdel(key, "entry"),
            lambda redis, key: redis.hset(key, "entry", "1:other:selfplay:hex8_2p"),
            lambda redis, key: redis.hset(key, "id", "../../etc"),
            lambda redis, key: redis.hset(key, "kind", "other"),
            lambda redis, key: redis.hset(key, "config", "nonsense"),
            lambda redis, key: redis.hset(key, "capability", "gpu"),
            lambda redis, key: redis.hset(key, "attempt", "many"),
            lambda redis, key: redis.hset(key, "rank", "nan"),
            lambda redis, key: redis.hset(key, "status", "running"),
            lambda redis, key: redis.hset(key, "status", "weird"),
            lambda redis, key: redis.hset(key, "payload", "[" * 5000),
            lambda redis, key: redis.hset(key, "payload", "[1]"),
            lambda redis, key: redis.hset(key, "payload", b"\xff\xfe"),
            lambda redis, key: redis.hset(key, b"\xff\xfe", "x"),
            lambda redis, key: redis.hset(key, "timeout", "nan"),
            lambda redis, key: redis.hset(key, "created_at", "1" * 400),
        ],
    )
    @pytest.mark.parametrize("decode", [False, True], ids=["bytes", "str"])
    def test_a_spoilt_job_fails_and_the_next_is_claimed(
        self, redis: Redis, session_server: Any, spoil: Callable[[Redis, str], object], decode: bool
    ) -> None:
        with Redis.from_url(session_server.url, decode_responses=decode) as client:
            queue = JobQueue(client)
            queue.enqueue([selfplay("bad", priority=99), selfplay("good")], now=T0)
            spoil(redis, job_keys.JOB + "bad")
            assert claimed(queue).id == "good"
            assert queue.claim(ANN, ["cpu", "gpu"], now=T0) is None
            counts = queue.counts()
            assert counts.by_status[JobStatus.FAILED] == 1
            assert counts.depth == 1
            assert counts.outstanding == {("selfplay", "hex8_2p"): 1}
            assert client.ttl(job_keys.JOB + "bad") > 0
            assert redis.hget(job_keys.JOB + "bad", "error")
            assert queue.complete(ANN, "good", 1, {}, now=T0)

    def test_rubbish_in_the_sets_is_swept_aside(self, redis: Redis, queue: JobQueue) -> None:
        queue.enqueue([selfplay("good")], now=T0)
        redis.zadd(job_keys.READY + "cpu", {"rubbish": 0, b"\xff": 1})
        redis.zadd(job_keys.DELAYED + "cpu", {"more": 0})
        assert claimed(queue).id == "good"
        assert redis.zcard(job_keys.READY + "cpu") == redis.zcard(job_keys.DELAYED + "cpu") == 0

    def test_a_spoilt_delayed_job_fails_when_it_is_due(self, redis: Redis, queue: JobQueue) -> None:
        queue.enqueue([selfplay("bad"), selfplay("good")], now=T0)
        queue.fail(ANN, claimed(queue).id, 1, "x", retry_after=5, now=T0)
        redis.delete(job_keys.JOB + "bad")
        assert claimed(queue, now=T0 + 9).id == "good"
        assert queue.counts().by_status[JobStatus.FAILED] == 1

    @pytest.mark.parametrize("finder", ["poll", "release_node", "find"])
    def test_a_held_job_whose_record_is_gone_is_no_phantom(self, redis: Redis, queue: JobQueue, finder: str) -> None:
        queue.enqueue([selfplay("a"), selfplay("b")], now=T0)
        claimed(queue)
        queue.start(ANN, claimed(queue).id, 1, now=T0)
        redis.delete(job_keys.JOB + "a", job_keys.JOB + "b")
        if finder == "poll":
            assert queue.poll(ANN, {"a": 1, "b": 1}, {}, 0, now=T0).lost == ("a", "b")
        elif finder == "release_node":
            assert queue.release_node(ANN, "x", now=T0) == []
        else:
            assert queue.find(HELD) == []
            queue.poll(ANN, {}, {}, 0, now=T0)
        assert queue.counts().depth == 0
        assert redis.keys(job_keys.HOLDS + "*") == []
        assert redis.exists(job_keys.CLAIMED, job_keys.RUNNING, job_keys.HEARD, job_keys.HOLDERS) == 0

    @pytest.mark.parametrize("finder", ["poll", "release_node", "held", "claim"])
    def test_a_stray_entry_harms_no_job_that_is_held_elsewhere(
        self, redis: Redis, queue: JobQueue, finder: str
    ) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        job = claimed(queue, BOB)
        [entry] = redis.zrange(job_keys.CLAIMED, 0, -1)
        stray = job_keys.READY + "cpu" if finder == "claim" else job_keys.HOLDS + "ann"
        redis.zadd(stray, {entry: 1})
        if finder != "claim":
            redis.sadd(job_keys.HOLDERS, "ann")
        match finder:
            case "poll":
                queue.poll(ANN, {}, {}, 0, now=T0)
            case "release_node":
                assert queue.release_node(ANN, "x", now=T0) == []
            case "held":
                past = {"claimed_before": 0.0, "due_before": 0.0, "silent_since": 0.0}
                assert queue.held(**past, nodes=["ann"], now=T0) == []
            case "claim":
                assert queue.claim(ANN, ["cpu"], now=T0) is None
        assert not redis.exists(stray)
        assert queue.complete(BOB, "a", job.attempt, {}, now=T0)
        assert redis.keys("{backbeat}:jobs:hold*") == []
        assert queue.counts().by_status[JobStatus.FAILED] == 0

    def test_an_id_used_again_after_its_record_was_lost_is_another_job(self, redis: Redis, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        redis.delete(job_keys.JOB + "a")
        assert queue.enqueue([selfplay("a")], now=T0 + 1) == ["a"]
        job = claimed(queue, now=T0 + 2)
        assert (job.id, job.created_at) == ("a", T0 + 1)
        assert queue.complete(ANN, "a", 1, {}, now=T0 + 3)
        counts = queue.counts().by_status
        assert (counts[JobStatus.COMPLETED], counts[JobStatus.FAILED], queue.counts().depth) == (1, 1, 0)

    def test_a_malformed_record_is_an_error_to_who_asks_for_it(self, redis: Redis, queue: JobQueue) -> None:
        redis.hset(job_keys.JOB + "a", "id", "a")
        with pytest.raises(ValueError, match="malformed job"):
            queue.get("a")
        with pytest.raises(ValueError, match="id"):
            queue.get("../a")


def test_counts_by_kind_status_and_config(queue: JobQueue) -> None:
    queue.enqueue([selfplay("a"), selfplay("b"), selfplay("c", config="square8_3p")], now=T0)
    queue.enqueue([JobSpec("training", "hex8_2p", id="t")], now=T0)
    claimed(queue)
    queue.start(ANN, claimed(queue).id, 1, now=T0)
    queue.complete(ANN, "b", 1, {"games": 7}, now=T0)
    counts = queue.counts()
    nonzero = {kind: {s.value: n for s, n in by.items() if n} for kind, by in counts.by_kind.items()}
    assert nonzero == {"selfplay": {"pending": 1, "claimed": 1, "completed": 1}, "training": {"pending": 1}}
    assert {s.value: n for s, n in counts.by_status.items() if n} == {"pending": 2, "claimed": 1, "completed": 1}
    assert counts.outstanding == {
        ("selfplay", "hex8_2p"): 1, ("selfplay", "square8_3p"): 1, ("training", "hex8_2p"): 1,
    }  # fmt: skip
    assert counts.depth == 3
    assert counts.games == {"hex8_2p": 7}


def test_a_counter_of_another_version_is_left_out_and_named(
    redis: Redis, queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.enqueue([selfplay("a")], now=T0)
    redis.hset(job_keys.COUNTS, mapping={"status:paused": 3, "kind:selfplay:paused": 2, "pending:gpu": "many"})
    counts = queue.counts()
    assert (counts.depth, counts.by_kind["selfplay"][JobStatus.PENDING], counts.pending) == (1, 1, {"cpu": 1})
    named = {name for name in ("status:paused", "kind:selfplay:paused", "pending:gpu") if name in caplog.text}
    assert len(named) == len(caplog.records) == 3


def test_a_client_may_decode_its_replies(session_server: Any, redis: Redis) -> None:
    with Redis.from_url(session_server.url, decode_responses=True) as client:
        queue = JobQueue(client)
        assert queue.enqueue([selfplay("a", payload={"x": "é"})], now=T0) == ["a"]
        assert claimed(queue) == queue.get("a")
        assert queue.poll(ANN, {"a": 2}, {"cpu": "jobs.cpu"}, 1, now=T0).lost == ("a",)
        assert ids(queue.find(HELD)) == ["a"]
        assert queue.counts() == JobQueue(redis).counts()
        assert queue.release_node(Holder("ann", "ann-2"), "é", now=T0) == ["a"]


def test_the_scripts_survive_a_server_that_forgot_them(redis: Redis, queue: JobQueue) -> None:
    queue.enqueue([selfplay("a")], now=T0)
    redis.script_flush()
    assert claimed(queue).id == "a"


def test_every_key_carries_the_hash_tag_and_only_finished_jobs_expire(redis: Redis, queue: JobQueue) -> None:
    queue.enqueue([selfplay("a"), selfplay("b"), selfplay("c"), selfplay("d")], now=T0)
    queue.complete(ANN, claimed(queue).id, 1, {"games": 1}, now=T0)
    queue.fail(ANN, claimed(queue).id, 1, "x", retry_after=60, now=T0)
    claimed(queue)
    assert all(key.startswith(b"{backbeat}:job") for key in redis.keys("*"))
    assert [key for key in redis.keys("*") if redis.ttl(key) != -1] == [b"{backbeat}:job:a"]


def test_ten_thousand_jobs_make_no_operation_slow(redis: Redis, queue: JobQueue) -> None:
    def calls(action: Callable[[], object]) -> int:
        action()
        redis.config_resetstat()
        action()
        stats = redis.info("commandstats")
        return sum(stat["calls"] for name, stat in stats.items() if name != "cmdstat_config|resetstat")

    queue.enqueue([selfplay() for _ in range(10)])
    few = calls(lambda: queue.claim(ANN, ["cpu"])), calls(lambda: queue.enqueue([selfplay()]))
    assert min(few) > 5
    queue.enqueue([selfplay() for _ in range(10_000)])
    many = calls(lambda: queue.claim(ANN, ["cpu"])), calls(lambda: queue.enqueue([selfplay()]))
    assert many == few


def test_a_thousand_jobs_are_each_claimed_once_by_many_threads(session_server: Any, redis: Redis) -> None:
    JobQueue(redis).enqueue([selfplay(f"j{i}", capability=("cpu", "gpu")[i % 2]) for i in range(1000)])
    got: list[str] = []

    def work(n: int) -> None:
        with Redis.from_url(session_server.url) as client:
            queue, holder = JobQueue(client), Holder(f"node{n}", f"owner{n}")
            while (job := queue.claim(holder, ["cpu", "gpu"])) is not None:
                got.append(job.id)
                assert queue.complete(holder, job.id, job.attempt, {"games": 1})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(got) == {f"j{i}": 1 for i in range(1000)}
    assert JobQueue(redis).counts().games == {"hex8_2p": 1000}
