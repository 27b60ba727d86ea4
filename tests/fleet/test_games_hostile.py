"""Shards that are not what they should be are refused, each for its reason, set aside, and the others go on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.game_shard import SCHEMA, Limits
from fleet.games import COLUMNS, GATHERED
from fleet.store import Store
from tests.fleet.games_stage import INTAKE, NOW, gathered, keys, play, send, take, total

GIB = 1 << 30
Change = Callable[["Forged"], None]


class Forged:
    """A sound shard of one game, or more, to be changed: `db` its SQLite file, `data` that file compressed, `said` its
    manifest. What is not changed fits what was."""

    def __init__(self, store: Store, folder: Path, games: int = 1) -> None:
        self.played = play(folder / "n9", games)
        send(store, folder / "n9", now=NOW - 60, shard_games=games)  # it comes first
        self.store, self.raw = store, folder / "raw"
        _, self.manifest_key = keys(store, "inbox/n9")
        self.data_key = self.manifest_key.replace(".json", ".games")
        self.said: dict[str, Any] = json.loads(store.read(self.manifest_key, 1 << 16))
        self.raw.write_bytes(zlib.decompress(store.read(self.data_key, 1 << 20)))

    def sql(self, *statements: str, schema: str | None = None) -> None:
        """Change its file, and what SQLite believes of it."""
        with closing(sqlite3.connect(self.raw, isolation_level=None)) as db:
            db.execute("PRAGMA ignore_check_constraints = ON")
            db.execute("PRAGMA writable_schema = ON")
            loose = f"CREATE TABLE games ({', '.join(COLUMNS)})"
            db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'games'", (loose,))
        with closing(sqlite3.connect(self.raw, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)
            db.execute("PRAGMA writable_schema = ON")
            db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'games' AND type = 'table'", (schema or SCHEMA,))

    def leave(self, packed: bytes | None = None, **said: Any) -> None:
        """Put it into the inbox with a manifest that fits, but for what it says."""
        raw = self.raw.read_bytes()
        data = zlib.compress(raw) if packed is None else packed
        fits = {"unpacked": len(raw), "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (self.raw.with_name("data")).write_bytes(data)
        self.store.put(self.raw.with_name("data"), self.data_key)
        self.store.write(self.manifest_key, json.dumps({**self.said, **fits, **said}).encode())


def _sql(*statements: str, **more: Any) -> Change:
    def change(forged: Forged) -> None:
        forged.sql(*statements, **more)
        forged.leave()

    return change


def _set(column: str, value: str) -> Change:
    return _sql(f"UPDATE games SET {column} = {value}")


def _said(**said: Any) -> Change:
    return lambda forged: forged.leave(**said)


def _manifest(text: bytes) -> Change:
    return lambda forged: forged.store.write(forged.manifest_key, text)


def _packed(change: Callable[[bytes], bytes]) -> Change:
    return lambda forged: forged.leave(change(zlib.compress(forged.raw.read_bytes())))


def _raw(change: Callable[[bytes], bytes]) -> Change:
    def apply(forged: Forged) -> None:
        forged.raw.write_bytes(change(forged.raw.read_bytes()))
        forged.leave()

    return apply


def _lying_checksum(forged: Forged) -> None:
    forged.leave(sha256="0" * 64)


def _bomb(forged: Forged) -> None:
    forged.leave(zlib.compress(b"\0" * (8 << 20)))  # a manifest of some kilobytes, and megabytes behind it


def _no_data(forged: Forged) -> None:
    forged.store.delete(forged.data_key)


def _two_tables(forged: Forged) -> None:
    with closing(sqlite3.connect(forged.raw)) as db:
        db.execute("CREATE TABLE more (x)")
    forged.leave()


def _empty(forged: Forged) -> None:
    with closing(sqlite3.connect(forged.raw)) as db:
        db.execute("DROP TABLE games")
    forged.leave()


def _with(statement: str) -> Change:
    def change(forged: Forged) -> None:
        with closing(sqlite3.connect(forged.raw)) as db, db:
            db.execute(statement)
        forged.leave()

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    "another table": (_two_tables, "not the one table of a shard, but table games, table more"),
    "a trigger": (
        _with("CREATE TRIGGER t AFTER INSERT ON games BEGIN SELECT 1; END"),
        "not the one table of a shard, but table games, trigger t",
    ),
    "a view": (_with("CREATE VIEW v AS SELECT 1"), "table games, view v"),
    "an index by expression": (_with("CREATE INDEX i ON games (length(moves))"), "table games, index i"),
    "a virtual table": (_with("CREATE VIRTUAL TABLE f USING fts5(x)"), "table games, table f"),
    "a view in its place": (
        _sql(schema="CREATE VIEW games AS SELECT 1"),
        "cannot be read: malformed database schema",
    ),
    "a generated column": (
        _sql(schema=SCHEMA.replace("seed        INTEGER NOT NULL", "seed INTEGER AS (1)")),
        "another table: CREATE TABLE games",
    ),
    "no table": (_raw(lambda _: b""), "its manifest: unpacked: Input should be greater than 0"),
    "an empty database": (_empty, "not the one table of a shard, but empty"),
    "no database": (_raw(lambda _: b"PK\3\4" * 512), "it cannot be read: file is not a database"),
    "a page that is nonsense": (
        _raw(lambda raw: raw[:4096] + b"\xff" * 4096 + raw[8192:]), "cannot be read",
    ),
    "a file that ends early": (_raw(lambda raw: raw[:-4096]), "malformed"),
    "a number for moves": (_set("moves", "7"), "non-TEXT value in games.moves"),
    "bytes for moves": (_set("moves", "x'5b315d'"), "non-TEXT value in games.moves"),
    "no moves": (_set("moves", "'[]'"), "moves must be a JSON list with a move"),
    "no JSON": (_set("moves", "'[1, 2'"), "moves must be a JSON list with a move"),
    "a null": (_set("players", "NULL"), "NULL value in games.players"),
    "text for a number": (_set("seed", "'many'"), "non-INTEGER value in games.seed"),
    "text for an instant": (_set("finished_at", "'soon'"), "non-REAL value in games.finished_at"),
    "a time without end": (_set("finished_at", "9e999"), "started_at and finished_at must be"),
    "text that goes on behind its end": (_set("moves", "moves || char(0) || '[666]'"), "holds a NUL"),
    "an id that goes on behind its end": (_set("game_id", "game_id || char(0) || 'x'"), "game_id must be"),
    "a game where nobody looks for it": (
        _set("rowid", "-9223372036854775808, moves = '[]'"), "moves must be a JSON list with a move",
    ),
    "halves of a character": (
        _set("players", "CAST(x'5b2261222c2262225dc3' AS TEXT), moves = CAST(x'a95b315d' AS TEXT)"),
        "must be a JSON list",
    ),
    "a winner who did not play": (_set("winner", "5"), "winner must be a seat"),
    "a path for an id": (_set("game_id", "'../../../../../../etc/passwd'"), "game_id must be"),
    "a short id": (_set("game_id", "'1'"), "game_id must be"),
    "a path in a config": (
        _sql("UPDATE games SET config = '../etc_2p', board_type = '../etc'"), "board_type must be the board",
    ),
    "another config": (_set("config", "'hex4_2p'"), "config must be board_type and num_players"),
    "another board": (_set("board_type", "'hex4'"), "config must be board_type and num_players"),
    "text that is no UTF-8": (
        _set("players", "CAST(x'5b2261ff222c2262225d' AS TEXT)"), "no UTF-8",
    ),
    "more games than it says": (
        _sql("INSERT INTO games SELECT 'x' || substr(game_id, 2), " + ", ".join(COLUMNS[1:]) + " FROM games"),
        "not those that its manifest counts",
    ),
    "a checksum that lies": (_lying_checksum, "SHA-256"),
    "a size that lies": (_said(size=10), ""),
    "a claim of 10 GB": (_said(size=10 * GIB), f"its manifest claims size {10 * GIB}; at most"),
    "a claim of 10 GB unpacked": (_said(unpacked=10 * GIB), f"its manifest claims unpacked {10 * GIB}; at most"),
    "a bomb": (_bomb, "it unpacks to more than the 8192 bytes" ),
    "a bomb that says little": (
        lambda forged: forged.leave(zlib.compress(b"\0" * (8 << 20)), unpacked=4096),
        "it unpacks to more than the 4096 bytes",
    ),
    "nothing compressed": (_packed(lambda _: b"nothing"), "it is not compressed as a shard is"),
    "half of it": (_packed(lambda data: data[: len(data) // 2]), "it is cut off"),
    "something behind it": (_packed(lambda data: data + b"more"), "something comes after its end"),
    "no data": (_no_data, "its data is not in the inbox"),
    "a manifest that is no JSON": (_manifest(b"{"), "its manifest: "),
    "a manifest of megabytes": (_manifest(b" " * (1 << 20)), "its manifest: "),
    "a manifest that is a list": (_manifest(b"[1]"), "its manifest: "),
    "a manifest with more in it": (_said(path="/etc/passwd"), "its manifest: path: Extra inputs"),
    "another node's manifest": (_said(node="n1"), "its manifest is of n1/"),
    "a later version": (_said(version=2), "it has version 2; this node reads 1"),
    "a config that is a path": (_said(configs={"../../x_2p": 1}), "'../../x_2p' is not a board configuration"),
    "a config that is not there": (_said(configs={"hex4_2p": 1}), "not those that its manifest counts"),
    "a sum that is none": (_said(games=2), "claims 2 games, by configuration 1"),
}  # fmt: skip


#: What may be the store's fault: its node sends it once more.
DAMAGED = ("a checksum that lies", "a size that lies", "no data")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_refused_set_aside_and_told_of_once(store: Store, tmp_path: Path, name: str) -> None:
    forged = Forged(store, tmp_path)
    change, said = HOSTILE[name]
    change(forged)
    played = play(tmp_path / "n1", 3)
    send(store, tmp_path / "n1")
    told: list[tuple[str, str]] = []

    done = take(store, tmp_path / "c", told=lambda *each: told.append(each))

    assert (done.refused, done.gathered, done.failed, done.left) == (1, 3, 0, 0), done
    assert gathered(tmp_path / "c") == played  # the loop went on with the next one
    ((shard, why),) = told
    assert said in why, why
    assert shard == forged.manifest_key.removeprefix("inbox/").removesuffix(".json")
    assert done.refusals == [f"{shard}: {why}"]
    (aside,) = keys(store, "refused")
    document = json.loads(store.read(aside, 1 << 20))
    assert (document["why"], document["data"]) == (why, forged.data_key)
    assert keys(store, "inbox") == ([forged.data_key] if name != "no data" else [])  # nothing of it was deleted
    assert [path.name for path in (tmp_path / "c" / "ingest").iterdir()] == ["lock"]
    with closing(sqlite3.connect(tmp_path / "c" / GATHERED)) as db:
        assert db.execute("SELECT node, why FROM shards WHERE state = 'refused'").fetchall() == [("n9", why)]

    if name in DAMAGED:
        return
    account = send(store, tmp_path / "n9", now=NOW + 1).account  # its node hears of it, and keeps the game
    assert total(account)["refused"] == 1
    assert take(store, tmp_path / "c", told=lambda *each: told.append(each)).refused == 0
    forged.store.write(forged.manifest_key, document["manifest"].encode())  # put back as it was: refused again
    assert take(store, tmp_path / "c", told=lambda *each: told.append(each)).refused == 1
    assert len(told) == 1 or name == "a manifest of megabytes"


@pytest.mark.parametrize("name", DAMAGED)
def test_a_shard_that_the_store_damaged_is_sent_again_once(store: Store, tmp_path: Path, name: str) -> None:
    forged = Forged(store, tmp_path)
    change, _ = HOSTILE[name]
    change(forged)
    assert take(store, tmp_path / "c").refused == 1
    done = send(store, tmp_path / "n9", now=NOW + 1)
    assert (done.games, total(done.account)["sent"], total(done.account)["refused"]) == (1, 1, 0)
    change(forged)  # and once more
    assert take(store, tmp_path / "c").refused == 1
    done = send(store, tmp_path / "n9", now=NOW + 2)
    assert (done.games, total(done.account)["sent"], total(done.account)["refused"]) == (0, 0, 1)


def test_a_shard_that_was_sent_again_is_gathered(store: Store, tmp_path: Path) -> None:
    forged = Forged(store, tmp_path)
    store.delete(forged.data_key)
    assert take(store, tmp_path / "c").refused == 1
    send(store, tmp_path / "n9", now=NOW + 1)
    assert take(store, tmp_path / "c").gathered == 1
    assert gathered(tmp_path / "c") == forged.played
    assert total(send(store, tmp_path / "n9", now=NOW + 2).account)["gathered"] == 1


def test_a_refused_shard_that_is_mended_and_put_back_is_gathered(store: Store, tmp_path: Path) -> None:
    forged = Forged(store, tmp_path)
    forged.leave(version=2)
    assert take(store, tmp_path / "c").refused == 1
    send(store, tmp_path / "n9")
    forged.leave()
    send(store, tmp_path / "n9")  # it sees it there
    assert take(store, tmp_path / "c").gathered == 1
    assert gathered(tmp_path / "c") == forged.played
    assert total(send(store, tmp_path / "n9").account)["gathered"] == 1


@pytest.mark.parametrize(
    "key", ["inbox/x.json", "inbox/n1/x.json", "inbox/n1/n2/001800000000000-00000000.json", "inbox/_n/a.games"]
)
def test_names_that_no_shard_has_are_left_alone_and_counted(store: Store, tmp_path: Path, key: str) -> None:
    store.write(key, b"{}")
    played = play(tmp_path / "n1", 1)
    send(store, tmp_path / "n1")
    done = take(store, tmp_path / "c")
    assert (done.strange, done.refused, done.gathered) == (1, 0, 1)
    assert gathered(tmp_path / "c") == played
    assert keys(store, "inbox") == [key]


def test_a_game_with_the_id_of_another_changes_nothing(store: Store, tmp_path: Path) -> None:
    forged = Forged(store, tmp_path)
    assert take(store, tmp_path / "c").gathered == 1
    forged.sql("UPDATE games SET moves = '[666]'")
    forged.leave()
    done = take(store, tmp_path / "c")
    assert (done.gathered, done.doubled) == (0, 1)
    with closing(sqlite3.connect(tmp_path / "c" / GATHERED)) as db:
        assert db.execute("SELECT moves = '[666]' FROM games").fetchall() == [(0,)]


def test_games_numbered_as_no_exporter_does_are_looked_at_one_by_one(store: Store, tmp_path: Path) -> None:
    forged = Forged(store, tmp_path)
    forged.sql("UPDATE games SET rowid = -9223372036854775808")
    forged.leave()
    assert take(store, tmp_path / "c").gathered == 1


def test_the_games_of_a_large_shard_are_all_looked_at(store: Store, tmp_path: Path) -> None:
    forged = Forged(store, tmp_path, 600)
    for number in (1, 250, 251, 500, 501, 600):
        forged.sql(f"UPDATE games SET result = '[0]' WHERE rowid = {number}")
        forged.leave()
        done = take(store, tmp_path / "c")
        assert done.refusals[0].endswith(f"game {number}: result must be a JSON list of num_players")
        forged.sql(f"UPDATE games SET result = '[1.0, -1.0]' WHERE rowid = {number}")
    forged.leave()
    assert take(store, tmp_path / "c").gathered == 600


def test_limits_are_what_an_honest_node_stays_below(store: Store, tmp_path: Path) -> None:
    forged = Forged(store, tmp_path)
    size = forged.said["unpacked"]
    small = replace(INTAKE, limits=Limits(min_free=0, unpacked=size - 1))
    assert take(store, tmp_path / "c", small).refused == 1
    forged.leave()
    assert take(store, tmp_path / "c", replace(INTAKE, limits=Limits(min_free=0, unpacked=size))).gathered == 1
