"""The command line: `backbeat ...`, and the same under `celery -A workers.app loops ...`.

Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from fleet.kinds import CENTRAL
from schedules.plan import Plan, PlanError
from workers import cli_cluster, cli_elo, cli_jobs, cli_loops, cli_models, cli_nodes, cli_progress, cli_scale, datadir
from workers import probe as probing
from workers.cli_cluster import DURATION, URL, Parsed, fail
from workers.datadir import UpError
from workers.settings import VERSION, Settings, SettingsError, check_credentials, check_node_id


@click.group(
    name="loops",  # what Celery calls it
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `backbeat up` (a whole cluster on this machine) and `backbeat status --watch`.",
)
@click.version_option(VERSION, prog_name="backbeat")
def backbeat() -> None:
    """The background loops of a self-play training cluster.

    Commands find the cluster of a `backbeat up` that was started in this directory, or take its server from
    BACKBEAT_REDIS_URL. Exit codes: 0 done, 1 refused or failed, 2 usage.
    """


for _command in (
    cli_cluster.status,
    cli_nodes.nodes,
    cli_jobs.jobs,
    cli_models.models,
    cli_progress.progress,
    cli_scale.scale,
    cli_elo.elo,
    cli_cluster.leader,
    cli_loops.run,
    cli_loops.pause,
    cli_loops.resume,
    cli_loops.start,
    cli_loops.stop,
    cli_loops.interval,
):
    backbeat.add_command(_command)


@backbeat.command()
@click.option("--nodes", type=click.IntRange(1, 64), default=2, show_default=True, help="Nodes to run.")
@click.option("--slots", type=click.IntRange(1, 256), help="Jobs a node runs at once; default: the cores, shared out.")
@click.option(
    "--name",
    type=Parsed("name", lambda name: check_node_id(f"{name}-64").removesuffix("-64")),
    default="node",
    show_default=True,
    help="What the nodes are called, before their number.",
)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar="BACKBEAT_DATA",
    show_envvar=True,
    default=datadir.DEFAULT,
    show_default=True,
    help="Where the server, the nodes and the logs keep their files.",
)
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="BACKBEAT_CONFIG",
    show_envvar=True,
    default=Settings.config,
    show_default=True,
    help="The loops' configuration.",
)
@click.option(
    "--redis",
    metavar="URL",
    type=URL,
    envvar="BACKBEAT_REDIS_URL",
    show_envvar=True,
    help="Use this server instead of an embedded one.",
)
@click.option(
    "--flower-port",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    default=5555,
    show_default=True,
    help="Port of the dashboard; the next free one if it is taken.",
)
@click.option(
    "--flower-auth",
    metavar="NAME:PASSWORD",
    type=Parsed("credentials", check_credentials),
    envvar="FLOWER_BASIC_AUTH",
    show_envvar=True,
    default="",
    help="What the dashboard asks for; without it, it shows everything and steers nothing.",
)
@click.option(
    "--drain", type=DURATION, default="10s", show_default=True, help="How long running jobs may go on after Ctrl-C."
)
def up(
    nodes: int,
    slots: int | None,
    name: str,
    data: Path,
    config: Path,
    redis: str | None,
    flower_port: int,
    flower_auth: str,
    drain: float,
) -> None:
    """Run a whole cluster on this machine, in the foreground.

    An embedded server, an agent and a jobs worker a node, beat, and Flower. Ctrl-C drains and stops all of it;
    the next `up` on the same data directory goes on where it was, also after a crash.

    \b
    Examples:
      backbeat up --config config/openspiel.yaml
      backbeat up --nodes 4 --data ~/cluster
      backbeat up --redis redis://:password@10.0.0.5:6379/0 --name lab
      FLOWER_BASIC_AUTH=ops:password backbeat up    # a dashboard with buttons
    """
    from workers.local import Local, Wanted

    try:
        capabilities = Settings.from_environment({**os.environ, "BACKBEAT_REDIS_URL": ""}).capabilities
        plan = load_plan(config)
        for warning in _warnings(plan, (*capabilities, CENTRAL)):
            say(warning)
        wanted = Wanted(
            data=data,
            config=config,
            nodes=nodes,
            slots=slots or max(1, (os.cpu_count() or 1) // nodes),
            name=name,
            capabilities=capabilities,
            redis_url=redis,
            flower_port=flower_port,
            flower_auth=flower_auth,
            drain=drain,
        )
        Local(wanted, say).run()
    except PlanError as error:
        hint = "" if config.exists() else "\nName your configuration with --config."
        fail(f"nothing is started, for there are mistakes in the configuration:\n{error}{hint}")
    except (SettingsError, UpError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or data}: {error.strerror or error}")


def say(line: str) -> None:
    """A line of `up`, with the time. Whoever read them may be gone: the cluster goes on."""
    try:
        click.echo(f"{time.strftime('%H:%M:%S')} {line}")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warnings(plan: Plan, capabilities: tuple[str, ...]) -> list[str]:
    wanted = {kind.capability for kind in getattr(plan.sections, "jobs", {}).values()}
    return [f"warning: {warning}" for warning in plan.warnings] + [
        f"warning: no node here runs jobs that want {each!r}; to offer it: BACKBEAT_CAPABILITIES="
        f"{','.join([*(offered for offered in capabilities if offered != CENTRAL), each])}"
        for each in sorted(wanted - set(capabilities))
    ]


def load_plan(file: Path) -> Plan:
    """Read a configuration against the declared loops. Raises PlanError."""
    from fleet.options import FleetOptions
    from schedules.plan import load
    from tasks.loop import discover

    return load(file, {name: loop.options for name, loop in discover().items()}, FleetOptions)


@backbeat.command()
@click.argument("file", type=click.Path(path_type=Path), envvar="BACKBEAT_CONFIG", default=Settings.config)
def check(file: Path) -> None:
    """Check a configuration FILE: every problem at once, with its line and what would be accepted.

    Without FILE: that of BACKBEAT_CONFIG, or config/unified_loop.yaml.

    \b
    Example:
      backbeat check config/unified_loop.yaml
    """
    try:
        plan = load_plan(file)
    except PlanError as error:
        click.echo(str(error))
        sys.exit(1)
    for warning in plan.warnings:
        click.echo(f"warning: {warning}", err=True)
    enabled = [name for name, stanza in plan.stanzas.items() if stanza.enabled]
    click.echo(f"{file}: {len(plan.stanzas)} loops, {len(enabled)} enabled: {', '.join(sorted(enabled))}")


@backbeat.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what lets SHELL complete commands, options, and the names of loops, nodes, jobs and configurations.

    Loops are known by themselves; for the rest the cluster is asked, if it answers within half a second.

    \b
    Examples:
      eval "$(backbeat completion bash)"          # in ~/.bashrc
      eval "$(backbeat completion zsh)"           # in ~/.zshrc
      backbeat completion fish > ~/.config/fish/completions/backbeat.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has one for each of the choices
    click.echo(made(backbeat, {}, "backbeat", "_BACKBEAT_COMPLETE").source())


@backbeat.command()
@click.argument("question", type=click.Choice(probing.QUESTIONS))
@click.argument("role", type=click.Choice(probing.ROLES))
def probe(question: str, role: str) -> None:
    """Ask this node's process of that ROLE whether it is alive, or ready: exit code 0 or 1, and the reason.

    It is found by BACKBEAT_RUN, or BACKBEAT_DATA, which must be that process's own (Flower: FLOWER_PORT). Liveness
    does not need the server; readiness does.

    \b
    Examples:
      backbeat probe live agent
      backbeat probe ready jobs
    """
    sys.exit(probing.main((question, role)))


def main() -> None:
    """The console script."""
    backbeat(prog_name="backbeat")
