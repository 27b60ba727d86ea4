"""A shard: some games of one node on their way, as a compressed SQLite file, and the manifest that makes it visible.

Under `inbox/<node>/` lies `<shard>.games` and, written after it, `<shard>.json`. Whoever reaches the store can write
there, so nothing about a shard is believed: its names, its sizes, its checksum, and what is in it are checked.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fleet.games import is_config

INBOX = "inbox"  # + /<node>/<shard>.games, and .json: its manifest
RECEIPTS = "receipts"  # + /<node>/<shard>.json: what the central node did with a shard; its node takes it away
ASIDE = "refused"  # + /<node>/<shard>.json: why a shard was refused, and its manifest

VERSION = 1
#: Bytes that a manifest or a receipt may have.
DOCUMENT_LIMIT = 64 * 1024
#: Bytes of one game's moves; players and result together may have as many.
TEXT_LIMIT = 4 * 1024 * 1024
LEVEL = 6  # of zlib: twice the time of 3 and 6 % smaller; unpacking costs the same
CHUNK = 1024 * 1024

_KEY = re.compile(
    rf"{INBOX}/(?P<node>[A-Za-z0-9][A-Za-z0-9._-]{{0,63}})/(?P<shard>[0-9]{{15}}-[0-9a-f]{{8}})\.(?P<part>json|games)"
)

#: What is kept of a game, on its way and where games are gathered.
DEFINITIONS = """\
    game_id     TEXT NOT NULL,
    config      TEXT NOT NULL,
    board_type  TEXT NOT NULL,
    num_players INTEGER NOT NULL,
    players     TEXT NOT NULL,
    moves       TEXT NOT NULL,
    result      TEXT NOT NULL,
    winner      INTEGER,
    seed        INTEGER NOT NULL,
    job_id      TEXT,
    node_id     TEXT,
    started_at  REAL NOT NULL,
    finished_at REAL NOT NULL"""

#: What the one table of a shard is: text for text. Its types are SQLite's to keep and to check; CHECKs are none here,
#: for it does not look at those of a file that it opens read-only, nor trust them with functions.
SCHEMA = f"CREATE TABLE games (\n{DEFINITIONS}\n) STRICT"


def _array(column: str, length: str) -> str:
    return f"NOT json_valid({column}) OR json_type({column}) <> 'array' OR NOT json_array_length({column}) {length}"


def _bytes(column: str) -> str:
    """SQLite's length() of text ends at the first NUL, and so do its patterns and its JSON."""
    return f"length(CAST({column} AS BLOB))"


#: What is free text in a game `g`.
_TEXTS = ("g.players", "g.moves", "g.result", "g.job_id", "g.node_id")
#: What is put between texts that are looked at together, so that halves of characters never make whole ones.
_BETWEEN = "char(10)"
_ALL_TEXT = f" || {_BETWEEN} || ".join(f"COALESCE({column}, '')" for column in _TEXTS)

#: Why a game `g` may not be in a shard, in the words of whoever reads it; NULL: it may. Whoever makes a shard asks it
#: of each game, and whoever takes one in asks it again.
FAULT = f"""CASE
    WHEN typeof(g.game_id) <> 'text' OR length(g.game_id) NOT BETWEEN 16 AND 64
        OR {_bytes("g.game_id")} <> length(g.game_id) OR g.game_id GLOB '*[^0-9A-Za-z._:-]*'
        THEN 'game_id must be 16 to 64 letters, digits and ._:-, so that no two games share one'
    WHEN typeof(g.num_players) <> 'integer' OR g.num_players NOT BETWEEN 2 AND 9
        THEN 'num_players must be 2 to 9'
    WHEN typeof(g.board_type) <> 'text' OR length(g.board_type) NOT BETWEEN 1 AND 32
        OR {_bytes("g.board_type")} <> length(g.board_type)
        OR g.board_type NOT GLOB '[a-z]*' OR g.board_type GLOB '*[^a-z0-9]*'
        THEN 'board_type must be the board of a configuration such as hex8_2p'
    WHEN typeof(g.config) <> 'text' OR g.config <> g.board_type || '_' || g.num_players || 'p'
        THEN 'config must be board_type and num_players, such as hex8_2p'
    WHEN typeof(g.moves) <> 'text' OR {_bytes("g.moves")} > {TEXT_LIMIT} OR {_array("g.moves", "> 0")}
        THEN 'moves must be a JSON list with a move'
    WHEN typeof(g.players) <> 'text' OR {_array("g.players", "= g.num_players")}
        THEN 'players must be a JSON list of num_players'
    WHEN typeof(g.result) <> 'text' OR {_bytes("g.players")} + {_bytes("g.result")} > {TEXT_LIMIT}
        OR {_array("g.result", "= g.num_players")}
        THEN 'result must be a JSON list of num_players'
    WHEN g.winner IS NOT NULL AND (typeof(g.winner) <> 'integer' OR g.winner NOT BETWEEN 0 AND g.num_players - 1)
        THEN 'winner must be a seat from 0, or NULL'
    WHEN typeof(g.seed) <> 'integer'
        THEN 'seed must be an integer'
    WHEN g.job_id IS NOT NULL AND (typeof(g.job_id) <> 'text' OR {_bytes("g.job_id")} > 64)
        OR g.node_id IS NOT NULL AND (typeof(g.node_id) <> 'text' OR {_bytes("g.node_id")} > 64)
        THEN 'job_id and node_id must be text of at most 64 bytes, or NULL'
    WHEN typeof(g.started_at) NOT IN ('real', 'integer') OR g.started_at NOT BETWEEN 0 AND 1e11
        OR typeof(g.finished_at) NOT IN ('real', 'integer') OR g.finished_at NOT BETWEEN 0 AND 1e11
        THEN 'started_at and finished_at must be seconds since the epoch'
    WHEN NOT is_text(CAST({_ALL_TEXT} AS BLOB)) THEN 'its text is no UTF-8, or holds a NUL'
END"""


