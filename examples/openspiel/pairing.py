"""Who plays whom in a tournament: a pure decision."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, pairwise

from examples.openspiel.matches import Meetings

#: Players that never change, so that ratings of all times have one scale: chance, and plain MCTS with so many
#: simulations a move. Each beats the one before it often, but not always: results that are certain tell nothing.
ANCHORS = {"random": 0, "uct8": 8, "uct32": 32, "uct128": 128}

#: how much a meeting is wanted, before what is known of the two is looked at
CHALLENGE = 4.0  # the newest candidate and the promoted model: it decides on promotion
LINK = 2.0  # one of these two and anybody, or two neighbours among the anchors
OTHER = 1.0


def tables(
    candidates: Sequence[str],
    promoted: str | None,
    previous: str | None,
    *,
    seats: int,
    count: int,
    met: Meetings,
    rng: random.Random,
) -> list[tuple[str, ...]]:
    """`count` tables of `seats` different participants, or a few more when more are needed.

    First come the meetings without which ratings would have no common scale: every anchor, with the next
    one and with the leading models, and these with each other. The rest goes where a result tells most:
    to those of whom least is known, and whose meetings are still open. Raises ValueError when there are
    fewer participants than seats.
    """
    leading = list(dict.fromkeys([*candidates[:1], *([promoted] if promoted else [])]))
    everybody = list(dict.fromkeys([*leading, *candidates, *([previous] if previous else []), *ANCHORS]))
    if len(everybody) < seats:
        raise ValueError(f"{len(everybody)} participants ({', '.join(everybody)}) cannot fill {seats} seats")
    links = set(pairwise(ANCHORS))
    planned = Meetings()

    def weight(one: str, other: str) -> float:
        leaders = (one in leading) + (other in leading)
        linked = leaders == 1 or (one, other) in links or (other, one) in links
        return CHALLENGE if leaders == 2 else LINK if linked else OTHER

    def worth(table: tuple[str, ...]) -> float:
        """How much a round at the table tells: the less the more is known, and nothing if one always wins."""
        pairs = list(combinations(table, 2))
        wanted = sum(
            weight(*pair) / (1 + met.known(*pair) + met.openness(*pair) * planned.games(*pair)) ** 2 for pair in pairs
        )
        return wanted * min(met.openness(*pair) for pair in pairs)

    every = list(combinations(everybody, seats))
    found = []

    def add(table: tuple[str, ...]) -> None:
        planned.add(table, range(seats), times=seats)
        found.append(tuple(rng.sample(table, seats)))

    for one, other in _needed(leading):
        if not planned.games(one, other):
            add(max((table for table in every if one in table and other in table), key=worth))
    while len(found) < count:
        add(max(every, key=worth))
    return found


def _needed(leading: Sequence[str]) -> list[tuple[str, str]]:
    strongest_first = tuple(reversed(ANCHORS))
    return [
        *[(model, anchor) for model in leading for anchor in strongest_first],
        *combinations(leading, 2),
        *pairwise(strongest_first),
    ]


def rotations(table: Sequence[str]) -> list[tuple[str, ...]]:
    """The same table as often as it has seats, so that everybody sits once on each."""
    return [tuple(table[shift:]) + tuple(table[:shift]) for shift in range(len(table))]
