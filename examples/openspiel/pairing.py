"""Who plays whom in a tournament: a pure decision."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, pairwise

from examples.openspiel.matches import Meetings

#: Players that never change, so that ratings of all times have one scale: chance, and plain MCTS with so many
#: simulations a move.
ANCHORS = {"random": 0, "uct32": 32, "uct128": 128}

#: how much a meeting of a model is wanted, before what is known of the two is looked at
CHALLENGE = 4.0  # the newest candidate and the promoted model: it decides on promotion
LEADING = 2.0  # either of these two and anybody
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
    to those who have met least, and whose meetings are still open. Raises ValueError when there are
    fewer participants than seats.
    """
    models = list(dict.fromkeys([*candidates, *([promoted] if promoted else []), *([previous] if previous else [])]))
    everybody = [*models, *ANCHORS]
    if len(everybody) < seats:
        raise ValueError(f"{len(everybody)} participants ({', '.join(everybody)}) cannot fill {seats} seats")
    leading = list(dict.fromkeys([*candidates[:1], *([promoted] if promoted else [])]))

    def weight(one: str, other: str) -> float:
        both = (one in leading) + (other in leading)
        return CHALLENGE if both == 2 else LEADING if both else OTHER

    planned = Meetings()

    def need(one: str, other: str) -> float:
        games = met.between(one, other) + planned.between(one, other)
        return weight(one, other) * met.variance(one, other) / (games + 1)

    def table(pair: tuple[str, str]) -> tuple[str, ...]:
        seated = list(pair)
        while len(seated) < seats:
            free = [who for who in everybody if who not in seated]
            seated.append(max(free, key=lambda who: sum(need(who, other) for other in seated)))
        rng.shuffle(seated)
        planned.add(seated, [1] * seats, times=seats)
        return tuple(seated)

    found = [table(pair) for pair in _needed(leading) if not planned.between(*pair)]
    while len(found) < count:
        found.append(table(max(combinations(everybody, 2), key=lambda pair: need(*pair))))
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
