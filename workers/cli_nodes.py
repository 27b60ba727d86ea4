"""The commands that show and drain nodes."""

from __future__ import annotations

import difflib
import getpass
import socket
from dataclasses import asdict, replace
from typing import Any

import click

from fleet.nodes import Node
from workers import show_nodes
from workers.cli_cluster import Cluster, fail, json_option, node_ids, on_cluster, printed

limit_option = click.option(
    "--limit", metavar="N", type=click.IntRange(1), default=50, show_default=True, help="Lines to print at most."
)


@click.group(invoke_without_command=True)
@json_option
@limit_option
@on_cluster
def nodes(cluster: Cluster, as_json: bool, limit: int) -> None:
    """List the nodes: how each stands, what it does, when it was last seen; those that are not well come first.

    \b
    Examples:
      backbeat nodes
      backbeat nodes show node-1
      backbeat nodes drain node-1 --reason "new disk"
      backbeat nodes --json | jq -r '.[] | select(.status == "lost") | .node_id'
    """
    document = cluster.manager.get_status()
    printed(document["nodes"], as_json, lambda console: show_nodes.nodes(document, console.width, limit))


@nodes.command()
@click.argument("node", shell_complete=node_ids)
@json_option
@on_cluster
def show(cluster: Cluster, node: str, as_json: bool) -> None:
    """Show all that is known of one NODE: its processes, jobs, metrics, addresses, marks, and its last hour.

    \b
    Examples:
      backbeat nodes show node-1
      backbeat nodes show node-1 --json | jq .roles.agent
    """
    status = cluster.manager.get_status()
    found = replace(_find(cluster, [node])[0], history=cluster.nodes.history(node))
    document = found.document(status["now"])
    leads = (status["leader"] or {}).get("node_id") == node
    all_of_it = {**asdict(found), **document, "leads": leads}
    for facts in all_of_it["roles"].values():
        facts.pop("probe", None)  # its key proves that an agent is that agent
    printed(
        all_of_it,
        as_json,
        lambda console: show_nodes.node(
            found, document, leads, status["now"], console.width, ascii_only=console.options.ascii_only
        ),
    )


@nodes.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=node_ids)
@click.option("--reason", metavar="TEXT", default="", help="Why, for those who look at the node.")
@json_option
@on_cluster
def drain(cluster: Cluster, nodes: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Let NODEs claim no more jobs until undrain. What runs goes on to its end; loops run on them as before.

    \b
    Examples:
      backbeat nodes drain node-1 --reason "new disk"
      backbeat nodes drain node-1 node-2
    """
    at = cluster.manager.get_status()["now"]
    found = _find(cluster, nodes)
    mark = {"reason": reason, "at": at, "by": f"{_user()}@{socket.gethostname()}"}
    cluster.nodes.mark({node.node_id: {"drain": mark} for node in found})
    _tell(cluster, found, as_json, lambda node: f"{node.node_id}: drains; {_running(node)}")


def _unmark(name: str, mark: str, past: str, help_text: str) -> None:
    @nodes.command(name=name, help=f"{help_text}\n\n\b\nExample:\n  backbeat nodes {name} node-1")
    @click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=node_ids)
    @json_option
    @on_cluster
    def command(cluster: Cluster, nodes: tuple[str, ...], as_json: bool) -> None:
        found = _find(cluster, nodes)
        cluster.nodes.mark({node.node_id: {mark: None} for node in found})
        _tell(cluster, found, as_json, lambda node: f"{node.node_id}: {past}")


_unmark("undrain", "drain", "takes jobs again", "Let NODEs claim jobs again.")
_unmark(
    "reset",
    "tailnet",
    "its tailnet is recovered from the first attempt on",
    "Give NODEs all their attempts again to be recovered into their tailnet, from tailscale_recovery's next run on.",
)


def _find(cluster: Cluster, names: Any) -> list[Node]:
    """The nodes of these names; ends the command when there is one that is not known."""
    known = {node.node_id: node for node in cluster.nodes.all()}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "`backbeat nodes` lists those there are"
            fail(f"no node is named {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)]


def _tell(cluster: Cluster, before: list[Node], as_json: bool, line: Any) -> None:
    if as_json:
        now = cluster.manager.get_status()["now"]
        documents = [node.document(now) for node in _find(cluster, [node.node_id for node in before])]
        printed(documents, as_json, lambda _: "")
        return
    for node in before:
        click.echo(line(node))


def _running(node: Node) -> str:
    match len(node.running):
        case 0:
            return "no job runs on it"
        case 1:
            return "the job that runs on it goes on to its end"
        case number:
            return f"the {number} jobs that run on it go on to their end"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "unknown"
