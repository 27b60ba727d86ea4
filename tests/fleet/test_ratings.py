"""What the populator learns from a rating store on disk, in every state such a file can be in."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.ratings import MIN_GAMES, ConfigStandings, RatingsUnreadable, Standing, Standings, read, read_everybody

NOW = 1_800_000_000.0
HOUR = 3600.0

ELO_RATINGS = """CREATE TABLE elo_ratings (participant_id TEXT, board_type TEXT, num_players INTEGER,
    rating REAL DEFAULT 1500, games_played INTEGER DEFAULT 0, wins INTEGER, losses INTEGER, draws INTEGER,
    rating_deviation REAL DEFAULT 350, last_update REAL, PRIMARY KEY (participant_id, board_type, num_players))"""
PARTICIPANTS = "CREATE TABLE participants (participant_id TEXT PRIMARY KEY, participant_type TEXT, ai_type TEXT)"
RATING_HISTORY = """CREATE TABLE rating_history (id INTEGER PRIMARY KEY AUTOINCREMENT, participant_id TEXT,
    board_type TEXT, num_players INTEGER, rating REAL, rating_change REAL, games_played INTEGER, timestamp REAL)"""


class Store:
    """A rating store as another program writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)

    def rate(
        self, participant: str, rating: float, deviation: float | None, games: int, config: str = "hex8_2p"
    ) -> None:
        board, players = config.removesuffix("p").split("_")
        self.db.execute(
            "INSERT INTO elo_ratings (participant_id, board_type, num_players, rating, games_played, rating_deviation,"
            " last_update) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (participant, board, int(players), rating, games, deviation, NOW - HOUR),
        )

    def remember(self, participant: str, rating: float, at: float | str, games: int = 100) -> None:
        self.db.execute(
            "INSERT INTO rating_history (participant_id, board_type, num_players, rating, games_played, timestamp)"
            " VALUES (?, 'hex8', 2, ?, ?, ?)",
            (participant, rating, games, at),
        )

    def standing(self, config: str = "hex8_2p") -> ConfigStandings:
        return read(self.path, NOW)[config]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "unified_elo.db")
    store.db.execute("PRAGMA journal_mode = WAL")
    for table in (ELO_RATINGS, PARTICIPANTS, RATING_HISTORY):
        store.db.execute(table)
    yield store
    store.db.close()


def test_a_target_is_met_by_the_lower_bound_and_enough_games() -> None:
    assert Standing("m", 2098.0, 50.0, MIN_GAMES).meets(2000)
    assert not Standing("m", 2097.9, 50.0, MIN_GAMES).meets(2000)
    assert not Standing("m", 2500.0, 50.0, MIN_GAMES - 1).meets(2000)


def test_a_rating_that_hangs_on_no_anchor_meets_no_target() -> None:
    assert Standing("m", 2500.0, 50.0, 100, anchored=True).meets(2000)
    assert not Standing("m", 2500.0, 50.0, 100, anchored=False).meets(2000)
    assert not ConfigStandings(Standing("m", 2500.0, 50.0, 100, anchored=False)).meets(2000)


def test_how_many_games_are_enough_is_the_operators_choice(store: Store) -> None:
    assert Standing("m", 2500.0, 50.0, 10).meets(2000, min_games=10)
    assert not ConfigStandings(Standing("m", 2500.0, 50.0, 100)).meets(2000, min_games=101)
    store.rate("young", 2600, 30, 50)
    store.rate("proven", 2100, 30, 300)
    store.remember("young", 2600, NOW - HOUR, games=50)
    few, many = read(store.path, NOW, 50)["hex8_2p"], read(store.path, NOW, 51)["hex8_2p"]
    assert few.best is not None
    assert many.best is not None
    assert (few.best.participant, many.best.participant) == ("young", "proven")
    assert (len(few.history), len(many.history)) == (1, 0)


def test_a_file_says_who_hangs_on_an_anchor_and_an_older_one_counts_as_if_all_did(store: Store) -> None:
    store.rate("adrift", 2600, 30, 300)
    store.rate("held", 2100, 30, 300)
    best = store.standing().best
    assert best is not None
    assert (best.participant, best.anchored) == ("adrift", True)
    store.db.execute("ALTER TABLE elo_ratings ADD COLUMN anchored INTEGER")
    assert store.standing().best == best
    store.db.execute("UPDATE elo_ratings SET anchored = 0 WHERE participant_id = 'adrift'")
    best = store.standing().best
    assert best is not None
    assert (best.participant, best.anchored) == ("held", True)
    store.db.execute("UPDATE elo_ratings SET anchored = 0")
    best = store.standing().best
    assert best is not None
    assert (best.participant, best.anchored) == ("adrift", False)


