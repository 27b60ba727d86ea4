"""A node that runs commands, and what tells whether a process lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from fleet.execution import JOBS, LOG, Execution, StopSignal, execute
from fleet.job import Job, JobStatus
from fleet.kinds import JobKind
from tests.waiting import until

LIMIT = 20.0

#: A process that SIGTERM does not impress; it tells its pid in the file `stubborn`.
STUBBORN = """
import os, signal, subprocess, sys, time
code = '''
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("stubborn.new", "w").write(str(os.getpid()))
os.rename("stubborn.new", "stubborn")
while True: signal.pause()
'''
"""
#: Goes on once that process has told its pid.
TOLD = "while not os.path.exists('stubborn'): time.sleep(.01)\n"


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def open_descriptors() -> int:
    return psutil.Process().num_fds()


class Node:
    """A data directory and what runs in it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.stop = StopSignal()
        self.pids: list[int] = []
        self.on_started: Callable[[int], bool] = lambda _: True

    def run(
        self,
        code: str | None = None,
        *,
        command: tuple[str, ...] = (),
        timeout: float = LIMIT,
        grace: float = 5.0,
        attempt: int = 1,
        nice: int = 0,
        **payload: Any,
    ) -> Execution:
        def started(pid: int) -> bool:
            self.pids.append(pid)
            return self.on_started(pid)

        kind = JobKind(
            command=command or ("{python}", "-c", str(code).replace("{", "{{").replace("}", "}}")), nice=nice
        )
        job = Job(
            id="job-1", kind="selfplay", config="hex8_2p", capability="cpu", priority=50, payload=payload,
            status=JobStatus.CLAIMED, attempt=attempt, failures=0, max_attempts=3, timeout=timeout, created_at=0.0,
        )  # fmt: skip
        return execute(
            job, kind, node_id="n1", data=self.data, stop=self.stop, on_started=started, grace=grace
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        return self.data / JOBS / "job-1"

    @property
    def log(self) -> str:
        return (self.folder / LOG).read_text()

    def pid_in(self, name: str) -> int:
        until((self.data / name).exists)
        return int((self.data / name).read_text())
