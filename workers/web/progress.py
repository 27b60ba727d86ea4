"""The page of progress: Elo against its target, the queue's depth, and what is done in an hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.progress import NINETY_FIVE, read_progress
from workers.table import age
from workers.web.loops import Document
from workers.web.page import Page
from workers.web.plot import Point, ceiling, lines

#: The least time that is plotted, in seconds.
LEAST = 600.0


class ProgressPage(Page):
    """`GET /progress`."""

    name = "progress"

    def show(self) -> dict[str, Any]:
        return words(read_progress(self.reader.redis))


def words(progress: Document) -> dict[str, Any]:
    """What the page says."""
    now = progress["now"]
    configs = [config(each, now) for _, each in sorted(progress["elo"].items())]
    return {"as_of": now, "configs": configs, "plots": _plots(progress["totals"], now)}


def config(each: Document, now: float) -> dict[str, Any]:
    """One configuration against its target."""
    best, aim = each.get("best"), each.get("target") or {}
    target = aim.get("target")
    history = [(float(at), float(elo)) for at, elo in each.get("history", ())]
    met = bool(aim.get("met"))
    return {
        "name": each["config"],
        "rating": "" if best is None else f"{best['rating']:,.0f}",
        "bound": "" if best is None else f"± {NINETY_FIVE * best['deviation']:,.0f}",
        "best": "" if best is None else best["participant"],
        "games": "" if best is None else f"{best['games']:,}",
        "adrift": best is not None and not best.get("anchored", True),
        "target": "" if target is None else f"{target:,.0f}",
        "met": met,
        "met_for": age(aim["since"], now) if met and aim.get("since") else "",
        "reason": aim.get("reason") or "",
        "velocity": "" if each.get("velocity") is None else f"{each['velocity']:+,.0f} a day",
        "ranking": [
            {**rated, "rating": f"{rated['rating']:,.0f}", "bound": f"± {NINETY_FIVE * rated['deviation']:,.0f}"}
            for rated in each.get("ranking", ())[:10]
        ],
        "plot": _elo_plot(history, target, now),
    }


def _elo_plot(history: Sequence[Point], target: float | None, now: float) -> dict[str, Any] | None:
    known = [value for _, value in history if value is not None]
    if not known:
        return None
    marks = [*known, *([target] if target is not None else [])]
    spread = max(100.0, max(marks) - min(marks))
    bottom, top = (round(edge / 50) * 50 for edge in (min(marks) - spread / 8, max(marks) + spread / 8))
    start = min(history[0][0], now - LEAST)
    wanted = [("target", [(start, target), (now, target)])] if target is not None else []
    legend = [("best", "s1", f"{known[-1]:,.0f}")]
    if target is not None:
        legend.append(("target", "target", f"{target:,.0f}"))
    # what was published last holds until now
    drawn = lines([*wanted, ("s1", [*history, (now, history[-1][1])])], (start, now), top, bottom)
    return {
        "title": "", "svg": drawn, "top": f"{top:,.0f}", "bottom": f"{bottom:,.0f}", "legend": legend,
        "span": f"{age(start, now)} ago",
    }  # fmt: skip


def _plots(totals: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """The queue and the rates over all the time that totals are kept."""
    if not totals:
        return []

    def over_time(name: str) -> list[Point]:
        return [(row["at"], row.get(name)) for row in totals]

    span = (min(totals[0]["at"], now - LEAST), now)
    return [
        _plot("Jobs in the queue", [("all", "s1", over_time("depth")), ("running", "s2", over_time("running"))], span),
        _plot("Games an hour", [("", "s1", over_time("games_per_hour"))], span),
        _plot("Jobs completed an hour", [("", "s1", over_time("completed_per_hour"))], span),
    ]


def _plot(title: str, series: Sequence[tuple[str, str, Sequence[Point]]], span: tuple[float, float]) -> dict[str, Any]:
    top = ceiling(max((value for _, _, points in series for _, value in points if value is not None), default=0.0))
    drawn = lines([(tone, points) for _, tone, points in series], span, top)
    legend = [(said, tone, _latest(points)) for said, tone, points in series]
    begin = f"{age(span[0], span[1])} ago"
    return {"title": title, "svg": drawn, "top": f"{top:,.10g}", "bottom": "0", "legend": legend, "span": begin}


def _latest(points: Sequence[Point]) -> str:
    value = points[-1][1] if points else None
    return "-" if value is None else f"{value:,.0f}"
