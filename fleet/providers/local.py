"""Nodes as processes on this machine, each in a session of its own.

A folder for each node holds its `data`, its `logs` and `instance.json`, which says which processes it is.
They outlive the agent that started them, and whoever has the folder sees and stops the same ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field

from fleet.job_result import parse_object
from fleet.logs import trim
from fleet.processes import identity, is_leader, kill_marked, signal_group, wait_group
from fleet.providers.node import NODE, Commands, filled, queues
from fleet.providers.port import Instance, ProviderError, ProviderSilent, check_name

RECORD = "instance.json"
#: Folders of ended nodes that are kept, the newest: their logs, and games that nobody has fetched.
KEPT = 10
#: Seconds for the start of one process.
SPAWN_WITHIN = 20.0

# The process belongs to init at once: it is nobody's child here, so it leaves no zombie when it ends.
_SPAWN = """
import subprocess, sys
with open(sys.argv[1], "ab") as log:
    null = subprocess.DEVNULL
    print(subprocess.Popen(sys.argv[2:], stdin=null, stdout=log, stderr=log, start_new_session=True).pid)
"""


class LocalOptions(BaseModel):
    """What a node runs. `{python}` is the interpreter that runs Backbeat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int = Field(default=1, ge=1, le=256, description="jobs that a node runs at once")
    stop_within: float = Field(default=30.0, gt=0, allow_inf_nan=False, description="seconds from SIGTERM to SIGKILL")
    commands: Commands = {process: ("{python}", "-m", *command) for process, command in NODE.items()}


class LocalNode:
    """One node's folder and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        try:
            self.record = parse_object((folder / RECORD).read_bytes())
        except (OSError, ValueError):  # one that is just being made, or not ours
            self.record = {}

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def ended(self) -> bool:
        """Whether it was stopped, or never was one."""
        return self.record.get("ended", True) is not None

    @property
    def processes(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.record.get("processes", {})
        return found

    @property
    def pids(self) -> list[int]:
        """Its processes that live."""
        return [process["pid"] for process in self.processes.values() if _lives(process)]

    @property
    def alive(self) -> bool:
        """Whether any of them lives."""
        return bool(self.pids)

    def terminate(self) -> None:
        """SIGTERM: the jobs worker drains."""
        for pid in self.pids:
            signal_group(pid, signal.SIGTERM)

    def kill(self, why: str) -> None:
        """End what is left, jobs included, and note that it has ended, and why."""
        for pid in self.pids:
            signal_group(pid, signal.SIGKILL)
            wait_group(pid)
        kill_marked(self.mark)
        self.write(ended=why)

    def write(self, **changes: Any) -> None:
        self.record |= changes
        part = self.folder / f"{RECORD}.part"
        part.write_text(json.dumps(self.record))
        part.replace(self.folder / RECORD)

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of every process of it holds."""
        return {"BACKBEAT_NODE_ID": self.name, "BACKBEAT_DATA": str(self.data)}


class Local:
    """The nodes below one folder. `environment` is what their processes inherit; without it, this one's."""

    def __init__(
        self,
        folder: Path,
        options: LocalOptions | None = None,
        capabilities: Sequence[str] = ("cpu",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self._options = options or LocalOptions()
        self._capabilities = capabilities
        self._environment = os.environ if environment is None else environment

    @property
    def nodes(self) -> list[LocalNode]:
        """Those that were not stopped."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [node for node in map(LocalNode, folders) if not node.ended]

    def instances(self) -> list[Instance]:
        """See `Provider`. A node of which one process has died has ended: nobody starts that one again."""
        found = []
        for node in self.nodes:
            for process in node.processes:
                trim(node.folder / "logs" / f"{process}.log")
            dead = [name for name, process in node.processes.items() if not _lives(process)]
            whole = node.processes.keys() == self._options.commands.keys() and not dead
            detail = f"{', '.join(dead)} died; see {node.folder / 'logs'}" if dead else ""
            found.append(Instance(node.name, "running" if whole else "ended", detail=detail))
        return found

    def start(self, names: Sequence[str], key: str) -> None:
        """See `Provider`."""
        self._prune()
        for name in names:
            node = LocalNode(self.folder / check_name(name))
            try:
                node.folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ProviderError(f"no node can be kept in {self.folder}: {error.strerror}") from error
            self._launch(node, key)

    def stop(self, names: Sequence[str], key: str) -> None:
        """See `Provider`. The nodes drain side by side."""
        wanted = set(map(check_name, names))
        nodes = [node for node in self.nodes if node.name in wanted]
        for node in nodes:
            node.terminate()
        give_up = time.monotonic() + self._options.stop_within
        while any(node.alive for node in nodes) and time.monotonic() < give_up:
            time.sleep(0.05)
        for node in nodes:
            node.kill(key)

    def _launch(self, node: LocalNode, key: str) -> None:
        values = {
            "name": node.name,
            "queues": queues(self._capabilities),
            "slots": str(self._options.slots),
            "python": sys.executable,
        }
        # Celery obeys its own variables before anything that an app is told
        inherited = {name: value for name, value in self._environment.items() if not name.startswith("CELERY_")}
        own = {
            "BACKBEAT_INSTANCES": str(self.folder),
            "BACKBEAT_PORT": "0",
            "BACKBEAT_RUN": "",
            "PYTHONUNBUFFERED": "1",
        }
        env = inherited | node.mark | own
        logs = node.folder / "logs"
        try:
            for folder in (node.data, logs):
                folder.mkdir()
            node.write(ended=None, key=key, processes={})
            for process, argv in filled(self._options.commands, values).items():
                pid = _spawn(argv, env, logs / f"{process}.log")
                node.write(processes={**node.processes, process: pid})
        except OSError as error:
            raise ProviderError(f"{node.name} cannot be started: {error}") from error

    def _prune(self) -> None:
        folders = [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []
        ended = [node.folder for node in map(LocalNode, folders) if node.record and node.ended]
        for folder in sorted(ended, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            with suppress(OSError):
                shutil.rmtree(folder)


def _spawn(argv: Sequence[str], env: Mapping[str, str], log: Path) -> dict[str, Any]:
    """The identity of a new process that leads a session and is no child of this one."""
    launcher = [sys.executable, "-I", "-S", "-c", _SPAWN, str(log), *argv]
    try:
        said = subprocess.run(launcher, env=dict(env), capture_output=True, timeout=SPAWN_WITHIN, check=True, text=True)
        return dict(identity(int(said.stdout)))
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().rpartition("\n")[2]
        raise ProviderError(f"cannot run {argv[0]!r}: {why}; see auto_scaling.local.commands") from error
    except subprocess.TimeoutExpired as error:
        raise ProviderSilent(f"{argv[0]!r} did not start within {SPAWN_WITHIN:g} s") from error
    except psutil.NoSuchProcess as error:
        raise ProviderError(f"{argv[0]!r} ended at once; see {log}") from error


def _lives(process: Mapping[str, Any]) -> bool:
    pid = process.get("pid")
    with suppress(psutil.Error):
        return is_leader(pid, process.get("create_time")) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
