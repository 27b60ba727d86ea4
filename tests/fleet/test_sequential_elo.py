"""Sequential Elo: one order, K by experience, anchors that never move."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.sequential_elo import Game, sequential_elo

ANCHORS = {"random": 400.0}
NAMES = ("a", "b", "c", "d", "random")


@st.composite
def a_game(draw: st.DrawFn) -> Game:
    seats = tuple(draw(st.permutations(NAMES))[: draw(st.integers(2, 4))])
    ranks = tuple(draw(st.lists(st.integers(1, 4), min_size=len(seats), max_size=len(seats))))
    return Game(draw(st.integers(0, 5)), draw(st.text("xyz", min_size=3, max_size=6)), seats, ranks)


def games(*rows: tuple[str, str, int], first: int = 0) -> list[Game]:
    """Wins of the first over the second, so many each, one after the other."""
    won = [(winner, loser) for winner, loser, times in rows for _ in range(times)]
    return [Game(first + at, f"g{at}", pair, (1, 2)) for at, pair in enumerate(won)]


@settings(max_examples=50)
@given(st.lists(a_game(), max_size=12, unique_by=lambda game: game.id), st.randoms(use_true_random=False))
def test_the_order_in_which_games_arrive_does_not_matter(played: list[Game], rng: random.Random) -> None:
    shuffled = rng.sample(played, len(played))
    assert sequential_elo(shuffled, ANCHORS) == sequential_elo(played, ANCHORS)


@settings(max_examples=50)
@given(st.lists(a_game(), max_size=12))
def test_anchors_never_move_and_everybody_who_played_is_rated(played: list[Game]) -> None:
    rated = sequential_elo(played, ANCHORS)
    assert rated.keys() == {name for game in played for name in game.participants}
    assert rated.get("random", 400.0) == 400.0


@settings(max_examples=50)
@given(a_game())
def test_without_an_anchor_what_one_gains_others_lose(game: Game) -> None:
    rated = sequential_elo([game], {})
    assert sum(rated.values()) == pytest.approx(1500 * len(rated), abs=0.05)


def test_the_first_game_against_an_anchor_counts_its_rating() -> None:
    expected = 1 / (1 + 10 ** ((400 - 1500) / 400))
    assert sequential_elo(games(("a", "random", 1)), ANCHORS) == {
        "a": round(1500 + 40 * (1 - expected), 2),
        "random": 400.0,
    }


def test_later_games_count_by_their_end_and_at_one_instant_by_their_id() -> None:
    first, second = Game(5, "b", ("a", "b"), (1, 2)), Game(5, "c", ("a", "b"), (2, 1))
    before = Game(4, "z", ("a", "c"), (1, 2))
    one = sequential_elo([second, first, before], {})
    other = sequential_elo([Game(1, "", *_of(before)), Game(2, "", *_of(first)), Game(3, "", *_of(second))], {})
    assert one == other
    assert one != sequential_elo([Game(1, "", *_of(second)), Game(2, "", *_of(first)), Game(3, "", *_of(before))], {})


def _of(game: Game) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return game.participants, game.ranks


def test_k_is_40_then_32_and_16_from_2400() -> None:
    def step(before: list[Game], anchor: float) -> float:
        """What a draw with itself's equal would not move, a win over an equal does by half of K."""
        known = sequential_elo(before, {"up": anchor})
        game = Game(10_000, "last", ("a", "equal"), (1, 2))
        after = sequential_elo([*before, game], {"up": anchor, "equal": known["a"]})
        return after["a"] - known["a"]

    assert step(games(("a", "up", 29)), 1500.0) == pytest.approx(20, abs=0.02)
    assert step(games(("a", "up", 30)), 1500.0) == pytest.approx(16, abs=0.02)
    assert step(games(("a", "up", 90)), 3000.0) == pytest.approx(8, abs=0.02)


def test_a_draw_is_half_a_point_for_two_and_a_tie_for_more() -> None:
    assert sequential_elo([Game(1, "g", ("a", "b"), (1, 1))], {}) == {"a": 1500.0, "b": 1500.0}
    rated = sequential_elo([Game(1, "g", ("a", "b", "c", "d"), (1, 2, 2, 4))], {})
    assert rated == {"a": 1520.0, "b": 1500.0, "c": 1500.0, "d": 1480.0}


def test_ties_among_four_do_not_depend_on_the_seats() -> None:
    rated = sequential_elo([Game(1, "g", ("d", "c", "b", "a"), (2, 2, 1, 2))], {})
    assert rated["a"] == rated["c"] == rated["d"] < 1500 < rated["b"]
