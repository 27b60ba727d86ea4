"""The users of deploy/redis/users.acl: each role does all of its work as its own user, and is refused the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from tests.conftest import free_port
from tests.stories.conftest import Process
from tests.waiting import until
from workers import keys
from workers.cli import backbeat
from workers.settings import connect

pytestmark = pytest.mark.story

ROOT = Path(__file__).parents[2]
ROLES = ("agent", "jobs", "beat", "flower", "operator")


class Guarded:
    """A server with our users, and processes that come as them."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.admin = Redis(port=server.port, decode_responses=True)
        for line in (ROOT / "deploy/redis/users.acl").read_text().splitlines():
            if line.startswith("user "):
                _, name, *rules = line.split()
                password = [f">{name}-password"] if name in ROLES else []
                if name != "default":  # which is the test's own eye
                    self.admin.execute_command("ACL", "SETUSER", name, *rules, *password)
        self.processes: list[Process] = []

    def url(self, role: str) -> str:
        return f"redis://{role}:{role}-password@127.0.0.1:{self.server.port}/0"

    def client(self, role: str) -> Redis:
        return Redis.from_url(self.url(role), decode_responses=True)

    def env(self, role: str) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("BACKBEAT_")},
            "BACKBEAT_REDIS_URL": self.url(role),
            "BACKBEAT_CONFIG": str(self.folder / "loops.yaml"),
            "BACKBEAT_DATA": str(self.folder / "n1"),
            "BACKBEAT_NODE_ID": "n1",
            "BACKBEAT_BIND": "127.0.0.1",
            "BACKBEAT_STORE": str(self.folder / "store"),
            "BACKBEAT_DRAIN": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def process(self, role: str, *arguments: str) -> Process:
        argv = [sys.executable, "-m", "celery", "-A", "workers.app", *arguments]
        process = Process(role, argv, self.env(role), self.folder / f"{role}.log")
        self.processes.append(process)
        return process

    def command(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(backbeat, words, env=self.env("operator"))
        assert done.exit_code == code, (words, done.output, done.exception, self.refused())
        return done.stdout

    def refused(self) -> list[str]:
        """What the server refused, as `user: object (context)`."""
        log: Any = self.admin.acl_log()
        return [f"{each['username']}: {each['reason']} {each['object']} ({each['context']})" for each in log]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.admin.close()


@pytest.fixture
def guarded(own_server: Any, tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(own_server, tmp_path)
    yield guarded
    guarded.close()


def configure(guarded: Guarded) -> list[str]:
    """Every loop that is shipped, every second, and jobs that take no time."""
    plan = yaml.safe_load((ROOT / "config/unified_loop.yaml").read_text())
    loops = {name: stanza for name, stanza in plan.items() if isinstance(stanza, dict) and "interval" in stanza}
    for stanza in loops.values():
        stanza.update(interval="1s", initial_delay="0s", enabled=True)
        stanza.pop("backoff", None)
    (guarded.folder / "n1").mkdir()
    plan["jobs"] = {"selfplay": {"command": [sys.executable, "-c", "print('played')"]}}
    loops["queue_populator"].update(min_queue_depth=3, max_queue_depth=5, backpressure_soft=3, backpressure_hard=5)
    shutil.copy(ROOT / "config/fleet.yaml", guarded.folder)
    (guarded.folder / "loops.yaml").write_text(yaml.safe_dump(plan))
    return list(loops)


def test_each_role_does_all_of_its_work_as_its_own_user(guarded):
    names = configure(guarded)
    guarded.process("agent", "worker", "-n", "agent@n1", "-l", "INFO")
    guarded.process("jobs", "worker", "-n", "jobs@n1", "-Q", "jobs.cpu,jobs.central", "-c", "2", "-l", "INFO")
    guarded.process("beat", "beat", "-l", "INFO")
    port = free_port()
    guarded.process("flower", "flower", "--address=127.0.0.1", f"--port={port}")

    def status() -> dict[str, Any]:
        assert " | ".join(guarded.refused()) == ""
        assert [(each.name, each.text()[-1500:]) for each in guarded.processes if not each.alive] == []
        found: dict[str, Any] = json.loads(guarded.command("status", "--json"))
        return found

    def all_ran() -> bool:
        loops = status()["loops"]
        return all(loops.get(name, {}).get("run_count", 0) > 1 for name in names)

    until(all_ran, 30, lambda: str([(p.name, p.text()[-1500:]) for p in guarded.processes]))
    loops = status()["loops"]
    assert {name: loops[name]["last_error"] for name in names if loops[name]["error_count"]} == {}
    until(lambda: "completed" in guarded.command("jobs", "list", "--json"), 10)
    job = json.loads(guarded.command("jobs", "list", "--status", "completed", "--json"))[0]["id"]
    for words in [
        ("jobs", "show", job),
        ("jobs", "logs", job),
        ("jobs",),
        ("pause", "idle_detection"),
        ("resume", "idle_detection"),
        ("stop", "idle_detection"),
        ("start", "idle_detection"),
        ("interval", "idle_detection", "5m"),
        ("run", "health_aggregation", "--wait", "10s"),
        ("nodes",),
        ("nodes", "show", "n1"),
        ("nodes", "drain", "n1"),
        ("nodes", "undrain", "n1"),
        ("scale", "--nodes", "2"),
        ("scale", "--auto"),
        ("leader",),
    ]:
        guarded.command(*words)
    for page in ("/", "/workers?refresh=1", "/tasks", "/broker", "/metrics", "/healthcheck"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            assert answer.status == 200
    agent, jobs, beat, _flower = guarded.processes
    assert [agent.terminate(), jobs.terminate(), beat.terminate()] == [0, 0, 0]
    assert " | ".join(guarded.refused()) == ""
    assert [
        each.name for each in guarded.processes if re.search("NOPERM|NoPermission|may not listen", each.text())
    ] == []


#: What a role writes: keys of ours by their names on the page of keys (None: all), and of the broker's.
OURS: dict[str, tuple[str, ...] | None] = {
    "agent": None,
    "flower": None,
    "operator": None,
    "jobs": ("job:", "jobs:", "nodes", "node:", "totals", "events", "notices:"),
    "beat": ("loops", "loop:", "history:", "due", "running", "issued", "beat", "beats", "events", "notices:"),
}
BROKERS = {
    "loops": ROLES,
    "leader": ROLES,
    "node.n1": ("agent", "operator"),
    "jobs.cpu": ("agent", "jobs", "operator"),
    "_kombu.binding.loops": ROLES,
    "unacked": ("agent", "jobs", "flower"),
    "x.reply.celery.pidbox": ("agent", "jobs", "flower"),
    "celeryev.x": ("flower",),
    "elsewhere": (),
}
ADMINISTRATION = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET maxmemory", "CONFIG SET maxmemory 1", "SHUTDOWN", "DEBUG SLEEP 0",
    "ACL LIST", "ACL SETUSER x", "CLIENT LIST", "CLIENT KILL 1.2.3.4:5", "MONITOR", "SAVE", "REPLICAOF NO ONE",
    "SCRIPT FLUSH", "FUNCTION FLUSH", "MODULE LIST", "SCAN 0", "MIGRATE h 1 k 0 1", "SWAPDB 0 1", "LATENCY RESET",
    "DBSIZE", "RANDOMKEY", "FCALL f 0", "FCALL_RO f 0", "SORT x", "ACL WHOAMI",
)  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_refused_what_is_not_its_work(guarded, role):
    for command in ADMINISTRATION:
        assert dry_run(guarded, role, *command.split()).startswith(f"User {role} has no permissions to run"), command
    written = {key: role in roles for key, roles in BROKERS.items()}
    ours = OURS[role]
    for page in keys.PAGE:
        name = page.name.removeprefix("{backbeat}:")
        written[page.name + "x" * page.name.endswith(":")] = ours is None or any(
            name == each or (each.endswith(":") and name.startswith(each)) for each in ours
        )
    for key, may in written.items():
        for write in (("DEL", key), ("LPUSH", key, "x"), ("HSET", key, "f", "v"), ("SET", key, "v")):
            said = dry_run(guarded, role, *write)
            assert said == "OK" if may else "no permissions to access" in said, (write, said)
    for key in ("node.n1", "jobs.cpu"):  # the dashboard shows how many wait there
        assert (dry_run(guarded, role, "LLEN", key) == "OK") is (written[key] or role == "flower"), key
    for listen in ("SUBSCRIBE elsewhere", "PSUBSCRIBE *", "PUBLISH elsewhere x"):
        said = dry_run(guarded, role, *listen.split())
        assert "no permissions" in said, listen
        may = role not in ("beat", "operator") or (role, listen[:3]) == ("beat", "PUB")
        assert ("permissions to run" in said) is not may, said
    client = guarded.client(role)
    with pytest.raises(NoPermissionError):
        client.flushall()
    with pytest.raises(NoPermissionError):
        client.publish("elsewhere", "x")
    with pytest.raises((NoPermissionError, ResponseError), match=r"(?i)permission|acl"):
        client.eval("return redis.call('DEL', KEYS[1])", 1, "elsewhere")  # nor by way of a script
    client.close()


def dry_run(guarded: Guarded, role: str, *command: str) -> str:
    return str(guarded.admin.execute_command("ACL", "DRYRUN", role, *command))


def test_nobody_may_log_in_before_a_password_is_set_and_without_a_name_nobody_may_do_anything(tmp_path, own_server):
    own_server.kill()
    server = type(own_server)(tmp_path / "guarded")
    shutil.copy(ROOT / "deploy/redis/users.acl", tmp_path)  # as it is: the form allows no comments
    server.start("--aclfile", str(tmp_path / "users.acl"))
    try:
        for role in ROLES:
            for password in ("", "x"):
                client = connect(f"redis://{role}:{password}@127.0.0.1:{server.port}/0")
                with pytest.raises(AuthenticationError):
                    client.ping()
                client.close()
        with connect(server.url) as nobody, pytest.raises(AuthenticationError):
            nobody.ping()
    finally:
        server.kill()