class Refused(Exception):
    """A shard is not what it should be: it is set aside. The message says what is wrong with it."""


class Damaged(Refused):
    """What lies in the store is not what its manifest says, so its node may have sent a sound one."""


@dataclass(frozen=True)
class Limits:
    """What a shard may be at most, and what stays free on the disk that it is unpacked on."""

    size: int = 128 << 20
    unpacked: int = 256 << 20
    games: int = 1_000_000
    min_free: int = 64 << 20


class Manifest(BaseModel):
    """What a node says of a shard."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: int
    shard: Annotated[str, StringConstraints(max_length=64)]
    node: Annotated[str, StringConstraints(max_length=64)]
    configs: dict[str, Annotated[int, Field(gt=0)]] = Field(min_length=1, max_length=1_000)
    games: int = Field(gt=0)
    size: int = Field(gt=0)
    unpacked: int = Field(gt=0)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def new_shard(now: float) -> str:
    """A name that no other shard has, and that sorts by when it was made."""
    return f"{round(now * 1000):015d}-{secrets.token_hex(4)}"


def data_key(node: str, shard: str) -> str:
    return f"{INBOX}/{node}/{shard}.games"


def manifest_key(node: str, shard: str) -> str:
    return f"{INBOX}/{node}/{shard}.json"


def read_key(key: str) -> tuple[str, str, str] | None:
    """Node, shard and `json` or `games` of a key of the inbox; None for another key."""
    found = _KEY.fullmatch(key)
    return None if found is None else (found["node"], found["shard"], found["part"])


def read_manifest(text: bytes, node: str, shard: str, limits: Limits) -> Manifest:
    """The manifest that lies under that node and shard. Raises Refused."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "manifest"
        raise Refused(f"its manifest: {where}: {problem['msg']}"[:500]) from error
    if manifest.version != VERSION:
        raise Refused(f"it has version {manifest.version}; this node reads {VERSION}")
    if (manifest.node, manifest.shard) != (node, shard):
        raise Refused(f"its manifest is of {manifest.node[:64]}/{manifest.shard[:64]}")
    for name, claimed, most in (
        ("size", manifest.size, limits.size),
        ("unpacked", manifest.unpacked, limits.unpacked),
        ("games", manifest.games, limits.games),
    ):
        if claimed > most:
            raise Refused(f"its manifest claims {name} {claimed}; at most {most}")
    if bad := [name for name in manifest.configs if not is_config(name)]:
        raise Refused(f"{bad[0][:64]!r} is not a board configuration such as hex8_2p")
    if sum(manifest.configs.values()) != manifest.games:
        raise Refused(f"its manifest claims {manifest.games} games, by configuration {sum(manifest.configs.values())}")
    return manifest


def pack(source: Path, target: Path) -> tuple[int, int, str]:
    """Compress a file. Returns its size, the compressed size, and the SHA-256 of that."""
    digest, press, size = hashlib.sha256(), zlib.compressobj(LEVEL), 0
    with source.open("rb") as raw, target.open("wb") as packed:
        while chunk := raw.read(CHUNK):
            size += len(chunk)
            piece = press.compress(chunk)
            digest.update(piece)
            packed.write(piece)
        piece = press.flush()
        digest.update(piece)
        packed.write(piece)
        return size, packed.tell(), digest.hexdigest()


def unpack(source: Path, target: Path, size: int) -> None:
    """Decompress a file that is to have `size` bytes; never writes more. Raises Refused, or OSError."""
    press, left = zlib.decompressobj(), size
    try:
        with source.open("rb") as packed, target.open("wb") as raw:
            while chunk := press.unconsumed_tail or packed.read(CHUNK):
                if press.eof:
                    raise Refused("something comes after its end")
                piece = press.decompress(chunk, min(CHUNK, left + 1))
                left -= len(piece)
                if left < 0:
                    raise Refused(f"it unpacks to more than the {size} bytes that its manifest claims")
                raw.write(piece)
    except zlib.error as error:
        raise Refused(f"it is not compressed as a shard is: {error}") from error
    if not press.eof or press.unused_data:
        raise Refused("it is cut off" if not press.eof else "something comes after its end")
    if left:
        raise Refused(f"it unpacks to {size - left} bytes; its manifest claims {size}")


