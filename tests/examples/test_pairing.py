"""Who plays whom: whatever is known, everybody sits everywhere and the anchors hold the scale together."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.openspiel.matches import Meetings
from examples.openspiel.pairing import ANCHORS, rotations, tables

NAMES = ["g4", "g3", "g2", "g1"]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, object]:
    candidates = NAMES[: draw(st.integers(0, 2))]
    met = Meetings()
    everybody = [*NAMES, *ANCHORS]
    for _ in range(draw(st.integers(0, 6))):
        who = draw(st.lists(st.sampled_from(everybody), min_size=2, max_size=4, unique=True))
        ranks = draw(st.lists(st.integers(1, 4), min_size=len(who), max_size=len(who)))
        met.add(who, ranks, draw(st.integers(1, 500)))
    return {
        "candidates": candidates,
        "promoted": draw(st.sampled_from([None, "g2"])),
        "previous": draw(st.sampled_from([None, "g1"])),
        "count": draw(st.integers(1, 60)),
        "met": met,
        "rng": random.Random(draw(st.integers(0, 99))),
    }


@settings(max_examples=60, deadline=None)
@given(world=worlds(), seats=st.sampled_from([2, 3, 4]))
def test_every_tournament_ties_the_newest_and_the_best_to_every_anchor(world: dict[str, object], seats: int) -> None:
    found = tables(seats=seats, **world)  # type: ignore[arg-type]
    assert len(found) >= world["count"]  # type: ignore[operator]
    assert all(len(set(table)) == seats for table in found)
    met = {frozenset(pair) for table in found for pair in combinations(table, 2)}
    assert all(frozenset(link) in met for link in pairwise(ANCHORS))
    leading = {*world["candidates"][:1], world["promoted"]} - {None}  # type: ignore[index]
    assert all(frozenset((model, anchor)) in met for model in leading for anchor in ANCHORS)
    assert len(leading) < 2 or frozenset(leading) in met


@given(table=st.lists(st.integers(), min_size=2, max_size=4, unique=True))
def test_a_round_seats_everybody_once_on_each_seat(table: list[str]) -> None:
    rounds = rotations(table)
    assert len(rounds) == len(table)
    for seat in range(len(table)):
        assert sorted(seated[seat] for seated in rounds) == sorted(table)


def most_played(met: Meetings, **who: object) -> list[tuple[tuple[str, ...], int]]:
    settings: dict[str, object] = {"candidates": ["g2"], "promoted": "g1", "previous": None} | who
    found = tables(seats=2, count=200, met=met, rng=random.Random(1), **settings)  # type: ignore[arg-type]
    return Counter(tuple(sorted(table)) for table in found).most_common()


def test_games_go_to_the_pair_of_whom_least_is_known() -> None:
    met = Meetings()
    for pair in combinations(["g1", "g2", *ANCHORS], 2):
        met.add(pair, (1, 2), 300)
        met.add(pair, (2, 1), 300)
    assert most_played(met, candidates=["g3", "g2"])[0][0] == ("g1", "g3")
    assert ("g1", "g2") not in dict(most_played(met, candidates=["g3", "g2"])[:3])


def test_what_is_certain_is_played_no_more_than_it_must_be() -> None:
    met = Meetings()
    met.add(("g2", "random"), (1, 2), 500)
    assert dict(most_played(met))["g2", "random"] == 1


def test_the_links_between_anchors_get_games_until_they_hold() -> None:
    met = Meetings()
    for model in ("g1", "g2"):
        for other in ("g1", *ANCHORS):
            if model != other:
                met.add((model, other), (1, 2), 400)
                met.add((model, other), (2, 1), 400)
    first = {pair for pair, _ in most_played(met)[:3]}
    assert first == {tuple(sorted(link)) for link in pairwise(ANCHORS)}


def test_too_few_for_the_seats_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"4 participants \(random, uct8, uct32, uct128\) cannot fill 5 seats"):
        tables([], None, None, seats=5, count=1, met=Meetings(), rng=random.Random(1))


def test_among_more_than_two_only_a_win_tells_who_is_better() -> None:
    met = Meetings()
    met.add(("a", "b", "c"), (2, 1, 2), 10)
    assert (met.games("a", "b"), met.games("c", "b"), met.games("a", "c")) == (10, 10, 0)
    assert met.openness("a", "c") == 1
    assert met.openness("a", "b") == met.openness("b", "a") < 0.4
    met.add(("a", "b"), (1, 1), 10)
    assert met.games("a", "b") == 20
