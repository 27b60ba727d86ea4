"""The jobs worker's boot step: heartbeats of running jobs, wake-ups that are owed, and draining.

The jobs worker is the one that consumes `jobs.<capability>`. Every two seconds, or six while no job runs, one
script renews what this node runs, says what it lost (cancelled, reaped), and counts the wake-ups missing from
the broker.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.signals import worker_shutting_down
from celery.worker.state import maybe_shutdown

from fleet.execution import sweep
from fleet.jobs import POLL_EVERY, QUEUE, Holder
from tasks.job import JobRunner
from workers.answering import Answering, worker_is_ready
from workers.mainloop import MAIN_LOOP
from workers.presence import Presence, Reporter
from workers.pulse import Pulse

if TYPE_CHECKING:
    from workers.app import Backbeat

log = logging.getLogger("backbeat.jobs")

RUN_JOB = "jobs.run"
#: Seconds between two polls of a worker without a job: wake-ups bring it the next one.
IDLE_POLL_EVERY = 3 * POLL_EVERY - 0.5


class JobsStep(bootsteps.StartStopStep):
    """Runs in the worker that consumes `jobs.<capability>` queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.backbeat: Backbeat = consumer.app.backbeat
        self.runner: JobRunner | None = None
        self.presence: Presence | None = None
        self.pulse: Pulse | None = None
        self.slots = 0
        self.rests_until = 0.0
        self.released = False
        self.node_drains = False

    def include_if(self, consumer: Any) -> bool:
        return bool(_queues(consumer))

    def create(self, consumer: Any) -> None:
        """Before the first connection: probes are answered from here on."""
        worker_shutting_down.connect(MAIN_LOOP.end, weak=False)
        queues = set(_queues(consumer).values())
        Answering(
            self.backbeat.settings.run,
            "jobs",
            lambda: worker_is_ready(consumer, self.presence, set() if self.node_drains else queues),
        ).start()

    def start(self, consumer: Any) -> None:
        """In the consumer's thread, again after every reconnect."""
        self.consumer = consumer
        if self.runner is not None:
            self.reconcile(consumer)
            return
        settings = self.backbeat.settings
        self._hold(settings.data)
        self.queues = _queues(consumer)
        self.slots = int(consumer.pool.limit)
        holder = Holder(settings.node_id, uuid.uuid4().hex)
        self.runner = JobRunner(self.backbeat.fleet, holder, tuple(self.queues))
        report = WorkReport(self.runner, self.slots, sorted(self.queues))
        presence = Presence(self.backbeat.fleet.nodes, settings.node_id, "jobs", report)
        presence.take()
        self.presence = presence
        self.backbeat.claim_and_run = self._claim_and_run
        for job_id in sweep(settings.data):
            log.warning("stopped what an earlier worker of this node left running: %s", job_id)
        worker_shutting_down.connect(self._drain, weak=False)
        self.pulse = Pulse("job-leases", POLL_EVERY, self._poll)
        self.pulse.start()
        presence.start()

    def _hold(self, data: Path) -> None:
        """One jobs worker a node: a second would sweep away what the first one runs. Waits for one that drains."""
        try:
            data.mkdir(parents=True, exist_ok=True)
            self.lock = (data / "jobs.lock").open("a")
        except OSError as error:
            # left to Celery it would count as a lost connection, and be tried again without a pause
            log.critical("BACKBEAT_DATA %s cannot be written: %s", data, error.strerror)
            raise WorkerShutdown(1) from None
        give_up = time.monotonic() + self.backbeat.settings.drain + 5
        while True:
            maybe_shutdown()
            MAIN_LOOP.turn()
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > give_up:
                    log.critical("another jobs worker uses %s; one serves several queues: -Q jobs.cpu,jobs.gpu", data)
                    raise WorkerShutdown(1) from None
                time.sleep(0.2)

    def _claim_and_run(self) -> str:
        assert self.runner is not None  # noqa: S101
        assert self.pulse is not None  # noqa: S101
        said = self.runner.claim_and_run()
        # a slot is free: if a wake-up is owed, it is sent now and not at the end of the period
        self.rests_until = 0.0
        self.pulse.nudge()
        return said

    def _poll(self) -> None:
        assert self.runner is not None  # noqa: S101 - the pulse starts after it
        jobs, runner = self.backbeat.fleet.jobs, self.runner
        if not runner.running and time.monotonic() < self.rests_until:
            return
        self.rests_until = time.monotonic() + IDLE_POLL_EVERY
        if not self.released:
            for job_id in jobs.release_node(runner.holder, "its jobs worker was replaced"):
                log.warning("took back %s from an earlier worker of this node", job_id)
            self.released = True
        idle = 0 if runner.draining.is_set() else max(0, self.slots - len(runner.running))
        named = runner.attempts()
        poll = jobs.poll(runner.holder, named, self.queues, idle)
        runner.stop({job_id: named[job_id] for job_id in poll.lost}, "no longer held by this node")
        for capability, number in poll.wakes.items():
            self.backbeat.wake(capability, number)
        if poll.draining != self.node_drains:
            self.node_drains = poll.draining
            self.consumer.call_soon(self.reconcile, self.consumer)

    def reconcile(self, consumer: Any) -> None:
        """Consume the job queues unless the node drains: it would pop the wake-ups that others wait for."""
        if consumer.task_consumer is None:
            return  # between two connections: start() comes again
        for queue in self.queues.values():
            consuming = consumer.task_consumer.consuming_from(queue)
            if consuming and self.node_drains:
                log.info("this node drains: %s is left to others", queue)
                consumer.cancel_task_queue(queue)
            elif not consuming and not self.node_drains:
                consumer.add_task_queue(queue)

    def _drain(self, **_: Any) -> None:
        """In the signal handler: claim no more, and stop what still runs after the grace."""
        if self.runner is None or self.runner.draining.is_set():
            return
        self.runner.draining.set()
        timer = threading.Timer(self.backbeat.settings.drain, self._stop_all)
        timer.daemon = True
        timer.start()

    def _stop_all(self) -> None:
        if self.runner is not None:
            self.runner.stop(self.runner.attempts(), "this node drains")

    def shutdown(self, _consumer: Any) -> None:
        """The consumer ends; jobs that run go on in the pool until they end or the drain does."""
        if self.presence is not None:
            self.presence.leave()
        self.backbeat.close()


class WorkReport(Reporter):
    """What a jobs worker says of its work. `last_job_at` is about when a job ran last; absent before the first."""

    def __init__(self, runner: JobRunner, slots: int, capabilities: Sequence[str]) -> None:
        self._runner, self._slots, self._capabilities = runner, slots, capabilities
        self._last_job_at: float | None = None
        self._runs = 0

    def facts(self) -> Mapping[str, Any]:
        facts = {
            "slots": self._slots,
            "capabilities": list(self._capabilities),
            "running": sorted(self._runner.running),
        }
        return facts if self._last_job_at is None else {**facts, "last_job_at": self._last_job_at}

    def heard(self, at: float) -> None:
        runs = self._runner.runs
        if self._runner.running or runs != self._runs:  # a short job fits between two heartbeats
            self._last_job_at, self._runs = at, runs


def _queues(consumer: Any) -> dict[str, str]:
    """Capability -> queue, of the job queues this worker consumes."""
    names = consumer.app.amqp.queues.consume_from
    return {name.removeprefix(QUEUE): name for name in sorted(names) if name.startswith(QUEUE)}
