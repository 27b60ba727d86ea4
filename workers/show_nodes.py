"""What the command line shows people of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from fleet.metrics import MINUTES, Minute, busiest_gpu
from fleet.nodes import ROLES, Node
from workers.show import NODE_STYLES
from workers.table import Column, Document, age, ago, bounded, facts, fitted, gibibytes, plain

WORST_FIRST = ("lost", "unhealthy", "suspect", "healthy", "left")
#: Columns that stand beside the bars of the last hour.
_BESIDE = 18
_BARS, _PLAIN_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def nodes(document: Document, width: int, limit: int) -> RenderableType:
    """Every node in a line, those that are not well first; at most `limit` of them."""
    known = document["nodes"]
    if not known:
        return Text("No nodes yet: start an agent on one (celery -A workers.app worker).", style="yellow")
    leads = (document["leader"] or {}).get("node_id")
    rows = sorted(known, key=lambda node: (WORST_FIRST.index(node["status"]), node["node_id"]))[:limit]
    name = Column("node", lambda each, _: each["node_id"] + " (leader)" * (each["node_id"] == leads), right=False)
    table = fitted((name, *_COLUMNS), rows, document["now"], width, lambda each: NODE_STYLES[each["status"]])
    left_out = bounded(len(rows), len(known), "nodes, those that are not well first")
    return Group(table, left_out) if left_out else table


def _percent(name: str) -> Any:
    return lambda each, _: _told(each["metrics"].get(name))


def _told(percent: Any) -> str:
    return f"{percent:.0f}%" if isinstance(percent, int | float) else ""


def notes(each: Document, now: float) -> str:
    """What is to be said of a node beside its status: why it stands so, that it drains, its tailnet."""
    drain, said = each["draining"], list(each["reasons"])
    if drain is not None:
        said.insert(0, f"draining for {age(drain.get('at', now), now)}: {drain.get('reason', '')}".rstrip(": "))
    if tailnet := _tailnet(each, now):
        said.append(f"tailnet {tailnet}")
    if each["status"] == "suspect" and not each["live"] and not each["reasons"]:
        said.append(f"silent for {age(each['last_seen'], now)}")
    if each["status"] == "left":
        said = ["stopped in order"]
    return "; ".join(said)


def _tailnet(each: Document, now: float) -> str:
    """What is wrong with the node's tailnet, and what was done about it; empty when all is well."""
    mark = each.get("tailnet_recovery") or {}
    if "since" not in mark:
        return str(mark.get("told", ""))
    told = [f"{mark.get('state') or 'lost'} for {age(mark['since'], now)}", f"{mark.get('attempts', 0)} attempts"]
    if "gave_up_at" in mark:
        told.append("given up")
    return ", ".join([*told, *filter(None, (mark.get("told"), mark.get("error")))])


_COLUMNS = (
    Column("status", lambda each, _: each["status"], right=False),
    Column("jobs", lambda each, _: f"{len(each['running_jobs'])} of {each['slots']}" if each["slots"] else ""),
    Column("cpu", _percent("cpu")),
    Column("gpu", lambda each, _: _told(busiest_gpu(each["metrics"]))),
    Column("mem", _percent("memory")),
    Column("disk", _percent("disk")),
    Column("load", lambda each, _: " ".join(f"{load:.3g}" for load in each["metrics"].get("load", ())[:1]), optional=4),
    Column("idle", lambda each, now: "" if each["idle_since"] is None else age(each["idle_since"], now), optional=2),
    Column("last seen", lambda each, now: ago(each["last_seen"], now), optional=3),
    Column("host", lambda each, _: each["host"], right=False, optional=5),
    Column("notes", notes, right=False, optional=1, least=16),
)


def node(found: Node, document: Document, leads: bool, now: float, width: int, *, ascii_only: bool) -> RenderableType:
    """One node in full: its part of the status document, what its processes report, and its last hour.

    `ascii_only`: with signs of ASCII only.
    """
    status = document["status"]
    table = facts(node_facts(found, document, leads, now), {"status": NODE_STYLES[status], "why": NODE_STYLES[status]})
    hour = _hour(Minute.rows(found.history), now, width, _PLAIN_BARS if ascii_only else _BARS)
    return Group(table, Text(), hour) if hour else table


def node_facts(found: Node, document: Document, leads: bool, now: float) -> dict[str, str]:
    """What is known of a node, by its name; empty where nothing is."""
    status, health = document["status"], found.marks.get("health", {})
    held = f", for {age(health['since'], now)}" if health.get("status") == status and "since" in health else ""
    return {
        "node": found.node_id + (", leads" if leads else ""),
        "status": status + held,
        "why": "\n".join(document["reasons"]),
        "draining": _drain(found.marks.get("drain"), now),
        "idle": _idle(found.marks.get("idle"), now),
        **{_ROLES[role]: _process(found, role, now) for role in ROLES},
        "runs": "\n".join(found.running),
        **_measured(found.metrics),
        "address": _address(found.marks.get("address")),
        **{f"{kind} addresses": ", ".join(_texts(listed)) for kind, listed in document["addresses"].items()},
        "tailnet": _tailnet(document, now) or str((document["tailnet"] or {}).get("state", "")),
        "clock": _clock(document["clock_offset"]),
        "versions": ", ".join(f"{name} {number}" for name, number in _versions(found).items()),
    }


