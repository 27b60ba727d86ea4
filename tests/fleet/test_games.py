"""Games travel from the nodes that played them to the central one: each once, none lost."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.game_ledger import GameLedger
from fleet.games import COLUMNS, FILE, GATHERED, STATES, GamesUnreadable, holdings, unaccounted
from fleet.gathered import Gathered, arrived
from fleet.store import Entry, Store
from tests.fleet.games_stage import INTAKE, NOW, gathered, ids, keys, play, put, send, take, total

DAY = 86_400.0
REAL = Path(__file__).parents[3] / "shared" / "data" / "ringrift_games_square8_2p.jsonl"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path / "n1"


@pytest.fixture
def central(tmp_path: Path) -> Path:
    return tmp_path / "central"


def test_games_of_several_nodes_are_gathered_each_once(store: Store, tmp_path: Path, central: Path) -> None:
    played = play(tmp_path / "n1", 20) | play(tmp_path / "n2", 9, "hex4_3p") | play(central, 5)
    for name in ("n1", "n2", "central"):
        done = send(store, tmp_path / name)
        assert (done.left, done.refused) == (0, 0)
    done = take(store, central)
    assert (done.shards, done.games, done.gathered, done.doubled) == (6, 34, 34, 0)  # 3 + 2 + 1 shards
    assert gathered(central) == played
    assert keys(store, "inbox") == []
    assert take(store, central).shards == 0
    with closing(sqlite3.connect(central / GATHERED)) as db, closing(sqlite3.connect(tmp_path / "n1" / FILE)) as own:
        query = f"SELECT {', '.join(COLUMNS)} FROM games WHERE node_id = 'n1' ORDER BY game_id"
        assert db.execute(query).fetchall() == own.execute(query).fetchall()


def test_what_a_node_holds_is_counted(store: Store, node: Path, central: Path) -> None:
    assert holdings(node) == {"new": {}, "sent": {}, "gathered": {}}
    play(node, 3)
    play(node, 2, "hex4_3p")
    assert holdings(node)["new"] == {"hex5_2p": 3, "hex4_3p": 2}  # before the first export, counted
    send(store, node)
    assert holdings(node) == {"new": {}, "sent": {"hex5_2p": 3, "hex4_3p": 2}, "gathered": {}}
    play(node, 4)
    assert holdings(node)["new"] == {"hex5_2p": 4}  # and after it, by the trigger
    take(store, central)
    assert holdings(central) == {"new": {}, "sent": {}, "gathered": {"hex5_2p": 3, "hex4_3p": 2}}


def test_holdings_cost_little_however_many_games(store: Store, node: Path) -> None:
    play(node, 1)
    send(store, node)
    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.execute("UPDATE backbeat_configs SET waiting = 1000000")  # it reads this, and never the games
    began = time.perf_counter()
    for _ in range(10):
        assert holdings(node)["new"] == {"hex5_2p": 1_000_000}
    assert (time.perf_counter() - began) / 10 < 0.05


def test_games_that_nobody_counts_are_estimated_from_the_newest(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.games.COUNTED", 10)
    play(node, 66, "hex4_3p")
    play(node, 4, "hex5_2p")
    assert holdings(node)["new"] == {"hex5_2p": 28, "hex4_3p": 42}


def test_a_file_that_is_none_is_named(node: Path) -> None:
    node.mkdir()
    (node / FILE).write_bytes(b"no database " * 100)
    with pytest.raises(GamesUnreadable, match=r"games\.db: file is not a database"):
        holdings(node)
    with pytest.raises(GamesUnreadable, match=r"games\.db: file is not a database"):
        GameLedger(node / FILE)


def test_a_table_that_lacks_a_column_is_named(node: Path) -> None:
    node.mkdir()
    with closing(sqlite3.connect(node / FILE)) as db:
        db.execute("CREATE TABLE games (game_id TEXT PRIMARY KEY, config TEXT)")
    with pytest.raises(GamesUnreadable, match="table games lacks board_type, num_players"):
        GameLedger(node / FILE)


def test_every_game_from_before_the_ledger_is_entered(
    store: Store, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.game_ledger.BATCH", 4)
    played = play(node, 10)
    with closing(GameLedger(node / FILE)) as ledger:
        assert not ledger.enter(give_up=0)
        played |= play(node, 2)  # meanwhile, by the trigger
        assert ledger.enter()
        assert total(ledger.account())["produced"] == total(ledger.account())["waiting"] == 12
    assert send(store, node).games == len(played)


def test_vacuum_deletions_and_replacements_lose_and_double_nothing(store: Store, node: Path, central: Path) -> None:
    played = play(node, 6)
    send(store, node)
    with closing(sqlite3.connect(node / FILE)) as db:
        with db:
            db.execute("DELETE FROM games WHERE rowid IN (1, 2, 6)")  # the next games get their numbers
        db.execute("VACUUM")
        with db:
            db.execute("INSERT OR REPLACE INTO games SELECT * FROM games")
    played |= play(node, 3)
    with closing(sqlite3.connect(node / FILE)) as db:
        db.execute("VACUUM")
    assert send(store, node).games == 3
    take(store, central)
    assert gathered(central) == played


def test_a_file_that_was_made_anew_is_exported_too(store: Store, node: Path, central: Path) -> None:
    played = play(node, 3)
    send(store, node)
    with closing(sqlite3.connect(node / FILE)) as db:
        db.executescript("CREATE TABLE new AS SELECT * FROM games; DROP TABLE games; ALTER TABLE new RENAME TO games")
    played |= put_raw(node, 2)
    assert send(store, node).games == 2
    take(store, central)
    assert gathered(central) == played


def put_raw(node: Path, number: int) -> set[str]:
    """Games in a table without keys, as some other program may make it."""
    extra = play(node.with_name("elsewhere"), number)
    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.execute("ATTACH ? AS elsewhere", (str(node.with_name("elsewhere") / FILE),))
        db.execute("INSERT INTO games SELECT * FROM elsewhere.games")
    return extra


def test_a_foreign_programs_further_columns_stay_behind(store: Store, node: Path, central: Path) -> None:
    played = play(node, 1)
    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.execute("ALTER TABLE games ADD COLUMN engine TEXT DEFAULT 'x'")
    assert send(store, node).games == 1
    take(store, central)
    assert gathered(central) == played


def test_games_of_a_foreign_program_travel_as_they_are(store: Store, node: Path, central: Path) -> None:
    """Moves may be whatever JSON the player that reads them knows."""
    if not REAL.exists():
        pytest.skip("the games of another program are not here")
    play(node, 0)
    games = [json.loads(line) for line in REAL.read_text().splitlines()]
    rows = [
        (
            f"ringrift-square8-{game['game_id']:08d}", "square8_2p", "square8", 2, '["a", "b"]',
            json.dumps(game["moves"]),
            "[1, -1]", game["winner"] - 1 if game["winner"] else None, 0, None, None, NOW, NOW,
        )
        for game in games
    ]  # fmt: skip
    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.executemany(f"INSERT INTO games VALUES ({', '.join('?' * 13)})", rows)
    done = send(store, node)
    assert (done.games, done.refused) == (100, 0), done.why
    assert take(store, central).gathered == 100
    with closing(sqlite3.connect(central / GATHERED)) as db:
        moves = dict(db.execute("SELECT game_id, moves FROM games"))
    assert moves == {row[0]: row[5] for row in rows}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("game_id", "7", "game_id must be 16 to 64"),  # a counter: another node has a game 7 too
        ("game_id", "../../../../etc/passwd", "game_id must be 16 to 64"),
        ("config", "../hex5_2p", "config must be board_type and num_players"),
        ("config", None, "config must be"),
        ("board_type", "Hex5", "board_type must be"),
        ("num_players", 1, "num_players must be 2 to 9"),
        ("moves", "[]", "moves must be a JSON list with a move"),
        ("moves", "{}", "moves must be a JSON list with a move"),
        ("moves", "[1, 2", "moves must be a JSON list with a move"),
        ("moves", b"\xff\xfe", "moves must be"),
        ("players", '["one"]', "players must be a JSON list of num_players"),
        ("players", b'["\xff", ""]', "players must be"),
        ("result", "null", "result must be a JSON list of num_players"),
        ("winner", 2, "winner must be a seat from 0"),
        ("seed", 1.5, "seed must be an integer"),
        ("job_id", "x" * 65, "job_id and node_id must be text"),
        ("node_id", "n1\0" + "x" * 64, "job_id and node_id must be text"),
        ("game_id", "0123456789abcdef\0more", "game_id must be 16 to 64"),
        ("moves", "[1]\0[2]", "its text is no UTF-8, or holds a NUL"),
        ("finished_at", 1e300, "started_at and finished_at must be"),
        ("started_at", "yesterday", "started_at and finished_at must be"),
    ],
)
def test_a_game_that_no_shard_may_have_is_refused_and_the_others_go_on(
    store: Store, node: Path, central: Path, column: str, value: object, said: str
) -> None:
    played = play(node, 3)
    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.executescript("PRAGMA ignore_check_constraints = ON")
        recreate_without_not_null(db)
    put(node, **{column: value})
    done = send(store, node)
    assert (done.games, done.refused, done.left) == (3, 1, 0)
    assert said in done.why
    assert take(store, central).gathered == 3
    assert gathered(central) == played
    assert total(send(store, node).account)["refused"] == 1
    assert ids(node / FILE) > played  # it is still there


def test_what_a_node_lets_through_the_central_one_takes_however_large_it_is(
    store: Store, node: Path, central: Path
) -> None:
    played = play(node, 3)
    wide = "é" * (1 << 20)
    played.add(put(node, moves=json.dumps(["x" * (3 << 20)]), players=json.dumps([wide, ""], ensure_ascii=False)))
    done = send(store, node)
    assert (done.games, done.refused) == (4, 0)
    assert take(store, central).gathered == 4
    assert gathered(central) == played


def recreate_without_not_null(db: sqlite3.Connection) -> None:
    """Give games.db the form of a player that checks nothing."""
    db.executescript(
        f"CREATE TABLE loose ({', '.join(COLUMNS)}, PRIMARY KEY (game_id)); INSERT INTO loose SELECT * FROM games;"
        "DROP TABLE games; ALTER TABLE loose RENAME TO games"
    )


def test_text_that_is_no_utf_8_is_refused(store: Store, node: Path) -> None:
    play(node, 1)
    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.execute("""UPDATE games SET players = CAST(x'5b2261ff222c2262225d' AS TEXT)""")
    done = send(store, node)
    assert (done.games, done.refused) == (0, 1)
    assert "no UTF-8" in done.why


def test_shards_are_bounded_in_games_and_in_bytes(store: Store, node: Path, central: Path) -> None:
    played = play(node, 10, moves=300)
    assert send(store, node, shard_games=4, shards=1).shards == 1
    assert holdings(node)["new"] == {"hex5_2p": 6}
    assert send(store, node, shard_games=100, shard_bytes=4_000).shards == 3  # two of a good 1,500 bytes each
    assert take(store, central).shards == 4
    assert gathered(central) == played


def test_an_export_ends_when_its_time_is_over_and_the_next_goes_on(store: Store, node: Path) -> None:
    play(node, 20)
    assert send(store, node, seconds=-1).shards == 0  # not even the old games are entered
    assert send(store, node).shards == 3


def test_gathered_games_are_pruned_after_a_while_and_no_others(store: Store, node: Path, central: Path) -> None:
    first = play(node, 7)
    send(store, node)
    assert send(store, node, now=NOW + 30 * DAY, resend_after=60 * DAY).pruned == 0  # nobody acknowledged it
    take(store, central)
    second = play(node, 3)
    assert send(store, node, now=NOW + 30 * DAY).pruned == 0  # acknowledged just now
    assert ids(node / FILE) == first | second
    assert send(store, node, now=NOW + 38 * DAY, prune=4).pruned == 4
    assert send(store, node, now=NOW + 38 * DAY, prune=4, resend_after=60 * DAY).pruned == 3
    assert ids(node / FILE) == second
    assert total(send(store, node, now=NOW + 38 * DAY, resend_after=60 * DAY).account) == {
        "produced": 10, "waiting": 0, "sent": 3, "gathered": 7, "refused": 0, "gone": 0,
    }  # fmt: skip


def test_a_shard_that_is_gone_without_a_receipt_is_sent_again(store: Store, node: Path, central: Path) -> None:
    played = play(node, 3)
    send(store, node)
    for key in keys(store, "inbox"):
        store.delete(key)  # the store was lost, or somebody tidied up
    assert send(store, node, now=NOW + 60).shards == 0  # the central node may be at it
    again = send(store, node, now=NOW + 3601)
    assert (again.shards, again.games) == (1, 3)
    take(store, central)
    assert gathered(central) == played
    assert unaccounted(send(store, node).account, arrived(central / GATHERED, ["n1"])["n1"]) == {}


def test_a_lost_receipt_is_written_again(store: Store, node: Path, central: Path) -> None:
    play(node, 3)
    send(store, node)
    take(store, central)
    for key in keys(store, "receipts"):
        store.write(key, b"no receipt")
    assert send(store, node).shards == 0
    assert send(store, node, now=NOW + 3601).shards == 1  # as if there had been none
    done = take(store, central)
    assert done.gathered == 0
    assert total(send(store, node, now=NOW + 3602).account)["gathered"] == 3


class Racing(Store):
    """A store in which the central node takes shards in right after the first listing of an export."""

    central: Path
    listed = 0

    def list(self, prefix: str) -> list[Entry]:
        found = super().list(prefix)
        self.listed += 1
        if self.listed == 1:
            take(Store(self.url), self.central)
        return found


def test_a_shard_that_is_taken_in_while_its_node_looks_is_not_sent_again(
    store: Store, node: Path, central: Path
) -> None:
    play(node, 3)
    send(store, node)
    racing = Racing(store.url)
    racing.central = central
    assert send(racing, node, now=NOW + 3601).shards == 0
    assert total(send(store, node, now=NOW + 3601).account)["gathered"] == 3


def test_what_was_taken_in_outlasts_a_power_cut(central: Path) -> None:
    """The shard is deleted right after: so the commit waits for the disk."""
    central.mkdir()
    with closing(Gathered(central / GATHERED)) as found:
        assert found.db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_one_export_and_one_ingest_at_a_time(store: Store, node: Path, central: Path) -> None:
    play(node, 3)
    for folder in (node / "exports", central / "ingest"):
        folder.mkdir(parents=True)
    with (node / "exports" / "lock").open("w") as mine, (central / "ingest" / "lock").open("w") as yours:
        fcntl.flock(mine, fcntl.LOCK_EX)
        fcntl.flock(yours, fcntl.LOCK_EX)
        assert send(store, node).busy
        assert take(store, central).busy
    assert send(store, node).games == 3
    assert take(store, central).gathered == 3


def test_an_ingest_is_bounded_and_takes_the_oldest_first(store: Store, node: Path, central: Path) -> None:
    old = play(node, 7)
    send(store, node)
    new = play(node, 7)
    send(store, node, now=NOW + 1)
    done = take(store, central, replace(INTAKE, shards=1))
    assert (done.shards, done.left) == (1, 1)
    assert gathered(central) == old
    done = take(store, central, replace(INTAKE, seconds=-1))
    assert (done.shards, done.left) == (0, 1)
    assert take(store, central).left == 0
    assert gathered(central) == old | new


def test_training_finds_the_newest_games_by_the_index(store: Store, node: Path, central: Path) -> None:
    play(node, 3)
    send(store, node)
    take(store, central)
    with closing(sqlite3.connect(central / GATHERED)) as db:
        query = "SELECT moves FROM games WHERE config = 'hex5_2p' ORDER BY finished_at DESC LIMIT 2"
        ((*_, plan),) = db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert plan == "SEARCH games USING INDEX games_by_config (config=?)"


counts = st.fixed_dictionaries({state: st.integers(0, 9) for state in STATES})


@given(st.dictionaries(st.sampled_from(["hex5_2p", "hex4_3p"]), counts), st.integers(-3, 3), st.integers(0, 5))
def test_games_are_accounted_for_exactly_when_none_is_missing(states: dict, lost: int, ahead: int) -> None:
    node = {config: {**each, "produced": sum(each.values())} for config, each in states.items()}
    there = {config: each["gathered"] + ahead for config, each in states.items()}
    assert unaccounted(node, there) == {}
    for config, account in node.items():
        assert unaccounted({config: {**account, "produced": account["produced"] + lost}}, there) == (
            {config: lost} if lost else {}
        )
        short = {**there, config: account["gathered"] - 1}
        assert unaccounted(node, short) == {config: 1}
