"""What a cluster must survive, told once: over processes in `make test`, over containers in `make test-containers`.

The fixture `cluster` is pytest-celery's set-up with what it does not know: beats, faults, and the cluster's own view.
Faults strike while tests/clusters/watch.py looks on, and says what must hold all the while.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_celery import CeleryTestNode, CeleryTestSetup
from redis import Redis, RedisError

from fleet.fence import UNFENCED, Fence, FenceRefused
from fleet.jobs import QUEUE, JobQueue
from schedules.beat import LEASE_TTL, POLL
from tests.clusters.watch import ANYWHERE, EVERY, LEADER_ONLY, Watch, job
from tests.waiting import until
from workers import keys
from workers.jobs import RUN_JOB
from workers.lease import LeaseTiming
from workers.ledger import Ledger
from workers.status import read_status
from workers.timetable import GRACE
from workers.transport import Transport

# How long a loop may stand still, from the start of a run to that of the next one, in seconds. What strikes does so
# between two runs, so within EVERY of the start of the last one. A run that is struck itself is another tale: its loop
# waits for the end of the run's lease (see the stories).

#: What a busy machine adds. Of seventy faults on one with five times the work that it could do, none took more than is
#: reasoned below.
SLACK = 0.5
#: A tick that went down with whoever had it in its socket: beat sends it again after GRACE, when it polls next.
SENT_AGAIN = EVERY + GRACE + POLL + SLACK
#: A beat that died after its last poll: its lease ends, and the other one, which polls, fires what is due.
FIRED_AGAIN = EVERY + LEASE_TTL + POLL + SLACK
#: A leader that died after its last renewal: its lease ends, another takes it when it looks, a tenth of a retry later,
#: and hears of the queue, where the tick is by then (SENT_AGAIN is less), with its next BRPOP.
LED_AGAIN = EVERY + LeaseTiming().ttl + LeaseTiming().retry_period / 10 + Transport.brpop_timeout + SLACK


@dataclass
class Cluster:
    """A broker, two agents, a jobs worker and two beats. `agents` and `beats` are what kills and cuts work on."""

    setup: CeleryTestSetup
    redis: Redis
    agents: list[Any]
    jobs: Any
    beats: list[CeleryTestNode]

    def __post_init__(self) -> None:
        self.ledger, self.queue = Ledger(self.redis), JobQueue(self.redis, wake=self._wake)
        self.accepted: list[str] = []

    def _wake(self, capability: str, number: int) -> None:
        for _ in range(number):
            self.setup.app.send_task(RUN_JOB, (), queue=QUEUE + capability)

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

    def right(self) -> Fence:
        """What the leader shows at each of its writes."""
        owner, fence = self.redis.hmget(keys.LEADER, "token", "fence")
        return Fence(int(fence), owner, "", keys.GUARD, keys.LOOP + LEADER_ONLY)

    def active_beat(self) -> CeleryTestNode:
        """The beat that fires."""
        active = (True, "ready: it is active")
        found: CeleryTestNode = self.until(
            lambda: next((beat for beat in self.beats if beat.container.ask("ready") == active), None), "an active beat"
        )
        return found

    def runs(self, name: str) -> int:
        return int(self.status()["loops"].get(name, {}).get("run_count", 0))

    def until_both_run(self) -> None:
        """Each loop, twice more."""
        for name in (ANYWHERE, LEADER_ONLY):
            before = self.runs(name)
            self.until(lambda name=name, before=before: self.runs(name) > before + 1, f"runs of {name}")

    def until_between_runs(self) -> None:
        """Their slots are apart: that of the leader-only loop comes more than half of EVERY after the other one's."""
        ran = self.runs(ANYWHERE)
        self.until(lambda: self.runs(ANYWHERE) > ran, "a run that is over")

    def enqueue(self, fence: Fence = UNFENCED) -> None:
        self.accepted += self.queue.enqueue([job()], fence=fence)

    @contextmanager
    def watched(self, anywhere: float, leader_only: float) -> Iterator[None]:
        """Jobs flow, all holds that must, and no loop stands still for longer than this."""
        watch = Watch(self.status, self.enqueue)
        watch.start()
        try:
            yield
        finally:
            watch.stop()
        watch.check({ANYWHERE: anywhere, LEADER_ONLY: leader_only})
        self.until(lambda: all(self._ended(each) for each in self.accepted), "the end of all jobs")
        assert Counter(self._ended(each) for each in self.accepted) == {"completed": len(self.accepted)}
        counts = self.queue.counts()
        assert {status: n for status, n in counts.by_status.items() if n} == {"completed": len(self.accepted)}

    def _ended(self, job_id: str) -> str:
        """How it ended, if it has."""
        found = self.queue.get(job_id)
        return str(found.status) if found is not None and found.finished_at is not None else ""

    def until_followed(self, leader: Any, right: Fence) -> None:
        """Another leads, and what the old one would write is refused."""
        self.until(lambda: self.leader() is not leader, "another leader")
        with pytest.raises(FenceRefused):
            self.enqueue(right)
        self.enqueue(self.right())
        self.until_both_run()

    def until_it_leads_again(self, agent: Any) -> None:
        """It is back: when the other one ends in order, it leads, and runs all there is."""
        self.until(agent.is_ready, "an agent that is ready again")
        (other,) = (each for each in self.agents if each is not agent)
        other.restart()
        assert self.leader() is agent
        other.ready()
        self.until_both_run()


