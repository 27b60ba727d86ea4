"""The job queue's rates: enqueue and claim, beside bare `apply_async` and LPUSH/BRPOP, on one server.

    python benchmarks/job_queue.py [--jobs 10000]

Enqueue registers a job (status, priority, counters, fence) and publishes its wake-up; apply_async publishes
one message. A claim takes the best job by rank and marks its holder; BRPOP pops the oldest item of a list.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from bench import Bench, bench
from celery import Celery

from fleet.jobs import Holder, JobQueue, JobSpec
from workers.app import configure
from workers.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    number = parser.parse_args().jobs
    with bench() as stage:
        celery = configure(Settings(redis_url=stage.url))
        queue = JobQueue(stage.redis)
        specs = [JobSpec(kind="selfplay", config="hex8_2p", payload={"games": 50}) for _ in range(number)]
        message = json.dumps({"kind": "selfplay", "config": "hex8_2p", "payload": {"games": 50}})

        def wake(capability: str, count: int) -> None:
            with celery.producer_or_acquire() as producer, producer.batch():
                for _ in range(count):
                    celery.send_task("jobs.run", (), queue=f"jobs.{capability}", producer=producer, retry=False)

        holder = Holder("bench", "owner")
        rates = {
            "enqueue, registry only": timed(number, lambda: queue.enqueue(specs)),
            "claim": timed(number, lambda: claim_all(queue, holder, number)),
        }
        stage.redis.flushall()
        with_wakes = JobQueue(stage.redis, wake=wake)
        rates |= {
            "enqueue with wake-ups": timed(number, lambda: with_wakes.enqueue(specs)),
            "bare apply_async": timed(number, lambda: apply_all(celery, number)),
            "bare LPUSH": timed(number, lambda: [stage.redis.lpush("bench", message) for _ in range(number)]),
            "bare BRPOP": timed(number, lambda: [stage.redis.brpop("bench") for _ in range(number)]),
        }
        trips = enqueue_trips(stage)
    for name, rate in rates.items():
        print(f"{name:24} {rate:8.0f} a second")
    print(
        f"ratio enqueue with wake-ups / apply_async: {rates['enqueue with wake-ups'] / rates['bare apply_async']:.2f}"
    )
    print(f"ratio enqueue (registry) / LPUSH: {rates['enqueue, registry only'] / rates['bare LPUSH']:.2f}")
    print(f"ratio claim / BRPOP: {rates['claim'] / rates['bare BRPOP']:.2f}")
    print(f"round trips to register 50 jobs: {trips}")


def timed(number: int, work: Callable[[], object]) -> float:
    """Things a second."""
    began = time.perf_counter()
    work()
    return number / (time.perf_counter() - began)


def claim_all(queue: JobQueue, holder: Holder, number: int) -> None:
    for _ in range(number):
        if queue.claim(holder, ["cpu"]) is None:
            raise SystemExit("a job is missing")
    if queue.claim(holder, ["cpu"]) is not None:
        raise SystemExit("a job too many")


def apply_all(celery: Celery, number: int) -> None:
    def bare() -> None:
        """Nothing."""

    task = celery.task(name="bare")(bare)
    for _ in range(number):
        task.apply_async((), queue="bare")


def enqueue_trips(stage: Bench) -> int:
    """Scripts called to register 50 jobs."""
    stage.redis.config_resetstat()
    JobQueue(stage.redis).enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(50)])
    stats = stage.redis.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


if __name__ == "__main__":
    main()
