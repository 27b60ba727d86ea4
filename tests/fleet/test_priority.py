"""Which configuration needs work most."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.priority import CRITICAL, DAY, HIGH, LOW, MEDIUM, score, velocity

instants = st.integers(0, 10**9).map(float)
elos = st.integers(0, 4000).map(float)
maybe = st.none() | elos


def need(**changes: Any) -> float:
    known: dict[str, Any] = {"rating": 1700.0, "target": 2000.0, "age": DAY, "elo_per_day": 0.0}
    return score(**known | changes)


@given(
    st.none() | st.floats(-5000, 5000),
    st.floats(1, 5000),
    st.none() | st.floats(-10, 1e9),
    st.none() | st.floats(-1e6, 1e6),
    st.floats(0.01, 10),
    st.integers(CRITICAL, LOW),
)
def test_a_score_is_positive_so_that_nobody_is_left_out(
    rating: float | None, target: float, age: float | None, elo_per_day: float | None, weight: float, level: int
) -> None:
    assert score(rating=rating, target=target, age=age, elo_per_day=elo_per_day, weight=weight, level=level) > 0


def test_the_further_from_the_target_the_higher() -> None:
    assert need(rating=1400.0) > need(rating=1600.0) > need(rating=1800.0)


def test_an_unrated_configuration_counts_as_one_at_1500_whose_rating_is_stale() -> None:
    assert need(rating=None, age=None) == need(rating=1500.0, age=7 * DAY)


def test_a_stale_rating_raises_the_need_until_it_is_a_week_old() -> None:
    assert need(age=0.0) < need(age=3 * DAY) < need(age=7 * DAY) == need(age=70 * DAY)


def test_a_climbing_configuration_comes_before_one_on_a_plateau_and_that_before_a_falling_one() -> None:
    assert need(elo_per_day=40.0) > need(elo_per_day=0.0) > need(elo_per_day=-40.0)
    assert need(elo_per_day=None) == need(elo_per_day=0.0)


def test_the_curriculum_weight_scales_the_score() -> None:
    assert need(weight=1.0) == pytest.approx(2 * need(weight=0.5))


def test_each_level_is_worth_twice_the_next() -> None:
    scores = [need(level=level) for level in (CRITICAL, HIGH, MEDIUM, LOW)]
    assert scores == pytest.approx([8 * scores[3], 4 * scores[3], 2 * scores[3], scores[3]])


@given(instants, elos, st.integers(-500, 500), st.lists(st.integers(1, 10**6), min_size=2, unique=True))
def test_velocity_is_the_slope_of_a_line(start: float, elo: float, slope: int, offsets: list[int]) -> None:
    line = [(start + offset, elo + slope * offset / DAY) for offset in offsets]
    assert velocity(line) == pytest.approx(slope, abs=1e-3)


def test_velocity_is_unknown_before_two_instants() -> None:
    assert velocity([]) is None
    assert velocity([(1e9, 1500.0)]) is None
    assert velocity([(1e9, 1500.0), (1e9, 1600.0)]) is None


def test_velocity_smooths_over_a_lucky_day() -> None:
    climbing = [(day * DAY, 1500.0 + 10 * day) for day in range(8)]
    lucky = [*climbing[:4], (4 * DAY, 1700.0), *climbing[5:]]
    assert velocity(climbing) == pytest.approx(10)
    assert velocity(lucky) == pytest.approx(10, abs=5)


@given(st.floats(50, 1e9))
def test_a_climb_of_minutes_decides_no_more_than_one_of_days(elo_per_day: float) -> None:
    """Two ratings a few minutes apart are 100,000 Elo a day."""
    plateau, climbing, falling = (need(elo_per_day=pace) for pace in (0.0, elo_per_day, -elo_per_day))
    assert climbing == need(elo_per_day=50.0) == pytest.approx(1.25 * plateau)
    assert falling == need(elo_per_day=-50.0) == pytest.approx(0.75 * plateau)
