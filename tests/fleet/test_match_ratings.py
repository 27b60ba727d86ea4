"""Ratings of a node's matches: they follow from the set, whatever order it came in, and say how sure they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet import rating
from fleet.match_ratings import Rules, settle, settled, unrated
from fleet.match_store import FILE
from fleet.ratings import read
from fleet.sequential_elo import Game, sequential_elo
from tests.fleet.match_stage import T0, matches, played, published

AT = T0 / 1000


def test_ratings_follow_from_the_matches_and_say_how_sure_they_are(tmp_path: Path) -> None:
    with matches(tmp_path / FILE) as found:
        found.tell_types({"random": "baseline"})
        found.merge(played(number, ("strong", "random"), (1, 2)) for number in range(40))
        assert settle(found.db, Rules()) == ["hex8_2p"]
        assert settle(found.db, Rules()) == []
        best = read(tmp_path / FILE, AT + 60)["hex8_2p"].best
        assert best is not None
        assert (best.participant, best.games, best.anchored) == ("strong", 40, True)
        assert published(found)[0][3:5] == (400.0, 0.0)
        assert settle(found.db, Rules(anchors={"random": 500.0})) == ["hex8_2p"]
        assert published(found)[0][3] == 500.0


def test_a_configuration_that_cannot_be_rated_leaves_the_others_their_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rating, "MOST_PARTICIPANTS", 3)
    with matches(tmp_path / FILE) as found:
        found.merge(played(number, (f"a{number}", "random"), board="go9") for number in range(2))
        found.merge([played(9, ("b", "random"))])
        settle(found.db, Rules())
        assert unrated(found.db) == []
        found.merge([played(10, ("a10", "random"), board="go9")])
        assert settle(found.db, Rules()) == ["go9_2p"]
        assert unrated(found.db) == ["go9_2p"]
        assert {row[1] for row in published(found)} == {"hex8"}
        assert settled(found.db) == Rules().mark, "or it would be tried again for ever"
        found.exclude([("m00010", "imported by mistake")])
        settle(found.db, Rules())
        assert unrated(found.db) == []
        assert {row[1] for row in published(found)} == {"hex8", "go9"}


def test_an_exclusion_takes_a_rating_away_and_the_peak_stays(tmp_path: Path) -> None:
    with matches(tmp_path / FILE) as found:
        found.merge([played(1, ("a", "b")), played(2, ("c", "b")), played(3, ("a", "b"))])
        settle(found.db, Rules())
        before = {row[0]: row[3] for row in published(found)}
        found.exclude([("m00002", "crashed"), ("m00003", "crashed")])
        settle(found.db, Rules())
        assert {row[0] for row in published(found)} == {"a", "b"}
        ((peak, rating),) = found.db.execute("SELECT peak_rating, rating FROM elo_ratings WHERE participant_id = 'a'")
        assert peak == before["a"] > rating
        ((kept,),) = found.db.execute("SELECT content FROM backbeat_set_aside")
        assert '"c"' in kept


def test_sequential_elo_is_that_of_all_matches_in_their_order_however_they_came(tmp_path: Path) -> None:
    found = [played(number, ("ab"[number % 2], "c"), (1 + number % 3 % 2, 2)) for number in range(60)]
    with matches(tmp_path / FILE) as here:
        for part in (found[30:50], found[50:], found[:10], found[10:30]):
            here.merge(part)
            settle(here.db, Rules())
        here.exclude([(found[5].id, "crashed")])
        settle(here.db, Rules())
        games = [
            Game(each.ended, each.id, each.result.participants, each.result.ranks)
            for each in found
            if each.id != found[5].id
        ]
        assert {row[0]: row[-1] for row in published(here)} == sequential_elo(games, {"random": 400.0})


def test_a_new_node_knows_where_a_configuration_was_heading(tmp_path: Path) -> None:
    with matches(tmp_path / FILE) as found:
        hour = 3_600_000
        found.merge(played(number, ("a", "random"), (1, 2), ended=T0 + number * hour) for number in range(100))
        settle(found.db, Rules())
        history = read(tmp_path / FILE, AT + 101 * 3600)["hex8_2p"].history
        assert len(history) >= 4
        assert history[-1][1] > history[0][1]
        rows = found.db.execute("SELECT count(*) FROM rating_history").fetchone()
        found.merge([played(100, ("a", "random"), (1, 2), ended=T0 + 100 * hour)])
        settle(found.db, Rules())
        assert found.db.execute("SELECT count(*) FROM rating_history").fetchone()[0] - rows[0] <= 2


def test_ratings_that_move_all_the_time_have_a_history_of_an_entry_an_hour(tmp_path: Path) -> None:
    with matches(tmp_path / FILE) as found:
        for minute in range(0, 240, 2):
            won = played(minute, ("a", "random"), (1, 2), ended=T0 + 60_000 * minute)
            lost = played(minute + 1, ("a", "random"), (2, 1), ended=T0 + 60_000 * minute)
            found.merge([won, *([lost] if minute % 6 else [])])
            settle(found.db, Rules())
        query = "SELECT timestamp FROM rating_history WHERE participant_id = 'a' AND timestamp > ?"
        hours = [at // 3600 for (at,) in found.db.execute(query, (AT + 3600,))]
    assert 3 <= len(hours) == len(set(hours)) <= 4
    assert len(read(tmp_path / FILE, AT + 4 * 3600)["hex8_2p"].history) >= 4


def test_ratings_that_were_computed_in_vain_are_not_written_over_newer_ones(tmp_path: Path) -> None:
    """Another process merges and rates while this one computes."""

    class Slow(Rules):
        def rate(self, found: Any) -> Any:
            with matches(tmp_path / FILE) as other:
                other.merge(map(played, range(1, 9)))
                settle(other.db, Rules())
            return super().rate(found)

    with matches(tmp_path / FILE) as found:
        found.merge([played(0)])
        assert settle(found.db, Slow()) == []
        assert {row[5] for row in published(found)} == {9}
        assert settle(found.db, Rules()) == []
