"""What is built and what Compose starts: small, no root, up soon, probed, on loopback only, gone in order."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port
from tests.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
#: Seconds from `up` to the first run of a loop, from built images.
UP_WITHIN = 30.0


def docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, (words, done.stderr)
    return done.stdout


def test_the_image_is_small_and_runs_as_nobody_in_particular_with_all_of_its_libraries() -> None:
    (image,) = json.loads(docker("image", "inspect", "backbeat"))
    assert image["Size"] < 250e6
    assert image["Config"]["User"] == "backbeat"
    assert docker("run", "--rm", "backbeat", "backbeat", "--version").startswith("backbeat, version")
    numbers = "import os, numpy, apprise; a = numpy.eye(64); print(os.getuid(), int((a @ a).sum()))"
    assert docker("run", "--rm", "backbeat", "python", "-c", numbers).split() == ["10001", "64"]
    found = docker("run", "--rm", "backbeat", "sh", "-c", "ls -d /opt/backbeat/lib/python3*/site-packages/*")
    assert not {"pytest", "mypy", "hatchling", "pip", "open_spiel"} & {Path(line).name for line in found.split()}


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


class Project:
    """The Compose file as users run it, under a name and a port of its own."""

    def __init__(self, command: list[str], env_file: Path, port: int) -> None:
        self._command = [*command, "-p", f"backbeattest{os.getpid()}", "--env-file", str(env_file)]
        self._env = {**os.environ, "BACKBEAT_WEB_PORT": str(port), "BACKBEAT_PLAYER": "", "DOCKER_BUILDKIT": "0"}
        self.name = self._command[self._command.index("-p") + 1]

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

    def has_run(self, loop: str) -> bool:
        """Asked of the server itself: commands of ours cost a second of CPU, which the start needs."""
        (redis,) = self.of("redis") or [{}]
        password = next((line for line in redis["Config"]["Env"] if "OPERATOR" in line), "=").split("=", 1)[1]
        asks = ("redis-cli", "--no-auth-warning", "--user", "operator", "--pass", password)
        return bool(docker("exec", redis["Id"], *asks, "hget", f"{{backbeat}}:loop:{loop}", "run_count").strip())

    def operator(self, *words: str) -> str:
        """A command, as the operator, in the network of the project: without the seconds that `run` itself takes."""
        agent = self.of("agent")[0]["Id"]
        environment = dict(line.split("=", 1) for line in self.of("redis")[0]["Config"]["Env"])
        url = f"redis://operator:{environment['BACKBEAT_OPERATOR_PASSWORD']}@redis:6379/0"
        return docker("exec", "-e", f"BACKBEAT_REDIS_URL={url}", agent, "backbeat", *words, check=False)


@pytest.fixture
def project(tmp_path: Path, lacking: Any) -> Iterator[Project]:
    standalone = ["docker-compose"]
    command = next((each for each in (standalone, ["docker", "compose"]) if works([*each, "version"])), None)
    if command is None:
        lacking("no Compose")
        return
    (tmp_path / "env").write_text(subprocess.check_output(["sh", "deploy/compose.env.sh"], cwd=ROOT, text=True))
    made = Project(command, tmp_path / "env", free_port())
    yield made
    made("down", "-v", "--remove-orphans", "-t", "20")


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_compose_brings_up_a_cluster_that_runs_loops_soon_and_scales(project: Project, capsys: Any) -> None:
    project("build")
    began = time.monotonic()
    project("up", "-d")

    def runs() -> bool:
        return project.has_run("queue_populator")

    until(runs, UP_WITHIN - (time.monotonic() - began), lambda: "no loop has run")
    with capsys.disabled():
        print(f"\nup to first loop run: {time.monotonic() - began:.1f} s")
    for service in ("redis", "agent", "jobs", "beat", "beat-standby", "flower"):
        until(lambda s=service: all_healthy(project.of(s)), 60, lambda s=service: str(project.of(s)[0]["State"]))
    published = [ports for each in project.containers() for ports in each["NetworkSettings"]["Ports"].values() if ports]
    assert {binding["HostIp"] for ports in published for binding in ports} == {"127.0.0.1"}
    assert {each["Config"]["User"] for each in project.containers()} == {"backbeat", "redis"}

    project("up", "-d", "--no-recreate", "--scale", "agent=3", "--scale", "jobs=2")

    def nodes() -> dict[str, dict[str, Any]]:
        said = json.loads(project.operator("nodes", "--json") or "[]")
        return {node["node_id"]: node for node in said if node["live"]}

    until(lambda: nodes().keys() == {"node-1", "node-2", "node-3"}, 60, lambda: str(nodes().keys()))
    until(lambda: [bool(node["jobs_pid"]) for _, node in sorted(nodes().items())] == [True, True, False], 30)
    assert "central" in nodes()["node-1"]["capabilities"]
    assert "central" not in nodes()["node-2"]["capabilities"]
    project("stop", "-t", "60", "jobs", "beat", "beat-standby", "agent")
    ids = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={project.name}").split()
    ended = [each for each in json.loads(docker("inspect", *ids)) if not each["State"]["Running"]]
    assert len(ended) == 7
    assert {each["State"]["ExitCode"] for each in ended} == {0}


def all_healthy(containers: list[dict[str, Any]]) -> bool:
    return bool(containers) and all(each["State"]["Health"]["Status"] == "healthy" for each in containers)


def test_without_passwords_compose_starts_nothing(tmp_path: Path, project: Project) -> None:
    (tmp_path / "env").write_text((ROOT / "deploy/compose.env.example").read_text())
    with pytest.raises(AssertionError, match=r"is missing, see deploy/compose\.env\.example"):
        project("config", "-q")
    (tmp_path / "env").write_text(subprocess.check_output(["sh", "deploy/compose.env.sh"], cwd=ROOT, text=True))


def test_the_image_with_the_player_plays_a_game() -> None:
    play = ("python", "-m", "examples.openspiel", "selfplay", "--config", "square6_2p", "--games", "1")
    said = docker("run", "--rm", "--network", "none", "backbeat:openspiel", *play, "--simulations", "2")
    assert json.loads(said.splitlines()[-1])["games"] == 1
