"""Running one claimed job: its command as a subprocess, watched until nothing of it is left.

The command runs in the node's data directory, in a session and process group of its own. In
`jobs/<id>/` it leaves `log`, the beginning and the end of what it printed, and `result.json`, if it
wrote one. The process is awaited through its pidfd together with its output, its deadline and the stop
signal, so that waiting costs nothing.

A hostile command is not contained by this: that takes a container, or a user of its own.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from fleet.job import Job
from fleet.job_log import JobLog
from fleet.job_result import parse_object, read_result
from fleet.kinds import JobKind
from fleet.processes import identity, is_leader, kill_marked, lower_priority, signal_group, wait_group

JOBS = "jobs"  # in the node's data directory: a folder for each job, with these in it
LOG, RESULT, PROCESS = "log", "result.json", "process.json"

#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0
#: Seconds after SIGKILL until a process that does not die is left to the kernel.
UNKILLABLE_AFTER = 10.0
#: Seconds that reading the last output may take.
LAST_OUTPUT_WITHIN = 1.0
#: Seconds between two looks at a process where the system has no pidfd.
LOOK_EVERY = 0.1
#: Seconds and number of the job folders that `sweep` keeps.
KEEP_FOR, KEEP = 7 * 86400.0, 1000
#: What of Backbeat's environment may hold passwords; a job gets none of it.
SECRETS = (
    "BACKBEAT_REDIS_URL", "BACKBEAT_STORE", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "FLOWER_BASIC_AUTH",
)  # fmt: skip

Outcome = Literal["completed", "failed", "timed_out", "stopped"]

log = logging.getLogger("backbeat.jobs")


@dataclass(frozen=True)
class Execution:
    """What came of a command: a `result` if it completed and left one, an `error` if it did not complete."""

    outcome: Outcome
    exit_code: int | None
    result: dict[str, Any] | None
    error: str
    seconds: float


class StopSignal:
    """Asks one execution to end; may be set from any thread, before or while it runs."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._wake: int | None = None

    def set(self, reason: str) -> None:
        """The first reason stands."""
        with self._lock:
            if self.reason is None:
                self.reason = reason
                if self._wake is not None:
                    os.write(self._wake, b"!")

    @contextmanager
    def watched(self) -> Iterator[int]:
        """A file descriptor that becomes readable when the signal is set."""
        readable, writable = os.pipe()
        with self._lock:
            self._wake = writable
            if self.reason is not None:
                os.write(writable, b"!")
        try:
            yield readable
        finally:
            with self._lock:
                self._wake = None
            os.close(readable)
            os.close(writable)


class _Failure(Exception):
    """The command cannot be run, or its result not be read."""


def execute(
    job: Job,
    kind: JobKind,
    *,
    node_id: str,
    data: Path,
    stop: StopSignal,
    on_started: Callable[[int], bool],
    grace: float = GRACE,
) -> Execution:
    """Run the job's command to its end and say what came of it; a bad command is a failure, not an exception.

    `on_started` is given the pid and answers whether the job is still ours to run; what it raises passes
    through once the command is dead. A stop, or the end of the job's timeout, is SIGTERM to the process
    group and SIGKILL `grace` seconds later.
    """
    began = time.monotonic()
    attempt = _Attempt(job, node_id, data.resolve(), grace)
    outcome: Outcome = "failed"
    result, error = None, ""
    try:
        outcome, error = attempt.run(kind, stop, on_started)
        if outcome == "completed":
            result = attempt.result()
    except _Failure as failure:
        outcome, error = "failed", str(failure)
    return Execution(outcome, attempt.exit_code, result, error, time.monotonic() - began)


