"""Small pictures: what is drawn where."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from workers.web.plot import HIGH, TALL, WIDE, bar, ceiling, lines, spark

values = st.floats(0, 1e12, allow_nan=False)


@given(values)
def test_a_plots_top_is_round_and_not_far_above(value: float) -> None:
    top = ceiling(value)
    assert top >= value
    assert top == 1 or top <= value * 2.0001
    assert float(f"{top:.2g}") == top


@given(st.lists(st.tuples(st.just(1.0), values, st.sampled_from(["succeeded", "failed", "timed_out"])), max_size=70))
def test_a_sparkline_has_a_bar_a_run_and_stays_in_its_frame(runs: list[tuple[float, float, str]]) -> None:
    drawn = spark(runs, 60)
    ElementTree.fromstring(drawn)
    bars = re.findall(r"M(\d+) 28V([\d.e+-]+)", drawn)
    behind = sum(outcome != "succeeded" for *_, outcome in runs[-60:])
    assert len(bars) == min(60, len(runs)) + behind
    assert all(0 <= int(x) < 180 and 0 <= float(y) <= TALL - 3 for x, y in bars)
    if runs:
        assert "178" in [x for x, _ in bars]  # the newest at the right


@given(st.lists(st.tuples(st.floats(-100, 200), st.none() | st.floats(-1e3, 1e3)), max_size=30))
def test_a_line_stays_in_its_field_and_has_gaps_where_nothing_is_known(
    points: list[tuple[float, float | None]],
) -> None:
    drawn = lines([("s1", points)], (0.0, 100.0), 50.0)
    ElementTree.fromstring(drawn)
    shown = [value for at, value in points if value is not None and at >= 0]
    path = re.search(r'class="line s1" d="([^"]*)"', drawn)
    assert (path is not None) == bool(shown)
    if path:
        spots = re.findall(r"[ML]([\d.e+-]+) ([\d.e+-]+)", path[1])
        assert len(spots) == len(shown)
        assert all(0 <= float(y) <= HIGH and float(x) <= WIDE * 2 + 1 for x, y in spots)


def test_a_gap_lifts_the_pen() -> None:
    drawn = lines([("s1", [(0, 1.0), (1, 1.0), (2, None), (3, 1.0)])], (0.0, 3.0), 1.0)
    path = re.search(r'class="line s1" d="([^"]*)"', drawn)
    assert path
    assert re.sub(r"[^ML]", "", path[1]) == "MLM"
    assert 'd="M0 0h0"' in lines([("s1", [(0, 1.0)])], (0.0, 3.0), 1.0)


def test_a_bar_is_filled_as_far_as_it_is_and_no_further() -> None:
    widths = [re.findall(r'width="([\d.]+)" height="6"/></svg>', bar(percent)) for percent in (-3, 0, 61.4, 100, 250)]
    assert widths == [["0"], ["0"], ["61.4"], ["100"], ["100"]]
