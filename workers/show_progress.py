"""What the command line shows people of progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from workers.progress import NINETY_FIVE
from workers.table import Column, Document, ago, fitted


def progress(document: Document, rows: int, width: int) -> RenderableType:
    """Elo by configuration, and as many instants of the rest, evenly spread, the newest last."""
    now, configs = document["now"], [each for _, each in sorted(document["elo"].items())]
    parts: list[RenderableType] = []
    if configs:
        parts.append(
            fitted(_ELO, configs, now, width, lambda each: "green" if (each.get("target") or {}).get("met") else "")
        )
    else:
        parts.append(Text("No ratings yet: elo_sync publishes them when there are matches.", style="yellow"))
    parts.append(Text())
    if totals := spread(document["totals"], rows):
        parts.append(fitted(_TOTALS, totals, now, width, lambda _: ""))
    else:
        parts.append(Text("No totals yet: health_aggregation writes them at each of its runs.", style="yellow"))
    return Group(*parts)


def spread(rows: Sequence[Any], number: int) -> list[Any]:
    """So many of the rows, evenly spread, the last one always."""
    if len(rows) <= number:
        return list(rows)
    step = len(rows) / number
    return [rows[len(rows) - 1 - round(step * place)] for place in reversed(range(number))]


def _best(each: Document, name: str, form: str = "{:,.0f}") -> str:
    best = each.get("best")
    return "" if best is None else form.format(best[name])


def _bound(best: Document | None) -> str:
    return "" if best is None else f"± {NINETY_FIVE * best['deviation']:,.0f}"


def _target(each: Document, now: float) -> str:
    aim = each.get("target") or {}
    if aim.get("target") is None:
        return ""
    met = f", met {ago(aim.get('since'), now)}" if aim.get("met") else ""
    return f"{aim['target']:,.0f}{met}"


def _hourly(name: str) -> Any:
    return lambda each, _: "" if each.get(name) is None else f"{each[name]:,.0f}"


_ELO = (
    Column("config", lambda each, _: each["config"], right=False),
    Column("elo", lambda each, _: _best(each, "rating")),
    Column("95 %", lambda each, _: _bound(each.get("best"))),
    Column("target", _target, right=False),
    Column("a day", lambda each, _: "" if each.get("velocity") is None else f"{each['velocity']:+,.0f}", optional=2),
    Column("games", lambda each, _: _best(each, "games"), optional=3),
    Column("best", lambda each, _: _best(each, "participant", "{}"), right=False, optional=1),
)
_TOTALS = (
    Column("as of", lambda each, now: ago(each["at"], now)),
    Column("nodes", lambda each, _: f"{each.get('nodes', 0):,}"),
    Column("healthy", lambda each, _: f"{each.get('healthy', 0):,}", optional=2),
    Column("busy", lambda each, _: f"{each.get('busy_slots', 0):,} of {each.get('slots', 0):,}", optional=1),
    Column("queue", lambda each, _: f"{each['depth']:,}"),
    Column("running", lambda each, _: f"{each.get('running', 0):,}"),
    Column("games/h", _hourly("games_per_hour")),
    Column("jobs/h", _hourly("completed_per_hour")),
)
