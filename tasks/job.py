"""The job task: claim the best job this node may run, run its command, report what came of it.

A message that leads here is only a wake-up; the truth is the job's entry in the queue. So a lost or
doubled message is harmless, and a report from anyone but the current holder is refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from redis import RedisError

from fleet.execution import Execution, StopSignal, execute
from fleet.fleet import Fleet
from fleet.jobs import Holder, Job
from fleet.kinds import JobKind
from schedules.backoff import Backoff

log = logging.getLogger("backbeat.jobs")

RETRY = Backoff(initial_delay=10.0, max_delay=300.0, multiplier=2.0, jitter=True)

#: Seconds that a report may wait for Redis to come back before the result is given up.
REPORT_FOR = 600.0


@dataclass
class JobRunner:
    """Runs jobs of one node; its threads share what is running now."""

    fleet: Fleet
    holder: Holder
    capabilities: Sequence[str]
    running: dict[str, tuple[Job, StopSignal]] = field(default_factory=dict)
    #: Jobs it ever ran.
    runs: int = 0
    draining: threading.Event = field(default_factory=threading.Event)
    ended: threading.Condition = field(default_factory=threading.Condition)
    clock: Callable[[], float] = time.monotonic

    def attempts(self) -> dict[str, int]:
        """What runs now: job id -> attempt."""
        return {job_id: job.attempt for job_id, (job, _) in list(self.running.items())}

    def stop(self, attempts: Mapping[str, int], reason: str) -> None:
        """Ask these attempts to end: their process groups get SIGTERM, then SIGKILL."""
        for job_id, attempt in attempts.items():
            job, signal = self.running.get(job_id, (None, None))
            if job is not None and signal is not None and job.attempt == attempt:
                signal.set(reason)

    def claim_and_run(self) -> str:
        """One wake-up. Returns a line saying what came of it."""
        if self.draining.is_set():
            return "draining: left for another node"
        job = self.fleet.jobs.claim(self.holder, self.capabilities)
        if job is None:
            return "nothing to claim"
        kind = self.fleet.options.jobs.get(job.kind)
        if kind is None:
            error = f"no command for jobs of kind {job.kind!r}; add jobs.{job.kind} to the configuration"
            self.fleet.jobs.fail(self.holder, job.id, job.attempt, error, retry_after=RETRY.delay(job.failures + 1))
            return f"{job.id}: failed: {error}"
        if not self._earlier_attempt_ended(job):
            self.fleet.jobs.release(self.holder, job.id, job.attempt, "this node drains")
            return f"{job.id}: handed back"
        stop = StopSignal()
        self.running[job.id] = (job, stop)
        self.runs += 1
        try:
            execution = execute(
                job,
                kind,
                node_id=self.fleet.node_id,
                data=self.fleet.data,
                stop=stop,
                on_started=lambda _pid: self._started(job),
            )
            said = self._report(job, execution, stop)
            self._pass_on(kind if execution.outcome == "completed" else None)
            return f"{job.id}: {said}"
        finally:
            with self.ended:
                self.running.pop(job.id, None)
                self.ended.notify_all()

    def _earlier_attempt_ended(self, job: Job) -> bool:
        """Wait for an attempt that was taken from this node and is still being stopped: they share a folder.

        False: the node drains by now.
        """
        self.stop({job.id: self.attempts().get(job.id, 0)}, "it was taken back from this node")
        with self.ended:
            return self.ended.wait_for(lambda: job.id not in self.running) and not self.draining.is_set()

    def _started(self, job: Job) -> bool:
        try:
            return self.fleet.jobs.start(self.holder, job.id, job.attempt)
        except RedisError as error:
            log.warning("%s runs, but could not say so: %s", job.id, error)
            return True

    def _pass_on(self, kind: JobKind | None) -> None:
        """Tell what the job has changed on this node, and run the loops that work on what it made, if it did."""
        try:
            self.fleet.report_holdings()
        except RedisError as error:
            log.warning("what this node holds now is said later: %s", error)
        for name in kind.then if kind is not None else ():
            try:
                self.fleet.run(name)
            except Exception as error:  # noqa: BLE001 - of any broker's client; the loop has its own cadence
                log.warning("%s runs at its next slot: %s", name, error)

    def _report(self, job: Job, execution: Execution, stop: StopSignal) -> str:
        give_up = self.clock() + REPORT_FOR
        while True:
            try:
                return self._tell(job, execution, stop)
            except RedisError as error:
                if self.clock() > give_up or self.draining.is_set():
                    log.error("%s %s, but nobody could be told: %s", job.id, execution.outcome, error)
                    return "unreported"
                time.sleep(0.5)

    def _tell(self, job: Job, execution: Execution, stop: StopSignal) -> str:
        queue, claim = self.fleet.jobs, (self.holder, job.id, job.attempt)
        if execution.outcome == "completed":
            if queue.complete(*claim, execution.result or {}):
                return "completed"
        elif execution.outcome == "stopped":
            if queue.release(*claim, stop.reason or "stopped"):
                return f"handed back ({stop.reason})"
        else:
            delay = RETRY.delay(job.failures + 1)
            timed_out = execution.outcome == "timed_out"
            status = queue.fail(*claim, execution.error, retry_after=delay, timed_out=timed_out)
            if status is not None:
                log.warning("%s: %s", job.id, execution.error)
                return f"{execution.outcome}, now {status}"
        log.warning("%s: its %s report was refused: this node holds it no more", job.id, execution.outcome)
        return "refused: no longer held"
