"""The house guards itself: what is declared, configured, tested, documented and stored stays one thing."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from redis import Redis

from fleet import replies
from fleet.elo_board import EloBoard
from fleet.fence import Fence
from fleet.gathering_state import GatheringState, Record
from fleet.jobs import Holder, JobQueue, JobSpec
from fleet.nodes import NodeRegistry
from fleet.notice_groups import SharedGroups
from fleet.notices import Notice, Notices
from fleet.options import FleetOptions
from fleet.scale_state import ScaleState
from schedules.plan import load
from tasks.loop import Loop, discover
from tasks.node import discover_node_tasks
from workers import keys
from workers.cli import backbeat
from workers.jobs import RUN_JOB
from workers.lease import LeaderLease
from workers.ledger import Grant, Ledger, Scheduled
from workers.settings import connect
from workers.show import STYLES
from workers.status import _state

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config" / "unified_loop.yaml"
LOOPS = discover()
ROOMS = ("fleet", "schedules", "tasks", "workers")


def text(path: str) -> str:
    return (ROOT / path).read_text()


def tracked(*patterns: str) -> list[Path]:
    """The files in git that match."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    # a checkout may belong to another user than the one who tests it
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert found, f"git knows no file like {patterns}"
    return [path for path in found if path.is_file()]


def house_code() -> str:
    """Every line of Python in the rooms and the examples."""
    return "\n".join(path.read_text() for room in (*ROOMS, "examples") for path in (ROOT / room).rglob("*.py"))


def section(path: str, heading: str) -> str:
    """What stands below a heading, up to the next of its level."""
    level = r"\1(?!#)"
    found = re.search(rf"^(#+) {re.escape(heading)}$\n(.*?)(?=^{level} |\Z)", text(path), re.MULTILINE | re.DOTALL)
    assert found, f"{path} has no section {heading!r}"
    return found[2]


# loops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
class TestEveryLoop:
    def test_has_a_file_of_its_name_and_nothing_else_in_it(self, loop: Loop) -> None:
        assert loop.body.__module__ == f"tasks.{loop.name}"

    def test_has_a_stanza_of_its_own(self, loop: Loop) -> None:
        assert re.search(rf"^{loop.name}:$", CONFIG.read_text(), re.MULTILINE)

    def test_has_a_test_file(self, loop: Loop) -> None:
        assert "def test_" in text(f"tests/tasks/test_{loop.name}.py")

    def test_says_what_it_does_and_what_makes_it_idempotent(self, loop: Loop) -> None:
        assert loop.summary
        assert "dempotent" in (inspect.getdoc(loop.body) or "")

    def test_is_explained_with_every_option(self, loop: Loop) -> None:
        explained = section("docs/loops.md", loop.name)
        missing = [name for name in loop.options.model_fields if f"\n| `{name}` |" not in explained]
        assert not missing


def test_the_shipped_configuration_has_a_stanza_for_every_loop_and_no_other() -> None:
    plan = load(CONFIG, {name: loop.options for name, loop in LOOPS.items()}, FleetOptions)
    assert plan.stanzas.keys() == LOOPS.keys()
    assert plan.warnings == ()


def test_names_on_the_wire_are_explicit_and_never_module_paths() -> None:
    program = "from workers.app import app; print(*app.tasks)"
    env = {**os.environ, "BACKBEAT_CONFIG": str(CONFIG)}
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, check=True)
    names = {name for name in printed.stdout.decode().split() if not name.startswith("celery.")}
    assert names == {RUN_JOB, *(f"loops.{name}" for name in LOOPS), *(f"node.{name}" for name in discover_node_tasks())}


def test_no_process_takes_memory_for_arithmetic_before_there_is_something_to_rate() -> None:
    program = "import sys; from workers.app import app; print(bool(app.tasks), 'numpy' in sys.modules)"
    env = {**os.environ, "BACKBEAT_CONFIG": str(CONFIG)}
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, check=True)
    assert printed.stdout.decode().split() == ["True", "False"]


# keys ----------------------------------------------------------------------------------------------------


def live(url: str) -> Redis:
    """A moment in which everything that Backbeat writes to Redis is there at once."""
    redis = connect(url)
    ledger, lease, queue = Ledger(redis), LeaderLease(redis, "n1"), JobQueue(redis)
    ledger.seed([Scheduled(name, 60.0, "leader", leader_only=True) for name in ("a", "b", "c")], prune=True)
    assert lease.try_once()
    waiting, running, ended = ledger.claim("b1", '{"host": "h", "pid": 1}', ttl=3.0, grace=2.0).ticks
    assert waiting.seq == 1
    for tick in (running, ended):
        grant = ledger.gate(
            tick.name, tick.seq, tick.name, ttl=8.0, deadline=9.0, leader_only=True, owner=lease.token, identity="n1"
        )
        assert isinstance(grant, Grant)
    assert ledger.record(ended.name, ended.name, "succeeded") == "succeeded"

    NodeRegistry(redis).heartbeat("n1", "agent", {"host": "h", "pid": 1})
    NodeRegistry(redis).mark({}, totals={"nodes": 1})
    Notices(redis=redis).send(Notice("Something happened"))
    SharedGroups(redis, 60.0, 10.0).add("Something happened", 0, "held back")
    replies.answer(redis, replies.new_token(), {"answer": {}})

    ScaleState(redis).pin(3)
    EloBoard(redis).targets({"hex8_2p": {"target": 2000.0, "met": False}})
    EloBoard(redis).publish({}, "digest")
    GatheringState(redis).write(Record())

    fence = Fence(lease.fence(), lease.token, running.name, keys.GUARD, keys.LOOP + running.name)
    assert len(queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(5)], fence=fence)) == 5
    holder = Holder("n1", "o1")
    _claimed, started, completed, failed = (queue.claim(holder, ["cpu"]) for _ in range(4))
    assert queue.start(holder, started.id, started.attempt)
    assert queue.complete(holder, completed.id, completed.attempt, {"games": 3})
    assert queue.fail(holder, failed.id, failed.attempt, "no luck", retry_after=60.0) == "pending"
    return redis