def test_a_leader_that_is_killed_or_paused_is_followed_by_another_and_does_no_harm_when_it_goes_on(
    cluster: Cluster,
) -> None:
    cluster.until_both_run()
    leader, right = cluster.leader(), cluster.right()
    with cluster.watched(SENT_AGAIN, LED_AGAIN):
        cluster.until_between_runs()
        leader.kill()
        cluster.until_followed(leader, right)
    with cluster.watched(SENT_AGAIN, SENT_AGAIN):
        leader.restart()
        cluster.until_it_leads_again(leader)
    right = cluster.right()
    with cluster.watched(SENT_AGAIN, LED_AGAIN):
        cluster.until_between_runs()
        leader.container.pause()
        cluster.until_followed(leader, right)
    with cluster.watched(SENT_AGAIN, SENT_AGAIN):
        leader.container.unpause()
        cluster.until_both_run()
        assert cluster.leader() is not leader
        cluster.until_it_leads_again(leader)


def test_a_leader_that_is_cut_off_is_followed_by_another_and_works_again_when_it_is_back(cluster: Cluster) -> None:
    cluster.until_both_run()
    leader, right = cluster.leader(), cluster.right()
    with cluster.watched(SENT_AGAIN, LED_AGAIN):
        cluster.until_between_runs()
        leader.container.cut()
        cluster.until_followed(leader, right)
    with cluster.watched(SENT_AGAIN, SENT_AGAIN):
        leader.container.heal()
        cluster.until_both_run()
        assert cluster.leader() is not leader
        cluster.until_it_leads_again(leader)


def test_a_beat_that_is_killed_or_paused_is_followed_by_the_other_also_when_the_leader_dies_with_it(
    cluster: Cluster,
) -> None:
    cluster.until_both_run()
    beat = cluster.active_beat()
    with cluster.watched(FIRED_AGAIN, FIRED_AGAIN):
        beat.kill()
        cluster.until(lambda: cluster.active_beat() is not beat, "another beat")
        cluster.until_both_run()
    beat.restart()
    beat.ready()
    beat = cluster.active_beat()
    with cluster.watched(FIRED_AGAIN, FIRED_AGAIN):
        beat.container.pause()
        cluster.until_both_run()
    with cluster.watched(SENT_AGAIN, SENT_AGAIN):
        beat.container.unpause()
        cluster.until(lambda: beat.container.ask("ready") == (True, "ready: it stands by"), "it stands by")
        cluster.until_both_run()
    leader, right, beat = cluster.leader(), cluster.right(), cluster.active_beat()
    with cluster.watched(FIRED_AGAIN, LED_AGAIN):
        cluster.until_between_runs()
        leader.kill()
        beat.kill()
        cluster.until_followed(leader, right)


def test_a_rolling_restart_under_load_loses_no_job_and_no_tick_for_more_than_a_lease(cluster: Cluster) -> None:
    assert cluster.setup.ready(ping=False, control=True, docker=False)
    cluster.until(lambda: len(cluster.redis.zrange(keys.BEATS, 0, -1)) == 2, "two beats")
    cluster.until_both_run()
    with cluster.watched(SENT_AGAIN, SENT_AGAIN):
        for node in (*cluster.agents, *cluster.beats, cluster.jobs):
            node.restart()
            node.ready()
            cluster.until_both_run()
