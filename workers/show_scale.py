"""What the command line shows people of scaling."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from workers.show import NODE_STYLES
from workers.table import Column, Document, age, ago, bounded, facts, fitted, until

#: Nodes that are listed.
_LISTED = 50


def scale(document: Document, now: float, width: int) -> RenderableType:
    """How many nodes there should be and why, what scaling waits for, and the nodes it started."""
    loop, decided_at = document["loop"], document["decided_at"]
    counts = loop["last_counts"] if loop is not None else {}
    coming = [name for name, wait in document["awaited"].items() if not wait["counted"]]
    overdue = document["awaited"].keys() - coming
    rows = {
        "nodes": f"{document['nodes']} at work or coming, {document['wanted']} wanted, as of {ago(decided_at, now)}"
        if decided_at
        else "nothing is decided yet",
        "because": document["reason"],
        "number": "as auto_scaling decides" if document["pinned"] is None else f"pinned to {document['pinned']}",
        "pending": f"{counts['pending']:g} jobs that these nodes could run" if "pending" in counts else "",
        "coming": ", ".join(f"{name} (asked for {ago(_since(document, name), now)})" for name in sorted(coming)),
        "overdue": ", ".join(sorted(overdue)),
        "last up": ago(document["last_up_at"] or None, now),
        "last down": ago(document["last_down_at"] or None, now),
        "failures": f"{document['failures']} in a row, the last {ago(document['failed_at'], now)}"
        if document["failures"]
        else "",
        "loop": _loop(loop, now),
    }
    parts: list[RenderableType] = [facts(rows, {"failures": "red", "overdue": "red"})]
    nodes = document["nodes_started"]
    if nodes:
        table = fitted(_COLUMNS, nodes[:_LISTED], now, width, lambda each: NODE_STYLES[each["status"]])
        parts += [Text(), table]
    if left_out := bounded(min(len(nodes), _LISTED), len(nodes), "nodes that it started", "backbeat nodes --limit"):
        parts.append(left_out)
    return Group(*parts)


def _since(document: Document, name: str) -> float:
    return float(document["awaited"][name]["since"])


def _loop(loop: Document | None, now: float) -> str:
    if loop is None:
        return "auto_scaling is not in the timetable: it runs with the next beat that knows it"
    last, following = ago(loop["last_run_time"], now), until(loop["next_run"], now)
    said = f"auto_scaling is {loop['state']}, last run {last}, next {following}"
    return f"{said}\n{loop['last_error']}" if loop["consecutive_errors"] else said


def _drains(each: Document, now: float) -> str:
    drain = each["draining"]
    return f"draining for {age(drain.get('at', now), now)}" if drain is not None else ""


_COLUMNS = (
    Column("node", lambda each, _: each["node_id"], right=False),
    Column("status", lambda each, _: each["status"], right=False),
    Column("jobs", lambda each, _: f"{len(each['running_jobs'])} of {each['slots']}"),
    Column("last seen", lambda each, now: ago(each["last_seen"], now)),
    Column("drain", _drains, right=False),
)
