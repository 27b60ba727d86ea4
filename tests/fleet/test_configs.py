"""Names of board configurations: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.configs import BoardConfig


def test_a_name_is_a_board_and_a_number_of_players() -> None:
    assert BoardConfig.parse("hex8_2p") == BoardConfig("hex8", 2)
    assert str(BoardConfig("square19", 4)) == "square19_4p"


@given(st.from_regex(r"[a-z][a-z0-9]{0,31}", fullmatch=True), st.integers(2, 9))
def test_a_written_name_is_read_back(board: str, players: int) -> None:
    config = BoardConfig(board, players)
    assert BoardConfig.parse(str(config)) == config


@pytest.mark.parametrize(
    "name",
    ["", "hex8", "hex8_1p", "hex8_2", "hex8_2p\n", "../hex8_2p", "Hex8_2p", "hex8_2p/x", "hex 8_2p", "_2p", "hex8_10p"],
)
def test_anything_else_is_refused_with_what_would_be_accepted(name: str) -> None:
    with pytest.raises(ValueError, match="is not a board configuration such as hex8_2p"):
        BoardConfig.parse(name)
