"""Each provider on a stage of its own, with the same ways to disturb it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from fleet.providers import local
from fleet.providers.command import Command, CommandOptions
from fleet.providers.docker import Docker, DockerOptions
from fleet.providers.local import Local, LocalOptions
from fleet.providers.port import Provider
from fleet.providers.simulated import Simulated, SimulatedOptions
from tests.fleet.providers.engine_stage import Engine, Serving

TOOL = Path(__file__).parent / "tool_stage.py"
SLEEPER = ("{python}", "-I", "-S", "-c", "import signal; signal.pause()")


class Stage(Protocol):
    """One kind of provider. `provider()` gives one that knows nothing of those before it."""

    def provider(self) -> Provider: ...
    def foreign(self) -> None: ...
    def refuse(self) -> None: ...
    def hang(self) -> None: ...
    def heal(self) -> None: ...
    def close(self) -> None: ...


class LocalStage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "instances"
        self.heal()

    def provider(self) -> Local:
        return Local(self.folder, LocalOptions(commands=self.commands, stop_within=5))

    def foreign(self) -> None:
        (self.folder / "auto-9-9").mkdir(parents=True)
        (self.folder / "notes.txt").write_text("not a node")
        (self.folder / "broken").mkdir()
        (self.folder / "broken" / "instance.json").write_text("{")

    def refuse(self) -> None:
        self.commands = {"agent": SLEEPER, "jobs": ("no-such-program",)}

    def hang(self) -> None:
        local.SPAWN_WITHIN = 0.001

    def heal(self) -> None:
        local.SPAWN_WITHIN = 20.0
        self.commands: dict[str, tuple[str, ...]] = {"agent": SLEEPER, "jobs": SLEEPER}

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.folder) in process.environ().get("BACKBEAT_DATA", ""):
                    found.append(process)
        return found

    def close(self) -> None:
        self.heal()
        for process in self.processes():
            process.kill()


class DockerStage:
    def __init__(self, folder: Path) -> None:
        self.engine = Engine()
        self.serving = Serving(folder / "engine.sock", self.engine)

    def provider(self, **more: Any) -> Docker:
        options = {"image": "backbeat:test", "engine": self.serving.address, "timeout": 5, "stop_within": 1}
        environment = {"BACKBEAT_REDIS_URL": "redis://:secret@redis:6379/0", "BACKBEAT_NODE_ID": "me", "HOME": "x"}
        return Docker(DockerOptions(**(options | more)), ("cpu", "gpu"), environment)

    def foreign(self) -> None:
        config = {"Image": "backbeat:test", "HostConfig": {"Binds": []}}
        self.engine.answer("POST", "/containers/create", {"name": ["auto-9-9"]}, config)

    def refuse(self) -> None:
        self.engine.fault = lambda _method, path: "refuse" if path == "/containers/create" else ""

    def hang(self) -> None:
        self.engine.fault = lambda _method, path: "hang" if path == "/containers/create" else ""

    def heal(self) -> None:
        self.engine.fault = lambda _method, _path: ""

    def close(self) -> None:
        self.serving.close()


class CommandStage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "machines.json"

    def provider(self, **more: Any) -> Command:
        tool = ("{python}", "-I", "-S", str(TOOL), str(self.state))
        options = {
            "up": (*tool, "up", "{name}", "{key}"),
            "down": (*tool, "down", "{id}"),
            "list": (*tool, "list"),
            "name_key": "label",
            "cost_key": "dph",
            "timeout": 10.0,
        }
        environment = {"BACKBEAT_REDIS_URL": "redis://:secret@redis:6379/0", "HOME": "x"}
        return Command(CommandOptions(**(options | more)), environment)

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.state.read_text())
        return found

    def foreign(self) -> None:
        self.state.write_text(json.dumps([{"id": 1, "label": None}, {"id": 2}, "text", None, {"id": 3, "label": 7}]))

    def refuse(self) -> None:
        (self.folder / "trouble").write_text("refuse up")

    def hang(self) -> None:
        (self.folder / "trouble").write_text("hang up")

    def heal(self) -> None:
        (self.folder / "trouble").unlink(missing_ok=True)

    def close(self) -> None:
        pass


class SimulatedStage:
    def __init__(self, _folder: Path) -> None:
        self.simulated = Simulated(SimulatedOptions(cost_per_hour=0.25))

    def provider(self) -> Simulated:
        return self.simulated  # in memory, so there is but one

    def foreign(self) -> None:
        pass

    def refuse(self) -> None:
        self.simulated.faults = lambda call: "refuses" if call == "start" else ""

    def hang(self) -> None:
        self.simulated.faults = lambda call: "hangs" if call == "start" else ""

    def heal(self) -> None:
        self.simulated.faults = lambda _call: ""

    def close(self) -> None:
        pass


STAGES: dict[str, Callable[[Path], Stage]] = {
    "local": LocalStage,
    "docker": DockerStage,
    "command": CommandStage,
    "simulated": SimulatedStage,
}


def _staged(kind: str, folder: Path) -> Iterator[Any]:
    stage = STAGES[kind](folder)
    yield stage
    stage.close()


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Every kind of provider in turn."""
    yield from _staged(request.param, tmp_path)


@pytest.fixture(name="local")
def _local(tmp_path: Path) -> Iterator[LocalStage]:
    yield from _staged("local", tmp_path)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[DockerStage]:
    yield from _staged("docker", tmp_path)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[CommandStage]:
    yield from _staged("command", tmp_path)
