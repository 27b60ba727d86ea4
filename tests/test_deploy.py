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

from workers.probe import QUESTIONS, ROLES

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


def test_every_process_of_the_compose_file_is_probed_drained_and_no_root() -> None:
    services = compose()["services"]
    for name in ("agent", "jobs", "beat", "beat-standby", "flower"):
        service = services[name]
        role = name.partition("-")[0]
        assert service["command"] == [role]
        test = service["healthcheck"]["test"]
        assert test[:3] == ["CMD", "backbeat", "probe"]
        assert test[3] in QUESTIONS
        assert test[4] == role
        assert role in ROLES
        assert service["init"] is True
        assert service["read_only"] is True
        assert service["restart"] == "unless-stopped"
    assert re.search(r"^USER backbeat$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_the_dockerfile_needs_no_builder_of_a_certain_make() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^# *syntax=|--mount|<<EOF|--link|--chmod", text, re.MULTILINE)


def test_passwords_are_of_chance_and_each_another(tmp_path: Path) -> None:
    script = ["sh", str(DEPLOY / "compose.env.sh")]
    first, second = (subprocess.check_output(script, text=True) for _ in range(2))
    values = re.findall(r"^BACKBEAT_\w+=(?:admin:)?(\w+)$", first + second, re.MULTILINE)
    assert len(values) == len(set(values)) == 12
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in values)


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
            "Restart=always",
            "KillMode=mixed",
            "User=backbeat",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
        ):
            assert f"\n{line}\n" in text, f"{unit.name}: {line}"
        assert "EnvironmentFile=/etc/backbeat/backbeat.env" in text
        assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > 10, "more than BACKBEAT_DRAIN"


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