_ROLES = {"agent": "agent", "jobs": "jobs worker"}


def _versions(found: Node) -> Mapping[str, Any]:
    said = found.roles.get("agent", found.roles.get("jobs", {}))
    versions: Mapping[str, Any] = said.get("versions", {"backbeat": said["version"]} if "version" in said else {})
    return versions


def _process(found: Node, role: str, now: float) -> str:
    said = found.roles.get(role)
    if said is None:
        return "none" if not found.left else ""
    parts = [f"pid {said.get('pid', '?')} on {said.get('host', '?')}, heard {ago(found.heard[role], now)}"]
    if "slots" in said:
        offers = ", ".join(_texts(said.get("capabilities", ())))
        parts.append(f"{len(found.running)} of {said['slots']} slots taken, offers {offers}")
    return "; ".join(parts)


def _measured(metrics: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    if "cpu" in metrics:
        load = " ".join(f"{number:.2f}" for number in metrics.get("load", ()))
        cores = f" of {metrics['cores']} cores" if "cores" in metrics else ""
        rows["cpu"] = _told(metrics["cpu"]) + cores + (f", load {load}" if load else "")
    if "memory" in metrics:
        total = f" of {gibibytes(metrics['memory_total'])}" if "memory_total" in metrics else ""
        rows["memory"] = _told(metrics["memory"]) + total
    if "disk" in metrics:
        free = f", {gibibytes(metrics['disk_free'])} free" if "disk_free" in metrics else ""
        rows["disk"] = _told(metrics["disk"]) + free
    for number, gpu in enumerate(metrics.get("gpus", ())):
        total = f" of {gibibytes(gpu['memory_total'])}" if "memory_total" in gpu else ""
        parts = [_told(gpu.get("utilization")), f"memory {_told(gpu['memory'])}{total}" if "memory" in gpu else ""]
        rows[f"gpu {number}"] = ", ".join(filter(None, [*parts, str(gpu.get("name", ""))]))
    return rows


def _drain(mark: Mapping[str, Any] | None, now: float) -> str:
    if mark is None:
        return ""
    return f"for {age(mark.get('at', now), now)}, by {mark.get('by') or 'nobody named'}: {mark.get('reason') or '-'}"


def _idle(mark: Mapping[str, Any] | None, now: float) -> str:
    if mark is None:
        return ""
    return f"for {age(mark.get('since', now), now)}" + (f": {mark['why']}" if mark.get("why") else "")


def _address(mark: Mapping[str, Any] | None) -> str:
    """The address by which others reach the node, as ip_discovery found out."""
    if mark is None or not mark.get("address"):
        return ""
    answers = "answers" if mark.get("reachable") else f"does not answer: {mark.get('why') or 'not asked yet'}"
    return f"{mark['address']} ({mark.get('source')}), {answers}"


def _clock(offset: float | None) -> str:
    return "" if offset is None else f"{1000 * offset:+.0f} ms from the server's"


def _texts(words: Any) -> list[str]:
    return [str(word) for word in words] if isinstance(words, list | tuple) else [str(words)]


def _hour(minutes: Sequence[Minute], now: float, width: int, bars: str) -> RenderableType | None:
    """A line of bars for each metric, one a minute, the newest last; a minute that is missing is a gap."""
    newest = int(now // 60) * 60
    by_age = {(newest - minute.at) // 60: minute for minute in minutes}
    shown = range(min(MINUTES, max(10, width - _BESIDE)), 0, -1)
    rows = []
    for title, name in (("cpu", "cpu"), ("gpu", "gpu"), ("mem", "memory"), ("disk", "disk")):
        known = {back: value for back, minute in by_age.items() if (value := getattr(minute, name)) is not None}
        if known:
            line = "".join(_bar(known.get(back), bars) for back in shown)
            peaks = (getattr(minute, f"{name}_peak", getattr(minute, name)) for minute in minutes)
            rows.append([title, line, _told(known[min(known)]), _told(max(peak for peak in peaks if peak is not None))])
    return plain(["", f"the last {len(shown)} minutes", "last", "peak"], rows, right=["last", "peak"]) if rows else None


def _bar(percent: float | None, bars: str) -> str:
    if percent is None:
        return bars[0]
    return bars[1 + max(0, min(len(bars) - 2, int(percent / 100 * (len(bars) - 1))))]
