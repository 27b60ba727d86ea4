"""What one run of the job reaper costs, with few and with many jobs registered, the same number of them bad.

    python benchmarks/reaper.py [--jobs 100000]

Half of the jobs are pending, a quarter claimed, a quarter running, on a thousand nodes. A hundred are stale, a
hundred stuck, a hundred abandoned and a hundred orphaned; each run takes back a hundred.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import time
from pathlib import Path

from bench import Bench, bench

from fleet.fleet import Fleet
from fleet.jobs import Holder, JobQueue, JobSpec
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from tasks.job_reaper import Options, job_reaper
from tasks.loop import Tick

BAD, NODES, LOST = 100, 1000, 10
HOUR, DAY = 3600.0, 86400.0


class Registry:
    """A queue of so many jobs, at the server's present time."""

    def __init__(self, stage: Bench, jobs: int) -> None:
        stage.redis.flushall()
        seconds, _ = stage.redis.time()
        self.now = float(seconds)
        self.queue = JobQueue(stage.redis, wake=lambda _capability, _number: None)
        self.nodes = NodeRegistry(stage.redis)
        notices = Notices(redis=stage.redis)
        self.fleet = Fleet(stage.redis, FleetOptions(), self.queue, self.nodes, notices, "bench", Path())
        self._names = itertools.count()
        living = [f"node-{number}" for number in range(NODES - LOST)]
        mute = living[:LOST]  # which are heard, but say nothing of their jobs
        lost = [f"lost-{number}" for number in range(LOST)]
        self._join(living, lost)
        living = living[LOST:]
        self.hold(BAD, living, claimed=2 * HOUR, heard=1)  # stale
        self.hold(BAD, living, claimed=2 * HOUR, started=2 * HOUR, heard=1)  # stuck
        self.hold(BAD, mute, claimed=2 * HOUR, started=2 * HOUR, heard=2 * HOUR, timeout=DAY)  # abandoned
        self.hold(BAD, lost, claimed=HOUR / 2, started=HOUR / 2, heard=HOUR / 2)  # orphaned
        good = jobs - 4 * BAD
        self.hold(good // 4, living, claimed=60, heard=1)
        self.hold(good // 4, living, claimed=60, started=59, heard=1)
        self.enqueue(good - good // 4 * 2, ago=5 * 60)
        if (depth := self.queue.counts().depth) != jobs:
            raise SystemExit(f"{depth} jobs instead of {jobs}")

    def _join(self, living: list[str], lost: list[str]) -> None:
        for name in living:
            self.nodes.heartbeat(name, "jobs", {"slots": 100, "capabilities": ["cpu"], "running": []}, now=self.now - 1)
        for name in lost:
            self.nodes.heartbeat(name, "jobs", {}, now=self.now - HOUR / 2)
        self.nodes.mark({name: {"health": {"status": "lost", "at": self.now}} for name in lost})

    def enqueue(self, number: int, *, ago: float, timeout: float = HOUR) -> None:
        specs = [JobSpec("selfplay", "hex8_2p", id=f"j{next(self._names)}", timeout=timeout) for _ in range(number)]
        self.queue.enqueue(specs, now=self.now - ago)

    def hold(
        self,
        number: int,
        nodes: list[str],
        *,
        claimed: float,
        heard: float,
        started: float | None = None,
        timeout: float = HOUR / 2,
    ) -> None:
        """Jobs claimed, started and last heard of so many seconds ago, dealt out to these nodes."""
        self.enqueue(number, ago=claimed, timeout=timeout)
        named: dict[str, dict[str, int]] = {}
        for node in itertools.islice(itertools.cycle(nodes), number):
            holder = Holder(node, node)
            job = self.queue.claim(holder, ["cpu"], now=self.now - claimed)
            if job is None:
                raise SystemExit("a job is missing")
            if started is not None:
                self.queue.start(holder, job.id, 1, now=self.now - started)
            named.setdefault(node, {})[job.id] = 1
        for node, jobs in named.items():
            self.queue.poll(Holder(node, node), jobs, {}, 0, now=self.now - heard)

    def reap(self) -> tuple[float, dict[str, float], dict[str, int]]:
        """One run of the loop: its seconds, its counts, and the commands that it sent."""
        self.fleet.redis.config_resetstat()
        began = time.perf_counter()
        counts = job_reaper(self.fleet, Options(max_jobs_to_reap_per_cycle=BAD), Tick(now=self.now))
        took = time.perf_counter() - began
        stats = self.fleet.redis.info("commandstats")
        calls = {name: int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "smembers")}
        return took, dict(counts), calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    most = parser.parse_args().jobs
    logging.disable(logging.WARNING)  # a line for each job that is taken back
    medians: dict[int, float] = {}
    with bench() as stage:
        for jobs in (most // 100, most // 10, most):
            registry = Registry(stage, jobs)
            runs = [registry.reap() for _ in range(4)]
            idle, _, idle_calls = registry.reap()
            took = [seconds for seconds, _, _ in runs]
            medians[jobs] = statistics.median(took)
            found = {name: sum(counts[name] for _, counts, _ in runs) for name in runs[0][1]}
            if any(found[name] != BAD for name in ("stale", "stuck", "abandoned", "orphaned")):
                raise SystemExit(f"not as many were found as are bad: {found}")
            calls = max(sum(calls.values()) for _, _, calls in runs)
            print(
                f"{jobs:7} registered: {medians[jobs] * 1000:6.1f} ms a run of {BAD} "
                f"({min(took) * 1000:.1f} to {max(took) * 1000:.1f}), {calls} calls; "
                f"with none left {idle * 1000:.1f} ms, {sum(idle_calls.values())} calls"
            )
    print(f"ratio of {most} to {most // 100} registered: {medians[most] / medians[most // 100]:.2f}")


if __name__ == "__main__":
    main()
