"""Matches as rows of `match_history`, in every form that a writer of that table has used.

The new form has `participant_ids` and `rankings` as JSON, the old one `participant_a`, `participant_b` and
`winner`, or `winner_id`. Times are REAL seconds or ISO text. A row may lack its `game_id`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from fleet.match import MAX_METADATA, Match, Refused, Result, match, metadata_text, milliseconds, names, places, result
from fleet.match import whole as whole_number

#: What is read of a row, in this order; a table may lack any of them but the board and the time.
COLUMNS = (
    "game_id",
    "participant_ids",
    "rankings",
    "participant_a",
    "participant_b",
    "winner",
    "winner_id",
    "board_type",
    "num_players",
    "timestamp",
    "game_length",
    "duration_sec",
    "tournament_id",
    "worker",
    "metadata",
)
#: What is written of a match, in this order.
WRITTEN = (
    "participant_a",
    "participant_b",
    "participant_ids",
    "rankings",
    "winner",
    "board_type",
    "num_players",
    "game_length",
    "duration_sec",
    "timestamp",
    "tournament_id",
    "game_id",
    "worker",
    "metadata",
    "ended_at_ms",
    "match_hash",
)
#: Characters read of any text: more than any part of a match may have.
_READ = MAX_METADATA + 2

Row = tuple[Any, ...]


def select(found: Iterable[str]) -> str:
    """The columns of a `SELECT` that reads a row, from a table that has those `found`. Nothing large is read."""
    known = set(found)
    return ", ".join(_bounded(name) if name in known else "NULL" for name in COLUMNS)


def _bounded(name: str) -> str:
    return f"CASE typeof({name}) WHEN 'text' THEN substr({name}, 1, {_READ}) WHEN 'blob' THEN x'00' ELSE {name} END"


def read(row: Row) -> Match:
    """The match that a row tells of. Raises Refused."""
    (game_id, ids, rankings, a, b, winner, winner_id, board, players, timestamp, length, duration, *source) = row
    found = _result(ids, rankings, a, b, winner, winner_id, board, players)
    ended = round(timestamp * 1000) if type(timestamp) is float and 0 <= timestamp < 1e10 else milliseconds(timestamp)
    if duration is not None:
        duration = milliseconds(duration)
    if source[2] is not None:
        source[2] = metadata_text(source[2])
    return match(
        game_id, found, ended, whole_number(length), duration, [each if each != "" else None for each in source]
    )


def written(each: Match) -> Row:
    """The row of a match, in the order of WRITTEN: new form and old form at once, for every reader."""
    found = each.result
    return (
        found.participants[0],
        found.participants[1],
        found.participants_text,
        found.ranks_text,
        found.winner,
        found.board,
        found.players,
        each.length,
        None if each.duration is None else each.duration / 1000,
        each.ended / 1000,
        each.source[0],
        each.id,
        each.source[1],
        each.source[2],
        each.ended,
        each.hash,
    )


@lru_cache(65_536)
def _result(ids: Any, rankings: Any, a: Any, b: Any, winner: Any, winner_id: Any, board: Any, players: Any) -> Result:
    """Who played and how it ended, as the texts of a row tell."""
    if not isinstance(board, str):
        raise Refused(f"{board!r} is no board")
    seated = names(_decoded(ids)) if ids not in (None, "", "[]") else names([a, b])
    count = len(seated) if players is None else whole_number(players)
    if type(count) is not int:
        raise Refused(f"{players!r} is no number of players")
    if rankings not in (None, "", "[]"):
        return result(board, count, seated, places(_decoded(rankings)))
    first = winner if winner not in (None, "", "draw") else winner_id
    if first in (None, "", "draw"):
        if len(seated) != 2:
            raise Refused("neither a winner nor final places")
        return result(board, count, seated, (1, 1))
    if first not in seated:
        raise Refused(f"the winner {str(first)[:50]!r} did not play")
    return result(board, count, seated, tuple(1 if name == first else 2 for name in seated))


def _decoded(text: Any) -> Any:
    if not isinstance(text, str):
        raise Refused(f"{str(text)[:50]!r} is no JSON list")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(f"{text[:50]!r} is no JSON list") from None
