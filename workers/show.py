"""What the command line shows people: the status document as tables and plain lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from schedules import durations

Document = Mapping[str, Any]

STYLES = {
    "due": "green",
    "executing": "cyan",
    "waiting": "cyan",
    "paused": "yellow",
    "stopped": "yellow",
    "disabled": "dim",
    "backing_off": "red",
    "failing": "red",
    "overrun": "red",
    "lost": "red",
}

_LEAST_DID = 24


@dataclass(frozen=True)
class _Column:
    """A column of the loops' table. On a narrow screen the optional ones go, the highest first."""

    title: str
    cell: Callable[[Document, float], str]
    right: bool = True
    optional: int = 0


def status(document: Document, width: int, *, troubles_first: bool = False) -> RenderableType:
    """The whole cluster: every loop, what is wrong in full, and who does what; at most `width` columns."""
    if not document["loops"]:
        loops: RenderableType = Text("No loops yet: beat writes them when it starts.", style="yellow")
    else:
        loops = _loops(document, width)
    wrong: list[RenderableType] = []
    for name, text in _troubles(document):
        what, _, error = printable(f"{name}: {text}").partition("\n")
        wrong += [Text(what, style="red"), *([Padding(Text(error), (0, 0, 0, 2), expand=False)] if error else [])]
    facts: list[RenderableType] = [leader(document)] if document["leader"] else []
    facts += [_beat(document), Text(f"nodes: {_node_count(document)}; {progress(document)}")]
    if troubles_first:
        return Group(*wrong, *facts, Text(), loops)
    return Group(loops, Text(), *facts, *([Text(), *wrong] if wrong else []))


_COLUMNS = (
    _Column("loop", lambda each, _: str(each["name"]), right=False),
    _Column("state", lambda each, _: str(each["state"]), right=False),
    _Column("every", lambda each, _: durations.format(each["interval"]), optional=2),
    _Column("last run", lambda each, now: ago(each["last_run_time"], now)),
    _Column("next run", lambda each, now: until(each["next_run"], now)),
    _Column("runs", lambda each, _: str(each["run_count"])),
    _Column("errors", lambda each, _: str(each["error_count"])),
    _Column("missed", lambda each, _: str(each["missed"]), optional=3),
    _Column("avg", lambda each, _: milliseconds(each["average_duration_ms"]), optional=1),
    _Column("did", lambda each, _: _counts(each["last_counts"]), right=False, optional=4),
)


def _loops(document: Document, width: int) -> Table:
    loops = list(document["loops"].values())
    cells = {column: [printable(column.cell(each, document["now"])) for each in loops] for column in _COLUMNS}
    sizes = {column: max(map(len, [column.title, *texts])) for column, texts in cells.items()}
    sizes[_COLUMNS[-1]] = min(sizes[_COLUMNS[-1]], _LEAST_DID)  # only this one may be cut short
    shown = list(_COLUMNS)
    for column in sorted(_COLUMNS, key=lambda each: -each.optional):
        if column.optional and sum(sizes[each] + 2 for each in shown) - 2 > width:
            shown.remove(column)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        least = sizes[column] if column.title != "did" else None
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True, min_width=least)
    for index, each in enumerate(loops):
        style = STYLES[each["state"]]
        table.add_row(*(Text(cells[column][index], style="" if column.right else style) for column in shown))
    return table


def loop(document: Document, now: float) -> RenderableType:
    """One loop in full."""
    rows = {
        "state": _state(document, now),
        "every": durations.format(document["interval"]) + (", leader only" if document["leader_only"] else ""),
        "last run": f"{ago(document['last_run_time'], now)} on {document['last_run_by'] or '-'}: "
        f"{document['last_outcome'] or 'none yet'}",
        "last success": ago(document["last_success_at"], now),
        "next run": until(document["next_run"], now),
        "runs": f"{document['run_count']}, {document['error_count']} failed, {document['consecutive_errors']} in a "
        f"row; {milliseconds(document['average_duration_ms'])} on average",
        "missed": str(document["missed"]),
        "skipped": ", ".join(f"{why} {n}" for why, n in document["skipped"].items()) or "none",
        "counts": _counts(document["last_counts"]) or "none",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(printable(value), style=STYLES[document["state"]] if name == "state" else ""))
    if not document["last_error"]:
        return table
    title = f"last error, {ago(document['last_error_at'], now)}"
    text = Text(printable(f"{document['last_error']}\n\n{document['last_traceback'] or ''}".rstrip()))
    return Group(table, Text(), Panel(text, title=title, border_style="red" if document["consecutive_errors"] else ""))


def jobs(document: Document) -> RenderableType:
    """Counts by kind and status."""
    kinds: Mapping[str, Mapping[str, int]] = document["by_kind"]
    if not kinds:
        return Text("No jobs yet.")
    statuses = [name for name in document["by_status"] if any(kind.get(name) for kind in kinds.values())]
    rows = [[kind, *(str(counts.get(name, 0)) for name in statuses)] for kind, counts in sorted(kinds.items())]
    return _table(["kind", *statuses], rows, right=statuses)


