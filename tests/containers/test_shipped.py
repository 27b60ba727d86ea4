"""What is built and what Compose starts: small, no root, up soon, probed, on loopback only, gone in order."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.conftest import free_port
from tests.containers.engine import ROOT, docker
from tests.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

#: Seconds from `up` to the first run of a loop, from built images.
UP_WITHIN = 30.0
#: Bytes that our layers may have.
OURS = 116e6


def test_the_image_is_small_and_runs_as_nobody_in_particular_with_all_of_its_libraries() -> None:
    (image,) = json.loads(docker("image", "inspect", "backbeat"))
    (base,) = json.loads(docker("image", "inspect", "python:3.11-slim-bookworm"))
    assert image["Size"] < 250e6
    assert image["Size"] - base["Size"] < OURS  # so it is that small on a base of 134 MB
    assert image["Config"]["User"] == "backbeat"
    assert docker("run", "--rm", "backbeat", "backbeat", "--version").startswith("backbeat, version")
    numbers = "import os, numpy, apprise; a = numpy.eye(64); print(os.getuid(), int((a @ a).sum()))"
    assert docker("run", "--rm", "backbeat", "python", "-c", numbers).split() == ["10001", "64"]
    found = docker("run", "--rm", "backbeat", "sh", "-c", "ls -d /opt/backbeat/lib/python3*/site-packages/*")
    assert not {"pytest", "mypy", "hatchling", "pip", "open_spiel"} & {Path(line).name for line in found.split()}


SERVICES = (
    "import apprise; print(*(each['service_name'] for each in apprise.Apprise().details()['schemas']), sep='\\n')"
)
EVERYTHING = """
import importlib, pkgutil, fleet, schedules, tasks, workers
for package in (fleet, schedules, tasks, workers):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import asyncssh, docker, fsspec.implementations.local, numpy.random, psutil, pynvml, rich.traceback, yaml
"""


def test_what_the_image_leaves_out_of_its_libraries_is_missed_by_nobody() -> None:
    """Each of our modules can be imported, and notices reach each service that they reach elsewhere."""
    docker("run", "--rm", "backbeat", "python", "-W", "error", "-c", EVERYTHING)
    here = subprocess.check_output([sys.executable, "-c", SERVICES], text=True)
    assert "Telegram" in here
    assert docker("run", "--rm", "backbeat", "python", "-c", SERVICES) == here


def test_a_process_without_a_server_is_live_and_not_ready_and_ends_in_order_at_sigterm() -> None:
    name = f"backbeat-test-{os.getpid()}"
    redis = "BACKBEAT_REDIS_URL=redis://127.0.0.1:6399/0"
    docker("run", "-d", "--name", name, "-e", redis, "--init", "backbeat", "agent")
    try:
        until(lambda: docker("exec", name, "backbeat", "probe", "live", "agent", check=False).startswith("live"), 30)
        assert docker("exec", name, "backbeat", "probe", "ready", "agent", check=False) == (
            "not ready: it has no connection to the server\n"
        )
        docker("stop", "-t", "20", name)
        assert docker("inspect", "-f", "{{.State.ExitCode}}", name).strip() == "0"
    finally:
        docker("rm", "-f", "-v", name)


@dataclass(frozen=True)
class Compose:
    """A Compose of either line, 1 or 2, which has built an image with the builder that it prefers."""

    command: list[str]
    image: str
    env: dict[str, str]


@pytest.fixture(scope="session", params=[1, 2], ids=["v1", "v2"])
def compose(request: Any, tmp_path_factory: Any, lacking: Callable[[str], NoReturn]) -> Iterator[Compose]:
    wanted = request.param
    command = next((each for each in (["docker-compose"], ["docker", "compose"]) if line(each) == wanted), None)
    if command is None:
        lacking(f"no Compose v{wanted}")
    # the first would ask Docker's own client, which may lack BuildKit
    builder = {"DOCKER_BUILDKIT": "0"} if wanted == 1 else {}
    env = {**os.environ, "BACKBEAT_PLAYER": "", "BACKBEAT_TAG": f"compose-v{wanted}", **builder}
    made = Compose(command, f"backbeat:{env['BACKBEAT_TAG']}", env)
    Project(made, tmp_path_factory.mktemp("compose"))("build")
    yield made
    docker("image", "rm", made.image)


def line(command: list[str]) -> int:
    """1 or 2, by the version that a Compose says it is, where 2 went on to be 5; 0 when there is none."""
    try:
        said = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return 0
    number = re.match(r"v?(\d+)\.", said)
    return min(int(number[1]), 2) if number else 0


class Project:
    """The Compose file as users run it, under a name and a port of its own."""

    def __init__(self, compose: Compose, folder: Path) -> None:
        self.name = f"backbeattest{os.getpid()}"
        self.env_file = folder / "env"
        self.env_file.write_text(subprocess.check_output(["sh", "deploy/compose.env.sh"], cwd=ROOT, text=True))
        self._command = [*compose.command, "-p", self.name, "--env-file", str(self.env_file)]
        self._env = {**compose.env, "BACKBEAT_WEB_PORT": str(free_port())}

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self._command, *words], env=self._env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def containers(self) -> list[dict[str, Any]]:
        ids = docker("ps", "-q", "--filter", f"label=com.docker.compose.project={self.name}").split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return found

    def of(self, service: str) -> list[dict[str, Any]]:
        key = "com.docker.compose.service"
        return [each for each in self.containers() if each["Config"]["Labels"].get(key) == service]

    def runs(self, loop: str) -> int:
        """Asked of the server itself: commands of ours cost a second of CPU, which the start needs."""
        if not (found := self.of("redis")):
            return 0
        (redis,) = found
        password = next((line for line in redis["Config"]["Env"] if "OPERATOR" in line), "=").split("=", 1)[1]
        asks = ("redis-cli", "--no-auth-warning", "--user", "operator", "--pass", password)
        said = docker("exec", redis["Id"], *asks, "hget", f"{{backbeat}}:loop:{loop}", "run_count", check=False).strip()
        return int(said) if said.isdecimal() else 0

    def operator(self, *words: str) -> str:
        """A command, as the operator, in the network of the project: without the seconds that `run` itself takes."""
        agent = self.of("agent")[0]["Id"]
        environment = dict(line.split("=", 1) for line in self.of("redis")[0]["Config"]["Env"])
        url = f"redis://operator:{environment['BACKBEAT_OPERATOR_PASSWORD']}@redis:6379/0"
        return docker("exec", "-e", f"BACKBEAT_REDIS_URL={url}", agent, "backbeat", *words, check=False)


@pytest.fixture
def project(compose: Compose, tmp_path: Path) -> Iterator[Project]:
    made = Project(compose, tmp_path)
    yield made
    made("down", "-v", "--remove-orphans", "-t", "20")


def test_compose_brings_up_a_cluster_that_runs_loops_soon_and_scales(project: Project, capsys: Any) -> None:
    began = time.monotonic()
    project("up", "-d")

    until(lambda: project.runs("queue_populator"), UP_WITHIN - (time.monotonic() - began), lambda: "no loop has run")
    with capsys.disabled():
        print(f"\nup to first loop run: {time.monotonic() - began:.1f} s")
    project("up", "-d", "--no-recreate", "--scale", "agent=3", "--scale", "jobs=2")
    for service in ("redis", "agent", "jobs", "beat", "beat-standby", "flower"):
        until(lambda s=service: all_healthy(project.of(s)), 60, lambda s=service: str(project.of(s)[0]["State"]))
    published = [ports for each in project.containers() for ports in each["NetworkSettings"]["Ports"].values() if ports]
    assert {binding["HostIp"] for ports in published for binding in ports} == {"127.0.0.1"}
    assert {each["Config"]["User"] for each in project.containers()} == {"backbeat", "redis"}

    # what the server was told outlives it
    ran = project.runs("queue_populator")
    (redis,) = project.of("redis")
    docker("restart", "-t", "30", redis["Id"])
    until(lambda: project.runs("queue_populator") >= ran, 30, lambda: docker("logs", redis["Id"]))

    def nodes() -> dict[str, dict[str, Any]]:
        said = json.loads(project.operator("nodes", "--json") or "[]")
        return {node["node_id"]: node for node in said if node["live"]}

    until(lambda: nodes().keys() == {"node-1", "node-2", "node-3"}, 60, lambda: str(nodes().keys()))
    until(lambda: [bool(node["jobs_pid"]) for _, node in sorted(nodes().items())] == [True, True, False], 30)
    assert "central" in nodes()["node-1"]["capabilities"]
    assert "central" not in nodes()["node-2"]["capabilities"]
    assert "leader: node-" in project("run", "--rm", "-T", "operator", "backbeat", "leader")
    project("stop", "-t", "60", "jobs", "beat", "beat-standby", "agent")
    ids = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={project.name}").split()
    ended = [each for each in json.loads(docker("inspect", *ids)) if not each["State"]["Running"]]
    assert len(ended) == 7
    assert {each["State"]["ExitCode"] for each in ended} == {0}


def all_healthy(containers: list[dict[str, Any]]) -> bool:
    return bool(containers) and all(each["State"]["Health"]["Status"] == "healthy" for each in containers)


def test_without_passwords_compose_starts_nothing(compose: Compose, tmp_path: Path) -> None:
    project = Project(compose, tmp_path)
    project("config", "-q")
    project.env_file.write_text((ROOT / "deploy/compose.env.example").read_text())
    with pytest.raises(AssertionError, match=r"is missing, see deploy/compose\.env\.example"):
        project("config", "-q")


def files(image: str) -> dict[str, tuple[object, ...]]:
    """Each file of an image: kind, mode, owner, contents, and the time of those that are ours."""
    container = docker("create", image).strip()
    found: dict[str, tuple[object, ...]] = {}
    try:
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            for each in archive:
                content = archive.extractfile(each) if each.isfile() else None
                what = hashlib.sha256(content.read()).hexdigest() if content else each.linkname
                ours = not each.isdir() and each.name.startswith(("opt/", "app/"))
                found[each.name] = (each.type, each.mode, each.uid, each.gid, what, ours and each.mtime)
        assert export.returncode == 0
    finally:
        docker("rm", container)
    return found


@pytest.mark.parametrize("compose", [2], indirect=True, ids=["v2"])
def test_another_build_by_another_builder_makes_the_same_files(
    compose: Compose, lacking: Callable[[str], NoReturn]
) -> None:
    images = ("backbeat", compose.image)
    if len({docker("image", "inspect", "-f", "{{.RootFS.Layers}}", image) for image in images}) == 1:
        lacking("this Compose takes what is built already")
    # another day would do no harm either: useradd notes the one that it is told
    noted = docker("run", "--rm", "-u", "0", "backbeat", "grep", "^backbeat:", "/etc/shadow").split(":")[2]
    assert noted == str(1_700_000_000 // 86_400)
    first, second = map(files, images)
    assert len(first) > 5000
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()


def test_the_image_with_the_player_plays_a_game() -> None:
    play = ("python", "-m", "examples.openspiel", "selfplay", "--config", "square6_2p", "--games", "1")
    said = docker("run", "--rm", "--network", "none", "backbeat:openspiel", *play, "--simulations", "2")
    assert json.loads(said.splitlines()[-1])["games"] == 1