#: Of the lifetimes on the page, those that the server itself ends.
EXPIRES = ("24 h once it is over", "24 h since its last", "60 s", "4 s after a renewal")


def test_every_key_is_on_the_page_of_keys_with_its_type_and_lifetime(session_server: Any, redis: Redis) -> None:
    client = live(session_server.url)
    seen: dict[str, set[str]] = {}
    for key in client.scan_iter():
        (entry,) = (entry for entry in keys.PAGE if entry.covers(key))
        assert client.type(key) == entry.type, key
        assert client.ttl(key) == -1 or entry.ttl in EXPIRES, key
        seen.setdefault(entry.name, set()).add(key)
    assert seen.keys() == {entry.name for entry in keys.PAGE}  # nor is anything on it that does not exist


def test_keys_are_named_in_one_place_and_share_one_hash_tag() -> None:
    named = re.findall(r'"(\{backbeat\}[^"]*)"', house_code())
    assert sorted(named) == sorted(entry.name for entry in keys.PAGE)
    lua = [path for path in tracked("*.lua") if "{backbeat}" in path.read_text()]
    assert not lua, "a script is given its keys"


# files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "limit"), [("*.py", 400), ("*.lua", 200)])
def test_no_file_is_longer_than_one_idea(pattern: str, limit: int) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked(pattern)}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > limit} == {}


def test_no_file_is_named_for_nothing_in_particular() -> None:
    vague = {"utils", "util", "helpers", "common", "misc", "base"}
    assert [path for path in tracked("*.py") if path.stem in vague or path.parent.name in vague] == []


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    private = re.compile(r"(?<![\w./~])/(?:work|root|home|Users)/")
    found = {}
    for path in tracked():
        if line := private.search(path.read_text(errors="replace")):
            found[str(path.relative_to(ROOT))] = line[0]
    assert found == {}


# the lock ------------------------------------------------------------------------------------------------


def normal(requirement: str) -> str:
    """A requirement's distribution as the lock writes it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_the_lock_covers_every_dependency() -> None:
    project = tomllib.loads(text("pyproject.toml"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in (*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()):
        wanted += extra
    locked = {normal(line) for line in text("requirements.lock").splitlines() if re.match(r"\S+==", line)}
    assert {normal(each) for each in wanted} - locked == set()


def test_the_lock_pins_by_hash_and_names_no_download_host() -> None:
    lock = text("requirements.lock")
    assert "://" not in lock
    assert not re.search(r"^-", lock, re.MULTILINE), "an option such as --index-url"
    pinned = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)[1:]
    assert [each.split()[0] for each in pinned if "==" not in each or "--hash=sha256:" not in each] == []


# documents -----------------------------------------------------------------------------------------------


def test_the_readme_names_the_two_commands_and_no_target_that_is_not_there() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", text("README.md")))
    assert {"run", "test"} <= named <= set(re.findall(r"^([a-z]+):.*## ", text("Makefile"), re.MULTILINE))


def test_every_command_is_documented() -> None:
    pages = text("README.md") + text("docs/operations.md")
    assert [name for name in command_names(backbeat, "backbeat") if name not in pages] == []


def command_names(group: click.Group, called: str) -> Iterator[str]:
    """Each command as it is called, those of groups too."""
    for name, command in group.commands.items():
        yield f"{called} {name}"
        if isinstance(command, click.Group):
            yield from command_names(command, f"{called} {name}")


def test_every_node_task_says_what_makes_it_idempotent() -> None:
    assert [task.name for task in discover_node_tasks().values() if "dempotent" not in (task.body.__doc__ or "")] == []


def test_every_environment_variable_is_in_the_readme() -> None:
    used = set(re.findall(r"\bBACKBEAT_[A-Z_]+", house_code()))
    assert "BACKBEAT_REDIS_URL" in used
    assert [name for name in sorted(used) if f"`{name}`" not in text("README.md")] == []


def test_every_outcome_of_a_tick_is_explained() -> None:
    gate = text("workers/lua/gate.lua")
    outcomes = set(re.findall(r"(?:refuse\(|return \{)'(\w+)'", gate)) - {"granted"}
    for script in ("claim", "record"):
        outcomes |= set(re.findall(r"'skipped:(\w+)'", text(f"workers/lua/{script}.lua")))
    outcomes |= set(re.findall(r'(?:_End\(|deny=|gone\.run, |return )"(\w+)"', text("workers/runner.py")))
    assert {"stale", "overrunning", "timed_out", "abandoned", "late", "unknown"} <= outcomes
    assert [name for name in sorted(outcomes) if f"\n| `{name}` |" not in text("docs/loops.md")] == []


def test_every_state_is_in_the_runbook() -> None:
    assert [name for name in STYLES if f"\n| `{name}` |" not in text("docs/operations.md")] == []
    returns = (node.value for node in ast.walk(ast.parse(inspect.getsource(_state))) if isinstance(node, ast.Return))
    assert {state for value in returns for state in constants(value)} == STYLES.keys()


def constants(value: ast.expr | None) -> list[str]:
    """The texts that an expression may be."""
    if isinstance(value, ast.IfExp):
        return [*constants(value.body), *constants(value.orelse)]
    assert isinstance(value, ast.Constant)
    return [value.value]
