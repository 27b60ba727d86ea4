"""How commands find their cluster, and those that show all of it: status, leader."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from redis import Redis, RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fleet import replies
from fleet.elo_board import EloBoard
from fleet.jobs import JobQueue
from fleet.nodes import NodeRegistry
from schedules import durations
from workers import datadir, show
from workers.ledger import Ledger
from workers.manager import LoopManager, RefusedByState, UnknownLoop
from workers.settings import Settings, SettingsError, check_url, connect, no_answer
from workers.status import read_overview

#: Seconds in which the server must answer when a shell asks what it may offer.
AT_ONCE = 0.5


class Cluster:
    """The cluster a command talks to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = connect(url)
        self.ledger = Ledger(self.redis)
        self.manager = LoopManager(self.ledger, self._send)
        self.nodes = NodeRegistry(self.redis)
        self.queue = JobQueue(self.redis)

    def ask(self, node_id: str, name: str, arguments: Mapping[str, Any], wait: float) -> Mapping[str, Any] | None:
        """Give a node a task and wait for what it says: {"answer": ...} or {"error": ...}; None: nothing in time."""
        from workers.app import configure, send_to_node

        token = replies.new_token()
        with _broker_errors():
            send_to_node(configure(Settings(redis_url=self.url)), node_id, name, arguments, token)
        return replies.wait_for(connect(self.url, timeout=wait + 2), token, wait)

    def _send(self, name: str, queue: str, call: str) -> None:
        from workers.app import send_run

        with _broker_errors():
            send_run(self.url, name, queue, call)


@contextmanager
def _broker_errors() -> Iterator[None]:
    """What the broker's client raises, as what ours does."""
    from kombu.exceptions import OperationalError  # it takes a while to import, and only messages need it

    try:
        yield
    except OperationalError as error:
        raise RedisError(str(error)) from error


