"""When a target is met, since when, and when that is news."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.ratings import ConfigStandings, Standing, Standings
from fleet.targets import judge, newly_all_met, reason

NOW = 1_800_000_000.0
MET = ConfigStandings(Standing("g9", 2200.0, 40.0, 100), models=1)
UNMET = ConfigStandings(Standing("g9", 2200.0, 140.0, 100), models=1)
TARGETS = {"hex5_2p": 2000.0, "hex8_2p": 2000.0}


def test_a_target_is_met_since_it_was_first_found_to_be() -> None:
    standings = Standings({"hex5_2p": MET, "hex8_2p": UNMET})
    first = judge(TARGETS, standings, {}, NOW)
    assert [(one.config, one.met, one.since) for one in first] == [("hex5_2p", True, NOW), ("hex8_2p", False, None)]
    before = {one.config: one.document() for one in first}
    again = judge(TARGETS, Standings({"hex5_2p": MET, "hex8_2p": MET}), before, NOW + 60)
    assert [(one.since, one.at) for one in again] == [(NOW, NOW + 60), (NOW + 60, NOW + 60)]
    lost = judge(TARGETS, standings, {one.config: one.document() for one in again}, NOW + 120)
    assert [one.since for one in lost] == [NOW, None]


def test_the_document_has_what_the_board_shows() -> None:
    (one,) = judge({"hex5_2p": 2000.0}, Standings({"hex5_2p": MET}), {}, NOW)
    assert one.document() == {
        "target": 2000.0,
        "met": True,
        "since": NOW,
        "reason": "target 2000: g9 has 2200 after 100 games, lower bound 2122",
        "at": NOW,
    }


def test_that_all_are_met_is_news_once() -> None:
    one = judge(TARGETS, Standings({"hex5_2p": MET}), {}, NOW)
    assert not newly_all_met(one, {})
    both = judge(TARGETS, Standings({"hex5_2p": MET, "hex8_2p": MET}), {}, NOW)
    assert newly_all_met(both, {})
    assert newly_all_met(both, {target.config: target.document() for target in one})
    assert not newly_all_met(both, {target.config: target.document() for target in both})


def test_the_operator_says_how_many_games_are_enough() -> None:
    assert judge(TARGETS, Standings({"hex5_2p": MET}), {}, NOW, min_games=100)[0].met
    assert not judge(TARGETS, Standings({"hex5_2p": MET}), {}, NOW, min_games=101)[0].met


def test_the_reason_says_when_the_rating_hangs_on_nothing() -> None:
    adrift = ConfigStandings(Standing("g9", 2200.0, 40.0, 100, anchored=False))
    assert reason(adrift, 2000) == (
        "target 2000: g9 has 2200 after 100 games, lower bound 2122, but no games lead to the anchors"
    )
    assert reason(ConfigStandings(), 2000) == "target 2000: no model is rated yet"


@given(st.dictionaries(st.sampled_from(["met", "since", "x"]), st.none() | st.booleans() | st.text() | st.floats()))
def test_whatever_the_board_had_an_unmet_target_has_no_since_and_a_met_one_has(known: dict[str, object]) -> None:
    before = {"hex5_2p": known, "hex8_2p": known}
    met, unmet = judge(TARGETS, Standings({"hex5_2p": MET}), before, NOW)
    assert isinstance(met.since, float | int)
    assert unmet.since is None