def test_a_file_that_does_not_exist_yet_has_no_standings(tmp_path: Path) -> None:
    assert read(tmp_path / "unified_elo.db", NOW) == Standings()
    assert not (tmp_path / "unified_elo.db").exists()


def test_a_file_without_any_table_yet_has_no_standings(tmp_path: Path) -> None:
    (tmp_path / "unified_elo.db").touch()
    assert read(tmp_path / "unified_elo.db", NOW) == Standings()


def test_a_file_with_the_first_matches_of_a_job_and_no_ratings_yet_has_no_standings(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "unified_elo.db")) as db:
        db.execute(PARTICIPANTS)
        db.execute("CREATE TABLE match_history (id INTEGER PRIMARY KEY, participant_a TEXT)")
    assert read(tmp_path / "unified_elo.db", NOW) == Standings()
    assert read_everybody(tmp_path / "unified_elo.db") == {}


def test_the_best_is_the_model_with_the_highest_lower_bound(store: Store) -> None:
    store.rate("lucky", 2100, 200, 40)
    store.rate("solid", 1900, 20, 400)
    best = store.standing().best
    assert best == Standing("solid", 1900.0, 20.0, 400, NOW - HOUR)
    assert store.standing().by_name == {"lucky": Standing("lucky", 2100.0, 200.0, 40, NOW - HOUR), "solid": best}
    assert store.standing().models == store.standing().rated == 2


def test_a_model_with_few_games_does_not_hide_one_that_meets_the_target(store: Store) -> None:
    store.rate("young", 2600, 30, MIN_GAMES - 1)
    store.rate("proven", 2100, 30, 300)
    best = store.standing().best
    assert best is not None
    assert best.participant == "proven"


def test_a_strong_baseline_is_not_a_reason_to_stop(store: Store) -> None:
    store.db.execute("INSERT INTO participants VALUES ('heuristic', 'baseline', 'heuristic'), ('gen1', 'model', 'nn')")
    store.rate("heuristic", 2300, 10, 900)
    store.rate("gen1", 1500, 60, 60)
    best = store.standing().best
    assert best is not None
    assert best.participant == "gen1"
    assert (store.standing().models, store.standing().rated) == (1, 2)


def test_a_rating_without_a_participant_row_still_counts(store: Store) -> None:
    store.rate("orphan", 2100, 20, 100)
    assert store.standing().best is not None


def test_configurations_stand_apart(store: Store) -> None:
    store.rate("m", 2100, 20, 100, "hex8_2p")
    store.rate("m", 1200, 20, 100, "hex8_3p")
    two, three = store.standing("hex8_2p").best, store.standing("hex8_3p").best
    assert two is not None
    assert three is not None
    assert (two.rating, three.rating) == (2100.0, 1200.0)
    assert store.standing("square8_2p") == ConfigStandings()


def test_an_archived_model_no_longer_counts(store: Store) -> None:
    store.rate("old", 2100, 20, 100)
    store.rate("new", 1800, 20, 100)
    store.db.execute("ALTER TABLE elo_ratings ADD COLUMN archived_at REAL")
    store.db.execute("UPDATE elo_ratings SET archived_at = 1 WHERE participant_id = 'old'")
    best = store.standing().best
    assert best is not None
    assert best.participant == "new"


def test_a_rating_without_a_deviation_is_as_uncertain_as_can_be(store: Store) -> None:
    store.rate("m", 2500, None, 100)
    best = store.standing().best
    assert best is not None
    assert best.deviation == 350
    assert not best.meets(2000)


def test_history_is_the_best_model_of_each_hour_of_the_last_week(store: Store) -> None:
    store.db.execute("INSERT INTO participants VALUES ('heuristic', 'baseline', '')")
    store.rate("a", 1600, 40, 100)
    hour = NOW // HOUR * HOUR
    store.remember("a", 1500, hour - 5 * HOUR)
    store.remember("b", 1550, hour - 5 * HOUR + 60)
    store.remember("a", 1600, hour - 2 * HOUR)
    store.remember("heuristic", 1900, hour - 2 * HOUR)
    store.remember("lucky", 1950, hour - 2 * HOUR, games=MIN_GAMES - 1)
    store.remember("a", 1400, NOW - 8 * 24 * HOUR)
    store.remember("a", 1700, "2026-01-01T00:00:00")
    assert store.standing().history == ((hour - 5 * HOUR, 1550.0), (hour - 2 * HOUR, 1600.0))


