"""Which model is promoted: only one that is stronger beyond luck, and none twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.model_promotion import informed
from fleet.outcome import outcome
from fleet.promotion import Contest, Decision, Promotion, decide, decide_promotions
from fleet.rating import rate
from fleet.rating_options import RatingOptions
from fleet.ratings import RatingsUnreadable, Standing

OPTIONS = RatingOptions()
RANDOM = Standing("random", 400.0, 0.0, 500)
BEST = Standing("g1", 1000.0, 30.0, 200)
VERSIONS = ("g1", "g2", "g3", "g4")


def contest(*standings: Standing, promoted: str | None = "g1", **changes: Any) -> Contest:
    known = {one.participant: one for one in standings}
    return replace(Contest("hex5_2p", promoted, VERSIONS, known), **changes)


@st.composite
def contests(draw: st.DrawFn) -> Contest:
    known = {"random": RANDOM}
    for name in draw(st.sets(st.sampled_from([*VERSIONS, "stranger"]))):
        rating, deviation = draw(st.floats(0, 3000)), draw(st.floats(1, 350))
        known[name] = Standing(name, rating, deviation, draw(st.integers(0, 100)), None, draw(st.booleans()))
    differences = draw(st.dictionaries(st.sampled_from(VERSIONS), st.tuples(st.floats(-500, 500), st.floats(1, 200))))
    promoted, earlier = draw(st.none() | st.sampled_from(VERSIONS)), draw(st.frozensets(st.sampled_from(VERSIONS)))
    return Contest("hex5_2p", promoted, draw(st.permutations(VERSIONS)), known, earlier, differences)


# One decision


def test_a_model_that_is_stronger_beyond_luck_is_promoted_and_the_reason_states_the_bound() -> None:
    decision = decide(contest(BEST, Standing("g2", 1084.0, 30.0, 62), differences={"g2": (84.0, 43.8)}), OPTIONS)
    assert decision == Decision(
        "hex5_2p", "g2", "+84 Elo, at least +12 with 95 % certainty after 62 games over g1", decision.at_least
    )
    assert decision.at_least == pytest.approx(84 - 1.645 * 43.8, abs=0.05)


def test_a_model_that_may_only_be_lucky_is_not_and_the_reason_says_what_is_missing() -> None:
    decision = decide(contest(BEST, Standing("g2", 1084.0, 30.0, 62), differences={"g2": (84.0, 60.0)}), OPTIONS)
    assert decision.version is None
    assert decision.reason == (
        "g2: +84 Elo, at least -15 with 95 % certainty after 62 games over g1; a bound above +0 is needed"
    )


@pytest.mark.parametrize("standing", [
    Standing("g2", 999.0, 30.0, 62), Standing("g2", 1084.0, 30.0, 29), Standing("g2", 1084.0, 30.0, 62, None, False),
    Standing("stranger", 1084.0, 30.0, 62),
])  # fmt: skip
def test_matches_are_rated_only_where_somebody_could_be_promoted(tmp_path: Path, standing: Standing) -> None:
    path = tmp_path / "unified_elo.db"
    path.write_bytes(b"no database, so it must not be looked at" * 99)
    for known in (contest(BEST, standing), contest(standing), contest(RANDOM, standing, promoted=None)):
        assert informed([known], path, OPTIONS) == [known]
    with pytest.raises(RatingsUnreadable, match=r"unified_elo\.db: file is not a database"):
        informed([contest(BEST, standing), contest(BEST, Standing("g2", 1001.0, 30.0, 30))], path, OPTIONS)


def test_without_the_covariance_the_bound_is_of_both_deviations_together() -> None:
    at = 1000 + 1.6449 * 50.0
    assert decide(contest(BEST, Standing("g2", at + 0.1, 40.0, 62)), OPTIONS).version == "g2"
    assert decide(contest(BEST, Standing("g2", at - 0.1, 40.0, 62)), OPTIONS).version is None


def test_the_bound_of_both_deviations_is_never_the_smaller_one() -> None:
    games = {
        outcome(("a", "random"), (1, 2)): 30,
        outcome(("a", "random"), (2, 1)): 3,
        outcome(("a", "b"), (1, 2)): 20,
        outcome(("a", "b"), (2, 1)): 40,
        outcome(("a", "b", "c", "random"), (1, 2, 2, 4)): 9,
    }
    ratings = rate(games, OPTIONS.anchors)
    for one in "abc":
        for other in "abc":
            apart = (ratings[one].deviation ** 2 + ratings[other].deviation ** 2) ** 0.5
            assert ratings.difference(one, other)[1] <= apart + 0.01


@pytest.mark.parametrize("certainty", [0.5, 0.8, 0.99])
def test_how_sure_and_how_much_is_the_operators_choice(certainty: float) -> None:
    options = RatingOptions(promotion_certainty=certainty, promotion_min_gain=20.0)
    z = {0.5: 0.0, 0.8: 0.8416, 0.99: 2.3263}[certainty]
    needed = 20 + z * 40
    for gain, promoted in ((needed + 0.1, "g2"), (needed - 0.1, None)):
        known = contest(BEST, Standing("g2", 1100.0, 50.0, 60), differences={"g2": (gain, 40.0)})
        assert decide(known, options).version == promoted


def test_the_first_model_has_to_beat_the_weakest_anchor_that_played() -> None:
    options = RatingOptions(anchors={"random": 400.0, "uct32": 900.0, "absent": 100.0})
    uct32 = Standing("uct32", 900.0, 0.0, 500)

    def first(rating: float) -> Decision:
        return decide(contest(RANDOM, uct32, Standing("g1", rating, 100.0, 50), promoted=None), options)

    assert first(400 + 164).version is None
    assert first(400 + 165).version == "g1"
    assert first(400 + 165).reason == "+165 Elo, at least +1 with 95 % certainty after 50 games over anchor random"


def test_without_an_anchor_no_first_model_is_promoted() -> None:
    decision = decide(contest(Standing("g1", 2000.0, 30.0, 100), promoted=None), OPTIONS)
    assert (decision.version, decision.reason) == (
        None,
        "no anchor has played, so nothing is known to be better than it",
    )


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (None, "the promoted g1 is not rated"),
        (replace(BEST, anchored=False), "the promoted g1 is not anchored"),
        (replace(BEST, games=29), "the promoted g1 has 29 of 30 games"),
    ],
)
def test_a_promoted_model_of_which_nothing_is_known_stays(standing: Standing | None, said: str) -> None:
    strong = Standing("g2", 2500.0, 20.0, 500)
    decision = decide(contest(strong, *([standing] if standing else [])), OPTIONS)
    assert (decision.version, decision.reason) == (None, said)


@pytest.mark.parametrize("change", [{"games": 29}, {"anchored": False}, {"participant": "stranger"}])
def test_a_candidate_of_which_too_little_is_known_is_left_out(change: dict[str, Any]) -> None:
    candidate = Standing("g2", 2500.0, 20.0, 500)
    assert decide(contest(BEST, candidate), OPTIONS).version == "g2"
    decision = decide(contest(BEST, replace(candidate, **change)), OPTIONS)
    assert (decision.version, decision.reason) == (None, "no candidate is anchored and has 30 games")


def test_of_several_the_one_with_the_highest_bound_is_promoted() -> None:
    sure, lucky = Standing("g2", 1300.0, 20.0, 300), Standing("g3", 1500.0, 300.0, 40)
    assert decide(contest(BEST, sure, lucky), OPTIONS).version == "g2"


def test_of_equals_the_one_with_the_later_name_is_promoted_wherever_this_is_decided() -> None:
    twins = [Standing(name, 1300.0, 20.0, 300) for name in VERSIONS[1:]]
    assert {decide(contest(BEST, *twins, candidates=order), OPTIONS).version for order in permutations(VERSIONS)} == {
        "g4"
    }


def test_which_anchor_is_the_weakest_is_told_by_its_elo_and_not_by_its_name() -> None:
    options = RatingOptions(anchors={"random": 400.0, "better": 900.0})
    better = Standing("better", 900.0, 0.0, 500)
    known = contest(RANDOM, better, Standing("g1", 800.0, 50.0, 50), promoted=None, differences={"g1": (-9.0, 1.0)})
    assert decide(known, options).version == "g1"


def test_a_model_that_was_promoted_before_does_not_come_back_by_itself() -> None:
    better = Standing("g2", 1500.0, 20.0, 300)
    assert decide(contest(BEST, better, earlier=frozenset({"g1", "g2"})), OPTIONS).version is None


def test_the_promotions_that_are_due_are_listed_by_configuration() -> None:
    due = contest(BEST, Standing("g2", 1500.0, 20.0, 300))
    not_due = replace(contest(BEST), config="hex8_2p")
    assert decide_promotions([not_due, due], OPTIONS) == (
        Promotion("hex5_2p", "g2", "g1", "+500 Elo, at least +441 with 95 % certainty after 300 games over g1"),
    )


# Whatever the standings


@settings(max_examples=80)
@given(contests())
def test_whoever_is_promoted_is_a_candidate_beyond_luck_and_for_the_first_time(known: Contest) -> None:
    decision = decide(known, OPTIONS)
    assert decision.reason
    if decision.version is not None:
        assert decision.version in known.candidates
        assert decision.version not in known.earlier | {known.promoted}
        standing = known.standings[decision.version]
        assert standing.anchored
        assert standing.games >= OPTIONS.min_games
        assert decision.at_least is not None
        assert decision.at_least > OPTIONS.promotion_min_gain


@settings(max_examples=60)
@given(contests(), st.permutations(VERSIONS))
def test_the_order_of_the_candidates_does_not_matter(known: Contest, order: list[str]) -> None:
    assert decide(replace(known, candidates=tuple(order)), OPTIONS) == decide(known, OPTIONS)


@settings(max_examples=40)
@given(st.lists(contests(), min_size=1, max_size=12))
def test_however_the_ratings_sway_no_model_is_promoted_twice(seen: list[Contest]) -> None:
    promoted, earlier = None, frozenset[str]()
    for known in seen:
        for promotion in decide_promotions([replace(known, promoted=promoted, earlier=earlier)], OPTIONS):
            assert promotion.version not in earlier
            promoted, earlier = promotion.version, earlier | {promotion.version}


@settings(max_examples=40)
@given(contests(), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_who_asks_for_more_certainty_never_gets_a_promotion_that_less_would_refuse(
    known: Contest, one: float, other: float
) -> None:
    strict = decide(known, RatingOptions(promotion_certainty=max(one, other)))
    if strict.version is not None:
        assert decide(known, RatingOptions(promotion_certainty=min(one, other))).version is not None
