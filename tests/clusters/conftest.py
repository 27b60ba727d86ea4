"""pytest-celery over plain processes. Its plugin stays off (`-p no:celery`): what is used of it is named here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestNode,
    CeleryTestWorker,
    CeleryWorkerCluster,
)
from pytest_celery.fixtures.setup import celery_setup, celery_setup_cls  # noqa: F401 - fixtures
from redis import Redis

from tests.clusters.proxy import Proxy
from tests.clusters.scenarios import Cluster
from tests.clusters.watch import write_config
from tests.waiting import until
from workers import probe
from workers.app import configure
from workers.settings import Settings, connect


class Proc:
    """A process with the manners of pytest-celery's containers."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], folder: Path) -> None:
        self.name = self.id = name
        self._argv, self._env = argv, env
        self._log = folder / f"{name}.log"
        self.celeryconfig: dict[str, Any] = {}
        self.proxy: Proxy | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._popen = subprocess.Popen(self._argv, env=self._env, stdout=out, stderr=out, start_new_session=True)

    @property
    def status(self) -> str:
        return "running" if self._popen.poll() is None else "exited"

    def reload(self) -> None:
        """As a container's: its state is looked at anew, which a process's always is."""

    def logs(self) -> str:
        return self._log.read_text(errors="replace")

    def ready(self, timeout: float = 30) -> bool:
        return until(self.is_ready, timeout, self.logs)

    def is_ready(self) -> bool:
        return self.ask("ready")[0]

    def ask(self, question: str) -> tuple[bool, str]:
        """What its probe says."""
        return probe.ask(question, self.name.partition("@")[0], self._env)

    def kill(self, signal: str | int = "SIGKILL") -> None:
        number = _number(signal)
        if number == _number("SIGKILL"):
            os.killpg(self._popen.pid, number)
            self._popen.wait()
        else:
            self._popen.send_signal(number)

    def restart(self, timeout: float = 20) -> None:
        """In order, where it still runs."""
        if self.status == "running":
            self._popen.terminate()
        self._popen.wait(timeout)
        self.start()

    def pause(self) -> None:
        self.kill("SIGSTOP")
        os.waitid(os.P_PID, self._popen.pid, os.WSTOPPED | os.WNOWAIT)

    def unpause(self) -> None:
        self.kill("SIGCONT")

    def cut(self) -> None:
        assert self.proxy is not None
        self.proxy.cut()

    def heal(self) -> None:
        assert self.proxy is not None
        self.proxy.heal()

    def teardown(self) -> None:
        if self.status == "running":
            self.kill("SIGKILL")
        if self.proxy is not None:
            self.proxy.close()


def _number(name: str | int) -> int:
    return int(getattr(signal, name)) if isinstance(name, str) else name


class Worker(CeleryTestWorker):
    """An agent or a jobs worker of a node."""

    version, log_level, worker_queue = "", "INFO", ""

    def __init__(self, container: Any, app: Celery, node_id: str) -> None:
        super().__init__(container, app)
        self.node_id = node_id

    @property
    def worker_name(self) -> str:
        return str(self.container.name)

    def hostname(self) -> str:
        return str(self.container.name)

    def is_ready(self) -> bool:
        return bool(self.container.is_ready())


class House:
    """Starts processes of one cluster, each on its way to the server through a proxy of its own."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder
        write_config(folder / "loops.yaml")

    def start(self, role: str, node: str, *arguments: str) -> Proc:
        proxy = Proxy(self.server.port)
        data = self.folder / f"{node}"
        data.mkdir(exist_ok=True)
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BACKBEAT_")},
            "BACKBEAT_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "BACKBEAT_CONFIG": str(self.folder / "loops.yaml"),
            "BACKBEAT_NODE_ID": node,
            "BACKBEAT_DATA": str(data),
            "BACKBEAT_BIND": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
        }
        argv = [sys.executable, "-m", "celery", "-A", "workers.app", *arguments, "-l", "INFO"]
        made = Proc(f"{role}@{node}", argv, env, self.folder)
        made.proxy = proxy
        return made


@pytest.fixture
def processes(session_server: Any, redis: Redis, tmp_path: Path) -> House:
    return House(session_server, tmp_path)


@pytest.fixture
def celery_setup_app(session_server: Any) -> Celery:
    return configure(Settings(redis_url=session_server.url))


@pytest.fixture
def celery_broker_cluster(session_server: Any) -> CeleryBrokerCluster:
    class Here(Proc):
        """The session's server, which outlives the test."""

        def __init__(self) -> None:
            self.name = self.id = "server"
            self.celeryconfig = {"url": session_server.url, "host_url": session_server.url}

        def ready(self, timeout: float = 30) -> bool:
            return True

        def logs(self) -> str:
            return ""

        def teardown(self) -> None:
            pass

    return CeleryBrokerCluster(CeleryTestBroker(Here()))


@pytest.fixture
def celery_backend_cluster() -> None:
    """There are no results."""


@pytest.fixture
def celery_worker_cluster(processes: House, celery_setup_app: Celery) -> Iterator[CeleryWorkerCluster]:
    """Agents of two nodes, and the jobs worker of the first."""
    nodes = []
    for role, node, *more in (("agent", "n1"), ("agent", "n2"), ("jobs", "n1", "-Q", "jobs.cpu", "-c", "2")):
        container = processes.start(role, node, "worker", "-n", f"{role}@{node}", *more)
        nodes.append(Worker(container, celery_setup_app, node))
    yield CeleryWorkerCluster(*nodes)
    for each in nodes:
        each.teardown()


@pytest.fixture
def beats(processes: House) -> Iterator[list[CeleryTestNode]]:
    made = [CeleryTestNode(processes.start("beat", node, "beat")) for node in ("b1", "b2")]
    yield made
    for each in made:
        each.teardown()


@pytest.fixture
def cluster(beats: list[CeleryTestNode], celery_setup: Any, session_server: Any) -> Iterator[Cluster]:  # noqa: F811
    redis = connect(session_server.url)
    *agents, jobs = celery_setup.worker_cluster
    for each in (*agents, jobs, *beats):
        each.ready()
    yield Cluster(celery_setup, redis, agents, jobs, beats)
    redis.close()
