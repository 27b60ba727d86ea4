"""The hour a node remembers, and how busy it is."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.metrics import MINUTES, Minute, Minutes, busy

START = 1_800_000_000.0
PERCENT = st.floats(0, 100)
STEPS = st.floats(0, 90)
Sample = tuple[float, dict[str, Any]]


@st.composite
def metrics(draw: st.DrawFn) -> dict[str, Any]:
    told = draw(st.lists(PERCENT, max_size=3))
    gpus = [{"name": "A", "utilization": percent} for percent in told]
    return {"cpu": draw(PERCENT), "memory": draw(PERCENT), "disk": draw(PERCENT), "gpus": gpus}


@st.composite
def samples(draw: st.DrawFn, steps: st.SearchStrategy[float] = STEPS) -> list[Sample]:
    at, found = START, []
    for step in draw(st.lists(steps, max_size=60)):
        at += step
        found.append((at, draw(metrics())))
    return found


def feed(minutes: Minutes, found: Iterable[Sample]) -> Minutes:
    for at, measured in found:
        minutes.add(at, measured)
    return minutes


@given(samples())
def test_a_minute_is_the_mean_and_the_peak_of_its_samples(found: list[Sample]) -> None:
    expected: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for at, measured in found:
        expected[int(at // 60) * 60].append(measured)
    complete = sorted(expected)[:-1][-MINUTES:]
    rows = feed(Minutes(), found).rows
    assert [row.at for row in rows] == [at for at in complete if at >= max(expected, default=0) - 3600]
    for row in rows:
        these = expected[row.at]
        assert row.samples == len(these)
        assert row.cpu == pytest.approx(sum(each["cpu"] for each in these) / len(these), abs=0.051)
        assert row.cpu_peak == pytest.approx(max(each["cpu"] for each in these), abs=0.051)
        gpus = [max(gpu["utilization"] for gpu in each["gpus"]) for each in these if each["gpus"]]
        assert row.gpu == (pytest.approx(sum(gpus) / len(gpus), abs=0.051) if gpus else None)
        assert row.gpu_peak == (pytest.approx(max(gpus), abs=0.051) if gpus else None)
        assert all(value is None or value == round(value, 1) for value in row)


@given(samples(), samples())
def test_a_restart_loses_nothing_but_the_minute_it_came_in(before: list[Sample], after: list[Sample]) -> None:
    last = before[-1][0] if before else START
    after = [(at - START + last, measured) for at, measured in after]
    first = feed(Minutes(), before)
    second = feed(Minutes(Minute.rows(json.loads(json.dumps(first.rows)))), after)
    whole = feed(Minutes(), [*before, *after])
    torn = int(last // 60) * 60
    kept = [row for row in second.rows if row.at != torn]
    assert kept == [row for row in whole.rows if row.at != torn]


@given(samples(st.floats(-7200, 7200)))
def test_whatever_the_clock_does_there_is_one_row_a_minute_of_the_last_hour(found: list[Sample]) -> None:
    minutes = Minutes()
    for at, measured in found:
        minutes.add(at, measured)
        now = int(at // 60) * 60
        starts = [row.at for row in minutes.rows]
        assert starts == sorted(set(starts))
        assert all(now - 3600 <= start < now for start in starts)


def test_rows_are_new_when_a_minute_is_complete() -> None:
    minutes = Minutes()
    measured = {"cpu": 50.0, "memory": 40.0, "disk": 30.0}
    said = [minutes.add(START + 5 * n, measured) for n in range(40)]
    assert [n for n, new in enumerate(said) if new] == [12, 24, 36]
    assert minutes.rows[0] == Minute(1_800_000_000, 12, 50.0, 50.0, None, None, 40.0, 30.0)


def test_a_sample_without_a_disk_does_not_count() -> None:
    minutes = Minutes()
    minutes.add(START, {"cpu": 50.0, "memory": 40.0})
    assert not minutes.add(START + 60, {"cpu": 50.0, "memory": 40.0, "disk": 30.0})
    assert minutes.rows == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON)
def test_whatever_another_version_wrote_is_decoded_or_skipped(rows: Any) -> None:
    good = [START, 12, 1.0, 2.0, None, None, 3.0, 4.0]
    assert Minute.rows([*(rows if isinstance(rows, list) else [rows]), good])[-1] == Minute(*good)
    assert all(isinstance(row, Minute) for row in Minute.rows(rows))


@pytest.mark.parametrize(
    "row",
    [
        [START + 1, 12, 1.0, 2.0, None, None, 3.0, 4.0],
        [START, 0, 1.0, 2.0, None, None, 3.0, 4.0],
        [START, 12, None, 2.0, None, None, 3.0, 4.0],
        [START, 12, 1.0, 2.0, 5.0, None, 3.0, 4.0],
        [START, 12, True, 2.0, None, None, 3.0, 4.0],
        [START, 12, float("nan"), 2.0, None, None, 3.0, 4.0],
        [START, 12, 10**400, 2.0, None, None, 3.0, 4.0],
        [START, 12, 1.0, 2.0, None, None, 3.0],
        [START, 12, 1.0, 2.0, None, None, 3.0, 4.0, 5.0],
        "no row",
    ],
)
def test_a_malformed_row_is_skipped(row: Any) -> None:
    assert Minute.rows([row]) == []


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"cpu": 30.0, "gpus": []}, 30.0),
        ({"cpu": 30.0}, 30.0),
        ({"cpu": 30.0, "gpus": [{"utilization": 5.0}, {"utilization": 7.0}]}, 7.0),
        ({"cpu": 30.0, "gpus": [{"name": "one that cannot tell"}]}, None),
        ({"gpus": []}, None),
        ({}, None),
    ],
)
def test_busy_is_the_busiest_gpu_where_there_is_one_and_else_the_cpu(metrics: Any, expected: float | None) -> None:
    assert busy(metrics) == expected
