"""Who plays whom: whatever is known, everybody sits everywhere and the anchors hold the scale together."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.openspiel.pairing import ANCHORS, rotations, tables

NAMES = ["g4", "g3", "g2", "g1"]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    seats = draw(st.sampled_from([2, 3, 4]))
    results: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for _ in range(draw(st.integers(0, 8))):
        who = draw(st.lists(st.sampled_from([*NAMES, *ANCHORS]), min_size=seats, max_size=seats, unique=True))
        won = draw(st.integers(1, seats))
        results[tuple(sorted(who)), tuple(sorted(who[:won]))] += draw(st.integers(1, 5000))
    return {
        "candidates": NAMES[: draw(st.integers(0, 2))],
        "promoted": draw(st.sampled_from([None, "g2"])),
        "previous": draw(st.sampled_from([None, "g1"])),
        "seats": seats,
        "count": draw(st.integers(1, 60)),
        "results": results,
        "rng": random.Random(draw(st.integers(0, 99))),
    }


@settings(max_examples=50)
@given(world=worlds())
def test_every_tournament_ties_the_newest_and_the_best_to_every_anchor(world: dict[str, Any]) -> None:
    found = tables(**world)
    assert len(found) >= world["count"]
    assert all(len(set(table)) == len(table) == world["seats"] for table in found)
    met = {frozenset(pair) for table in found for pair in combinations(table, 2)}
    assert all(frozenset(link) in met for link in pairwise(ANCHORS))
    leading = {*world["candidates"][:1], world["promoted"]} - {None}
    assert all(frozenset((model, anchor)) in met for model in leading for anchor in ANCHORS)
    assert len(leading) < 2 or frozenset(leading) in met


@given(table=st.lists(st.integers(), min_size=2, max_size=4, unique=True))
def test_a_round_seats_everybody_once_on_each_seat(table: list[Any]) -> None:
    rounds = rotations(table)
    assert len(rounds) == len(table)
    for seat in range(len(table)):
        assert sorted(seated[seat] for seated in rounds) == sorted(table)


#: log strengths as they come out in play
STRENGTHS = {"random": 0.0, "uct8": 1.5, "uct32": 2.7, "uct128": 5.0, "g1": 6.5, "g2": 7.5, "g3": 7.8}


def expected(pairs: dict[tuple[str, str], int]) -> Counter[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Results as these strengths let one expect, by pair and number of games."""
    results: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for pair, games in pairs.items():
        one, other = sorted(pair)
        won = round(games / (1 + np.exp(STRENGTHS[other] - STRENGTHS[one])))
        results[(one, other), (one,)] += won
        results[(one, other), (other,)] += games - won
    return results


def planned(results: Counter[Any], count: int = 100, **who: Any) -> Counter[tuple[str, ...]]:
    entered: dict[str, Any] = {"candidates": ["g2"], "promoted": "g1", "previous": None} | who
    found = tables(seats=2, count=count, results=results, rng=random.Random(1), **entered)
    return Counter(tuple(sorted(table)) for table in found)


LADDER = dict.fromkeys([*pairwise(ANCHORS), ("uct128", "g1"), ("g1", "g2")], 500)


def test_a_newcomer_gets_most_of_the_games_when_all_others_are_known() -> None:
    plan = planned(expected(LADDER), candidates=["g3", "g2"], promoted="g2", previous="g1")
    assert sum(games for pair, games in plan.items() if "g3" in pair) > 60
    assert plan["g2", "g3"] == max(plan.values())  # it decides on promotion


@pytest.mark.parametrize("link", list(pairwise([*ANCHORS, "g1"])))
def test_the_weakest_link_of_the_scale_gets_the_games(link: tuple[str, str]) -> None:
    plan = planned(expected(LADDER | {link: 20}), count=30, candidates=[])
    pair = tuple(sorted(link))
    around = [other for other in plan if set(other) & set(link) and other != pair]
    assert plan[pair] > 1
    assert plan[pair] + sum(plan[other] for other in around) > 20


def test_what_is_certain_is_played_no_more_than_it_must_be() -> None:
    for results in (Counter(), expected(LADDER), expected({("g2", "random"): 400, ("g1", "random"): 400})):
        plan = planned(results)
        assert plan["g2", "random"] == plan["g1", "random"] == 1


def test_before_anything_is_known_games_go_between_neighbours_of_the_scale() -> None:
    plan = planned(Counter(), candidates=["g1"], promoted=None)
    far = sum(games for pair, games in plan.items() if pair in {("g1", "random"), ("g1", "uct8"), ("random", "uct128")})
    assert far <= 8
    assert sum(games for pair, games in plan.items() if "random" in pair) > 20


def test_with_more_seats_the_weak_meet_each_other_too() -> None:
    plan = tables(["g1"], None, None, seats=3, count=30, results={}, rng=random.Random(1))
    without = [table for table in plan if not {"g1", "uct128"} & set(table)]
    assert len(without) >= 5  # where one of them always wins, nothing is learned of the others


def test_too_few_for_the_seats_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"4 participants \(random, uct8, uct32, uct128\) cannot fill 5 seats"):
        tables([], None, None, seats=5, count=1, results={}, rng=random.Random(1))
