from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.workers.show_stage import NOW, text
from workers.table import Column, ago, bounded, fitted, milliseconds, printable, until

COLUMNS = (
    Column("name", lambda row, _: row["name"], right=False),
    Column("wide", lambda row, _: row["wide"], optional=2),
    Column("last", lambda row, _: row["last"], optional=1),
    Column("why", lambda row, _: row["why"], right=False, optional=3, least=8),
)


def shown(width: int, **more: str) -> list[str]:
    row = {"name": "n" * 10, "wide": "w" * 20, "last": "l" * 5, "why": "y" * 100, **more}
    return text(fitted(COLUMNS, [row], NOW, width, lambda _: ""), width).splitlines()


class TestFitted:
    def test_columns_go_by_rank_until_the_rest_fits(self) -> None:
        titles = {width: shown(width)[0].split() for width in (200, 49, 48, 39, 38, 17, 16)}
        assert titles[200] == titles[49] == ["name", "wide", "last", "why"]
        assert titles[48] == titles[39] == ["name", "wide", "last"]
        assert titles[38] == titles[17] == ["name", "last"]
        assert titles[16] == ["name"]

    def test_only_what_may_be_cut_short_is_cut(self) -> None:
        _, row = shown(60)
        assert row.split()[:3] == ["n" * 10, "w" * 20, "l" * 5]
        assert row.endswith("y…")
        assert len(row) == 60

    def test_a_column_without_any_text_is_left_out(self) -> None:
        assert shown(200, wide="")[0].split() == ["name", "last", "why"]

    def test_no_cell_steers_the_terminal_or_breaks_its_line(self) -> None:
        assert r"\x1b[31m one\ntwo" in shown(200, why="\x1b[31m one\ntwo")[1]

    def test_signs_of_two_columns_stay_in_their_place(self) -> None:
        _, row = shown(200, name="将棋")
        assert row.startswith("将棋  " + "w" * 20)
        _, row = shown(60, why="将棋" * 10)
        assert row.endswith("将…")
        assert cell_len(row) <= 60

    def test_ten_thousand_rows_are_no_matter_of_seconds(self) -> None:
        row = {"name": "n", "wide": "w", "last": "l", "why": "y"}
        began = time.monotonic()
        assert len(text(fitted(COLUMNS, [row] * 10_000, NOW, 80, lambda _: "green")).splitlines()) == 10_001
        assert time.monotonic() - began < 10

    def test_says_how_much_is_left_out(self) -> None:
        assert str(bounded(50, 10_000, "jobs")) == "showing 50 of 10,000 jobs; more with --limit"
        assert bounded(50, 50, "jobs") is None


class TestTimes:
    @pytest.mark.parametrize(
        ("seconds", "said"),
        [(0, "1s ago"), (-5, "1s ago"), (59.4, "59s ago"), (61, "1m1s ago"), (3725, "1h2m ago"), (90_000, "1d1h ago")],
    )
    def test_an_age_has_two_units_at_most(self, seconds: float, said: str) -> None:
        assert ago(NOW - seconds, NOW) == said

    def test_an_instant_that_is_not_there_has_a_word(self) -> None:
        assert (ago(None, NOW), until(None, NOW), until(NOW - 3, NOW)) == ("never", "-", "now")

    @pytest.mark.parametrize(
        ("number", "said"), [(0, "0ms"), (12.6, "13ms"), (999.6, "1.0s"), (1500, "1.5s"), (61_000, "1m1s")]
    )
    def test_a_duration_is_short(self, number: float, said: str) -> None:
        assert milliseconds(number) == said

    @given(st.floats(0, 1e9), st.floats(-1e9, 1e9))
    def test_none_is_too_odd_to_be_shown(self, number: float, since: float) -> None:
        assert len(milliseconds(number)) <= 12
        assert len(ago(NOW - since, NOW)) <= 14
        assert len(until(NOW + since, NOW)) <= 14


@given(st.text())
def test_what_is_printed_is_printable(given_text: str) -> None:
    assert all(sign.isprintable() or sign == "\n" for sign in printable(given_text))


def test_lines_and_tabs_of_a_log_stay_as_they_are() -> None:
    assert printable("a\tb\nc\rd", keep="\n\t") == "a\tb\nc\\rd"
