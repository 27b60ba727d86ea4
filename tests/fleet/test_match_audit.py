"""The sums of a set of matches: true after whatever happened, and mended where somebody changed rows by hand."""

from __future__ import annotations

from pathlib import Path

from fleet.match_audit import repair, verify
from fleet.match_ratings import outcomes
from fleet.match_store import FILE
from tests.fleet.match_stage import T0, matches, played


def test_a_row_that_another_program_changed_is_found_and_repaired(tmp_path: Path) -> None:
    with matches(tmp_path / FILE) as found:
        found.merge(map(played, range(5)))
        assert verify(found).sound
        found.db.execute("UPDATE match_history SET rankings = '[2,1]' WHERE game_id = 'm00001'")
        found.db.execute("DELETE FROM match_history WHERE game_id = 'm00002'")
        audit = verify(found)
        assert not audit.sound
        assert "row 2 of match_history: its content is not that of its hash" in audit.problems
        repair(found)
        assert verify(found).sound
        assert found.state().matches == 4
        changed = found.find("m00001")
        assert changed is not None
        assert changed.result.ranks == (2, 1)


def test_a_content_that_was_altered_away_leaves_its_place_to_the_next_one(tmp_path: Path) -> None:
    contents = sorted((played(1, ended=T0 + number) for number in range(4)), key=lambda each: each.hash)
    with matches(tmp_path / "one.db") as one, matches(tmp_path / "two.db") as two:
        one.merge([*contents[:3], played(2), played(2, ended=T0)])
        (gone,) = one.db.execute("SELECT match_hash FROM match_history WHERE game_id = 'm00002'").fetchone()
        last = contents[3]
        one.db.execute("UPDATE match_history SET timestamp = ? WHERE game_id = 'm00001'", (last.ended / 1000,))
        one.db.execute("DELETE FROM match_history WHERE game_id = 'm00002'")
        repair(one)
        found = one.find("m00001"), one.find("m00002")
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].hash == contents[1].hash
        assert found[1].hash > gone
        two.merge([each for each in (played(2), played(2, ended=T0)) if each.hash > gone] + contents[1:])
        assert one.state() == two.state()
        one.merge(contents)
        two.merge(contents)
        assert one.state() == two.state()
        assert verify(one).sound


def test_somebody_of_several_types_is_the_same_in_whatever_order_they_are_told(tmp_path: Path) -> None:
    told = [["x", "model"], ["x", "search"], ["x", "baseline"], ["y", "zero"], ["y", "model"]]
    with matches(tmp_path / "one.db") as one, matches(tmp_path / "two.db") as two:
        one.take({"participants": told}, "x")
        for each in reversed(told):
            two.take({"participants": [each]}, "x")
        assert one.state() == two.state()
        assert one.state().elements == 2


def test_an_exclusion_may_come_before_its_match(tmp_path: Path) -> None:
    with matches(tmp_path / "one.db") as one, matches(tmp_path / "two.db") as two:
        one.exclude([("m00001", "crashed")])
        one.merge([played(1), played(2)])
        two.merge([played(1), played(2)])
        assert two.exclude([("m00001", "crashed"), ("m00001", "crashed")]) == 1
        assert one.state() == two.state()
        for found in (one, two):
            assert found.exclude([("m00001", "it had cheated too")]) == 1
            assert verify(found).sound
        assert outcomes(one.db, "hex8_2p") == outcomes(two.db, "hex8_2p") == {(("a", "b"), (1, 2)): 1}