def nodes(document: Document) -> RenderableType:
    """Every node."""
    if not document["nodes"]:
        return Text("No nodes yet: start an agent on one (celery -A workers.app worker).", style="yellow")
    leads = (document["leader"] or {}).get("node_id")
    rows, styles = [], []
    for node in document["nodes"]:
        left, live = node["status"] == "left", node["live"]
        rows.append(
            [
                node["node_id"] + (" (leader)" if node["node_id"] == leads else ""),
                node["host"] or "-",
                str(node["agent_pid"] or "-"),
                str(node["jobs_pid"] or "-"),
                f"{len(node['running_jobs'])} of {node['slots']}",
                ago(node["last_seen"], document["now"]) + (" (stopped)" if left else "" if live else " (lost)"),
            ]
        )
        styles.append("dim" if left else "" if live else "red")
    return _table(["node", "host", "agent pid", "jobs pid", "jobs", "last seen"], rows, styles=styles)


def leader(document: Document) -> Text:
    """Who leads."""
    found = document["leader"]
    if found is None:
        return Text("leader: none", style="red")
    held = ago(found["since"], document["now"]).removesuffix(" ago")
    who = f"{found['node_id']} (pid {found['pid']} on {found['host']})"
    return Text(printable(f"leader: {who}, for {held}, fence {found['fence']}"))


def _beat(document: Document) -> Text:
    active, replicas = document["beat"]["active"], document["beat"]["replicas"]
    if active is None:
        return Text(f"beat: none active, {len(replicas)} standing by")
    standing_by = f", {len(replicas) - 1} standing by" if len(replicas) > 1 else ""
    return Text(printable(f"beat: pid {active['pid']} on {active['host']}{standing_by}"))


def progress(document: Document) -> str:
    """The jobs in a few words."""
    counts = {name: number for name, number in document["jobs"]["by_status"].items() if number}
    games = sum(document["jobs"]["games"].values())
    listed = ", ".join(f"{number} {name}" for name, number in counts.items()) or "none yet"
    return f"jobs: {listed}" + (f"; {games} games in completed jobs" if games else "")


def troubles(document: Document) -> dict[str, str]:
    """What is wrong, by what it is wrong with: processes that are missing, nodes lost, loops that fail."""
    return dict(_troubles(document))


def _troubles(document: Document) -> Iterable[tuple[str, str]]:
    now = document["now"]
    if document["beat"]["active"] is None:
        yield "beat", "none is active, so nothing ticks; start one: celery -A workers.app beat"
    if not has_agent(document):
        yield "agents", "none is there, so no loop runs; start one: celery -A workers.app worker"
    elif document["leader"] is None:
        yield "leader", "none, so leader-only loops wait"
    for node in document["nodes"]:
        if node["status"] != "left" and not node["live"] and now - node["last_seen"] < 86_400:
            yield node["node_id"], f"lost; last seen {ago(node['last_seen'], now)} on {node['host'] or 'no host'}"
    for each in document["loops"].values():
        if text := _loop_trouble(each, now):
            yield each["name"], text


def _loop_trouble(each: Document, now: float) -> str:
    if each["executing"] and each["state"] in ("overrun", "lost"):
        since = ago(each["executing_since"], now).removesuffix(" ago")
        what = "runs past its deadline" if each["state"] == "overrun" else "has lost its worker"
        return f"{what} on {each['executing_by']}, for {since}"
    if not each["consecutive_errors"] or not each["enabled"]:
        return ""
    times = "1 failure" if each["consecutive_errors"] == 1 else f"{each['consecutive_errors']} failures in a row"
    following = f"next try {until(each['next_run'], now)}" if each["next_run"] is not None else f"now {each['state']}"
    return f"{times}, the last {ago(each['last_error_at'], now)}, {following}\n{str(each['last_error']).strip()}"


def has_agent(document: Document) -> bool:
    """Whether any agent is there to run a loop."""
    return any(node["agent_pid"] is not None and node["live"] for node in document["nodes"])


def ago(at: float | None, now: float) -> str:
    """How long ago an instant was."""
    return "never" if at is None else f"{_span(max(1.0, now - at))} ago"


def until(at: float | None, now: float) -> str:
    """How long until an instant."""
    if at is None:
        return "-"
    return f"in {_span(at - now)}" if round(at - now) > 0 else "now"


def milliseconds(number: float) -> str:
    """A duration as short as it can be said."""
    if round(number) < 1000:
        return f"{number:.0f}ms"
    return f"{number / 1000:.1f}s" if number < 60_000 else _span(number / 1000)


def _span(seconds: float) -> str:
    """Two units at most: nobody needs the seconds of a day."""
    unit = 3600 if seconds >= 86_400 else 60 if seconds >= 3600 else 1
    return durations.format(round(seconds) // unit * unit)


def _state(each: Document, now: float) -> str:
    if each["backing_off_until"] is not None and each["state"] in ("backing_off", "overrun"):
        return f"{each['state']}, {until(each['backing_off_until'], now)}"
    if each["executing"]:
        return f"{each['state']} on {each['executing_by']} since {ago(each['executing_since'], now)}"
    return str(each["state"])


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:.10g}" for name, number in counts.items())


def _node_count(document: Document) -> str:
    live = sum(node["live"] for node in document["nodes"])
    return f"{live} live" if live else "none"


def _table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), styles: Sequence[str] = ()
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in right else "left")
    for index, row in enumerate(rows):
        table.add_row(*(Text(printable(cell)) for cell in row), style=styles[index] if styles else None)
    return table


def printable(text: str) -> str:
    """Without what would steer the terminal: errors may hold what a remote machine said."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)
