import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schedules.durations import Seconds, format, parse


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("1d2h3m4s5ms", 93784.005),
        ("1.5h", 5400.0),
        (" 90 s ", 90.0),
        ("0.1s", 0.1),
        ("60", 60.0),
        ("1.5", 1.5),
        (60, 60.0),
        (1.5, 1.5),
        (0, 0.0),
    ],
)
def test_a_duration_is_read_as_seconds(written, seconds):
    assert parse(written) == seconds
    assert type(parse(written)) is float


@pytest.mark.parametrize(
    "written",
    [
        "", " ", "s", "soon", "5 minutes", "5M", "30m1h", "5m5m", "1h30", "-5s", "+5s", "1e5", "5,5s", "\u0665s",
        "1..5s", ".5", "1.s", "5 m s", "inf", "nan", True, False, None, -1, -0.5, math.nan, math.inf, -math.inf,
        10**400, "9" * 400, "9" * 5000 + "s", b"5s", [5], {"s": 5},
    ],
)  # fmt: skip
def test_anything_else_is_a_value_error_that_says_what_is_accepted(written):
    with pytest.raises(ValueError, match="is not a duration: give seconds"):
        parse(written)


def test_the_error_shows_the_value_and_every_unit():
    with pytest.raises(ValueError, match=re.escape("'5 minutes' is not a duration")) as caught:
        parse("5 minutes")
    for example in ("60", "1.5", "250ms", "30s", "5m", "1h30m", "2d"):
        assert example in str(caught.value)


def test_a_long_run_of_blanks_is_refused_at_once():
    with pytest.raises(ValueError, match="is not a duration"):
        parse("1d" + " " * 200_000 + "x")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (-0.0, "0s"),
        (0.25, "250ms"),
        (0.0005, "0.5ms"),
        (1.5, "1.5s"),
        (30, "30s"),
        (60, "1m"),
        (90.5, "1m30.5s"),
        (300, "5m"),
        (5400, "1h30m"),
        (172800, "2d"),
        (86400 + 61, "1d1m1s"),
        (1234567.1, "14d6h56m7.1s"),
        (1e22, "115740740740740740d17h46m40s"),
    ],
)
def test_seconds_are_written_compactly(seconds, written):
    assert format(seconds) == written


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, True])
def test_what_is_no_duration_is_not_written(seconds):
    with pytest.raises(ValueError, match="is not a duration"):
        format(seconds)


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_what_is_written_reads_back_as_the_same_number(seconds):
    assert parse(format(seconds)) == seconds


@given(st.integers(min_value=0, max_value=10**15))
def test_whole_milliseconds_read_back_too(milliseconds):
    assert parse(format(milliseconds / 1000)) == milliseconds / 1000


@given(st.text(alphabet="0123456789.smhd -+e", max_size=12) | st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text):
    try:
        seconds = parse(text)
    except ValueError:
        return
    assert seconds >= 0
    assert math.isfinite(seconds)


class Timed(BaseModel):
    every: Seconds


def test_a_pydantic_field_takes_durations():
    assert Timed(every="5m").every == 300.0
    with pytest.raises(ValidationError, match="'soon' is not a duration"):
        Timed(every="soon")
