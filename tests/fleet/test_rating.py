"""Ratings: what they promise whatever the results, and what independent programs say of the same ones."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.choices import count
from fleet.outcome import MAX_PLAYERS, Outcome, outcome
from fleet.rating import PRIOR_RATING, Rated, _Problem, _published, prior_deviation, rate

LOGIT = 400 / math.log(10)

NAMES = "abcdef"
ANCHORS = {"a": 400.0}


@st.composite
def results(draw: st.DrawFn, players: Sequence[int] = (2, 3, 4)) -> Outcome:
    number = draw(st.sampled_from(players))
    seats = draw(st.permutations(NAMES))[:number]
    return outcome(seats, draw(st.lists(st.integers(1, number), min_size=number, max_size=number)))


def played(max_size: int = 12, players: Sequence[int] = (2, 3, 4)) -> st.SearchStrategy[dict[Outcome, int]]:
    return st.dictionaries(results(players), st.integers(1, 30), max_size=max_size)


def duels(*games: tuple[str, str, int]) -> dict[Outcome, int]:
    """So many wins of the first over the second, each."""
    return dict(Counter({outcome((winner, loser), (1, 2)): times for winner, loser, times in games}))


# Whatever the results


@settings(max_examples=40)
@given(played(), st.randoms(use_true_random=False), st.sampled_from([{}, ANCHORS, {"a": 400.0, "b": 900.0}]))
def test_neither_the_order_of_the_results_nor_the_seats_matter_to_the_last_bit(
    outcomes: dict[Outcome, int], rng: random.Random, anchors: Mapping[str, float]
) -> None:
    shuffled: dict[Outcome, int] = {}
    for (participants, ranks), times in rng.sample(sorted(outcomes.items()), len(outcomes)):
        seats = rng.sample(range(len(ranks)), len(ranks))
        seated = (tuple(participants[seat] for seat in seats), tuple(ranks[seat] for seat in seats))
        part = rng.randint(0, times)
        shuffled[seated] = shuffled.get(seated, 0) + part
        shuffled[participants, ranks] = shuffled.get((participants, ranks), 0) + times - part
    one, other = rate(outcomes, anchors), rate(shuffled, anchors)
    assert dict(one) == dict(other)
    assert list(one) == sorted(one)
    assert np.array_equal(one._covariance, other._covariance)
    assert np.array_equal(one._strengths, other._strengths)


@settings(max_examples=40)
@given(played(), st.permutations(NAMES), st.booleans())
def test_a_win_never_brings_the_winner_nearer_to_the_loser(
    outcomes: dict[Outcome, int], names: list[str], drawn: bool
) -> None:
    winner, loser = names[:2]
    known = Counter(outcomes) + Counter({outcome((winner, loser), (1, 1)): 1})
    before = rate(known, ANCHORS).difference(winner, loser)[0]
    after = rate(known + Counter({outcome((winner, loser), (1, 2)): 1}), ANCHORS).difference(winner, loser)[0]
    assert after >= before


@settings(max_examples=30)
@given(played())
def test_names_say_nothing_equal_results_give_equal_ratings(outcomes: dict[Outcome, int]) -> None:
    swap = {"a": "b", "b": "a"}
    symmetric = Counter(outcomes)
    for (participants, ranks), times in outcomes.items():
        symmetric[outcome([swap.get(name, name) for name in participants], ranks)] += times
    ratings = rate(symmetric, {"c": 400.0})
    if "a" in ratings:
        assert ratings["a"] == ratings["b"]
        assert ratings.difference("a", "b")[0] == 0


@settings(max_examples=30)
@given(played(), st.dictionaries(st.sampled_from(NAMES), st.integers(-500, 3000).map(float), max_size=3))
def test_an_anchor_has_exactly_the_rating_it_was_given(outcomes: dict[Outcome, int], anchors: dict[str, float]) -> None:
    ratings = rate(outcomes, anchors)
    assert ratings.keys() == {name for participants, _ in outcomes for name in participants}
    for name in anchors.keys() & ratings.keys():
        assert (ratings[name].rating, ratings[name].deviation) == (anchors[name], 0.0)


@settings(max_examples=30)
@given(played())
def test_every_number_is_finite_and_of_a_hundredth(outcomes: dict[Outcome, int]) -> None:
    for rated in rate(outcomes, ANCHORS).values():
        for number in (rated.rating, rated.deviation):
            assert math.isfinite(number)
            assert number == round(number, 2)
        assert rated.games == rated.wins + rated.losses + rated.draws > 0


def posterior(outcomes: dict[Outcome, int], strengths: Mapping[str, float], prior: float) -> float:
    """The logarithm of how likely such strengths are: of every order that a result can stand for, and of the prior.

    Of losers that share the last place it is the sum over their orders that counts: the result as it was seen.
    """
    total = sum(prior * (s / 2 - math.log1p(math.exp(s))) for s in strengths.values())
    for (participants, ranks), times in outcomes.items():
        seats = permutations(range(len(ranks)))
        orders = [order for order in seats if [ranks[seat] for seat in order] == sorted(ranks)]
        for order in orders:
            left = [strengths[participants[seat]] for seat in order]
            last = ranks.count(max(ranks))
            told = len(left) - last if last < len(left) else len(left)
            chance = sum(left[i] - math.log(sum(map(math.exp, left[i:]))) for i in range(told))
            total += times * chance / len(orders)
    return total


@settings(max_examples=25)
@given(played(max_size=6), st.lists(st.floats(-3, 3), min_size=len(NAMES), max_size=len(NAMES)))
def test_gradient_and_curvature_are_the_slopes_of_the_likelihood_of_all_orders(
    outcomes: dict[Outcome, int], strengths: list[float]
) -> None:
    choices = count(outcomes)
    problem = _Problem(choices, {}, 0.7)
    here = np.array(strengths[: problem.size])
    gradient, curvature = problem.slopes(here)
    for place in range(problem.size):
        nudge = np.zeros(problem.size)
        nudge[place] = 1e-4
        above, below = (
            posterior(outcomes, dict(zip(choices.names, there, strict=True)), 0.7)
            for there in (here + nudge, here - nudge)
        )
        assert gradient[place] == pytest.approx((above - below) / 2e-4, rel=1e-4, abs=1e-3)
        slope = (problem.slopes(here + nudge)[0] - problem.slopes(here - nudge)[0]) / 2e-4
        assert -curvature[place] == pytest.approx(slope, rel=1e-4, abs=1e-3)


@settings(max_examples=20)
@given(played(max_size=8), st.sampled_from([{}, ANCHORS]), st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_no_other_ratings_are_likelier(
    outcomes: dict[Outcome, int], anchors: Mapping[str, float], moves: list[float]
) -> None:
    ratings = rate(outcomes, anchors)
    best = {name: (rated.rating - PRIOR_RATING) / LOGIT for name, rated in ratings.items()}
    moved = {
        name: s + (move if name not in anchors else 0) for (name, s), move in zip(best.items(), moves, strict=False)
    }
    assert posterior(outcomes, best, 1.0) >= posterior(outcomes, moved, 1.0) - 1e-5


@pytest.mark.parametrize("prior", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(8))
def test_extreme_counts_and_anchors_are_rated_in_a_few_rounds(seed: int, prior: float) -> None:
    """Whatever the options take. Where a million games meet one, a likelihood cannot show a rise, but its slope can."""
    rng = random.Random(seed)
    names = [f"p{number}" for number in range(rng.choice([2, 5, 10, 30]))]
    games: Counter[Outcome] = Counter()
    for _ in range(40):
        seats = rng.sample(names, min(len(names), rng.choice([2, 2, 3, 9])))
        ranks = [names.index(name) for name in seats] if rng.random() < 0.5 else [rng.randint(1, 3) for _ in seats]
        games[outcome(seats, ranks)] += rng.choice([1, 100, 10**4, 10**6])
    anchors = {name: rng.uniform(-5000, 5000) for name in rng.sample(names, rng.randint(0, 2))}
    assert all(math.isfinite(rated.rating + rated.deviation) for rated in rate(games, anchors, prior=prior).values())


@pytest.mark.parametrize(
    ("games", "anchors", "prior"),
    [
        # A whole step leads beyond the peak, and back.
        ({outcome("abc", (2, 2, 1)): 10**6, outcome("abc", (1, 2, 3)): 10**6}, {"a": -4737.75, "b": -451.48}, 1.0),
        # A whole step from a flat place leads beyond all numbers.
        ({outcome("bc", (1, 1)): 100, outcome("ab", (1, 1)): 1}, {"a": 5000.0, "b": -5000.0}, 10.0),
        # Two that tie are so far below 1500 that what draws them up is less than rounding.
        (
            {
                outcome("bdef", (3, 1, 1, 3)): 10**4,
                outcome("bghijklmn", (8, 6, 3, 1, 4, 4, 6, 8, 2)): 10**4,
            },
            {"h": -5000.0},
            0.1,
        ),
        # What one loss and the prior say is less than the rounding of so many ties.
        ({outcome("ab", (1, 1)): 10**7, outcome("ac", (2, 1)): 1}, {"c": -5000.0}, 1.0),
    ],
)
def test_results_that_anchors_contradict_are_rated_all_the_same(
    games: dict[Outcome, int], anchors: dict[str, float], prior: float
) -> None:
    assert all(math.isfinite(rated.rating + rated.deviation) for rated in rate(games, anchors, prior=prior).values())


# What particular results mean


def test_a_zero_has_no_sign() -> None:
    """It would be another text in a digest."""
    assert [str(_published(elo)) for elo in (-0.001, 0.001, -0.0)] == ["0.0"] * 3


def test_no_game_gives_no_rating() -> None:
    assert len(rate({}, ANCHORS)) == 0
    assert len(rate({outcome("ab", (1, 2)): 0}, ANCHORS)) == 0


def test_even_results_against_the_anchor_give_its_rating_once_they_are_many() -> None:
    ratings = rate(duels(("a", "b", 50_000), ("b", "a", 50_000)), ANCHORS)
    assert ratings["b"].rating == pytest.approx(400, abs=0.1)
    assert ratings["b"].deviation == pytest.approx(LOGIT / math.sqrt(100_000 / 4), abs=0.01)
    assert ratings["b"] == Rated(ratings["b"].rating, ratings["b"].deviation, 100_000, 50_000, 50_000, 0, True)


def test_ten_wins_to_one_loss_are_400_elo() -> None:
    ratings = rate(duels(("b", "a", 100_000), ("a", "b", 10_000)), ANCHORS)
    assert ratings["b"].rating == pytest.approx(800, abs=0.1)


@pytest.mark.parametrize("times", [1, 30, 10_000])
def test_a_perfect_score_is_finite_and_claims_no_more_than_it_shows(times: int) -> None:
    best = rate(duels(("b", "a", times)), ANCHORS)["b"]
    assert 400 < best.rating < 4000
    assert best.rating - 1.96 * best.deviation < 400 + LOGIT * math.log(20 * times + 1)


def test_a_perfect_score_is_what_the_documents_say() -> None:
    assert rate(duels(("b", "a", 30)), ANCHORS)["b"] == Rated(1531.04, 321.2, 30, 30, 0, 0, True)


def test_a_draw_is_half_a_win_each_way() -> None:
    drawn = Counter({outcome("ab", (1, 1)): 10, outcome("ac", (1, 2)): 3, outcome("bc", (2, 1)): 5})
    halved = Counter({outcome("ab", (1, 2)): 5, outcome("ab", (2, 1)): 5, **{k: drawn[k] for k in list(drawn)[1:]}})
    one, other = rate(drawn, ANCHORS), rate(halved, ANCHORS)
    assert [(r.rating, r.deviation) for r in one.values()] == [(r.rating, r.deviation) for r in other.values()]
    assert (one["a"].draws, other["a"].draws) == (10, 0)


def test_the_winner_of_four_is_one_of_a_kind_and_those_that_share_last_place_are_equal() -> None:
    ratings = rate({outcome("bcde", (1, 2, 2, 2)): 30}, {})
    assert ratings["b"].rating > ratings["c"].rating
    assert ratings["c"] == ratings["d"] == ratings["e"]
    assert (ratings["b"].wins, ratings["c"].losses, ratings["c"].draws) == (30, 30, 0)


def test_who_shares_the_first_place_has_drawn_and_the_others_have_lost() -> None:
    ratings = rate({outcome("bcd", (1, 1, 3)): 7}, {})
    assert [(r.wins, r.losses, r.draws) for r in ratings.values()] == [(0, 0, 7), (0, 0, 7), (0, 7, 0)]
    assert ratings["b"].rating == ratings["c"].rating > ratings["d"].rating


def test_losers_that_share_the_last_place_are_as_strong_as_all_their_orders_together_say() -> None:
    """Games in which d is weakest, and of which only the winner is known, are rated as if they had been told."""
    strengths = {"a": 1.5, "b": 1.0, "c": 0.0, "d": -1.0}
    games: dict[Outcome, int] = {}
    for table in ("abc", "abd", "acd", "bcd"):
        total = sum(math.exp(strengths[name]) for name in table)
        for winner in table:
            result = outcome(table, [1 if name == winner else 2 for name in table])
            games[result] = round(100_000 * math.exp(strengths[winner]) / total)
    rated = rate(games, {})
    for name in "bcd":
        told = (strengths["a"] - strengths[name]) * 400 / math.log(10)
        assert abs(rated.difference("a", name)[0] - told) < 2


@pytest.mark.parametrize("players", range(2, MAX_PLAYERS + 1))
def test_a_tie_of_all_leaves_everybody_where_the_prior_has_them(players: int) -> None:
    everybody = "abcdefghi"[:players]
    ratings = rate({outcome(everybody, [1] * players): 100}, {})
    assert {rated.rating for rated in ratings.values()} == {PRIOR_RATING}
    assert {rated.draws for rated in ratings.values()} == {100}


def test_a_chain_of_games_to_every_anchor_that_played_is_what_anchors() -> None:
    games = duels(("b", "a", 5), ("c", "b", 5), ("e", "d", 5))
    chained = rate(games, {"a": 400.0, "z": 900.0})  # z has not played
    assert {name: rated.anchored for name, rated in chained.items()} == dict(zip("abcde", [1, 1, 1, 0, 0], strict=True))
    assert chained["d"].deviation == chained["e"].deviation == round(prior_deviation(1.0), 2) == 347.44
    assert not any(rated.anchored for rated in rate(games, {}).values())
    apart = rate(games, {"a": 400.0, "d": 900.0})
    assert not any(rated.anchored for rated in apart.values())
    assert (apart["d"].rating, apart["d"].deviation) == (900.0, 0.0)
    joined = rate(games | duels(("e", "c", 1)), {"a": 400.0, "d": 900.0})
    assert all(rated.anchored for rated in joined.values())


def test_a_difference_is_as_sure_as_the_games_between_the_two_and_not_as_their_way_to_the_anchor() -> None:
    games = duels(("b", "a", 9), ("a", "b", 1), ("c", "b", 500), ("b", "c", 500), ("e", "d", 50), ("d", "e", 50))
    ratings = rate(games, ANCHORS)
    assert ratings.difference("c", "b")[1] < 12
    assert ratings["b"].deviation > 100
    assert ratings.difference("b", "c") == (-ratings.difference("c", "b")[0], ratings.difference("c", "b")[1])
    assert ratings.difference("b", "b") == (0.0, 0.0)
    assert ratings.difference("e", "d")[1] < 40  # neither anchored, but they have met
    assert ratings.difference("e", "b")[1] == round(math.hypot(ratings["b"].deviation, 347.44), 2)
    with pytest.raises(KeyError):
        ratings.difference("b", "nobody")


def test_a_long_chain_of_one_sided_results_is_followed_to_its_end() -> None:
    names = [f"m{i:03d}" for i in range(120)]
    games = duels(*[pair for low, high in pairwise(names) for pair in ((high, low, 97), (low, high, 3))])
    ratings = rate(games, {"m000": 400.0}, prior=1e-3)
    assert ratings["m119"].rating == pytest.approx(400 + 119 * LOGIT * math.log(97 / 3), rel=0.01)


@pytest.mark.parametrize(
    ("bad", "times", "said"),
    [
        ((("a", "a"), (1, 2)), 1, "'a' plays against itself"),
        ((("b", "a", "b"), (1, 2, 3)), 1, "'b' plays against itself"),
        ((("a",), (1,)), 1, "2 to 9 participants, not by 1"),
        ((tuple("abcdefghij"), tuple(range(10))), 1, "2 to 9 participants, not by 10"),
        ((("a", "b"), (1, 2, 3)), 1, r"2 participants have 3 places: \[1, 2, 3\]"),
        ((("a", "b"), (1, 2)), -3, "cannot have happened -3 times"),
    ],
)
def test_what_is_no_result_is_refused_and_named(bad: Outcome, times: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rate({bad: times, outcome("cd", (1, 2)): 5}, ANCHORS)
    if times > 0:
        with pytest.raises(ValueError, match=said):
            outcome(*bad)


def test_places_count_by_their_order_alone() -> None:
    assert outcome(("b", "a", "c"), (7, 3, 7)) == (("a", "b", "c"), (1, 2, 2))
    assert rate({(("b", "a"), (70, -3)): 4}, {}) == rate({outcome("ab", (1, 2)): 4}, {})


@pytest.mark.parametrize("prior", [0.0, -1.0, math.nan, math.inf])
def test_a_prior_of_nothing_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        rate({}, {}, prior=prior)


def test_an_anchor_without_a_number_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="anchor 'random' must have a finite Elo"):
        rate({}, {"random": math.nan})


# How sure the ratings are


def test_nineteen_of_twenty_true_differences_lie_within_the_bounds() -> None:
    true = {"a": 400.0, "b": 520.0, "c": 610.0, "d": 750.0, "e": 900.0}
    rng = np.random.default_rng(7)
    rating_held, difference_held = [], []
    for _ in range(200):
        games: dict[Outcome, int] = {}
        for one, other in combinations(true, 2):
            wins = int(rng.binomial(40, 1 / (1 + 10 ** ((true[other] - true[one]) / 400))))
            games |= {outcome((one, other), (1, 2)): wins, outcome((one, other), (2, 1)): 40 - wins}
        ratings = rate(games, ANCHORS, prior=0.1)
        rating_held += [abs(ratings[name].rating - true[name]) < 1.96 * ratings[name].deviation for name in "bcde"]
        for one, other in combinations("bcde", 2):
            elo, deviation = ratings.difference(one, other)
            difference_held.append(abs(elo - (true[one] - true[other])) < 1.96 * deviation)
    assert 0.92 < np.mean(rating_held) < 0.98
    assert 0.92 < np.mean(difference_held) < 0.98


def test_the_bounds_hold_for_four_players_too() -> None:
    true = {"a": 400.0, "b": 480.0, "c": 560.0, "d": 700.0, "e": 640.0}
    rng = np.random.default_rng(11)
    held = []
    for _ in range(80):
        games: Counter[Outcome] = Counter()
        for seats in list(combinations(true, 4)) * 20:
            luck = {name: true[name] / LOGIT + rng.gumbel() for name in seats}  # Plackett and Luce, by Gumbel's trick
            games[outcome(seats, [1 + sum(luck[other] > luck[name] for other in seats) for name in seats])] += 1
        ratings = rate(games, ANCHORS, prior=0.1)
        held += [abs(ratings[name].rating - true[name]) < 1.96 * ratings[name].deviation for name in "bcde"]
    assert 0.92 < np.mean(held) < 0.98
