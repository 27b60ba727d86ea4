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

from fleet.fence import UNFENCED, Fence, FenceRefused, script
from fleet.job import (
    ERROR_LIMIT,
    Holder,
    Job,
    JobCounts,
    JobSpec,
    JobStatus,
    Poll,
    check_job_id,
    encode_object,
)

__all__ = ["AGEING", "Holder", "Job", "JobCounts", "JobQueue", "JobSpec", "JobStatus", "Poll"]

# An entry is "<padded sequence number>:<id>:<kind>:<config>"; it stands for a job in every set.
JOB = "{backbeat}:job:"  # + id: hash, all of a job (see Job; instants in ms). TTL 24 h once it is over
READY = "{backbeat}:jobs:ready:"  # + capability: sorted set, entry -> rank, best first. No TTL
DELAYED = "{backbeat}:jobs:delayed:"  # + capability: sorted set, entry -> not_before in ms. No TTL
HOLDS = "{backbeat}:jobs:holds:"  # + node id: set of the entries that node holds. No TTL
CLAIMED = "{backbeat}:jobs:claimed"  # sorted set, entry -> last heartbeat in ms. No TTL
RUNNING = "{backbeat}:jobs:running"  # sorted set, entry -> last heartbeat in ms. No TTL
FINISHED = "{backbeat}:jobs:finished"  # sorted set, entry -> finished_at in ms; newest 1000 of 24 h. No TTL
COUNTS = "{backbeat}:jobs:counts"  # hash, status:.. | kind:..:.. | outstanding:..:.. -> jobs. No TTL
GAMES = "{backbeat}:jobs:games"  # hash, config -> games produced by completed jobs. No TTL
SEQ = "{backbeat}:jobs:seq"  # string, the last job's sequence number. No TTL

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

log = logging.getLogger("backbeat.jobs")


