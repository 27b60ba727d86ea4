"""What the cluster has to work with, from what its nodes say they hold."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet.stock import Stock, stock

CENTRAL = {
    "games": {"new": {"hex5_2p": 7}, "gathered": {"hex5_2p": 1200, "hex8_2p": 30}},
    "models": {"hex5_2p": {"versions": ["g1", "g2"], "promoted": "g1", "trained_on": 900}},
}
OTHER = {
    "games": {"new": {"hex5_2p": 5000}, "gathered": {}},
    "models": {"hex5_2p": {"versions": ["g1"], "promoted": "g1", "trained_on": None}},
}

anything = st.recursive(
    st.sampled_from([None, True, "x", -1, 7, 2.5]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["hex5_2p", "gathered", "versions", "trained_on"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_it_is_the_most_that_any_node_has_and_not_the_sum() -> None:
    known = {"hex5_2p": Stock(1200, 2, 900, "g2"), "hex8_2p": Stock(gathered=30)}
    less: dict[str, Any] = {
        "games": {"gathered": {"hex5_2p": 900}},
        "models": {"hex5_2p": {"versions": ["g1"], "trained_on": 400}},
    }
    assert stock([CENTRAL, OTHER, less]) == stock([less, OTHER, CENTRAL, CENTRAL]) == known


def test_the_newest_model_is_that_of_the_highest_generation() -> None:
    held = [
        {"models": {"hex5_2p": {"versions": [f"hex5_2p-g{number}-0a"]}}} for number in ("0002", "9999", "10000", "0003")
    ]
    assert stock(held)["hex5_2p"].newest == "hex5_2p-g10000-0a"


def test_nobody_holds_anything_before_the_first_game() -> None:
    assert stock([]) == stock([{}]) == stock([{"games": {}, "models": {}}]) == {}


def test_a_model_that_saw_no_gathered_game_is_a_model_all_the_same() -> None:
    untold: dict[str, Any] = {"models": {"hex5_2p": {"versions": ["g1"]}}}
    assert stock([untold]) == {"hex5_2p": Stock(0, 1, None, "g1")}
    assert stock([{"models": {"hex5_2p": {"versions": ["g1"], "trained_on": 0}}}]) == {"hex5_2p": Stock(0, 1, 0, "g1")}


@given(st.dictionaries(st.sampled_from(["games", "models", "matches"]), anything))
def test_what_a_node_says_in_another_form_is_nothing_and_hides_nobody_elses_word(said: Any) -> None:
    assert stock([said, CENTRAL])["hex5_2p"].gathered >= 1200
    assert stock([{"games": {"unreadable": "disk"}, "models": {"unreadable": "disk"}}, CENTRAL]) == stock([CENTRAL])
