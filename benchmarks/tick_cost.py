"""What gate and record cost: trivial loop ticks against bare Celery tasks, on one worker and server.

    python benchmarks/tick_cost.py [--rounds 5] [--batch 2000]

Messages are prepared aside and renamed onto the worker's queue at once, so publishing is not timed.
The two kinds alternate; the ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time

from bench import Bench, bench

from workers.app import configure
from workers.ledger import Ledger, Scheduled
from workers.settings import Settings
from workers.status import read_status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2000, help="messages a round")
    options = parser.parse_args()
    with bench() as stage:
        # more loops than threads: neighbours in the queue never overlap
        loops = 100
        stage.celery("worker", "worker", "-l", "WARNING", loops=loops, BENCH_BATCH=str(options.batch))
        seed(stage, loops)
        stage.until(lambda: stage.redis.exists("{backbeat}:leader"))
        rates: dict[str, list[float]] = {"bare": [], "loop": []}
        for number in range(options.rounds + 1):
            for kind, measured in rates.items():
                rate = run(stage, kind, options.batch, loops)
                if number:  # the first round warms up
                    measured.append(rate)
        skipped = read_status(Ledger(stage.redis))["loops"]["trivial_0"]["skipped"]
        trips = round_trips(stage, options.batch, loops)
    ratios = [loop / bare for loop, bare in zip(rates["loop"], rates["bare"], strict=True)]
    for kind, measured in rates.items():
        print(
            f"{kind:5} {statistics.median(measured):8.0f} a second (of {', '.join(f'{rate:.0f}' for rate in measured)})"
        )
    print(f"ratio {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"round trips that gate and record add to a run: {trips:.2f}; refused runs: {sum(skipped.values())}")


def seed(stage: Bench, loops: int) -> None:
    Ledger(stage.redis).seed([Scheduled(f"trivial_{n}", 3600, "loops") for n in range(loops)], prune=True)


def run(stage: Bench, kind: str, batch: int, loops: int) -> float:
    celery = configure(Settings(redis_url=stage.url))
    with celery.producer_or_acquire() as producer:
        for number in range(batch):
            name = "bare" if kind == "bare" else f"loops.trivial_{number % loops}"
            celery.send_task(name, (), queue="aside", producer=producer)
    began = time.time()
    stage.redis.rename("aside", "loops")
    _, ended = stage.redis.blpop(["bench:done"], timeout=25)
    return batch / (float(ended) - began)


def round_trips(stage: Bench, batch: int, loops: int) -> float:
    """Calls of scripts a run: what gate and record add to Celery's own traffic."""
    stage.redis.config_resetstat()
    run(stage, "loop", batch, loops)
    return float(stage.redis.info("commandstats")["cmdstat_evalsha"]["calls"]) / batch


if __name__ == "__main__":
    main()
