"""A house of real processes: one server, and as many agents, jobs workers and beats as a story needs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from redis import Redis, RedisError

from fleet.jobs import JobQueue
from tests.waiting import until
from workers import keys
from workers.app import send_run
from workers.ledger import Ledger
from workers.manager import LoopManager
from workers.settings import connect

HERE = Path(__file__).parent


class Process:
    """One process of the story, in a process group of its own."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP, and wait until none of its threads runs."""
        self.send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()

    def terminate(self, timeout: float = 20) -> int:
        self.send(signal.SIGTERM)
        return self.popen.wait(timeout)


class House:
    """Starts processes, and waits for conditions instead of sleeping."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.processes: list[Process] = []
        self.redis: Redis = connect(server.url)
        self.ledger = Ledger(self.redis)
        self.queue = JobQueue(self.redis)
        self.loops: list[str] = []
        self.manager = LoopManager(self.ledger, self._send)

    def configure(self, loops: dict[str, dict[str, Any]], **sections: Any) -> None:
        """The configuration of every process started after this."""
        self.loops = list(loops)
        stanzas = {name: {"interval": 60, **stanza} for name, stanza in loops.items()}
        (self.folder / "loops.yaml").write_text(yaml.safe_dump({**stanzas, **sections}))

    def agent(self, node: str, *, slots: int = 16, **env: str) -> Process:
        return self._worker(f"{node}-agent", node, ["-n", f"agent@{node}", "-c", str(slots)], **env)

    def jobs(self, node: str, slots: int = 2, **env: str) -> Process:
        return self._worker(f"{node}-jobs", node, ["-n", f"jobs@{node}", "-Q", "jobs.cpu", "-c", str(slots)], **env)

    def beat(self, name: str = "beat", **env: str) -> Process:
        return self.process(name, ["beat", "-l", "INFO"], **{"BACKBEAT_RUN": str(self.folder / f"run-{name}"), **env})

    def _worker(self, name: str, node: str, arguments: list[str], **env: str) -> Process:
        (self.folder / node).mkdir(exist_ok=True)
        mine = {"BACKBEAT_NODE_ID": node, "BACKBEAT_DATA": str(self.folder / node), **env}
        return self.process(name, ["worker", "-l", "INFO", *arguments], **mine)

    def process(self, name: str, arguments: list[str], **env: str) -> Process:
        """`celery -A stage ARGUMENTS`."""
        full = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "STORY_HOUSE": str(self.folder),
            "STORY_LOOPS": ",".join(self.loops),
            "BACKBEAT_REDIS_URL": self.server.url,
            "BACKBEAT_CONFIG": str(self.folder / "loops.yaml"),
            "BACKBEAT_DRAIN": "1",
            **env,
        }
        argv = [sys.executable, "-m", "celery", "-A", "stage", *arguments]
        process = Process(name, argv, full, self.folder / f"{name}.log")
        self.processes.append(process)
        return process

    def _send(self, name: str, queue: str, call: str) -> None:
        send_run(self.server.url, name, queue, call)

    # what a story waits for and reads ---------------------------------------------------------------

    def until(self, condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
        """Wait until the condition holds and return its value; a server that is away counts as not yet."""

        def value() -> Any:
            with contextlib.suppress(RedisError):
                return condition()

        def logs() -> str:
            ends = (f"--- {p.name} {p.popen.poll()}\n{p.text()[-1500:]}" for p in self.processes)
            return "\n".join([what or repr(condition), *ends])

        return until(value, seconds, logs)

    def status(self, loop: str) -> dict[str, Any]:
        """One loop's status, or {} while it is not in the timetable."""
        return self.manager.get_all_status().get(loop, {})

    def leader(self) -> dict[str, Any]:
        return self.manager.get_status()["leader"] or {}

    def await_leader(self, seconds: float = 20.0, other_than: int | None = None) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            leader = self.leader()
            return leader if leader.get("pid") != other_than else {}

        return self.until(found, seconds, "a leader")

    def notes(self, name: str) -> list[list[str]]:
        """What a stage loop wrote down: seq, slot, now, missed, pid, node."""
        return [line.split() for line in self.redis.lrange(f"story:{name}", 0, -1)]

    def seqs(self, name: str) -> list[int]:
        return [int(note[0]) for note in self.notes(name)]

    def by_pid(self, pid: int) -> Process:
        return next(process for process in self.processes if process.pid == pid)

    def idle(self, loop: str, queue: str) -> bool:
        """Whether all ticks and calls of a loop are done."""
        seq, taken = self.redis.hmget(keys.LOOP + loop, "seq", "taken")
        return bool(seq == taken and not self.redis.llen(queue) and not self.status(loop)["executing"])

    def until_next_tick(self, loop: str) -> None:
        seq = self.status(loop)["seq"]
        self.until(lambda: self.status(loop)["seq"] > seq, what="a tick")

    def freeze_with_a_message(
        self, loop: str, queue: str, consumer: Callable[[], int], send: Callable[[], object]
    ) -> Process:
        """Freeze the queue's only consumer so that what `send` puts there is popped by its open BRPOP.

        It then sits in the frozen process's socket. `consumer` tells that process's pid.
        """
        for _ in range(30):
            self.until(lambda: self.notes(loop) and self.idle(loop, queue), what="a run that is over")
            process = self.by_pid(consumer())
            process.freeze()
            if self.idle(loop, queue):
                send()
                if not self.redis.llen(queue):
                    return process
            process.send(signal.SIGCONT)  # it was between two BRPOPs
            self.until(lambda: not self.redis.llen(queue), what="an empty queue")
        raise AssertionError("no BRPOP was open in thirty tries")

    def answer(self, loop: str, call: str) -> dict[str, Any]:
        """The loop's status once it says what came of that call, else {}."""
        status = self.status(loop)
        return status if call in (status["last_run_call"], status["last_skip_call"]) else {}

    def until_in_a_row(self, loop: str, number: int, seconds: float = 20.0) -> None:
        """Make manual runs until so many in a row have run."""
        give_up = time.monotonic() + seconds
        in_a_row = 0
        while in_a_row < number:
            assert time.monotonic() < give_up, f"{loop}: no {number} manual runs in a row within {seconds:g} s"
            call = self.manager.run(loop)
            status = self.until(lambda call=call: self.answer(loop, call), 10, "an answer")
            in_a_row = in_a_row + 1 if status["last_run_call"] == call else 0

    def close(self) -> None:
        for process in self.processes:
            if process.alive:
                process.send(signal.SIGCONT)
            process.kill()
        # a killed jobs worker leaves its jobs running; they carry the house's mark
        for orphan in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if orphan.environ().get("STORY_HOUSE") == str(self.folder):
                    orphan.kill()
        self.redis.close()


@pytest.fixture
def house(session_server: Any, redis: Redis, tmp_path: Path) -> Iterator[House]:
    """A house on the session's server."""
    house = House(session_server, tmp_path)
    yield house
    house.close()


@pytest.fixture
def own_server(session_server: Any, tmp_path: Path) -> Iterator[Any]:
    """A server of the story's own, to kill and start again."""
    server = type(session_server)(tmp_path / "own-server")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make_house(tmp_path: Path) -> Callable[[Any], House]:
    """A house on a given server; the story closes it."""
    return lambda server: House(server, tmp_path)
