"""What the command line shows people of the cluster and its loops: the status document as tables and plain lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from schedules import durations
from workers.table import Column, Document, age, ago, dated, facts, fitted, milliseconds, printable, until

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

#: How a node stands, the best first, and how that is shown.
NODE_STYLES = {"healthy": "green", "suspect": "yellow", "unhealthy": "red", "lost": "red", "left": "dim"}
#: Nodes that are named among the troubles.
_AILING = 10


def status(document: Document, width: int, *, troubles_first: bool = False) -> RenderableType:
    """The whole cluster: every loop, what is wrong in full, and who does what; at most `width` columns."""
    if not document["loops"]:
        loops: RenderableType = Text("No loops yet: beat writes them when it starts.", style="yellow")
    else:
        rows = list(document["loops"].values())
        loops = fitted(_COLUMNS, rows, document["now"], width, lambda each: STYLES[each["state"]])
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
    Column("loop", lambda each, _: str(each["name"]), right=False),
    Column("state", lambda each, _: str(each["state"]), right=False),
    Column("every", lambda each, _: durations.format(each["interval"]), optional=4),
    Column("last run", lambda each, now: ago(each["last_run_time"], now), optional=1),
    Column("next run", lambda each, now: until(each["next_run"], now)),
    Column("runs", lambda each, _: str(each["run_count"]), optional=2),
    Column("errors", lambda each, _: str(each["error_count"])),
    Column("missed", lambda each, _: str(each["missed"]), optional=5),
    Column("avg", lambda each, _: milliseconds(each["average_duration_ms"]), optional=3),
    Column("did", lambda each, _: _counts(each["last_counts"]), right=False, optional=6, least=24),
)


def loop(document: Document, now: float) -> RenderableType:
    """One loop in full."""
    began = dated(ago(document["last_run_time"], now), document["last_run_time"])
    rows = {
        "state": _state(document, now),
        "every": durations.format(document["interval"]) + (", leader only" if document["leader_only"] else ""),
        "last run": f"{began} on {document['last_run_by'] or '-'}: {document['last_outcome'] or 'none yet'}",
        "last success": dated(ago(document["last_success_at"], now), document["last_success_at"]),
        "next run": dated(until(document["next_run"], now), document["next_run"]),
        "runs": f"{document['run_count']}, {document['error_count']} failed, {document['consecutive_errors']} in a "
        f"row; {milliseconds(document['average_duration_ms'])} on average",
        "missed": str(document["missed"]),
        "skipped": ", ".join(f"{why} {n}" for why, n in document["skipped"].items()) or "none",
        "counts": _counts(document["last_counts"]) or "none",
        "history": history_says(document.get("history", ())),
    }
    table = facts(rows, {"state": STYLES[document["state"]]})
    if not document["last_error"]:
        return table
    title = f"last error, {dated(ago(document['last_error_at'], now), document['last_error_at'])}"
    text = Text(printable(f"{document['last_error']}\n\n{document['last_traceback'] or ''}".rstrip()))
    return Group(table, Text(), Panel(text, title=title, border_style="red" if document["consecutive_errors"] else ""))


def history_says(history: Sequence[tuple[float, float, str]]) -> str:
    """A loop's last runs in words; nothing without any."""
    if not history:
        return ""
    _, durations, outcomes = zip(*history, strict=True)
    ended, shortest, longest = Counter(outcomes), min(durations), max(durations)
    listed = ", ".join(f"{number} {outcome.replace('_', ' ')}" for outcome, number in ended.most_common())
    runs = "the last run" if len(history) == 1 else f"last {len(history)} runs"
    return f"{runs}: {listed}; {milliseconds(shortest)} to {milliseconds(longest)}"


def leader(document: Document) -> Text:
    """Who leads."""
    found = document["leader"]
    if found is None:
        return Text("leader: none", style="red")
    held = age(found["since"], document["now"])
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
    said = [f"jobs: {listed}", *([f"{games} games in completed jobs"] if games else []), *_targets(document)]
    return "; ".join(said)


def _targets(document: Document) -> Iterable[str]:
    """How many configurations have reached their targets, by their ratings' lower bounds."""
    targets = document["targets"].values()
    met = sum(target.get("met") is True for target in targets)
    if targets and met == len(targets):
        yield "every target is met"
    elif targets:
        yield f"{met} of {len(targets)} targets met"


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
    ailing = [node for node in document["nodes"] if _is_ailing(node)]
    for node in ailing[:_AILING]:
        why = ": " + ", ".join(node["reasons"]) if node["live"] else f"; last seen {ago(node['last_seen'], now)}"
        yield node["node_id"], f"{node['status']}{why} on {node['host'] or 'no host'}"
    if len(ailing) > _AILING:
        yield "nodes", f"{len(ailing) - _AILING} more are not well; see: backbeat nodes"
    for each in document["loops"].values():
        if text := loop_trouble(each, now):
            yield each["name"], text


def loop_trouble(each: Document, now: float) -> str:
    """What is wrong with a loop: a line, and below it its last error; empty when all is well."""
    if each["executing"] and each["state"] in ("overrun", "lost"):
        since = age(each["executing_since"], now)
        what = "runs past its deadline" if each["state"] == "overrun" else "has lost its worker"
        return f"{what} on {each['executing_by']}, for {since}"
    if not each["consecutive_errors"] or not each["enabled"]:
        return ""
    times = "1 failure" if each["consecutive_errors"] == 1 else f"{each['consecutive_errors']} failures in a row"
    following = f"next try {until(each['next_run'], now)}" if each["next_run"] is not None else f"now {each['state']}"
    return f"{times}, the last {ago(each['last_error_at'], now)}, {following}\n{str(each['last_error']).strip()}"


def _is_ailing(node: Document) -> bool:
    """Lost, unhealthy or silent. One that is only near a limit is no trouble yet."""
    return node["status"] != "left" and (node["status"] in ("lost", "unhealthy") or not node["live"])


def has_agent(document: Document) -> bool:
    """Whether any agent is there to run a loop."""
    return any(node["agent_pid"] is not None and node["live"] for node in document["nodes"])


def _state(each: Document, now: float) -> str:
    if each["backing_off_until"] is not None and each["state"] in ("backing_off", "overrun"):
        return f"{each['state']}, {until(each['backing_off_until'], now)}"
    if each["executing"]:
        return f"{each['state']} on {each['executing_by']} since {ago(each['executing_since'], now)}"
    return str(each["state"])


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:.10g}" for name, number in counts.items())


def _node_count(document: Document) -> str:
    counts = Counter(str(node["status"]) for node in document["nodes"])
    said = (f"{counts[status]} {'live' if status == 'healthy' else status}" for status in NODE_STYLES if counts[status])
    return ", ".join(said) or "none"
