"""Board configurations: `<board>_<players>p`, such as `hex8_2p`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"(?P<board>[a-z][a-z0-9]{0,31})_(?P<players>[2-9])p")


@dataclass(frozen=True, order=True)
class BoardConfig:
    """A board and a number of players. Names are checked, since they come from other machines too."""

    board: str
    players: int

    @classmethod
    def parse(cls, name: str) -> BoardConfig:
        """Read `hex8_2p`. Raises ValueError with what would be accepted."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not a board configuration such as hex8_2p or square19_4p")
        return cls(match["board"], int(match["players"]))

    def __str__(self) -> str:
        return f"{self.board}_{self.players}p"
