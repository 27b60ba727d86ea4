"""What results are counted as: choices of one from among others, in whole numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.choices import SCALE, _merged, count, stages
from fleet.outcome import MAX_PLAYERS, outcome


@given(st.lists(st.integers(1, 4), min_size=2, max_size=MAX_PLAYERS).map(tuple))
def test_a_result_chooses_everybody_once_who_is_told_apart_whoever_ties(ranks: tuple[int, ...]) -> None:
    names = "abcdefghi"[: len(ranks)]
    last = ranks.count(max(ranks))
    untold = last if 1 < last < len(ranks) else 1  # the last is chosen from nobody
    choices = count({outcome(names, ranks): 1})
    chosen = int(choices.chosen.sum())
    from_sets = sum(int(counts.sum()) for _, counts in choices.sets)
    assert chosen == from_sets == SCALE * (len(ranks) - untold)
    assert len(stages(ranks)) <= 2 ** len(ranks) - 1


def test_whole_numbers_suffice_for_every_tie() -> None:
    assert all(SCALE % math.comb(tied, size) == 0 for tied in range(1, MAX_PLAYERS + 1) for size in range(tied + 1))


@pytest.mark.parametrize("participants", [256, 65_536])
def test_sets_of_many_players_among_many_participants_are_told_apart(participants: int) -> None:
    """256 to the eighth is more than a machine's whole number holds: what came first would be forgotten."""
    sets = np.array([[0, *range(100, 108)], [1, *range(100, 108)], [0, *range(100, 108)]]).T
    merged, counts = _merged([(sets, np.array([1, 2, 4]))], participants)
    assert merged.T.tolist() == [[0, *range(100, 108)], [1, *range(100, 108)]]
    assert counts.tolist() == [5, 2]
