"""Small pictures as SVG text, without colours of their own: the style sheet gives them, so both themes fit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float | None]

#: Of a sparkline: the width of a run and its gap, and its height, in pixels.
STEP, TALL = 3, 28
#: The field of a plot. It is stretched to its place; lines keep their width.
WIDE, HIGH = 600, 150


def spark(runs: Sequence[tuple[float, float, str]], room: int) -> str:
    """The last `room` runs, the newest at the right: height by duration, one path for each kind of outcome.

    Behind those that did not succeed stands a pale bar of the whole height, for a failure is often a short one.
    """
    shown = runs[-room:]
    longest = max([duration for _, duration, _ in shown], default=0.0)
    paths: dict[str, list[str]] = {}
    for place, (_, duration, outcome) in enumerate(shown, room - len(shown)):
        height = max(3.0, TALL * duration / longest) if longest else 3.0
        kind = outcome if outcome in ("succeeded", "failed") else "late"
        paths.setdefault(kind, []).append(f"M{place * STEP + 1} {TALL}V{max(0.0, TALL - height):.3g}")
        if kind != "succeeded":
            paths.setdefault(f"{kind} back", []).append(f"M{place * STEP + 1} {TALL}V0")
    drawn = "".join(f'<path class="run {kind}" d="{"".join(each)}"/>' for kind, each in sorted(paths.items()))
    floor = f'<path class="floor" d="M0 {TALL}H{room * STEP}"/>'
    return f'<svg class="spark" viewBox="0 0 {room * STEP} {TALL + 1}" aria-hidden="true">{floor}{drawn}</svg>'


def bar(percent: float) -> str:
    """A bar filled so far."""
    filled = min(100.0, max(0.0, percent))
    return (
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="6"/><rect width="{filled:.3g}" height="6"/></svg>'
    )


def lines(
    series: Iterable[tuple[str, Sequence[Point]]], span: tuple[float, float], top: float, bottom: float = 0.0
) -> str:
    """Lines over time within `span`, from `bottom` to `top`: (class, points) each. Where a value is None is a gap."""
    start, end = span
    across, up = WIDE / max(end - start, 1e-9), HIGH / max(top - bottom, 1e-9)
    grid = "".join(f"M0 {HIGH * part / 4:g}H{WIDE}" for part in range(5))
    drawn = [f'<path class="grid" d="{grid}"/>']
    for name, points in series:
        words, pen = [], "M"
        for at, value in points:
            if value is None or at < start:
                pen = "M"
                continue
            y = min(HIGH, max(0.0, HIGH - (value - bottom) * up))
            words.append(f"{pen}{(at - start) * across:.4g} {y:.4g}")
            pen = "L"
        if words:
            # a lone point is a line too, of no length, which a round cap makes visible
            ends = "h0" if len(words) == 1 else ""
            drawn.append(f'<path class="line {name}" d="{"".join(words)}{ends}"/>')
    box = f'viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" aria-hidden="true"'
    return f'<svg class="plot" {box}>{"".join(drawn)}</svg>'


def ceiling(value: float) -> float:
    """The next round number that is not below it, for the top of a plot."""
    if value <= 1:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(part * size for part in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if part * size >= value)