class _Attempt:
    """One attempt at a job: its folder, its log, its process."""

    log: JobLog
    process: subprocess.Popen[bytes]

    def __init__(self, job: Job, node_id: str, data: Path, grace: float) -> None:
        self.job = job
        self.node_id = node_id
        self.data = data
        self.grace = grace
        self.folder = data / JOBS / job.id
        self.exit_code: int | None = None

    def run(self, kind: JobKind, stop: StopSignal, on_started: Callable[[int], bool]) -> tuple[Outcome, str]:
        if stop.reason is not None:
            return "stopped", stop.reason
        try:
            argv = kind.argv(self.job, self.node_id)
        except ValueError as error:
            raise _Failure(str(error)) from None
        self._open(argv)
        try:
            self._launch(argv)
            deadline = time.monotonic() + self.job.timeout
            ending: Outcome | None = "stopped"  # unless it comes to its own end
            try:
                self._note_process()
                lower_priority(self.process.pid, kind.nice)
                if not on_started(self.process.pid):
                    stop.set("it was no longer this node's to run")
                ending = self._watch(stop, deadline)
            finally:
                self._clear_away(by_force=ending is not None)
        finally:
            self.log.close()
        if ending == "stopped":
            return ending, stop.reason or ""
        if ending == "timed_out":
            return ending, self._with_last_lines(f"timed out after {self.job.timeout:g} s")
        if self.exit_code != 0:
            raise _Failure(self._with_last_lines(_exit(self.exit_code)))
        return "completed", ""

    def result(self) -> dict[str, Any] | None:
        try:
            return read_result(self.folder / RESULT, self.log.last_line_of_stdout)
        except ValueError as error:
            raise _Failure(self._with_last_lines(f"exit code 0, but {RESULT} cannot be used: {error}")) from None

    def _open(self, argv: list[str]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        header = f"--- attempt {self.job.attempt} on {self.node_id} at {at}: {shlex.join(argv)}\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / RESULT).unlink(missing_ok=True)
            self.log = JobLog(self.folder / LOG, header)
        except OSError as error:
            raise _Failure(f"cannot write the job's folder {self.folder}: {error.strerror}") from None

    def _launch(self, argv: list[str]) -> None:
        job = self.job
        own = {
            "BACKBEAT_JOB_ID": job.id,
            "BACKBEAT_JOB_KIND": job.kind,
            "BACKBEAT_JOB_CONFIG": job.config,
            "BACKBEAT_JOB_ATTEMPT": str(job.attempt),
            "BACKBEAT_JOB_PAYLOAD": json.dumps(dict(job.payload)),
            "BACKBEAT_JOB_RESULT": str(self.folder / RESULT),
            "BACKBEAT_NODE_ID": self.node_id,
            "BACKBEAT_DATA": str(self.data),
        }
        inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
        try:
            self.process = subprocess.Popen(
                argv,
                cwd=self.data,
                env=inherited | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
        except OSError as error:
            raise _Failure(f"cannot run {argv[0]!r}: {error.strerror}") from None
        except ValueError as error:  # a null byte
            raise _Failure(f"cannot run {argv[0]!r}: {error}") from None

    def _note_process(self) -> None:
        """For the sweep of a later worker, should this one be killed."""
        try:
            with suppress(psutil.Error):  # over already
                (self.folder / PROCESS).write_text(json.dumps(identity(self.process.pid)))
        except OSError as error:
            raise _Failure(f"cannot write the job's folder {self.folder}: {error.strerror}") from None

    def _watch(self, stop: StopSignal, deadline: float) -> Outcome | None:
        """Wait for the end. None when the command came to it by itself, else why it is being ended."""
        ending: Outcome | None = None
        pipes = (self.process.stdout, self.process.stderr)
        with selectors.DefaultSelector() as selector, stop.watched() as stopped, self._exit_event() as exited:
            for source in (*pipes, stopped, exited):
                if source is not None:
                    selector.register(source, selectors.EVENT_READ)
            while True:
                left = max(0.0, deadline - time.monotonic())
                ready = [key.fileobj for key, _ in selector.select(min(left, LOOK_EVERY) if exited is None else left)]
                for pipe in pipes:
                    if pipe in ready and self._read(pipe) == b"":
                        selector.unregister(pipe)
                if exited in ready or (exited is None and self.process.poll() is not None):
                    return ending
                late = time.monotonic() >= deadline
                if ending is not None and late:
                    return ending
                if ending is None and (late or stopped in ready):
                    ending = "timed_out" if late else "stopped"
                    selector.unregister(stopped)
                    signal_group(self.process.pid, signal.SIGTERM)
                    deadline = time.monotonic() + self.grace

    @contextmanager
    def _exit_event(self) -> Iterator[int | None]:
        """A descriptor that becomes readable when the process ends, where the system has such a thing."""
        descriptor = None
        if sys.platform == "linux" and hasattr(os, "pidfd_open"):
            with suppress(OSError):
                descriptor = os.pidfd_open(self.process.pid)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _read(self, pipe: Any) -> bytes | None:
        """Take what is there; None when there is nothing yet, empty at the end."""
        try:
            chunk = os.read(pipe.fileno(), 65536)
        except BlockingIOError:
            return None
        self.log.feed(chunk, stdout=pipe is self.process.stdout)
        return chunk

    def _clear_away(self, *, by_force: bool) -> None:
        """Kill what is left of the group and, `by_force`, what left the group; then take the last output."""
        process = self.process
        # Before the leader is reaped: until then nobody else can be given its number.
        signal_group(process.pid, signal.SIGKILL)
        try:
            self.exit_code = process.wait(UNKILLABLE_AFTER)
            gone = wait_group(process.pid)
        except subprocess.TimeoutExpired:
            log.error("%s: process %d survives SIGKILL, in the kernel's hands", self.job.id, process.pid)
            gone = False
        if by_force:
            kill_marked(_mark(self.job.id, self.data))
        until = time.monotonic() + LAST_OUTPUT_WITHIN  # somebody out of reach may hold the pipe and write for ever
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                while self._read(pipe) and time.monotonic() < until:
                    pass
                pipe.close()
        if gone:
            with suppress(OSError):  # a note that stays is checked by the sweep that finds it
                (self.folder / PROCESS).unlink(missing_ok=True)

    def _with_last_lines(self, error: str) -> str:
        return f"{error}\n{self.log.last_lines}".rstrip()


def sweep(data: Path, *, keep_for: float = KEEP_FOR, keep: int = KEEP, now: float | None = None) -> list[str]:
    """Clear up after an earlier worker of this node: kill what its jobs left running and remove old job folders.

    Folders are kept for `keep_for` seconds, and no more than the newest `keep`. Returns the ids of the
    jobs that were still running. Call it before the first job is claimed.
    """
    root = data.resolve() / JOBS
    if not root.is_dir():
        return []
    folders = {folder: _last_used(folder) for folder in root.iterdir() if folder.is_dir() and not folder.is_symlink()}
    stopped = [folder.name for folder in sorted(folders) if (folder / PROCESS).exists() and _stop_leftover(folder)]
    oldest = (time.time() if now is None else now) - keep_for
    newest_first = sorted(folders, key=lambda folder: folders[folder], reverse=True)
    for place, folder in enumerate(newest_first):
        if place >= keep or folders[folder] < oldest:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                log.warning("an old job folder stays: %s", error)
    return stopped


def _stop_leftover(folder: Path) -> bool:
    """Whether anything of that folder's job was still alive; it is not any more."""
    found, gone = False, True
    try:
        known = parse_object((folder / PROCESS).read_bytes())
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", folder / PROCESS, error)
        known = {}
    if is_leader(known.get("pid"), known.get("create_time")):
        signal_group(known["pid"], signal.SIGKILL)
        found, gone = True, wait_group(known["pid"])
    found |= kill_marked(_mark(folder.name, folder.parent.parent))
    if gone:
        with suppress(OSError):
            (folder / PROCESS).unlink(missing_ok=True)
    return found


def _last_used(folder: Path) -> float:
    """Seconds since the epoch."""
    times = [0.0]
    for path in (folder, folder / LOG):
        with suppress(OSError):
            times.append(path.lstat().st_mtime)
    return max(times)


def _mark(job_id: str, data: Path) -> dict[str, str]:
    """What the environment of every process of this job on this node holds."""
    return {"BACKBEAT_JOB_ID": job_id, "BACKBEAT_DATA": str(data)}


def _exit(code: int | None) -> str:
    if code is None:
        return "no exit: the process cannot be killed"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
