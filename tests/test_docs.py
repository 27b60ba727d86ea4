"""What the documents say is tried out: examples run, defaults are the code's, commands parse, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel
from redis import Redis

import tasks
from fleet.inventory import StaticNode
from fleet.jobs import JobQueue, JobSpec
from fleet.kinds import JobKind
from fleet.nodes import NodeRegistry
from fleet.options import EloTarget, FleetOptions, Notify, PublicAddress, StoreOptions
from fleet.priority import CURRICULUM_WEIGHTS
from fleet.providers.command import CommandOptions
from fleet.providers.docker import DockerOptions
from fleet.providers.local import LocalOptions
from fleet.providers.simulated import SimulatedOptions
from fleet.rating_options import RatingOptions
from fleet.tailscale import SshOptions, TailnetOptions
from schedules.backoff import Backoff
from schedules.plan import Cadence, load
from tasks.auto_scaling import Options as Scaling
from tasks.data_aggregation import Options as Aggregation
from tasks.elo_sync import Options as EloSync
from tasks.health_aggregation import Options as Health
from tasks.idle_detection import Options as Idleness
from tasks.ip_discovery import Options as Discovery
from tasks.job_reaper import Options as Reaper
from tasks.loop import Tick, discover, loop
from tasks.model_sync import Options as Models
from tasks.queue_populator import Options as Populator
from tasks.tailscale_recovery import Options as Recovery
from workers.app import Backbeat, configure
from workers.cli import backbeat
from workers.ledger import Scheduled
from workers.manager import LoopManager
from workers.settings import Settings
from workers.status import read_status

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "deploy/README.md",
    "examples/openspiel/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)


def text(page: str) -> str:
    return (ROOT / page).read_text()


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    _, found, below = text(page).partition(f"# {heading}\n")
    assert found, f"{page} has no section {heading!r}"
    return re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]


def fenced(content: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", content, re.MULTILINE | re.DOTALL)


# the examples run ----------------------------------------------------------------------------------------


@pytest.fixture
def install(session_server: Any, redis: Redis, tmp_path: Path, monkeypatch: Any) -> Iterator[Callable[..., Backbeat]]:
    """Add a loop as a reader would: one file in a folder of `tasks`, one stanza behind the shipped configuration."""
    installed: list[str] = []

    def add(name: str, source: str, stanza: str) -> Backbeat:
        folder = tmp_path / "tasks"
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        installed.append(name)
        monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(folder)])
        config = tmp_path / "unified_loop.yaml"
        config.write_text(text("config/unified_loop.yaml") + "\n" + stanza)
        (tmp_path / "fleet.yaml").write_text(text("config/fleet.yaml"))
        settings = Settings(redis_url=session_server.url, config=config, data=tmp_path, node_id="n1")
        loops = discover()
        plan = load(config, {each: loop.options for each, loop in loops.items()}, FleetOptions)
        house = Backbeat(configure(settings), settings, plan, loops)
        house.ledger.seed(house.scheduled, prune=True)
        return house

    yield add
    for name in installed:
        sys.modules.pop(f"tasks.{name}", None)
        vars(tasks).pop(name, None)


def example(content: str, name: str) -> tuple[str, str]:
    """The file and the stanza of a loop shown in a document."""
    (source,) = (block for block in fenced(content, "python") if f"def {name}(" in block and "@loop" in block)
    (stanza,) = (block for block in fenced(content, "yaml") if block.startswith(f"{name}:"))
    return source, stanza


def test_the_readmes_loop_is_ten_lines_and_runs_as_it_stands(install: Callable[..., Backbeat]) -> None:
    source, stanza = example(text("README.md"), "silent_nodes")
    assert len([line for line in source.splitlines() if line]) <= 10
    house = install("silent_nodes", source, stanza)
    assert house.plan.stanzas["silent_nodes"].interval == 30

    registry: NodeRegistry = house.fleet.nodes
    registry.heartbeat("n1", "agent", {})
    registry.heartbeat("n2", "agent", {}, now=read_status(house.ledger)["now"] - 121)
    assert house.runner.run("silent_nodes", None) == "succeeded"
    assert read_status(house.ledger)["loops"]["silent_nodes"]["last_counts"] == {"silent": 1, "known": 2}


def test_the_migrated_loop_runs_as_it_stands(install: Callable[..., Backbeat]) -> None:
    source, stanza = example(text("docs/migration.md"), "stall_watch")
    house = install("stall_watch", source, stanza)
    assert house.loops["stall_watch"].is_async

    queue: JobQueue = house.fleet.jobs
    done, _ = queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(2)])
    long_ago = read_status(house.ledger)["now"] - 901
    assert queue.cancel(done, "not needed", now=long_ago) == "cancelled"
    assert house.runner.run("stall_watch", None) == "succeeded"
    assert read_status(house.ledger)["loops"]["stall_watch"]["last_counts"] == {"pending": 1, "stalled": 1}
    assert [notice.title for _, notice in house.fleet.notices.recent()] == ["No job ends"]


def test_the_program_that_steers_loops_runs_as_it_stands(
    install: Callable[..., Backbeat], session_server: Any, monkeypatch: Any, capsys: Any
) -> None:
    house = install("silent_nodes", *example(text("README.md"), "silent_nodes"))
    (program,) = (block for block in fenced(text("docs/migration.md"), "python") if "LoopManager(" in block)
    monkeypatch.setenv("BACKBEAT_REDIS_URL", session_server.url)
    exec(compile(program, "docs/migration.md", "exec"), {})
    assert capsys.readouterr().out == "True\n"
    assert read_status(house.ledger)["loops"]["queue_populator"]["paused"] is False


def test_what_migration_promises_exists(install: Callable[..., Backbeat]) -> None:
    house = install("silent_nodes", *example(text("README.md"), "silent_nodes"))
    sent: list[str] = []
    calls = section("docs/migration.md", "LoopManager").partition("| field of")[0]
    ours = "".join(re.findall(r"^\|.*?\|(.*)\|$", calls, re.MULTILINE))
    named = set(re.findall(r"`manager\.(\w+)\(", ours))
    assert len(named) >= 10
    assert [name for name in named if not callable(getattr(LoopManager, name, None))] == []
    for call in re.findall(r"`(manager\.\w+\([^`]*\)(?:\[\w+\])?)`", ours):
        manager = LoopManager(house.ledger, lambda name, queue, call: sent.append(name))
        manager.start("silent_nodes")
        eval(call, {"manager": manager, "name": "silent_nodes", "scheduled": Scheduled("eleventh", 60.0, "loops")})
    assert sent == ["silent_nodes"]
    assert "eleventh" in read_status(house.ledger)["loops"]
    fields = re.findall(r"^\| `(?:stats\.|status)\S* \| (.*) \|$", text("docs/migration.md"), re.MULTILINE)
    assert len(fields) == 12
    document = read_status(house.ledger)["loops"]["silent_nodes"]
    for name in ("name", "running", "enabled", "interval", "executing", *re.findall(r"`(\w+)`", " ".join(fields))):
        assert name in document, name


def test_every_argument_of_the_decorator_and_field_of_a_tick_is_listed() -> None:
    listed = set(re.findall(r"^\| `(\w+)", section("docs/loops.md", "Declaration"), re.MULTILINE))
    declared = {name for name in loop.__annotations__ if name not in ("body", "return")}
    assert listed == declared | (Tick.__dataclass_fields__.keys() - {"wanted_after"}) | {"next_after"}


# the defaults are the code's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "model", "required", "undocumented"),
    [
        ("Cadence", Cadence, {}, {"interval", "backoff"}),
        ("Backoff", Backoff, {}, set()),
        ("Options", Populator, {}, {"configs", "curriculum_weights"}),
        ("Options of health_aggregation", Health, {}, set()),
        ("Options of idle_detection", Idleness, {}, set()),
        ("Options of data_aggregation", Aggregation, {}, set()),
        ("Options of ip_discovery", Discovery, {}, set()),
        ("Inventory", StaticNode, {}, {"host", "tailscale_ip", "public_ip", "ssh_user", "ssh_key"}),
        ("Public address", PublicAddress, {}, set()),
        ("Options of elo_sync", EloSync, {}, set()),
        ("Options of job_reaper", Reaper, {}, set()),
        ("Options of auto_scaling", Scaling, {}, {"local", "docker", "command", "simulated"}),
        ("Options of model_sync", Models, {}, set()),
        ("Local nodes", LocalOptions, {}, {"commands"}),
        ("Containers", DockerOptions, {}, {"commands"}),
        ("Commands", CommandOptions, {}, set()),
        ("A rehearsal", SimulatedOptions, {}, set()),
        ("Kinds of jobs", JobKind, {"command": ["true"]}, {"command"}),
        ("Store", StoreOptions, {}, {"url"}),
        ("Ratings", RatingOptions, {}, set()),
        ("Elo targets", EloTarget, {}, {"target_elo", "min_games_for_training"}),
        ("Notify", Notify, {}, set()),
        ("Options of tailscale_recovery", Recovery, {}, set()),
        ("Tailnet", TailnetOptions, {}, {"auth_key_file", "ssh"}),
        ("SSH", SshOptions, {"known_hosts": "known_hosts"}, {"known_hosts", "user", "key"}),
    ],
)
def test_tables_of_options_are_complete_and_their_defaults_true(
    heading: str, model: type[BaseModel], required: dict[str, Any], undocumented: set[str]
) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section("docs/loops.md", heading), re.MULTILINE))
    assert rows.keys() == model.model_fields.keys()
    stated = {name: yaml.safe_load(cell[1:-1]) for name, cell in rows.items() if cell.startswith("`")}
    assert stated.keys() == model.model_fields.keys() - undocumented
    said = model.model_validate_json(json.dumps({**required, **stated}), strict=True)
    assert said == model.model_validate_json(json.dumps(required), strict=True)


def test_the_table_of_curriculum_weights_is_the_codes() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \|$", section("docs/loops.md", "Curriculum weights"), re.M
    )
    said = {f"{board}_{number}p": float(cell) for board, *cells in rows for number, cell in enumerate(cells, 2)}
    assert said == CURRICULUM_WEIGHTS


def test_the_environments_defaults_are_the_codes() -> None:
    rows = dict(re.findall(r"^\| `BACKBEAT_(\w+)` \| `(.*?)` \|", text("README.md"), re.MULTILINE))
    assert rows.keys() == {"REDIS_URL", "CONFIG", "DATA", "DRAIN", "CAPABILITIES", "BIND", "PORT"}
    stated = Settings.from_environment({f"BACKBEAT_{name}": value for name, value in rows.items()})
    assert replace(stated, node_id="") == replace(Settings.from_environment({}), node_id="")


# commands parse, links lead somewhere --------------------------------------------------------------------


def command_lines(page: str) -> list[str]:
    """Lines of code, indented or fenced, that call backbeat."""
    return re.findall(r"^(?:    )?(backbeat .*?)(?: [|>].*)?$", text(page), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_exists_with_its_options(page: str) -> None:
    named = set(re.findall(r"(?:`|^ *)backbeat ([a-z]+)", text(page), re.MULTILINE))
    assert named <= backbeat.commands.keys()
    for line in command_lines(page):
        _, *words = shlex.split(line, comments=True)
        command: click.Command = backbeat
        with click.Context(backbeat) as context:
            while isinstance(command, click.Group) and words and words[0] in command.commands:
                name, *words = words
                command = command.commands[name]
            command.make_context(command.name, words, parent=context)


def test_command_lines_are_found() -> None:
    assert len(command_lines("README.md")) > 5


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), f"{page}: {target}"
        if file.suffix != ".md":
            assert not anchor, f"{page}: {target}"
            continue
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{page}: {target}"


def test_the_readme_stays_short_and_has_a_place_for_figures() -> None:
    lines = text("README.md").splitlines()
    assert len(lines) <= 200
    assert "Figures: [benchmarks/README.md](benchmarks/README.md)." in lines