#: Games looked at together.
_TOGETHER = 250

#: Of games whose types and boards are known, and whose rowids lie between two: how many they are, how many are sound
#: but for their text, and what is left to look at: their ids, and their text.
_SOME = f"""SELECT COUNT(*), TOTAL(length(g.game_id) BETWEEN 16 AND 64
        AND json_valid(g.moves) AND json_array_length(g.moves) > 0
        AND json_valid(g.players) AND json_array_length(g.players) = g.num_players
        AND json_valid(g.result) AND json_array_length(g.result) = g.num_players
        AND (g.winner IS NULL OR g.winner BETWEEN 0 AND g.num_players - 1)
        AND g.started_at BETWEEN 0 AND 1e11 AND g.finished_at BETWEEN 0 AND 1e11
        AND COALESCE({_bytes("g.job_id")} <= 64, 1) AND COALESCE({_bytes("g.node_id")} <= 64, 1)),
        {", ".join(f"group_concat({column}, {_BETWEEN})" for column in ("g.game_id", *_TEXTS))}
    FROM games g WHERE g.rowid BETWEEN ? AND ?"""  # noqa: S608

_ID_BYTES = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._:-"


def define_functions(db: sqlite3.Connection) -> None:
    """Give a connection what the checks of a game ask of Python."""
    db.create_function("is_text", 1, _is_text, deterministic=True)


def _is_text(value: bytes | None) -> bool:
    try:
        return "\0" not in (value or b"").decode()
    except UnicodeDecodeError:
        return False


def harden(db: sqlite3.Connection) -> None:
    """Have a connection believe nothing that a file says of itself."""
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 3 * TEXT_LIMIT)


def uri(path: Path) -> str:
    """How SQLite opens a shard: nothing is written, no journal beside it is looked for."""
    return f"{path.absolute().as_uri()}?mode=ro&immutable=1"


def check(path: Path, manifest: Manifest) -> None:
    """Read all of an unpacked shard, and raise Refused unless it is one table of sound games, as many as claimed."""
    try:
        with closing(sqlite3.connect(uri(path), uri=True, isolation_level=None)) as db:
            harden(db)
            define_functions(db)
            schema = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema LIMIT 2").fetchall()
            if schema != [("table", "games", "games", SCHEMA)]:
                raise Refused(f"it is not the one table of a shard, but {_shown(schema)}")
            problems = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
            if problems != ["ok"]:
                raise Refused(f"SQLite says: {problems[0]}")
            if _configs(db) != dict(manifest.configs):
                raise Refused(_fault(db) or "its games are not those that its manifest counts")
            if not _are_sound(db, manifest.games) and (fault := _fault(db)):
                raise Refused(fault)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise Refused(f"it cannot be read: {error}") from error


def _configs(db: sqlite3.Connection) -> dict[str, int]:
    """How many games it has of each configuration; where board or players do not fit it, under all three."""
    counted: dict[str, int] = {}
    for config, board, players, number in db.execute(
        "SELECT config, board_type, num_players, COUNT(*) FROM games GROUP BY config, board_type, num_players"
    ):
        name = config if config == f"{board}_{players}p" else f"{config}, {board}, {players}"
        counted[name] = counted.get(name, 0) + number
    return counted


def _are_sound(db: sqlite3.Connection, games: int) -> bool:
    """Whether FAULT would find nothing in so many games, in less time: many at once, with no call of Python for each.
    False may also mean that it cannot tell, as of games that are very large, or numbered as no exporter does."""
    for first in range(1, games + 1, _TOGETHER):
        last = min(first + _TOGETHER - 1, games)
        try:
            found, sound, ids, *texts = db.execute(_SOME, (first, last)).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):  # no JSON, no UTF-8, or too much at once
            return False
        if not found == sound == last - first + 1 or any("\0" in text for text in texts if text):
            return False
        if sum(len(text) for text in texts if text) > TEXT_LIMIT // 4:
            return False
        if ids.encode().translate(None, _ID_BYTES) != b"\n" * (found - 1):
            return False
    return True


def _fault(db: sqlite3.Connection) -> str:
    """What is wrong with the first game that something is wrong with."""
    found = db.execute(f"SELECT g.rowid, {FAULT} AS fault FROM games g WHERE fault IS NOT NULL LIMIT 1").fetchone()  # noqa: S608
    return f"game {found[0]}: {found[1]}" if found else ""


def _shown(schema: list[tuple[str, str, str, str]]) -> str:
    kinds = [f"{kind} {str(name)[:40]}" for kind, name, *_ in schema]
    if kinds == ["table games"]:
        return f"another table: {str(schema[0][3])[:100]}"
    return ", ".join(kinds) + (", ..." if len(kinds) > 1 else "") if kinds else "empty"
