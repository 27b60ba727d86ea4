"""The command that shows and pins the number of nodes."""

from __future__ import annotations

import re
from dataclasses import asdict

import click

from fleet.scale_snapshot import LOOP
from fleet.scale_state import ScaleState
from workers import show_scale
from workers.cli_cluster import Cluster, fail, json_option, on_cluster, printed

#: Names that scaling gives its nodes, whatever the prefix: a tick's number, and one within it.
_OURS = re.compile(r"[a-z][a-z0-9-]{0,19}-[0-9]+-[0-9]+")


@click.command()
@click.option("--nodes", "pinned", metavar="N", type=click.IntRange(0), help="Keep so many, within the loop's limits.")
@click.option("--auto", is_flag=True, help="Leave the number to auto_scaling again.")
@json_option
@on_cluster
def scale(cluster: Cluster, pinned: int | None, auto: bool, as_json: bool) -> None:
    """Show how many nodes there are, how many there should be and why; or pin their number.

    A pinned number holds until --auto, within min_nodes and max_nodes of auto_scaling, from that loop's next run on.

    \b
    Examples:
      backbeat scale
      backbeat scale --nodes 4
      backbeat scale --auto
      backbeat run auto_scaling
    """
    if auto and pinned is not None:
        raise click.UsageError("give either --nodes or --auto")
    state = ScaleState(cluster.redis)
    if auto or pinned is not None:
        state.pin(pinned)
    try:
        scaling = state.read()
    except ValueError as error:
        fail(str(error))
    status = cluster.manager.get_status()
    nodes = [node for node in status["nodes"] if _OURS.fullmatch(node["node_id"]) and node["status"] != "left"]
    document = {**asdict(scaling), "nodes_started": nodes, "loop": status["loops"].get(LOOP)}
    printed(document, as_json, lambda console: show_scale.scale(document, status["now"], console.width))
