"""`backbeat up`, as its user meets it: real processes from the first line to the last."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest
import yaml
from redis import Redis, RedisError

from fleet.nodes import NodeRegistry
from tests.waiting import until
from workers.children import MARK
from workers.datadir import read_record
from workers.ledger import Ledger
from workers.settings import connect
from workers.status import read_status

pytestmark = pytest.mark.story

ROOT = Path(__file__).parents[2]
BACKBEAT = [sys.executable, "-c", "from workers.cli import main; main()"]
#: Whoever started the tests may ignore hang-ups, and that is inherited.
ATTENDED = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); {BACKBEAT[-1]}"]
PLAYER = ["{python}", "-m", "examples.openspiel", "selfplay", "--config", "{config}", "--games", "{games}"]
SLEEPER = ["{python}", "-c", "import signal; signal.pause()"]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def words(process: psutil.Process) -> str:
    """Its command line; none once it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Up:
    """One `backbeat up`, started in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        command: list[str] = PLAYER,
        unread: bool = False,
        stanzas: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.arguments, self.unread = folder, arguments, unread
        self.data = folder / ".backbeat"
        if "--data" in arguments:
            self.data = folder / arguments[arguments.index("--data") + 1]
        folder.mkdir(exist_ok=True)
        self.config = folder / "loops.yaml"
        populator = {"interval": "2s", "configs": ["square6_2p"], "selfplay_games_per_item": 1}
        ratios = {"selfplay_ratio": 1.0, "training_ratio": 0.0, "tournament_ratio": 0.0}
        kind = {"command": [*command, "--simulations", "4"] if command is PLAYER else command}
        own = {"extends": str(ROOT / "config" / "unified_loop.yaml"), "queue_populator": populator | ratios}
        self.config.write_text(yaml.safe_dump({**own, **(stanzas or {}), "jobs": {"selfplay": kind}}))
        self.starts = 0
        self.seen: set[psutil.Process] = set()
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.out = self.folder / f"out{self.starts}"
        program = ["nohup", *BACKBEAT] if self.unread else ATTENDED
        argv = [*program, "up", "--config", str(self.config), *self.arguments]
        with self.out.open("wb") as out:
            stdout = subprocess.PIPE if self.unread else out
            self.process = subprocess.Popen(argv, cwd=self.folder, env=environment(), stdout=stdout, stderr=out)
        if self.process.stdout is not None:
            assert self.process.stdout.readline()
            self.process.stdout.close()

    def backbeat(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in the directory where this `up` was started."""
        argv = [*BACKBEAT, *arguments]
        return subprocess.run(
            argv, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False, timeout=60
        )

    def status(self) -> dict[str, Any]:
        """The status document, or {} while it cannot be had."""
        record = read_record(self.data)
        try:
            return read_status(Ledger(connect(record.redis_url))) if record else {}
        except RedisError:
            return {}

    def leader(self) -> int | None:
        """The leader's pid."""
        return (self.status().get("leader") or {}).get("pid")

    def completed(self) -> int:
        """Completed jobs."""
        number: int = self.status().get("jobs", {}).get("by_status", {}).get("completed", 0)
        return number

    @property
    def text(self) -> str:
        return self.out.read_text()

    def games(self) -> int:
        """Finished games in the nodes' databases."""
        count = 0
        for path in self.data.glob("nodes/*/games.db"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'games'").fetchall()
                count += database.execute("SELECT count(*) FROM games").fetchone()[0] if tables else 0
        return count

    def family(self) -> list[psutil.Process]:
        """Everything that it started, jobs included."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.seen.update(family)
        return family

    def children(self) -> set[int]:
        """The processes that stay: jobs come and go below them."""
        return {process.pid for process in psutil.Process(self.process.pid).children()}

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        return until(condition, seconds, lambda: f"{what}\n{self.text}")

    def until_said(self, pattern: str) -> str:
        found: re.Match[str] = self.until(lambda: re.search(pattern, self.text), pattern)
        return found[0]

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BACKBEAT_", "CELERY_"))}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def marked(data: Path) -> list[psutil.Process]:
    """Processes that carry the mark of a data directory."""
    found, identity = [], (data / "up.id").read_text()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(identity):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start an `up` in a folder of this name."""
    started: list[Up] = []

    def make(name: str, *arguments: str, **more: Any) -> Up:
        started.append(Up(tmp_path / name, *arguments, **more))
        return started[-1]

    yield make
    for each in started:
        left = list(each.seen)
        if each.process.poll() is None:
            left += each.family()
            each.process.kill()
        each.process.wait()
        left += marked(each.data) if (each.data / "up.id").exists() else []
        for process in left:
            if alive(process):
                process.kill()
        psutil.wait_procs(left, timeout=10)


def test_from_the_first_line_to_the_first_game_and_to_the_end(up: Callable[..., Up]) -> None:
    began = time.monotonic()
    cluster = up("first")
    cluster.until(cluster.games, "a finished game")
    assert time.monotonic() - began < 60
    cluster.until_said(r"ready after")

    # commands find it by themselves
    leader, nodes = (json.loads(cluster.backbeat(command, "--json").stdout) for command in ("leader", "nodes"))
    assert leader["node_id"] in {"node-1", "node-2"}
    family = {process.pid: process for process in cluster.family()}
    assert {node["node_id"] for node in nodes} == {"node-1", "node-2"}
    assert {node[role] for node in nodes for role in ("agent_pid", "jobs_pid")} <= family.keys()
    cluster.until(cluster.completed, "a completed job")
    status = cluster.backbeat("status")
    assert "queue_populator" in status.stdout
    assert "nodes: 2 live" in status.stdout

    # it is one a data directory
    second = cluster.backbeat("up", "--config", str(cluster.config))
    assert (second.returncode, second.stdout) == (1, "")
    assert f"is in use by another `backbeat up`: pid {cluster.process.pid} since " in second.stderr

    # passwords are where only their owner reads them
    url = json.loads((cluster.data / "up.json").read_text())["redis_url"]
    password = url.partition("://:")[2].partition("@")[0]
    assert len(password) >= 20
    assert not any(password in words(process) for process in cluster.family())
    # Flower asks for none, so it listens on loopback alone
    (flower,) = (process for process in family.values() if " flower " in words(process))
    assert {connection.laddr.ip for connection in flower.net_connections() if connection.status == "LISTEN"} == {
        "127.0.0.1"
    }

    assert cluster.end(signal.SIGINT) == 0
    assert re.search(r"stopping: .*\n.*stopped 7 processes\n$", cluster.text)
    assert not [process for process in family.values() if alive(process)]
    assert marked(cluster.data) == []
    assert cluster.backbeat("status").returncode == 1
    logs = {path.name: path.read_text() for path in (cluster.data / "logs").iterdir()}
    assert logs.keys() == {f"{name}.log" for name in ("server", "beat", "flower")} | {
        f"node-{number}-{role}.log" for number in (1, 2) for role in ("agent", "jobs")
    }
    for name, text in logs.items():
        assert password not in text, name
        assert not re.search(r"Traceback|ERROR|CRITICAL|WARNING/|^\[[WE] ", text, re.MULTILINE), f"{name}:\n{text}"


def test_after_a_kill_the_next_up_clears_up_and_goes_on_beside_another(up: Callable[..., Up]) -> None:
    other = up("other", "--nodes", "1", "--flower-auth", "ops:let-me-in")
    cluster = up("killed", "--nodes", "1", "--data", "da ta")
    cluster.until(lambda: cluster.completed() >= 2, "two completed jobs")
    cluster.until_said("ready after")
    other.until_said("ready after")
    theirs = other.children()
    # with credentials, the dashboard has buttons, for those who know them
    page = other.until_said(r"the loops at http://\S+/loops").removeprefix("the loops at ")
    known = urllib.request.Request(page, headers={"Authorization": f"Basic {b64encode(b'ops:let-me-in').decode()}"})
    with urllib.request.urlopen(known, timeout=10) as answer:
        assert 'data-action="pause"' in answer.read().decode()
    with pytest.raises(HTTPError, match="401") as refused:
        urllib.request.urlopen(page, timeout=10)
    refused.value.close()
    assert not [pid for pid in theirs if "let-me-in" in words(psutil.Process(pid))]
    family = cluster.until(
        lambda: next((found for found in [cluster.family()] if any("selfplay" in words(each) for each in found)), None),
        "a running job",
    )
    completed = cluster.completed()
    games = cluster.games()
    cluster.process.kill()
    cluster.process.wait()
    assert cluster.completed() >= completed  # what it left behind still works

    cluster.start()
    assert "an earlier run" in cluster.until_said("ended the processes that an earlier run of .* left behind")
    cluster.until_said("ready after")
    assert not [process for process in family if alive(process)]
    assert cluster.completed() >= completed
    cluster.until(lambda: cluster.games() > games, "more games")
    jobs = cluster.status()["jobs"]["by_status"]
    assert jobs["failed"] == jobs["abandoned"] == 0

    # what dies is started again, and said
    agent = psutil.Process(cluster.status()["leader"]["pid"])
    agent.kill()
    cluster.until_said(r"node-1-agent was killed \(SIGKILL\); starting it again in 0.5 s")
    (server,) = (process for process in cluster.family() if "valkey-server" in words(process))
    server.kill()
    cluster.until_said(r"server was killed \(SIGKILL\); starting it again in 0.5 s")
    cluster.until(lambda: cluster.leader() not in (None, agent.pid), "another leader")
    completed = cluster.completed()
    cluster.until(lambda: cluster.completed() > completed, "more completed jobs")

    assert other.process.poll() is None
    assert theirs == other.children()
    assert cluster.end(signal.SIGTERM) == 0
    assert marked(cluster.data) == []
    assert other.end(signal.SIGHUP) == 0  # its terminal was closed
    assert marked(other.data) == []
    assert "killed" not in other.text


def test_a_signal_while_it_starts_stops_what_has_started(up: Callable[..., Up]) -> None:
    cluster = up("early", "--nodes", "1")
    cluster.until_said("starting 1 node")
    assert cluster.end(signal.SIGINT) == 0
    assert re.search(r"stopped \d+ process", cluster.text)
    assert "ready" not in cluster.text
    assert marked(cluster.data) == []


def test_a_second_ctrl_c_does_not_wait_for_the_drain(up: Callable[..., Up]) -> None:
    cluster = up("hurried", "--nodes", "1", "--drain", "1h", command=SLEEPER)
    cluster.until(lambda: any("signal.pause()" in words(each) for each in cluster.family()), "a running job")
    cluster.until_said("ready after")
    cluster.process.send_signal(signal.SIGINT)
    said = time.monotonic()
    cluster.until_said("running jobs get 3600 s")
    cluster.process.send_signal(signal.SIGINT)  # one Ctrl-C may come twice
    cluster.until(lambda: time.monotonic() > said + 1.5, "the second Ctrl-C")
    assert cluster.process.poll() is None
    assert cluster.end(signal.SIGINT) == 0
    assert "by force" in cluster.text
    assert marked(cluster.data) == []


def test_nodes_that_scaling_started_end_with_it(up: Callable[..., Up]) -> None:
    # by itself it asks for no more; its first run may come before node-1 is heard, and then it counts none
    scaling = {"interval": "1s", "provider": "local", "min_nodes": 0, "max_nodes": 2, "scale_up_threshold": 1000}
    cluster = up("scaled", "--nodes", "1", stanzas={"auto_scaling": scaling})
    cluster.until_said("ready after")
    assert cluster.backbeat("scale", "--nodes", "2").returncode == 0

    def extra() -> dict[str, Any]:
        nodes = cluster.status().get("nodes", [])
        return next(
            (node for node in nodes if node["node_id"] != "node-1" and node["agent_pid"] and node["jobs_pid"]), {}
        )

    node = cluster.until(extra, "a node of scaling's")
    assert node["node_id"].startswith("auto-")
    processes = [psutil.Process(node[role]) for role in ("agent_pid", "jobs_pid")]
    assert set(processes) <= set(marked(cluster.data))  # the next `up` finds them, should this one be killed
    assert cluster.end(signal.SIGINT) == 0
    assert re.search(r"stopped 7 processes\n$", cluster.text)
    assert not [process for process in processes if alive(process)]
    assert marked(cluster.data) == []
    log = cluster.data / "instances" / node["node_id"] / "logs" / "jobs.log"
    assert "Warm shutdown" in log.read_text()


def test_under_nohup_whoever_reads_its_lines_may_go(up: Callable[..., Up]) -> None:
    cluster = up("unread", "--nodes", "1", unread=True)
    cluster.process.send_signal(signal.SIGHUP)
    cluster.until(cluster.completed, "a completed job")
    assert cluster.process.poll() is None
    assert cluster.end(signal.SIGINT) == 0
    assert marked(cluster.data) == []


def test_a_node_that_runs_already_on_that_server_is_refused(
    up: Callable[..., Up], session_server: Any, redis: Redis
) -> None:
    running = {"host": socket.gethostname(), "pid": os.getpid()}
    NodeRegistry(redis).heartbeat("lab-2", "agent", running)
    cluster = up("again", "--redis", session_server.url, "--name", "lab")
    assert cluster.process.wait(60) == 1
    assert f"lab-2 runs already on this server: pid {os.getpid()} on {running['host']}; stop it" in cluster.text
    assert "--name" in cluster.text
    assert redis.ping()  # the server was not its own to stop


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("requirepass", "secret", "it wants a password"),
        ("maxmemory-policy", "volatile-lru", "may evict keys .*CONFIG SET maxmemory-policy noeviction"),
    ],
)
def test_a_server_that_will_not_do_is_refused_before_anything_starts(
    up: Callable[..., Up], session_server: Any, redis: Redis, option: str, value: str, why: str
) -> None:
    before = redis.config_get(option)[option]
    redis.config_set(option, value)
    try:
        cluster = up("refused", "--redis", session_server.url)
        assert cluster.process.wait(60) == 1
    finally:
        redis.config_set(option, before)
    assert re.fullmatch(rf"backbeat: .*{why}.*\n", cluster.text)
