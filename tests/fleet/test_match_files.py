"""Matches from files: a database of ours goes fast and is believed no more than any other, and nothing runs in it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fleet import match_files, match_texts
from fleet.match import Match, match, result
from fleet.match_audit import verify
from fleet.match_export import export_csv, export_db
from fleet.match_files import FileRefused, merge_file, rows_in
from fleet.match_rows import WRITTEN, written
from fleet.match_set import MatchSet, Merged
from fleet.match_texts import TextRefused, read_csv, read_pgn
from tests.fleet.match_stage import T0, matches, played, row, write_original

SOURCE = ("t1", "node-1", '{"a":1}')
#: Plain ones, and such as SQLite cannot write as the canonical text.
FOUND = [
    *[played(number, ("a", "b"), (1 + number % 2, 2), length=30, duration=1500, source=SOURCE) for number in range(30)],
    played(30, ('quo"ted', "back\\slash", "ümläut"), (3, 1, 1)),
    match("plain", result("hex8", 2, ("a", "b"), (1, 1)), T0 + 99, source=('a "b"', "ü", '{"\\u00fc":1}')),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A database of ours with matches, another content, an exclusion and a baseline."""
    with matches(tmp_path / "source.db") as found:
        found.merge(FOUND)
        found.merge([played(3, ("a", "b"), (1, 1))])
        found.exclude([("m00004", "crashed")])
        found.tell_types({"b": "baseline"})
    return tmp_path / "source.db"


def merged(tmp_path: Path, source: Path, **more: Any) -> Merged:
    with matches(tmp_path / "own.db") as own:
        found = merge_file(own, source, **more)
        assert verify(own).sound, verify(own).problems
    return found


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)


def test_a_database_of_ours_comes_over_whole_and_only_once(tmp_path: Path, source: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(match_files, "ROWS", 7)
    heard: list[int] = []
    assert merged(tmp_path, source, progress=heard.append).merged == len(FOUND)
    assert sum(heard) == rows_in(source)
    with matches(source) as theirs, matches(tmp_path / "own.db") as own:
        assert own.state() == theirs.state()
        columns = "game_id, participant_a, winner, timestamp, duration_sec, metadata"
        query = f"SELECT {columns} FROM match_history ORDER BY game_id"
        assert own.db.execute(query).fetchall() == theirs.db.execute(query).fetchall()
    again = merged(tmp_path, source)
    assert (again.changed, again.known, again.refused) == (False, len(FOUND) + 1, 0)


@pytest.mark.parametrize(
    "lie",
    [
        "match_hash = x'00112233445566778899aabbccddeeff'",
        "rankings = '[2,1]'",
        "winner = 'b'",
        "participant_a = 'x'",
        "timestamp = 5.0",
        "ended_at_ms = ended_at_ms + 1",
        "rankings = '[1, 2]'",
        "worker = ''",
        "participant_ids = CAST(participant_ids AS BLOB)",
        "winner = CAST(winner AS BLOB)",
        "board_type = CAST(board_type AS BLOB)",
        "duration_sec = '1.5'",
        'metadata = \'{"b": 1, "a": 2}\'',
    ],
)
def test_a_file_of_ours_that_lies_is_read_as_any_other(tmp_path: Path, source: Path, lie: str) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute(f"UPDATE match_history SET {lie} WHERE game_id = 'm00005'")
    assert merged(tmp_path, source).merged == len(FOUND)
    with matches(tmp_path / "own.db") as own:
        query = f"SELECT {', '.join(WRITTEN)} FROM match_history WHERE game_id = 'm00005'"
        stored = own.find("m00005")
        assert stored is not None
        assert own.db.execute(query).fetchone() == written(stored), "every column says the same"


def test_an_id_that_stands_there_twice_counts_once(tmp_path: Path, source: Path) -> None:
    columns = ", ".join(WRITTEN)
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("DROP INDEX backbeat_match_ids")
        db.execute(f"INSERT INTO match_history ({columns}) SELECT {columns} FROM match_history")
    found = merged(tmp_path, source)
    assert (found.merged, found.refused) == (len(FOUND), 0)


@pytest.mark.parametrize(
    ("lie", "refused"),
    [
        ("board_type = '../etc'", 1),
        ('participant_ids = \'["a","a"]\'', 1),
        ("participant_ids = zeroblob(900000)", 1),
        ("num_players = 3", 1),
        ("game_length = -1", 1),
        ("game_id = 'an id with spaces'", 1),
        ("timestamp = 'soon', ended_at_ms = 'soon'", 1),
    ],
)
def test_rows_of_it_that_are_no_matches_are_refused(tmp_path: Path, source: Path, lie: str, refused: int) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute(f"UPDATE match_history SET {lie} WHERE game_id = 'm00005'")
    found = merged(tmp_path, source)
    assert (found.merged, found.refused) == (len(FOUND) - 1, refused)


def test_a_hash_that_is_right_does_not_open_the_door(tmp_path: Path, source: Path) -> None:
    """The hash is of what the row says, and the row says what no match may."""
    from fleet.match import hash_of

    text = '["m00005","hex8_2p",["a","a"],[1,2],1750000005000,30,1500,"t1","node-1",null]'
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute(
            "UPDATE match_history SET participant_ids = '[\"a\",\"a\"]', participant_b = 'a', winner = 'a',"
            " rankings = '[1,2]', metadata = NULL, match_hash = ? WHERE game_id = 'm00005'",
            (hash_of(text),),
        )
    assert merged(tmp_path, source).refused == 1


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("CREATE TABLE passwords (x)", "it holds other tables: passwords; to leave them aside: --other-tables"),
        ("CREATE VIEW v AS SELECT 1", "it holds view v"),
        ("CREATE TRIGGER t AFTER INSERT ON match_history BEGIN SELECT 1; END", "it holds trigger t"),
        ("CREATE VIRTUAL TABLE f USING fts5(x)", "it holds table f"),
        ("DROP TABLE match_history", "it has no table match_history"),
        ("ALTER TABLE match_history RENAME COLUMN board_type TO b", "has no column board_type"),
    ],
)
def test_a_database_with_more_than_tables_of_matches_is_refused(tmp_path: Path, statement: str, why: str) -> None:
    write_original(tmp_path / "theirs.db").close()
    changed(tmp_path / "theirs.db", statement)
    with pytest.raises(FileRefused, match=r"theirs\.db: .*" + why):
        merged(tmp_path, tmp_path / "theirs.db")


