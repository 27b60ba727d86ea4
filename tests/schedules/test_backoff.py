import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.backoff import Backoff

delays = st.floats(min_value=0.001, max_value=1e6)
multipliers = st.floats(min_value=1, max_value=100)
failures = st.integers(min_value=1, max_value=200) | st.integers(min_value=1, max_value=10**1000)
unit = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def backoffs(draw, jitter=None):
    initial = draw(delays)
    cap = initial + draw(st.floats(min_value=0, max_value=1e6))
    return Backoff(
        initial_delay=initial,
        max_delay=cap,
        multiplier=draw(multipliers),
        jitter=draw(st.booleans()) if jitter is None else jitter,
    )


def test_without_jitter_delays_double_up_to_the_cap():
    backoff = Backoff(initial_delay=5, max_delay=120, multiplier=2, jitter=False)
    assert [backoff.delay(n) for n in range(1, 8)] == [5, 10, 20, 40, 80, 120, 120]


def test_jitter_takes_away_at_most_half():
    backoff = Backoff(initial_delay=8, max_delay=300)
    assert backoff.delay(1, random=lambda: 0.0) == 8
    assert backoff.delay(1, random=lambda: 0.5) == 6
    assert 4 <= backoff.delay(1, random=lambda: 0.999999) < 4.001


def test_jitter_spreads_delays_over_their_whole_range():
    backoff, source = Backoff(initial_delay=100, max_delay=100), random.Random(1)
    drawn = [backoff.delay(1, source.random) for _ in range(2000)]
    assert min(drawn) < 51
    assert max(drawn) > 99
    assert 73 < sum(drawn) / len(drawn) < 77


@given(backoffs(), failures, unit)
def test_a_delay_is_above_zero_and_never_above_the_cap(backoff, n, drawn):
    assert 0 < backoff.delay(n, lambda: drawn) <= backoff.max_delay


@given(backoffs(), failures, unit)
def test_a_delay_is_between_half_and_all_of_the_delay_without_jitter(backoff, n, drawn):
    full = backoff.model_copy(update={"jitter": False}).delay(n)
    assert full / 2 <= backoff.delay(n, lambda: drawn) <= full


@given(backoffs(jitter=False), st.integers(min_value=1, max_value=60))
def test_without_jitter_the_delay_is_exact(backoff, n):
    exact = backoff.initial_delay * backoff.multiplier ** (n - 1)
    assert backoff.delay(n) == min(exact, backoff.max_delay)


@given(backoffs(jitter=False), failures, failures)
def test_without_jitter_more_failures_never_wait_less(backoff, n, m):
    assume(n <= m)
    assert backoff.delay(n) <= backoff.delay(m)


@given(delays, failures)
def test_a_multiplier_of_one_keeps_the_delay(initial, n):
    backoff = Backoff(initial_delay=initial, max_delay=initial * 2, multiplier=1, jitter=False)
    assert backoff.delay(n) == initial


def test_even_the_smallest_number_waits_longer_than_zero():
    backoff = Backoff(initial_delay=5e-324, max_delay=1)
    assert backoff.delay(1, lambda: 0.999) > 0


@pytest.mark.parametrize("n", [0, -1])
def test_no_failure_has_no_delay(n):
    with pytest.raises(ValueError, match=f"at least 1 failure, not {n}"):
        Backoff().delay(n)


def test_the_defaults_are_5_seconds_doubling_to_5_minutes():
    backoff = Backoff()
    assert (backoff.initial_delay, backoff.max_delay, backoff.multiplier, backoff.jitter) == (5, 300, 2, True)


def test_durations_are_accepted():
    backoff = Backoff(initial_delay="500ms", max_delay="2m")
    assert (backoff.initial_delay, backoff.max_delay) == (0.5, 120)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"initial_delay": 0}, "greater than 0"),
        ({"initial_delay": -1}, "-1 is not a duration"),
        ({"initial_delay": "10m"}, r"max_delay \(5m\) must be at least initial_delay \(10m\)"),
        ({"max_delay": 4.5}, r"max_delay \(4.5s\) must be at least initial_delay \(5s\)"),
        ({"max_delay": "for ever"}, "'for ever' is not a duration"),
        ({"multiplier": 0.5}, "greater than or equal to 1"),
        ({"multiplier": float("inf")}, "finite number"),
        ({"multiplier": float("nan")}, "finite number"),
        ({"multiplier": True}, "valid number"),
        ({"jitter": "yes"}, "valid boolean"),
        ({"max_dely": 10}, "max_dely"),
    ],
)
def test_what_makes_no_backoff_is_refused_with_a_reason(wrong, said):
    with pytest.raises(ValidationError, match=said):
        Backoff(**wrong)


def test_a_backoff_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Backoff().jitter = False
