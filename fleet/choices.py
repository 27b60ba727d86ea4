"""What the results of games say about strength, counted: who was chosen from among whom.

Plackett and Luce read a ranking as a row of choices: the first is chosen from among everybody, the second
from among those left, and so on. A tie is the average of all orders in which those that share a
place can stand. The average needs no list of orders: of the players that tie, every subset of a given size is
equally likely to be what is left. So a draw of two is half a win each way, and a result of n players is at
most 2^n - 1 choices.

But losers that share the last place are not told apart: many games only name a winner. What such a result
shows is the sum over all their orders, and that is the row of choices without theirs. To average here would
say that the strong loser is as weak as the others, the more surely the more games there are.

Everything is counted in whole numbers, in units of 1 / SCALE of a choice. Sums of whole numbers do not
depend on their order, so nothing that follows from them does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from fleet.outcome import MAX_PLAYERS, Outcome, outcome

SCALE = 2520  # divisible by every number of subsets of a size that up to MAX_PLAYERS tied players have

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Record:
    """How a participant's games ended, by column: played, won alone, lost, shared first place."""

    games: Ints
    wins: Ints
    losses: Ints
    draws: Ints


@dataclass(frozen=True)
class Choices:
    """The counted choices of participants 0..n-1, who are `names` in sorted order.

    `chosen` says how often each was chosen. `sets` has for each size of set its members, a column a set
    and increasing in it, and how often somebody was chosen from that set. Both counts are in 1 / SCALE.
    """

    names: tuple[str, ...]
    chosen: Ints
    sets: tuple[tuple[Ints, Ints], ...]
    record: Record


def count(outcomes: Mapping[Outcome, int]) -> Choices:
    """The choices in so many results of each kind. Raises ValueError for one that is none (see `outcome`)."""
    if 0 in outcomes.values():
        outcomes = {result: times for result, times in outcomes.items() if times}
    everybody, patterns = [participants for participants, _ in outcomes], [ranks for _, ranks in outcomes]
    names = tuple(sorted(set(chain.from_iterable(everybody))))
    chosen = np.zeros(len(names), np.int64)
    record = Record(*(np.zeros(len(names), np.int64) for _ in range(4)))
    parts: dict[int, list[tuple[Ints, Ints]]] = {}
    times = np.fromiter(outcomes.values(), np.int64, len(outcomes))
    for ranks, played, rows in _by_pattern(everybody, patterns, names):
        times_each = times[rows]
        if times_each.min() < 0:
            raise ValueError(f"a result cannot have happened {times_each.min()} times")
        _add_to(record, ranks, played, times_each)
        untold = _untold(ranks)
        as_chosen = {seat: SCALE for seat in range(len(ranks)) if seat not in untold}
        for seats, weight in stages(ranks):
            if len(seats) == 1:  # the one that is left is chosen from nobody
                as_chosen[seats[0]] -= weight
            else:
                parts.setdefault(len(seats), []).append((np.sort(played[list(seats)], axis=0), weight * times_each))
        for seat, weight in as_chosen.items():
            np.add.at(chosen, played[seat], weight * times_each)
    return Choices(names, chosen, tuple(_merged(parts[size], len(names)) for size in sorted(parts)), record)


@lru_cache(4096)
def stages(ranks: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], int], ...]:
    """The sets of seats from which such a result chooses, and how often each, in 1 / SCALE."""
    found = []
    untold = _untold(ranks)
    for rank in sorted({rank for seat, rank in enumerate(ranks) if seat not in untold}):
        tied = [seat for seat, other in enumerate(ranks) if other == rank]
        worse = [seat for seat, other in enumerate(ranks) if other > rank]
        for size in range(1, len(tied) + 1):
            weight = SCALE // comb(len(tied), size)
            found += [(tuple(sorted([*left, *worse])), weight) for left in combinations(tied, size)]
    return tuple(found)


def _untold(ranks: tuple[int, ...]) -> frozenset[int]:
    """The seats that share the last place behind somebody."""
    last = max(ranks)
    seats = frozenset(seat for seat, rank in enumerate(ranks) if rank == last)
    return seats if 1 < len(seats) < len(ranks) else frozenset()


def _by_pattern(
    everybody: Sequence[tuple[str, ...]], patterns: Sequence[tuple[int, ...]], names: Sequence[str]
) -> Iterator[tuple[tuple[int, ...], Ints, Ints]]:
    """For each way to rank: the numbers of its participants, a row a seat, and which results those are.

    There are many results and few ways to rank, so nothing here is done for each result but by numpy.
    """
    number = {name: place for place, name in enumerate(names)}
    code = {ranks: place for place, ranks in enumerate(dict.fromkeys(patterns))}
    codes = np.fromiter(map(code.__getitem__, patterns), np.int64, len(patterns))
    sizes = np.fromiter(map(len, everybody), np.int64, len(everybody))
    flat = np.fromiter(map(number.__getitem__, chain.from_iterable(everybody)), np.int64, int(sizes.sum()))
    starts = np.cumsum(sizes) - sizes
    for ranks, place in code.items():
        rows = np.flatnonzero(codes == place)
        fits = sizes[rows] == len(ranks) if 2 <= len(ranks) <= MAX_PLAYERS else np.zeros(len(rows), bool)
        if not fits.all():
            outcome(everybody[rows[np.argmin(fits)]], ranks)
        played = flat[starts[rows] + np.arange(len(ranks))[:, None]]
        seated = np.sort(played, axis=0)
        twice = np.flatnonzero((seated[1:] == seated[:-1]).any(axis=0))
        if len(twice):
            outcome(everybody[rows[twice[0]]], ranks)
        yield ranks, played, rows


def _add_to(record: Record, ranks: tuple[int, ...], played: Ints, times: Ints) -> None:
    first = [seat for seat, rank in enumerate(ranks) if rank == min(ranks)]
    for seat in range(len(ranks)):
        leader = record.wins if len(first) == 1 else record.draws
        column = leader if seat in first else record.losses
        np.add.at(record.games, played[seat], times)
        np.add.at(column, played[seat], times)


def _merged(parts: list[tuple[Ints, Ints]], participants: int) -> tuple[Ints, Ints]:
    """The distinct sets in increasing order, and the sums of their counts."""
    sets = np.concatenate([members for members, _ in parts], axis=1)
    counts = np.concatenate([times for _, times in parts])
    code = sets[0]
    for seat in sets[1:]:  # what begins alike is numbered anew each time, so that no number grows too large
        code = code * participants + seat
        if len(sets) > 2:
            code = np.unique(code, return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    return np.take(sets, order[starts], axis=1), np.add.reduceat(counts[order], starts)
