"""The page of nodes, and one node's part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from tornado.web import HTTPError

from fleet.metrics import MINUTES, Minute, busiest_gpu
from fleet.nodes import Node, decode_nodes, decode_total
from workers.show_nodes import WORST_FIRST, node_facts, notes
from workers.table import age, ago, instant
from workers.web.loops import Document
from workers.web.page import Page
from workers.web.plot import bar, ceiling, lines

#: Seconds of totals that are plotted, and nodes on one page.
HOUR, ROWS = 3600.0, 50
TONES = {"healthy": "good", "suspect": "warn", "unhealthy": "bad", "lost": "bad", "left": "dim"}
#: What each status means, in the words of docs/operations.md.
MEANINGS = {
    "healthy": "its processes report, and disk and memory are below their limits",
    "suspect": "nothing was heard of it for 15 s, one of its processes is silent, it has no agent, "
    "or a disk or memory is above its limit",
    "unhealthy": "a disk or memory stays above its limit. It still works",
    "lost": "nothing was heard of it for long",
    "left": "its processes ended in order",
}
SORTS = ("status", "name", "cpu", "gpu", "memory", "disk", "jobs", "seen")


class FleetPage(Page):
    """`GET /fleet`: `q` finds names, hosts and addresses; `status`, `sort` and `page` choose among them."""

    name = "fleet"

    def show(self) -> dict[str, Any]:
        at, leads, rows, totals = self.reader.ledger.read_fleet(window=HOUR)
        asked = {name: self.get_query_argument(name, "") for name in ("q", "status", "sort", "page")}
        pairs = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in totals]
        return words(decode_nodes(rows), int(at) / 1000, leads, [decode_total(each) for each in pairs], asked)


class NodePage(Page):
    """`GET /fleet/NODE`: all that is known of one node, and its last hour."""

    name, tab = "node", "fleet"

    @property
    def title(self) -> str:
        return str(self.path_args[0])

    def show(self) -> dict[str, Any]:
        node_id = self.path_args[0]
        found = self.reader.nodes.one(node_id)
        if found is None:
            raise HTTPError(404, f"no node is named {node_id}")
        node, now = found
        document = node.document(now)
        facts = {name: said for name, said in node_facts(node, document, False, now).items() if said}
        hour = [plot for name in ("cpu", "gpu", "memory", "disk") if (plot := _minutes(node, name, now))]
        status = node.status(now)
        how = {"look": TONES[status], "means": MEANINGS[status], "alarm": status if TONES[status] == "bad" else ""}
        return {"as_of": now, "node_id": node_id, "facts": facts, "plots": hour, **how}


def words(
    nodes: Sequence[Node], now: float, leads: str, totals: Sequence[Mapping[str, float]], asked: Mapping[str, str]
) -> dict[str, Any]:
    """What the page says of the nodes, as far as they were asked for."""
    standing = {node.node_id: node.status(now) for node in nodes}
    sort = asked["sort"] if asked["sort"] in SORTS else "status"
    sought = asked["q"].strip().lower()
    found = [
        node
        for node in nodes
        if asked["status"] in ("", standing[node.node_id]) and (not sought or sought in _text(node))
    ]
    found.sort(key=lambda node: _rank(node, sort, standing[node.node_id]))
    pages = max(1, -(-len(found) // ROWS))
    page = min(pages, max(1, int(asked["page"]) if asked["page"].isdecimal() else 1))
    shown = found[(page - 1) * ROWS : page * ROWS]
    counts = Counter(standing.values())
    ailing = sum(counts[status] for status, tone in TONES.items() if tone == "bad")
    return {
        "as_of": now,
        "alarm": str(ailing or ""),
        "known": len(nodes),
        "found": len(found),
        "first": (page - 1) * ROWS + 1,
        "rows": [row(node.document(now), now, node.node_id == leads) for node in shown],
        "counts": counts,
        "statuses": WORST_FIRST,
        "tones": TONES,
        "meanings": MEANINGS,
        "sorts": SORTS,
        "asked": {**asked, "sort": sort},
        "page": page,
        "pages": pages,
        "link": lambda **new: "?" + urlencode({name: word for name, word in {**asked, **new}.items() if word}),
        "plots": _plots(totals, now),
    }


def _text(node: Node) -> str:
    address = node.marks.get("address", {}).get("address") or ""
    return f"{node.node_id}\n{node.host}\n{address}".lower()


def _rank(node: Node, sort: str, status: str) -> tuple[float, str]:
    """Where a node stands: the fullest first, the worst first, or by name."""
    match sort:
        case "status":
            return WORST_FIRST.index(status), node.node_id
        case "name":
            return 0, node.node_id
        case "jobs":
            return -len(node.running), node.node_id
        case "seen":
            return -node.last_seen, node.node_id
        case "gpu":
            value = busiest_gpu(node.metrics)
        case _:
            value = node.metrics.get(sort)
    return (1.0 if value is None else -value), node.node_id


def row(each: Document, now: float, leads: bool) -> dict[str, Any]:
    """One node as the page shows it."""
    metrics = each["metrics"]
    gpu = busiest_gpu(metrics)
    measured = {"CPU": metrics.get("cpu"), "GPU": gpu, "Mem": metrics.get("memory"), "Disk": metrics.get("disk")}
    return {
        "node_id": each["node_id"],
        "host": each["host"] if each["host"] != each["node_id"] else "",
        "leads": leads,
        "status": each["status"],
        "tone": TONES[each["status"]],
        "notes": notes(each, now),
        "bars": [
            (title, value, "" if value is None else bar(value), _tone(title, value))
            for title, value in measured.items()
        ],
        "jobs": f"{len(each['running_jobs'])} of {each['slots']}" if each["slots"] else "",
        "running": "\n".join(each["running_jobs"]),
        "address": each["address"] or "",
        "source": each["address_source"] or "",
        "unreachable": each["reachable"] is False,
        "idle": "" if each["idle_since"] is None else age(each["idle_since"], now),
        "draining": each["draining"] is not None,
        "seen": ago(each["last_seen"], now),
        "seen_at": instant(each["last_seen"]),
    }


def _tone(title: str, percent: float | None) -> str:
    """A processor that is busy is a good one; memory and disk that are full are not."""
    if percent is None or title in ("CPU", "GPU") or percent < 85:
        return ""
    return "warn" if percent < 95 else "bad"


def _plots(totals: Sequence[Mapping[str, float]], now: float) -> list[dict[str, Any]]:
    """The last hour of the whole cluster."""
    totals = [row for row in totals if "at" in row]
    if not totals:
        return []
    wanted = (
        ("Slots", (("slots", "all", "s1"), ("busy_slots", "busy", "s2"))),
        ("Nodes", (("nodes", "all", "s1"), ("healthy", "healthy", "s2"), ("lost", "lost", "s3"))),
    )
    return [_plot(title, totals, parts, now) for title, parts in wanted]


def _plot(
    title: str, totals: Sequence[Mapping[str, float]], parts: Sequence[tuple[str, str, str]], now: float
) -> dict[str, Any]:
    points = {name: [(row["at"], row.get(name, 0.0)) for row in totals] for name, _, _ in parts}
    top = ceiling(max(value for each in points.values() for _, value in each))
    drawn = lines([(tone, points[name]) for name, _, tone in parts], (now - HOUR, now), top)
    legend = [(said, tone, f"{points[name][-1][1]:,.0f}") for name, said, tone in parts]
    return {"title": title, "svg": drawn, "top": f"{top:,.0f}", "bottom": "0", "legend": legend, "span": "1h ago"}


def _minutes(node: Node, name: str, now: float) -> dict[str, Any] | None:
    """A node's last hour of one metric, in percent; None without any."""
    known = {minute.at: value for minute in Minute.rows(node.history) if (value := getattr(minute, name)) is not None}
    if not known:
        return None
    newest = int(now // 60) * 60
    points = [(float(at), known.get(at)) for at in range(newest - 60 * MINUTES, newest + 1, 60)]
    title = {"cpu": "CPU", "gpu": "GPU", "memory": "Memory", "disk": "Disk"}[name]
    legend = [("", "s1", f"{known[max(known)]:.0f} %")]
    drawn = lines([("s1", points)], (now - HOUR, now), 100.0)
    return {"title": title, "svg": drawn, "top": "100 %", "bottom": "0", "legend": legend, "span": "1h ago"}
