"""Sequential Elo: the numbers that those who know Elo expect, game by game, beside the ratings of fleet.rating.

A game moves ratings by K times what was scored above expectation. More than two players are rated in pairs,
each pair with K / (n - 1), all against the ratings before the game; a tie is half a point. The result depends
on the order of the games, so the order is one that everybody has: by the end of the game, then by its id.
No decision is made from these numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

INITIAL = 1500.0  # Elo before the first game of a participant that is no anchor

YOUNG_GAMES = 30  # below them a rating moves by K_YOUNG
STRONG = 2400.0  # Elo from which a rating moves by K_STRONG
K_YOUNG, K, K_STRONG = 40.0, 32.0, 16.0


@dataclass(frozen=True, order=True)
class Game:
    """A finished game: when it ended, in ms since the epoch, its id, and final places by seat; equal places tie."""

    ended_at: int
    id: str
    participants: tuple[str, ...]
    ranks: tuple[int, ...]


def sequential_elo(games: Iterable[Game], anchors: Mapping[str, float]) -> dict[str, float]:
    """The Elo of everybody in `games` after the last, rounded to 0.01, by participant in sorted order.

    Anchors keep their rating from the first game on. A game that is there twice counts twice: ids are for
    the order only.
    """
    ratings: dict[str, float] = {}
    replay(sorted(games), anchors, ratings, Counter())
    return {name: round(ratings[name], 2) + 0.0 for name in sorted(ratings)}


def replay(
    games: Iterable[Game], anchors: Mapping[str, float], ratings: dict[str, float], played: Counter[str]
) -> None:
    """Go on from `ratings`, not rounded, and the games `played` so far, with games in their order; both are changed."""
    for game in games:
        for name in game.participants:
            ratings.setdefault(name, anchors.get(name, INITIAL))
        before = [ratings[name] for name in game.participants]
        for name, gain in zip(game.participants, _gains(before, game.ranks), strict=True):
            if name not in anchors:
                ratings[name] += _k(ratings[name], played[name]) * gain
            played[name] += 1


def _gains(ratings: Sequence[float], ranks: Sequence[int]) -> list[float]:
    """What each scored above expectation, a pair counting 1 / (n - 1)."""
    gains = []
    for seat, (rating, rank) in enumerate(zip(ratings, ranks, strict=True)):
        gain = 0.0
        for other, (other_rating, other_rank) in enumerate(zip(ratings, ranks, strict=True)):
            if other != seat:
                scored = 0.5 if rank == other_rank else float(rank < other_rank)
                gain += scored - 1 / (1 + 10 ** ((other_rating - rating) / 400))
        gains.append(gain / (len(ranks) - 1))
    return gains


def _k(rating: float, games: int) -> float:
    if games < YOUNG_GAMES:
        return K_YOUNG
    return K_STRONG if rating >= STRONG else K
