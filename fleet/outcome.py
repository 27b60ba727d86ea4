"""Results of games as they are counted: the same result is always the same key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MAX_PLAYERS = 9

#: Participants and their final places (1 is best, equal places tie), each participant once.
#: `outcome` puts them into the canonical order, in which the same result is always the same key.
Outcome = tuple[tuple[str, ...], tuple[int, ...]]


def outcome(participants: Sequence[str], ranks: Sequence[int]) -> Outcome:
    """A result, whichever seats it was played from: by participant, places counted from 1 without gaps.

    Raises ValueError when it is no result: fewer than 2 players or more than MAX_PLAYERS, one twice, or
    not one place for each.
    """
    if not 2 <= len(participants) <= MAX_PLAYERS:
        raise ValueError(f"a game is played by 2 to {MAX_PLAYERS} participants, not by {len(participants)}")
    if len(ranks) != len(participants):
        raise ValueError(f"{len(participants)} participants have {len(ranks)} places: {list(ranks)}")
    if len(set(participants)) != len(participants):
        twice = next(name for name, times in Counter(participants).items() if times > 1)
        raise ValueError(f"{twice!r} plays against itself")
    better = sorted(set(ranks))
    places = {rank: 1 + sum(other < rank for other in ranks) for rank in better}
    pairs = sorted(zip(participants, ranks, strict=True))
    return tuple(name for name, _ in pairs), tuple(places[rank] for _, rank in pairs)
