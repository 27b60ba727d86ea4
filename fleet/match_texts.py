"""Matches from text files: CSV, one match or one pairing a line, and the results of PGN.

PGN is read for its headers only, a dozen lines of code: a library would read the moves, and those of chess only.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from fleet import match_rows
from fleet.configs import BoardConfig
from fleet.match import Match, Refused, compact, hash_in_parts, hash_of, match, milliseconds, result, whole

#: Columns of a CSV file: those of match_history, and `config` for its board and players.
CSV_COLUMNS = ("config", *match_rows.COLUMNS)
#: Columns of a CSV file that counts: games between two, and how many of them the first won or drew.
PAIRINGS = ("a", "b", "label", "games", "wins", "draws")
MAX_GAMES = 1_000_000  # of one line of pairings
MAX_LINE = 1_000_000  # characters
#: When matches ended of which nothing says it, and nothing was given: it only orders them.
UNDATED = 946_684_800_000  # ms: 2000-01-01

#: A match, or why a line holds none, and what it says.
Read = Match | tuple[str, str]

_HEADER = re.compile(r'^\[(\w+)\s+"((?:[^"\\]|\\.)*)"\]\s*$')
_READ = frozenset(["White", "Black", "Result", "UTCDate", "Date", "UTCTime", "PlyCount"])
_RESULTS = {"1-0": (1, 2), "0-1": (2, 1), "1/2-1/2": (1, 1)}


class TextRefused(Exception):
    """Nothing is imported from this file; the message names it and says why."""


def read_csv(path: Path, config: str | None, ended: int | None, names: Sequence[str] | None = None) -> Iterator[Read]:
    """The matches of a CSV file with a line of column names, or with these `names`. Raises TextRefused, OSError.

    `config` and `ended` (ms) hold for lines that say no other.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = csv.DictReader(_lines(file, path), names)
        try:
            named = [name.strip().lower() for name in lines.fieldnames or ()]
        except csv.Error as error:
            raise TextRefused(f"{path}: {error}") from error
        pairings = {"a", "b", "games", "wins"} <= set(named)
        if unknown := sorted(set(named) - set(PAIRINGS if pairings else CSV_COLUMNS)):
            accepted = ", ".join(CSV_COLUMNS)
            raise TextRefused(
                f"{path}: column {', '.join(unknown[:5])!r} is none of {accepted}; nor is it a file of pairings, with "
                f"{', '.join(PAIRINGS)}"
            )
        if not named or not ({"participant_ids", "participant_a"} & set(named) or pairings):
            raise TextRefused(
                f"{path}: no column participant_ids or participant_a; if no line names the columns, --columns does"
            )
        lines.fieldnames = named
        try:
            for line in lines:
                yield from _pairing(line, config, ended) if pairings else [_line(line, config, ended)]
        except csv.Error as error:
            raise TextRefused(f"{path}, line {lines.line_num}: {error}") from error


def _line(line: Mapping[str | None, Any], config: str | None, ended: int | None) -> Read:
    try:
        if None in line:
            raise Refused("more values than columns")
        row = {name: (value if value != "" else None) for name, value in line.items()}
        if row.get("board_type") is None:
            board = _board(row.get("config") or config)
            row |= {"board_type": board.board, "num_players": board.players}
        for name in ("participant_ids", "rankings"):
            row[name] = _listed(row.get(name), numbers=name == "rankings")
        if row.get("timestamp") is None and ended is not None:
            row["timestamp"] = ended / 1000
        if row.get("duration_sec") is not None:
            row["duration_sec"] = (milliseconds(row["duration_sec"]) or 0) / 1000
        row["num_players"] = whole(row.get("num_players"))
        return match_rows.read(tuple(row.get(name) for name in match_rows.COLUMNS))
    except Refused as error:
        return str(error), json.dumps({str(name): value for name, value in line.items()})


def _listed(value: str | None, *, numbers: bool) -> str | None:
    """A list as JSON: it stands there as such, or with bars between."""
    if value is None or value.lstrip().startswith("["):
        return value
    parts = [part.strip() for part in value.split("|")]
    return compact([whole(part) for part in parts] if numbers else parts)


