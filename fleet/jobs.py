"""The job queue: a registry in Redis that the jobs workers claim from.

The registry is the truth. A message on the broker is an anonymous wake-up, one for each job enqueued:
whoever gets it claims the best job of its capability, whichever that is, and drops the wake-up when
there is none. So a lost or doubled message does no harm; `poll` finds the jobs that no message stands for.

A claim is a lease: it has a holder, an attempt that rises with each claim, and a heartbeat. Whatever is
said of a job by anyone but the holder of its present attempt is refused, so a cancelled job cannot
complete and a job taken back cannot be finished by the node that lost it. A job may well run more than
once; it ends once.

Every method takes `now`, seconds since the epoch, for virtual time; without it Redis tells the time.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from redis import Redis

from fleet.decoding import text_of
from fleet.fence import UNFENCED, Fence, FenceRefused, script
from fleet.job import (
    ENDED_BADLY,
    ERROR_LIMIT,
    HELD,
    Holder,
    Job,
    JobCounts,
    JobSpec,
    JobStatus,
    Poll,
    check_job_id,
    encode_object,
)
from fleet.job_keys import CLAIMED, COUNTS, DELAYED, FINISHED, GAMES, HEARD, HOLDERS, HOLDS, JOB, KEYS, READY, RUNNING
from fleet.nodes import NODE
from fleet.notices import Notice, Notices

__all__ = ["AGEING", "Holder", "Job", "JobCounts", "JobQueue", "JobSpec", "JobStatus", "Poll"]

#: + capability: the broker's list of wake-ups.
QUEUE = "jobs."
#: Seconds between two polls of a holder: so long it may take until it learns that a job is no longer its own.
POLL_EVERY = 2.0

#: Milliseconds of waiting that outrank one point of priority. A job's rank is created_at - priority * AGEING,
#: lowest first: 100 points are a head start of 50 minutes and no more, so that nothing starves for ever.
AGEING = 30_000
#: Jobs registered by one script call.
BATCH = 500
#: Seconds after which a job that its holder holds but does not name in `poll` is taken back.
ORPHAN_AFTER = 60.0
#: Games of one job that are believed.
MAX_GAMES = 10**9

Wake = Callable[[str, int], None]
#: A sorted set, the command that reads it, and the two bounds of its scores.
Range = tuple[str, str, float | str, float | str]

log = logging.getLogger("backbeat.jobs")


class JobQueue:
    """Enqueue, claim, report. Safe from any number of threads, processes and machines.

    `wake(capability, n)` publishes n wake-up messages; when it raises, that is logged and `poll` makes
    up for it. `notices` is told of each job that is given up: over, not completed, and not cancelled.
    """

    def __init__(self, redis: Redis, wake: Wake | None = None, notices: Notices | None = None) -> None:
        self._redis = redis
        self._wake = wake
        self._notices = notices
        prelude = script("jobs_prelude")
        folder = resources.files("fleet") / "lua"
        self._scripts = {
            name: redis.register_script(prelude + (folder / f"jobs_{name}.lua").read_text())
            for name in (
                *("enqueue", "claim", "report", "poll", "release_node"),
                *("cancel", "retry", "reap", "unpublished", "list"),
            )
        }

    def enqueue(
        self,
        specs: Iterable[JobSpec],
        *,
        depth_cap: int | None = None,
        fence: Fence = UNFENCED,
        now: float | None = None,
    ) -> list[str]:
        """Register jobs, wake workers, and return the ids accepted, in order; one round trip for each 500.

        An id that exists is skipped. With `depth_cap`, as many are accepted as keep pending, claimed and
        running jobs together at or below it. Raises FenceRefused, with nothing of that batch written.
        """
        specs = list(specs)
        accepted: list[str] = []
        for first in range(0, len(specs), BATCH):
            batch = specs[first : first + BATCH]
            fields = [field for spec in batch for field in _fields(spec)]
            cap = "" if depth_cap is None else depth_cap
            ids = self._fenced("enqueue", fence, now, cap, AGEING, *fields)
            accepted += ids
            capabilities = {spec.id: spec.capability for spec in reversed(batch)}  # of equal ids, the first counts
            for capability, n in Counter(capabilities[job_id] for job_id in ids).items():
                self.wake(capability, n)
        return accepted

    def claim(self, holder: Holder, capabilities: Collection[str], *, now: float | None = None) -> Job | None:
        """The best waiting job of these capabilities, now claimed by `holder`.

        None when there is none, or when the holder's node has the mark `drain`.
        """
        while (row := self._call("claim", now, holder.node, holder.owner, *capabilities)) is not None:
            if (job := self._decode(row, now)) is not None:
                return job
        return None

    def start(self, holder: Holder, job_id: str, attempt: int, *, now: float | None = None) -> bool:
        """Say that the claimed job now runs. False: it is no longer this holder's, so do not run it."""
        return self._report(holder, job_id, attempt, now, "start") is not None

    def poll(
        self,
        holder: Holder,
        running: Mapping[str, int],
        queues: Mapping[str, str],
        idle_slots: int,
        *,
        now: float | None = None,
    ) -> Poll:
        """Renew the heartbeat of the jobs in `running` (id -> attempt); learn what is lost or owed.

        `queues` maps a capability to the broker's list of its wake-ups: where that list is empty although
        jobs can be claimed, wake-ups are owed, at most one for each idle slot, and none to a node that
        drains. A job that this holder holds but has not named for ORPHAN_AFTER goes back to the queue.
        One round trip.
        """
        named = [word for job_id, attempt in running.items() for word in (job_id, attempt)]
        lists = [word for queue in queues.items() for word in queue]
        lost, owed, draining, ended = self._call(
            "poll", now, holder.node, holder.owner, round(ORPHAN_AFTER * 1000), idle_slots, len(running), *named, *lists
        )
        wakes = {capability: int(n) for capability, n in zip(queues, owed, strict=True) if int(n) > 0}
        for job_id in ended:
            self._given_up(text_of(job_id), JobStatus.ABANDONED, "its holder no longer knew of it")
        return Poll(tuple(text_of(job_id) for job_id in lost), wakes, bool(draining))

    def complete(
        self, holder: Holder, job_id: str, attempt: int, result: Mapping[str, Any], *, now: float | None = None
    ) -> bool:
        """End the job well. `result["games"]` adds to the config's games produced. False: refused.

        A result that is no JSON object or too large is replaced by a note that says so.
        """
        games = result.get("games") if isinstance(result, Mapping) else None
        counted = games if type(games) is int and 0 <= games <= MAX_GAMES else 0
        try:
            text = encode_object("result", result)
        except ValueError as error:
            text = json.dumps({"note": f"not kept: {error}"[:ERROR_LIMIT], "games": counted})
        return self._report(holder, job_id, attempt, now, "complete", text, counted) is not None

    def fail(
        self,
        holder: Holder,
        job_id: str,
        attempt: int,
        error: str,
        *,
        retry_after: float,
        timed_out: bool = False,
        now: float | None = None,
    ) -> JobStatus | None:
        """Count a failure: pending again in `retry_after` seconds, or the end. The new status; None: refused."""
        ending = JobStatus.TIMED_OUT if timed_out else JobStatus.FAILED
        status = self._report(holder, job_id, attempt, now, "fail", _message(error), _ms(retry_after), ending)
        return self._given_up(job_id, status, error)

    def release(self, holder: Holder, job_id: str, attempt: int, reason: str, *, now: float | None = None) -> bool:
        """Hand the job back, at once and without counting a failure (a drain). False: refused."""
        return self._report(holder, job_id, attempt, now, "release", _message(reason)) is not None

    def release_node(self, holder: Holder, reason: str, *, now: float | None = None) -> list[str]:
        """Take back what earlier incarnations of this node's worker hold, as failures. Returns the ids."""
        words = [text_of(word) for word in self._call("release_node", now, holder.node, holder.owner, _message(reason))]
        for job_id, status in zip(words[::2], words[1::2], strict=True):
            self._given_up(job_id, JobStatus(status), reason)
        return words[::2]

    def cancel(
        self, job_id: str, reason: str, *, fence: Fence = UNFENCED, now: float | None = None
    ) -> JobStatus | None:
        """End a job that is not over yet; its holder learns by `poll`. The job's status; None: unknown."""
        return _status(self._fenced("cancel", fence, now, job_id, _message(reason)))

    def retry(self, job_id: str, *, now: float | None = None) -> JobStatus | None:
        """Take up again a job that ended badly. The status it had; None: unknown, or its record was lost.

        One of ENDED_BADLY is now pending, with all of its attempts before it, and workers are woken. In
        any other status the job is left as it is.
        """
        had, capability = map(text_of, self._call("retry", now, job_id) or ("", ""))
        if had in ENDED_BADLY:
            self.wake(capability, 1)
        return JobStatus(had) if had else None

    def reap(
        self,
        job: Job,
        reason: str,
        *,
        retry_after: float = 0.0,
        timed_out: bool = False,
        if_silent: bool = False,
        fence: Fence = UNFENCED,
        now: float | None = None,
    ) -> JobStatus | None:
        """Take a held job back from its holder, as a failure (at the end: abandoned, or timed out).

        None: it is not as `job` saw it any more. `if_silent` asks also that no heartbeat came since.
        """
        heartbeat = _ms(job.heartbeat_at) if if_silent and job.heartbeat_at is not None else ""
        ending = JobStatus.TIMED_OUT if timed_out else JobStatus.ABANDONED
        seen = (job.id, job.attempt, job.status, heartbeat)
        status = _status(self._fenced("reap", fence, now, *seen, _message(reason), _ms(retry_after), ending))
        return self._given_up(job.id, status, reason)

    def wake(self, capability: str, n: int) -> None:
        """Publish wake-ups; a broker that refuses them is logged."""
        if self._wake is None:
            return
        try:
            self._wake(capability, n)
        except Exception:  # whatever a broker may raise: the jobs are registered, and poll will wake for them
            log.warning("no wake-up could be sent for %d jobs of %s", n, capability, exc_info=True)

    def get(self, job_id: str) -> Job | None:
        """One job; None when unknown or over for more than a day. Raises ValueError when it is malformed."""
        check_job_id(job_id)
        record = self._redis.hgetall(JOB + job_id)
        return Job.decode(record.items()) if record else None

    def find(
        self,
        statuses: Collection[JobStatus] = frozenset(JobStatus),
        *,
        kind: str | None = None,
        config: str | None = None,
        node: str | None = None,
        limit: int = 100,
        now: float | None = None,
    ) -> list[Job]:
        """Jobs that are as asked, most relevant first: running by deadline, claimed longest first, pending in
        the order of their claim, then those that are over, newest first.

        `node` is the one that holds a job, or did so last. Jobs that are over are found among the last
        1,000 of the last 24 hours, pending ones among the first 10,000 of a capability. At most `limit`
        jobs in two round trips.
        """
        ranges: list[Range] = []
        if node is not None and HELD & set(statuses):
            ranges.append(_rising(HOLDS + node))
        elif node is None:
            by_time = ((RUNNING, JobStatus.RUNNING), (CLAIMED, JobStatus.CLAIMED))
            ranges += [_rising(key) for key, status in by_time if status in statuses]
        if node is None and JobStatus.PENDING in statuses:
            ranges += [_rising(prefix + name) for name in self.counts().pending for prefix in (READY, DELAYED)]
        if any(JobStatus(status).is_final for status in statuses):
            ranges.append((FINISHED, "ZREVRANGEBYSCORE", "+inf", "-inf"))
        jobs = self._list(now, ranges, limit, kind or "", config or "", node or "", *statuses)
        return sorted(jobs, key=_relevance)[:limit]

    def held(
        self,
        *,
        claimed_before: float,
        due_before: float,
        silent_since: float,
        nodes: Iterable[str] = (),
        limit: int = 100,
        now: float | None = None,
    ) -> list[Job]:
        """Held jobs past a limit, each once: claimed and not started since `claimed_before`, running past a
        deadline before `due_before`, without a heartbeat since `silent_since`, or held by one of `nodes`.

        The `limit` worst of each. One round trip, whatever is held besides.
        """
        limits = ((CLAIMED, claimed_before), (RUNNING, due_before), (HEARD, silent_since))
        ranges = [_rising(key, _ms(latest)) for key, latest in limits]
        jobs = self._list(now, ranges + [_rising(HOLDS + node) for node in nodes], limit, "", "", "", *HELD)
        return list({job.id: job for job in jobs}.values())

    def holders(self) -> frozenset[str]:
        """The nodes that hold jobs, whether or not the node registry knows them."""
        nodes: Any = self._redis.smembers(HOLDERS)
        return frozenset(text_of(node) for node in nodes)

    def unpublished(self, *, waited: float, now: float | None = None) -> dict[str, int]:
        """Claimable jobs by capability, where the broker has no wake-up for any although the next has waited so long.

        One round trip.
        """
        words = self._call("unpublished", now, _ms(waited), QUEUE)
        return {text_of(name): int(n) for name, n in zip(words[::2], words[1::2], strict=True)}

    def counts(self) -> JobCounts:
        """How many jobs stand where, and the games they produced; one round trip, whatever the depth."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(COUNTS)
            pipe.hgetall(GAMES)
            return JobCounts.decode(*pipe.execute())

    def _list(self, now: float | None, ranges: Iterable[Range], limit: int, *asked: str) -> list[Job]:
        """The first `limit` jobs of each range that are as asked: kind, config and node, or ""; then the statuses."""
        kind, config, node, *statuses = asked
        words = [kind, config, node, f",{','.join(statuses)},", *(word for each in ranges for word in each)]
        rows = self._call("list", now, limit, *words)
        return [job for row in rows if (job := self._decode(row, now)) is not None]

    def _decode(self, row: list[Any], now: float | None) -> Job | None:
        """A job's hash. One that is malformed is no job: it has failed, if it was held."""
        try:
            return Job.decode(_pairs(row))
        except ValueError as error:
            record = {text_of(name): text_of(value) for name, value in _pairs(row)}
            log.warning("job %r is malformed: %s", record.get("id"), error)
            claim = [record.get(name, "") for name in ("node", "owner", "id", "attempt")]
            if self._call("report", now, *claim, "reject", _message(str(error))) is not None:
                self._given_up(record["id"], JobStatus.FAILED, str(error))
            return None

    def _report(self, holder: Holder, job_id: Any, attempt: Any, now: float | None, *said: Any) -> JobStatus | None:
        status = self._call("report", now, holder.node, holder.owner, job_id, attempt, *said)
        return None if status is None else JobStatus(text_of(status))

    def _fenced(self, name: str, fence: Fence, now: float | None, *args: Any) -> list[str]:
        refused, *reply = self._call(name, now, *fence.args, *args, fence=fence)
        if refused:
            raise FenceRefused(f"jobs: {name} refused, for a newer {text_of(refused)} exists")
        return [text_of(word) for word in reply]

    def _call(self, name: str, now: float | None, *args: Any, fence: Fence = UNFENCED) -> Any:
        return self._scripts[name](keys=[*KEYS, NODE, *fence.keys], args=["" if now is None else _ms(now), *args])

    def _given_up(self, job_id: str, status: JobStatus | None, why: str) -> JobStatus | None:
        """Tells of a job whose last attempt has failed. Returns the status."""
        if self._notices is not None and status in ENDED_BADLY:
            first_line, _, _ = why.partition("\n")
            self._notices.send(Notice("Job given up", f"{job_id} {status}: {first_line}", "warning"))
        return status


def _fields(spec: JobSpec) -> Sequence[str | int | float]:
    payload = encode_object("payload", spec.payload)
    limits = (float(spec.timeout), spec.max_attempts)
    return (str(spec.id), spec.kind, spec.config, spec.capability, spec.priority, payload, *limits)


def _rising(key: str, latest: float | str = "+inf") -> Range:
    return (key, "ZRANGEBYSCORE", "-inf", latest)


def _relevance(job: Job) -> tuple[float, ...]:
    """Only pending jobs are sorted among themselves: the others come from one set, in its order."""
    if job.status is JobStatus.PENDING:
        return (2, job.not_before or 0.0, job.created_at * 1000 - job.priority * AGEING)
    return (3 if job.status.is_final else 1 if job.status is JobStatus.CLAIMED else 0,)


def _status(reply: list[str]) -> JobStatus | None:
    return JobStatus(reply[0]) if reply else None


def _message(error: str) -> str:
    # JSON, so that every byte of a record is ASCII, as the claim script demands
    return json.dumps(error[:ERROR_LIMIT])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _pairs(row: list[Any]) -> list[tuple[bytes | str, bytes | str]]:
    return list(zip(row[::2], row[1::2], strict=True))
