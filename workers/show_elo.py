"""What the command line shows people of ratings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from workers.table import Column, Document, ago, bounded, facts, fitted, plain

#: Points of a curve that are listed.
_POINTS = 20
_BARS = "▁▂▃▄▅▆▇█"

EMPTY = (
    "no ratings yet: they come from matches, which tournaments play and elo_sync brings together.\n"
    "To begin with matches that you have: backbeat elo import FILE"
)


def everything(found: Document, now: float, width: int, history: bool) -> RenderableType:
    """A line for each configuration, the one that is furthest from its target last."""
    if not found:
        return Text(EMPTY)
    rows = sorted(found.values(), key=lambda each: (not _met(each), -_bound(each), each["config"]))
    columns = [*_COLUMNS, Column("history", lambda each, _: curve(each.get("history") or []), right=False)]
    return fitted(columns if history else _COLUMNS, rows, now, width, _style)


def one(each: Document, now: float, width: int, history: bool) -> RenderableType:
    """All of one configuration: where it stands, and its ranking or its curve."""
    best, target = each.get("best"), each.get("target") or {}
    since = f" since {ago(target['since'], now)}" if target.get("since") else ""
    rows = {
        "config": each["config"],
        "best": f"{best['participant']}, {_elo(best)}" if best else "no model is rated yet",
        "bound": f"{best['lower_bound']:.0f} with 97.5 % certainty" if best else "",
        "games": f"{best['games']:,} of the best, {each.get('matches', 0):,} matches in all" if best else "",
        "anchors": "no chain of games leads to them: the rating only compares these models"
        if best and not best.get("anchored", True)
        else "",
        "target": f"{target['target']:.0f}, {'met' + since if target.get('met') else 'not met'}" if target else "",
        "because": str(target.get("reason") or ""),
        "velocity": _velocity(each),
        "as of": ago(each.get("at"), now) + (f", by {each['node']}" if each.get("node") else ""),
        "digest": str(each.get("digest") or ""),
    }
    parts: list[RenderableType] = [facts(rows, {"anchors": "yellow"}), Text()]
    if history:
        parts.append(_points(each.get("history") or []))
    elif each.get("ranking"):
        parts.append(fitted(_RANKING, each["ranking"], now, width, lambda row: "" if row["type"] == "model" else "dim"))
    return Group(*parts)


def imported(counts: Document) -> RenderableType:
    """What came of an import."""
    rows = {
        "imported": f"{counts['imported']:,}",
        "known": f"{counts['known']:,}" if counts["known"] else "",
        "conflicting": f"{counts['conflicting']:,} with other contents than known; the smaller hash is in effect"
        if counts["conflicting"]
        else "",
        "refused": f"{counts['refused']:,}, kept in the table backbeat_set_aside" if counts["refused"] else "",
        "because": "\n".join(f"{number:,} x {why}" for why, number in list(counts["reasons"].items())[:10]),
        "matches": f"{counts['matches']:,} now in {counts['database']}",
    }
    return facts(rows, {"conflicting": "yellow", "refused": "red", "because": "red"})


def curve(points: Sequence[Sequence[float]], width: int = 16) -> str:
    """Elo over time in one line, each sign the last value of its part."""
    values = [elo for _, elo in points]
    if not values:
        return ""
    picked = (
        [values[(index + 1) * len(values) // width - 1] for index in range(width)] if len(values) > width else values
    )
    low, high = min(picked), max(picked)
    return "".join(_BARS[round((value - low) / ((high - low) or 1) * (len(_BARS) - 1))] for value in picked)


def _points(points: Sequence[Sequence[float]]) -> RenderableType:
    if not points:
        return Text("no history yet: it grows with every rating that changes")
    step = max(1, len(points) // _POINTS)
    chosen = list(points[::-1][::step])[:_POINTS][::-1]
    rows, before = [], None
    for at, elo in chosen:
        change = "" if before is None else f"{elo - before:+.0f}"
        rows.append((time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)), f"{elo:.0f}", change))
        before = elo
    parts: list[RenderableType] = [
        Text(curve(points, 60)),
        plain(("time", "elo", "change"), rows, right=("elo", "change")),
    ]
    if left_out := bounded(len(chosen), len(points), "points", "--json"):
        parts.append(left_out)
    return Group(*parts)


def _met(each: Document) -> bool:
    return bool((each.get("target") or {}).get("met"))


def _bound(each: Document) -> float:
    return float(each["best"]["lower_bound"]) if each.get("best") else float("-inf")


def _style(each: Document) -> str:
    return "green" if _met(each) else ""


def _elo(one: Any) -> str:
    return f"{one['rating']:.0f} ± {1.96 * one['deviation']:.0f}"


def _velocity(each: Document) -> str:
    return "" if each.get("velocity") is None else f"{each['velocity']:+.0f} Elo a day"


def _of_best(each: Document, name: str, shown: str = "{:.0f}") -> str:
    return shown.format(each["best"][name]) if each.get("best") else "-"


def _target(each: Document, _now: float) -> str:
    target = each.get("target") or {}
    return f"{target['target']:.0f}" if target.get("target") is not None else ""


def _is_met(each: Document, _now: float) -> str:
    return "" if not each.get("target") else "met" if _met(each) else "no"


_COLUMNS = (
    Column("config", lambda each, _: each["config"], right=False),
    Column("elo", lambda each, _: _of_best(each, "rating")),
    Column("bound", lambda each, _: _of_best(each, "lower_bound")),
    Column("target", _target),
    Column("met", _is_met, right=False),
    Column("games", lambda each, _: _of_best(each, "games", "{:,}"), optional=1),
    Column("a day", lambda each, _: "" if each.get("velocity") is None else f"{each['velocity']:+.0f}", optional=3),
    Column("matches", lambda each, _: f"{each.get('matches') or 0:,}", optional=2),
    Column("best", lambda each, _: _of_best(each, "participant", "{}"), right=False, optional=4, least=16),
    Column("as of", lambda each, now: ago(each.get("at"), now), optional=5),
)
_RANKING = (
    Column("participant", lambda row, _: row["participant"], right=False, least=20),
    Column("type", lambda row, _: row["type"], right=False, optional=2),
    Column("elo", lambda row, _: f"{row['rating']:.0f}"),
    Column("error", lambda row, _: f"± {1.96 * row['deviation']:.0f}"),
    Column("games", lambda row, _: f"{row['games']:,}", optional=1),
)
