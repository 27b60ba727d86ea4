"""Tables that fit the screen, and the short words for times and sizes that stand in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from schedules import durations

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column. On a narrow screen the optional ones go, the highest first; one with `least` may be cut that short."""

    title: str
    cell: Callable[[Any, float], str]
    right: bool = True
    optional: int = 0
    least: int | None = None


def fitted(
    columns: Sequence[Column], rows: Sequence[Any], now: float, width: int, style: Callable[[Any], str]
) -> Group:
    """The rows in as many of the columns as `width` has room for; `style` colours what is not a number.

    Lines of our own: a table of rich's takes a second for each thousand rows.
    """
    cells = {column: [printable(column.cell(row, now), keep="") for row in rows] for column in columns}
    sizes = {column: max(map(cell_len, [column.title, *texts])) for column, texts in cells.items()}
    least = {column: sizes[column] if column.least is None else min(sizes[column], column.least) for column in columns}
    shown = [column for column in columns if any(cells[column]) or not rows]
    for column in sorted(columns, key=lambda each: -each.optional):
        if column in shown and column.optional and sum(least[each] + 2 for each in shown) - 2 > width:
            shown.remove(column)
    room = max(0, width - sum(least[each] + 2 for each in shown) + 2)
    sizes = {column: min(sizes[column], least[column] + room) for column in shown}

    def line(texts: Iterable[str], styles: Iterable[str]) -> Text:
        laid = (_laid(text, sizes[column], column.right) for column, text in zip(shown, texts, strict=True))
        return Text("  ", no_wrap=True, overflow="crop", end="\n").join(map(Text, laid, styles))

    lines = [line((column.title for column in shown), ["bold"] * len(shown))]
    for index, row in enumerate(rows):
        mine = style(row)
        lines.append(line((cells[each][index] for each in shown), ("" if each.right else mine for each in shown)))
    return Group(*lines)


def _laid(text: str, size: int, right: bool) -> str:
    """A cell's text in its place, cut short where it does not fit."""
    if cell_len(text) > size:
        return set_cell_size(text, size - 1) + "…"
    return " " * (size - cell_len(text)) + text if right else set_cell_size(text, size)


def plain(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), styles: Sequence[str] = ()
) -> Table:
    """A table as wide as it is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in right else "left")
    for index, row in enumerate(rows):
        table.add_row(*(Text(printable(cell)) for cell in row), style=styles[index] if styles else None)
    return table


def facts(rows: Mapping[str, str], styles: Mapping[str, str] | None = None) -> Table:
    """One thing in full: a line for each fact, those without a text left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(printable(value), style=(styles or {}).get(name, "")))
    return table


def bounded(shown: int, known: int, what: str, more: str = "--limit") -> Text | None:
    """A line that says how much is left out, and what shows `more`; None when nothing is."""
    return Text(f"showing {shown} of {known:,} {what}; more with {more}", style="dim") if known > shown else None


def ago(at: float | None, now: float) -> str:
    """How long ago an instant was."""
    return "never" if at is None else f"{age(at, now)} ago"


def dated(said: str, at: float | None) -> str:
    """How long ago or until when, and behind it when that is: for comparing with logs."""
    return said if at is None else f"{said} ({instant(at)})"


def age(at: float, now: float) -> str:
    """For how long something has been so."""
    return span(max(1.0, now - at))


def until(at: float | None, now: float) -> str:
    """How long until an instant."""
    if at is None:
        return "-"
    return f"in {span(at - now)}" if round(at - now) > 0 else "now"


def instant(at: float | None) -> str:
    """When it is, as logs and reasons say it; empty without one."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def milliseconds(number: float) -> str:
    """A duration as short as it can be said."""
    if round(number) < 1000:
        return f"{number:.0f}ms"
    return f"{number / 1000:.1f}s" if number < 60_000 else span(number / 1000)


def span(seconds: float) -> str:
    """Two units at most: nobody needs the seconds of a day."""
    unit = 3600 if seconds >= 86_400 else 60 if seconds >= 3600 else 1
    return durations.format(round(seconds) // unit * unit)


def gibibytes(number: float) -> str:
    """A size of memory or disk."""
    return f"{number / 2**30:.3g} GiB"


def megabytes(number: float) -> str:
    """A size of a file."""
    return f"{number / 1e6:.3g} MB" if number >= 1e5 else f"{number / 1e3:.3g} kB"


def printable(text: str, *, keep: str = "\n") -> str:
    """Without what would steer the terminal: errors may hold what a remote machine said."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in keep else repr(sign)[1:-1] for sign in text)
