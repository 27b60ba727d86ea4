"""Fair turns: nobody ever has more than a fair share, rounded up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fleet.population import next_share


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=8),
    st.data(),
    st.text(),
)
def test_a_turn_never_exceeds_the_share_rounded_up(shares: dict[str, float], data: st.DataObject, turn: str) -> None:
    outstanding = data.draw(st.fixed_dictionaries({name: st.integers(0, 30) for name in shares}))
    chosen = next_share(shares, outstanding, turn)
    total = sum(outstanding.values()) + 1
    assert outstanding[chosen] + 1 <= math.ceil(total * shares[chosen] / sum(shares.values()))