def test_a_store_with_nothing_but_the_ratings_is_enough(tmp_path: Path) -> None:
    store = Store(tmp_path / "unified_elo.db")
    store.db.execute(ELO_RATINGS.replace("last_update REAL,", ""))
    store.db.execute("INSERT INTO elo_ratings VALUES ('m', 'hex8', 2, 2100, 100, 60, 40, 0, 20)")
    store.db.close()
    assert store.standing() == ConfigStandings(Standing("m", 2100.0, 20.0, 100), 1, 1)


def test_everybody_is_there_for_a_decision_about_models_and_those_archived_are_not(store: Store) -> None:
    store.db.execute("INSERT INTO participants VALUES ('random', 'baseline', 'random')")
    store.rate("random", 400, 0, 900)
    store.rate("gen1", 1500, 60, 60)
    store.rate("gen1", 1100, 70, 50, "hex8_3p")
    store.rate("old", 1400, 60, 60)
    store.db.execute("ALTER TABLE elo_ratings ADD COLUMN archived_at REAL")
    store.db.execute("UPDATE elo_ratings SET archived_at = 1 WHERE participant_id = 'old'")
    everybody = read_everybody(store.path)
    assert {config: set(standings) for config, standings in everybody.items()} == {
        "hex8_2p": {"random", "gen1"},
        "hex8_3p": {"gen1"},
    }
    assert everybody["hex8_2p"]["gen1"] == Standing("gen1", 1500.0, 60.0, 60, NOW - HOUR)


def test_everybody_of_a_missing_an_empty_and_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "unified_elo.db"
    assert read_everybody(path) == {}
    path.touch()
    assert read_everybody(path) == {}
    path.write_bytes(b"this was a database once " * 100)
    with pytest.raises(RatingsUnreadable, match=r"unified_elo\.db: file is not a database"):
        read_everybody(path)


def test_reading_goes_on_while_somebody_writes(store: Store) -> None:
    store.rate("m", 2100, 20, 100)
    store.db.execute("BEGIN IMMEDIATE")
    store.rate("unfinished", 2200, 20, 100)
    best = store.standing().best
    store.db.execute("ROLLBACK")
    assert best is not None
    assert best.participant == "m"


def test_what_a_killed_writer_left_is_read_and_not_changed(store: Store, tmp_path: Path) -> None:
    store.rate("m", 2100, 20, 100)
    left = tmp_path / "left" / store.path.name
    left.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{store.path}{suffix}", f"{left}{suffix}")
    before = left.read_bytes()
    best = read(left, NOW)["hex8_2p"].best
    assert best is not None
    assert best.participant == "m"
    assert left.read_bytes() == before


def test_a_damaged_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "unified_elo.db"
    path.write_bytes(b"this was a database once " * 100)
    with pytest.raises(RatingsUnreadable, match=r"unified_elo\.db: file is not a database"):
        read(path, NOW)


def test_a_file_that_stays_locked_is_named_in_the_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "unified_elo.db")
    store.db.execute(ELO_RATINGS)
    store.db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RatingsUnreadable, match=r"unified_elo\.db: database is locked"):
        store.standing()
    store.db.close()


@pytest.mark.parametrize("column", ["rating_deviation", "games_played"])
def test_a_missing_column_is_named_in_the_error(store: Store, column: str) -> None:
    store.db.execute(f"ALTER TABLE elo_ratings DROP COLUMN {column}")
    with pytest.raises(RatingsUnreadable, match=rf"unified_elo\.db: table elo_ratings lacks {column}"):
        store.standing()


def test_a_missing_table_is_named_in_the_error(store: Store) -> None:
    store.db.execute("DROP TABLE elo_ratings")
    with pytest.raises(RatingsUnreadable, match="table elo_ratings lacks participant_id, board_type"):
        store.standing()


def test_a_rating_that_is_no_number_is_an_error_and_not_a_zero(store: Store) -> None:
    store.rate("m", "strong", 20, 100)  # type: ignore[arg-type]
    with pytest.raises(RatingsUnreadable, match="strong"):
        store.standing()
