"""The command that shows how far the cluster has come."""

from __future__ import annotations

import click

from workers import show_progress
from workers.cli_cluster import Cluster, json_option, on_cluster, printed
from workers.progress import read_progress


@click.command()
@click.option(
    "--rows", metavar="N", type=click.IntRange(1, 720), default=12, show_default=True, help="How many instants to list."
)
@json_option
@on_cluster
def progress(cluster: Cluster, rows: int, as_json: bool) -> None:
    """Show each configuration's Elo against its target, and over time the queue, and games and jobs an hour.

    With --json, every instant that is kept: the last hours, a row a cycle of health_aggregation.

    \b
    Examples:
      backbeat progress
      backbeat progress --json | jq '.totals[-1].games_per_hour'
      backbeat progress --json | jq '.elo[] | select(.target.met | not) | .config'
    """
    document = read_progress(cluster.redis)
    printed(document, as_json, lambda console: show_progress.progress(document, rows, console.width))
