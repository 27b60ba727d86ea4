"""The commands that steer loops: run, pause, resume, start, stop, interval."""

from __future__ import annotations

import time
from typing import Any

import click

from schedules import durations
from workers import show
from workers.cli_cluster import DURATION, Cluster, fail, loop_names, on_cluster, waiting
from workers.manager import UnknownLoop
from workers.table import milliseconds, printable

REFUSALS = {
    "stopped": "it is stopped",
    "disabled": "it is disabled in the configuration",
    "overlapped": "it is running already",
    "overrunning": "an earlier run of it is past its deadline and has not ended yet",
    "not_leader": "the leadership has just moved; try again",
}


@click.command()
@click.argument("loop", shell_complete=loop_names)
@click.option(
    "--wait",
    type=DURATION,
    default="30s",
    show_default=True,
    help="How long to wait for its outcome; 0s: not at all.",
)
@on_cluster
def run(cluster: Cluster, loop: str, wait: float) -> None:
    """Run LOOP now, and say what came of it.

    A manual run skips cadence, backoff and pause, never the run lease or the leader gate.

    \b
    Examples:
      backbeat run queue_populator
      backbeat run queue_populator --wait 5m
    """
    status = cluster.manager.get_status()
    if loop in status["loops"] and not show.has_agent(status):
        fail("no agent is there to run it; start one: celery -A workers.app worker")
    call = cluster.manager.run(loop)
    if not wait:
        click.echo(f"{loop}: sent")
        return
    with waiting(f"{loop} runs, for up to {durations.format(wait)}"):
        manual = _outcome(cluster, loop, call, wait)
    if manual is not None:
        _tell(loop, manual)
        return
    fail(f"{loop}: no outcome within {durations.format(wait)}; see: backbeat status {loop}")


def _outcome(cluster: Cluster, loop: str, call: str, wait: float) -> dict[str, Any] | None:
    """What came of a manual run; None when nothing did in time."""
    give_up = time.monotonic() + wait
    while time.monotonic() < give_up:
        manual: dict[str, Any] | None = cluster.manager.get_all_status()[loop]["manual"]
        if manual is not None and manual["call"] == call:
            return manual
        time.sleep(0.1)
    return None


def _tell(name: str, manual: dict[str, Any]) -> None:
    outcome = manual["outcome"]
    if outcome == "succeeded":
        counts = ", ".join(f"{what} {number:.10g}" for what, number in manual["counts"].items())
        click.echo(f"{name}: succeeded in {milliseconds(manual['duration_ms'])}" + f" ({counts})" * bool(counts))
    elif outcome in REFUSALS:
        fail(f"{name}: refused: {REFUSALS[outcome]}")
    else:
        fail(f"{name}: {outcome}: {printable(str(manual['error']))}; its traceback: backbeat status {name}")


def _steer(name: str, past: str, help_text: str) -> click.Command:
    @click.argument("loops", nargs=-1, metavar="[LOOP]...", shell_complete=loop_names)
    @click.option("--all", "everything", is_flag=True, help="Every loop.")
    @on_cluster
    def command(cluster: Cluster, loops: tuple[str, ...], everything: bool) -> None:
        if bool(loops) == everything:
            raise click.UsageError("name one or more loops, or give --all")
        known = cluster.manager.names()
        for loop in loops:
            if loop not in known:  # before anything is done
                raise UnknownLoop(loop, known)
        if not known:
            fail("no loops yet: beat writes them when it starts")
        for loop in loops or known:
            getattr(cluster.manager, name)(loop)
        click.echo(f"{past}: {', '.join(loops or known)}")

    command.__doc__ = f"{help_text}\n\n\b\nExamples:\n  backbeat {name} elo_sync\n  backbeat {name} --all"
    return click.command(name=name)(command)


pause = _steer("pause", "paused", "Pause loops: no scheduled ticks until resume. What runs now ends by itself.")
resume = _steer("resume", "resumed", "Resume paused loops: they tick again at their next slot.")
start = _steer("start", "started", "Start stopped loops: a pause ends too, and what failed before is forgotten.")
stop = _steer("stop", "stopped", "Stop loops: not even a manual run until start. What runs now ends by itself.")


@click.command()
@click.argument("loop", shell_complete=loop_names)
@click.argument("every", type=DURATION)
@on_cluster
def interval(cluster: Cluster, loop: str, every: float) -> None:
    """Let LOOP tick EVERY so often (30s, 5m), until the configuration's own interval is edited.

    \b
    Example:
      backbeat interval queue_populator 5m
    """
    try:
        cluster.manager.set_interval(loop, every)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="EVERY") from error
    click.echo(f"{loop}: every {durations.format(every)}")