def _pairing(line: Mapping[str | None, Any], config: str | None, ended: int | None) -> Iterator[Read]:
    """Each game of a pairing. A file that was counted anew and has more games only adds those."""
    try:
        if None in line:
            raise Refused("more values than columns")
        board = _board(config)
        games, won, drawn = (_count(line, name) for name in ("games", "wins", "draws"))
        if won + drawn > games or games > MAX_GAMES:
            raise Refused(f"{won} wins and {drawn} draws of {games} games; at most {MAX_GAMES:,}")
        one, other = str(line["a"]).strip(), str(line["b"]).strip()
        for how, number, ranks in (("1", won, (1, 2)), ("0", games - won - drawn, (2, 1)), ("=", drawn, (1, 1))):
            found = result(board.board, board.players, (one, other), ranks)
            for each in range(number):
                name = hash_of(compact([str(board), one, other, line.get("label") or "", how, each])).hex()
                yield match(f"csv-{name}", found, UNDATED if ended is None else ended)
    except Refused as error:
        yield str(error), json.dumps({str(name): value for name, value in line.items()})


def _count(line: Mapping[str | None, Any], name: str) -> int:
    value = whole(str(line.get(name) or "0").strip())
    if type(value) is not int or value < 0:
        raise Refused(f"{name}: {str(line.get(name))[:50]!r} is no number of games")
    return value


def _board(config: Any) -> BoardConfig:
    if config is None:
        raise Refused("no board configuration: give --config")
    try:
        return BoardConfig.parse(str(config))
    except ValueError as error:
        raise Refused(str(error)) from None


def read_pgn(path: Path, config: str | None, ended: int | None) -> Iterator[Read]:
    """The results of a PGN file: players, result, and when it was, which is what UTCDate, Date and UTCTime say."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for headers, digest in _games(_lines(file, path)):
            yield _game(headers, digest, config, ended)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file, none of them without end. Raises TextRefused."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise TextRefused(f"{path}, line {number}: longer than {MAX_LINE:,} characters")
        yield line


def _games(lines: Iterable[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Each game's headers, and the hash of its whole text. Headers behind moves begin the next one."""
    headers: dict[str, str] = {}
    text = hash_in_parts()
    moves = False
    for line in lines:
        header = _HEADER.match(line)
        if header is not None and moves:
            yield headers, text.hexdigest()
            headers, text, moves = {}, hash_in_parts(), False
        if header is not None and (header[1] in _READ or not headers):
            headers[header[1]] = re.sub(r"\\(.)", r"\1", header[2])
        elif line.strip() and headers:
            moves = True
        if headers and line.strip():
            text.update(line.strip().encode() + b"\n")
    if headers:
        yield headers, text.hexdigest()


def _game(headers: Mapping[str, str], digest: str, config: str | None, ended: int | None) -> Read:
    try:
        board = _board(config)
        if (ranks := _RESULTS.get(headers.get("Result", ""))) is None:
            raise Refused(f"the result {headers.get('Result', '')[:20]!r} is none of {', '.join(_RESULTS)}")
        players = tuple(headers.get(colour, "").strip() for colour in ("White", "Black"))
        at = _instant(headers) if ended is None else _instant(headers, ended)
        found = result(board.board, board.players, players, ranks)
        length = whole(headers.get("PlyCount"))
        return match(f"pgn-{digest}", found, at, length if type(length) is int else None)
    except Refused as error:
        return str(error), json.dumps(dict(headers))


def _instant(headers: Mapping[str, str], otherwise: int | None = None) -> int:
    day = headers.get("UTCDate") or headers.get("Date") or ""
    time = headers.get("UTCTime") or headers.get("Time") or "00:00:00"
    for written in (f"{day} {time}", f"{day} 00:00:00"):
        try:
            return round(datetime.strptime(written, "%Y.%m.%d %H:%M:%S").replace(tzinfo=UTC).timestamp() * 1000)
        except ValueError:
            continue
    if otherwise is None:
        raise Refused(f"the date {day[:20]!r} is none, such as 2026.01.31; give --ended")
    return otherwise
