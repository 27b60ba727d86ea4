"""pytest-celery's set-up over containers of the images that users build, on a real engine."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest
import pytest_docker_tools.wrappers.container
from celery import Celery
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestContainer,
    CeleryTestNode,
    CeleryTestWorker,
    CeleryWorkerCluster,
)
from pytest_celery.fixtures.setup import celery_setup, celery_setup_cls  # noqa: F401 - fixtures

from tests.clusters.scenarios import Cluster
from tests.clusters.watch import write_config
from tests.waiting import until
from workers.app import configure
from workers.settings import Settings, connect

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROLES = ("agent", "jobs", "beat", "flower", "operator")

# a machine of CI may be a container itself; that of the tests are reached by their own addresses all the same
pytest_docker_tools.wrappers.container.tests_inside_container = lambda: False


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """CI that asks for this folder by name must run all of it: a lane that left tests out would be green too."""
    if not os.environ.get("CI") or not items:
        return
    named = {Path(word.partition("::")[0]).resolve() for word in items[0].config.args}
    left_out = [item.nodeid for item in items if HERE in item.path.parents]
    if HERE in named and left_out:
        raise pytest.UsageError("must run in CI, and is deselected: " + ", ".join(left_out))


@pytest.fixture(scope="session", autouse=True)
def engine(lacking: Callable[[str], NoReturn]) -> None:
    """There is an engine, with our image on it."""
    for command, what in (
        (["docker", "info"], "no Docker engine answers here"),
        (["docker", "image", "inspect", "backbeat", "redis:7"], "its images are not there: make test-containers"),
    ):
        try:
            failed = subprocess.run(command, capture_output=True, check=False).returncode
        except FileNotFoundError:
            failed = True
        if failed:
            lacking(what)


class Container(CeleryTestContainer):
    """One of ours: it tells of itself by probes, and can be paused and cut off."""

    celeryconfig: ClassVar[dict[str, Any]] = {}
    role = ""

    @property
    def status(self) -> str:
        self.reload()
        return str(self._container.status)

    def ready(self) -> bool:
        return until(self.is_ready, 60, self.logs)

    def is_ready(self) -> bool:
        return self.ask("ready")[0]

    def ask(self, question: str) -> tuple[bool, str]:
        """What its probe says; one that is paused cannot be asked."""
        if (status := self.status) != "running":
            return False, status
        done = self._container.exec_run(["backbeat", "probe", question, self.role])
        return done.exit_code == 0, done.output.decode().strip()

    def pause(self) -> None:
        self._container.pause()

    def unpause(self) -> None:
        self._container.unpause()

    def cut(self) -> None:
        """Off the network, as if the cable was pulled."""
        self._network().disconnect(self._container)

    def heal(self) -> None:
        self._network().connect(self._container)

    def _network(self) -> Any:
        name = self._container.attrs["HostConfig"]["NetworkMode"]
        return self._container.client.networks.get(name)

    def restart(self, timeout: int = 30) -> None:
        self._container.restart(timeout=timeout)


class Agent(Container):
    role = "agent"


class Jobs(Container):
    role = "jobs"


class Beat(Container):
    role = "beat"


class Server(CeleryTestContainer):
    """Redis with the users of deploy/redis/users.acl; reached by its own address: nothing is published."""

    @property
    def address(self) -> str:
        self.reload()
        (found,) = self._container.attrs["NetworkSettings"]["Networks"].values()
        return str(found["IPAddress"])

    def url(self, role: str, host: str = "") -> str:
        return f"redis://{role}:{role}-password@{host or self.address}:6379/0"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self.url("agent", "redis"), "host_url": self.url("operator")}

    def ready(self) -> bool:
        return until(lambda: "Ready to accept connections" in self.logs(), 30, self.logs)


class Worker(CeleryTestWorker):
    """An agent or a jobs worker of a node."""

    version, log_level, worker_queue = "", "INFO", ""

    def __init__(self, container: Any, app: Celery, node_id: str) -> None:
        super().__init__(container, app)
        self.node_id = node_id

    @property
    def worker_name(self) -> str:
        return f"{self.container.role}@{self.node_id}"

    def hostname(self) -> str:
        return self.worker_name

    def is_ready(self) -> bool:
        return bool(self.container.is_ready())


class Lane:
    """A network of containers that end with the test."""

    def __init__(self, engine: Any, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._made: list[Any] = []
        self._id = secrets.token_hex(4)
        folder.chmod(0o755)
        write_config(folder / "loops.yaml")
        self._network = engine.networks.create(f"backbeat-test-{self._id}", driver="bridge")
        passwords = {f"BACKBEAT_{role.upper()}_PASSWORD": f"{role}-password" for role in ROLES}
        self.server = Server(
            self._run(
                "redis:7",
                ["sh", "/etc/backbeat/start.sh"],
                "redis",
                user="redis",
                environment=passwords,
                volumes={str(ROOT / "deploy/redis"): {"bind": "/etc/backbeat", "mode": "ro"}},
            )
        )
        self.server.ready()

    def start(self, kind: type[Container], node: str, *words: str) -> Container:
        """A container of ours, as docker-compose.yml runs it."""
        environment = {
            "BACKBEAT_REDIS_URL": self.server.url(kind.role, self.server.name),
            "BACKBEAT_CONFIG": "/config/loops.yaml",
            "BACKBEAT_NODE_ID": node,
        }
        made = self._run(
            "backbeat",
            [kind.role, *words],
            f"{kind.role}-{node}",
            environment=environment,
            volumes={str(self._folder): {"bind": "/config", "mode": "ro"}},
            init=True,
            read_only=True,
            tmpfs={"/tmp": "", "/data": "uid=10001,gid=10001"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            stop_signal="SIGTERM",
        )
        return kind(made)

    def _run(self, image: str, command: list[str], name: str, **more: Any) -> Any:
        name = f"backbeat-test-{self._id}-{name}"
        made = self._engine.containers.run(
            image, command, name=name, network=self._network.name, detach=True, labels={"backbeat.test": ""}, **more
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        for each in self._made:
            each.remove(force=True, v=True)
        self._network.remove()


@pytest.fixture
def lane(docker_client: Any, tmp_path: Path) -> Iterator[Lane]:
    lane = Lane(docker_client, tmp_path)
    yield lane
    lane.close()


@pytest.fixture
def celery_setup_app(lane: Lane) -> Celery:
    return configure(Settings(redis_url=lane.server.url("agent")))  # which alone may broadcast


@pytest.fixture
def celery_broker_cluster(lane: Lane) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(lane.server))


@pytest.fixture
def celery_backend_cluster() -> None:
    """There are no results."""


@pytest.fixture
def celery_worker_cluster(lane: Lane, celery_setup_app: Celery) -> CeleryWorkerCluster:
    """Agents of two nodes, and the jobs worker of the first."""
    kinds = ((Agent, "n1", ()), (Agent, "n2", ()), (Jobs, "n1", ("-c", "2")))
    return CeleryWorkerCluster(
        *(Worker(lane.start(kind, node, *words), celery_setup_app, node) for kind, node, words in kinds)
    )


@pytest.fixture
def beats(lane: Lane) -> list[CeleryTestNode]:
    return [CeleryTestNode(lane.start(Beat, node)) for node in ("b1", "b2")]


@pytest.fixture
def cluster(beats: list[CeleryTestNode], celery_setup: Any, lane: Lane) -> Iterator[Cluster]:  # noqa: F811
    redis = connect(lane.server.url("operator"))
    *agents, jobs = celery_setup.worker_cluster
    for each in (*agents, jobs, *beats):
        each.ready()
    yield Cluster(celery_setup, redis, agents, jobs, beats)
    refused = [line for node in (*agents, jobs, *beats) for line in node.logs().splitlines() if "NOPERM" in line]
    redis.close()
    assert refused == []
