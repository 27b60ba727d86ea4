"""One tick in a worker: gate, body, record.

Two round trips to Redis a run: one script takes the run lease, one writes the end. While bodies run, a
thread shared by all of them renews their leases and watches their deadlines; a run past its deadline is
over for the cluster, whatever its thread still does: it is recorded, its writes are refused, and its
loop is kept out of this process until the thread comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redis import RedisError

from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.notices import Notice
from schedules.plan import Stanza
from tasks.loop import Loop, Tick
from workers import keys
from workers.ledger import Grant, Ledger, Refusal, Vanished

log = logging.getLogger("backbeat.runner")

#: Seconds a run lease lives without renewal: how long a dead worker's loop waits for its next run.
RUN_TTL = 8.0

#: Outcomes that count as failures in a row.
FAILED = ("failed", "timed_out", "abandoned")


class RunFailed(Exception):
    """A run that failed. The timetable brings its retry after `retry_after` seconds."""

    def __init__(self, error: str, cause: BaseException | None, retry_after: float) -> None:
        super().__init__(error)
        self.error, self.cause, self.retry_after = error, cause, retry_after


class _Overrun(Exception):
    """An async body was cancelled at its deadline."""


@dataclass(frozen=True)
class _End:
    outcome: str
    counts: Mapping[str, int | float] = field(default_factory=dict)
    error: str = ""
    traceback: str = ""
    cause: BaseException | None = None


@dataclass(frozen=True)
class _Run:
    """A run in this process, from its gate to its record."""

    loop: Loop
    stanza: Stanza
    tick: Tick
    errors: int
    call: str
    thread: threading.Thread
    began: float
    overdue_at: float


class Runner:
    """Runs loops in this process.

    `owner` tells the leader lease's owner token and fence (0: does not lead); `abandon` hears of threads
    that hang in a body past its deadline, with the call they were to serve.
    """

    def __init__(
        self,
        ledger: Ledger,
        fleet: Fleet,
        loops: Mapping[str, Loop],
        stanzas: Mapping[str, Stanza],
        *,
        owner: Callable[[], tuple[str, int]] = lambda: ("", 0),
        run_ttl: float = RUN_TTL,
    ) -> None:
        self.abandon: Callable[[threading.Thread, str], None] = lambda _thread, _call: None
        #: a leader-only body hangs here: another agent should lead, and run it
        self.step_down: Callable[[], None] = lambda: None
        self._ledger, self._fleet = ledger, fleet
        self._loops, self._stanzas = loops, stanzas
        self._owner, self._ttl = owner, run_ttl
        self._identity = f"{fleet.node_id}@{socket.gethostname()}"
        self._live: dict[str, _Run] = {}
        self._overrunning: set[str] = set()
        self._lost: dict[str, str] = {}
        self._started: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wakes_at = 0.0
        self._watcher: threading.Thread | None = None

    def run(self, name: str, seq: int | None, call: str = "") -> str:
        """Run one tick of `name` (seq None: a manual one); `call` is the message's id.

        Returns its outcome, or raises RunFailed.
        """
        loop, stanza = self._loops[name], self._stanzas[name]
        token = uuid.uuid4().hex
        owner, believed = self._owner() if loop.leader_only else ("", 0)
        answer = self._gate(loop, stanza, seq, token, owner if believed else "", call)
        if isinstance(answer, Refusal):
            log.debug("%s %s: %s", name, seq, answer.outcome)
            return answer.outcome
        tick = Tick(
            now=answer.now,
            seq=answer.seq,
            slot=answer.slot,
            deadline=answer.now + stanza.deadline,
            missed=answer.missed,
            manual=seq is None,
            fence=Fence(answer.leader_fence, owner, token, keys.GUARD, keys.LOOP + name),
        )
        began = time.monotonic()
        # an async body is cancelled at its deadline; only one that does not take it is overdue
        overdue_at = began + stanza.deadline + (1.0 if loop.is_async else 0.0)
        run = _Run(loop, stanza, tick, answer.errors, call, threading.current_thread(), began, overdue_at)
        self._hold(run)
        end = self._run_body(run)
        if not self._take(run):
            self._overrunning.discard(name)
            log.warning("%s: the overrun body has ended after %.1f s", name, time.monotonic() - began)
            return self._write(name, token, end.outcome)
        return self._record(run, end)

    def stop(self) -> None:
        """The process ends: `on_stop` of every loop that started here."""
        for name in sorted(self._started):
            loop = self._loops[name]
            if loop.on_stop is not None:
                try:
                    loop.on_stop(self._fleet, self._stanzas[name].options)
                except Exception:
                    log.exception("%s: on_stop failed", name)
        self._started.clear()
        with self._lock:
            watcher, self._watcher = self._watcher, None
            self._wake.set()
        if watcher is not None:
            watcher.join(self._ttl / 2)

    # gate ------------------------------------------------------------------------------------------

    def _gate(self, loop: Loop, stanza: Stanza, seq: int | None, run: str, owner: str, call: str) -> Grant | Refusal:
        tries = 0
        while True:
            try:
                answer = self._ledger.gate(
                    loop.name,
                    seq,
                    run,
                    ttl=self._ttl,
                    deadline=stanza.deadline,
                    leader_only=loop.leader_only,
                    owner=owner,
                    identity=self._identity,
                    deny="overrunning" if loop.name in self._overrunning else "",
                    call=call,
                )
            except RedisError:
                tries += 1
                if tries > 1:
                    raise
                continue
            if not isinstance(answer, Vanished):
                return answer
            record_vanished(self._ledger, self._fleet, stanza, answer, self._ttl)

    # body ------------------------------------------------------------------------------------------

    def _run_body(self, run: _Run) -> _End:
        loop, options = run.loop, run.stanza.options
        try:
            self._start_once(loop, run.stanza)
            value = loop(self._fleet, options, run.tick)
            if loop.is_async:
                value = asyncio.run(_bounded(value, run.stanza.deadline))
            return _End("succeeded", checked_counts(loop.name, value))
        except FenceRefused as error:
            # record() tells a lost run (late) from a lost leadership
            log.warning("%s: %s", loop.name, error)
            return _End("not_leader")
        except _Overrun as error:
            return _overrun(run, error)
        except BaseException as error:  # noqa: BLE001 - a body's SystemExit ends its run, not the worker
            return _End("failed", {}, f"{type(error).__name__}: {error}", _stack(error), error)

    def _start_once(self, loop: Loop, stanza: Stanza) -> None:
        if loop.name in self._started:
            return
        if loop.on_start is not None:
            loop.on_start(self._fleet, stanza.options)
        self._started.add(loop.name)

    # record ----------------------------------------------------------------------------------------

    def _record(self, run: _Run, end: _End) -> str:
        name, failed = run.loop.name, end.outcome in FAILED
        delay = run.stanza.backoff.delay(run.errors + 1) if failed else 0.0
        outcome = self._write(
            name,
            run.tick.fence.run,
            end.outcome,
            duration=time.monotonic() - run.began,
            counts=end.counts,
            error=end.error,
            traceback=end.traceback,
            backoff=delay,
            next_after=run.tick.wanted_after,
        )
        _tell_in_a_row(self._fleet, name, run.errors, outcome, f"{end.error}, on {self._identity}")
        if failed:
            log.warning("%s: %s; next try in %.1f s", name, end.error, delay)
            self._tell_error(run.loop, run.tick, end)
            raise RunFailed(end.error, end.cause, delay)
        return outcome

    def _write(self, name: str, run: str, outcome: str, **fields: Any) -> str:
        """Record, trying again while the run lease lives: after that, beat writes it off as abandoned."""
        give_up = time.monotonic() + self._ttl
        while True:
            try:
                return self._ledger.record(name, run, outcome, **fields)
            except RedisError as error:
                if time.monotonic() > give_up:
                    log.error("%s: its %s run could not be recorded: %s", name, outcome, error)
                    return "late"
                time.sleep(0.2)

    def _tell_error(self, loop: Loop, tick: Tick, end: _End) -> None:
        for callback in loop.on_error:
            try:
                callback(loop.name, tick, end.cause or RuntimeError(end.error))
            except Exception:
                log.exception("%s: an error callback failed", loop.name)

    # watch -----------------------------------------------------------------------------------------

    def _hold(self, run: _Run) -> None:
        with self._lock:
            self._live[run.loop.name] = run
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="run-leases", daemon=True)
                self._watcher.start()
            if run.overdue_at < self._wakes_at:
                self._wake.set()

    def _take(self, run: _Run) -> bool:
        """End a run; False when the watch has ended it already."""
        with self._lock:
            if self._live.get(run.loop.name) is not run:
                return False
            del self._live[run.loop.name]
            return True

    def _watch(self) -> None:
        while True:
            with self._lock:
                if self._watcher is not threading.current_thread():
                    return
                self._wake.clear()
                runs = dict(self._live)
                now = time.monotonic()
                self._wakes_at = min([now + self._ttl / 4, *(run.overdue_at for run in runs.values())])
            self._wake.wait(max(0.0, self._wakes_at - now))
            for name, run in list(runs.items()):
                if run.overdue_at <= time.monotonic():
                    del runs[name]
                    if self._take(run):
                        self._overrunning.add(name)
                        # callbacks and a server that is away may take long; the leases of others do not wait
                        threading.Thread(target=self._write_off, args=(run,), daemon=True).start()
            try:
                self._renew(runs)
            except Exception:
                log.exception("run leases not renewed")

    def _renew(self, runs: Mapping[str, _Run]) -> None:
        if not runs:
            return
        tokens = {name: run.tick.fence.run for name, run in runs.items()}
        try:
            lost = self._ledger.renew(tokens, ttl=self._ttl)
        except RedisError as error:
            log.warning("run leases not renewed: %s", error)
            return
        for name in lost:
            with self._lock:
                still = self._live.get(name) is runs[name]
            if still and self._lost.get(name) != tokens[name]:
                self._lost[name] = tokens[name]
                log.warning("%s: this run lost its lease", name)

    def _write_off(self, run: _Run) -> None:
        """A body past its deadline: record it, and go on without its thread."""
        frame = sys._current_frames().get(run.thread.ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else ""
        self.abandon(run.thread, run.call)
        if run.loop.leader_only:
            self.step_down()
        with contextlib.suppress(RunFailed):  # its own thread is the one to tell Celery, and it hangs
            self._record(run, replace(_overrun(run, None), traceback=where))


def _overrun(run: _Run, error: BaseException | None) -> _End:
    text = f"did not end within its deadline of {run.stanza.deadline:g} s"
    return _End("timed_out", {}, text, _stack(error) if error is not None else "", error)


async def _bounded(body: Coroutine[Any, Any, Any], deadline: float) -> Any:
    try:
        async with asyncio.timeout(deadline) as limit:
            return await body
    except TimeoutError:
        if limit.expired():
            raise _Overrun from None
        raise


def record_vanished(ledger: Ledger, fleet: Fleet, stanza: Stanza | None, gone: Vanished, run_ttl: float) -> None:
    """Write off a run whose worker died. Its backoff counts from its last sign of life."""
    delay = stanza.backoff.delay(gone.errors + 1) if stanza is not None else 0.0
    error = "its worker died, hung or was cut off: the run lease ended without a record"
    failed_at = gone.lease_until - run_ttl
    outcome = ledger.record(gone.name, gone.run, "abandoned", error=error, backoff=delay, failed_at=failed_at)
    log.warning("%s: %s", gone.name, error)
    _tell_in_a_row(fleet, gone.name, gone.errors, outcome, error)


def _tell_in_a_row(fleet: Fleet, name: str, before: int, outcome: str, error: str) -> None:
    """Tell the operator of a loop that has now failed so many times in a row, and when it is well again."""
    limit = fleet.options.notify.loop_failures
    if outcome in FAILED and before + 1 == limit:
        times = f"{limit} times in a row" if limit > 1 else "once"
        fleet.notices.send(Notice("Loop fails", f"{name} has failed {times}, the last: {error}", "error"))
    elif outcome == "succeeded" and before >= limit:
        fleet.notices.send(Notice("Loop works again", f"{name} has succeeded after {before} failures in a row"))


def checked_counts(name: str, value: Any) -> Mapping[str, int | float]:
    """What a body returned, if it is counts; raises TypeError saying what it should have been."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"loop {name} returned {type(value).__name__}, not a mapping of counts such as {{'added': 3}}")
    for key, number in value.items():
        if not isinstance(key, str) or isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"loop {name} returned {key!r}: {number!r}; counts are numbers by name")
        if not math.isfinite(number):
            raise TypeError(f"loop {name} returned {key!r}: {number!r}; counts are finite")
    return dict(value)


def _stack(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
