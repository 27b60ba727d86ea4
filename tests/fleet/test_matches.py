"""A node's file of matches: every form of row is read, what is none is refused and kept, and nothing happens twice."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fleet.match import Match, Refused, from_wire, match, result
from fleet.match_audit import repair, verify
from fleet.match_ratings import Rules, outcomes, settle
from fleet.match_set import MatchSet
from fleet.match_store import FILE
from fleet.matches import MatchesUnreadable, holdings, opened
from fleet.ratings import read
from tests.fleet.match_stage import T0, matches, played, row, write_original

AT = T0 / 1000


def stored(data: Path) -> list[tuple[Any, ...]]:
    with matches(data / FILE) as found:
        return found.db.execute(
            "SELECT game_id, participant_ids, rankings, winner, ended_at_ms FROM match_history"
            " WHERE match_hash IS NOT NULL ORDER BY id"
        ).fetchall()


def aside(data: Path) -> list[str]:
    with matches(data / FILE) as found:
        return [why for (why,) in found.db.execute("SELECT reason FROM backbeat_set_aside ORDER BY reason")]


# forms of rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "ranks", "winner"),
    [
        ({"participant_ids": ["a", "b"], "rankings": [2, 1]}, [2, 1], "b"),
        ({"participant_ids": ["a", "b"], "rankings": [0, 0]}, [1, 1], None),
        ({"participant_a": "a", "participant_b": "b", "winner": "a"}, [1, 2], "a"),
        ({"participant_a": "a", "participant_b": "b"}, [1, 1], None),
        ({"participant_a": "a", "participant_b": "b", "winner": "draw"}, [1, 1], None),
        ({"participant_ids": ["a", "b"], "winner": "b"}, [2, 1], "b"),
        ({"participant_ids": ["a", "b"], "rankings": [1, 2], "num_players": "2"}, [1, 2], "a"),
        ({"participant_ids": ["a", "b"], "rankings": [1, 2], "game_length": 31.0}, [1, 2], "a"),
    ],
)
def test_every_form_of_a_row_is_read(tmp_path: Path, columns: Any, ranks: list[int], winner: str | None) -> None:
    with closing(write_original(tmp_path / FILE)) as db:
        row(db, **columns, game_id="g1")
    assert holdings(tmp_path)["count"] == 1
    assert stored(tmp_path) == [("g1", '["a","b"]', json.dumps(ranks, separators=(",", ":")), winner, T0)]


def test_a_winner_alone_leaves_all_others_on_one_place(tmp_path: Path) -> None:
    with closing(write_original(tmp_path / FILE)) as db:
        row(db, participant_ids=["a", "b", "c"], winner="c", num_players=3)
    holdings(tmp_path)
    assert stored(tmp_path)[0][2] == "[2,2,1]"


def test_an_older_files_column_winner_id_is_read(tmp_path: Path) -> None:
    with closing(write_original(tmp_path / FILE)) as db:
        db.execute("ALTER TABLE match_history ADD COLUMN winner_id TEXT")
        row(db, participant_a="a", participant_b="b", winner_id="b")
    holdings(tmp_path)
    assert stored(tmp_path)[0][3] == "b"


@pytest.mark.parametrize("timestamp", [AT, "2025-06-15T15:06:40", "2025-06-15T17:06:40+02:00", "1750000000.0"])
def test_times_are_seconds_or_iso_texts_in_one_order(tmp_path: Path, timestamp: Any) -> None:
    with closing(write_original(tmp_path / FILE)) as db:
        row(db, participant_a="a", participant_b="b", timestamp=timestamp)
    holdings(tmp_path)
    assert stored(tmp_path)[0][4] == T0
    with matches(tmp_path / FILE) as found:
        assert found.db.execute("SELECT timestamp FROM match_history").fetchone() == (AT,)


def test_a_row_without_an_id_gets_the_same_one_on_every_node_and_counts_once(tmp_path: Path) -> None:
    for node in ("one", "two"):
        (tmp_path / node).mkdir()
        with closing(write_original(tmp_path / node / FILE)) as db:
            for _ in range(2):
                row(db, participant_a="a", participant_b="b", winner="a", game_id="" if node == "two" else None)
            row(db, participant_a="a", participant_b="b", winner="b")
        assert holdings(tmp_path / node)["count"] == 2
    one, two = (stored(tmp_path / node) for node in ("one", "two"))
    assert sorted(one) == sorted(two)
    assert holdings(tmp_path / "one")["digest"] == holdings(tmp_path / "two")["digest"]


def test_an_older_file_without_the_newer_columns_is_opened_and_stays_readable(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        db.execute(
            "CREATE TABLE match_history (id INTEGER PRIMARY KEY, participant_a TEXT NOT NULL,"
            " participant_b TEXT NOT NULL, winner TEXT,"
            " board_type TEXT, num_players INTEGER, timestamp TEXT, elo_before TEXT NOT NULL)"
        )
        db.execute("INSERT INTO match_history VALUES (7, 'a', 'b', 'a', 'hex8', 2, '2025-06-15T15:06:40', '{}')")
    assert holdings(tmp_path)["count"] == 1
    with opened(tmp_path / FILE) as found:
        found.merge([played(2, ("a", "b", "c"), (1, 2, 3))])
        settle(found.db, Rules())
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        query = "SELECT participant_a, participant_b, winner, num_players, elo_before FROM match_history ORDER BY id"
        assert db.execute(query).fetchall() == [("a", "b", "a", 2, "{}"), ("a", "b", "a", 3, "")]
    assert read(tmp_path / FILE, AT + 60)["hex8_3p"].best is not None


def test_a_table_that_numbers_its_rows_in_no_way_of_ours_is_adopted_too(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        db.execute(
            "CREATE TABLE match_history (participant_a TEXT, participant_b TEXT, winner TEXT,"
            " board_type TEXT, num_players INTEGER, timestamp REAL)"
        )
        for number in range(3):
            row(db, participant_a="a", participant_b="b" if number else "a", timestamp=AT + number)
    assert holdings(tmp_path)["count"] == 2
    with opened(tmp_path / FILE) as found:
        assert verify(found).sound
        found.db.execute(
            "UPDATE match_history SET winner = 'b', rankings = '[2,1]' WHERE ended_at_ms = ?", (T0 + 1000,)
        )
        assert len(repair(found).altered) == 1
        assert found.state().matches == 2


def test_the_original_reads_and_writes_on_in_a_file_that_was_ours_first(tmp_path: Path) -> None:
    with opened(tmp_path / FILE) as found:
        found.merge([played(1)])
        settle(found.db, Rules())
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        row(db, participant_ids=["a", "c"], rankings=[1, 2], game_id="theirs")
        db.execute(
            "INSERT INTO elo_ratings (participant_id, board_type, num_players) VALUES ('c', 'hex8', 2)"
            " ON CONFLICT(participant_id, board_type, num_players) DO UPDATE SET rating = 1500"
        )
        assert db.execute("SELECT rating FROM elo_ratings WHERE participant_id = 'a'").fetchone()[0] > 1500
    assert holdings(tmp_path) == {"count": 2, "digest": holdings(tmp_path)["digest"], "settled": ""}


# the door ------------------------------------------------------------------------------------------------

GOOD = {"participant_ids": ["a", "b"], "rankings": [1, 2]}


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"participant_ids": ["a", "a"], "rankings": [1, 2]}, "'a' plays against itself"),
        ({"participant_ids": ["a", "b"], "rankings": [1]}, "2 participants have 1 places"),
        ({"participant_ids": ["a", "b"], "rankings": [1, "x"]}, "is no list of places"),
        ({"participant_ids": ["a", "b"], "rankings": "[1,"}, "is no JSON list"),
        ({"participant_ids": ["a", 7], "rankings": [1, 2]}, "is no list of up to 9 participants"),
        ({"participant_ids": ["a", "b", "c"], "rankings": [1, 2, 3]}, "3 participants in a match of hex8_2p"),
        ({"participant_ids": ["a", "b\n"], "rankings": [1, 2]}, "is no name of a participant"),
        ({"participant_ids": ["a", "b" * 201], "rankings": [1, 2]}, "is no name of a participant"),
        ({"participant_ids": ["a", "square8_2p-g0001-0123456789ab"], "rankings": [1, 2]}, "does not play hex8_2p"),
        ({"participant_a": "a", "participant_b": "b", "winner": "c"}, "the winner 'c' did not play"),
        ({"participant_ids": ["a", "b", "c"], "num_players": 3}, "neither a winner nor final places"),
        (GOOD | {"board_type": "../../etc"}, "is not a board configuration"),
        (GOOD | {"num_players": "two"}, "'two' is no number of players"),
        (GOOD | {"timestamp": -1.0}, "between 1970 and 2100"),
        (GOOD | {"timestamp": 1e300}, "is no number of seconds"),
        (GOOD | {"timestamp": float("inf")}, "is no number of seconds"),
        (GOOD | {"timestamp": "yesterday"}, "'yesterday' is no time"),
        (GOOD | {"timestamp": b"\x00\x01"}, "is no number of seconds"),
        (GOOD | {"game_length": 10**9}, "a length of 1000000000 moves"),
        (GOOD | {"game_length": "long"}, "a length of 'long' moves"),
        (GOOD | {"duration_sec": -5.0}, "a duration of -5000 ms"),
        (GOOD | {"game_id": "x" * 129}, "is no id of a match"),
        (GOOD | {"game_id": "an id"}, "is no id of a match"),
        (GOOD | {"worker": "w" * 201}, "is no name of a worker"),
        (GOOD | {"metadata": "x" * 10_000_000}, "metadata of more than 8,192 characters"),
    ],
)
def test_what_is_no_match_is_refused_with_its_reason_and_kept(tmp_path: Path, columns: Any, why: str) -> None:
    with closing(write_original(tmp_path / FILE)) as db:
        row(db, **columns)
        row(db, participant_ids=["c", "d"], rankings=[1, 2])
    held = holdings(tmp_path)
    assert (held["count"], held["refused"]) == (1, 1)
    (kept,) = aside(tmp_path)
    assert why in kept
    assert holdings(tmp_path)["refused"] == 1
    with matches(tmp_path / FILE) as found:
        assert found.db.execute("SELECT count(*) FROM match_history").fetchone() == (1,)


@pytest.mark.parametrize(
    "parts",
    [
        7,
        [],
        ["id"] * 10,
        ["", "hex8_2p", ["a", "b"], [1, 2], T0, None, None, None, None, None],
        ["i", "hex8_2p", ["a", "b"], [1, 2], T0 + 0.5, None, None, None, None, None],
        ["i", "hex8_2p", ["a", "b"], [1, 2], True, None, None, None, None, None],
        ["i", 5, ["a", "b"], [1, 2], T0, None, None, None, None, None],
        ["i", "hex8_2p", ["a", "b\ud800"], [1, 2], T0, None, None, None, None, None],
        ["i", "hex8_2p", ["a", "b"], [1, 2], T0, None, None, "", None, None],
        ["i", "hex8_2p", ["a", "b"], [1, 2], T0, None, None, None, None, '{"b": 1, "a": 2}'],
        ["i", "hex8_2p", ["a", "b"], [1, 2], T0, None, None, None, None, {"a": 1}],
        ["i", "hex8_2p", "ab", [1, 2], T0, None, None, None, None, None],
    ],
)
def test_another_node_is_not_believed_either(tmp_path: Path, parts: Any) -> None:
    with pytest.raises(Refused):
        from_wire(parts)
    with matches(tmp_path / FILE) as found:
        merged = found.take({"matches": [parts, *[json.loads(played(1).text)]]}, "n7")
        assert (merged.merged, merged.refused) == (1, 1)
        merged = found.take({"matches": "x", "exclusions": [[1, 2], ["a"], 5], "participants": [["a\n", "b"]]}, "n7")
        assert (merged.refused, merged.changed) == (4, False)
        assert verify(found).sound


def test_the_canonical_text_brings_back_the_match() -> None:
    found = result("hex8", 3, ("a", "ü", 'b"\\'), (2, 1, 2))
    first = match("m1", found, T0, 31, 2500, ("t1", "wörker", '{"a":1}'))
    assert from_wire(json.loads(first.text)) == first
    assert first.text.isascii()
    assert match("m1", found, T0 + 1, 31, 2500, ("t1", "wörker", '{"a":1}')).hash != first.hash


def test_what_is_refused_again_and_again_fills_no_disk(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fleet.match_set.KEPT_REFUSED", 3)
    with matches(tmp_path / FILE) as found:
        for _ in range(3):
            found.take({"matches": [[1], [2], [3], [4], [5]]}, "n7")
        assert found.state().refused == 15
    assert len(aside(tmp_path)) == 3


# the file ------------------------------------------------------------------------------------------------


def test_a_node_without_a_file_holds_nothing_and_none_is_made(tmp_path: Path) -> None:
    assert holdings(tmp_path) == {"count": 0, "digest": "0" * 32, "settled": "-"}
    assert list(tmp_path.iterdir()) == []


def test_damage_that_shows_only_later_sets_the_file_aside_too(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with opened(path) as found:
        found.merge(played(number, (f"a{number}", "b")) for number in range(3000))
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half:] = b"\xff" * (len(content) - half)
    path.write_bytes(content)
    with pytest.raises(MatchesUnreadable, match="malformed"), opened(path) as found:
        list(found.db.execute("SELECT * FROM match_history"))
    assert path.with_name(f"{FILE}.corrupt-1").exists()
    assert holdings(tmp_path) == {"count": 0, "digest": "0" * 32, "settled": "-", "corrupt": 1}


def test_an_index_that_points_to_rows_that_are_gone_sets_the_file_aside(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with opened(path) as found:
        found.merge(map(played, range(50)))
    index = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master WHERE name = 'backbeat_match_ids'"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        entry = db.execute(index).fetchone()
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_master WHERE name = 'backbeat_match_ids'")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:  # which knows nothing of the index
        db.execute("DELETE FROM match_history WHERE game_id = 'm00007'")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) VALUES (?, ?, ?, ?, ?)", entry)
    with pytest.raises(MatchesUnreadable, match="malformed"), opened(path) as found:
        found.find("m00007")
    assert holdings(tmp_path)["corrupt"] == 1


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / FILE).write_bytes(b"damaged %d" % number * 99)
        assert holdings(tmp_path)["corrupt"] == number
    assert (tmp_path / f"{FILE}.corrupt-1").read_bytes().startswith(b"damaged 1")


def test_jobs_write_while_matches_are_merged(tmp_path: Path) -> None:
    with opened(tmp_path / FILE) as found, closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as job:
        job.execute("BEGIN")
        row(job, participant_ids=["a", "b"], rankings=[1, 2], game_id="job")
        assert not found.pending()
        job.execute("COMMIT")
        found.merge([played(1)])
        assert found.adopt().merged == 1
        assert found.state().matches == 2


def both(one: Match, other: Match) -> list[Match]:
    return sorted([one, other], key=lambda each: each.hash)


def test_of_two_contents_the_smaller_hash_counts_whichever_came_first(tmp_path: Path) -> None:
    kept, lost = both(played(1, ranks=(1, 2)), played(1, ranks=(2, 1)))
    for number, order in enumerate(([kept, lost], [lost, kept], [lost, kept, lost, kept])):
        with matches(tmp_path / f"{number}.db") as found:
            for each in order:
                found.merge([each])
            assert found.find("m00001") == kept
            assert sum(outcomes(found.db, "hex8_2p").values()) == 1
            assert found.state().conflicts == 1
            assert verify(found).sound
            assert MatchSet(found.db).state().elements == 2


def test_a_content_that_takes_the_place_of_an_excluded_one_is_excluded_too(tmp_path: Path) -> None:
    kept, lost = both(played(1, ranks=(1, 2)), played(1, ranks=(2, 1)))
    with matches(tmp_path / FILE) as found:
        found.merge([lost, played(2)])
        found.exclude([("m00001", "crashed")])
        found.merge([kept])
        assert found.find("m00001") == kept
        assert sum(outcomes(found.db, "hex8_2p").values()) == 1
        assert verify(found).sound


def test_threads_of_an_agent_and_jobs_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with opened(path):
        pass

    def merge(first: int) -> None:
        with opened(path) as found:
            for number in range(first, first + 40, 10):
                found.merge(map(played, range(number, number + 15)))
                settle(found.db, Rules())

    def append(first: int) -> None:
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as job:
            for number in range(first, first + 20):
                row(job, participant_ids=["c", "d"], rankings=[1, 2], game_id=f"job{number}")
        holdings(tmp_path)

    with ThreadPoolExecutor(6) as pool:
        for done in [*(pool.submit(merge, at) for at in (0, 20, 40)), *(pool.submit(append, at) for at in (0, 20, 40))]:
            done.result()
    with opened(path) as found:
        settle(found.db, Rules())
        assert verify(found).sound
        assert found.state().matches == 85 + 60
        assert sum(outcomes(found.db, "hex8_2p").values()) == 145
