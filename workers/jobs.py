"""The jobs worker's boot step: heartbeats of running jobs, wake-ups that are owed, and draining.

The jobs worker is the one that consumes `jobs.<capability>`. Every two seconds one script renews what
this node runs, says what it lost (cancelled, reaped), and counts the wake-ups missing from the broker.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.signals import worker_shutting_down
from celery.worker.state import maybe_shutdown

from fleet.execution import sweep
from fleet.jobs import Holder
from tasks.job import JobRunner
from workers.pulse import Pulse
from workers.settings import VERSION

if TYPE_CHECKING:
    from workers.app import Backbeat

log = logging.getLogger("backbeat.jobs")

RUN_JOB = "jobs.run"
PREFIX = "jobs."
POLL = 2.0
HEARTBEAT = 5.0


class JobsStep(bootsteps.StartStopStep):
    """Runs in the worker that consumes `jobs.<capability>` queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.backbeat: Backbeat = consumer.app.backbeat
        self.runner: JobRunner | None = None
        self.pulses: tuple[Pulse, ...] = ()
        self.slots = 0
        self.released = False

    def include_if(self, consumer: Any) -> bool:
        return bool(_queues(consumer))

    def start(self, consumer: Any) -> None:
        """In the consumer's thread, again after every reconnect."""
        if self.runner is not None:
            return
        settings = self.backbeat.settings
        self._hold(settings.data)
        self.queues = _queues(consumer)
        self.slots = int(consumer.pool.limit)
        holder = Holder(settings.node_id, uuid.uuid4().hex)
        self.runner = JobRunner(self.backbeat.fleet, holder, tuple(self.queues))
        self.backbeat.claim_and_run = self._claim_and_run
        for job_id in sweep(settings.data):
            log.warning("stopped what an earlier worker of this node left running: %s", job_id)
        worker_shutting_down.connect(self._drain, weak=False)
        self.since = time.time()
        self.pulses = (
            Pulse("job-leases", POLL, self._poll),
            Pulse("node-heartbeat", HEARTBEAT, self._heartbeat),
        )
        for pulse in self.pulses:
            pulse.start()

    def _hold(self, data: Path) -> None:
        """One jobs worker a node: a second would sweep away what the first one runs. Waits for one that drains."""
        data.mkdir(parents=True, exist_ok=True)
        self.lock = (data / "jobs.lock").open("a")
        give_up = time.monotonic() + self.backbeat.settings.drain + 5
        while True:
            maybe_shutdown()
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
        said = self.runner.claim_and_run()
        # a slot is free: if a wake-up is owed, it is sent now and not at the end of the period
        self.pulses[0].nudge()
        return said

    def _poll(self) -> None:
        assert self.runner is not None  # noqa: S101 - the pulse starts after it
        jobs, runner = self.backbeat.fleet.jobs, self.runner
        if not self.released:
            for job_id in jobs.release_node(runner.holder, "its jobs worker was replaced"):
                log.warning("took back %s from an earlier worker of this node", job_id)
            self.released = True
        idle = 0 if runner.draining.is_set() else max(0, self.slots - len(runner.running))
        poll = jobs.poll(runner.holder, runner.attempts(), self.queues, idle)
        runner.stop(poll.lost, "no longer held by this node")
        for capability, number in poll.wakes.items():
            self.backbeat.wake(capability, number)

    def _heartbeat(self) -> None:
        assert self.runner is not None  # noqa: S101
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self.since,
            "version": VERSION,
            "slots": self.slots,
            "capabilities": sorted(self.queues),
            "running": sorted(self.runner.running),
        }
        self.backbeat.fleet.nodes.heartbeat(self.backbeat.settings.node_id, "jobs", facts)

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
            self.runner.stop(list(self.runner.running), "this node drains")

    def shutdown(self, _consumer: Any) -> None:
        """The consumer ends; jobs that run go on in the pool until they end or the drain does."""
        if self.pulses:
            self.pulses[-1].stop()
            self.backbeat.leave("jobs")


def _queues(consumer: Any) -> dict[str, str]:
    """Capability -> queue, of the job queues this worker consumes."""
    names = consumer.app.amqp.queues.consume_from
    return {name.removeprefix(PREFIX): name for name in sorted(names) if name.startswith(PREFIX)}
