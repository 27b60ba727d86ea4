"""What gets into the queue, and in which order it comes out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redis import Redis

from fleet import jobs
from fleet.job import JSON_LIMIT
from fleet.jobs import Holder, Job, JobQueue, JobSpec, JobStatus
from tests.fleet.queue_stage import ANN, T0, Counting, claimed, ids, selfplay


class TestEnqueue:
    def test_a_job_is_registered_with_all_that_was_asked(self, queue: JobQueue) -> None:
        payload = {"games": 25, "opponent": "é", "deep": {"list": [1, None, True]}}
        spec = JobSpec("training", "square19_4p", 90, "gpu", payload, 7200, 2, "t-1")
        assert queue.enqueue([spec], now=T0) == ["t-1"]
        assert queue.get("t-1") == Job(
            id="t-1", kind="training", config="square19_4p", capability="gpu", priority=90, payload=payload,
            status=JobStatus.PENDING, attempt=0, failures=0, max_attempts=2, timeout=7200.0, created_at=T0,
        )  # fmt: skip

    def test_an_id_is_made_of_kind_config_and_chance(self, queue: JobQueue) -> None:
        [first, second] = queue.enqueue([selfplay(), selfplay()])
        assert first != second
        assert first.startswith("selfplay-hex8_2p-")
        assert len(first) == len("selfplay-hex8_2p-") + 12

    def test_the_longest_names_still_give_an_id_that_is_accepted(self) -> None:
        assert len(str(JobSpec("k" * 32, "b" * 32 + "_2p").id)) == 64

    def test_enqueueing_an_id_again_changes_nothing(self, queue: JobQueue) -> None:
        assert queue.enqueue([selfplay("a"), selfplay("b"), selfplay("a")], now=T0) == ["a", "b"]
        assert queue.enqueue([selfplay("b", priority=99), selfplay("c")], now=T0 + 1) == ["c"]
        job = queue.get("b")
        assert job is not None
        assert (job.priority, job.created_at) == (50, T0)
        assert queue.counts().depth == 3

    def test_depth_is_capped_over_pending_claimed_and_running(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a"), selfplay("b"), selfplay("c")], now=T0)
        queue.start(ANN, claimed(queue).id, 1, now=T0)
        claimed(queue)
        queue.fail(ANN, "a", 1, "delayed now", retry_after=60, now=T0)
        more = [selfplay(f"m{i}") for i in range(10)]
        assert queue.enqueue(more, depth_cap=5, now=T0) == ["m0", "m1"]
        assert queue.enqueue(more, depth_cap=5, now=T0) == []
        assert queue.enqueue(more, depth_cap=3, now=T0) == []
        assert queue.counts().depth == 5

    def test_ids_that_exist_take_no_room_under_the_cap(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")], now=T0)
        assert queue.enqueue([selfplay("a"), selfplay("b")], depth_cap=2, now=T0) == ["b"]

    def test_one_wake_up_goes_out_for_each_job_accepted(self, redis: Redis) -> None:
        woken: list[tuple[str, int]] = []
        queue = JobQueue(redis, lambda capability, n: woken.append((capability, n)))
        queue.enqueue([selfplay("a"), selfplay("b", capability="gpu"), selfplay("c"), selfplay("a")])
        assert sorted(woken) == [("cpu", 2), ("gpu", 1)]
        queue.enqueue([selfplay("a")])
        assert len(woken) == 2

    def test_a_broker_that_refuses_the_wake_up_does_not_fail_the_enqueue(
        self, redis: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        def wake(capability: str, n: int) -> None:
            raise ConnectionError("the broker is away")

        queue = JobQueue(redis, wake)
        with caplog.at_level(logging.WARNING, "backbeat.jobs"):
            assert queue.enqueue([selfplay("a"), selfplay("b", capability="gpu")]) == ["a", "b"]
        assert [record.name for record in caplog.records] == ["backbeat.jobs"] * 2
        assert queue.poll(ANN, {}, {"cpu": "jobs.cpu", "gpu": "jobs.gpu"}, 4).wakes == {"cpu": 1, "gpu": 1}

    def test_fifty_jobs_are_one_round_trip(self, counting: Counting) -> None:
        queue = JobQueue(counting.client)
        queue.enqueue([selfplay()])  # so that the server knows the script
        with counting as sent:
            assert len(queue.enqueue([selfplay() for _ in range(50)])) == 50
        assert sent == ["EVALSHA"]

    def test_more_than_a_batch_goes_in_several_calls(self, counting: Counting) -> None:
        queue = JobQueue(counting.client)
        queue.enqueue([selfplay("first")], now=T0)
        wanted = [f"j{i}" for i in range(1201)]
        with counting as sent:
            assert queue.enqueue([selfplay(name) for name in wanted], depth_cap=1101, now=T0) == wanted[:1100]
        assert sent == ["EVALSHA"] * 3
        assert queue.enqueue([]) == []

    def test_real_time_is_the_servers(self, redis: Redis, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a")])
        seconds, _ = redis.time()
        job = queue.get("a")
        assert job is not None
        assert abs(job.created_at - seconds) < 5

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"kind": "Self Play"}, "kind 'Self Play'"),
            ({"kind": "a:b"}, "kind 'a:b'"),
            ({"config": "hex8"}, "config: 'hex8'"),
            ({"config": None}, "config: "),
            ({"capability": "cpu/gpu"}, "capability 'cpu/gpu'"),
            ({"priority": 1001}, "priority 1001: an integer from -1000 to 1000"),
            ({"priority": True}, "priority True"),
            ({"priority": 1.5}, "priority 1.5"),
            ({"timeout": 0}, "timeout 0: a number of seconds above 0"),
            ({"timeout": float("inf")}, "timeout inf"),
            ({"timeout": float("nan")}, "timeout nan"),
            ({"timeout": "5m"}, "timeout '5m'"),
            ({"max_attempts": 0}, "max_attempts 0"),
            ({"id": ".."}, r"id '\.\.'"),
            ({"id": "../x"}, r"id '\.\./x'"),
            ({"id": "x" * 65}, "id 'x+'"),
            ({"id": ""}, "id ''"),
            ({"id": "a\n"}, r"id 'a\\n'"),
            ({"id": "-rf"}, "id '-rf'"),
            ({"payload": {"x": object()}}, "payload"),
            ({"payload": {"x": float("nan")}}, "payload"),
            ({"payload": {1: "x"}}, "payload"),
            ({"payload": [1]}, r"payload \[1\]"),
            ({"payload": {"x": "y" * JSON_LIMIT}}, f"payload: .* at most {JSON_LIMIT}"),
        ],
    )
    def test_a_bad_field_is_named_with_its_value(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            JobSpec(**{"kind": "selfplay", "config": "hex8_2p"} | fields)

    @pytest.mark.parametrize("name", ["", "two words", "é", "x" * 201])
    def test_a_holder_has_a_printable_name(self, name: str) -> None:
        with pytest.raises(ValueError, match="node"):
            Holder(name, "owner")


class TestOrder:
    def claims(self, queue: JobQueue, *capabilities: str, now: float = T0 + 10_000) -> list[str]:
        found = iter(lambda: queue.claim(ANN, capabilities or ["cpu"], now=now), None)
        return [job.id for job in found]

    def test_equals_are_first_come_first_served(self, queue: JobQueue) -> None:
        names = [f"j{i:03}" for i in range(200)]
        queue.enqueue([selfplay(name) for name in names[:100]], now=T0)
        queue.enqueue([selfplay(name) for name in names[100:]], now=T0)
        assert self.claims(queue) == names

    def test_priority_goes_first(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("low", priority=10), selfplay("high", priority=90)], now=T0)
        assert self.claims(queue) == ["high", "low"]

    def test_thirty_seconds_of_waiting_outrank_a_point_of_priority(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("old", priority=50)], now=T0)
        queue.enqueue([selfplay("just-in-time", priority=51)], now=T0 + 29.999)
        queue.enqueue([selfplay("too-late", priority=51)], now=T0 + 30.001)
        assert self.claims(queue) == ["just-in-time", "old", "too-late"]

    def test_nothing_starves_behind_a_stream_of_higher_priority(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("patient", priority=0)], now=T0)
        for minute in range(60):
            now = T0 + 60 * minute
            queue.enqueue([selfplay(f"urgent{minute}", priority=100)], now=now)
            if claimed(queue, now=now).id == "patient":
                break
        assert 0 < 60 * minute <= 100 * jobs.AGEING / 1000 + 60

    def test_the_best_of_several_capabilities_comes_first(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("c1"), selfplay("g1", capability="gpu"), selfplay("c2")], now=T0)
        queue.enqueue([selfplay("g2", capability="gpu", priority=60)], now=T0)
        assert self.claims(queue, "cpu", "gpu") == ["g2", "c1", "g1", "c2"]

    def test_a_holder_gets_only_what_it_is_capable_of(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("g", capability="gpu")], now=T0)
        assert queue.claim(ANN, ["cpu"], now=T0) is None
        assert queue.claim(ANN, [], now=T0) is None
        assert self.claims(queue, "gpu") == ["g"]

    def test_a_job_handed_back_keeps_its_place(self, queue: JobQueue) -> None:
        queue.enqueue([selfplay("a"), selfplay("b")], now=T0)
        queue.release(ANN, claimed(queue).id, 1, "drain", now=T0 + 1)
        assert self.claims(queue) == ["a", "b"]

    def test_a_listing_shows_the_order_of_the_claims(self, queue: JobQueue) -> None:
        specs = [selfplay(f"j{i}", priority=i * 7 % 10, capability=("cpu", "gpu")[i % 2]) for i in range(10)]
        queue.enqueue(specs, now=T0)
        listed = ids(queue.find({JobStatus.PENDING}))
        assert ids(queue.find({JobStatus.PENDING}, limit=3)) == listed[:3]
        assert self.claims(queue, "cpu", "gpu") == listed
