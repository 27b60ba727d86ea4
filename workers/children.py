"""The processes that `up` starts: each with its log, its mark, and a way to end it for certain."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from schedules.backoff import Backoff

#: Every process of an `up`, jobs included, carries its data directory's identity in this variable.
MARK = "BACKBEAT_UP"
RESTART = Backoff(initial_delay=0.5, max_delay=30.0, multiplier=2.0, jitter=False)
#: Seconds of life after which a child's next death counts as its first.
STEADY_AFTER = 60.0


@dataclass
class Child:
    """One process of the cluster."""

    name: str
    argv: list[str]
    env: dict[str, str]
    folder: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    start_at: float | None = None

    def start(self) -> None:
        """Raises OSError when it cannot be started."""
        self.started_at, self.start_at = time.monotonic(), None
        with self.log.open("ab") as out:
            # a session of its own: Ctrl-C reaches `up` alone, which then stops its children in order
            self.process = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def terminate(self) -> None:
        if self.process is not None and self.alive:
            self.process.terminate()

    def mend(self) -> str:
        """Start it again if it has died, later and later; says what happened, or nothing."""
        if self.alive:
            return ""
        now = time.monotonic()
        if self.start_at is not None:
            return self._restart() if now >= self.start_at else ""
        if now - self.started_at > STEADY_AFTER:
            self.deaths = 0
        return f"{self.name} {self._end()}; {self._later(now)}; see {self.log}"

    def _restart(self) -> str:
        try:
            self.start()
        except OSError as error:
            return f"{self.name} cannot be started: {error}; {self._later(time.monotonic())}"
        return ""

    def _later(self, now: float) -> str:
        self.deaths += 1
        delay = RESTART.delay(self.deaths)
        self.start_at = now + delay
        return f"starting it again in {delay:g} s"

    def _end(self) -> str:
        code = self.process.returncode if self.process is not None else 0
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Flower(Child):
    """The dashboard: it looks for a free port each time it starts."""

    wanted: int = 5555
    port: int = 0

    def start(self) -> None:
        self.port = free_port(self.wanted)
        self.argv = [*celery("flower"), "--address=127.0.0.1", f"--port={self.port}"]
        super().start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether it listens itself: who started at the same moment may have been faster, and answer there."""
        try:
            mine = psutil.Process(self.pid).net_connections("tcp") if self.alive else []
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in mine)


def celery(*arguments: str) -> list[str]:
    """The command line of a Celery process of this house."""
    return [sys.executable, "-m", "celery", "-A", "workers.app", *arguments]


def free_port(first: int) -> int:
    """The first free port of loopback from `first` on. Raises OSError when there is none."""
    for port in range(first, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port on 127.0.0.1 from {first} on")