class Parsed(click.ParamType[Any, Any]):
    """A value that a function of ours reads; what it raises ValueError for is a usage error."""

    def __init__(self, name: str, parse: Callable[[Any], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A sign of life on the terminal while something takes its time."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal while many of something are done; call it with how many more. Piped, nothing is drawn."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = [SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda number: shown.update(task, advance=number)


DURATION = Parsed("duration", durations.parse)
URL = Parsed("url", check_url)


def fail(message: str) -> NoReturn:
    """Say why, and end with exit code 1."""
    click.echo(f"backbeat: {message}", err=True)
    sys.exit(1)


# which cluster ---------------------------------------------------------------------------------------


def find(ctx: click.Context, redis: str | None, data: Path | None) -> str:
    """The server's URL: `--redis`, `--data`, the environment, a running `up`, the Celery app. Raises SettingsError."""
    if redis:
        return redis
    if data is None and os.environ.get("BACKBEAT_REDIS_URL"):
        return Settings.from_environment().redis_url
    if data is None and (stated := os.environ.get("BACKBEAT_DATA")):
        data = Path(stated)
    if data is not None:
        record = datadir.read_record(data)
        if record is None:
            raise SettingsError(f"no `backbeat up` runs on {data} ({data / datadir.RECORD} is missing)")
        return record.redis_url
    here = datadir.found_here()
    if len(here) > 1:
        choice = " or ".join(shlex.quote(str(folder)) for folder in here)
        raise SettingsError(f"more than one `backbeat up` runs here; say which: --data {choice}")
    if here:
        return next(iter(here.values())).redis_url
    app = getattr(getattr(ctx.obj, "app", None), "backbeat", None)
    if app is not None:
        return str(app.settings.redis_url)
    raise SettingsError(
        "no cluster found: no `backbeat up` was started in this directory, and BACKBEAT_REDIS_URL is not set; "
        "start one with `backbeat up`, or name its server with --redis, or its data directory with --data"
    )


def on_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options and errors of a command that talks to a cluster; it gets the cluster as first argument."""

    @click.option(
        "--redis",
        metavar="URL",
        type=URL,
        help="The cluster's server; default: BACKBEAT_REDIS_URL, or that of a running up.",
    )
    @click.option(
        "--data",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Data directory of a running up; default: BACKBEAT_DATA, or that of an up started here.",
    )
    @functools.wraps(command)
    def wrapped(redis: str | None, data: Path | None, **kwargs: Any) -> Any:
        ctx, url = click.get_current_context(), ""
        if ctx.invoked_subcommand is not None:  # a group: its options are also those of the command it leads to
            stated = {"redis": redis, "data": data, **kwargs}
            ctx.default_map = {ctx.invoked_subcommand: {name: each for name, each in stated.items() if each}}
            return None
        try:
            url = find(ctx, redis, data)
            return command(Cluster(url), **kwargs)
        except (SettingsError, UnknownLoop, RefusedByState) as error:
            fail(str(error))
        except RedisError as error:
            fail(no_answer(url, error) + _dead(url))

    return wrapped


def _dead(url: str) -> str:
    """The likely cause, when the server was that of an `up`."""
    gone = [record.pid for record in datadir.found_here().values() if record.redis_url == url and not record.alive]
    return f"; the `backbeat up` that ran it (pid {gone[0]}) is gone: start it again" if gone else ""


# what a shell offers ---------------------------------------------------------------------------------


def loop_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The loops that are declared: they are known without a server."""
    from tasks.loop import discover

    return [name for name in sorted(discover()) if name.startswith(incomplete)]


def known(names: Callable[[Redis], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What the cluster knows; nothing without a cluster, or without its answer at once: a shell must not wait."""

    def offered(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        def stated(name: str) -> Any:
            return next((value for each in (ctx, ctx.parent) if each and (value := each.params.get(name))), None)

        try:
            redis = connect(find(ctx, stated("redis"), stated("data")), timeout=AT_ONCE)
            return [name for name in sorted(names(redis)) if name.startswith(incomplete)]
        except (SettingsError, RedisError):
            return []

    return offered


node_ids = known(lambda redis: NodeRegistry(redis).ids())
job_ids = known(lambda redis: [job.id for job in JobQueue(redis).find(limit=1000)])
job_kinds = known(lambda redis: JobQueue(redis).counts().by_kind)
config_names = known(lambda redis: EloBoard(redis).read())


# sight -----------------------------------------------------------------------------------------------

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.command()
@click.argument("loop", required=False, shell_complete=loop_names)
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every second until Ctrl-C; with --json, a line each.")
@on_cluster
def status(cluster: Cluster, loop: str | None, as_json: bool, watch: bool) -> None:
    """Show every loop and what is wrong, or one LOOP with its last error in full, and its last runs.

    \b
    Examples:
      backbeat status --watch
      backbeat status queue_populator
      backbeat status --json | jq '.loops[] | select(.consecutive_errors > 0)'
      backbeat status queue_populator --json | jq .history
    """

    def read() -> dict[str, Any]:
        document = read_overview(cluster.ledger) if loop else cluster.manager.get_status()
        if loop is not None and loop not in document["loops"]:
            raise UnknownLoop(loop, list(document["loops"]))
        return document

    def chosen(document: dict[str, Any]) -> Any:
        return document["loops"][loop] if loop else document

    def render(document: dict[str, Any]) -> RenderableType:
        if loop:
            return show.loop(document["loops"][loop], document["now"])
        return show.status(document, console.width, troubles_first=watch)

    console = _console()
    document = read()
    try:
        if as_json and watch:
            for each in _every_second(read, document):
                click.echo(json.dumps({"error": str(each)} if isinstance(each, RedisError) else chosen(each)))
        elif as_json:
            click.echo(json.dumps(chosen(document), indent=2))
        elif watch:
            _watch(cluster.url, console, render, _every_second(read, document))
        else:
            console.print(render(document))
    except KeyboardInterrupt:
        return


def _every_second(read: Callable[[], dict[str, Any]], first: dict[str, Any]) -> Iterator[dict[str, Any] | RedisError]:
    document: dict[str, Any] | RedisError = first
    while True:
        yield document
        time.sleep(1)
        try:
            document = read()
        except RedisError as error:
            document = error


def _watch(
    url: str,
    console: Console,
    render: Callable[[dict[str, Any]], RenderableType],
    documents: Iterator[dict[str, Any] | RedisError],
) -> None:
    """Keeps the last picture below the error while the server is away."""
    last: RenderableType = ""
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for document in documents:
            if isinstance(document, RedisError):
                shown: RenderableType = Group(Text(no_answer(url, document), style="red"), Text(), last)
            else:
                shown = last = render(document)
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown, end="\n\n")


@click.command()
@json_option
@on_cluster
def leader(cluster: Cluster, as_json: bool) -> None:
    """Show who leads, and since when. Exit code 1 when nobody does.

    \b
    Examples:
      backbeat leader
      backbeat leader --json | jq -r .node_id
    """
    document = cluster.manager.get_status()
    printed(document["leader"], as_json, lambda _: show.leader(document))
    if document["leader"] is None:
        sys.exit(1)


def printed(document: Any, as_json: bool, render: Callable[[Console], RenderableType]) -> None:
    """What a command has to show: as JSON for scripts, or rendered for people."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        console = _console()
        console.print(render(console))


def _console() -> Console:
    """The terminal; what is piped into another program is not cut to a screen's width."""
    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=200)