class JobQueue:
    """Enqueue, claim, report. Safe from any number of threads, processes and machines.

    `wake(capability, n)` publishes n wake-up messages; when it raises, that is logged and `poll` makes
    up for it.
    """

    def __init__(self, redis: Redis, wake: Wake | None = None) -> None:
        self._redis = redis
        self._wake = wake
        prelude = script("jobs_prelude")
        folder = resources.files("fleet") / "lua"
        self._scripts = {
            name: redis.register_script(prelude + (folder / f"jobs_{name}.lua").read_text())
            for name in ("enqueue", "claim", "report", "poll", "release_node", "cancel", "reap", "list")
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
                self._publish(capability, n)
        return accepted

    def claim(self, holder: Holder, capabilities: Collection[str], *, now: float | None = None) -> Job | None:
        """The best waiting job of these capabilities, now claimed by `holder`; None when there is none."""
        while True:
            row = self._call("claim", now, holder.node, holder.owner, *capabilities)
            if row is None:
                return None
            try:
                return Job.decode(_pairs(row))
            except ValueError as error:
                record = dict(_pairs(row))
                job_id, attempt = (record.get(name, record.get(name.encode(), "")) for name in ("id", "attempt"))
                log.warning("job %r was malformed and has failed: %s", job_id, error)
                if self._report(holder, job_id, attempt, now, "reject", _message(str(error))) is None:
                    raise

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
        jobs can be claimed, wake-ups are owed, at most one for each idle slot. A job that this holder
        holds but has not named for ORPHAN_AFTER goes back to the queue. One round trip.
        """
        named = [word for job_id, attempt in running.items() for word in (job_id, attempt)]
        lists = [word for queue in queues.items() for word in queue]
        lost, owed = self._call(
            "poll", now, holder.node, holder.owner, round(ORPHAN_AFTER * 1000), idle_slots, len(running), *named, *lists
        )
        wakes = {capability: int(n) for capability, n in zip(queues, owed, strict=True) if int(n) > 0}
        return Poll(tuple(_text(job_id) for job_id in lost), wakes)

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
        return self._report(holder, job_id, attempt, now, "fail", _message(error), _ms(retry_after), ending)

    def release(self, holder: Holder, job_id: str, attempt: int, reason: str, *, now: float | None = None) -> bool:
        """Hand the job back, at once and without counting a failure (a drain). False: refused."""
        return self._report(holder, job_id, attempt, now, "release", _message(reason)) is not None

    def release_node(self, holder: Holder, reason: str, *, now: float | None = None) -> list[str]:
        """Take back what earlier incarnations of this node's worker hold, as failures. Returns the ids."""
        ids = self._call("release_node", now, holder.node, holder.owner, _message(reason))
        return [_text(job_id) for job_id in ids]

    def cancel(
        self, job_id: str, reason: str, *, fence: Fence = UNFENCED, now: float | None = None
    ) -> JobStatus | None:
        """End a job that is not over yet; its holder learns by `poll`. The job's status; None: unknown."""
        return _status(self._fenced("cancel", fence, now, job_id, _message(reason)))

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
        return _status(self._fenced("reap", fence, now, *seen, _message(reason), _ms(retry_after), ending))

    def get(self, job_id: str) -> Job | None:
        """One job; None when unknown or over for more than a day. Raises ValueError when it is malformed."""
        check_job_id(job_id)
        record = self._redis.hgetall(JOB + job_id)
        return Job.decode(record.items()) if record else None

    def held(self, *, silent_since: float | None = None, limit: int = 1000, now: float | None = None) -> list[Job]:
        """Claimed and running jobs, longest without a heartbeat first; those silent since that instant."""
        latest = "+inf" if silent_since is None else _ms(silent_since)
        jobs = self._list(now, "ZRANGEBYSCORE", "-inf", latest, limit, CLAIMED, RUNNING)
        return sorted(jobs, key=lambda job: job.heartbeat_at or 0.0)[:limit]

    def waiting(self, capabilities: Collection[str], *, limit: int = 1000, now: float | None = None) -> list[Job]:
        """Pending jobs of these capabilities in the order of their claim, delayed ones last."""
        sets = [prefix + capability for prefix in (READY, DELAYED) for capability in capabilities]
        jobs = self._list(now, "ZRANGEBYSCORE", "-inf", "+inf", limit, *sets)
        return sorted(jobs, key=lambda job: (job.not_before or 0.0, _rank(job)))[:limit]

    def finished(self, *, limit: int = 1000, now: float | None = None) -> list[Job]:
        """Jobs that are over, newest first: the last 1,000 of the last 24 hours."""
        return self._list(now, "ZREVRANGEBYSCORE", "+inf", "-inf", limit, FINISHED)

    def counts(self) -> JobCounts:
        """How many jobs stand where, and the games they produced; one round trip, whatever the depth."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(COUNTS)
            pipe.hgetall(GAMES)
            return JobCounts.decode(*pipe.execute())

    def _list(self, now: float | None, *args: Any) -> list[Job]:
        jobs = []
        for row in self._call("list", now, *args):
            try:
                jobs.append(Job.decode(_pairs(row)))
            except ValueError as error:
                log.warning("a job is left out of a listing: %s", error)
        return jobs

    def _report(self, holder: Holder, job_id: Any, attempt: Any, now: float | None, *said: Any) -> JobStatus | None:
        status = self._call("report", now, holder.node, holder.owner, job_id, attempt, *said)
        return None if status is None else JobStatus(_text(status))

    def _fenced(self, name: str, fence: Fence, now: float | None, *args: Any) -> list[str]:
        refused, *reply = self._call(name, now, *fence.args, *args, fence=fence)
        if refused:
            raise FenceRefused(f"jobs: {name} refused, for a newer {_text(refused)} exists")
        return [_text(word) for word in reply]

    def _call(self, name: str, now: float | None, *args: Any, fence: Fence = UNFENCED) -> Any:
        keys = [JOB, READY, DELAYED, HOLDS, CLAIMED, RUNNING, FINISHED, COUNTS, GAMES, SEQ, *fence.keys]
        return self._scripts[name](keys=keys, args=["" if now is None else _ms(now), *args])

    def _publish(self, capability: str, n: int) -> None:
        if self._wake is None:
            return
        try:
            self._wake(capability, n)
        except Exception:  # whatever a broker may raise: the jobs are registered, and poll will wake for them
            log.warning("no wake-up could be sent for %d jobs of %s", n, capability, exc_info=True)


def _fields(spec: JobSpec) -> Sequence[str | int | float]:
    payload = encode_object("payload", spec.payload)
    limits = (float(spec.timeout), spec.max_attempts)
    return (str(spec.id), spec.kind, spec.config, spec.capability, spec.priority, payload, *limits)


def _rank(job: Job) -> float:
    return job.created_at * 1000 - job.priority * AGEING


def _status(reply: list[str]) -> JobStatus | None:
    return JobStatus(reply[0]) if reply else None


def _message(error: str) -> str:
    # JSON, so that every byte of a record is ASCII, as the claim script demands
    return json.dumps(error[:ERROR_LIMIT])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _pairs(row: list[Any]) -> list[tuple[bytes | str, bytes | str]]:
    return list(zip(row[::2], row[1::2], strict=True))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
