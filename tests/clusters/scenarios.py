"""What a cluster must survive, told once: over processes in `make test`, over containers in `make test-containers`.

The fixture `cluster` is pytest-celery's set-up with what it does not know: beats, faults, and the cluster's own view.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pytest_celery import CeleryTestNode, CeleryTestSetup
from redis import Redis, RedisError

from fleet.job import JobSpec, JobStatus
from fleet.jobs import JobQueue
from schedules.beat import LEASE_TTL
from tasks.loop import discover
from tests.waiting import until
from workers import keys
from workers.lease import LeaseTiming
from workers.ledger import Ledger
from workers.status import read_status

#: Seconds between two ticks of each loop here.
EVERY = 1.0
#: Seconds that two ticks may be apart, whatever happened between: a lease, the look at it, and a tick.
GAP = LeaseTiming().ttl + LEASE_TTL + 2 * EVERY
ANYWHERE, LEADER_ONLY = "idle_detection", "auto_scaling"


def write_config(path: Path, python: str = sys.executable) -> None:
    """Two loops, one of them for leaders, every second; jobs that take a fifth of a second."""
    loops = {name: {"interval": f"{EVERY:g}s", "initial_delay": "0s"} for name in (ANYWHERE, LEADER_ONLY)}
    sleeps = [python, "-c", "import time; time.sleep(0.2)"]
    off = {name: {"enabled": False} for name in discover() if name not in loops}
    path.write_text(yaml.safe_dump({**loops, **off, "jobs": {"selfplay": {"command": sleeps}}}))


@dataclass
class Cluster:
    """A broker, two agents, a jobs worker and two beats. `agents` and `beats` are what kills and cuts work on."""

    setup: CeleryTestSetup
    redis: Redis
    agents: list[Any]
    jobs: Any
    beats: list[Any]

    def __post_init__(self) -> None:
        self.ledger, self.queue = Ledger(self.redis), JobQueue(self.redis)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = read_status(self.ledger)
        return found

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        """Wait; a server that is away counts as not yet."""

        def value() -> Any:
            with contextlib.suppress(RedisError):
                return condition()

        return until(
            value, seconds, lambda: "\n".join([what, *(f"--- {n.name()}\n{n.logs()[-2000:]}" for n in self.all())])
        )

    def all(self) -> list[CeleryTestNode]:
        return [*self.agents, self.jobs, *self.beats]

    def leader(self) -> Any:
        """The agent that leads."""

        def found() -> Any:
            node_id = (self.status()["leader"] or {}).get("node_id")
            return next((agent for agent in self.agents if agent.node_id == node_id), None)

        return self.until(found, "a leader")

    def runs(self, name: str) -> int:
        return int(self.status()["loops"].get(name, {}).get("run_count", 0))

    def until_both_run(self) -> None:
        """Each loop, twice more."""
        for name in (ANYWHERE, LEADER_ONLY):
            before = self.runs(name)
            self.until(lambda name=name, before=before: self.runs(name) > before + 1, f"runs of {name}")

    @contextmanager
    def no_gaps(self, *names: str) -> Iterator[None]:
        """No tick of these loops is lost for more than a lease, and none is run twice."""
        starts: dict[str, dict[int, float]] = {name: {} for name in names}
        halt = threading.Event()

        def watch() -> None:
            while not halt.wait(0.1):
                with contextlib.suppress(RedisError):
                    for name, loop in self.status()["loops"].items():
                        if name in starts and loop["last_run_time"]:
                            starts[name].setdefault(loop["run_count"], time.monotonic())

        thread = threading.Thread(target=watch)
        began = time.monotonic()
        thread.start()
        try:
            yield
        finally:
            halt.set()
            thread.join()
        for name, seen in starts.items():
            instants = [began, *sorted(seen.values()), time.monotonic()]
            gaps = [later - earlier for earlier, later in pairwise(instants)]
            when = [round(each - began, 1) for each in instants]
            assert max(gaps) < GAP, f"{name}: no run for {max(gaps):.1f} s: {when}"


def test_a_leader_that_is_killed_or_paused_is_followed_by_another_and_does_no_harm_when_it_goes_on(
    cluster: Cluster,
) -> None:
    cluster.until_both_run()
    leader = cluster.leader()
    with cluster.no_gaps(ANYWHERE, LEADER_ONLY):
        leader.kill()
        cluster.until(lambda: cluster.leader() is not leader, "another leader")
        cluster.until_both_run()
    leader.restart()
    leader.ready()
    leader = cluster.leader()
    with cluster.no_gaps(LEADER_ONLY):
        leader.container.pause()
        cluster.until(lambda: cluster.leader() is not leader, "another leader")
        cluster.until_both_run()
    with cluster.no_gaps(LEADER_ONLY):
        leader.container.unpause()
        cluster.until_both_run()
        assert cluster.leader() is not leader


def test_a_leader_that_is_cut_off_is_followed_by_another_and_works_again_when_it_is_back(cluster: Cluster) -> None:
    cluster.until_both_run()
    leader = cluster.leader()
    with cluster.no_gaps(LEADER_ONLY):
        leader.container.cut()
        cluster.until(lambda: cluster.leader() is not leader, "another leader")
        cluster.until_both_run()
    with cluster.no_gaps(LEADER_ONLY):
        leader.container.heal()
        cluster.until_both_run()
        cluster.until(leader.is_ready, "the first leader is ready again")
    other = next(agent for agent in cluster.agents if agent is not leader)
    with cluster.no_gaps(LEADER_ONLY):
        other.kill("SIGTERM")
        cluster.until(lambda: cluster.leader() is leader, "the first leader leads again")
        cluster.until_both_run()


def test_a_rolling_restart_under_load_loses_no_job_and_no_tick_for_more_than_a_lease(cluster: Cluster) -> None:
    assert cluster.setup.ready(ping=False, control=True, docker=False)
    cluster.until(lambda: len(cluster.redis.zrange(keys.BEATS, 0, -1)) == 2, "two beats")
    cluster.until_both_run()
    with cluster.no_gaps(ANYWHERE, LEADER_ONLY):
        ids = cluster.queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(LOAD)])
        assert len(ids) == LOAD
        for node in (*cluster.agents, *cluster.beats, cluster.jobs):
            node.restart()
            node.ready()
            cluster.until_both_run()
        cluster.until(lambda: sum(outcomes(cluster, ids).values()) == LOAD, "all jobs", 60)
    assert outcomes(cluster, ids) == {"completed": LOAD}
    assert cluster.queue.counts().by_status[JobStatus.COMPLETED] == LOAD
    assert cluster.queue.counts().depth == 0


#: Jobs of the rolling restart: more than a jobs worker with two slots does while everything is restarted.
LOAD = 60


def outcomes(cluster: Cluster, ids: list[str]) -> Counter[str]:
    """How many of these jobs ended how."""
    found = [cluster.queue.get(job_id) for job_id in ids]
    return Counter(str(job.status) for job in found if job is not None and job.finished_at is not None)