def test_other_tables_are_left_aside_when_that_is_wanted(tmp_path: Path) -> None:
    with closing(write_original(tmp_path / "theirs.db")) as db:
        row(db, participant_ids=["a", "b"], rankings=[1, 2])
        row(db, participant_ids=["a", "a"], rankings=[1, 2])
        db.execute("CREATE TABLE more (x)")
        db.execute("INSERT INTO participants (participant_id, participant_type) VALUES ('b', 'baseline')")
    found = merged(tmp_path, tmp_path / "theirs.db", other_tables=True)
    assert (found.merged, found.refused, found.participants) == (1, 1, 1)
    assert found.reasons == Counter(["'a' plays against itself"])


@pytest.mark.parametrize("content", [b"no database at all" * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(FileRefused, match=r"x\.db"):
        merged(tmp_path, tmp_path / "x.db")


def test_a_value_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    with closing(write_original(tmp_path / "theirs.db")) as db:
        row(db, participant_ids=["a", "b"], rankings=[1, 2])
        row(db, participant_ids=["a", "b"], rankings=[2, 1])
        db.execute("UPDATE match_history SET metadata = zeroblob(20000000) WHERE id = 1")
    found = merged(tmp_path, tmp_path / "theirs.db")
    assert (found.merged, found.refused) == (1, 1)
    changed(tmp_path / "theirs.db", "UPDATE match_history SET metadata = printf('%*d', 20000000, 1)")
    with pytest.raises(FileRefused, match="too big"):
        merged(tmp_path, tmp_path / "theirs.db")


def test_a_text_that_is_no_text_is_refused_alone(tmp_path: Path) -> None:
    with closing(write_original(tmp_path / "theirs.db")) as db:
        row(db, participant_ids=["a", "b"], rankings=[1, 2])
        db.execute("INSERT INTO match_history (participant_a, participant_b, board_type, num_players, timestamp)"
                   " VALUES (CAST(x'ff41' AS TEXT), 'b', 'hex8', 2, 5.0)")  # fmt: skip
    found = merged(tmp_path, tmp_path / "theirs.db")
    assert (found.merged, found.refused) == (1, 1)


def test_ones_own_database_is_not_merged_into_itself(tmp_path: Path, source: Path) -> None:
    with matches(source) as own, pytest.raises(FileRefused, match="it is this node's own"):
        merge_file(own, source)


# out and in again ----------------------------------------------------------------------------------------


def test_what_is_exported_is_imported_as_the_same(tmp_path: Path, source: Path) -> None:
    with matches(source) as found:
        assert export_db(found, tmp_path / "out.db") == len(FOUND)
        assert export_csv(found, tmp_path / "out.csv") == len(FOUND)
        assert export_csv(found, tmp_path / "some.csv", "hex8_3p") == 1
        with matches(tmp_path / "one.db") as one:
            merge_file(one, tmp_path / "out.db")
            assert one.state() == found.state()
        with matches(tmp_path / "two.db") as two:
            add(two, read_csv(tmp_path / "out.csv", None, None))
            assert two.state().matches == len(FOUND)
            theirs = {(each.id, each.hash) for each in map(found.find, map(str, ids(found))) if each is not None}
            assert {(each.id, each.hash) for each in map(two.find, map(str, ids(two))) if each is not None} == theirs
    assert not list(tmp_path.glob(".*part"))
    assert not (tmp_path / "out.db-wal").exists()


def ids(found: MatchSet) -> list[str]:
    return [each for (each,) in found.db.execute("SELECT game_id FROM match_history")]


def add(found: MatchSet, told: Any) -> list[str]:
    """Add what is good; the reasons of the rest."""
    told = list(told)
    found.merge(each for each in told if isinstance(each, Match))
    return [each[0] for each in told if not isinstance(each, Match)]


# texts ---------------------------------------------------------------------------------------------------


def write(tmp_path: Path, name: str, *lines: str) -> Path:
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path / name


def test_csv_has_the_columns_of_match_history(tmp_path: Path) -> None:
    path = write(
        tmp_path, "x.csv",
        "config,participant_ids,rankings,timestamp,game_id",
        "hex8_2p,a|b,2|1,1750000000.5,g1",
        'hex8_3p,"[""a"",""b"",""c""]","[1,2,2]",2025-06-15T15:06:40,',
        "hex8_2p,a|a,1|2,1750000000,",
        "hex8_2p,a|b,1|2,1750000000,g4,surplus",
        "nonsense,a|b,1|2,1750000000,g5",
    )  # fmt: skip
    with matches(tmp_path / "own.db") as own:
        refused = add(own, read_csv(path, None, None))
        assert own.state().matches == 2
        first = own.find("g1")
    assert first is not None
    assert (first.ended, first.result.winner) == (1_750_000_000_500, "b")
    assert refused[:2] == ["'a' plays against itself", "more values than columns"]
    assert "'nonsense' is not a board configuration" in refused[2]


def test_csv_of_two_players_and_a_winner_takes_what_it_lacks_from_the_options(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "participant_a,participant_b,winner", "a,b,a", "a,b,")
    found = list(read_csv(path, "hex8_2p", T0))
    assert [each.result.ranks for each in found if isinstance(each, Match)] == [(1, 2), (1, 1)]
    assert [each[0] for each in read_csv(path, None, T0) if not isinstance(each, Match)] == [
        "no board configuration: give --config"
    ] * 2


def test_pairings_are_counted_games_and_more_of_them_only_add(tmp_path: Path) -> None:
    names = ["a", "b", "label", "games", "wins"]
    path = write(tmp_path, "x.csv", "m1,m2,fast,3,2", "m1,m2,slow,1,0", "m1,m2,bad,1,2", "m1,m2,worse,x,2")
    with matches(tmp_path / "own.db") as own:
        refused = add(own, read_csv(path, "go_2p", None, names))
        assert own.state().matches == 4
        assert len(refused) == 2
        add(own, read_csv(path, "go_2p", None, names))
        assert own.state().matches == 4
        add(own, read_csv(write(tmp_path, "y.csv", ",".join([*names, "draws"]), "m1,m2,fast,6,3,1"), "go_2p", None))
        assert own.state().matches == 7
        assert own.state().conflicts == 0


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("", "no column participant_ids"),
        ("a,b", "column 'a, b' is none of"),
        ("participant_ids,what", "column 'what' is none"),
    ],
)
def test_a_csv_file_with_other_columns_is_refused(tmp_path: Path, head: str, why: str) -> None:
    with pytest.raises(TextRefused, match=r"x\.csv: .*" + why):
        list(read_csv(write(tmp_path, "x.csv", head, "1,2"), "hex8_2p", None))


