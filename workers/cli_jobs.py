"""The commands that show jobs, end them, take them up again, and read their logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from fleet.configs import BoardConfig
from fleet.job import ENDED_BADLY, Job, JobStatus, check_job_id
from workers import show_jobs
from workers.cli_cluster import (
    DURATION,
    Cluster,
    Parsed,
    bar,
    config_names,
    fail,
    job_ids,
    job_kinds,
    json_option,
    node_ids,
    on_cluster,
    printed,
)
from workers.cli_nodes import limit_option
from workers.settings import check_node_id
from workers.table import ago, printable

#: Seconds between two looks at a log that is followed.
LOOK = 1.0
#: Jobs that one `retry` with filters takes up.
MOST = 1000


def _checked(value: str) -> str:
    check_job_id(value)
    return value


JOB = Parsed("job", _checked)
STATUS = click.Choice([status.value for status in JobStatus])


def _filters(command: Any) -> Any:
    for option in (
        click.option(
            "--node",
            metavar="NODE",
            type=Parsed("node", check_node_id),
            shell_complete=node_ids,
            help="Held by it, or last so.",
        ),
        click.option(
            "--config",
            metavar="CONFIG",
            type=Parsed("config", lambda name: str(BoardConfig.parse(name))),
            shell_complete=config_names,
            help="Of this board configuration, such as hex8_2p.",
        ),
        click.option("--kind", metavar="KIND", shell_complete=job_kinds, help="Of this kind, such as selfplay."),
        click.option("--status", "statuses", type=STATUS, multiple=True, help="In this status; may be given again."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@json_option
@on_cluster
def jobs(cluster: Cluster, as_json: bool) -> None:
    """Count the jobs by kind and status. Those that are over are counted since the beginning.

    \b
    Examples:
      backbeat jobs
      backbeat jobs list --status failed --kind selfplay
      backbeat jobs logs selfplay-hex8_2p-0123456789ab --follow
    """
    document = cluster.manager.get_status()["jobs"]
    printed(document, as_json, lambda _: show_jobs.counts(document))


@jobs.command(name="list")
@_filters
@limit_option
@json_option
@on_cluster
def list_jobs(
    cluster: Cluster,
    statuses: tuple[str, ...],
    kind: str | None,
    config: str | None,
    node: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs: running ones first, then claimed, pending (the next first), and over (the newest first).

    Of those that are over, the last 1,000 of the last 24 hours are known.

    \b
    Examples:
      backbeat jobs list
      backbeat jobs list --status failed --status abandoned --node node-1
      backbeat jobs list --kind training --limit 200 --json
    """
    asked = [JobStatus(status) for status in statuses] or list(JobStatus)
    found = cluster.queue.find(asked, kind=kind, config=config, node=node, limit=limit + 1)
    status = cluster.manager.get_status()
    printed(
        [asdict(job) for job in found[:limit]],
        as_json,
        lambda console: show_jobs.jobs(found, status["now"], console.width, limit, status["jobs"]["depth"]),
    )


@jobs.command()
@click.argument("job", type=JOB, shell_complete=job_ids)
@json_option
@on_cluster
def show(cluster: Cluster, job: str, as_json: bool) -> None:
    """Show all of one JOB: where it stands, its attempts, payload, result, and what last went wrong.

    \b
    Example:
      backbeat jobs show selfplay-hex8_2p-0123456789ab
    """
    found = _get(cluster, job)
    now = cluster.manager.get_status()["now"]
    printed(asdict(found), as_json, lambda _: show_jobs.job(found, now))


@jobs.command()
@click.argument("jobs", nargs=-1, required=True, type=JOB, shell_complete=job_ids, metavar="JOB...")
@click.option("--reason", metavar="TEXT", default="cancelled by an operator", show_default=True, help="Kept with it.")
@json_option
@on_cluster
def cancel(cluster: Cluster, jobs: tuple[str, ...], reason: str, as_json: bool) -> None:
    """End JOBs that are not over yet. A node that runs one stops it within seconds.

    \b
    Example:
      backbeat jobs cancel selfplay-hex8_2p-0123456789ab --reason "wrong model"
    """
    said = {job: cluster.queue.cancel(job, reason) for job in dict.fromkeys(jobs)}
    done = {job: status for job, status in said.items() if status is JobStatus.CANCELLED}
    _tell(said, done, "cancelled", as_json)


