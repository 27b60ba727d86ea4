"""How far the cluster has come: Elo against its target, the queue's depth, and what is done in an hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis

from fleet.elo_board import EloBoard
from fleet.nodes import TOTALS, decode_total

#: Seconds over which a rate is taken.
RATE_OVER = 300.0
#: Half of the width of a 95 % bound, in standard errors.
NINETY_FIVE = 1.96


def read_progress(redis: Redis) -> dict[str, Any]:
    """`now`, `elo` by configuration, and `totals`: a row a cycle of health_aggregation, oldest first.

    Two round trips. To what a row holds come `depth`, the jobs outstanding, and `games_per_hour` and
    `completed_per_hour`, over the RATE_OVER seconds before it; None where that is not known.
    """
    with redis.pipeline(transaction=False) as pipe:
        pipe.xrange(TOTALS)
        pipe.time()
        rows, (seconds, micros) = pipe.execute()
    totals: list[dict[str, Any]] = [dict(row) for row in (decode_total(each) for _, each in rows) if "at" in row]
    for name in ("games", "completed"):
        for row, value in zip(totals, rates(totals, name), strict=True):
            row[f"{name}_per_hour"] = value
    for row in totals:
        row["depth"] = sum(row.get(name, 0) for name in ("pending", "claimed", "running"))
    return {"now": seconds + micros / 1e6, "elo": EloBoard(redis).read(), "totals": totals}


def rates(totals: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """How fast a total grew, an hour, at each row. One that fell began anew; a row without it has no rate."""
    found: list[float | None] = []
    window: list[tuple[float, float]] = []
    for row in totals:
        if name not in row:
            found.append(None)
            continue
        at, value = row["at"], row[name]
        if window and value < window[-1][1]:
            window.clear()
        window.append((at, value))
        while len(window) > 2 and window[1][0] <= at - RATE_OVER:
            window.pop(0)
        start, before = window[0]
        found.append(3600 * (value - before) / (at - start) if at > start else None)
    return found