PGN = """[Event "Any"]
[White "An \\"odd\\" one"]
[Black "b"]
[Result "{result}"]
[UTCDate "2026.01.31"]
[UTCTime "12:30:01"]
[PlyCount "4"]

1. e4 {{[%clk 0:01]}} e5 2. f4 {result}
"""


@pytest.mark.parametrize("kind", ["x.csv", "x.pgn"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(match_texts, "MAX_LINE", 100)
    path = write(tmp_path, kind, "a,b,games,wins" if kind == "x.csv" else PGN.format(result="1-0"), "x" * 101)
    with pytest.raises(TextRefused, match=r"line \d+: longer than 100 characters"):
        list(read_csv(path, "go_2p", None) if kind == "x.csv" else read_pgn(path, "chess_2p", T0))


def test_pgn_is_read_for_its_results(tmp_path: Path) -> None:
    games = [PGN.format(result=each) for each in ("1-0", "0-1", "1/2-1/2", "*", "1-0")]
    path = write(tmp_path, "x.pgn", "\n".join(games), '[White "a"]\n[Black "b"]\n[Result "1-0"]\n[Date "????.??.??"]')
    found = list(read_pgn(path, "chess_2p", None))
    good = [each for each in found if isinstance(each, Match)]
    assert [each.result.ranks for each in good] == [(1, 2), (2, 1), (1, 1), (1, 2)]
    assert good[0] == good[3], "the same game twice is one"
    assert (good[0].result.participants, good[0].length) == (('An "odd" one', "b"), 4)
    assert good[0].ended == 1_769_862_601_000
    assert [each[0] for each in found if not isinstance(each, Match)] == [
        "the result '*' is none of 1-0, 0-1, 1/2-1/2",
        "the date '????.??.??' is none, such as 2026.01.31; give --ended",
    ]
    assert all(isinstance(each, Match) for each in list(read_pgn(path, "chess_2p", T0))[-1:])