@jobs.command()
@click.argument("jobs", nargs=-1, type=JOB, shell_complete=job_ids, metavar="[JOB]...")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@on_cluster
def retry(
    cluster: Cluster,
    jobs: tuple[str, ...],
    statuses: tuple[str, ...],
    kind: str | None,
    config: str | None,
    node: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Take JOBs up again that ended badly: pending, with all of their attempts before them.

    Either name them, or choose among those that ended badly within the last day.

    \b
    Examples:
      backbeat jobs retry selfplay-hex8_2p-0123456789ab
      backbeat jobs retry --status failed --kind selfplay
      backbeat jobs retry --status abandoned --node node-1 --yes
    """
    filtered = bool(statuses or kind or config or node)
    if bool(jobs) == filtered:
        raise click.UsageError("name jobs, or choose them with --status, --kind, --config or --node")
    if filtered:
        wanted = {JobStatus(status) for status in statuses} or set(ENDED_BADLY)
        if over := sorted(wanted - ENDED_BADLY):
            raise click.BadParameter(f"{over[0]} is no bad end: {', '.join(sorted(ENDED_BADLY))} are")
        found = cluster.queue.find(wanted, kind=kind, config=config, node=node, limit=MOST)
        jobs = tuple(job.id for job in found)
        if jobs and not yes:
            click.confirm(f"Take up {len(jobs):,} {'job' if len(jobs) == 1 else 'jobs'} again?", abort=True, err=True)
    said = {}
    with bar("jobs", len(jobs)) as advance:
        for job in dict.fromkeys(jobs):
            said[job] = cluster.queue.retry(job)
            advance(1)
    if not said and not as_json:
        click.echo("no job is like that")
        return
    done = {job: JobStatus.PENDING for job, status in said.items() if status in ENDED_BADLY}
    _tell(said, done, "pending again", as_json)


@jobs.command()
@click.argument("job", type=JOB, shell_complete=job_ids)
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the job is over.")
@click.option(
    "--lines", "-n", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Of its end, so many lines."
)
@click.option("--wait", type=DURATION, default="5s", show_default=True, help="How long the node has to answer.")
@json_option
@on_cluster
def logs(cluster: Cluster, job: str, follow: bool, lines: int, wait: float, as_json: bool) -> None:
    """Print the end of what JOB has printed, from the node that runs it or ran it last.

    Of a long log, the last 64 KiB at most; all of it is in jobs/JOB/log of that node's data directory.

    \b
    Examples:
      backbeat jobs logs selfplay-hex8_2p-0123456789ab
      backbeat jobs logs selfplay-hex8_2p-0123456789ab --follow
      backbeat jobs logs selfplay-hex8_2p-0123456789ab --lines 1000 > log
    """
    if follow and as_json:
        raise click.UsageError("give either --follow or --json")
    try:
        _print_log(cluster, job, lines, wait, follow, as_json)
    except KeyboardInterrupt:
        return


def _print_log(cluster: Cluster, job_id: str, lines: int, wait: float, follow: bool, as_json: bool) -> None:
    offset: int | None = None
    source: str | None = None
    while True:
        job = _get(cluster, job_id)  # before its log: what it printed until it was over is not missed
        if job.node is None and not follow:
            fail(f"{job.id} is {job.status}, and no node has it: there is no log to ask for")
        if job.node != source:
            offset, source = None, job.node
            if not as_json:
                click.echo(f"{job.id}: {job.status}" + (f", on {source}" if source else ""), err=True)
        part = _excerpt(cluster, job, lines, offset, wait) if source else {"missing": True}
        if as_json:
            printed({"job": job.id, "node": source, **part}, as_json, lambda _: "")
            return
        if "missing" not in part:
            sys.stdout.write(printable(str(part["text"]), keep="\n\t"))
            sys.stdout.flush()
            offset = part["end"]
            if part["text"] and part["end"] < part["size"]:
                continue
        elif job.status.is_final or not follow:
            fail(f"{source} has no log of {job.id} (any more): a node keeps the newest 1,000 of seven days")
        if job.status.is_final or not follow:
            return
        time.sleep(LOOK)


def _excerpt(cluster: Cluster, job: Job, lines: int, offset: int | None, wait: float) -> Mapping[str, Any]:
    """A part of a job's log, from the node that has it. Ends the command when that has none to give."""
    said = cluster.ask(str(job.node), "job_log", {"job_id": job.id, "lines": lines, "offset": offset}, wait)
    if said is None:
        fail(f"{job.node}, which has the log of {job.id}, does not answer: {_standing(cluster, job)}")
    if "error" in said:
        fail(f"{job.node} cannot read the log of {job.id}: {printable(str(said['error']))}")
    answer: Mapping[str, Any] = said["answer"]
    return answer


def _standing(cluster: Cluster, job: Job) -> str:
    """How a job's node stands, and what the registry itself knows of the job's end."""
    now = cluster.manager.get_status()["now"]
    node = next((node for node in cluster.nodes.all() if node.node_id == job.node), None)
    if node is None:
        said = ["the registry does not know that node"]
    else:
        agent = (
            f"its agent was last heard {ago(node.heard['agent'], now)}" if "agent" in node.roles else "it has no agent"
        )
        said = [f"it is {node.status(now)}", *node.reasons, agent]
    error = f"\nThe last error, as the registry has it: {job.error}" if job.error else ""
    return printable("; ".join(said) + error)


def _get(cluster: Cluster, job_id: str) -> Job:
    try:
        found = cluster.queue.get(job_id)
    except ValueError as error:
        fail(f"{job_id}: {printable(str(error))}")
    if found is None:
        fail(f"no job is named {job_id!r}, or it has been over for a day; `backbeat jobs list` shows those there are")
    return found


def _tell(said: Mapping[str, JobStatus | None], done: Mapping[str, JobStatus], past: str, as_json: bool) -> None:
    """What came of each job, and how those that are done stand now; exit code 1 when one was refused."""
    if as_json:
        documents = {job: {"done": job in done, "status": done.get(job, status)} for job, status in said.items()}
        printed(documents, as_json, lambda _: "")
    for job, status in said.items() if not as_json else ():
        if job in done:
            click.echo(f"{job}: {past}")
        else:
            why = "no such job, or it has been over for a day" if status is None else f"refused: it is {status}"
            click.echo(f"backbeat: {job}: {why}", err=True)
    if len(done) < len(said):
        sys.exit(1)
