"""The page of loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from schedules import durations
from workers.ledger import HISTORY_KEPT
from workers.show import history_says, loop_trouble
from workers.status import NODE_STATUSES, read_overview
from workers.table import age, ago, instant, milliseconds, until
from workers.web.page import Page
from workers.web.plot import spark

Document = Mapping[str, Any]

#: What each state means, in the words of docs/operations.md.
MEANINGS = {
    "due": "all is well; it waits for its next slot",
    "waiting": "its tick is sent, but no agent has taken it",
    "executing": "a run goes on",
    "backing_off": "it failed; the retry comes after the time shown",
    "failing": "it failed; the backoff is over and the retry is due",
    "overrun": "its last run did not end by its deadline, or goes on past it right now",
    "lost": "its run lease ended without a record: the agent died, hung or was cut off",
    "paused": "no scheduled ticks, manual runs pass",
    "stopped": "no runs at all",
    "disabled": "enabled: false in its stanza",
}
#: What each state is to the eye.
TONES = {
    "due": "good",
    "executing": "active",
    "waiting": "active",
    "paused": "warn",
    "stopped": "warn",
    "disabled": "dim",
    "backing_off": "bad",
    "failing": "bad",
    "overrun": "bad",
    "lost": "bad",
}


class LoopsPage(Page):
    """`GET /loops`."""

    name = "loops"

    def show(self) -> dict[str, Any]:
        return words(read_overview(self.reader.ledger))


def words(overview: Document) -> dict[str, Any]:
    """What the page says of the cluster."""
    now = overview["now"]
    wrong = list(troubles(overview))
    return {
        "as_of": now,
        "loops": [row(each, now) for each in overview["loops"].values()],
        "troubles": wrong,
        "alarm": str(len(wrong) or ""),
        "cards": [leader(overview), beat(overview), nodes(overview), jobs(overview)],
        "counts": Counter(TONES[each["state"]] for each in overview["loops"].values()),
    }


def row(each: Document, now: float) -> dict[str, Any]:
    """One loop as the page shows it."""
    counts = {name: f"{name} {number:.10g}" for name, number in each["last_counts"].items()}
    did = [text for name, text in counts.items() if each["last_counts"][name]]
    return {
        "name": each["name"],
        "leader_only": each["leader_only"],
        "state": each["state"].replace("_", " "),
        "tone": TONES[each["state"]],
        "means": MEANINGS[each["state"]],
        "more": _more(each, now),
        "every": durations.format(each["interval"]),
        "last": ago(each["last_run_time"], now),
        "last_at": instant(each["last_run_time"]),
        "took": "" if each["last_duration_ms"] is None else milliseconds(each["last_duration_ms"]),
        "outcome": each["last_outcome"] or "",
        "by": each["last_run_by"] or "",
        "did": ", ".join(did) or ("nothing" if counts else ""),
        "counts": ", ".join(counts.values()),
        "next": until(each["next_run"], now),
        "next_at": instant(each["next_run"]),
        "success_at": instant(each["last_success_at"]),
        "runs": f"{each['run_count']:,}",
        "errors": f"{each['error_count']:,}",
        "missed": f"{each['missed']:,}",
        "average": milliseconds(each["average_duration_ms"]),
        "skipped": ", ".join(f"{why} {number}" for why, number in each["skipped"].items()),
        "failures": each["consecutive_errors"],
        "error": (each["last_error"] or "").strip(),
        "error_ago": ago(each["last_error_at"], now),
        "error_at": instant(each["last_error_at"]),
        "traceback": (each["last_traceback"] or "").strip(),
        "spark": spark(each["history"], HISTORY_KEPT),
        "spark_says": history_says(each["history"]) or "no runs yet",
        "paused": each["paused"],
        "can_run": each["enabled"] and not each["stopped"],
    }


def _more(each: Document, now: float) -> str:
    """What the state's word leaves open."""
    if each["executing"]:
        return f"on {each['executing_by']} for {age(each['executing_since'], now)}"
    match each["state"]:
        case "due":
            return until(each["next_run"], now)
        case "waiting":
            return f"for an agent, for {age(each['waiting_since'], now)}"
        case "backing_off" | "overrun" if each["backing_off_until"]:
            return f"next try {until(each['backing_off_until'], now)}"
        case "failing":
            return "its retry is due"
        case "paused":
            return "manual runs pass"
        case "stopped":
            return f"backbeat start {each['name']}"
    return ""


def troubles(overview: Document) -> Iterator[tuple[str, str, str, str]]:
    """What is wrong: with what, how, the first line of its error, and where there is more about it."""
    now, nodes = overview["now"], overview["nodes"]
    if overview["beat"]["active"] is None:
        yield "beat", "none is active, so nothing ticks; start one: celery -A workers.app beat", "", ""
    if not nodes["live"]["agent"]:
        yield "agents", "none is there, so no loop runs; start one: celery -A workers.app worker", "", ""
    elif overview["leader"] is None:
        yield "leader", "none, so leader-only loops wait", "", ""
    by_status = nodes["by_status"]
    for status in ("lost", "unhealthy"):
        if by_status[status]:
            yield "nodes", f"{by_status[status]:,} {status}", "", f"fleet?status={status}"
    for each in overview["loops"].values():
        if text := loop_trouble(each, now):
            what, _, error = text.partition("\n")
            yield each["name"], what, error.partition("\n")[0], f"#loop-{each['name']}"


def leader(overview: Document) -> dict[str, str]:
    """The card about the leader and its term."""
    found = overview["leader"]
    if found is None:
        return {"title": "Leader", "value": "none", "more": "", "tone": "bad"}
    held = age(found["since"], overview["now"])
    more = f"for {held}; pid {found['pid']} on {found['host']}; fence {found['fence']}"
    return {"title": "Leader", "value": found["node_id"], "more": more, "tone": "good"}


def beat(overview: Document) -> dict[str, str]:
    """The card about beat and its replicas."""
    active, replicas = overview["beat"]["active"], overview["beat"]["replicas"]
    standby = [f"{each['host']} ({each['pid']})" for each in replicas if not _same(each, active)]
    waits = f"standing by: {', '.join(standby)}" if standby else "no replica stands by"
    if active is None:
        return {"title": "Beat", "value": "none active", "more": waits, "tone": "bad"}
    return {"title": "Beat", "value": active["host"], "more": f"pid {active['pid']}; {waits}", "tone": "good"}


def _same(replica: Document, active: Document | None) -> bool:
    return active is not None and (replica["host"], replica["pid"]) == (active["host"], active["pid"])


def nodes(overview: Document) -> dict[str, str]:
    """The card about nodes."""
    counts = overview["nodes"]["by_status"]
    there = overview["nodes"]["known"] - counts["left"]
    listed = ", ".join(f"{counts[status]:,} {status}" for status in NODE_STATUSES if counts[status])
    ailing = counts["lost"] + counts["unhealthy"]
    tone = "bad" if ailing or not there else "warn" if counts["suspect"] else "good"
    return {"title": "Nodes", "value": f"{there:,}", "more": listed or "none yet", "tone": tone}


def jobs(overview: Document) -> dict[str, str]:
    """The card about the queue."""
    found = overview["jobs"]
    counts = {status: number for status, number in found["by_status"].items() if number}
    listed = ", ".join(f"{number:,} {status.replace('_', ' ')}" for status, number in counts.items())
    return {
        "title": "Jobs in the queue",
        "value": f"{found['depth']:,}",
        "more": listed or "none yet",
        "tone": "active",
    }
